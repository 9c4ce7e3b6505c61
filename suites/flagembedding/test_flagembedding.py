"""BGE-M3 in FlagEmbedding itself, beside our module, our graphs and what we make of their outputs.

The checkpoint is seeded and tiny; tokenizer, heads and scores are those of the real one.
"""

import numpy as np
import pytest
from FlagEmbedding import BGEM3FlagModel

from fixtures.build.store import Store
from fixtures.export import bge_m3 as bge_m3_export
from fixtures.export import recipes
from fixtures.export.variants import VARIANT
from fixtures.models.checkpoints import Checkpoint
from fixtures.runtimes import hardware
from fixtures.runtimes.onnx_runtime import OnnxRuntime
from fixtures.runtimes.torch_runtime import TorchRuntime
from fixtures.scoring import bge_m3
from fixtures.scoring.bge_m3 import colbert_score, dense_score, dropped_ids, lexical_score, lexical_table
from fixtures.scoring.probes import PAIRS, TEXTS

MACHINE = hardware.detect()
MAX_LENGTH = 64
TEXTS_HERE = [probe.text for probe in TEXTS if not probe.length]
PAIRS_HERE = [(probe.text, probe.pair) for probe in PAIRS if not probe.length][:24]
RUNTIMES = {"PyTorch": 1e-5, "plain": 1e-5, "O1": 1e-5, "O2": 1e-5, "O2-raw-mask": 1e-5, "O3": 2e-3}
"""What runs the three heads -> how far it may be from FlagEmbedding; the int8 variants are judged by the gate."""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return a function: variant name, or "PyTorch" -> folder of a tiny BGE-M3."""
    kept = Store(tmp_path_factory.mktemp("store"))
    none = Checkpoint(None, None, "sha256:" + "0" * 64)
    root = recipes.prepare("m3", none, "seeded:xlm_roberta@12", auto_class="fixtures.m3:load")

    def folder(name):
        step = root
        if name != "PyTorch":
            step = recipes.plan("m3", VARIANT[name], root, "feature-extraction", MACHINE, exporter=bge_m3_export.export)
        for one in step.lineage():
            artifact = kept.run(one)
        return artifact.folder

    return folder


@pytest.fixture(scope="module")
def flag(built):
    return BGEM3FlagModel(
        str(built("PyTorch")), use_fp16=False, devices="cpu", batch_size=16,
        query_max_length=MAX_LENGTH, passage_max_length=MAX_LENGTH,
    )  # fmt: skip


@pytest.fixture(scope="module")
def theirs(flag):
    return flag.encode(TEXTS_HERE, return_dense=True, return_sparse=True, return_colbert_vecs=True)


@pytest.fixture(scope="module", params=RUNTIMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def encode(built, flag, name):
    """Return a function: texts -> Vectors, by the runtime in question."""
    if name == "PyTorch":
        runtime = TorchRuntime(built(name), "fixtures.m3:load", 1)
    else:
        runtime = OnnxRuntime(built(name) / "model.onnx", 1)
    dropped = dropped_ids(flag.tokenizer)

    def run(texts):
        feeds = tokenize(flag.tokenizer, texts)
        return bge_m3.vectors(runtime(feeds), feeds, dropped)

    return run


@pytest.fixture(scope="module")
def ours(encode):
    return encode(TEXTS_HERE)


def tokenize(tokenizer, texts):
    found = tokenizer(texts, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="np")
    return {key: np.asarray(found[key], np.int64) for key in ("input_ids", "attention_mask")}


def test_dense_vectors_are_flagembeddings(ours, theirs, name):
    np.testing.assert_allclose(ours.dense, theirs["dense_vecs"], rtol=0, atol=RUNTIMES[name])


def test_lexical_weights_are_flagembeddings(ours, theirs, name):
    """The same tokens with the same weights; a token that one side lacks weighs next to nothing."""
    assert any(theirs["lexical_weights"])
    for text, mine, other in zip(TEXTS_HERE, ours.lexical, theirs["lexical_weights"], strict=True):
        known = {int(token): weight for token, weight in other.items()}
        ids, (left, right) = lexical_table([mine, known])
        np.testing.assert_allclose(left, right, rtol=0, atol=RUNTIMES[name], err_msg=f"{text!r}: tokens {ids}")


def test_colbert_vectors_are_flagembeddings(ours, theirs, name):
    for text, mine, other in zip(TEXTS_HERE, ours.colbert, theirs["colbert_vecs"], strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=RUNTIMES[name], err_msg=repr(text))


def test_scores_of_pairs_are_flagembeddings(flag, encode, name):
    """Pair by pair: in a batch FlagEmbedding lets a query token match a passage's padding, with a cosine of 0."""
    queries, passages = (encode(list(texts)) for texts in zip(*PAIRS_HERE, strict=True))
    for row, pair in enumerate(PAIRS_HERE):
        found = {
            "dense": dense_score(queries.dense[row], passages.dense[row]),
            "sparse": lexical_score(queries.lexical[row], passages.lexical[row]),
            "colbert": colbert_score(queries.colbert[row], passages.colbert[row]),
        }
        found["colbert+sparse+dense"] = sum(found.values()) / 3
        expected = flag.compute_score(pair)
        assert found == pytest.approx({key: expected[key] for key in found}, rel=0, abs=RUNTIMES[name]), pair


def test_scores_of_two_texts_are_flagembeddings(flag, theirs):
    """The functions that FlagEmbedding has for vectors that are there already."""
    lexical = [{int(token): weight for token, weight in one.items()} for one in theirs["lexical_weights"]]
    for a, b in ((0, 1), (1, 0), (10, 11)):
        weights = (theirs["lexical_weights"][one] for one in (a, b))
        assert lexical_score(lexical[a], lexical[b]) == pytest.approx(flag.compute_lexical_matching_score(*weights))
        vectors = theirs["colbert_vecs"][a], theirs["colbert_vecs"][b]
        assert colbert_score(*vectors) == pytest.approx(float(flag.colbert_score(*vectors)), rel=1e-6)


def test_left_padding_moves_the_dense_vector_in_flagembedding_too(built, flag, theirs):
    """Column 0 is then padding, there as here: the same wrong numbers, so use right padding."""
    flag.tokenizer.padding_side = "left"
    try:
        moved = flag.encode(TEXTS_HERE[:8], return_dense=True)["dense_vecs"]
        feeds = tokenize(flag.tokenizer, TEXTS_HERE[:8])
    finally:
        flag.tokenizer.padding_side = "right"
    mine = TorchRuntime(built("PyTorch"), "fixtures.m3:load", 1)(feeds)["dense_vecs"]
    np.testing.assert_allclose(mine, moved, rtol=0, atol=1e-5)
    assert np.abs(moved - theirs["dense_vecs"][:8]).max() > 0.01
