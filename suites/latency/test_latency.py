"""Latency over batch and length beside plain, the footprint of a process, and the speed that the gate compares.

pytest-benchmark runs and times the variant. A round of plain, which pytest-benchmark does not time, runs before or
after each of its rounds. Nothing is asserted about absolute times; ratios are compared with the approved ones.
"""

import functools

import pytest

from fixtures.gate.speed_verdicts import judge_cell, judge_speed
from fixtures.gate.timing import SWEEP, lengths_of, opened, shape_of, side_of
from fixtures.latency.footprint import measure_footprint
from fixtures.latency.pairs import feeds_of
from fixtures.latency.records import Measurement, Quantity


def test_latency_of_pytorch(subject, shape, gate, measured, torch_of):
    """PyTorch itself, in a process of its own."""
    feeds = shaped(subject, shape)
    torch = torch_of(subject, gate.machine.threads)
    torch.load(feeds)
    plain = side_of(opened(gate.case(subject, "plain")), feeds)
    subject.result.torch_latency.append(measured(subject, shape, plain, torch.round_s))


def test_latency(case, shape, gate, measured):
    """One variant at one shape, the model alone and with tokenising and post-processing."""
    feeds = shaped(case.subject, shape)
    timed_runs = [side_of(opened(timed), feeds) for timed in (gate.case(case.subject, "plain"), case)]
    cell = measured(case, shape, *timed_runs)
    case.result.latency.append(cell)
    if not gate.approve:
        judge_cell(case, cell)


def test_footprint(case, gate, recorded):
    """A fresh process: from its start to the first output, session load, memory, and memory after many shapes."""
    feeds, *sweep = (case.runtime.select(shape_of(case.subject, *shape)) for shape in ((1, 128), *SWEEP))
    measure = functools.partial(measure_footprint, case.file, gate.machine.threads, case.provider, feeds, sweep)
    footprint = recorded(case, Measurement(Quantity.FOOTPRINT), measure)
    for name, value in vars(footprint).items():
        setattr(case.result, name, value)
    assert footprint.peak_rss_mb > case.result.bytes / 1e6 / 2


def test_speed(case, gate, speed):
    """On one thread, a variant is no slower beside plain than approved, and plain no slower beside numpy."""
    case.result.speed = speed
    if not gate.approve:
        judge_speed(case, speed)


def shaped(subject, shape):
    """Return feeds of this shape; skip the test where the model or the long text has none of this length."""
    shortest, longest = lengths_of(subject)
    if not shortest <= shape[1] <= longest:
        pytest.skip(f"no input of {shape[1]} tokens: {subject.name} and the long text allow {shortest} to {longest}")
    return feeds_of(subject.long, *shape)
