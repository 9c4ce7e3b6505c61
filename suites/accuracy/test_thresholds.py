"""Thresholds that people deploy: what they decide by a score stays decided so."""

import pytest

from fixtures.gate.case import Case
from fixtures.gate.session import Gate
from fixtures.gate.subject import Subject
from fixtures.gate.verdicts import judge_decisions
from fixtures.plugin.outcomes import require
from fixtures.scoring.thresholds import Decisions

pytestmark = pytest.mark.scores


def test_decisions_stay(scored: Case, decisions: list[Decisions]) -> None:
    """A variant decides as the reference does, but for the share of flips that `[[thresholds]]` allows."""
    require(judge_decisions(scored, decisions))


def test_update_keeps_decisions(subject: Subject, update_decisions: list[Decisions], gate: Gate) -> None:
    """A candidate decides as the approved reference does, but for the share of flips that `[[thresholds]]` allows."""
    if not gate.approving:
        require(judge_decisions(subject, update_decisions))
