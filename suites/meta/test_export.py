"""Artifacts that the recipe steps make of a tiny seeded model, and what Optimum makes of the same."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from fixtures.build import manifest
from fixtures.build import step as build_step
from fixtures.build.step import key_of
from fixtures.build.store import Store
from fixtures.export import quantize, recipes, seeded
from fixtures.export.quantize import quantize_fused
from fixtures.export.variants import VARIANT
from fixtures.graphs.graph import added_operators
from fixtures.models.checkpoints import Checkpoint
from fixtures.runtimes import hardware
from fixtures.runtimes.hardware import Machine
from fixtures.runtimes.onnx_runtime import OnnxRuntime
from fixtures.runtimes.torch_runtime import TorchRuntime
from fixtures.scoring.encoded import Encoded
from fixtures.scoring.head import last_token, pool

MACHINE = hardware.detect()


@pytest.fixture(scope="module")
def tiny(shared_store):
    """Return a function: variant name -> folder of the tiny embedder's artifact."""
    store = Store(shared_store)
    root = recipes.prepare("tiny", Checkpoint(None, None, "sha256:" + "0" * 64), "seeded:bert@7")

    def folder(variant):
        plan = recipes.plan("tiny", VARIANT[variant], root, "feature-extraction", MACHINE)
        return [store.run(step) for step in plan.lineage()][-1].folder

    return folder


def initializers(folder):
    model = onnx.load(folder / "model.onnx")
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def operators(folder):
    return {node.op_type for node in onnx.load(folder / "model.onnx").graph.node}


def test_optimum_still_cannot_quantize_a_fused_graph(tiny, tmp_path):
    """When this fails, the link `quantize-fused` is no longer needed, and Optimum can make all variants."""
    with pytest.raises(RuntimeError, match="Unable to find data type for weight_name"):
        quantize.quantize([tiny("O2")], tmp_path, {**vars(MACHINE.int8)})


@pytest.mark.parametrize("variant", ["O2-quantized", "O3-quantized"])
def test_fused_graphs_are_quantized(tiny, variant):
    kinds = operators(tiny(variant))
    assert "SkipLayerNormalization" in kinds
    assert kinds & {"MatMulIntegerToFloat", "MatMulInteger", "QAttention", "DynamicQuantizeMatMul"}


def test_both_quantizers_agree_on_an_unfused_graph(tiny, tmp_path):
    """The weights are equal; Optimum also quantizes the products of two activations, two per layer of attention."""
    quantize_fused([tiny("plain")], tmp_path, {**vars(MACHINE.int8)})
    direct, by_optimum = initializers(tmp_path), initializers(tiny("quantized"))
    assert direct.keys() == by_optimum.keys()
    assert all(np.array_equal(direct[name], by_optimum[name]) for name in direct)
    counts = [added_operators(onnx.load(folder / "model.onnx")) for folder in (tmp_path, tiny("quantized"))]
    assert [count["MatMulInteger"] for count in counts] == [12, 16]


def test_optimizing_deletes_only_the_private_copy(tiny):
    """The optimizer deletes external data of the file that it reads; the stored export stays whole."""
    plain = tiny("plain")
    tiny("O2")
    manifest.verify(plain.name, plain)


def test_identical_recipes_share_an_artifact():
    """Tiers with the same int8 parameters share a key; avx2 has its own."""
    root = Checkpoint(Path(), None, "sha256:" + "1" * 64)

    def key(tier):
        machine = Machine("x86_64", tier, tier, "", 1, 1, 0, ())
        step = recipes.plan("any", VARIANT["quantized"], root, "feature-extraction", machine)
        return key_of(step.document)

    assert key("avx512") == key("avx512_vnni") == key("arm64")
    assert key("avx2") != key("avx512")


def test_key_changes_with_checkpoint_parameters_and_versions(monkeypatch):
    def key(digest="1", task="feature-extraction"):
        root = Checkpoint(Path(), None, "sha256:" + digest * 64)
        return key_of(recipes.plan("any", VARIANT["O2"], root, task, MACHINE).document)

    before = key()
    assert len({before, key(digest="2"), key(task="text-classification")}) == 3
    monkeypatch.setattr(build_step, "version_of", lambda name: "99")
    assert key() != before


def test_O4_is_unsupported_without_cuda():
    reason = VARIANT["O4"].unsupported(Machine("x86_64", "avx2", "avx2", "", 1, 1, 0, ("CPUExecutionProvider",)))
    assert "CUDAExecutionProvider" in reason
    assert "only casts to fp16" in reason


def test_overflow_is_known_of_quantized_variants_alone():
    machine = Machine("x86_64", "avx512", "avx512", "", 1, 1, 0, ("CPUExecutionProvider",))
    overflowing = {name for name, variant in VARIANT.items() if variant.overflows(machine)}
    quantized = {name for name, variant in VARIANT.items() if variant.quantizes and not variant.weights_alone}
    assert overflowing == quantized - {"quantized-u8", "quantized-s8-reduced"}


def test_runtime_refuses_missing_inputs(tiny):
    """Raw ONNX Runtime gets what the tokenizer makes, and nothing is filled in with zeros."""
    runtime = OnnxRuntime(tiny("plain") / "model.onnx", 1)
    feeds = {name: np.ones((1, 4), np.int64) for name in runtime.inputs if name != "token_type_ids"}
    with pytest.raises(KeyError, match="token_type_ids"):
        runtime(feeds)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("pooler.dense.weight", ""),
        ("encoder.layer.1.output.dense.bias", "the checkpoint lacks encoder.layer.1.output.dense.bias, and"),
    ],
)
def test_weights_that_transformers_would_invent_are_refused(tmp_path, missing, message):
    """A missing pooler is accepted, since no task reads the one of a bare encoder."""
    seeded.make([], tmp_path, {"architecture": "bert", "seed": 7, "auto_class": "AutoModel", "labels": 1})
    weights = load_file(tmp_path / "model.safetensors")
    del weights[missing]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        TorchRuntime(tmp_path, "AutoModel", 1)


def test_padding_side_and_pooling():
    """Left padding puts tokens at the end; mean pooling counts tokens alone, CLS takes the first and last the last."""
    encoded = Encoded(
        {"input_ids": np.arange(1, 6), "attention_mask": np.ones(5, np.int64)},
        np.array([0, 2, 5]), {"input_ids": 0, "attention_mask": 0}, "left",
    )  # fmt: skip
    feeds = encoded.feeds(np.array([0, 1]))
    assert feeds["input_ids"].tolist() == [[0, 1, 2], [3, 4, 5]]
    hidden = np.array([[[9], [1], [3]], [[2], [4], [6]]], np.float32)
    for pooling, expected in (("mean", [[2], [4]]), ("cls", [[1], [2]]), ("last", [[3], [6]])):
        assert pool(hidden, feeds["attention_mask"], pooling, normalize=False).tolist() == expected
    assert last_token(np.array([[1, 1, 0], [0, 1, 0]])).tolist() == [1, 1]
