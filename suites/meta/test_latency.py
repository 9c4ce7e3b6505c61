"""Feeds, pairs and statistics of the latency grid. Times are made up, but for those of other processes."""

import contextlib
import gc
import itertools
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import loky
import msgspec
import numpy as np
import psutil
import pytest
import threadpoolctl

from fixtures.gate.session import ROOT
from fixtures.gate.timing import Watched
from fixtures.latency import change, disturbance, footprint
from fixtures.latency import pairs as latency_pairs
from fixtures.latency import ratios as latency_ratios
from fixtures.latency import speed as latency_speed
from fixtures.latency import throughput as latency_throughput
from fixtures.latency.change import THRESHOLD
from fixtures.latency.disturbance import Disturbed, Watch, calmly
from fixtures.latency.pairs import (
    GRIDS,
    MAX_ROUNDS,
    MIN_ROUNDS,
    PRECISION,
    WARMUP_ROUNDS,
    Enough,
    Pairs,
    feeds_of,
)
from fixtures.latency.ratios import half_width
from fixtures.latency.records import Speed
from fixtures.latency.speed import BLOCK_S, MIN_BLOCKS, SPEED_S, Blocks, Yardstick, precise
from fixtures.plugin.benchmarks import able
from fixtures.runtimes.session import Session
from fixtures.runtimes.torch_runtime import TorchProcess
from fixtures.scoring.encoded import Encoded

LONG = Encoded(
    {"input_ids": np.r_[101, 1000:2000, 102], "attention_mask": np.ones(1002, np.int64)},
    np.array([0, 1002]), {"input_ids": 0, "attention_mask": 0}, "right", {"head": 1, "tail": 1},
)  # fmt: skip


@pytest.mark.parametrize(("batch", "length"), [(1, 3), (1, 16), (8, 128), (32, 512), (2, 1002)])
def test_feeds_have_their_shape_and_no_padding(batch, length):
    feeds = feeds_of(LONG, batch, length)
    ids = feeds["input_ids"]
    assert ids.shape == feeds["attention_mask"].shape == (batch, length)
    assert feeds["attention_mask"].all()
    assert (ids[:, 0] == 101).all()
    assert (ids[:, -1] == 102).all()
    assert ((ids[:, 1:-1] >= 1000) & (ids[:, 1:-1] < 2000)).all()
    assert (np.diff(ids[:, 1:-1]) == 1).all(), "not neighbouring tokens of the text"


def test_rows_of_a_batch_differ():
    assert len(np.unique(feeds_of(LONG, 32, 64)["input_ids"], axis=0)) == 32


@pytest.mark.parametrize("length", [2, 1003])
def test_length_that_cannot_be_made_is_an_error(length):
    with pytest.raises(ValueError, match=f"no input of {length} tokens: 2 are taken, 1002 are there"):
        feeds_of(LONG, 1, length)


def test_grids_are_those_of_the_design():
    assert set(GRIDS["quick"]) == {*itertools.product((1, 8), (16, 128)), (1, 512)}
    assert set(GRIDS["full"]) == set(itertools.product((1, 2, 4, 8, 16, 32), (16, 64, 128, 256, 512)))


def test_cell_by_hand():
    variant = np.array([1.0, 2.0, 3.0, 4.0, 5.0] * 4) / 1e3
    found = latency_pairs.cell((8, 16), 3 * variant, variant, threads=2)
    assert (found.p50_ms, found.p95_ms) == (3.0, 5.0)
    assert found.items_per_s == pytest.approx(8 / 3e-3, rel=1e-5)
    assert (found.ratio_to_plain, found.interval) == (3.0, (3.0, 3.0))
    assert (found.rounds, found.threads) == (20, 2)


def test_pairs_cancel_what_the_machine_does_to_both():
    """Another tenant doubles the time of some rounds; the ratio of each pair stays what it is."""
    random = np.random.default_rng(3)
    weather = 1 + random.integers(0, 2, 40)
    anchor, variant = (seconds * weather * (1 + 0.01 * random.normal(size=40)) for seconds in (0.004, 0.002))
    found = latency_pairs.cell((1, 16), anchor, variant, threads=1)
    assert found.ratio_to_plain == pytest.approx(2, rel=0.01)
    assert half_width(found.interval) < 0.01


