"""Single probes in gate.json: their errors, those that moved most, rankings and neighbours that changed."""

import dataclasses
import json
import re
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import tokenizers
from scipy.stats import kendalltau

from fixtures.arrays import unit_rows
from fixtures.baselines.files import Provenance
from fixtures.gate.probe_changes import changes_of_candidate, changes_of_variant, cut, error_distribution
from fixtures.gate.short_scores import TERMS, VIEWS, view_of
from fixtures.gate.since_approval import reference_since_approval
from fixtures.models.content import CONTROLS
from fixtures.report import files, index_page, probe_tables
from fixtures.report.probe_results import (
    MOVED,
    NEIGHBOURED,
    NEIGHBOURS,
    PASSAGES,
    QUANTILES,
    SHOWN_CHARACTERS,
    ProbeScore,
    ScoreKind,
)
from fixtures.report.results import MachineRecord, ModelResult, MovedProbes, Results, VariantResult
from fixtures.scoring.changed_order import (
    TIE,
    changed_neighbours,
    most_changed_ranking,
)
from fixtures.scoring.closeness import Layout, similarities
from fixtures.scoring.probes import Probe
from fixtures.scoring.tasks import TASKS
from fixtures.scoring.update import Move, Update
from suites.meta.house import EMBEDDER, FEW, LOOSE, RERANKER, House

