"""What others claim of ONNX exports, answered by what the run measured before: findings, of which none fails it."""

import pytest

from fixtures import bench, claims, latency
from fixtures.gate import inapplicable


def test_long_large_batches(case, plain, measured):
    """One claim is about a shape that the quick grid lacks."""
    shape = (claims.LARGE, claims.LONG)
    if case.variant.name not in claims.IN_LARGE:
        inapplicable(f"{', '.join(claims.IN_LARGE)} answer the claim")
    if case.result.cell(shape) or shape[1] > bench.lengths_of(case.subject)[1]:
        inapplicable("the grid has this shape, or the model has no positions for it")
    feeds = latency.feeds_of(case.subject.long, *shape)
    sides = [bench.side_of(bench.opened(one), feeds) for one in (plain, case)]
    case.result.latency.append(measured(case, shape, *sides))


@pytest.mark.parametrize("claim", claims.CLAIMS, ids=str)
def test_claim(claim, subject, gate):
    """A sentence holds for a model, does not, or cannot be measured here."""
    if not claim.is_about(subject.result):
        inapplicable(f"it speaks of {' and '.join(claim.tasks)}")
    gate.results.answers.append(claims.answer(claim, subject.result, on_gpu=gate.machine.on_gpu))
