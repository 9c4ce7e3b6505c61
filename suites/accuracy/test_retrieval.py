"""What people would notice: whether a variant, or an update, still finds the passages that were graded."""

import pytest

from fixtures.gate.case import Case
from fixtures.gate.retrieved import judge_quality, judge_update_losses
from fixtures.gate.session import Gate
from fixtures.gate.subject import Subject
from fixtures.plugin.outcomes import require
from fixtures.plugin.suite_fixtures import NoteFinding
from fixtures.retrieval.quality import Loss, Quality

pytestmark = pytest.mark.scores


def test_update_finds_passages_as_well(subject: Subject, update_losses: list[Loss], gate: Gate) -> None:
    """A candidate finds as much of what people graded as the approved checkpoint, but for what `[update]` allows."""
    if not gate.approving:
        require(judge_update_losses(subject, update_losses))


def test_passages_are_found_as_well(case: Case, quality: Quality, finding: NoteFinding) -> None:
    """A variant loses no more of what people graded than its class may, as far as these queries can tell."""
    require(judge_quality(case, quality))
    for loss in quality.losses:
        if loss.ceiling is not None and loss.loss > loss.ceiling:
            finding(f"{loss}: {quality.queries} queries are too few to say that it breaks its ceiling {loss.ceiling:g}")
