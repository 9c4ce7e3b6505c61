"""What others say that a model scores."""

import pytest

from fixtures.gate.session import inapplicable
from fixtures.scoring.published_scores import misses


def test_published_scores_are_reproduced(subject, published):
    """PyTorch scores as was published of the checkpoint, with the task and settings of model.toml."""
    if not subject.published:
        inapplicable(f"{subject.name} has no published.toml")
    if wrong := misses(subject.name, subject.published, published):
        pytest.fail("\n".join(wrong), pytrace=False)
