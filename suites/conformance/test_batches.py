"""Batch and length: a text scores alike alone and in company, and an invalid input is refused.

Batches of 1, 2, 3, 32 and lengths 1, 2, 7, limit-1, limit score as one by one; past the limit, or past the
vocabulary, the export raises an error as PyTorch does.
"""

import numpy as np
import pytest

from fixtures.arrays import Array
from fixtures.gate.case import Case
from fixtures.gate.verdicts import TWO_SIDES, judge_batch
from fixtures.graphs.quantization_kind import Activations, activations_of
from fixtures.plugin.outcomes import inapplicable, require
from fixtures.plugin.suite_fixtures import NoteFinding
from fixtures.runtimes import opening
from fixtures.scoring import stress
from fixtures.scoring.encoded import Encoded
from fixtures.scoring.stress import StressReference, past_the_limit, unknown_token

pytestmark = pytest.mark.check

LARGEST = 32


def score_rows_alone(case: Case, encoded: Encoded) -> Array:
    """Return the scores of each row in a batch of its own, one after another."""
    return np.concatenate([case.score(encoded.feeds(np.array([row]))) for row in range(len(encoded.lengths))])


@pytest.mark.parametrize("batch", [1, 2, 3, LARGEST])
def test_batch_scores_like_its_rows_alone(case: Case, batch: int, finding: NoteFinding) -> None:
    """For dynamic int8, whose ranges span the batch, the difference is bounded by its ceiling."""
    encoded = case.subject.encoded.subset(stress.short_probes(case.subject.encoded, batch))
    feeds = encoded.feeds(np.arange(batch))
    against = f"the same rows alone, batch {batch}"
    verdict = require(judge_batch(case, score_rows_alone(case, encoded), case.score(feeds), feeds, against, TWO_SIDES))
    is_dynamic = case.is_onnx and activations_of(case.graph) is Activations.DYNAMIC
    if is_dynamic and batch == LARGEST:
        metric = case.subject.task.metrics[0]
        finding(f"dynamic int8 depends on the batch: in one of {batch}, {metric} {verdict.metrics[metric]:.2g}")


@pytest.mark.parametrize("lengths", ["1, 2, 7", "limit-1, limit"])
def test_lengths_score_together_as_alone(case: Case, lengths: str) -> None:
    """Length 1, 2, an odd one, and the two around the limit."""
    limit = case.subject.model.settings.max_length
    counts = {"1, 2, 7": [1, 2, 7], "limit-1, limit": [limit - 1, limit]}[lengths]
    encoded = stress.long_prefixes(case.subject.long, counts)
    feeds = encoded.feeds(np.arange(len(counts)))
    against = f"the same rows alone, lengths {counts}"
    require(judge_batch(case, score_rows_alone(case, encoded), case.score(feeds), feeds, against, TWO_SIDES))


@pytest.mark.parametrize("fault", ["past-the-limit", "unknown-token"])
def test_what_is_no_input_is_refused(case: Case, stress_reference: StressReference, fault: str) -> None:
    """Where PyTorch raises an error, the export does too, and returns no scores."""
    if fault not in stress_reference.refused:
        inapplicable("PyTorch accepts it: rotary and relative positions have no limit")
    subject = case.subject
    feeds = unknown_token(subject.encoded) if fault == "unknown-token" else past_the_limit(subject.long)
    # A new session: OpenVINO misreads whatever follows an input that it should have refused.
    runtime = opening.open_session(case.file, case.context.machine.threads, case.provider)
    runtime(case.subject.encoded.feeds(stress.short_probes(case.subject.encoded)))  # a valid input is accepted
    try:
        outputs = runtime(feeds)
    except Exception:  # ONNX Runtime's errors have no common base
        return
    pytest.fail(
        f"{case}: {fault}: PyTorch refuses it ({stress_reference.refused[fault]}), and the export answers "
        f"{outputs[runtime.outputs[0]].ravel()[:3]}",
        pytrace=False,
    )
