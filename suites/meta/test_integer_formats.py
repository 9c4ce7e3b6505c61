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
from fixtures.graphs.quantization import Granularity
from fixtures.graphs.quantization_kind import Activations, QuantizationKind, kind_of

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


def cast_in_blocks_around_one_zero_point():
    integers, scale = in_blocks(FLOATS, 0)
    blocks = (integers.astype(np.int16) + 128).astype(np.uint8).reshape(ROWS // BLOCK, BLOCK, COLUMNS)
    made = cast(blocks, scale[:, None, :], Node("Reshape", ["m", "shape"], ["w"]), zero_point=np.uint8(128))
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


def dynamic_scaled_in_two_steps():
    made = dynamic()
    return made._replace(nodes=[*made.nodes[:3], Node("Mul", ["f", "xs"], ["half"]), Node("Mul", ["half", "s"], ["y"])])


def dynamic_with_its_scales_the_other_way_round():
    made = dynamic()
    nodes = [node._replace(inputs=node.inputs[::-1]) if node.outputs == ["both"] else node for node in made.nodes]
    return made._replace(nodes=nodes)


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


def linear_convolution():
    """A kernel of one column, with a scale for each of its outputs."""
    integers, scale = scaled(FLOATS.T, axis=0)
    ranges = {"xs": np.float32(1 / 255), "xz": np.uint8(0), "ys": np.float32(LINEAR_STEP), "yz": np.uint8(128)}
    nodes = [
        Node("Unsqueeze", ["x", "axis"], ["column"]),
        Node("QuantizeLinear", ["column", "xs", "xz"], ["xq"]),
        Node("QLinearConv", ["xq", "xs", "xz", "q", "s", "z", "ys", "yz"], ["yq"]),
        Node("DequantizeLinear", ["yq", "ys", "yz"], ["whole"]),
        Node("Squeeze", ["whole", "axis"], ["y"]),
    ]
    return quantized_product(nodes, integers[:, :, None], scale.ravel(), axis=np.array([2]), **ranges)


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


def table_of_8_bits_in_bytes():
    integers, scale = in_blocks(FLOATS, 1, block_size=TABLE_BLOCK)
    made = table((integers.astype(np.int16) + 128).astype(np.uint8), scale)
    return made._replace(nodes=[made.nodes[0]._replace(attributes={**made.nodes[0].attributes, "bits": 8})])


def gathered_and_dequantized_per_column():
    integers, scale = scaled(FLOATS, axis=1)
    nodes = [
        Node("Gather", ["q", "x"], ["rows"]),
        Node("DequantizeLinear", ["rows", "s"], ["y"], attributes={"axis": -1}),
    ]
    return Format(nodes, {"q": integers, "s": scale.ravel()})


def dequantized_in_4_bits_and_cut_off():
    scale = (np.abs(FLOATS).max(axis=0) / 8).astype(np.float32)
    return dequantized(np.clip(np.rint(FLOATS / scale), -8, 7).astype(ml_dtypes.int4), scale, axis=1)


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
    dequantized_in_4_bits_and_cut_off,
    dequantized_and_transposed,
    dequantized_blocks_of_a_transposed_weight,
    dequantized_for_gemm,
    dequantized_from_8_bit_floats,
    cast_per_tensor,
    cast_per_column,
    cast_with_zero_points,
    cast_in_blocks,
    cast_in_blocks_around_one_zero_point,
    dynamic,
    dynamic_scaled_in_two_steps,
    dynamic_with_its_scales_the_other_way_round,
    dynamic_fused,
    integer_to_float,
    linear_product,
    linear_gemm,
    linear_convolution,
    table_of_4_bits,
    table_of_4_bits_in_bytes,
    table_of_8_bits_in_bytes,
    gathered_and_dequantized,
    gathered_and_dequantized_per_column,
)
LINEAR = (linear_product, linear_gemm, linear_convolution)
"""Formats whose products are rounded to 8 bits."""
TRANSPOSED = {
    *(dequantized_and_transposed, dequantized_blocks_of_a_transposed_weight, dequantized_for_gemm),
    *(linear_gemm, linear_convolution),
}
"""Formats that store the weight as the checkpoint does."""
TABLES = {
    table_of_4_bits,
    table_of_4_bits_in_bytes,
    table_of_8_bits_in_bytes,
    gathered_and_dequantized,
    gathered_and_dequantized_per_column,
}


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
    floats = weight.floats().T if make in TRANSPOSED else weight.floats()
    rounded = 0.5 * LINEAR_STEP if make in LINEAR else 0
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


