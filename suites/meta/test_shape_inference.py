"""What spares memory changes nothing that optimizer or quantizers make: shapes without weights, tables in
pieces, channels at once.
"""

import json
from contextlib import nullcontext

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnxruntime.quantization import quant_utils
from onnxruntime.quantization.base_quantizer import BaseQuantizer

from fixtures.build.store import Store
from fixtures.export import lean_quantizer, onnx_export, quantize, recipes, shape_inference
from fixtures.export.variants import VARIANT
from fixtures.models.checkpoints import Checkpoint
from fixtures.runtimes import hardware

MACHINE = hardware.detect()
INT8 = {**vars(MACHINE.int8)}


@pytest.fixture(scope="module", params=["bert", "t5", "qwen3", "deberta_v2"])
def plain(request, shared_store):
    """The folder of a plain export."""
    store = Store(shared_store)
    root = recipes.prepare("tiny", Checkpoint(None, None, "sha256:" + "0" * 64), f"seeded:{request.param}@7")
    return store.run(recipes.plan("tiny", VARIANT["plain"], root, "feature-extraction", MACHINE)).folder


def made(function, source, output, parameters):
    """Return the graph that a step makes, or the type of its error."""
    output.mkdir()
    try:
        function([source], output, parameters)
    except NotImplementedError as error:
        return type(error)
    model = onnx.load(output / "model.onnx")
    constants = [attribute.t for node in model.graph.node for attribute in node.attribute if attribute.HasField("t")]
    for tensor in [*model.graph.initializer, *constants]:
        tensor.ClearField("data_location")  # of those that were written to a file of their own and read again
    return model


def quantize_statically(inputs, output, parameters):
    """Quantize a graph with ranges that fit any activation."""
    nodes = onnx.load(inputs[0] / "model.onnx").graph.node
    ranges = output.with_name(f"{output.name}-ranges")
    ranges.mkdir()
    (ranges / quantize.RANGES_FILE).write_text(json.dumps({name: [-1, 1] for node in nodes for name in node.output}))
    quantize.quantize_static([*inputs, ranges], output, parameters)


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (onnx_export.optimize, {"level": "O1", "raw_mask": False}),
        (onnx_export.optimize, {"level": "O2", "raw_mask": True}),
        (onnx_export.optimize, {"level": "O4", "raw_mask": False, "for_gpu": False}),
        (quantize.quantize, INT8),
        (quantize.quantize_fused, INT8),
        (quantize_statically, INT8),
    ],
    ids=["O1", "O2", "O4", "quantize", "quantize-fused", "quantize-static"],
)
def test_graphs_are_those_of_the_libraries_themselves(plain, tmp_path, monkeypatch, function, parameters):
    monkeypatch.setattr(lean_quantizer, "PIECE", 1000)
    light = made(function, plain, tmp_path / "light", parameters)
    monkeypatch.setattr(onnx_export, "without_weights", nullcontext)
    monkeypatch.setattr(quantize, "lean_quantizer", nullcontext)
    assert light == made(function, plain, tmp_path / "libraries", parameters)


def test_structure_has_the_shapes_of_weights_and_the_values_of_what_is_none(plain):
    model = onnx.load(plain / "model.onnx")
    structure = shape_inference.structure_of(model)
    assert list(structure.graph.node) == list(model.graph.node)
    for tensor, original in zip(structure.graph.initializer, model.graph.initializer, strict=True):
        assert (tensor.name, tensor.dims, tensor.data_type) == (original.name, original.dims, original.data_type)
        is_weight = original.data_type == TensorProto.FLOAT and len(original.raw_data) > 4 * 1024
        assert (tensor == original) is not is_weight
        assert not (is_weight and tensor.raw_data)


@pytest.mark.parametrize(
    ("function", "parameters", "calls"),
    [(onnx_export.optimize, {"level": "O2", "raw_mask": False}, 4), (quantize.quantize, INT8, 2)],
    ids=["optimize", "quantize"],
)
def test_libraries_infer_shapes_of_structures_alone(tmp_path, monkeypatch, shared_store, function, parameters, calls):
    """A release that infers shapes by another way would copy the weights again, and nobody would notice."""
    root = recipes.prepare("tiny", Checkpoint(None, None, "sha256:" + "0" * 64), "seeded:bert@7")
    plan = recipes.plan("tiny", VARIANT["plain"], root, "feature-extraction", MACHINE)
    structures = []
    original = shape_inference.structure_of

    def noted(model):
        structures.append(original(model))
        return structures[-1]

    monkeypatch.setattr(shape_inference, "structure_of", noted)
    made(function, Store(shared_store).run(plan).folder, tmp_path / "made", parameters)
    assert len(structures) == calls


