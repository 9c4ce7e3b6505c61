"""Quantized weights of every format: what ONNX Runtime makes of them is what is read back, sound and damaged."""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from fixtures.graphs import weights
from fixtures.graphs.integer_formats import quantized_weights

ROWS, COLUMNS, BLOCK = 64, 48, 32
TABLE_BLOCK = 16
LINEAR_STEP = 8 / 255
"""Of products that are rounded to 8 bits."""
FLOATS = np.random.default_rng(11).normal(size=(ROWS, COLUMNS)).astype(np.float32)
"""A weight as graphs have it, inputs first; the checkpoint has its transpose."""
PRODUCT = ("MatMul", ["x", "w"], ["y"])


class Node(NamedTuple):
    """Arguments of `helper.make_node`."""

    operator: str
    inputs: list[str]
    outputs: list[str]
    domain: str = ""
    attributes: Mapping[str, object] = MappingProxyType({})


class Format(NamedTuple):
    """A graph that multiplies x by FLOATS, or reads their rows.

    Attributes:
        constants: name -> array; `q` are the integers, `s` their scales, `z` their zero points.
    """

    nodes: list[Node]
    constants: dict[str, np.ndarray]


def scaled(values, axis=None, levels=127):
    """Return symmetric integers and their scales, one for each slice along an axis, or one.

    Args:
        levels: what stands for the largest magnitude; 128 is cut off to 127.
    """
    axes = tuple(i for i in range(values.ndim) if axis is not None and i != axis % values.ndim) or None
    scale = (np.abs(values).max(axis=axes, keepdims=True) / levels).astype(np.float32)
    return np.clip(np.rint(values / scale), -128, 127).astype(np.int8), scale


