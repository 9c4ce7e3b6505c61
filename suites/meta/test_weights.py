"""Weights that are not the checkpoint's are found and named, in every kind of export; sound exports have none.

The faults are planted in exports of one tiny seeded BERT.
"""

import json
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from fixtures.export import onnx_export, quantize, seeded
from fixtures.export.onnx_export import OPSET, export_onnx
from fixtures.export.quantize import quantize_fused
from fixtures.export.variants import VARIANT
from fixtures.gate.case import Case
from fixtures.gate.command_line import Options
from fixtures.gate.context import Context
from fixtures.gate.measured import Measured
from fixtures.gate.plan import Plan
from fixtures.gate.subject import Subject
from fixtures.graphs import weights
from fixtures.models.bge_m3 import COLBERT_FILE
from fixtures.models.tensors import WeightsUnreadable, read_tensors
from fixtures.plugin.suite_fixtures import read_weights
from suites.conformance import test_weights
from suites.meta.calls import stand_in

INT8 = {"weights_dtype": "QUInt8", "activations_dtype": "QUInt8", "per_channel": True, "reduce_range": True}
ALL = PLAIN, O2, QUANTIZED, O2_QUANTIZED = ("plain", "O2", "quantized", "O2-quantized")
FLOAT, INTEGER = (PLAIN, O2), (QUANTIZED, O2_QUANTIZED)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Checkpoint, another one of another seed, and the exports of the first."""
    root = tmp_path_factory.mktemp("weights")
    folders = {name: root / name for name in ("checkpoint", "other_checkpoint", *ALL)}
    for folder in folders.values():
        folder.mkdir()
    for name, seed in (("checkpoint", 7), ("other_checkpoint", 8)):
        seeded.make([], folders[name], {"architecture": "bert", "seed": seed, "auto_class": "AutoModel", "labels": 1})
    export_onnx([folders["checkpoint"]], folders[PLAIN], {"task": "feature-extraction", "opset": OPSET})
    for name, step, source, parameters in (
        (O2, onnx_export.optimize, PLAIN, {"level": "O2", "raw_mask": False}),
        (QUANTIZED, quantize.quantize, PLAIN, INT8),
        (O2_QUANTIZED, quantize_fused, O2, INT8),
    ):
        shutil.copytree(folders[source], copy := root / f"copy for {name}")
        step([copy], folders[name], parameters)
    return folders


@pytest.fixture(scope="module")
def checkpoint(folders):
    return read_tensors(folders["checkpoint"])


@pytest.fixture(scope="module")
def other_checkpoint(folders):
    return read_tensors(folders["other_checkpoint"])


@pytest.fixture
def load(folders):
    return lambda variant: onnx.load(folders[variant] / "model.onnx")


# ------------------------------------------------------------------------------------- faults


class Plant:
    """A graph in which tensors are found by what the checkpoint calls them, and changed."""

    def __init__(self, model, checkpoint, other_checkpoint):
        self.model, self.checkpoint, self.other_checkpoint = model, checkpoint, other_checkpoint
        self.protos = {tensor.name: tensor for tensor in model.graph.initializer}
        self.sources = {}
        for label, (name,) in weights.compare(checkpoint, model).matched.items():
            graph, _, part = label.partition(" (")
            self.sources[name] = graph, part.rstrip(")")

    def slot(self, name, kind=""):
        """Return the graph's tensor, or its scale or zero point, and where in it a checkpoint's tensor lies."""
        graph, part = self.sources[name]
        proto = self.protos[graph.removesuffix("_quantized") + kind if kind else graph]
        width = proto.dims[-1] // 3 if part and proto.dims else 0
        start = width * ("qkv".index(part) if part else 0)
        return proto, (..., slice(start, start + width)) if width else ...

    def get(self, name, kind=""):
        proto, where = self.slot(name, kind)
        return numpy_helper.to_array(proto)[where].copy()

    def put(self, name, values, kind=""):
        proto, where = self.slot(name, kind)
        array = numpy_helper.to_array(proto).copy()
        array[where] = values
        proto.CopyFrom(numpy_helper.from_array(array, proto.name))

    def quantized(self, name):
        return self.slot(name)[0].name.endswith("_quantized")

    def integers(self, name, floats):
        """Return what stands for the floats with the scale of a tensor that is quantized already, transposed or not."""
        scale, zero_point = self.get(name, "_scale"), self.get(name, "_zero_point")
        return np.clip(np.round(floats / scale) + zero_point, 0, 255).astype(np.uint8)

    def swap(self, left, right):
        for kind in ("", "_scale", "_zero_point") if self.quantized(left) else ("",):
            left_values, right_values = self.get(left, kind), self.get(right, kind)
            self.put(left, right_values, kind)
            self.put(right, left_values, kind)


WORDS = "embeddings.word_embeddings.weight"
QUERY, KEY, VALUE = (f"encoder.layer.0.attention.self.{part}.weight" for part in ("query", "key", "value"))
DENSE = "encoder.layer.1.attention.output.dense.weight"
BIAS, QUERY_BIAS = "encoder.layer.0.intermediate.dense.bias", "encoder.layer.1.attention.self.query.bias"


def exponent_bit(plant, name):
    """One bit of one element, the highest of the exponent but one; of an integer, the highest."""
    values = plant.get(name)
    bits = values.view(np.uint8 if values.dtype == np.uint8 else np.uint32)
    bits.flat[values.size // 2] ^= 1 << (7 if bits.dtype == np.uint8 else 29)
    plant.put(name, values)


def last_bit(plant, name):
    values = plant.get(name)
    bits = values.view(np.uint8 if values.dtype == np.uint8 else np.uint32)
    bits.flat[5] ^= 1
    plant.put(name, values)


def wrong_row(plant, name):
    values = plant.get(name)
    values[123] = values[456]
    plant.put(name, values)


def another_seed(plant, name):
    """The tensor of another checkpoint, quantized with the scale of this one."""
    values = (
        plant.other_checkpoint[name]
        if plant.sources[name][0].startswith("embeddings")
        else plant.other_checkpoint[name].T
    )
    plant.put(name, plant.integers(name, values) if plant.quantized(name) else values)


def transposed(plant, name):
    """As a weight would be that is stored as PyTorch stores it; quantized afresh, per channel."""
    if not plant.quantized(name):
        return plant.put(name, plant.get(name).T)
    true = plant.checkpoint[name]
    scale = np.abs(true).max(axis=0) / 63
    plant.put(name, scale.astype(np.float32), "_scale")
    plant.put(name, plant.integers(name, true))


def zeros(plant, name):
    plant.put(name, np.zeros_like(plant.get(name)))


def heads_swapped(plant, name):
    for kind in ("", "_scale", "_zero_point") if plant.quantized(name) else ("",):
        values = plant.get(name, kind)
        plant.put(name, np.concatenate([values[..., 16:], values[..., :16]], axis=-1), kind)


def scale_off(plant, name):
    plant.put(name, plant.get(name, "_scale") * np.float32(1.02), "_scale")


def scale_of_one_channel_off(plant, name):
    scale = plant.get(name, "_scale")
    scale[3] *= np.float32(0.98)
    plant.put(name, scale, "_scale")


def zero_point_off(plant, name):
    plant.put(name, plant.get(name, "_zero_point") + 1, "_zero_point")


def one_integer_off(plant, name):
    values = plant.get(name)
    values.flat[77] += 1 if values.flat[77] < 190 else -1
    plant.put(name, values)


def swapped_with(tensor):
    return lambda plant, name: plant.swap(name, tensor)


def layers_swapped(plant, name):
    for zero in [source for source in plant.sources if source.startswith("encoder.layer.0.")]:
        plant.swap(zero, zero.replace("layer.0", "layer.1"))


def rewired(plant, name):
    """The node that should read a tensor reads its namesake in the other layer, and the other way round."""
    tensor, namesake = plant.slot(name)[0].name, plant.slot(name.replace("layer.1", "layer.0"))[0].name
    for node in plant.model.graph.node:
        for index, read in enumerate(node.input):
            node.input[index] = {tensor: namesake, namesake: tensor}.get(read, read)


@dataclass(frozen=True)
class Fault:
    """One row of FAULTS: what is done to which tensor, in which exports, and the message after its name."""

    plant: Callable[[Plant, str], object]
    tensor: str
    message: str
    variants: tuple[str, ...] = ALL
    name: str = ""

    def __str__(self):
        return f"{self.name or self.plant.__name__}-{self.tensor}"


FAULTS = (
    Fault(exponent_bit, WORDS, r"row 500 of 1000x32 is not the checkpoint's \(1 of 32000 elements, largest"),
    Fault(exponent_bit, DENSE, r"row .* of 32x32 is not the checkpoint's \(1 of 1024"),
    Fault(exponent_bit, QUERY, r"row .* of 32x32 is not the checkpoint's \(1 of 1024"),
    Fault(exponent_bit, QUERY_BIAS, r"element 16 of 32 is not the checkpoint's \(1 of 32"),
    Fault(exponent_bit, "encoder.layer.1.output.LayerNorm.weight", r"element 16 of 32 is not the checkpoint's"),
    Fault(last_bit, VALUE, r"row .* of 32x32 is not the checkpoint's \(1 of 1024", FLOAT),
    Fault(wrong_row, WORDS, r"row 123 of 1000x32 is not the checkpoint's \(\d\d of 32000 elements, largest difference"),
    Fault(another_seed, WORDS, r"is not the checkpoint's: another revision\? \(\d+ of 32000"),
    Fault(another_seed, DENSE, r"is not the checkpoint's: another revision\? \(\d+ of 1024"),
    Fault(another_seed, KEY, r"is not the checkpoint's: another revision\? \(\d+ of 1024"),
    Fault(another_seed, BIAS, r"is not the checkpoint's: another revision\? \(64 of 64"),
    Fault(transposed, DENSE, "is not transposed, and others like it are"),
    Fault(transposed, QUERY, "is not transposed, and others like it are"),
    Fault(swapped_with(KEY), QUERY, f"holds {KEY} instead", name="swapped_with_key"),
    Fault(swapped_with(VALUE), KEY, f"holds {VALUE} instead", name="swapped_with_value"),
    Fault(
        swapped_with(QUERY_BIAS.replace("query", "key")),
        QUERY_BIAS,
        "holds .*key.bias instead",
        name="swapped_with_key",
    ),
    Fault(zeros, BIAS, r"is all zeros \(64 of 64"),
    Fault(zeros, QUERY_BIAS, r"is all zeros \(32 of 32"),
    Fault(heads_swapped, QUERY, "has the checkpoint's values in another order: heads swapped", FLOAT),
    Fault(heads_swapped, QUERY, r"is not the checkpoint's: another revision\? \(\d+ of 1024", INTEGER),
    Fault(layers_swapped, QUERY, f"holds {QUERY.replace('layer.0', 'layer.1')} instead"),
    Fault(layers_swapped, BIAS, f"holds {BIAS.replace('layer.0', 'layer.1')} instead"),
    Fault(layers_swapped, DENSE, f"holds {DENSE.replace('layer.1', 'layer.0')} instead"),
    Fault(rewired, DENSE, f"holds {DENSE.replace('layer.1', 'layer.0')} instead", FLOAT),
    Fault(rewired, QUERY_BIAS, f"holds {QUERY_BIAS.replace('layer.1', 'layer.0')} instead"),
    Fault(scale_off, WORDS, r"has a scale that is off by \+2.0% \(", INTEGER),
    Fault(scale_off, DENSE, r"has a scale that is off by \+2.0%, in 32 of 32 channels \(", INTEGER),
    Fault(scale_off, QUERY, r"has a scale that is off by \+2.0%, in 32 of 32 channels \(", INTEGER),
    Fault(
        scale_of_one_channel_off,
        DENSE,
        r"has a scale that is off by -(1\.[89]|2\.[012])%, in 1 of 32 channels \(",
        INTEGER,
    ),
    Fault(zero_point_off, WORDS, r"has a zero point that is off by \+1 \(", INTEGER),
    Fault(zero_point_off, DENSE, r"has a zero point that is off by \+1, in 32 of 32 channels \(", INTEGER),
    Fault(zero_point_off, VALUE, r"has a zero point that is off by \+1, in 32 of 32 channels \(", INTEGER),
    Fault(one_integer_off, DENSE, r"row .* of 32x32 is not the checkpoint's \(1 of 1024", INTEGER),
    Fault(one_integer_off, WORDS, r"row 2 of 1000x32 is not the checkpoint's \(1 of 32000", INTEGER),
)
CASES = [(fault, variant) for fault in FAULTS for variant in fault.variants]


@pytest.mark.parametrize(("fault", "variant"), CASES, ids=[f"{variant}-{fault}" for fault, variant in CASES])
def test_fault_is_found_and_named(load, checkpoint, other_checkpoint, fault, variant):
    model = load(variant)
    before = model.SerializeToString()
    fault.plant(Plant(model, checkpoint, other_checkpoint), fault.tensor)
    assert model.SerializeToString() != before, "nothing was planted"
    differences = [str(difference) for difference in weights.compare(checkpoint, model).differences]
    assert any(re.match(f"{re.escape(fault.tensor)} {fault.message}", text) for text in differences), differences


@pytest.mark.parametrize("variant", ALL)
def test_sound_export_is_all_the_checkpoints(load, checkpoint, variant):
    compared = weights.compare(checkpoint, load(variant))
    assert compared, compared.differences
    assert (compared.unknown, compared.share) == ((), 1)
    assert compared.absent == ("pooler.dense.bias", "pooler.dense.weight")
    assert set(compared.matched.values()) == {(name,) for name in checkpoint if not name.startswith("pooler")}


# ----------------------------------------------------------------------------- lost, tied, renamed


def test_lost_bias_is_named(load, checkpoint):
    """The addition of a bias is left out; zeros may be."""
    model = load(PLAIN)
    add = next(node for node in model.graph.node if node.name == "/encoder/layer.0/intermediate/dense/Add")
    for node in model.graph.node:
        for index, read in enumerate(node.input):
            if read == add.output[0]:
                node.input[index] = add.input[1]
    model.graph.node.remove(add)
    (lost,) = weights.compare(checkpoint, model).differences
    assert str(lost) == f"{BIAS} is lost: nothing in the graph holds this bias"
    assert weights.compare(checkpoint | {BIAS: np.zeros_like(checkpoint[BIAS])}, model)


def test_bias_of_another_layer_instead_of_its_own_is_named(load, checkpoint):
    model = load(PLAIN)
    namesake = BIAS.replace("layer.0", "layer.1")
    for node in model.graph.node:
        for index, read in enumerate(node.input):
            node.input[index] = namesake if read == BIAS else read
    assert [difference.tensor for difference in weights.compare(checkpoint, model).differences] == [BIAS]


def test_wrong_row_of_a_tied_copy_is_named(load, checkpoint):
    """A head's transposed copy of the embedding table is damaged, and the table is not."""
    model = load(PLAIN)
    copy = checkpoint[WORDS].T.copy()
    copy[:, 42] = 0
    model.graph.initializer.append(numpy_helper.from_array(copy, "onnx::MatMul_999"))
    reads = ["last_hidden_state", "onnx::MatMul_999"]
    model.graph.node.append(helper.make_node("MatMul", reads, ["x"], "/head/MatMul"))
    (difference,) = weights.compare(checkpoint, model).differences
    assert re.match(f"{WORDS} row 42 of 1000x32 is not .*; in the graph: onnx::MatMul_999", str(difference))