def test_interval_is_that_of_a_median():
    """Order statistics: of 1000 samples from a known median, at least 95 % of the intervals hold it."""
    random = np.random.default_rng(5)
    held = 0
    for _ in range(1000):
        ratios = random.lognormal(np.log(2), 0.3, 21)
        low, high = latency_pairs.cell((1, 1), ratios, np.ones(21), 1).interval
        held += low <= 2 <= high
    assert held >= 940


def pairs_of(anchor, variant, **options):
    """Pairs of made-up times, as pytest-benchmark would run them."""
    pairs = Pairs(lambda: next(anchor), lambda: next(variant), 30, 2, **options)
    for _ in range(3 * MAX_ROUNDS):
        try:
            pairs.setup()
        except Enough:
            return pairs
        pairs.run()
        pairs.teardown()
    raise AssertionError("it did not end")


def times(median, spread, seed):
    random = np.random.default_rng(seed)
    while True:
        yield median * float(np.exp(spread * random.normal()))


@pytest.fixture
def untaken(monkeypatch):
    monkeypatch.setattr(disturbance, "_stolen_s", lambda: 0.0)
    monkeypatch.setattr(disturbance, "_quota_s", lambda: 0.0)
    monkeypatch.setattr(disturbance, "_others_s", lambda: 0.0)


def test_rounds_end_when_the_ratio_is_known(untaken):
    sure, unsure = (pairs_of(times(2, spread, 1), times(1, spread, 2)) for spread in (0.001, 0.03))
    assert len(sure.variant_s) == len(sure.anchor_s) == MIN_ROUNDS
    assert MIN_ROUNDS < len(unsure.variant_s) < MAX_ROUNDS
    ratio, interval = latency_ratios.median_ratio(unsure.anchor_s, unsure.variant_s)
    assert half_width(interval) <= PRECISION
    assert ratio == pytest.approx(2, rel=0.02)


def test_order_within_a_pair_is_random(untaken):
    order = []
    pairs = Pairs(lambda: order.append("anchor") or 1.0, lambda: order.append("variant") or 1.0, 30, 2)
    pairs._random = np.random.default_rng(0)
    for _ in range(MIN_ROUNDS):
        pairs.setup()
        pairs.run()
        pairs.teardown()
    firsts = order[::2]
    assert {"anchor", "variant"} == set(firsts)
    assert all(set(pair) == {"anchor", "variant"} for pair in zip(order[::2], order[1::2], strict=True))


def test_what_stays_too_wide_is_measured_once_more_and_then_undecided(untaken):
    again = []
    pairs = pairs_of(times(2, 2.0, 1), times(1, 2.0, 2), again=lambda: again.append(True))
    assert again == [True]
    assert "the ratio is known to" in pairs.disturbed
    assert len(pairs.variant_s) == MAX_ROUNDS


