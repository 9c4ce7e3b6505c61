"""A process that serves texts of all lengths does not grow without end."""

from __future__ import annotations

import pytest

from fixtures.gate.case import Case
from fixtures.gate.session import Gate
from fixtures.gate.timing import shape_of
from fixtures.latency.memory import GROWTH_CEILING, measure_growth, shapes
from fixtures.plugin.suite_fixtures import NoteFinding

pytestmark = pytest.mark.timed


def test_memory_stays_after_many_shapes(case: Case, gate: Gate, finding: NoteFinding) -> None:
    """After 200 shapes a process holds little more than its largest shape alone takes."""
    subject = case.subject
    growth = measure_growth(
        case.file,
        gate.machine.threads,
        case.provider,
        lambda batch, length: case.runtime.select(shape_of(subject, batch, length)),
        shapes(subject.long.facts.positions),
    )
    finding(str(growth))
    assert growth.ratio <= GROWTH_CEILING, f"{case}: {growth}, and {GROWTH_CEILING} times is the ceiling"
