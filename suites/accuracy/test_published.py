"""What others say that a model scores."""

import pytest

from fixtures.gate.case import Case
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


def test_variant_reproduces_published_scores(case: Case, published_of_variant: list[ReproducedScore]) -> None:
    """A variant scores as was published, within the tolerance of the publication and its own ceiling."""
    name = f"{case.subject.name} {case.label}"
    if missed := misses(name, case.subject.published, published_of_variant, case.ceiling):
        pytest.fail("\n".join(missed), pytrace=False)