RANDOM = np.random.default_rng(26)
WORDS = ["[PAD]", *(f"word{number}" for number in range(1, 60))]
HOSTILE = "\x1b[31mred\u202egnp.exe\u2066 <script>alert(1)</script> </td>|`&amp; \ud800 \x00"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The file of a tokenizer whose n-th token is `word<n>`."""
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "[PAD]")).save(str(file))
    return file


@pytest.fixture
def case_of(tokenizer):
    """A function that returns a case of two sets of scores: (task, reference, scores, ...) -> case."""

    def make(task, before, after, *, probes=None, judged=None, tokens=None, labels=(), activation="", queries=None):
        count = len(probes or (before if tokens is None else tokens))
        pair = "a passage" if TASKS[task].probes == "pairs" else None
        probes = probes or [Probe(f"p{number}", f"text {number}", pair) for number in range(count)]
        tokens = np.full(count, 3) if tokens is None else np.array(tokens)
        ids = np.arange(tokens.sum()) % (len(WORDS) - 1) + 1
        encoded = SimpleNamespace(offsets=np.cumsum([0, *tokens]), fields={"input_ids": ids}, lengths=tokens)
        names, grades = [probe.query for probe in probes], [probe.grade for probe in probes]
        layout = Layout(tokens, names, grades, are_queries=queries)
        subject = SimpleNamespace(
            task=TASKS[task], probes=probes, layout=layout, labels=labels, encoded=encoded, tokenizer=tokenizer,
            judged_rows=judged if judged is None else np.array(judged), reference=before, judged_by_stored=False,
            scoring=SimpleNamespace(activation=activation), kept_reference=after,
            approved=SimpleNamespace(reference=before),
        )  # fmt: skip
        return SimpleNamespace(subject=subject, scores=after, encoded=encoded, tokenizer=tokenizer)

    return make


def floats(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


# ------------------------------------------------------------------------------ the distribution


@pytest.mark.parametrize("count", [1, 7, QUANTILES, QUANTILES + 1, 1000])
def test_quantiles_are_the_smallest_errors_that_keep_their_share(count):
    errors = RANDOM.exponential(size=count)
    distribution = error_distribution("max_abs_error", errors)
    expected = []
    shown = min(count, QUANTILES)
    for place in range(1, shown + 1):
        share_of = {error: np.count_nonzero(errors <= error) / count for error in errors.tolist()}
        expected.append(min(error for error, share in share_of.items() if share >= place / shown - 1e-12))
    assert distribution.quantiles == expected
    assert distribution.quantiles[-1] == errors.max()
    assert (distribution.count, distribution.not_finite) == (count, 0)


def test_errors_that_are_not_finite_are_counted_apart():
    distribution = error_distribution("max_abs_error", np.array([0.5, np.nan, 0.25]))
    assert (distribution.quantiles, distribution.count, distribution.not_finite) == ([0.25, 0.5], 3, 1)
    nothing = error_distribution("max_abs_error", np.full(3, np.nan))
    assert (nothing.quantiles, nothing.not_finite) == ([], 3)


# ------------------------------------------------------------------------------- moved probes


def test_every_task_says_how_its_scores_are_shown():
    assert VIEWS.keys() == TASKS.keys()


def test_task_of_a_plugin_is_shown_as_the_one_that_compares_alike():
    mine = dataclasses.replace(TASKS["text-classification"], name="mine")
    assert view_of(mine) is VIEWS["text-classification"]
    assert view_of(dataclasses.replace(mine, per_token=True)) == dataclasses.replace(VIEWS["embedding"], vectors=None)


def softmax_of(logits):
    return np.exp(logits) / np.exp(logits).sum()


def test_moved_probes_are_those_of_the_largest_errors(case_of):
    before = floats(40, 8)
    after = before + 0.1 * floats(40, 8)
    changes = changes_of_variant(case_of("embedding", before, after))
    errors = np.abs(before.astype(np.float64) - after).max(axis=1)
    order = np.argsort(-errors)[:MOVED]
    assert [entry.probes[0].id for entry in changes.moved] == [f"p{row}" for row in order]
    for entry, row in zip(changes.moved, order, strict=True):
        likeness = before[row] @ after[row] / np.linalg.norm(before[row]) / np.linalg.norm(after[row])
        assert entry.kind is ScoreKind.COSINE
        assert entry.before.value == pytest.approx(1)
        assert entry.after.value == pytest.approx(likeness, rel=1e-5)
        assert entry.error == pytest.approx(errors[row])
        assert (entry.probes[0].texts, entry.probes[0].tokens) == ([f"text {row}"], 3)
    assert changes.errors is not None
    assert changes.errors.quantiles == sorted(errors.tolist())


def test_nothing_moved_where_nothing_changed(case_of):
    for task, before in {"embedding": floats(12, 4), "rerank": floats(12), "sparse": floats(12, 9)}.items():
        changes = changes_of_variant(case_of(task, before, before.copy()))
        assert (changes.moved, changes.ranking, changes.neighbours) == ([], None, [])
        assert changes.errors is not None
        assert set(changes.errors.quantiles) == {0.0}


@pytest.mark.parametrize(("activation", "kind"), [("", ScoreKind.LOGIT), ("sigmoid", ScoreKind.PROBABILITY)])
def test_pair_has_its_scores(case_of, activation, kind):
    before = floats(12)
    after = before.copy()
    after[5] += 2
    (entry,) = changes_of_variant(case_of("rerank", before, after, activation=activation)).moved
    assert (entry.probes[0].id, entry.probes[0].texts, entry.kind) == ("p5", ["text 5", "a passage"], kind)
    assert (entry.before.value, entry.after.value) == (float(before[5]), float(after[5]))


def test_classifier_has_its_labels_and_their_probabilities(case_of):
    before, labels = floats(12, 3), ("bad", "good", HOSTILE)
    after = before.copy()
    after[4] = after[4][::-1] + np.array([0, 1, 2], np.float32)
    (entry,) = changes_of_variant(case_of("text-classification", before, after, labels=labels)).moved
    for score, logits in ((entry.before, before[4]), (entry.after, after[4])):
        assert score.value == pytest.approx(softmax_of(logits.astype(np.float64)).max())
        assert score.label.startswith(labels[int(logits.argmax())][:3].replace("\x1b", "\\u"))
    alone = changes_of_variant(case_of("pair-classification", before[:, :1], after[:, :1])).moved[0]
    assert alone.before.value == pytest.approx(1 / (1 + np.exp(-float(before[4, 0]))))
    assert alone.before.label == ""


def test_tagger_has_the_token_that_moved_most(case_of):
    tokens, labels = [2, 4, 3], ("O", "PER", "LOC")
    before = floats(9, 3)
    after = before.copy()
    after[4, 1] += 9  # the third token of the second text
    (entry,) = changes_of_variant(case_of("token-classification", before, after, tokens=tokens, labels=labels)).moved
    assert (entry.probes[0].id, entry.probes[0].tokens, entry.token) == ("p1", 4, "word5")
    assert entry.error == pytest.approx(9, rel=1e-6)
    assert entry.before.label == labels[int(before[4].argmax())]
    assert entry.after.label == "PER"
    assert entry.after.value == pytest.approx(softmax_of(after[4].astype(np.float64))[1])


def test_answer_has_its_text(case_of):
    before = np.zeros((9, 2), np.float32)
    before[[2, 4], [0, 1]] = 5, 4  # of the second text's tokens, the first to the third
    after = before.copy()
    after[5, 1] = 8
    (entry,) = changes_of_variant(case_of("question-answering", before, after, tokens=[2, 4, 3])).moved
    assert (entry.before.label, entry.before.value) == ("word3 word4 word5", 9)
    assert (entry.after.label, entry.after.value) == ("word3 word4 word5 word6", 13)


@pytest.mark.parametrize("task", ["fill-mask", "text-generation", "text-generation-with-past"])
def test_vocabulary_has_its_likeliest_token(case_of, task):
    before = floats(12, 60)
    before[3, 17] = 9
    after = before.copy()
    after[3, [17, 23]] = 0, 11
    (entry,) = changes_of_variant(case_of(task, before, after)).moved
    assert (entry.before.label, entry.after.label) == ("word17", "word23")
    assert entry.after.value == pytest.approx(softmax_of(after[3].astype(np.float64)).max())


def test_sparse_embedding_has_its_heaviest_terms(case_of):
    before = np.maximum(floats(12, 60), 0)
    before[2] = 0
    before[2, [8, 30]] = 1, 2
    after = before.copy()
    after[2, 44] = 3
    (entry,) = changes_of_variant(case_of("sparse", before, after)).moved
    assert list(entry.before.terms.items()) == [("word30", 2.0), ("word8", 1.0)]
    assert list(entry.after.terms.items()) == [("word44", 3.0), ("word30", 2.0), ("word8", 1.0)]
    after = before * 2
    entry = changes_of_variant(case_of("sparse", before, after)).moved[0]
    assert len(entry.after.terms) <= TERMS


def test_three_heads_have_the_cosine_of_their_dense_vectors(case_of):
    before = floats(9, 5)
    after = before.copy()
    after[2] += 1  # the first token of the second text, whose row is its dense vector
    (entry,) = changes_of_variant(case_of("bge-m3", before, after, tokens=[2, 4, 3])).moved
    left, right = before[2, 1:].astype(np.float64), after[2, 1:].astype(np.float64)
    assert entry.after.value == pytest.approx(left @ right / np.linalg.norm(left) / np.linalg.norm(right))


def test_scores_that_are_not_finite_come_first_and_have_no_number(case_of):
    for task, shape, tokens in (("embedding", (12, 4), None), ("rerank", (12,), None), ("bge-m3", (9, 5), [2, 4, 3])):
        before = floats(*shape)
        after = before + 1
        after[3] = np.inf
        changes = changes_of_variant(case_of(task, before, after, tokens=tokens))
        row = 3 if tokens is None else 1
        assert changes.moved[0].probes[0].id == f"p{row}"
        assert (changes.moved[0].error, changes.moved[0].after) == (None, ProbeScore())
        assert changes.moved[1].error == pytest.approx(1, rel=1e-5), "of the others there are errors"
        assert changes.errors is not None
        assert changes.errors.not_finite == 1
        assert len(changes.errors.quantiles) == changes.errors.count - 1
        assert (changes.ranking, changes.neighbours) == (None, [])
        assert b"null" not in msgspec.json.encode(changes.errors)


def test_rankings_and_neighbours_of_scores_that_are_not_finite_are_not_shown(case_of):
    before = floats(20)
    after = -before
    after[3] = np.nan
    assert changes_of_variant(case_of("rerank", before, after, probes=graded(4, 5))).ranking is None
    assert changes_of_variant(case_of("embedding", before[:, None], after[:, None])).neighbours == []


def test_other_shapes_have_nothing_to_show(case_of):
    changes = changes_of_variant(case_of("embedding", floats(12, 4), floats(12, 5)))
    assert (changes.errors, changes.moved, changes.neighbours) == (None, [], [])


def test_probes_that_are_not_gated_are_not_shown(case_of):
    before = floats(12, 4)
    after = before + 0.01 * floats(12, 4)
    after[[2, 7]] *= -1
    judged = [row for row in range(12) if row not in (2, 7)]
    changes = changes_of_variant(case_of("embedding", before, after, judged=judged))
    shown = [entry.probes[0].id for entry in changes.moved] + [entry.probe.id for entry in changes.neighbours]
    shown += [near.probe.id for entry in changes.neighbours for near in (*entry.before, *entry.after)]
    assert len(shown) > MOVED
    assert not set(shown) & {"p2", "p7"}
    assert changes.errors is not None
    assert changes.errors.count == 10
    assert changes.errors.quantiles[-1] == np.abs(before.astype(np.float64) - after)[judged].max()


# --------------------------------------------------------------------------------- rankings


def graded(queries, passages):
    return [
        Probe(f"q{query}-{place}", f"query {query}", f"passage {place}", None, f"q{query}", place % 4)
        for place in range(passages)
        for query in range(queries)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_most_changed_ranking_has_the_lowest_tau(seed):
    random = np.random.default_rng(seed)
    queries = [str(name) if name else None for name in random.integers(0, 6, 60)]
    before = random.standard_normal(60)
    after = before + 0.3 * random.standard_normal(60)
    ranking = most_changed_ranking(before, after, queries)
    taus = {}
    for query in {name for name in queries if name}:
        rows = [row for row, name in enumerate(queries) if name == query]
        furthest = np.abs(before[rows] - after[rows]).max()
        taus[query] = round(kendalltau(before[rows], after[rows]).statistic, 9), -furthest, rows
    query = min(taus, key=lambda name: taus[name][:2])
    assert ranking is not None
    assert ranking.kendall_tau == pytest.approx(taus[query][0])
    rows = taus[query][2]
    assert ranking.rows.tolist() == sorted(rows, key=lambda row: -before[row])
    for row, rank_before, rank_after in zip(ranking.rows, ranking.before, ranking.after, strict=True):
        assert rank_before == 1 + sum(before[other] > before[row] for other in rows)
        assert rank_after == 1 + sum(after[other] > after[row] for other in rows)


def test_ranking_is_of_the_judged_pairs_with_texts_scores_and_grades(case_of):
    probes = graded(4, 5)
    before = floats(20)
    after = before.copy()
    rows = [row for row, probe in enumerate(probes) if probe.query == "q2"]
    after[rows] *= -1
    first = [row for row, probe in enumerate(probes) if probe.query == "q1"]
    best, second = sorted(first, key=lambda row: -before[row])[:2]
    after[[best, second]] = before[[second, best]]
    ranking = changes_of_variant(case_of("rerank", before, after, probes=probes)).ranking
    assert ranking is not None
    assert (ranking.query, ranking.text, ranking.kendall_tau, ranking.count) == ("q2", "query 2", -1, 5)
    for rank, (passage, row) in enumerate(
        zip(ranking.passages, sorted(rows, key=lambda row: -before[row]), strict=True), 1
    ):
        assert (passage.id, passage.text, passage.grade) == (probes[row].id, probes[row].pair, probes[row].grade)
        assert (passage.rank_before, passage.rank_after) == (rank, 6 - rank)
        assert (passage.before, passage.after) == (float(before[row]), float(after[row]))
    judged = [row for row in range(20) if row not in rows]
    other = changes_of_variant(case_of("rerank", before, after, probes=probes, judged=judged)).ranking
    assert other is not None
    assert other.query == "q1"
    assert [passage.rank_after for passage in other.passages] == [2, 1, 3, 4, 5]


def test_ranking_whose_order_stays_is_not_shown(case_of):
    before = floats(20)
    assert changes_of_variant(case_of("rerank", before, before * 2 + 1, probes=graded(4, 5))).ranking is None
    assert changes_of_variant(case_of("rerank", before, -before)).ranking is None, "pairs of no query have no ranking"


def test_long_ranking_is_cut_to_its_top_and_to_what_moved_furthest(case_of):
    before = -np.arange(100, dtype=np.float32)
    after = before.copy()
    after[[70, 3]] = before[[3, 70]]
    ranking = changes_of_variant(case_of("rerank", before, after, probes=graded(1, 100))).ranking
    assert ranking is not None
    assert (ranking.count, len(ranking.passages)) == (100, PASSAGES)
    ranks = {passage.rank_before: passage.rank_after for passage in ranking.passages}
    assert ranks.items() >= {1: 1, 2: 2, 3: 3, 4: 71, 5: 5, 71: 4}.items()
    assert list(ranks) == sorted(ranks)


# -------------------------------------------------------------------------------- neighbours


@pytest.mark.parametrize("seed", range(10))
def test_changed_neighbours_are_those_of_brute_force(seed):
    random = np.random.default_rng(seed)
    before = random.standard_normal((30, 6))
    after = np.hstack([before + 0.1 * random.standard_normal((30, 6)), np.zeros((30, 2))])
    before /= np.linalg.norm(before, axis=1, keepdims=True)
    after /= np.linalg.norm(after, axis=1, keepdims=True)
    expected = {}
    for row in range(30):
        orders = []
        for vectors in (before, after):
            near = [(float(vectors[row] @ vectors[other]), other) for other in range(30) if other != row]
            orders.append(sorted(near, reverse=True)[:3])
        shown = {other for order in orders for _, other in order}
        change = 0.0
        for left in shown:
            for right in shown:
                then, now = (float(vectors[row] @ (vectors[left] - vectors[right])) for vectors in (before, after))
                if then > TIE and now < -TIE:
                    change = max(change, then - now)
        if change:
            expected[row] = change, [[other for _, other in order] for order in orders]
    found = changed_neighbours(before, after, np.arange(30), 3, 30)
    assert [entry.row for entry in found] == sorted(expected, key=lambda row: -expected[row][0])
    for entry in found:
        assert entry.change == pytest.approx(expected[entry.row][0])
        assert [entry.before.tolist(), entry.after.tolist()] == expected[entry.row][1]
        assert entry.similarities_after == pytest.approx(after[entry.after] @ after[entry.row])
    some = np.array([4, 9, 11, 28])
    searched = changed_neighbours(before, after, some, 3, 2)
    assert [entry.row for entry in searched] == [entry.row for entry in found if entry.row in some][:2]


def test_texts_that_are_alike_have_no_order():
    before = np.array([[1, 0], [1, 0], [1, 0], [0, 1.0]])
    after = before.copy()
    after[1, 1] = 1e-8
    assert changed_neighbours(before, after, np.arange(4), 2, 4) == []
    apart = before.copy()
    apart[1, 0] = 1.5
    nearly = before.copy()
    nearly[1, 0] = 1 - 1e-8
    assert changed_neighbours(apart, nearly, np.arange(1), 2, 4) == [], "they became alike"
    assert changed_neighbours(before[:1], after[:1], np.arange(1), 2, 4) == []


@pytest.mark.parametrize("task", ["embedding", "sparse", "bge-m3"])
def test_neighbours_have_texts_and_similarities(case_of, task):
    tokens = None
    before = np.abs(floats(12, 6))
    if task == "bge-m3":
        tokens = [1] * 12
    after = before.copy()
    after[5] = np.roll(after[5], 2)
    changes = changes_of_variant(case_of(task, before, after, tokens=tokens))
    assert 1 <= len(changes.neighbours) <= NEIGHBOURED
    (entry,) = (entry for entry in changes.neighbours if entry.probe.id == "p5")
    left = before[:, 1:] if task == "bge-m3" else before
    right = after[:, 1:] if task == "bge-m3" else after
    for neighbours, vectors in ((entry.before, left.astype(np.float64)), (entry.after, right.astype(np.float64))):
        table = vectors @ vectors.T if task == "sparse" else similarities(vectors)
        nearest = [row for row in np.argsort(-table[5]) if row != 5][:NEIGHBOURS]
        assert [neighbour.probe.id for neighbour in neighbours] == [f"p{row}" for row in nearest]
        assert [neighbour.similarity for neighbour in neighbours] == pytest.approx(table[5, nearest].tolist())


# --------------------------------------------------------------------------------- candidates


def test_candidate_has_the_similarities_and_neighbours_that_moved(case_of):
    before = floats(12, 4)
    after = floats(12, 6)
    subject = case_of("embedding", before, after).subject
    changes = changes_of_candidate(subject, Update({}, [Move((3, 8), "", "")]))
    (entry,) = changes.moved
    then, now = (similarities(scores.astype(np.float64))[3, 8] for scores in (before, after))
    assert [probe.id for probe in entry.probes] == ["p3", "p8"]
    assert (entry.before.value, entry.after.value) == pytest.approx((then, now))
    assert entry.error == pytest.approx(abs(then - now))
    assert changes.errors is None
    assert len(changes.neighbours) == NEIGHBOURED


def test_candidate_of_a_colbert_has_the_maxsim_of_the_pairs_that_moved(case_of):
    queries = np.array([True, False, False, True])
    before, after = (unit_rows(floats(12, 8)) for _ in range(2))
    subject = case_of("late-interaction", before, after, tokens=[3] * 4, queries=queries).subject
    update = subject.task.update.measure(before, after, subject.layout)
    changes = changes_of_candidate(subject, update)
    assert [len(move.probes) for move in changes.moved] == [2] * len(update.moves)
    for move, shown in zip(update.moves, changes.moved, strict=True):
        query, document = (slice(3 * row, 3 * row + 3) for row in move.rows)
        for vectors, score in ((before, shown.before), (after, shown.after)):
            expected = np.mean([max(row @ other for other in vectors[document]) for row in vectors[query]])
            assert score.value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("task", VIEWS)
def test_pairs_that_a_candidate_moved_are_shown_of_every_task(case_of, task):
    """Whether it has similarities or not."""
    shape, tokens = ((12, 8), [3] * 4) if TASKS[task].per_token else ((4, 8), None)
    scores = floats(shape[0]) if TASKS[task].probes == "pairs" and task != "pair-classification" else floats(*shape)
    queries = np.array([True, False, False, False]) if task == "late-interaction" else None
    subject = case_of(task, scores, scores + 1, tokens=tokens, queries=queries).subject
    (moved,) = changes_of_candidate(subject, Update({}, [Move((0, 1), "", "")])).moved
    assert len(moved.probes) == 2
    assert (moved.error is None) == (VIEWS[task].vectors is None and VIEWS[task].similarity is None)


def test_candidate_of_a_large_vocabulary_has_the_names_of_its_columns(case_of, monkeypatch):
    """Every third column is stored: the seventh of them is token 21."""
    monkeypatch.setitem(TASKS, "fill-mask", dataclasses.replace(TASKS["fill-mask"], stored_columns=20))
    whole = floats(12, 60)
    after = whole[:, ::3].copy()
    after[4, 7] = 30
    subject = case_of("fill-mask", whole[:, ::3], after).subject
    subject.reference = whole
    (entry,) = changes_of_candidate(subject, Update({}, [Move((4,), "", "")])).moved
    assert entry.after.label == "word21"


# ----------------------------------------------------------------------- sizes and hostile texts


def size_of(changes):
    return len(msgspec.json.encode([changes.errors, changes.moved, changes.ranking, changes.neighbours]))


@pytest.mark.parametrize("task", ["embedding", "rerank", "text-classification"])
def test_size_does_not_grow_with_the_probes(case_of, task):
    sizes = []
    for count in (2_000, 100_000):
        if task == "embedding" and count > 2_000:
            count = 8_000  # the comparison of embeddings is of every two of them
        shape = {"embedding": (count, 8), "rerank": (count,), "text-classification": (count, 3)}[task]
        before = floats(*shape)
        after = before + 0.1 * floats(*shape)
        pair = "y" * 9_000 if task == "rerank" else None
        probes = [Probe(f"own-{row:06}", "x" * 9_000, pair, None, "q", 0) for row in range(count)]
        if task == "rerank":
            probes = [Probe(f"own-{row:06}", "x" * 900, pair, None, f"q{row // 500}", 0) for row in range(count)]
        sizes.append(size_of(changes_of_variant(case_of(task, before, after, probes=probes))))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)
    assert max(sizes) < 40_000


def test_texts_are_cut_and_command_nothing():
    assert cut("x" * 299) == "x" * 299
    assert cut("é" * 5_000) == "é" * SHOWN_CHARACTERS + "…"
    assert not CONTROLS.search(cut(HOSTILE))


def test_hostile_texts_are_text_in_every_page(case_of, tmp_path):
    probes = [Probe(f"own-{row}", HOSTILE, HOSTILE, None, HOSTILE, 0) for row in range(12)]
    before = floats(12)
    changes = changes_of_variant(case_of("rerank", before, -before, probes=probes))
    embedded = changes_of_variant(case_of("embedding", floats(12, 4), floats(12, 4), probes=probes))
    labelled = changes_of_variant(
        case_of("text-classification", floats(12, 2), floats(12, 2), labels=(HOSTILE, HOSTILE + "2"))
    )
    moved = changes.moved + embedded.moved + labelled.moved
    variant = VariantResult("plain", moved_probes=moved, ranking=changes.ranking, neighbours=embedded.neighbours)
    machine = MachineRecord(arch="x86_64", tier="avx2", cpu="a", cores=1)
    results = Results(machine, {"onnxruntime": "1"}, [ModelResult("m", "d", "rerank", variants=[variant])])
    assert msgspec.json.decode(msgspec.json.encode(results), type=Results) == results, "as workers send it"
    files.write(results, tmp_path)
    for name in ("gate.json", "gate.md", "index.html"):
        page = (tmp_path / name).read_text(encoding="utf-8")
        assert "gnp.exe" in page
        assert not re.search("[\x00\x1b\u202e\u2066]", page), name
    assert "<script>alert" not in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert re.search(r"(?<!\\)<script>alert", (tmp_path / "gate.md").read_text(encoding="utf-8")) is None
    assert files.read(tmp_path / "gate.json").models[0].variants[0].ranking == variant.ranking


# ------------------------------------------------------------------------------------- tables


def test_page_shows_what_moved_in_files_of_older_runs():
    model = ModelResult("m", "sha256:0", "embedding", moved=[MovedProbes(["a: 'text'"], "cosine 1.000", "0.500")])
    assert [("0.500" in str(shown.rows)) for shown in index_page.details(model)] == [True]


def test_tables_show_candidates_variants_and_files_of_older_runs(case_of):
    before, probes = floats(20), graded(4, 5)
    changes = changes_of_variant(case_of("rerank", before, -before, probes=probes))
    older = MovedProbes(["p1: 'text'"], "logit 1.000", "2.000")
    variant = VariantResult("plain", moved_probes=changes.moved, ranking=changes.ranking)
    model = ModelResult(
        "m", "d", "rerank", moved=[older], moved_probes=changes.moved[:1], ranking=changes.ranking, variants=[variant]
    )
    rows = probe_tables.moved(model).rows
    assert rows[0] == ("the candidate", "p1: 'text'", "-", "logit 1.000", "2.000", "-")
    assert [row[0] for row in rows[1:]] == ["the candidate", *["plain"] * MOVED]
    entry = changes.moved[0]
    assert rows[1][1] == f"{entry.probes[0].id}: {' | '.join(entry.probes[0].texts)}"
    assert rows[1][3:5] == (f"{entry.before.value:.4f}", f"{entry.after.value:.4f}")
    rankings = probe_tables.rankings(model).rows
    assert [row[0] for row in rankings] == ["the candidate"] * 5 + ["plain"] * 5
    assert [row[2:4] for row in rankings[:5]] == [(str(rank), str(6 - rank)) for rank in range(1, 6)]
    assert probe_tables.neighbours(model).rows == []
    for make in (probe_tables.moved, probe_tables.rankings, probe_tables.neighbours):
        table = make(model)
        assert all(len(row) == len(table.header) for row in table.rows)


# --------------------------------------------------------------------------- through the gate


@pytest.fixture(scope="module")
def approved(tmp_path_factory, shared_store):
    """A house of an embedder and a reranker that are approved."""
    house = House(tmp_path_factory.mktemp("probes"), shared_store)
    house.add("embedder", EMBEDDER + LOOSE)
    house.add("reranker", RERANKER + "[ceilings.int8]\n" + "".join(
        f"{name} = {limit}\n" for name, limit in {
            "max_logit_error": 99, "mean_logit_error": 99, "kendall_tau": -1, "min_kendall_tau": -1, "order_flips": 1,
            "new_ties": 1, "top1_agreement": 0, "ndcg_at_5_change": 1,
        }.items()
    ))  # fmt: skip
    approving = house.run(*FEW, "--approve")
    assert approving.returncode == 0, approving.text
    return house


def models_of(house, *options):
    run = house.run(*FEW, *options)
    assert run.returncode == 0, run.text
    return {model["name"]: model for model in house.gate()["models"]}


def test_gate_json_has_what_single_probes_became(approved):
    models = models_of(approved)
    for model in models.values():
        for variant in model["variants"]:
            errors, metric = variant["probe_errors"], TASKS[model["task"]].metrics[0]
            assert errors["metric"] == metric
            assert errors["quantiles"][-1] == pytest.approx(variant["closeness"][metric])
            assert len(errors["quantiles"]) == min(errors["count"], QUANTILES)
            assert len(variant["moved_probes"]) == MOVED
            assert variant["moved_probes"][0]["error"] == errors["quantiles"][-1]
    embedder, reranker = (models[name]["variants"][1] for name in ("embedder", "reranker"))
    assert reranker["ranking"]["kendall_tau"] == pytest.approx(reranker["closeness"]["min_kendall_tau"])
    assert len(embedder["neighbours"]) == NEIGHBOURED
    assert (embedder["ranking"], reranker["neighbours"]) == (None, [])


def test_processes_and_shards_say_the_same(approved, tmp_path):
    whole = models_of(approved)
    fields = ("probe_errors", "moved_probes", "ranking", "neighbours", "since_approval")

    def shown(models):
        return {
            name: [{field: variant[field] for field in fields} for variant in model["variants"]]
            for name, model in models.items()
        }

    assert shown(models_of(approved, "-n2")) == shown(whole)
    shards = []
    for number in (1, 2):
        shards.append(tmp_path / f"shard{number}")
        models_of(approved, f"--shard={number}/2", "--report", str(shards[-1]))
    merged = approved.run("--merge", *map(str, shards))
    assert merged.returncode == 0, merged.text
    results = approved.gate()
    assert sorted(part["models"] for part in results["parts"]) == [["embedder"], ["reranker"]]
    assert shown({model["name"]: model for model in results["models"]}) == shown(whole)


@pytest.mark.parametrize(("reference", "changed"), [(np.zeros(3), ["probes"]), (None, [])])
def test_few_probes_without_a_reference_are_no_change_since_the_approval(reference, changed):
    """Where nobody scores the reference, as under emulation, a part of the probes is judged."""
    provenance = Provenance("sha256:m", {"onnxruntime": "1.32.0"}, "avx2", "a processor", "2026-01-31")
    approved = SimpleNamespace(
        reference=reference, reference_file=SimpleNamespace(probes="sha256:all", provenance=provenance)
    )
    subject: Any = SimpleNamespace(
        approved=approved, available_plan=object(), probes_digest="sha256:few", provenance=lambda: provenance
    )
    since = reference_since_approval(subject, None)
    assert since is not None
    assert [change.what for change in since.changes] == changed


def test_what_changed_since_the_approval_is_named(approved):
    for model in models_of(approved).values():
        for target in (model, *model["variants"]):
            assert target["since_approval"]["changes"] == []
            assert target["since_approval"]["scores_moved"] is False
            assert target["since_approval"]["largest_move"] == 0
    folder = approved.baselines / "embedder"
    contents = {file: file.read_text() for file in folder.glob("*.json")}
    (tier,) = (file for file in contents if file.name not in ("reference.json", "conformance.json"))
    content = json.loads(contents[tier])
    plain = content["variants"]["plain"]
    plain["provenance"] |= {"cpu": "a processor", "date": "2026-01-02"}
    plain["provenance"]["versions"]["numpy"] = "2.0.999"
    plain["artifact"] = "sha256:00"
    tier.write_text(json.dumps(content))
    try:
        plain, quantized = models_of(approved)["embedder"]["variants"]
    finally:
        tier.write_text(contents[tier])
    since = plain["since_approval"]
    assert (since["date"], since["cpu"]) == ("2026-01-02", "a processor")
    assert {change["what"]: change["approved"] for change in since["changes"]} == {
        "processor": "a processor", "numpy": "2.0.999", "artifact": "sha256:00",
    }  # fmt: skip
    (artifact,) = (change for change in since["changes"] if change["what"] == "artifact")
    assert artifact["now"] == plain["digest"]
    assert quantized["since_approval"]["changes"] == []
