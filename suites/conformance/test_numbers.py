"""The numbers are numbers, differ, and repeat; 16 bits hold what is computed on the way."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tokenizers

from fixtures.diagnosis.tap import largest_activation
from fixtures.gate.case import Case
from fixtures.gate.verdicts import judge_batch
from fixtures.plugin.outcomes import inapplicable, require
from fixtures.plugin.suite_fixtures import NoteFinding
from fixtures.runtimes.profiler import MATRIX_PRODUCTS, executed_nodes
from fixtures.runtimes.providers import CUDA, OPENVINO_PRECISIONS
from fixtures.runtimes.session import Feeds
from fixtures.scoring import stress
from fixtures.scoring.ceilings import BF16
from fixtures.scoring.stress import EXTREME_INPUTS, tokens_by_norm

pytestmark = pytest.mark.check

RUNS = 3
CALLERS, TURNS = 4, 8
"""Callers of one session at the same time, and the runs of each."""
ROOM = np.finfo(np.float16).max / 2
"""Texts that are not tried may go further than those that are."""

FAR = 5.0
"""Ceilings that an extreme input may err by. They are those of texts, and no text is like it: MiniLM's reranker errs by
0.026 of a logit where one token is repeated, and by 0.006 at the worst probe. What overflows errs by more than that."""


def test_scores_are_finite_and_differ(scored: Case) -> None:
    """No NaN, no infinity, not all zero, and not one score for everything."""
    assert np.isfinite(scored.scores).all(), f"{scored}: some scores are not finite"
    assert scored.scores.any(), f"{scored}: all scores are zero"
    assert np.ptp(scored.scores, axis=0).max() > 0, f"{scored}: every probe has the same scores"


def test_same_input_gives_the_same_bits(case: Case) -> None:
    """Three runs of one session."""
    feeds = case.subject.encoded.feeds(stress.short_probes(case.subject.encoded))
    first, *repeats = (case.score(feeds) for _ in range(RUNS))
    worst = max(float(np.abs(first - repeat).max()) for repeat in repeats)
    assert all(np.array_equal(first, repeat) for repeat in repeats), f"{case}: runs differ by up to {worst:.3g}"


def test_callers_score_as_they_do_alone(case: Case) -> None:
    """Several callers on one session at the same time, each with another batch, get the bits that they get alone."""
    encoded = case.subject.encoded
    rows = stress.short_probes(encoded, CALLERS)
    batches = [encoded.feeds(np.roll(rows, turn)[: turn + 1]) for turn in range(CALLERS)]
    alone = [case.score(feeds) for feeds in batches]
    turns = [turn % CALLERS for turn in range(CALLERS * TURNS)]
    with ThreadPoolExecutor(CALLERS) as callers:
        together = list(callers.map(lambda turn: case.score(batches[turn]), turns))
    pairs = [(turn, np.array_equal(alone[turn], scores)) for turn, scores in zip(turns, together, strict=True)]
    differing = [turn for turn, is_equal in pairs if not is_equal]
    assert not differing, (
        f"{case}: {len(differing)} of {len(turns)} runs beside {CALLERS - 1} other callers differ from the same batch "
        f"alone, of {differing[0] + 1} texts: give each caller a session of its own"
    )


@pytest.mark.parametrize("extreme", EXTREME_INPUTS)
def test_sixteen_bits_hold_extreme_inputs(case: Case, in_fp32: Case, extreme: str, finding: NoteFinding) -> None:
    """Of inputs of extreme embeddings, scores are finite, and near those in fp32."""
    feeds = extreme_feeds(in_fp32)[extreme]
    expected, scores = in_fp32.score(feeds), case.score(feeds)
    assert np.isfinite(scores).all(), f"{case}: {extreme}: some scores are not finite: fp16 ends at 65504"
    verdict = require(judge_batch(case, expected, scores, feeds, f"plain, fp32, of the input {extreme}", FAR))
    finding(f"{extreme}: error {verdict.metrics[case.subject.task.metrics[0]]:.2g}")


def test_sixteen_bits_leave_room(case: Case, in_fp32: Case, finding: NoteFinding) -> None:
    """No activation that is in fp16 is, computed in fp32, near what that holds; the largest is named."""
    require_fp16_graph(case)
    largest = largest_activation(in_fp32.file, case.file, list(extreme_feeds(in_fp32).values()))
    assert largest.size < ROOM, f"{case}: {largest.tensor} reaches {largest.size:.3g} in fp32, and fp16 ends at 65504"
    finding(f"the largest activation is {largest.size:.3g} of 65504, {largest.tensor}")


def test_sixteen_bits_are_computed_in(case: Case, in_fp32: Case, finding: NoteFinding) -> None:
    """How many matrix products the provider computes in 16 bits; a processor casts the others to fp32, a GPU has to."""
    require_fp16_graph(case)
    feeds = case.subject.encoded.feeds(stress.short_probes(case.subject.encoded))
    nodes = executed_nodes(case.file, case.provider, feeds)
    products = [node for node in nodes if node.operator in MATRIX_PRODUCTS]
    in_fp16 = sum(node.outputs[0] == "float16" for node in products)
    assert any("float16" in (*node.inputs, *node.outputs) for node in nodes), f"{case}: nothing in it is in fp16"
    assert in_fp16 or case.provider != CUDA, f"{case}: no product of {len(products)} is computed in fp16"
    finding(f"{in_fp16} of {len(products)} matrix products in fp16; the provider casts the others to fp32")


def extreme_feeds(plain: Case) -> dict[str, Feeds]:
    """Return the inputs of extreme embeddings by name."""
    vocabulary_size = tokenizers.Tokenizer.from_file(str(plain.tokenizer)).get_vocab_size()
    order = tokens_by_norm(plain.graph, plain.encoded, vocabulary_size, plain.file.parent)
    if order is None:
        inapplicable("no table of embeddings is read at the token ids")
    return {name: stress.extreme_input(name, plain.subject.long, order) for name in EXTREME_INPUTS}


def require_fp16_graph(case: Case) -> None:
    """End the test of a variant whose file is no graph in fp16."""
    if case.variant.precision is BF16 or case.provider in OPENVINO_PRECISIONS:
        inapplicable("no graph in fp16")