def in_blocks(values, axis, bits=8, block_size=BLOCK):
    """Return symmetric integers, and their scales with one for each block along an axis."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    moved = np.moveaxis(values, axis, -1)
    blocks = moved.reshape(*moved.shape[:-1], -1, block_size)
    scale = (np.abs(blocks).max(axis=-1, keepdims=True) / high).astype(np.float32)
    integers = np.clip(np.rint(blocks / scale), low, high).reshape(moved.shape)
    return np.moveaxis(integers, -1, axis).astype(np.int8), np.moveaxis(scale[..., 0], -1, axis)


def with_zero_points(values):
    """Return unsigned integers, their scales and their zero points, one for each column."""
    low, high = values.min(axis=0), values.max(axis=0)
    scale = ((high - low) / 255).astype(np.float32)
    zero_point = np.rint(-low / scale)
    return np.clip(np.rint(values / scale) + zero_point, 0, 255).astype(np.uint8), scale, zero_point.astype(np.uint8)


def dequantized(integers, scale, zero_point=None, **attributes):
    names = ["q", "s"] if zero_point is None else ["q", "s", "z"]
    arrays = [integers, scale] if zero_point is None else [integers, scale, zero_point]
    nodes = [Node("DequantizeLinear", names, ["w"], attributes=attributes), Node(*PRODUCT)]
    return Format(nodes, dict(zip(names, arrays, strict=True)))


def dequantized_per_tensor():
    integers, scale = scaled(FLOATS)
    return dequantized(integers, scale.reshape(()))


def dequantized_per_column():
    integers, scale = scaled(FLOATS, axis=1)
    return dequantized(integers, scale.ravel(), axis=1)


def dequantized_and_cut_off():
    integers, scale = scaled(FLOATS, axis=1, levels=128)
    return dequantized(integers, scale.ravel(), axis=1)


def dequantized_per_row():
    integers, scale = scaled(FLOATS, axis=0)
    return dequantized(integers, scale.ravel(), axis=0)


def dequantized_with_zero_points():
    return dequantized(*with_zero_points(FLOATS), axis=-1)


def dequantized_in_blocks():
    integers, scale = in_blocks(FLOATS, 0)
    return dequantized(integers, scale, axis=0, block_size=BLOCK)


def dequantized_in_blocks_of_4_bits():
    integers, scale = in_blocks(FLOATS, 0, bits=4)
    return dequantized(integers.astype(ml_dtypes.int4), scale, axis=0, block_size=BLOCK)


def dequantized_and_transposed():
    integers, scale = scaled(FLOATS.T, axis=0)
    nodes = [
        Node("DequantizeLinear", ["q", "s"], ["t"], attributes={"axis": 0}),
        Node("Transpose", ["t"], ["w"], attributes={"perm": [1, 0]}),
        Node(*PRODUCT),
    ]
    return Format(nodes, {"q": integers, "s": scale.ravel()})


def dequantized_blocks_of_a_transposed_weight():
    integers, scale = in_blocks(FLOATS.T, 1)
    nodes = [
        Node("DequantizeLinear", ["q", "s"], ["t"], attributes={"axis": 1, "block_size": BLOCK}),
        Node("Transpose", ["t"], ["w"], attributes={"perm": [1, 0]}),
        Node(*PRODUCT),
    ]
    return Format(nodes, {"q": integers, "s": scale})


def dequantized_for_gemm():
    integers, scale = scaled(FLOATS.T, axis=0)
    nodes = [
        Node("DequantizeLinear", ["q", "s"], ["w"], attributes={"axis": 0}),
        Node("Gemm", ["x", "w"], ["y"], attributes={"transB": 1}),
    ]
    return Format(nodes, {"q": integers, "s": scale.ravel()})


def dequantized_from_8_bit_floats():
    scale = np.float32(np.abs(FLOATS).max() / 448)
    return dequantized((FLOATS / scale).astype(ml_dtypes.float8_e4m3fn), scale)


def cast(integers, scale, *behind, zero_point=None):
    nodes = [Node("Cast", ["q"], ["c"], attributes={"to": TensorProto.FLOAT})]
    constants = {"q": integers, "s": scale}
    output = "c"
    if zero_point is not None:
        nodes += [
            Node("Cast", ["z"], ["cz"], attributes={"to": TensorProto.FLOAT}),
            Node("Sub", ["c", "cz"], ["shifted"]),
        ]
        constants["z"], output = zero_point, "shifted"
    return Format([*nodes, Node("Mul", [output, "s"], ["m" if behind else "w"]), *behind, Node(*PRODUCT)], constants)


def cast_per_tensor():
    integers, scale = scaled(FLOATS)
    return cast(integers, scale.reshape(1))


def cast_per_column():
    integers, scale = scaled(FLOATS, axis=1)
    return cast(integers, scale)


def cast_with_zero_points():
    integers, scale, zero_point = with_zero_points(FLOATS)
    return cast(integers, scale, zero_point=zero_point)


def cast_in_blocks():
    integers, scale = in_blocks(FLOATS, 0)
    blocks = integers.reshape(ROWS // BLOCK, BLOCK, COLUMNS)
    made = cast(blocks, scale[:, None, :], Node("Reshape", ["m", "shape"], ["w"]))
    return made._replace(constants=made.constants | {"shape": np.array([ROWS, COLUMNS])})


def quantized_product(nodes, integers, scale, zero_point=None, **constants):
    zero_point = np.zeros(scale.shape, integers.dtype) if zero_point is None else zero_point
    return Format(nodes, {"q": integers, "s": scale, "z": zero_point, **constants})


def dynamic():
    """As `quantize_dynamic` makes it."""
    integers, scale = scaled(FLOATS, axis=1)
    nodes = [
        Node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
        Node("MatMulInteger", ["xq", "q", "xz", "z"], ["i"]),
        Node("Cast", ["i"], ["f"], attributes={"to": TensorProto.FLOAT}),
        Node("Mul", ["xs", "s"], ["both"]),
        Node("Mul", ["f", "both"], ["y"]),
    ]
    return quantized_product(nodes, integers, scale.ravel())


def dynamic_fused():
    nodes = [Node("DynamicQuantizeMatMul", ["x", "q", "s", "z"], ["y"], "com.microsoft")]
    return quantized_product(nodes, *with_zero_points(FLOATS))


def integer_to_float():
    integers, scale, zero_point = with_zero_points(FLOATS)
    nodes = [
        Node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
        Node("MatMulIntegerToFloat", ["xq", "q", "xs", "s", "xz", "z"], ["y"], "com.microsoft"),
    ]
    return quantized_product(nodes, integers, scale, zero_point)


def linear(operator, domain=""):
    """As the format QOperator has it: activations in [0, 1], products in [-4, 4]."""
    integers, scale = scaled(FLOATS)
    ranges = {"xs": np.float32(1 / 255), "xz": np.uint8(0), "ys": np.float32(LINEAR_STEP), "yz": np.uint8(128)}
    product = {
        "QLinearMatMul": Node("QLinearMatMul", ["xq", "xs", "xz", "q", "s", "z", "ys", "yz"], ["yq"]),
        "QGemm": Node("QGemm", ["xq", "xs", "xz", "q", "s", "z", "", "ys", "yz"], ["yq"], domain, {"transB": 1}),
    }[operator]
    nodes = [
        Node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        product,
        Node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
    ]
    stored = integers.T if operator == "QGemm" else integers
    return quantized_product(nodes, np.ascontiguousarray(stored), scale.reshape(()), **ranges)


def linear_product():
    return linear("QLinearMatMul")


def linear_gemm():
    return linear("QGemm", "com.microsoft")


def table(integers, scale, zero_point=None):
    names = ["q", "x", "s", *(["z"] if zero_point is not None else [])]
    attributes = {"gather_axis": 0, "quantize_axis": 1, "block_size": TABLE_BLOCK, "bits": 4}
    constants = {"q": integers, "s": scale} | ({} if zero_point is None else {"z": zero_point})
    return Format([Node("GatherBlockQuantized", names, ["y"], "com.microsoft", attributes)], constants)


def table_of_4_bits():
    integers, scale = in_blocks(FLOATS, 1, bits=4, block_size=TABLE_BLOCK)
    return table(integers.astype(ml_dtypes.int4), scale)


def table_of_4_bits_in_bytes():
    integers, scale = in_blocks(FLOATS, 1, bits=4, block_size=TABLE_BLOCK)
    halves = (integers + 8).astype(np.uint8)
    return table(halves[:, ::2] | (halves[:, 1::2] << 4), scale)


def gathered_and_dequantized():
    integers, scale = scaled(FLOATS)
    nodes = [Node("Gather", ["q", "x"], ["rows"]), Node("DequantizeLinear", ["rows", "s"], ["y"])]
    return Format(nodes, {"q": integers, "s": scale.reshape(())})


FORMATS: tuple[Callable[[], Format], ...] = (
    dequantized_per_tensor,
    dequantized_per_column,
    dequantized_and_cut_off,
    dequantized_per_row,
    dequantized_with_zero_points,
    dequantized_in_blocks,
    dequantized_in_blocks_of_4_bits,
    dequantized_and_transposed,
    dequantized_blocks_of_a_transposed_weight,
    dequantized_for_gemm,
    dequantized_from_8_bit_floats,
    cast_per_tensor,
    cast_per_column,
    cast_with_zero_points,
    cast_in_blocks,
    dynamic,
    dynamic_fused,
    integer_to_float,
    linear_product,
    linear_gemm,
    table_of_4_bits,
    table_of_4_bits_in_bytes,
    gathered_and_dequantized,
)
TRANSPOSED = {dequantized_and_transposed, dequantized_blocks_of_a_transposed_weight, dequantized_for_gemm, linear_gemm}
"""Formats that store the weight as the checkpoint does."""
TABLES = {table_of_4_bits, table_of_4_bits_in_bytes, gathered_and_dequantized}


def model_of(make):
    """Return the graph of a format, its nodes named after the module that they are of."""
    made = make()
    nodes = [
        helper.make_node(
            node.operator, node.inputs, node.outputs, f"/layer/{node.operator}_{node.outputs[0]}", None, node.domain
        )
        for node in made.nodes
    ]
    for proto, node in zip(nodes, made.nodes, strict=True):
        proto.attribute.extend(helper.make_attribute(name, value) for name, value in node.attributes.items())
    x = (TensorProto.INT64, ["n"]) if make in TABLES else (TensorProto.FLOAT, ["n", ROWS])
    graph = helper.make_graph(
        nodes,
        "one weight",
        [helper.make_tensor_value_info("x", *x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", COLUMNS])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in made.constants.items()],
    )
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=10)


def computed(model, make):
    """Return what ONNX Runtime takes the weight for: its product with the unit matrix, or all its rows."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.arange(ROWS) if make in TABLES else np.eye(ROWS, dtype=np.float32)
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("make", FORMATS, ids=lambda make: make.__name__)
def test_weight_is_what_onnx_runtime_takes_it_for(make):
    model = model_of(make)
    (weight,) = quantized_weights(model)
    floats = weight.floats.T if make in TRANSPOSED else weight.floats
    rounded = 0.5 * LINEAR_STEP if make in (linear_product, linear_gemm) else 0
    assert np.abs(floats - computed(model, make)).max() <= rounded + 1e-5
    assert weight.is_table == (make in TABLES)
    if make not in (dequantized_and_transposed, dequantized_blocks_of_a_transposed_weight):
        assert weight.layer == "layer"


