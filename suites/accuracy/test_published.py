"""What others say that a model scores."""

import pytest

from fixtures.gate.subject import Subject
from fixtures.plugin.outcomes import inapplicable
from fixtures.scoring.published import ReproducedScore
from fixtures.scoring.published_scores import misses

pytestmark = pytest.mark.scores


def test_published_scores_are_reproduced(subject: Subject, published: list[ReproducedScore]) -> None:
    """PyTorch scores as was published of the checkpoint, with the task and settings of model.toml."""
    if not subject.published:
        inapplicable(f"{subject.name} has no published.toml")
    if missed := misses(subject.name, subject.published, published):
        pytest.fail("\n".join(missed), pytrace=False)