EMBEDDED = ("word", "position", "segment", "gamma", "beta")


def embedded():
    """Return a graph of QEmbedLayerNormalization that normalises rows of FLOATS, and what its parts stand for."""
    ones, zeros = np.ones(COLUMNS, np.float32), np.zeros((2, COLUMNS), np.float32)
    parts = dict(zip(EMBEDDED, (FLOATS, zeros + 0.5, zeros + 0.25, ones, ones * 0.125), strict=True))
    constants: dict[str, np.ndarray] = {}
    for name, values in parts.items():
        integers, scale = scaled(values)
        constants |= {f"{name}.q": integers, f"{name}.s": scale.reshape(()), f"{name}.z": np.zeros((), np.int8)}
        parts[name] = integers * scale
    inputs = ["x", "x0", *(f"{name}.q" for name in EMBEDDED), ""]
    inputs += [f"{name}.{part}" for part in "sz" for name in EMBEDDED]
    node = helper.make_node("QEmbedLayerNormalization", inputs, ["y", "mask"], "n", None, "com.microsoft")
    graph = helper.make_graph(
        [node], "embeddings",
        [helper.make_tensor_value_info(name, TensorProto.INT32, ["n", 1]) for name in ("x", "x0")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1, COLUMNS])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=10), parts


def test_tables_of_fused_embeddings_are_what_onnx_runtime_takes_them_for():
    model, parts = embedded()
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    ids = np.arange(ROWS, dtype=np.int32)[:, None]
    computed = session.run(["y"], {"x": ids, "x0": np.zeros_like(ids)})[0][:, 0]
    read = {weight.tensor.removesuffix(".q"): weight for weight in quantized_weights(model)}
    assert set(read) == set(EMBEDDED)
    rows = read["word"].floats() + read["position"].floats()[0] + read["segment"].floats()[0]
    centred = rows - rows.mean(axis=1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-12)
    assert np.abs(normed * read["gamma"].floats() + read["beta"].floats() - computed).max() < 1e-4
    assert all(np.allclose(read[name].floats(), values, atol=1e-6) for name, values in parts.items())


def test_damaged_table_of_fused_embeddings_is_found():
    model, parts = embedded()
    checkpoint = {f"{name}.q": values for name, values in parts.items()}
    assert not weights.compare(checkpoint, model).differences
    integers = next(tensor for tensor in model.graph.initializer if tensor.name == "word.q")
    raw = bytearray(integers.raw_data)
    raw[100] ^= 0x44
    integers.raw_data = bytes(raw)
    (difference,) = weights.compare(checkpoint, model).differences
    assert difference.tensor == "word.q"


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


