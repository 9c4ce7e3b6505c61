"""Sums of 8-bit products: 16 bits of a processor without VNNI do not hold them, and nothing says so."""

import pytest

from fixtures.baselines.tolerances import TOLERANCES
from fixtures.diagnosis.integers import DeviationCause
from fixtures.gate.case import Case
from fixtures.gate.measured import Overflow
from fixtures.gate.session import Gate
from fixtures.gate.verdicts import Limits, judge
from fixtures.plugin.outcomes import require

pytestmark = pytest.mark.scores


def test_integers_do_not_overflow(scored: Case, overflow: Overflow, gate: Gate) -> None:
    """Scores are those of integers added up in 32 bits, but for parameters that are known to overflow here."""
    if scored.variant.overflows(gate.machine):
        return  # the report says how far; whether it may be deployed, the ceiling says
    if overflow.finding and overflow.finding.cause is DeviationCause.ROUNDING:
        return  # the integers are exact, and the report says what is not
    tolerance = TOLERANCES[scored.precision.name, True]
    task = scored.subject.task
    source = f"32-bit sums on this very machine: {tolerance.reason}"
    limits = Limits("tolerance", {task.metrics[0]: tolerance.limits[task.error_row]}, source)
    require(judge(scored, overflow.closeness, limits, mover=str(overflow.finding or "")))
