"""Latency over batch and length beside plain, the footprint of a process, and the speed that the gate compares.

pytest-benchmark runs and times the variant. A round of plain, which pytest-benchmark does not time, runs before or
after each of its rounds. Nothing is asserted about absolute times; ratios are compared with the approved ones.
"""

import functools

import pytest

from fixtures.gate.case import Case
from fixtures.gate.measured import Measured, MeasuredModel
from fixtures.gate.session import Gate
from fixtures.gate.speed_verdicts import judge_cell, judge_speed, name_of
from fixtures.gate.subject import Subject
from fixtures.gate.timing import SWEEP, Shape, lengths_of, session_to_time, shape_of, timed_run_of
from fixtures.latency.change import Tendency, is_decisive
from fixtures.latency.footprint import measure_footprint
from fixtures.latency.pairs import feeds_of
from fixtures.latency.records import Measurement, Quantity, Speed, Undecided
from fixtures.plugin.benchmarks import MeasureOnce, TimeCell, TorchOf
from fixtures.plugin.outcomes import require, undecided
from fixtures.runtimes.session import Feeds

pytestmark = pytest.mark.timed


@pytest.mark.full_size
def test_latency_of_pytorch(
    subject: Subject, shape: Shape, gate: Gate, measured_model: MeasuredModel, time_cell: TimeCell, torch_of: TorchOf
) -> None:
    """PyTorch itself, in a process of its own."""
    feeds = shaped(subject, shape)
    torch = torch_of(subject, gate.machine.threads)
    torch.load(feeds)
    plain = timed_run_of(session_to_time(gate.case(subject, "plain")), feeds)
    measured_model.torch_latency.append(time_cell(subject, shape, plain, torch.round_s))


@pytest.mark.full_size
def test_latency(case: Case, shape: Shape, gate: Gate, measured: Measured, time_cell: TimeCell) -> None:
    """One variant at one shape, the model alone and with tokenising and post-processing."""
    feeds = shaped(case.subject, shape)
    plain = gate.case(case.subject, "plain")
    cell = time_cell(
        case, shape, timed_run_of(session_to_time(plain), feeds), timed_run_of(session_to_time(case), feeds)
    )
    measured.latency.append(cell)
    for verdict in [] if gate.approving else judge_cell(case, cell):
        note_stale(measured, verdict.tendency, verdict.comparison)
        require(verdict)


@pytest.mark.full_size
def test_footprint(case: Case, gate: Gate, measured: Measured, measure_once: MeasureOnce) -> None:
    """A fresh process: from its start to the first output, session load, memory, and memory after many shapes."""
    feeds, *sweep = (case.runtime.select(shape_of(case.subject, *shape)) for shape in ((1, 128), *SWEEP))
    measure = functools.partial(measure_footprint, case.file, gate.machine.threads, case.provider, feeds, sweep)
    measured.footprint = measure_once(case, Measurement(Quantity.FOOTPRINT), measure)
    assert measured.footprint.peak_rss_mb > case.artifact.bytes / 1e6 / 2


def test_speed(case: Case, measured: Measured, speed: Speed, speed_before: Speed | None) -> None:
    """On one thread, a variant is no slower beside plain than approved, and plain no slower beside numpy."""
    if speed_before is None:
        return
    verdict = judge_speed(case, speed, speed_before)
    note_stale(measured, verdict.tendency, verdict.comparison)
    require(verdict)
    if verdict.tendency is Tendency.UNDECIDED:
        measured.undecided.append(Undecided(Measurement(Quantity.SPEED), verdict.comparison))
        remedy = "run" if is_decisive(speed_before) else "approve"
        undecided(case.context, f"{name_of(case)}: {verdict.comparison}; {remedy} it again at a quiet time")


def note_stale(measured: Measured, tendency: Tendency, comparison: str) -> None:
    """Remark on what became faster: its baseline no longer notices a slowdown of that size."""
    if tendency is Tendency.FASTER:
        measured.stale.append(f"{comparison}; --approve records it")


def shaped(subject: Subject, shape: Shape) -> Feeds:
    """Return feeds of a shape; skip the test where the model or the long text has none of this length."""
    shortest, longest = lengths_of(subject)
    if not shortest <= shape[1] <= longest:
        pytest.skip(f"no input of {shape[1]} tokens: {subject.name} and the long text allow {shortest} to {longest}")
    return feeds_of(subject.long, *shape)
