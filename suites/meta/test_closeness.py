"""Metrics beside scipy's and scikit-learn's, on random sets and on sets whose answer is plain."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import kendalltau
from sklearn.metrics import ndcg_score
from sklearn.neighbors import NearestNeighbors

from fixtures.arrays import Floats, sigmoid
from fixtures.scoring.closeness import (
    LONGEST_SPAN,
    NDCG_AT,
    Layout,
    best_span,
    broken,
    compare_classes,
    compare_embeddings,
    compare_relevance,
    compare_spans,
    compare_terms,
    kendall_tau,
    ndcg,
)

RANDOM = np.random.default_rng(4)
FINITE = st.floats(-100, 100, width=32)
QUERIES = ["a"] * 5 + ["b"] * 5 + [None] * 2
GRADES = [3, 2, 1, 0, 0, 0, 1, 2, 3, 3, None, None]


def embeddings(before, after):
    return compare_embeddings(before, after, Layout(np.ones(len(before), int), [None], [None]))


def rerank(before, after, queries, grades):
    return compare_relevance(before, after, Layout(np.ones(len(before), int), queries, grades))


def unit(rows, size=8):
    vectors = RANDOM.normal(size=(rows, size))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@given(arrays(np.float64, 7, elements=st.integers(0, 4)), arrays(np.float64, 7, elements=st.integers(0, 4)))
def test_kendall_tau_is_scipys(a, b):
    assume(np.ptp(a) and np.ptp(b))  # scipy has no answer where one ranking is all ties
    assert kendall_tau(a, b) == pytest.approx(kendalltau(a, b, variant="b").statistic)


@given(arrays(np.int64, 6, elements=st.integers(0, 3)), st.permutations(range(6)))
def test_ndcg_is_scikit_learns(relevance, scores):
    assume(relevance.any())
    expected = ndcg_score(relevance[None], np.array(scores, float)[None], k=NDCG_AT)
    assert ndcg(relevance, np.array(scores, float)) == pytest.approx(expected)


def test_equal_sets_are_as_close_as_can_be():
    vectors, logits = unit(20), RANDOM.normal(size=12)
    vectors_found = embeddings(vectors, vectors).metrics
    logits_found = rerank(logits, logits, QUERIES, GRADES).metrics
    assert vectors_found == pytest.approx(
        {"max_abs_error": 0, "min_cosine": 1, "max_similarity_change": 0, "topk_overlap": 1}
    )
    assert logits_found == pytest.approx(
        {
            "max_logit_error": 0, "mean_logit_error": 0, "kendall_tau": 1, "min_kendall_tau": 1,
            "order_flips": 0, "new_ties": 0, "top1_agreement": 1, "ndcg_at_5_change": 0,
        }
    )  # fmt: skip


def test_scores_that_a_sigmoid_in_16_bits_makes_alike_are_counted():
    """Of the ten pairs of each query, those of the three largest logits of the first: their probabilities are 1."""
    logits = np.array([9, 10, 11, -1, -2, 5, 4, 3, 2, 1, 12, 13], np.float32)
    probabilities = sigmoid(logits)
    tied = rerank(probabilities, probabilities.astype(np.float16).astype(np.float32), QUERIES, GRADES).metrics
    assert tied["new_ties"] == pytest.approx(3 / 20)
    assert rerank(probabilities, probabilities, QUERIES, GRADES).metrics["new_ties"] == 0
    same = np.zeros(12, np.float32)
    assert rerank(same, same, QUERIES, GRADES).metrics["new_ties"] == 0, "they were ties before"


def test_one_moved_embedding_is_named_and_measured():
    before = unit(20)
    after = before.copy()
    after[13] = -after[13]
    closeness = embeddings(before, after)
    assert closeness.worst == 13
    assert closeness.metrics["min_cosine"] == pytest.approx(-1)
    assert closeness.metrics["max_abs_error"] == pytest.approx(2 * np.abs(before[13]).max())
    similarity = before @ before[13]
    similarity[13] = 0
    assert closeness.metrics["max_similarity_change"] == pytest.approx(2 * np.abs(similarity).max())
    assert closeness.metrics["topk_overlap"] < 1


def test_topk_overlap_is_that_of_scikit_learns_neighbours():
    before, after = unit(30), unit(30)
    near = [
        NearestNeighbors(n_neighbors=10, metric="cosine").fit(vectors).kneighbors()[1] for vectors in (before, after)
    ]
    expected = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(*near, strict=True)])
    assert embeddings(before, after).metrics["topk_overlap"] == pytest.approx(expected)


def terms(before, after):
    layout = Layout(np.ones(len(before), int), [None], [None])
    return compare_terms(np.asarray(before, np.float32), np.asarray(after, np.float32), layout)


def test_terms_of_a_text_are_compared_by_hand():
    """One weight moves, one term is lost and one appears; the third text has none before and after."""
    before = [[3, 4, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]]
    after = [[3, 3.5, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    closeness = terms(before, after)
    assert closeness.worst == 1
    assert closeness.errors.tolist() == [0.5, 2, 0]
    assert closeness.metrics == pytest.approx(
        {
            "max_abs_error": 2,
            "min_cosine": 0,
            "max_similarity_change": (4 - 1) / 4,  # of the second text with itself
            "topk_overlap": 1,
            "active_terms_overlap": (1 + 0 + 1) / 3,
        }
    )
    assert terms(before[:1], after[:1]).metrics["max_similarity_change"] == pytest.approx((25 - 21.25) / 25)


def test_active_terms_overlap_counts_what_is_lost_and_what_is_new():
    kept, lost, new = [1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]
    assert terms([kept], [kept]).metrics["active_terms_overlap"] == 1
    assert terms([kept], [lost]).metrics["active_terms_overlap"] == pytest.approx(2 / 3)
    assert terms([kept], [new]).metrics["active_terms_overlap"] == pytest.approx(3 / 4)
    assert terms([[0, 0, 0, 0]], [new]).metrics["active_terms_overlap"] == 0


def test_terms_at_twice_their_weight_change_dot_products_and_no_neighbour():
    """Cosines do not see it, and thresholds do."""
    before = RANDOM.random((20, 30)) * (RANDOM.random((20, 30)) < 0.3)
    metrics = terms(before, 2 * before).metrics
    assert metrics["min_cosine"] == pytest.approx(1)
    assert metrics["topk_overlap"] == metrics["active_terms_overlap"] == 1
    assert metrics["max_similarity_change"] == pytest.approx(3, rel=1e-6)


def test_neighbours_of_sparse_vectors_are_those_of_dot_products():
    """Whatever their norms are; a text is no neighbour of itself."""
    before, after = 9 * RANDOM.random((30, 8)), 9 * RANDOM.random((30, 8))
    rows = np.arange(30)
    near = []
    for vectors in (before, after):
        products = vectors.astype(np.float32) @ vectors.astype(np.float32).T
        near.append([sorted(rows[rows != row], key=lambda other: -products[row, other])[:10] for row in rows])
    expected = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(*near, strict=True)])
    assert terms(before, after).metrics["topk_overlap"] == pytest.approx(expected)


def test_terms_of_another_vocabulary_are_not_compared():
    closeness = terms([[1, 0]], [[1, 0, 0]])
    assert not closeness.compared
    assert "3 wide instead of 2" in closeness.reason


def test_rotated_embeddings_keep_their_similarities():
    """An error in every component that no user of cosines would see, and one metric that says so."""
    before = unit(30)
    rotation, _ = np.linalg.qr(RANDOM.normal(size=(8, 8)))
    metrics = embeddings(before, before @ rotation).metrics
    assert metrics["max_abs_error"] > 0.1
    assert metrics["min_cosine"] < 0.9
    assert metrics["max_similarity_change"] < 1e-12
    assert metrics["topk_overlap"] == 1


def test_shorter_embeddings_have_the_same_cosine():
    before = unit(12)
    metrics = embeddings(before, before / 2).metrics
    assert metrics["min_cosine"] == pytest.approx(1)
    assert metrics["max_abs_error"] == pytest.approx(np.abs(before).max() / 2)


def test_vector_of_zeros_has_no_likeness():
    before = unit(4)
    after = before.copy()
    after[2] = 0
    assert embeddings(before, after).metrics["min_cosine"] == 0


def test_logits_by_hand():
    before = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    after = np.array([4.0, 4.5, 3.0, 2.0, 1.0])
    metrics = rerank(before, after, ["q"] * 5, [0, 3, 0, 0, 0]).metrics
    assert metrics["max_logit_error"] == 1
    assert metrics["mean_logit_error"] == pytest.approx(0.3)
    assert metrics["kendall_tau"] == pytest.approx(0.8), "one of ten pairs is discordant"
    assert metrics["order_flips"] == pytest.approx(0.1), "every pair is further apart than 0.6, and one flipped"
    assert metrics["top1_agreement"] == 0
    assert metrics["ndcg_at_5_change"] == pytest.approx(1 - 1 / np.log2(3))


def test_pairs_closer_than_the_error_do_not_count_as_flips():
    before = np.array([1.0, 0.99, -5.0])
    after = np.array([0.9, 1.09, -5.1])
    metrics = rerank(before, after, ["q"] * 3, [0, 0, 1]).metrics
    assert metrics["order_flips"] == 0
    assert metrics["kendall_tau"] < 1


def test_one_logit_for_everything_is_like_nothing():
    """A collapsed export: ties must not pass for agreement."""
    before = np.array([1.0, 2.0, 3.0, 5.0, 4.0])
    metrics = rerank(before, np.full(5, 3.0), ["q"] * 5, [0, 0, 0, 3, 0]).metrics
    assert metrics["kendall_tau"] == 0
    assert metrics["order_flips"] == 1
    assert metrics["top1_agreement"] == 0
    assert kendall_tau(np.ones(3), np.ones(3)) == 1


def test_logits_outside_any_query_have_errors_only():
    closeness = rerank(np.zeros(2), np.array([0.0, 3.0]), [None, None], [None, None])
    assert closeness.metrics["max_logit_error"] == 3
    assert closeness.metrics["kendall_tau"] == 1
    assert closeness.worst == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_sets_that_are_not_finite_are_not_compared(value):
    before = unit(6)
    after = before.copy()
    after[4, 2] = value
    closeness = embeddings(before, after)
    assert not closeness.compared
    assert closeness.metrics == {}
    assert closeness.worst == 4
    assert "scores: 1 of 6 probes are not finite" in closeness.reason
    assert "reference" in embeddings(after, before).reason


def test_sets_of_other_shapes_are_not_compared():
    assert "shape (5, 8) instead of (6, 8)" in embeddings(unit(6), unit(5)).reason
    assert not rerank(np.zeros(3), np.zeros((3, 1)), [None] * 3, [None] * 3).compared


@given(arrays(np.float32, (6, 3), elements=FINITE), arrays(np.float32, (6, 3), elements=FINITE))
def test_metrics_of_embeddings_stay_in_their_ranges(a, b):
    metrics = embeddings(a, b).metrics
    assert metrics["max_abs_error"] >= 0
    assert -1 - 1e-9 <= metrics["min_cosine"] <= 1 + 1e-9
    assert 0 <= metrics["max_similarity_change"] <= 2 + 1e-9
    assert 0 <= metrics["topk_overlap"] <= 1


def test_broken_limits():
    limits = {"max_abs_error": 0.1, "min_cosine": 0.9}
    assert broken({"max_abs_error": 0.1, "min_cosine": 0.9}, limits) == []
    assert broken({"max_abs_error": 0.11, "min_cosine": 0.95}, limits) == ["max_abs_error"]
    assert broken({"max_abs_error": 0.0, "min_cosine": 0.89}, limits) == ["min_cosine"]
    assert broken({"max_abs_error": np.nan}, limits) == ["max_abs_error", "min_cosine"]


def test_labels_are_compared_row_by_row():
    before = np.array([[3.0, 1, 0, 0, 0, 0], [0, 2, 1, 0, 0, 0]])
    after = before.copy()
    after[1] = [0, 1, 2, 0, 0, 0]
    closeness = compare_classes(before, after, Layout(np.array([1, 1]), [None], [None]))
    assert closeness.metrics["argmax_agreement"] == 0.5
    assert closeness.metrics["max_logit_error"] == 1
    assert closeness.worst == 1
    softmax = np.exp([2, 1]) / np.exp([0, 2, 1, 0, 0, 0]).sum()
    assert closeness.metrics["max_probability_change"] == pytest.approx(softmax[0] - softmax[1])


def test_errors_of_tokens_are_those_of_their_probe():
    before = np.zeros((6, 2), np.float32)
    after = before.copy()
    after[4] = 7
    layout = Layout(np.array([1, 0, 2, 3]), [None], [None])
    assert compare_classes(before, after, layout).errors.tolist() == [0, 0, 0, 7]


ZERO: Floats = np.zeros((1, 1), np.float32)


def test_one_logit_is_a_sigmoid():
    closeness = compare_classes(ZERO, ZERO + 100, Layout(np.ones(1, int), [None], [None]))
    assert closeness.metrics["max_probability_change"] == pytest.approx(0.5)


def test_best_span_ends_no_earlier_than_it_starts_and_is_short():
    logits = np.zeros((50, 2))
    logits[10, 0], logits[5, 1], logits[12, 1] = 5, 4, 3
    assert best_span(logits) == (10, 12)
    logits[10 + LONGEST_SPAN, 1] = 7
    assert best_span(logits) == (10, 12)
    logits[9 + LONGEST_SPAN, 1] = 8
    assert best_span(logits) == (10, 9 + LONGEST_SPAN)


def test_span_that_moves_is_a_disagreement():
    before = np.zeros((5, 2), np.float32)
    before[1, 0] = before[2, 1] = before[3, 0] = before[4, 1] = 4
    after = before.copy()
    after[1, 0], after[2, 0] = 0, 4
    closeness = compare_spans(before, after, Layout(np.array([3, 2]), [None], [None]))
    assert closeness.metrics == {"max_logit_error": 4, "span_agreement": 0.5}
