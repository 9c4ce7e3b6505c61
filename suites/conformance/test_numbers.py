"""The numbers are numbers, differ, and repeat."""

import numpy as np

from fixtures import trials

RUNS = 3


def test_scores_are_finite_and_differ(scored):
    """No NaN, no infinity, not all zero, and not one score for everything."""
    assert np.isfinite(scored.scores).all(), f"{scored}: some scores are not finite"
    assert scored.scores.any(), f"{scored}: all scores are zero"
    assert np.ptp(scored.scores, axis=0).max() > 0, f"{scored}: every probe has the same scores"


def test_same_input_gives_the_same_bits(case):
    """Three runs of one session."""
    feeds = case.subject.encoded.feeds(trials.some(case.subject.encoded))
    first, *others = (case.score(feeds) for _ in range(RUNS))
    worst = max(float(np.abs(first - other).max()) for other in others)
    assert all(np.array_equal(first, other) for other in others), f"{case}: runs differ by up to {worst:.3g}"
