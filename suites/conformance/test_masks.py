"""Attention masks: what PyTorch leaves out, the export leaves out."""

import numpy as np
import pytest

from fixtures.gate.verdicts import judge_batch
from fixtures.scoring.trials import MASKS


@pytest.mark.parametrize("mask", MASKS)
def test_scores_hold_under_mask(case, answers, mask):
    """Under every mask a variant scores as PyTorch does; a row without tokens disturbs no other."""
    feeds = MASKS[mask](case.subject.encoded)
    scores, expected = case.score(feeds), answers.scores[mask]
    lost = np.isfinite(expected) & ~np.isfinite(scores)
    assert not lost.any(), f"{case}: {mask}: {int(lost.sum())} numbers are not finite, and PyTorch's are"
    judge_batch(case, expected, scores, feeds, f"PyTorch under the same mask, {mask}")
