"""BGE-M3 in FlagEmbedding itself, beside the gate's module, its graphs and the scores that it makes of their outputs.

The checkpoint is seeded and tiny; tokenizer, heads and scores are those of the real one.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from FlagEmbedding import BGEM3FlagModel
from transformers import PreTrainedTokenizerBase

from fixtures.build.step import Step
from fixtures.build.store import Store
from fixtures.export import bge_m3 as bge_m3_export
from fixtures.export import recipes
from fixtures.export.variants import VARIANT
from fixtures.models.checkpoints import Checkpoint
from fixtures.runtimes import hardware
from fixtures.runtimes.onnx_runtime import OnnxRuntime
from fixtures.runtimes.session import Feeds
from fixtures.runtimes.torch_runtime import TorchRuntime
from fixtures.scoring import bge_m3
from fixtures.scoring.bge_m3 import Vectors, colbert_score, dense_score, dropped_ids, lexical_score, lexical_table
from fixtures.scoring.probes import PAIRS, TEXTS

MACHINE = hardware.detect()
MAX_LENGTH = 64
TEXTS_HERE = [probe.text for probe in TEXTS if not probe.length]
PAIRS_HERE = [(probe.text, probe.pair) for probe in PAIRS if not probe.length][:24]
RUNTIMES = {"PyTorch": 1e-5, "plain": 1e-5, "O1": 1e-5, "O2": 1e-5, "O2-raw-mask": 1e-5, "O3": 2e-3}
"""What runs the three heads -> how far it may be from FlagEmbedding; the int8 variants are judged by the gate."""
Encode = Callable[[Sequence[str]], Vectors]
FlagVectors = dict[str, Any]
"""What FlagEmbedding's `encode` returns: `dense_vecs`, `lexical_weights` and `colbert_vecs`."""


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function: variant name, or "PyTorch" -> folder of a tiny BGE-M3."""
    store = Store(tmp_path_factory.mktemp("store"))
    seeded = Checkpoint(None, None, "sha256:" + "0" * 64)
    root = recipes.prepare("m3", seeded, "seeded:xlm_roberta@12", auto_class="fixtures.m3:load")
    assert isinstance(root, Step)

    def build(name: str) -> Path:
        step = root
        if name != "PyTorch":
            step = recipes.plan(
                "m3", VARIANT[name], root, "feature-extraction", MACHINE, own_export=bge_m3_export.export
            )
        return [store.run(needed) for needed in step.lineage()][-1].folder

    return build


@pytest.fixture(scope="module")
def flag(folder_of: Callable[[str], Path]) -> BGEM3FlagModel:
    lengths = {"query_max_length": MAX_LENGTH, "passage_max_length": MAX_LENGTH}
    return BGEM3FlagModel(str(folder_of("PyTorch")), use_fp16=False, devices="cpu", batch_size=16, **lengths)


@pytest.fixture(scope="module")
def expected(flag: BGEM3FlagModel) -> FlagVectors:
    """FlagEmbedding's vectors of TEXTS_HERE."""
    vectors: FlagVectors = flag.encode(TEXTS_HERE, return_dense=True, return_sparse=True, return_colbert_vecs=True)
    return vectors


@pytest.fixture(scope="module", params=RUNTIMES)
def name(request: pytest.FixtureRequest) -> str:
    runtime_name: str = request.param
    return runtime_name


@pytest.fixture(scope="module")
def encode(folder_of: Callable[[str], Path], flag: BGEM3FlagModel, name: str) -> Encode:
    """Return a function: texts -> Vectors, by the runtime of this name."""
    runtime: TorchRuntime | OnnxRuntime
    if name == "PyTorch":
        runtime = TorchRuntime(folder_of(name), "fixtures.m3:load", 1)
    else:
        runtime = OnnxRuntime(folder_of(name) / "model.onnx", 1)
    dropped = dropped_ids(flag.tokenizer)

    def run(texts: Sequence[str]) -> Vectors:
        feeds = tokenize(flag.tokenizer, texts)
        return bge_m3.vectors(runtime(feeds), feeds, dropped)

    return run