@pytest.mark.parametrize("make", FORMATS, ids=lambda make: make.__name__)
def test_sound_weight_is_the_checkpoints(make):
    compared = weights.compare(checkpoint_of(make), model_of(make))
    assert not compared.differences
    assert compared.share == 1


def checkpoint_of(make):
    return {"layer.weight": FLOATS if make in TABLES else np.ascontiguousarray(FLOATS.T)}


@pytest.mark.parametrize("make", FORMATS, ids=lambda make: make.__name__)
def test_one_wrong_integer_is_found(make):
    model = model_of(make)
    integers = next(tensor for tensor in model.graph.initializer if tensor.name == "q")
    raw = bytearray(integers.raw_data)
    raw[100] ^= 0x44
    integers.raw_data = bytes(raw)
    (difference,) = weights.compare(checkpoint_of(make), model).differences
    assert difference.tensor == "layer.weight"


@pytest.mark.parametrize("make", FORMATS, ids=lambda make: make.__name__)
def test_wrong_scale_is_found_and_named(make):
    model = model_of(make)
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == "s")
    scales = numpy_helper.to_array(scale).copy()
    scales.flat[0] *= np.float32(1.5)
    scale.CopyFrom(numpy_helper.from_array(scales, "s"))
    (difference,) = weights.compare(checkpoint_of(make), model).differences
    assert difference.tensor == "layer.weight"
    if make is not dequantized_from_8_bit_floats:
        (percent,) = re.findall(r"has a scale that is off by \+([\d.]+)%", difference.problem)
        assert float(percent) == pytest.approx(50, abs=2)
        assert (f"in 1 of {scales.size}" in difference.problem) == (scales.size > 1)


def test_scale_that_is_no_constant_is_not_guessed():
    """A graph that computes its scale says nothing of its weight: it is listed as not recognised."""
    model = model_of(dequantized_per_tensor)
    model.graph.node.insert(0, helper.make_node("Identity", ["s"], ["computed"]))
    model.graph.node[1].input[1] = "computed"
    assert not quantized_weights(model)
    compared = weights.compare(checkpoint_of(dequantized_per_tensor), model)
    assert compared.unknown == ("q",)
    assert compared.share == 0


def test_integers_that_are_no_weights_are_left():
    """A constant that is cast and shifted, but multiplied by what is computed."""
    model = model_of(cast_per_tensor)
    model.graph.node.insert(1, helper.make_node("ReduceMax", ["c"], ["largest"], keepdims=0))
    model.graph.node[2].input[1] = "largest"
    assert not quantized_weights(model)
