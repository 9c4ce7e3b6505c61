"""The same folder scores the same in the programs that deploy it."""

from __future__ import annotations

import pytest

from fixtures.consumers.table import CONSUMERS, Consumer
from fixtures.gate.case import Case
from fixtures.gate.consumed import judge_consumer
from fixtures.gate.measured import closeness_of
from fixtures.plugin.consumers import Consumption
from fixtures.plugin.outcomes import require
from fixtures.plugin.suite_fixtures import NoteFinding
from fixtures.report.results import Status

pytestmark = pytest.mark.check


@pytest.mark.parametrize("consumer", CONSUMERS.values(), ids=list(CONSUMERS))
def test_consumer_scores_as_it_was_judged(
    scored: Case, consumer: Consumer, consumption: Consumption, finding: NoteFinding
) -> None:
    """A program that deploys the variant makes the same tokens and the same scores as the gate, but for rounding."""
    result, differences = consumption
    verdict = judge_consumer(scored, consumer, result, differences, closeness_of(scored))
    if not verdict:
        result.status, result.reason = Status.FAIL, verdict.failure
    require(verdict)
    for difference in differences:
        finding(str(difference))