@pytest.fixture(scope="module")
def actual(encode: Encode) -> Vectors:
    """The vectors of TEXTS_HERE by the runtime of this name."""
    return encode(TEXTS_HERE)


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Feeds:
    batch = tokenizer(list(texts), padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="np")
    return {key: np.asarray(batch[key], np.int64) for key in ("input_ids", "attention_mask")}


def test_dense_vectors_are_flagembeddings(actual: Vectors, expected: FlagVectors, name: str) -> None:
    np.testing.assert_allclose(actual.dense, expected["dense_vecs"], rtol=0, atol=RUNTIMES[name])


def test_lexical_weights_are_flagembeddings(actual: Vectors, expected: FlagVectors, name: str) -> None:
    """The same tokens with the same weights; a token that one side lacks weighs next to nothing."""
    assert any(expected["lexical_weights"])
    for text, weights, flag_weights in zip(TEXTS_HERE, actual.lexical, expected["lexical_weights"], strict=True):
        ids, (left, right) = lexical_table([weights, with_integer_tokens(flag_weights)])
        np.testing.assert_allclose(left, right, rtol=0, atol=RUNTIMES[name], err_msg=f"{text!r}: tokens {ids}")


def with_integer_tokens(weights: Mapping[str, float]) -> dict[int, float]:
    """Return lexical weights by token id; FlagEmbedding writes the ids as strings."""
    return {int(token): weight for token, weight in weights.items()}


def test_colbert_vectors_are_flagembeddings(actual: Vectors, expected: FlagVectors, name: str) -> None:
    for text, vectors, flag_vectors in zip(TEXTS_HERE, actual.colbert, expected["colbert_vecs"], strict=True):
        np.testing.assert_allclose(vectors, flag_vectors, rtol=0, atol=RUNTIMES[name], err_msg=repr(text))


def test_scores_of_pairs_are_flagembeddings(flag: BGEM3FlagModel, encode: Encode, name: str) -> None:
    """Pair by pair: in a batch FlagEmbedding lets a query token match a passage's padding, with a cosine of 0."""
    queries, passages = (encode(list(texts)) for texts in zip(*PAIRS_HERE, strict=True))
    for row, pair in enumerate(PAIRS_HERE):
        scores = {
            "dense": dense_score(queries.dense[row], passages.dense[row]),
            "sparse": lexical_score(queries.lexical[row], passages.lexical[row]),
            "colbert": colbert_score(queries.colbert[row], passages.colbert[row]),
        }
        scores["colbert+sparse+dense"] = sum(scores.values()) / 3
        flag_scores = flag.compute_score(pair)
        assert scores == pytest.approx({key: flag_scores[key] for key in scores}, rel=0, abs=RUNTIMES[name]), pair


def test_scores_of_two_texts_are_flagembeddings(flag: BGEM3FlagModel, expected: FlagVectors) -> None:
    """FlagEmbedding has functions for vectors that were computed before; ours score the same."""
    lexical = [with_integer_tokens(weights) for weights in expected["lexical_weights"]]
    for a, b in ((0, 1), (1, 0), (10, 11)):
        flag_weights = expected["lexical_weights"][a], expected["lexical_weights"][b]
        flag_score = flag.compute_lexical_matching_score(*flag_weights)
        assert lexical_score(lexical[a], lexical[b]) == pytest.approx(flag_score)
        vectors = expected["colbert_vecs"][a], expected["colbert_vecs"][b]
        assert colbert_score(*vectors) == pytest.approx(float(flag.colbert_score(*vectors)), rel=1e-6)


def test_left_padding_moves_the_dense_vector_in_flagembedding_too(
    folder_of: Callable[[str], Path], flag: BGEM3FlagModel, expected: FlagVectors
) -> None:
    """Column 0 is then padding, in both: the same wrong numbers, so use right padding."""
    flag.tokenizer.padding_side = "left"
    try:
        moved = flag.encode(TEXTS_HERE[:8], return_dense=True)["dense_vecs"]
        feeds = tokenize(flag.tokenizer, TEXTS_HERE[:8])
    finally:
        flag.tokenizer.padding_side = "right"
    dense = TorchRuntime(folder_of("PyTorch"), "fixtures.m3:load", 1)(feeds)["dense_vecs"]
    np.testing.assert_allclose(dense, moved, rtol=0, atol=1e-5)
    assert np.abs(moved - expected["dense_vecs"][:8]).max() > 0.01
