"""Attention masks: what PyTorch leaves out, the export leaves out."""

import numpy as np
import pytest

from fixtures.gate.verdicts import judge_batch
from fixtures.scoring.stress import MASKS


@pytest.mark.parametrize("mask", MASKS)
def test_scores_hold_under_mask(case, stress_reference, mask):
    """Under every mask a variant scores as PyTorch does; a row without tokens disturbs no other."""
    feeds = MASKS[mask](case.subject.encoded)
    scores, expected = case.score(feeds), stress_reference.scores[mask]
    lost = np.isfinite(expected) & ~np.isfinite(scores)
    assert not lost.any(), f"{case}: {mask}: {int(lost.sum())} numbers are not finite, and PyTorch's are"
    judge_batch(case, expected, scores, feeds, f"PyTorch under the same mask, {mask}")
