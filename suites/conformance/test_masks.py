"""Attention masks: what PyTorch leaves out, the export leaves out.

Right and left padding, holes, random masks and a fully masked row score as in PyTorch.
"""

import numpy as np
import pytest

from fixtures.gate.case import Case
from fixtures.gate.verdicts import judge_batch
from fixtures.plugin.outcomes import require
from fixtures.scoring.stress import MASKS, StressReference

pytestmark = pytest.mark.check


@pytest.mark.parametrize("mask", MASKS)
def test_scores_hold_under_mask(case: Case, stress_reference: StressReference, mask: str) -> None:
    """Under every mask a variant scores as PyTorch does; a row without tokens disturbs no other."""
    feeds = MASKS[mask](case.subject.encoded)
    scores, expected = case.score(feeds), stress_reference.scores[mask]
    if expected.shape == scores.shape:
        lost = np.isfinite(expected) & ~np.isfinite(scores)
        assert not lost.any(), f"{case}: {mask}: {int(lost.sum())} numbers are not finite, and PyTorch's are"
    require(judge_batch(case, expected, scores, feeds, f"PyTorch under the same mask, {mask}"))
