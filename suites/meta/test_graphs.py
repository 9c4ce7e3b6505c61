"""Functions of graphs read back what was put into a graph."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from fixtures.graphs import quantization
from fixtures.graphs.graph import added_operators, input_types, module_of, opsets, output_types
from fixtures.graphs.quantization import LARGEST_ERROR_STEPS, quantized_weights

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
    errors = quantization.round_trip(model, quantized)
    assert all(steps_of(error) <= LARGEST_ERROR_STEPS for error in errors), errors
    assert [error.relative for error in errors] == sorted((error.relative for error in errors), reverse=True)


def test_wrong_scale_and_changed_weight_are_seen(quantize):
    model, quantized = quantize(per_channel=True)
    scale = next(tensor for tensor in quantized.graph.initializer if tensor.name == "onnx::MatMul_7_scale")
    values = numpy_helper.to_array(scale).copy()
    values[3] *= 2
    scale.CopyFrom(numpy_helper.from_array(values, scale.name))
    worst, *sound = quantization.round_trip(model, quantized)
    assert worst.layer == "encoder.layer.0.query"
    assert steps_of(worst) > 10
    assert all(steps_of(error) <= LARGEST_ERROR_STEPS for error in sound)


def steps_of(error: quantization.LayerError) -> float:
    """Return by how many steps a weight is off that the original graph has."""
    assert error.steps is not None
    return error.steps


def test_weight_without_its_original_is_named(quantize):
    model, quantized = quantize()
    model.graph.initializer.remove(next(tensor for tensor in model.graph.initializer if tensor.name == "table"))
    errors = quantization.round_trip(model, quantized)
    assert [error.layer for error in errors if error.steps is None] == ["embeddings.word"]
