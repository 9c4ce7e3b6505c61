"""Sums of 8-bit products: 16 bits of a processor without VNNI do not hold them, and nothing says so."""

from fixtures.baselines.tolerances import TOLERANCES
from fixtures.diagnosis.integers import DeviationCause
from fixtures.gate.verdicts import judge


def test_integers_do_not_overflow(scored, overflow, gate):
    """Scores are those of integers added up in 32 bits, but for parameters that are known to overflow here."""
    if scored.variant.overflows(gate.machine):
        return  # how far is in the report; whether it may be deployed, the ceiling says
    if scored.result.deviation_cause == DeviationCause.ROUNDING:
        return  # the integers are exact, and the report says what is not
    tolerance = TOLERANCES[scored.variant.precision.name, True]
    metric = scored.subject.task.metrics[0]
    why = f"32-bit sums on this very machine: {tolerance.reason}"
    judge(scored, overflow, {metric: tolerance.limits[metric]}, "tolerance", why, moved_by=scored.result.overflow_cause)
