"""Latency over batch and length, beside plain; what a process costs; and the one number that the gate compares.

pytest-benchmark runs and times the variant; a round of plain runs before or after each of its own, untimed by it.
Nothing is asserted about absolute times; ratios are compared with the approved ones.
"""

import functools

import pytest

from fixtures.gate.speed_verdicts import judge_cell, judge_speed
from fixtures.gate.timing import SWEEP, lengths_of, opened, shape_of, side_of
from fixtures.latency import footprint
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
    """One variant at one shape, and with tokenising and post-processing."""
    feeds = shaped(case.subject, shape)
    sides = [side_of(opened(one), feeds) for one in (gate.case(case.subject, "plain"), case)]
    cell = measured(case, shape, *sides)
    case.result.latency.append(cell)
    if not gate.approve:
        judge_cell(case, cell)


def test_footprint(case, gate, recorded):
    """A fresh process: from its start to the first output, session load, memory, and memory after many shapes."""
    feeds, *sweep = (case.runtime.select(shape_of(case.subject, *one)) for one in ((1, 128), *SWEEP))
    measure = functools.partial(footprint.footprint, case.file, gate.machine.threads, case.provider, feeds, sweep)
    found = recorded(case, Measurement(Quantity.FOOTPRINT), measure)
    for name, value in vars(found).items():
        setattr(case.result, name, value)
    assert found.peak_rss_mb > case.result.bytes / 1e6 / 2


def test_speed(case, gate, speed):
    """On one thread, a variant is no slower beside plain, and plain beside numpy, than when it was approved."""
    case.result.speed = speed
    if not gate.approve:
        judge_speed(case, speed)


def shaped(subject, shape):
    least, most = lengths_of(subject)
    if not least <= shape[1] <= most:
        pytest.skip(f"{shape[1]} tokens: {subject.name} has {least} at least, and it or the probe {most} at most")
    return feeds_of(subject.long, *shape)