def test_time_that_the_hypervisor_takes_is_a_disturbance(untaken, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(disturbance, "_stolen_s", lambda: float(next(clock)))
    pairs = pairs_of(itertools.repeat(1.0), itertools.repeat(1.0))
    assert pairs.disturbed.startswith("the hypervisor took ")


def test_quota_takes_of_what_it_leaves(untaken, monkeypatch):
    """Two of 64 cores, kept waiting for a tenth of the time: a tenth of the container's time, not of the host's."""
    monkeypatch.setattr(disturbance, "own_cores", lambda: range(64))
    monkeypatch.setattr(loky, "cpu_count", lambda: 2)
    watch = Watch(2, start=time.monotonic() - 100)
    assert sum(watch.taken().values()) == 0
    monkeypatch.setattr(disturbance, "_quota_s", lambda: 20.0)
    assert watch.taken()["the quota"] == pytest.approx(0.1, rel=0.01)
    monkeypatch.setattr(disturbance, "_stolen_s", lambda: 64.0 * 2)
    assert watch.taken()["the hypervisor"] == pytest.approx(0.02, rel=0.01)
    assert watch.disturbance() == "the hypervisor took 2% and the quota took 10% of the processors' time"


@pytest.mark.parametrize(
    ("cores", "threads", "busy", "share"),
    [(2, 2, 0.5, 0.25), (2, 1, 0.5, 0), (2, 1, 1.5, 0.5), (64, 8, 50, 0), (64, 8, 60, 0.5), (4, 4, 4, 1)],
)
def test_other_processes_take_what_no_thread_of_ours_needs(untaken, monkeypatch, cores, threads, busy, share):
    monkeypatch.setattr(disturbance, "own_cores", lambda: range(cores))
    watch = Watch(threads, start=time.monotonic() - 100)
    monkeypatch.setattr(disturbance, "_others_s", lambda: busy * 100.0)
    assert watch.others() == pytest.approx(busy, rel=0.01)
    assert watch.taken()["other processes"] == pytest.approx(share, rel=0.02)
    assert watch.disturbance() == (f"other processes took {share:.0%} of the processors' time" if share else "")


on_linux = pytest.mark.skipif(not psutil.LINUX, reason="other processes are counted on Linux only")


@on_linux
def test_processes_of_our_own_are_no_others(monkeypatch):
    """What a child spends is ours while it works, when it has ended, and when it has been waited for."""
    monkeypatch.setattr(disturbance, "_own_times", list)
    code = "import time\nwhile time.process_time() < 1: pass\nprint(flush=True); input()"
    before = disturbance._others_s()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert disturbance._others_s() < before - 0.9, "it lives"
        child.stdin.close()
        child.stdout.read()
        assert disturbance._others_s() < before - 0.9, "it has ended"
    assert disturbance._others_s() < before - 0.9, "it has been waited for"


@on_linux
def test_processes_of_others_are_noticed():
    """One whose parent has ended is nobody's child; of three seconds, it works for as many as it gets."""
    code = (
        "import subprocess, sys; none = subprocess.DEVNULL\n"
        "print(subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=none, stderr=none).pid)"
    )
    work = "import time; end = time.monotonic() + 3\nwhile time.monotonic() < end: pass"
    started = subprocess.run([sys.executable, "-c", code, work], check=True, capture_output=True, text=True)
    orphan = psutil.Process(int(started.stdout))
    if orphan in psutil.Process().children(recursive=True):
        pytest.skip("this process is its parent now")
    watch, spent_s = Watch(2), disturbance._spent_s(orphan)
    time.sleep(2)
    spent_s = disturbance._spent_s(orphan) - spent_s
    assert spent_s > 0.3
    assert watch.others() * 2 > spent_s / 2


def test_few_ticks_and_our_own_threads_in_a_quota_are_no_disturbance(untaken, monkeypatch):
    monkeypatch.setattr(disturbance, "own_cores", lambda: range(2))
    monkeypatch.setattr(loky, "cpu_count", lambda: 2)
    watch = Watch(2, start=time.monotonic() - 0.1)
    monkeypatch.setattr(disturbance, "_stolen_s", lambda: 0.02)
    monkeypatch.setattr(disturbance, "_others_s", lambda: 0.02)
    assert watch.disturbance() == ""
    monkeypatch.setattr(disturbance, "_stolen_s", lambda: 0.04)
    assert watch.disturbance(quota=False).startswith("the hypervisor took ")
    monkeypatch.setattr(disturbance, "_stolen_s", lambda: 0.0)
    monkeypatch.setattr(disturbance, "_quota_s", lambda: 0.6)
    assert watch.disturbance().startswith("the quota took ")
    assert watch.disturbance(quota=False) == ""


def test_what_was_disturbed_twice_is_no_number(untaken, monkeypatch):
    found = iter(range(10))
    assert calmly(lambda: next(found), 2)[0] == 0
    reasons = iter(["hot", "", "hot", "stolen"])
    monkeypatch.setattr(Watch, "disturbance", lambda _, quota: next(reasons))
    assert calmly(lambda: next(found), 2)[0] == 2, "the first one was disturbed"
    with pytest.raises(Disturbed, match="stolen"):
        calmly(lambda: next(found), 2)


def test_quota_is_a_number_of_cores(monkeypatch, tmp_path):
    files = {"/sys/fs/cgroup/cpu.max": tmp_path / "cpu.max"}
    monkeypatch.setattr(disturbance, "Path", lambda name: files.get(name, tmp_path / "none"))
    assert disturbance.quota() is None
    for text, cores in (("max 100000", None), ("150000 100000", 1.5)):
        (tmp_path / "cpu.max").write_text(text + "\n")
        assert disturbance.quota() == cores


def test_processor_that_grows_too_hot_is_a_disturbance(untaken, monkeypatch, tmp_path):
    counts = [tmp_path / f"sys/devices/system/cpu/cpu{core}/thermal_throttle/core_throttle_count" for core in (0, 1)]
    for count in counts:
        count.parent.mkdir(parents=True)
        count.write_text("7\n")
    throttled = disturbance._throttled
    monkeypatch.setattr(disturbance, "_throttled", lambda: throttled(tmp_path))
    watch = Watch(2)
    assert watch.throttled() == 0
    counts[1].write_text("9\n")
    assert watch.throttled() == 2
    clock = itertools.count()
    monkeypatch.setattr(disturbance, "_throttled", lambda: next(clock))
    pairs = pairs_of(itertools.repeat(1.0), itertools.repeat(1.0))
    assert "the processor was too hot" in pairs.disturbed


def test_warm_up_ends_when_times_are_stable(untaken):
    counted = []
    slow_start = iter([1.0] * 3 + [0.1] * 100)
    pairs = Pairs(lambda: counted.append(1) or next(slow_start), lambda: 0.0, 30, 2)
    pairs.warm_up()
    assert len(counted) == 3 * WARMUP_ROUNDS
    assert not pairs.variant_s


# ----------------------------------------------------------------------------- the gate of speed


def speed(ratio, half, anchor="plain"):
    return Speed(anchor, 1, 128, ratio, (ratio * np.exp(-half), ratio * np.exp(half)), 100, 8, "one", run_ms=20.0)


def test_short_runs_are_held_to_what_is_far_slower():
    short = msgspec.structs.replace(speed(2.0, 0.005), run_ms=0.5)
    assert change.change(short, speed(2.0 / 1.1, 0.005)).verdict == "same"
    assert change.change(short, speed(2.0 / 1.3, 0.005)).verdict == "slower"
    assert change.change(speed(2.0, 0.005), speed(2.0 / 1.1, 0.005)).verdict == "slower"
    older = msgspec.structs.replace(speed(2.0, 0.005), run_ms=0.0)
    assert change.change(older, msgspec.structs.replace(speed(2.0 / 1.1, 0.005), run_ms=0.5)).verdict == "same"


def test_approval_leaves_room_for_what_is_compared_with_it():
    loosest = speed(2.0, np.log1p(THRESHOLD) / np.sqrt(2) - 1e-6)
    assert change.tells(loosest)
    assert change.change(loosest, loosest).verdict == "same"
    assert not change.tells(speed(2.0, np.log1p(THRESHOLD) / np.sqrt(2) + 1e-4))


def test_change_is_said_the_way_it_went():
    assert str(change.change(speed(2.0, 0.0), speed(1.0, 0.0))) == "2.000 times slower (2.000 to 2.000)"
    assert str(change.change(speed(1.0, 0.0), speed(2.0, 0.0))) == "2.000 times faster (2.000 to 2.000)"


@pytest.mark.parametrize(
    ("approved", "now", "verdict"),
    [
        (speed(2.0, 0.005), speed(2.0, 0.005), "same"),
        (speed(2.0, 0.005), speed(2.0 / 1.05, 0.005), "slower"),
        (speed(2.0, 0.005), speed(2.0 * 1.05, 0.005), "faster"),
        (speed(2.0, 0.005), speed(2.0 / 1.02, 0.005), "same"),  # beyond chance, below the threshold
        (speed(2.0, 0.04), speed(2.0 / 1.05, 0.04), "undecided"),  # beyond the threshold, and not beyond chance
        (speed(2.0, 0.2), speed(2.0, 0.2), "undecided"),
        (speed(2.0, np.inf), speed(2.0, 0.005), "undecided"),
        (speed(2.0, 0.005, "numpy"), speed(2.0 / 1.05, 0.005, "numpy"), "slower"),
        (speed(2.0, 0.02, "PyTorch"), speed(2.0 / 1.15, 0.03, "PyTorch"), "same"),  # which PyTorch may have done
        (speed(2.0, 0.02, "PyTorch"), speed(2.0 / 1.3, 0.03, "PyTorch"), "slower"),
    ],
)
def test_change_is_judged_by_threshold_and_interval(approved, now, verdict):
    assert change.change(approved, now).verdict == verdict


def test_intervals_of_both_sides_add_as_independent_errors():
    found = change.change(speed(2.0, 0.03), speed(1.0, 0.04))
    assert found.slower == pytest.approx(2)
    assert found.interval == pytest.approx((2 * np.exp(-0.05), 2 * np.exp(0.05)))


@pytest.mark.parametrize(
    ("now", "clear"),
    [
        (speed(2.0, 0.01), True),
        (speed(2.0, 0.03), False),
        (speed(2.0 / 1.03, 0.01), False),
        (speed(2.0 / 1.05, 0.01), True),
        (speed(2.0 * 1.03, 0.01), False),
        (speed(2.0 * 1.05, 0.01), True),
    ],
)
def test_change_is_clear_where_its_interval_holds_no_threshold(now, clear):
    assert change.change(speed(2.0, 0.005), now).clear == clear


@pytest.mark.parametrize(
    ("approved", "tells"),
    [
        (speed(2.0, 0.02), True), (speed(2.0, 0.03), False), (speed(2.0, np.inf), False),
        (speed(2.0, 0.15, "PyTorch"), True), (speed(2.0, 0.03, "numpy"), False),
    ],
)  # fmt: skip
def test_approval_that_would_decide_nothing_tells_nothing(approved, tells):
    assert change.tells(approved) == tells
    same = change.change(approved, msgspec.structs.replace(approved, interval=(2.0, 2.0)))
    assert (same.verdict == "same") == tells


@pytest.fixture
def brisk(monkeypatch):
    """Blocks of made-up times need no garbage collection and no seconds."""
    monkeypatch.setattr(latency_pairs, "undisturbed_by_garbage", contextlib.nullcontext)
    monkeypatch.setattr(latency_speed, "BLOCK_S", 0.0)
    monkeypatch.setattr(latency_speed, "BLOCK_PAIRS", 15)


def blocks_of(seed, *, ratio=2.0, settled=lambda now: True, opened=None):
    """Blocks whose sessions owe a per cent or two to luck, beside the noise of each round."""
    random = np.random.default_rng(seed)

    def renew():
        luck = float(np.exp(0.02 * random.normal())) / ratio
        if opened is not None:
            opened.append(seed)
        return (lambda: 1.0), (lambda: luck * float(np.exp(0.05 * random.normal())))

    return Blocks("plain", (1, 16), renew, "one", {}, settled)


def test_yardstick_lasts_as_long_as_what_stands_beside_it(monkeypatch):
    yardstick, once = Yardstick(), itertools.chain([1.0] * 2, itertools.cycle([1.0, 3.0]))
    monkeypatch.setattr(yardstick, "once", lambda: next(once))
    assert yardstick.beside(lambda: 3.8)() == 2.0, "the mean of four"


def test_yardstick_runs_on_one_thread(monkeypatch):
    def threads():
        return [one["num_threads"] for one in threadpoolctl.threadpool_info() if one["user_api"] == "blas"]

    yardstick, before, during = Yardstick(), threads(), []
    monkeypatch.setattr(time, "process_time", lambda: during.extend(threads()) or 0.0)
    yardstick.once()
    monkeypatch.undo()
    if before in ([], [1]):
        pytest.skip("numpy's products have one core, or a library that cannot be told")
    assert set(during) == {1}
    assert threads() == before


def test_speed_has_the_spread_between_sessions_in_its_interval(brisk):
    """95 of 100 intervals hold the true ratio."""
    found = latency_speed.speeds([blocks_of(seed) for seed in range(200)], 30)
    held = sum(one.interval[0] <= 2 <= one.interval[1] for one in found)
    assert 0.9 <= held / len(found) < 1
    assert all(one.sessions == MIN_BLOCKS for one in found)


def test_variants_take_turns_until_each_is_settled(brisk):
    opened = []
    late = blocks_of(2, settled=lambda now: now.sessions == MIN_BLOCKS + 2, opened=opened)
    latency_speed.speeds([blocks_of(1, opened=opened), late], 30)
    assert opened == [1, 2] * MIN_BLOCKS + [2, 2]


def test_variant_that_does_not_run_stops_no_other(brisk):
    def renew():
        raise RuntimeError("no such operator")

    def measurement(case):
        if case == "lost":
            raise OSError("no such artifact")
        broken = Blocks("plain", (1, 16), renew, "one", {}, lambda now: True)
        return broken if case == "broken" else blocks_of(1)

    cases = ["lost", "broken", "sound"]
    ran = able(cases, measurement, "sound")
    assert list(ran) == ["sound"]
    assert latency_speed.speeds(list(ran.values()), 30)[0].sessions == MIN_BLOCKS
    with pytest.raises(RuntimeError, match="no such operator"):
        able(cases, measurement, "broken")
    with pytest.raises(OSError, match="no such artifact"):
        able(cases, measurement, "lost")


def test_blocks_end_when_time_is_up(brisk):
    (found,) = latency_speed.speeds([blocks_of(1, settled=lambda now: False)], 0)
    assert found.sessions == MIN_BLOCKS


MOST_BLOCKS = SPEED_S["quick"] / BLOCK_S


def verdicts(slowdown, trials=150):
    """What the gate says of a slowdown, with an approval of its own for every trial."""
    approved = latency_speed.speeds([blocks_of(seed, settled=precise) for seed in range(trials)], 30)

    def held_to(one):
        return lambda now: now.sessions >= MOST_BLOCKS or change.change(one, now).clear

    now = [
        blocks_of(trials + seed, ratio=2 / (1 + slowdown), settled=held_to(one)) for seed, one in enumerate(approved)
    ]
    return [change.change(one, new).verdict for one, new in zip(approved, latency_speed.speeds(now, 30), strict=True)]


def test_slowdown_by_5_percent_is_seen_and_none_is_not(brisk):
    """With the noise that was measured between and within sessions; suites/meta/slowdowns.py does it for real."""
    assert verdicts(0.05).count("slower") >= 0.95 * 150
    assert verdicts(0.0).count("slower") <= 0.02 * 150


def test_runs_are_timed_apart_from_what_is_around_them(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    class Slow(Session):
        def run(self, selected):
            now[0] += 10.0
            return [selected["input_ids"] + 1]

        def select(self, feeds):
            now[0] += 1.0
            return feeds

    runtime = Watched(Slow([SimpleNamespace(name="input_ids")], [SimpleNamespace(name="logits")]))
    outputs = [runtime({"input_ids": np.arange(3)}) for _ in range(2)]
    assert (runtime.seconds, now[0], runtime.inputs) == (20.0, 22.0, ["input_ids"])
    assert outputs[1]["logits"].tolist() == [1, 2, 3]


# ----------------------------------------------------------------------- throughput and footprint


def test_workload_counts_padding():
    lengths = [2, 4, 2, 4]
    encoded = Encoded(
        {name: np.ones(sum(lengths), np.int64) for name in ("input_ids", "attention_mask")},
        np.cumsum([0, *lengths]), {"input_ids": 0, "attention_mask": 0}, "right", {},
    )  # fmt: skip
    ran = []
    for batch, by_length, padding, runs in ((1, False, 0, 4), (2, False, 0.25, 2), (2, True, 0, 2)):
        ran.clear()
        found = latency_throughput.workload(
            lambda feeds: ran.append(feeds["input_ids"].shape), encoded, batch, by_length=by_length
        )
        assert (found.batch, found.sorted, found.padding) == (batch, by_length, padding)
        assert len(ran) == 2 * runs, "each once to warm up"


def test_callers_call_at_the_same_time():
    running, most, lock = set(), [0], threading.Lock()

    def run():
        with lock:
            running.add(threading.get_ident())
            most[0] = max(most[0], len(running))
        time.sleep(0.002)
        with lock:
            running.discard(threading.get_ident())

    found = latency_throughput.callers(run, 3, 2)
    assert most[0] == 3
    assert (found.callers, found.threads) == (3, 2)
    assert found.p50_ms >= 2


def test_footprint_of_a_process_that_fails_is_an_error(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(RuntimeError, match="the measuring process ended with exit code 1"):
        footprint.footprint(tmp_path / "model.onnx", 1, "CPUExecutionProvider", {})


def slow_with_garbage(checkpoint):
    """Return a model that takes two seconds where garbage collection is on."""
    torch = pytest.importorskip("torch")

    class Model(torch.nn.Module):
        def forward(self, input_ids):
            time.sleep(2 * gc.isenabled())

    return Model()


def test_garbage_is_held_in_pytorchs_process(tmp_path):
    pytest.importorskip("torch")
    process = TorchProcess(tmp_path, "suites.meta.test_latency:slow_with_garbage", 1)
    try:
        process.load({"input_ids": np.ones((1, 4), np.int64)})
        assert process.round_s() < 1
    finally:
        process.close()


# ------------------------------------------------------------------------------ what is collected


@pytest.mark.parametrize(("grid", "throughput"), [("quick", False), ("full", True)])
def test_full_grid_decides_on_threads_and_batches_too(grid, throughput):
    command = [
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q", "--grid", grid),
        *("--model", "minilm-l6", "--variant", "plain"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "test_latency[minilm-l6-plain-1x128]" in done.stdout
    assert ("test_callers" in done.stdout) == throughput