def test_copy_that_pytorch_does_not_read_may_be_anything(load, checkpoint):
    """The graph has the tied table in the head's place; a stale copy in the checkpoint is none of its business."""
    model = load(PLAIN)
    model.graph.initializer.append(numpy_helper.from_array(checkpoint[WORDS].T, f"{WORDS}_transposed"))
    reads = ["last_hidden_state", f"{WORDS}_transposed"]
    model.graph.node.append(helper.make_node("MatMul", reads, ["x"], "/head/MatMul"))
    compared = weights.compare(checkpoint | {"head.weight": checkpoint[WORDS] + 1}, model)
    assert compared
    assert "head.weight" in compared.absent


def test_constants_of_the_computation_are_listed_and_no_difference(load, checkpoint):
    model = load(PLAIN)
    random = np.random.default_rng(5)
    for name, shape in (("mask", (32, 32)), ("table", (1000, 32)), ("positions", (32,))):
        model.graph.initializer.append(numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name))
        model.graph.node.append(helper.make_node("Mul", ["last_hidden_state", name], [f"{name}!"]))
    unused = {"encoder.layer.0.adapter.weight": random.normal(size=(32, 32)).astype(np.float32)}
    compared = weights.compare(checkpoint | unused, model)
    assert compared
    assert set(unused) < set(compared.absent)
    assert compared.unknown == ("mask", "table", "positions")
    assert 0.5 < compared.share < 0.7
    assert "37 of 40 tensors" in str(compared)
    assert "not the checkpoint's: mask, table, positions; not in the graph: pooler.dense.bias" in str(compared)


