"""BGE-M3's three heads: the graph beside PyTorch, and what is made of its outputs beside sums done by hand."""

import subprocess
import sys
from collections import Counter

import numpy as np
import onnx
import pytest

from fixtures.build.step import Step
from fixtures.build.store import Store
from fixtures.export import bge_m3 as bge_m3_export
from fixtures.export import recipes
from fixtures.export.bge_m3 import add_heads
from fixtures.export.onnx_export import OPSET
from fixtures.export.variants import VARIANT
from fixtures.models.bge_m3 import COLBERT_FILE, SPARSE_FILE, load_model
from fixtures.models.checkpoints import Checkpoint
from fixtures.runtimes import hardware
from fixtures.runtimes.onnx_runtime import OnnxRuntime
from fixtures.runtimes.torch_runtime import TorchRuntime
from fixtures.scoring import bge_m3
from fixtures.scoring.bge_m3 import (
    OUTPUTS,
    colbert_score,
    dense_score,
    dropped_ids,
    lexical_score,
    lexical_table,
    lexical_weights,
)
from fixtures.scoring.closeness import Layout
from fixtures.scoring.probes import TEXTS
from fixtures.scoring.token_closeness import compare_three_heads

MACHINE = hardware.detect()
HEADS = tuple(OUTPUTS)
LIMITS = {"plain": 1e-5, "O1": 1e-5, "O2": 1e-5, "O2-raw-mask": 1e-5, "O3": 2e-3}
"""Variant -> largest error of a component; O3 has an approximate GELU."""
# Two texts: CLS, two tokens, end; and CLS, one token, end, padding.
IDS = np.array([[0, 7, 7, 2], [0, 9, 2, 1]])
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
BY_HAND = {
    "dense_vecs": np.array([[1.0, 0.0], [0.6, 0.8]]),
    "sparse_vecs": np.array([[5, 0.5, 0.25, 5], [5, 0.125, 5, 5]])[..., None],
    "colbert_vecs": np.array([[[1.0, 0], [0, 1], [-1, 0]], [[0.6, 0.8], [0, -1], [0, 0]]]),
}
SPECIAL = frozenset([0, 1, 2, 3])


@pytest.fixture(scope="module")
def built(shared_store):
    """Return a function: variant name, or "checkpoint" -> folder of a tiny BGE-M3."""
    store = Store(shared_store)
    none = Checkpoint(None, None, "sha256:" + "0" * 64)
    root = recipes.prepare("m3", none, "seeded:xlm_roberta@12", auto_class="fixtures.m3:load")
    assert isinstance(root, Step)

    def folder(name):
        step = root
        if name != "checkpoint":
            step = recipes.plan(
                "m3", VARIANT[name], root, "feature-extraction", MACHINE, own_export=bge_m3_export.export
            )
        for needed in step.lineage():
            artifact = store.run(needed)
        return artifact.folder

    return folder


@pytest.fixture(scope="module")
def tokenizer(built):
    import transformers

    return transformers.AutoTokenizer.from_pretrained(built("checkpoint"))


@pytest.fixture(scope="module")
def feeds(tokenizer):
    texts = [probe.text for probe in TEXTS if not probe.length]
    batch = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="np")
    return {name: np.asarray(batch[name], np.int64) for name in ("input_ids", "attention_mask")}


@pytest.fixture(scope="module")
def reference(built, feeds):
    return TorchRuntime(built("checkpoint"), "fixtures.m3:load", 1)(feeds)


# ------------------------------------------------------------------------------------ the graph


