"""What others claim of ONNX exports, answered by what the run measured before: findings, of which none fails it."""

import pytest

from fixtures import claims
from fixtures.gate import inapplicable


@pytest.mark.parametrize("claim", claims.CLAIMS, ids=str)
def test_claim(claim, subject, gate):
    """A sentence holds for a model, does not, or cannot be measured here."""
    if not claim.is_about(subject.result):
        inapplicable(f"it speaks of {' and '.join(claim.tasks)}")
    gate.results.answers.append(claims.answer(claim, subject.result))