def test_weights_in_a_form_that_is_not_known_are_listed(load, checkpoint):
    """Four bits in blocks, for example: nothing is known of them, and the share says so."""
    model = load(PLAIN)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((512, 64), np.uint8), "head_Q4"))
    compared = weights.compare(checkpoint, model)
    assert compared.unknown == ("head_Q4",)
    assert 0.6 < compared.share < 0.7


def renamed(checkpoint):
    """`bert.` in front of everything, and LayerNorm's gamma and beta, as in checkpoints made from TensorFlow's."""
    return {
        f"bert.{name}".replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): array
        for name, array in checkpoint.items()
    }


@pytest.mark.parametrize("variant", ALL)
def test_checkpoint_with_a_prefix_and_old_names_is_the_same(load, checkpoint, variant):
    compared = weights.compare(renamed(checkpoint), load(variant))
    assert (compared.differences, compared.unknown, compared.share) == ((), (), 1)


@pytest.mark.parametrize("variant", ALL)
@pytest.mark.parametrize("tensor", [BIAS, "embeddings.LayerNorm.weight"])
def test_fault_is_named_as_a_checkpoint_with_a_prefix_and_old_names_has_it(
    load, checkpoint, other_checkpoint, variant, tensor
):
    model = load(variant)
    another_seed(Plant(model, checkpoint, other_checkpoint), tensor)
    (difference,) = weights.compare(renamed(checkpoint), model).differences
    (name,) = renamed({tensor: ()})
    assert str(difference).startswith(f"{name} is not the checkpoint's: another revision?")