def test_module_is_the_encoder_with_three_heads(built, feeds, reference):
    """The heads again, in NumPy, on the hidden states of the encoder alone."""
    import torch

    def head(name, hidden):
        state = torch.load(built("checkpoint") / name, weights_only=True)
        return hidden @ state["weight"].numpy().T + state["bias"].numpy()

    def unit(vectors):
        return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)

    hidden = TorchRuntime(built("checkpoint"), "AutoModel", 1)(feeds)["last_hidden_state"]
    expected = {
        "dense_vecs": unit(hidden[:, 0]),
        "sparse_vecs": np.maximum(head(SPARSE_FILE, hidden), 0),
        "colbert_vecs": unit(head(COLBERT_FILE, hidden[:, 1:]) * feeds["attention_mask"][:, 1:, None]),
    }
    for name in HEADS:
        np.testing.assert_allclose(reference[name], expected[name], rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("variant", LIMITS)
def test_graph_equals_the_module(built, feeds, reference, variant, head):
    outputs = OnnxRuntime(built(variant) / "model.onnx", 1)(feeds)
    assert tuple(outputs) == HEADS
    assert outputs[head].dtype == np.float32
    np.testing.assert_allclose(outputs[head], reference[head], rtol=0, atol=LIMITS[variant])


@pytest.mark.parametrize("variant", ["quantized", "O2-quantized", "O3-quantized"])
def test_quantized_graphs_resemble_the_module(built, feeds, reference, variant):
    """The outliers of a seeded checkpoint are hard on int8: most of a text must survive, and no head may be lost."""
    mask = feeds["attention_mask"]
    rows = bge_m3.score_rows(OnnxRuntime(built(variant) / "model.onnx", 1)(feeds), mask)
    expected = bge_m3.score_rows(reference, mask)
    weights, vectors = rows[:, 0], rows[:, 1:]
    assert np.isfinite(rows).all()
    assert np.median((vectors * expected[:, 1:]).sum(axis=1)) > 0.9
    assert np.corrcoef(weights, expected[:, 0])[0, 1] > 0.8


def test_heads_do_not_keep_the_encoder_from_being_fused(built):
    """All layers of it: the optimizer's shape inference gets through the heads."""
    operators = Counter(node.op_type for node in onnx.load(built("O2") / "model.onnx").graph.node)
    assert (operators["Attention"], operators["SkipLayerNormalization"], operators["BiasGelu"]) == (2, 4, 2)


def test_batch_and_length_are_free(built):
    model = onnx.load(built("plain") / "model.onnx")
    graph = model.graph
    axes = {
        output.name: [axis.dim_param or axis.dim_value for axis in output.type.tensor_type.shape.dim]
        for output in graph.output
    }
    assert axes == {
        "dense_vecs": ["batch", 32],
        "sparse_vecs": ["batch", "length", 1],
        "colbert_vecs": ["batch", "length_without_cls", 32],
    }
    assert [value.name for value in graph.input] == ["input_ids", "attention_mask"]
    assert model.opset_import[0].version == OPSET


def test_vectors_have_unit_norm_and_padding_has_none(reference, feeds):
    mask = feeds["attention_mask"][:, 1:] == 1
    norms = np.linalg.norm(reference["colbert_vecs"], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(reference["dense_vecs"], axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(norms[mask], 1, atol=1e-5)
    assert not norms[~mask].any()


def test_a_checkpoint_without_a_head_is_refused(tmp_path):
    """FlagEmbedding gives it a random one."""
    (tmp_path / COLBERT_FILE).write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r'lacks sparse_linear\.pt: .* task = "embedding"'):
        load_model(tmp_path)


def test_seeded_heads_are_the_same_bytes_every_time(built, tmp_path):
    import transformers

    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((built("checkpoint") / name).read_bytes())
    add_heads(tmp_path, transformers.AutoConfig.from_pretrained(tmp_path), 12)
    for name in (SPARSE_FILE, COLBERT_FILE):
        assert (tmp_path / name).read_bytes() == (built("checkpoint") / name).read_bytes()


def test_seeded_heads_find_some_tokens_worth_a_weight(reference, feeds, tokenizer):
    counted = (feeds["attention_mask"] == 1) & ~np.isin(feeds["input_ids"], list(dropped_ids(tokenizer)))
    share = (reference["sparse_vecs"][..., 0][counted] > 0).mean()
    assert 0.25 < share < 0.9, f"{share:.0%} of the tokens have a weight"


def test_planning_imports_no_framework():
    code = "import sys, fixtures.export.recipes; assert not {'torch', 'transformers', 'optimum'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


# -------------------------------------------------------------------------------------- scores


def test_rows_are_weight_and_vector_of_each_token():
    """The first of a text has the dense vector, the others their ColBERT vector; padding has no row."""
    np.testing.assert_array_equal(
        bge_m3.score_rows(BY_HAND, MASK),
        np.array([
            [5, 1, 0], [0.5, 1, 0], [0.25, 0, 1], [5, -1, 0],
            [5, 0.6, 0.8], [0.125, 0.6, 0.8], [5, 0, -1],
        ], np.float32),
    )  # fmt: skip


def test_rows_of_vectors_of_two_sizes_are_filled_up():
    rows = bge_m3.score_rows({**BY_HAND, "colbert_vecs": BY_HAND["colbert_vecs"][..., :1]}, MASK)
    np.testing.assert_array_equal(rows[0], [5, 1, 0])
    np.testing.assert_array_equal(rows[4:6], np.array([[5, 0.6, 0.8], [0.125, 0.6, 0]], np.float32))


def test_rows_follow_a_mask_that_begins_later():
    """Under left padding the first token that is left has the dense vector."""
    rows = bge_m3.score_rows(BY_HAND, MASK[:, ::-1])
    np.testing.assert_array_equal(rows[4:], np.array([[0.125, 0.6, 0.8], [5, 0, -1], [5, 0, 0]], np.float32))
    narrow = bge_m3.score_rows({**BY_HAND, "dense_vecs": BY_HAND["dense_vecs"][:, :1]}, MASK[:, ::-1])
    np.testing.assert_array_equal(narrow[4], np.array([0.125, 0.6, 0], np.float32))


@pytest.mark.parametrize(
    ("place", "moved"),
    [
        ((0, 0), {"max_abs_error", "max_weight_error"}),
        ((4, 1), {"max_abs_error", "min_cosine", "max_similarity_change"}),
        ((5, 1), {"max_abs_error", "min_token_cosine"}),
    ],
    ids=["weight", "dense", "colbert"],
)
def test_each_head_has_its_metrics(place, moved):
    before = bge_m3.score_rows(BY_HAND, MASK)
    after = before.copy()
    after[place] += 0.5
    layout = Layout(MASK.sum(axis=1), [None] * 2, [None] * 2)
    equal, changed = compare_three_heads(before, before, layout), compare_three_heads(before, after, layout)
    assert equal.metrics == pytest.approx(
        {"max_abs_error": 0, "min_cosine": 1, "min_token_cosine": 1, "max_weight_error": 0, "max_similarity_change": 0}
    )
    assert {name for name, value in changed.metrics.items() if abs(value - equal.metrics[name]) > 1e-6} == moved
    assert changed.metrics["max_abs_error"] == pytest.approx(0.5)
    assert changed.worst == int(place[0] > 3)


@pytest.mark.parametrize("empty", [0, 1])
def test_rows_of_a_text_without_tokens_are_none(empty):
    mask = MASK.copy()
    mask[empty] = 0
    rows = bge_m3.score_rows(BY_HAND, mask)
    assert len(rows) == mask.sum()
    assert compare_three_heads(rows, rows, Layout(mask.sum(axis=1), [None] * 2, [None] * 2)).metrics["min_cosine"] == 1


def test_scores_that_are_not_finite_are_not_compared():
    rows = bge_m3.score_rows(BY_HAND, MASK)
    assert not compare_three_heads(
        rows, rows * np.float32(np.nan), Layout(MASK.sum(axis=1), [None] * 2, [None] * 2)
    ).compared


# --------------------------------------------------------------------------- what users compare


def test_vectors_are_those_of_the_tokens():
    vectors = bge_m3.vectors(BY_HAND, {"input_ids": IDS, "attention_mask": MASK}, SPECIAL)
    assert vectors.lexical == [{7: 0.5}, {9: 0.125}]
    assert [len(tokens) for tokens in vectors.colbert] == [3, 2], "a vector per token but CLS, none for padding"
    np.testing.assert_array_equal(vectors.dense, BY_HAND["dense_vecs"])


def test_lexical_weights_are_the_largest_per_token():
    ids, weights = np.array([0, 8, 5, 8, 8, 6, 2]), np.array([9, 0.1, 0.2, 0.7, 0.3, 0.0, 9])
    assert lexical_weights(ids, weights, SPECIAL) == {8: 0.7, 5: 0.2}


def test_special_tokens_have_no_lexical_weight(tokenizer):
    """CLS, end, padding and unknown; the mask token is a word like others."""
    dropped = dropped_ids(tokenizer)
    assert dropped == set(tokenizer.convert_tokens_to_ids(["<s>", "</s>", "<pad>", "<unk>"]))
    ids = np.array([*sorted(dropped), tokenizer.mask_token_id])
    assert lexical_weights(ids, np.ones(5, np.float32), dropped) == {tokenizer.mask_token_id: 1}


def test_lexical_table_has_a_column_per_token():
    ids, table = lexical_table([{9: 0.5, 4: 1.0}, {}, {4: 0.25}])
    np.testing.assert_array_equal(ids, [4, 9])
    np.testing.assert_array_equal(table, [[1, 0.5], [0, 0], [0.25, 0]])
    assert lexical_table([{}, {}])[1].shape == (2, 0)


def test_similarities_are_those_done_by_hand():
    query, passage = BY_HAND["colbert_vecs"][0][:2], BY_HAND["colbert_vecs"][1][:2]
    assert dense_score(*BY_HAND["dense_vecs"]) == pytest.approx(0.6)
    assert lexical_score({4: 0.5, 9: 2.0, 5: 1.0}, {9: 0.25, 4: 0.5}) == pytest.approx(0.75)
    assert lexical_score({4: 0.5}, {9: 0.25}) == 0
    assert colbert_score(query, passage) == pytest.approx((0.6 + 0.8) / 2)
    assert colbert_score(passage, query) == pytest.approx((0.8 + 0.0) / 2)
