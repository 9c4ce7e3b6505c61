"""What people would notice: whether a variant still finds the passages that were graded."""

import pytest

from fixtures.gate.case import Case
from fixtures.gate.retrieved import judge_quality
from fixtures.plugin.outcomes import require
from fixtures.plugin.suite_fixtures import NoteFinding
from fixtures.retrieval.quality import Quality

pytestmark = pytest.mark.scores


def test_passages_are_found_as_well(case: Case, quality: Quality, finding: NoteFinding) -> None:
    """A variant loses no more of what people graded than its class may, as far as these queries can tell."""
    require(judge_quality(case, quality))
    for loss in quality.losses:
        if loss.ceiling is not None and loss.loss > loss.ceiling:
            finding(f"{loss}: {quality.queries} queries are too few to say that it breaks its ceiling {loss.ceiling:g}")
