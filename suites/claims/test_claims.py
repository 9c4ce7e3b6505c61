"""What others claim of ONNX exports, answered from what the run measured. The answers are findings: none fails."""

import pytest

from fixtures.claims.measures import LARGE_BATCH, LONG_TOKENS, TIMED_IN_LARGE_BATCHES
from fixtures.claims.rule import answer
from fixtures.claims.table import CLAIMS
from fixtures.gate.session import inapplicable
from fixtures.gate.timing import lengths_of, opened, side_of
from fixtures.latency.pairs import feeds_of


def test_long_large_batches(case, plain, measured):
    """One claim is about a shape that the quick grid lacks."""
    shape = (LARGE_BATCH, LONG_TOKENS)
    if case.variant.name not in TIMED_IN_LARGE_BATCHES:
        inapplicable(f"{', '.join(TIMED_IN_LARGE_BATCHES)} answer the claim")
    if case.result.cell(shape) or shape[1] > lengths_of(case.subject)[1]:
        inapplicable("the grid has this shape, or the model has no positions for it")
    feeds = feeds_of(case.subject.long, *shape)
    timed_runs = [side_of(opened(timed), feeds) for timed in (plain, case)]
    case.result.latency.append(measured(case, shape, *timed_runs))


@pytest.mark.parametrize("claim", CLAIMS, ids=str)
def test_claim(claim, subject, gate):
    """A sentence holds for a model, does not, or cannot be measured here."""
    if not claim.is_about(subject.result):
        inapplicable(f"the claim is about {' and '.join(claim.tasks)}")
    gate.results.answers.append(answer(claim, subject.result, on_gpu=gate.machine.on_gpu))
