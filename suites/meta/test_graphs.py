"""Functions of graphs read back what was put into a graph."""

import tracemalloc

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from fixtures.export.quantize import quantize_weights
from fixtures.export.recipes import WEIGHT_PARAMETERS
from fixtures.graphs import quantization, weights
from fixtures.graphs.graph import added_operators, input_types, module_of, opsets, output_types
from fixtures.graphs.integer_formats import quantized_weights
from fixtures.graphs.quantization import LARGEST_ERROR_STEPS

RANDOM = np.random.default_rng(3)
WEIGHTS = {"table": (50, 24), "onnx::MatMul_7": (24, 16), "head.weight": (8, 16)}


def tiny():
    """An embedding, a matrix and a Gemm whose weight is stored transposed."""
    arrays = {name: RANDOM.normal(size=shape).astype(np.float32) for name, shape in WEIGHTS.items()}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["embedded"], "/embeddings/word/Gather"),
        helper.make_node("MatMul", ["embedded", "onnx::MatMul_7"], ["hidden"], "/encoder/layer.0/query/MatMul"),
        helper.make_node("Gemm", ["hidden", "head.weight"], ["out"], "/head/Gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes, "tiny",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 8])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.fixture
def quantize(tmp_path):
    def run(weight_type=QuantType.QUInt8, **options):
        onnx.save(model := tiny(), tmp_path / "float.onnx")
        quantize_dynamic(
            tmp_path / "float.onnx", tmp_path / "int8.onnx", weight_type=weight_type,
            extra_options={"WeightSymmetric": True}, **options,
        )  # fmt: skip
        return model, onnx.load(tmp_path / "int8.onnx")

    return run


def test_opsets_inputs_and_outputs():
    model = tiny()
    assert opsets(model) == {"": 18}
    assert input_types(model) == {"ids": ("int64", ("batch",))}
    assert output_types(model) == {"out": ("float", ("batch", 8))}


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("/encoder/layer.0/output/dense/MatMul", "encoder.layer.0.output.dense"),
        ("/encoder/layer.0/output/dense/MatMul_output_0", "encoder.layer.0.output.dense"),
        ("/MatMul", ""),
        ("Attention_0", ""),
        ("", ""),
    ],
)
def test_module_is_read_from_the_name_of_a_node_or_tensor(name, module):
    assert module_of(name) == module


def test_operators_of_optimizers_and_quantizers_are_counted_in_subgraphs_too():
    inner = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["c"]), helper.make_node("Add", ["a", "b"], ["d"])],
        "inner", [], [],
    )  # fmt: skip
    nodes = [
        helper.make_node("If", ["yes"], ["out"], then_branch=inner, else_branch=inner),
        helper.make_node("Attention", ["a"], ["x"], domain="com.microsoft"),
        helper.make_node("LayerNormalization", ["a"], ["y"]),
        helper.make_node("MatMul", ["a", "b"], ["z"]),
    ]
    model = helper.make_model(helper.make_graph(nodes, "outer", [], []))
    assert added_operators(model) == {"LayerNormalization": 1, "MatMulInteger": 2, "com.microsoft.Attention": 1}


@pytest.mark.parametrize("weight_type", [QuantType.QUInt8, QuantType.QInt8])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("reduce_range", [True, False])
def test_quantization_is_read_back(quantize, weight_type, per_channel, reduce_range):
    model, quantized = quantize(weight_type, per_channel=per_channel, reduce_range=reduce_range)
    weights = {weight.layer: weight for weight in quantized_weights(quantized)}
    assert weights.keys() == {"embeddings.word", "encoder.layer.0.query", "head"}
    assert weights.pop("embeddings.word").is_table
    for weight in weights.values():
        assert (weight.dtype, weight.reduced_range, weight.per_channel) == (str(weight_type), reduce_range, per_channel)
    errors = quantization.round_trip(model, quantized_weights(quantized))
    assert all(steps_of(error) <= LARGEST_ERROR_STEPS for error in errors), errors
    assert [error.relative for error in errors] == sorted((error.relative for error in errors), reverse=True)


def test_wrong_scale_and_changed_weight_are_seen(quantize):
    model, quantized = quantize(per_channel=True)
    scale = next(tensor for tensor in quantized.graph.initializer if tensor.name == "onnx::MatMul_7_scale")
    values = numpy_helper.to_array(scale).copy()
    values[3] *= 2
    scale.CopyFrom(numpy_helper.from_array(values, scale.name))
    worst, *sound = quantization.round_trip(model, quantized_weights(quantized))
    assert worst.layer == "encoder.layer.0.query"
    assert steps_of(worst) > 10
    assert all(steps_of(error) <= LARGEST_ERROR_STEPS for error in sound)


def test_blocks_of_rows_have_the_error_of_all(quantize, monkeypatch):
    model, quantized = quantize(per_channel=True)
    whole = quantization.round_trip(model, quantized_weights(quantized))
    monkeypatch.setattr(quantization, "BLOCK", 60)
    blocks = quantization.round_trip(model, quantized_weights(quantized))
    assert [(error.layer, error.steps) for error in blocks] == [(error.layer, error.steps) for error in whole]
    assert [error.relative for error in blocks] == pytest.approx([error.relative for error in whole], rel=1e-12)


