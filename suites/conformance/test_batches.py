"""Batch and length: a text scores alike alone and in company, and what is no input is refused."""

import numpy as np
import pytest

from fixtures.gate.session import inapplicable
from fixtures.gate.verdicts import ALIKE, judge_batch
from fixtures.runtimes import opening
from fixtures.scoring import stress
from fixtures.scoring.stress import past_the_limit, unknown_token

LARGEST = 32


def alone(case, encoded):
    """Return the scores of each row on its own, one after another."""
    return np.concatenate([case.score(encoded.feeds(np.array([row]))) for row in range(len(encoded.lengths))])


@pytest.mark.parametrize("batch", [1, 2, 3, LARGEST])
def test_batch_scores_like_its_rows_alone(case, batch, finding):
    """For dynamic int8, whose ranges span the batch, the difference is bounded by its ceiling."""
    encoded = case.subject.encoded.subset(stress.short_probes(case.subject.encoded, batch))
    feeds = encoded.feeds(np.arange(batch))
    moved = judge_batch(
        case, alone(case, encoded), case.score(feeds), feeds, f"the same rows alone, batch {batch}", ALIKE
    )
    if case.variant.precision.name == "int8" and batch == LARGEST:
        metric = case.subject.task.metrics[0]
        finding(f"dynamic int8 depends on the batch: in one of {batch}, {metric} {moved:.2g}")


@pytest.mark.parametrize("lengths", ["1, 2, 7", "limit-1, limit"])
def test_lengths_score_together_as_alone(case, lengths):
    """Length 1, 2, an odd one, and the two around the limit."""
    limit = case.subject.model.settings.max_length
    counts = {"1, 2, 7": [1, 2, 7], "limit-1, limit": [limit - 1, limit]}[lengths]
    encoded = stress.long_prefixes(case.subject.long, counts)
    feeds = encoded.feeds(np.arange(len(counts)))
    judge_batch(case, alone(case, encoded), case.score(feeds), feeds, f"the same rows alone, lengths {counts}", ALIKE)


@pytest.mark.parametrize("wrong", ["past-the-limit", "unknown-token"])
def test_what_is_no_input_is_refused(case, stress_reference, wrong):
    """Where PyTorch raises, the export does: never a number."""
    if wrong not in stress_reference.refused:
        inapplicable("PyTorch answers it: rotary and relative positions have no end")
    feeds = unknown_token(case.subject.encoded) if wrong == "unknown-token" else past_the_limit(
        case.subject.long
    )  # fmt: skip
    # A session of its own: OpenVINO misreads what comes after an input that it should have refused.
    runtime = opening.open_session(case.file, case.gate.machine.threads, case.provider)
    runtime(case.subject.encoded.feeds(stress.short_probes(case.subject.encoded)))  # what is an input, it takes
    try:
        outputs = runtime(feeds)
    except Exception:  # ONNX Runtime's errors have no common base
        return
    pytest.fail(
        f"{case}: {wrong}: PyTorch refuses it ({stress_reference.refused[wrong]}), and the export answers "
        f"{outputs[runtime.outputs[0]].ravel()[:3]}",
        pytrace=False,
    )
