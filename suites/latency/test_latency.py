"""Latency over batch and length: every round of a variant is paired with one of plain.

pytest-benchmark runs and times the variant; its untimed `setup` is where the paired round of plain
runs. Nothing is asserted about absolute times.
"""

import functools

import pytest

from fixtures import export, latency
from fixtures.runtimes import TorchProcess


@functools.lru_cache(maxsize=2)
def session_of(case):
    return case.load()


def plain_of(case_or_subject, gate):
    subject = getattr(case_or_subject, "subject", case_or_subject)
    return gate.case(subject, "plain")


@pytest.fixture(scope="module")
def torch_of():
    """Return the PyTorch process of a model; only one lives at a time."""
    alive = {}

    def start(subject):
        if subject.name not in alive:
            for other in alive.values():
                other.close()
            alive.clear()
            folder = gate_folder(subject)
            alive[subject.name] = TorchProcess(folder, subject.task.auto_class, subject.gate.machine.threads)
        return alive[subject.name]

    yield start
    for process in alive.values():
        process.close()


def gate_folder(subject):
    """Return the folder of the prepared checkpoint."""
    if isinstance(subject.root, export.Step):
        return subject.gate.artifact(subject.root).folder
    return subject.root.folder


def paired(benchmark, shape, anchor, run_s, threads):
    """Measure one cell: `anchor()` and `run_s() -> seconds` in turn; return the Cell."""
    if benchmark.disabled:
        pytest.skip("--benchmark-disable")
    for _ in range(latency.WARMUP_ROUNDS):
        estimate = latency.timed(anchor) + run_s()
    plain_s, variant_s = [], []
    rounds = latency.rounds_for(estimate)
    benchmark.pedantic(
        lambda: variant_s.append(run_s()), setup=lambda: plain_s.append(latency.timed(anchor)), rounds=rounds
    )
    cell = latency.cell(shape, plain_s, variant_s, threads)
    benchmark.extra_info |= {
        "ratio_to_plain": cell.ratio_to_plain,
        "interval": cell.interval,
        "threads": threads,
    }
    return cell


def test_latency_of_pytorch(subject, shape, gate, benchmark, torch_of):
    """PyTorch itself, in a process of its own."""
    if shape[1] > subject.long.extra["positions"]:
        pytest.skip(f"{subject.name} has only {subject.long.extra['positions']} positions")
    feeds = latency.feeds_of(subject.long, *shape)
    torch = torch_of(subject)
    torch.load(feeds)
    session = session_of(plain_of(subject, gate))
    anchor_feeds = session.select(feeds)
    anchor = functools.partial(session.session.run, None, anchor_feeds)
    subject.result.torch_latency.append(paired(benchmark, shape, anchor, torch.round_s, gate.machine.threads))


def test_latency(case, shape, gate, benchmark):
    """One variant at one shape."""
    if shape[1] > case.subject.long.extra["positions"]:
        pytest.skip(f"{case.subject.name} has only {case.subject.long.extra['positions']} positions")
    feeds = latency.feeds_of(case.subject.long, *shape)
    plain, session = session_of(plain_of(case, gate)), session_of(case)
    feeds = session.select(feeds)
    anchor = functools.partial(plain.session.run, None, plain.select(feeds))
    run_s = functools.partial(latency.timed, functools.partial(session.session.run, None, feeds))
    case.result.latency.append(paired(benchmark, shape, anchor, run_s, gate.machine.threads))


def test_footprint(case, gate):
    """Session load time and peak memory of one run at 1x128, in a fresh process."""
    feeds = latency.feeds_of(case.subject.long, 1, min(128, case.subject.long.extra["positions"]))
    case.result.load_ms, case.result.peak_rss_mb = latency.footprint(
        case.file, gate.machine.threads, case.variant.provider, case.load().select(feeds)
    )
    assert case.result.load_ms > 0
    assert case.result.peak_rss_mb > case.result.bytes / 1e6 / 2
