"""What others claim of ONNX exports, answered from what the run measured. The answers are findings: none fails."""

import pytest

from fixtures.claims.measures import LARGE_BATCH, LONG_TOKENS, TIMED_IN_LARGE_BATCHES
from fixtures.claims.rule import Claim, answer
from fixtures.claims.table import CLAIMS
from fixtures.gate.case import Case
from fixtures.gate.measured import Measured
from fixtures.gate.session import Gate
from fixtures.gate.subject import Subject
from fixtures.gate.timing import lengths_of, session_to_time, timed_run_of
from fixtures.latency.pairs import feeds_of
from fixtures.plugin.benchmarks import TimeCell
from fixtures.plugin.outcomes import inapplicable

pytestmark = [pytest.mark.timed, pytest.mark.last]


def test_long_large_batches(case: Case, plain: Case, measured: Measured, time_cell: TimeCell) -> None:
    """One claim is about a shape that the quick grid lacks."""
    shape = (LARGE_BATCH, LONG_TOKENS)
    if case.variant.name not in TIMED_IN_LARGE_BATCHES:
        inapplicable(f"{', '.join(TIMED_IN_LARGE_BATCHES)} answer the claim")
    timed = [(cell.batch, cell.length) for cell in measured.latency]
    if shape in timed or lengths_of(case.subject)[1] < LONG_TOKENS:
        inapplicable("the grid has this shape, or the model has no positions for it")
    feeds = feeds_of(case.subject.long, *shape)
    timed_runs = [timed_run_of(session_to_time(timed_case), feeds) for timed_case in (plain, case)]
    measured.latency.append(time_cell(case, shape, *timed_runs))


@pytest.mark.full_size
@pytest.mark.parametrize("claim", CLAIMS, ids=str)
def test_claim(claim: Claim, subject: Subject, gate: Gate) -> None:
    """A sentence holds for a model, does not, or cannot be measured here."""
    result = gate.record_model(subject)
    if not claim.is_about(result):
        inapplicable(f"the claim is about {' and '.join(claim.tasks)}")
    gate.answers.append(answer(claim, result, on_gpu=gate.machine.on_gpu))
