"""The numbers are numbers, differ, and repeat; 16 bits hold what is computed on the way."""

import numpy as np
import pytest

from fixtures import diagnosis, runtimes, trials
from fixtures.gate import inapplicable, judge_batch
from fixtures.variants import BF16, FP16

RUNS = 3
ROOM = np.finfo(np.float16).max / 2
"""Texts that are not tried may go further than those that are."""


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


@pytest.mark.parametrize("extreme", trials.EXTREMES)
def test_sixteen_bits_hold_extreme_inputs(case, plain, extreme, finding):
    """Of the inputs with the largest embeddings, scores are finite and within the ceiling of those in fp32."""
    if case.variant.precision not in (FP16, BF16):
        inapplicable("it computes in 32 bits")
    feeds = extremes(plain)[extreme]
    expected, scores = plain.score(feeds), case.score(feeds)
    assert np.isfinite(scores).all(), f"{case}: {extreme}: some scores are not finite: fp16 ends at 65504"
    error = judge_batch(case, expected, scores, feeds, f"plain, fp32, of the input {extreme}")
    finding(f"{extreme}: error {error:.2g}")


def test_sixteen_bits_leave_room(case, plain, finding):
    """No activation of plain, in fp32, is near what fp16 holds; the largest is named."""
    if case.variant.precision is not FP16:
        inapplicable("it has the range of fp32")
    value, tensor = diagnosis.largest_activation(plain.file, extremes(plain).values())
    assert value < ROOM, f"{case}: {tensor} reaches {value:.3g} in fp32, and fp16 ends at 65504"
    finding(f"the largest activation is {value:.3g} of 65504, {tensor}")


def test_sixteen_bits_are_computed_in(case, finding):
    """How many matrix products the provider computes in 16 bits: it casts the others to fp32, and says nothing."""
    if case.variant.precision is not FP16 or case.provider in runtimes.HINTS:
        inapplicable("no graph in fp16")
    feeds = case.subject.encoded.feeds(trials.some(case.subject.encoded))
    products = [one for one in runtimes.executed(case.file, case.provider, feeds) if one.operator in runtimes.PRODUCTS]
    assert products, f"{case}: no matrix product ran"
    in_fp16 = sum(one.outputs[0] == "float16" for one in products)
    finding(f"{in_fp16} of {len(products)} matrix products in fp16; the provider casts the others to fp32")


def extremes(plain):
    """Return the inputs of extreme embeddings by name."""
    norms = trials.norms(plain.graph)
    if norms is None:
        inapplicable("no table of embeddings is read at the token ids")
    return {name: trials.extreme(name, plain.subject.long, norms) for name in trials.EXTREMES}