# ------------------------------------------------------------------------------ without names


def nameless(model):
    """Rename every tensor and node, as tools do that slim graphs; the quantizer's suffixes stay."""
    names: dict[str, str] = {}
    for tensor in model.graph.initializer:
        suffix = next((end for end in ("_quantized", "_scale", "_zero_point") if tensor.name.endswith(end)), "")
        base = names.setdefault(tensor.name.removesuffix(suffix), f"w{len(names)}")
        names[tensor.name] = tensor.name = base + suffix
    for node in model.graph.node:
        node.name = ""
        for index, read in enumerate(node.input):
            node.input[index] = names.get(read, read)
    return model


@pytest.mark.parametrize("variant", ALL)
def test_sound_export_without_names_is_all_the_checkpoints(load, checkpoint, variant):
    compared = weights.compare(checkpoint, nameless(load(variant)))
    assert (compared.differences, compared.unknown, compared.share) == ((), (), 1)


@pytest.mark.parametrize("variant", ALL)
@pytest.mark.parametrize(
    ("plant", "tensor", "message"),
    [
        (wrong_row, WORDS, "row 123 of 1000x32 is not the checkpoint's"),
        (exponent_bit, DENSE, "row .* of 32x32 is not the checkpoint's"),
        (another_seed, DENSE, "is nowhere in the graph and a tensor of its shape has other values: another revision"),
        (another_seed, BIAS, "is (nowhere in the graph and a tensor of its shape has other values|lost)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_fault_is_found_without_names(load, checkpoint, other_checkpoint, variant, plant, tensor, message):
    model = load(variant)
    plant(Plant(model, checkpoint, other_checkpoint), tensor)
    differences = [str(difference) for difference in weights.compare(checkpoint, nameless(model)).differences]
    assert any(re.match(f"{re.escape(tensor)} {message}", text) for text in differences), differences


@pytest.mark.parametrize("variant", [O2, O2_QUANTIZED])
def test_order_in_fused_attention_is_known_without_names(load, checkpoint, other_checkpoint, variant):
    model = load(variant)
    Plant(model, checkpoint, other_checkpoint).swap(QUERY, KEY)
    tensors = [difference.tensor for difference in weights.compare(checkpoint, nameless(model)).differences]
    assert tensors == [QUERY, KEY]


# --------------------------------------------------------------------- other forms of one weight


def test_fp16_is_the_checkpoints_when_cast(load, checkpoint):
    """As ONNX Runtime converts it, tiny values included."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    tiny = checkpoint | {BIAS: np.geomspace(1e-9, 1, 64, dtype=np.float32)}
    model = load(PLAIN)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == BIAS)
    bias.CopyFrom(numpy_helper.from_array(tiny[BIAS], BIAS))
    half = convert_float_to_float16(model)
    assert sum(tensor.data_type == TensorProto.FLOAT16 for tensor in half.graph.initializer) >= 37
    compared = weights.compare(tiny, half)
    assert (compared.differences, compared.unknown, compared.share) == ((), (), 1)
    words = next(tensor for tensor in half.graph.initializer if tensor.name == WORDS)
    values = numpy_helper.to_array(words).copy()
    values[7, 7] = np.nextafter(values[7, 7], np.float16(9))
    words.CopyFrom(numpy_helper.from_array(values, WORDS))
    (difference,) = weights.compare(tiny, half).differences
    assert str(difference).startswith(f"{WORDS} row 7 of 1000x32 is not the checkpoint's (1 of 32000")


def graph_of(operator, **arrays):
    """A graph of one node, whose first input is activations."""
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    node = helper.make_node(operator, ["hidden", *arrays], ["out"], f"/folded/{operator}")
    return helper.make_model(helper.make_graph([node], "graph", [], [], tensors))


@pytest.mark.parametrize(
    "fold", [lambda array: array + 1, lambda array: array.reshape(2, 1, 16)], ids=["plus-one", "heads"]
)
def test_what_exporters_fold_is_recognised(fold):
    """1 + weight of Gemma's norms; DeBERTa's biases, split into heads."""
    vector = np.random.default_rng(6).normal(size=32).astype(np.float32)
    assert weights.compare({"norm.weight": vector}, graph_of("Mul", c=fold(vector))).share == 1
    damaged = fold(vector).copy()
    damaged.flat[3] += 0.5
    (difference,) = weights.compare({"norm.weight": vector}, graph_of("Mul", c=damaged)).differences
    assert re.match(r"norm.weight .*\(1 of 32 elements, largest difference 0.5\)", str(difference))


def test_weight_that_is_stored_inputs_first_is_not_transposed(tmp_path):
    """GPT-2's are, and one that is turned round is found."""
    folders = [tmp_path / name for name in ("checkpoint", "plain")]
    for folder in folders:
        folder.mkdir()
    seeded.make([], folders[0], {"architecture": "gpt2", "seed": 3, "auto_class": "AutoModel", "labels": 1})
    export_onnx(folders[:1], folders[1], {"task": "feature-extraction", "opset": OPSET})
    model, tensors = onnx.load(folders[1] / "model.onnx"), read_tensors(folders[0])
    compared = weights.compare(tensors, model)
    assert (compared.differences, compared.share) == ((), 1)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("h.1.attn.c_proj.weight"))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).T.copy(), weight.name))
    assert [str(difference) for difference in weights.compare(tensors, model).differences] == [
        "h.1.attn.c_proj.weight is transposed"
    ]