@pytest.mark.parametrize("function", [quantize.quantize, quantize.quantize_fused], ids=["quantize", "quantize-fused"])
def test_tables_are_quantized_in_pieces(tmp_path, monkeypatch, shared_store, function):
    """A release that quantizes them by another way would copy them again."""
    root = recipes.prepare("tiny", Checkpoint(None, None, "sha256:" + "0" * 64), "seeded:bert@7")
    plan = recipes.plan("tiny", VARIANT["plain"], root, "feature-extraction", MACHINE)
    original, sizes = quant_utils.quantize_nparray, []

    def noted(element_type, values, *rest):
        sizes.append(len(values))
        return original(element_type, values, *rest)

    monkeypatch.setattr(lean_quantizer, "PIECE", 1000)
    monkeypatch.setattr(quant_utils, "quantize_nparray", noted)
    made(function, Store(shared_store).run(plan).folder, tmp_path / "made", INT8)
    assert max(sizes) == 1000


@pytest.mark.parametrize("function", [quantize.quantize, quantize.quantize_fused], ids=["quantize", "quantize-fused"])
def test_weights_above_protobufs_limit_are_saved_beside_the_graph(plain, tmp_path, monkeypatch, function):
    """Optimum saves one file, which ends with an error above 2 GB: layers that stay in fp32 get a large model there."""
    whole = made(function, plain, tmp_path / "whole", INT8)
    monkeypatch.setattr(lean_quantizer, "BYTES_IN_GRAPH", 1000)
    assert made(function, plain, tmp_path / "parted", INT8) == whole
    names = {folder: {file.name for file in folder.glob("model.onnx*")} for folder in tmp_path.glob("*/")}
    assert names[tmp_path / "whole"] == {"model.onnx"}
    assert names[tmp_path / "parted"] == {"model.onnx", "model.onnx.data"}


def test_channels_are_quantized_at_once(tmp_path, monkeypatch, shared_store):
    """A release that quantizes them by another way would do so one by one again."""
    root = recipes.prepare("tiny", Checkpoint(None, None, "sha256:" + "0" * 64), "seeded:bert@7")
    plan = recipes.plan("tiny", VARIANT["plain"], root, "feature-extraction", MACHINE)
    one_by_one, calls = BaseQuantizer.quantize_weight_per_channel_impl, []

    def noted(self, name, *rest):
        calls.append(name)
        return one_by_one(self, name, *rest)

    monkeypatch.setattr(BaseQuantizer, "quantize_weight_per_channel_impl", noted)
    made(quantize.quantize, Store(shared_store).run(plan).folder, tmp_path / "made", INT8)
    assert not calls


@pytest.mark.parametrize("reduce_range", [False, True])
@pytest.mark.parametrize("dtype", [TensorProto.INT8, TensorProto.UINT8])
def test_channels_are_those_of_onnxruntime(dtype, reduce_range):
    """Columns of zeros, of one value, of the smallest and of the largest numbers, and where a value is half a step."""
    generator = np.random.default_rng(7)
    values = generator.normal(size=(33, 12)).astype(np.float32)
    values[:, 0], values[:, 1] = 0, 3
    values[:, 2] *= np.float32(1e-44)
    values[:, 3] *= np.float32(1e-38)
    values[:, 4] *= np.float32(3e37)
    values[:, 5] = np.abs(values[:, 5])
    values[:, 6] = np.linspace(-127, 127, 33) / 2
    channels = lean_quantizer.Channels.of(values, dtype, reduce_range)
    assert channels is not None
    integers = channels.quantize(values)
    for column in range(values.shape[1]):
        zero_point, scale, expected = quant_utils.quantize_data(
            values[:, column].copy(), dtype, True, reduce_range=reduce_range
        )[-3:]
        assert (channels.zero_point[column], channels.scale[column]) == (zero_point, scale)
        assert integers[:, column].tolist() == expected.tolist()
    assert channels.are_those_of_onnxruntime(values)
    channels.scale[channels.scale.argmax()] *= 2
    assert not channels.are_those_of_onnxruntime(values)


@pytest.mark.parametrize("values", [np.full((3, 2), np.nan, np.float32), np.zeros((0, 2), np.float32)])
def test_channels_of_no_numbers_are_left_to_onnxruntime(values):
    assert lean_quantizer.Channels.of(values, TensorProto.INT8, reduce_range=False) is None