def test_large_table_is_compared_in_little_more_memory_than_it_takes_in_floats(monkeypatch):
    """One of 250,000 tokens took seven gigabytes."""
    monkeypatch.setattr(quantization, "BLOCK", 1 << 16)
    values = RANDOM.integers(0, 256, (1 << 16, 32), np.uint8)
    scale, zero_point = np.full((1, 1), 0.1, np.float32), np.full((1, 1), 128, np.float32)
    reader = helper.make_node("Gather", ["table", "ids"], ["embedded"], "/embeddings/word/Gather")
    weight = quantization.QuantizedWeight(
        "table", "table_quantized", "QUInt8", 8, values, scale, zero_point, (), ((reader, 0),)
    )
    table = numpy_helper.from_array(weight.floats(), "table")
    model = helper.make_model(helper.make_graph([reader], "table", [], [], [table]))
    tracemalloc.start()
    (error,) = quantization.round_trip(model, [weight])
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert steps_of(error) == 0
    assert peak_bytes < 1.5 * values.size * np.dtype(np.float32).itemsize


def test_weight_of_another_shape_is_no_original(quantize):
    model, quantized = quantize()
    (table,) = (tensor for tensor in model.graph.initializer if tensor.name == "table")
    table.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(table)[:-1], "table"))
    lost = [
        error.layer for error in quantization.round_trip(model, quantized_weights(quantized)) if error.steps is None
    ]
    assert lost == ["embeddings.word"]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rows", [64, 72], ids=["whole blocks", "last block in part"])
def test_weights_in_blocks_are_read_back(tmp_path, bits, symmetric, rows):
    """What they stand for is what ONNX Runtime makes of them: the product with the unit matrix."""
    values = np.random.default_rng(7).normal(size=(rows, 8)).astype(np.float32)
    values[:32, 3] = np.abs(values[:32, 3])
    values[32:64, 5] = 0  # a block whose scale is zero
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="/layer/MatMul")], "one layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(values, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "model.onnx")
    (output := tmp_path / "quantized").mkdir()
    parameters = {"bits": bits, "block_size": 32, "symmetric": symmetric, "accuracy_level": 0}
    quantize_weights([tmp_path], output, parameters)
    quantized = onnx.load(output / "model.onnx")
    (weight,) = quantized_weights(quantized)
    assert (weight.name, weight.layer, weight.blocks) == ("w", "layer", quantization.Blocks(**parameters))
    session = onnxruntime.InferenceSession(str(output / "model.onnx"), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": np.eye(rows, dtype=np.float32)})
    assert np.abs(weight.floats() - expected).max() < 1e-6
    (error,) = quantization.round_trip(model, quantized_weights(quantized))
    assert 0.3 < steps_of(error) <= LARGEST_ERROR_STEPS
    comparison = weights.compare({"layer.weight": values.T}, quantized)
    assert not comparison.differences
    assert comparison.share == 1

    node = next(node for node in quantized.graph.node if node.op_type == "MatMulNBits")
    scale = next(tensor for tensor in quantized.graph.initializer if tensor.name == node.input[2])
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1.1), scale.name))
    assert steps_of(quantization.round_trip(model, quantized_weights(quantized))[0]) > LARGEST_ERROR_STEPS
    (difference,) = weights.compare({"layer.weight": values.T}, quantized).differences
    assert difference.tensor == "layer.weight"
    assert "scale that is off by +10" in difference.problem
    assert "blocks" in difference.problem


def test_matrix_of_two_layers_is_quantized_once(tmp_path):
    """As ALBERT's layers share theirs: a file may hold a name only once."""
    values = np.random.default_rng(7).normal(size=(64, 64)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="/layer/MatMul"),
         helper.make_node("MatMul", ["y", "w"], ["z"], name="/layer_1/MatMul")], "a layer that runs twice",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(values, "w")],
    )  # fmt: skip
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "model.onnx"
    )
    (output := tmp_path / "quantized").mkdir()
    quantize_weights([tmp_path], output, WEIGHT_PARAMETERS["int4"])
    onnx.checker.check_model(output / "model.onnx")
    assert len(onnx.load(output / "model.onnx").graph.initializer) == 3
    assert len(quantized_weights(onnx.load(output / "model.onnx"))) == 1


def test_graph_without_matrices_is_not_quantized_in_blocks(tmp_path):
    model = tiny()
    del model.graph.node[1]
    model.graph.node[1].input[0] = "embedded"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(NotImplementedError, match="what MatMul multiplies by"):
        quantize_weights([tmp_path], tmp_path, WEIGHT_PARAMETERS["int4"])


def steps_of(error: quantization.LayerError) -> float:
    """Return by how many steps a weight is off that the original graph has."""
    assert error.steps is not None
    return error.steps


def test_weight_without_its_original_is_named(quantize):
    model, quantized = quantize()
    model.graph.initializer.remove(next(tensor for tensor in model.graph.initializer if tensor.name == "table"))
    errors = quantization.round_trip(model, quantized_weights(quantized))
    assert [error.layer for error in errors if error.steps is None] == ["embeddings.word"]