# ------------------------------------------------------------------------------ reading, judging


def test_checkpoints_are_read_widened_and_from_shards(tmp_path):
    floats = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    save_file({"a.weight": floats.astype(ml_dtypes.bfloat16), "ids": np.arange(3)}, tmp_path / "model-1.safetensors")
    save_file({"b.weight": floats.astype(np.float16)}, tmp_path / "model-2.safetensors")
    save_file({"layers.0.w1": floats}, tmp_path / "consolidated.safetensors")  # the same, as Mistral names it
    index = {"weight_map": {"a.weight": "model-1.safetensors", "b.weight": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    tensors = read_tensors(tmp_path)
    assert {name: array.dtype for name, array in tensors.items()} == {"a.weight": np.float32, "b.weight": np.float32}
    assert np.array_equal(tensors["a.weight"], floats.astype(ml_dtypes.bfloat16).astype(np.float32))
    assert np.array_equal(tensors["b.weight"], floats.astype(np.float16).astype(np.float32))


def test_pickled_checkpoints_are_read_without_pytorch(tmp_path):
    import torch

    base = torch.arange(24.0).reshape(4, 6)
    state = {
        "x.weight": base.T, "x.bias": torch.nn.Parameter(base[1, 2:5]), "half": base.bfloat16(), "n": torch.arange(2),
    }  # fmt: skip
    torch.save(state, tmp_path / "pytorch_model.bin")
    torch.save({"weight": base}, tmp_path / COLBERT_FILE)
    tensors = read_tensors(tmp_path)
    assert tensors.keys() == {"x.weight", "x.bias", "half", "colbert_linear.weight"}
    for name in ("x.weight", "x.bias", "half"):
        assert np.array_equal(tensors[name], state[name].detach().float().numpy())


def test_unreadable_checkpoints_say_why(tmp_path):
    with pytest.raises(WeightsUnreadable, match=r"neither \*.safetensors nor pytorch_model"):
        read_tensors(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(WeightsUnreadable, match=r"pytorch_model.bin is not a file that torch.save writes"):
        read_tensors(tmp_path)


def test_damaged_or_unknown_weights_are_unreadable(tmp_path):
    file, index = tmp_path / "model.safetensors", tmp_path / "model.safetensors.index.json"
    save_file({"a": np.zeros(4, ml_dtypes.float8_e4m3fn)}, file)
    with pytest.raises(
        WeightsUnreadable, match=r"model.safetensors: a is of type F8_E4M3, which nothing here compares"
    ):
        read_tensors(tmp_path)
    file.write_bytes(b"\xff" * 20)
    with pytest.raises(WeightsUnreadable, match=r"model.safetensors cannot be read"):
        read_tensors(tmp_path)
    index.write_text('{"weight_map": ["a"]}')
    with pytest.raises(WeightsUnreadable, match=r"model.safetensors.index.json cannot be read"):
        read_tensors(tmp_path)


def test_compressed_pickle_is_not_read(tmp_path):
    """A few bytes of it may be more than the memory; torch.save compresses nothing."""
    import torch

    file = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(1000)}, file)
    assert read_tensors(tmp_path).keys() == {"a"}
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(WeightsUnreadable, match="it is compressed"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("cut", [10, 100, 400])
def test_cut_pickle_is_unreadable(tmp_path, cut):
    """Whatever the archive's reader makes of it: bytes are lost at its beginning."""
    import torch

    file = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(1000)}, file)
    file.write_bytes(file.read_bytes()[cut:])
    with pytest.raises(WeightsUnreadable, match=r"pytorch_model.bin is not a file that torch.save writes"):
        read_tensors(tmp_path)


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return self.file.touch, ()