def one_weight(nodes, **constants):
    """Return a graph of these nodes that is not run."""
    graph = helper.make_graph(
        nodes, "g", [], [], [numpy_helper.from_array(array, name) for name, array in constants.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize(
    ("shape", "scales", "node"),
    [
        ((8, 6, 3), (8, 1, 1), helper.make_node("Conv", ["x", "w"], ["y"], "/layer/Conv")),
        ((4, 64, 48), (4, 1, 48), helper.make_node("MatMul", ["x", "w"], ["y"], "/layer/MatMul")),
    ],
    ids=["convolution", "experts"],
)
def test_weight_of_three_axes_is_not_taken_for_blocks(shape, scales, node):
    floats = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    axes = tuple(axis for axis, length in enumerate(scales) if length == 1)
    scale = (np.abs(floats).max(axis=axes, keepdims=True) / 127).astype(np.float32)
    cast_node = helper.make_node("Cast", ["q"], ["c"], to=TensorProto.FLOAT)
    nodes = [cast_node, helper.make_node("Mul", ["c", "s"], ["w"]), node]
    model = one_weight(nodes, q=np.rint(floats / scale).astype(np.int8), s=scale)
    compared = weights.compare({"layer.weight": floats}, model)
    assert not compared.differences
    assert compared.share == 1


def test_weight_of_a_convolution_has_a_scale_for_each_output():
    floats = np.random.default_rng(2).normal(size=(8, 6, 3)).astype(np.float32)
    scale = (np.abs(floats).max(axis=(1, 2), keepdims=True) / 127).astype(np.float32)
    nodes = [
        helper.make_node("ConvInteger", ["x", "q", "xz", "z"], ["i"], "/layer/Conv"),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["xs", "s"], ["both"]),
        helper.make_node("Mul", ["f", "both"], ["y"]),
    ]
    model = one_weight(nodes, q=np.rint(floats / scale).astype(np.int8), s=scale.reshape(1, 8, 1), z=np.int8(0))
    (weight,) = quantized_weights(model)
    assert np.abs(weight.floats() - floats).max() <= scale.max()


def test_weight_that_is_read_with_two_scales_is_compared_with_both():
    made = dequantized_per_tensor()
    nodes = [
        helper.make_node(node.operator, node.inputs, node.outputs, f"/layer/{node.operator}") for node in made.nodes
    ]
    second = [
        helper.make_node("DequantizeLinear", ["q", "s2"], ["w2"]),
        helper.make_node("MatMul", ["x", "w2"], ["y2"], "/layer_1/MatMul"),
    ]
    constants = made.constants | {"s2": made.constants["s"] * np.float32(1.5)}
    (difference,) = weights.compare(
        checkpoint_of(dequantized_per_tensor), one_weight([*nodes, *second], **constants)
    ).differences
    assert "has a scale that is off by +50" in difference.problem


def test_zero_among_floats_of_8_bits_is_as_exact_as_its_neighbours():
    floats = (np.random.default_rng(3).normal(size=(ROWS, COLUMNS)) * 0.01).astype(np.float32)
    values = floats.astype(ml_dtypes.float8_e4m3fn)
    values[3] = 0
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"], "/layer/MatMul"),
    ]
    compared = weights.compare({"layer.weight": floats.T}, one_weight(nodes, q=values, s=np.float32(1)))
    assert compared.differences


def test_mask_that_is_cast_and_multiplied_is_no_weight():
    nodes = [
        helper.make_node("Cast", ["mask"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["c", "far"], ["bias"]),
        helper.make_node("Add", ["x", "bias"], ["y"]),
    ]
    assert not quantized_weights(one_weight(nodes, mask=np.ones((1, 1, 8, 8), np.uint8), far=np.float32(-1e4)))


@pytest.mark.parametrize(
    "operator", ["MatMulNBits", "Cast", "QuantizeLinear", "DequantizeLinear", "GatherBlockQuantized"]
)
def test_node_without_inputs_is_passed_over(operator):
    """The gate says that ONNX Runtime does not load it."""
    model = one_weight([helper.make_node(operator, [], [])])
    assert not quantized_weights(model)
    assert kind_of(model) is None


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (dequantized_per_tensor, ("float", 8, Granularity.TENSOR, False)),
        (dequantized_per_column, ("float", 8, Granularity.CHANNEL, False)),
        (cast_in_blocks, ("float", 8, Granularity.BLOCK, False)),
        (dequantized_in_blocks_of_4_bits, ("float", 4, Granularity.BLOCK, False)),
        (dequantized_from_8_bit_floats, ("float", 8, Granularity.TENSOR, True)),
        (dynamic, ("dynamic", 8, Granularity.CHANNEL, False)),
        (dynamic_fused, ("dynamic", 8, Granularity.CHANNEL, False)),
        (linear_product, ("static", 8, Granularity.TENSOR, False)),
    ],
)
def test_kind_of_quantization_is_told_without_the_weights(make, expected):
    assert kind_of(model_of(make)) == QuantizationKind(Activations(expected[0]), *expected[1:])


def test_head_with_one_output_has_a_scale_for_its_channel():
    """As a reranker's has: it makes the others no coarser."""
    made = dequantized_per_column()
    nodes = [helper.make_node(node.operator, node.inputs, node.outputs, axis=1) for node in made.nodes[:1]]
    nodes += [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("DequantizeLinear", ["hq", "hs"], ["hw"], axis=1),
        helper.make_node("MatMul", ["h", "hw"], ["y"]),
    ]
    model = one_weight(nodes, **made.constants, hq=np.ones((COLUMNS, 1), np.int8), hs=np.ones(1, np.float32))
    kind = kind_of(model)
    assert kind is not None
    assert kind.granularity is Granularity.CHANNEL