def test_pickled_code_is_not_run(tmp_path):
    import torch

    torch.save({"a": Evil(tmp_path / "mark")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsUnreadable, match="it names"):
        read_tensors(tmp_path)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("shape", [b"K\xffK\x06\x86", b"J\xff\xff\xff\xffK\x06\x86"], ids=["too-long", "negative"])
def test_tensor_beside_its_storage_is_not_read(tmp_path, shape):
    import torch

    file, four_by_six = tmp_path / "pytorch_model.bin", b"K\x04K\x06\x86"
    torch.save({"a": torch.arange(24.0).reshape(4, 6)}, file)
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    assert any(four_by_six in content for content in members.values())
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content.replace(four_by_six, shape))
    with pytest.raises(WeightsUnreadable, match="lies beside its storage of 24 elements"):
        read_tensors(tmp_path)


def test_check_names_model_variant_and_tensor_first(load, checkpoint, other_checkpoint):
    findings: list[str] = []
    measured, model = Measured(), load(PLAIN)
    case = stand_in(Case, subject=stand_in(Subject, name="tiny"), variant=VARIANT[PLAIN], file=Path("model.onnx"))
    test_weights.test_weights_are_the_checkpoints(case, model, checkpoint, measured, findings.append)
    assert findings[0].startswith(
        "37 of 37 tensors, 100.00% of their elements, are the checkpoint's; not in the graph: po"
    )
    assert measured.matched_share == 1
    wrong_row(Plant(model, checkpoint, other_checkpoint), WORDS)
    with pytest.raises(
        pytest.fail.Exception, match=rf"^tiny plain: {WORDS} row 123 of 1000x32 is not the checkpoint's"
    ):
        test_weights.test_weights_are_the_checkpoints(case, model, checkpoint, measured, findings.append)


def test_check_of_an_unreadable_checkpoint_is_unsupported(tmp_path):
    context = stand_in(Context, options=stand_in(Options, required=frozenset()))
    subject = stand_in(Subject, plan=stand_in(Plan, graph=None), weights_folder=tmp_path)
    with pytest.raises(pytest.skip.Exception, match=r"^unsupported: .* has neither"):
        read_weights(stand_in(Case, subject=subject, context=context))
