"""How much each quantized layer errs by itself, in graphs whose errors are known."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from fixtures.export.layer_errors import GRAPH_FILE, layers_by_error
from fixtures.export.quantize import quantize_weights
from fixtures.export.recipes import WEIGHT_PARAMETERS

WIDTH, TOKENS = 64, 6


@pytest.fixture
def graph(tmp_path):
    """The folder of a graph of four layers: `first` reads x, `second` what that writes, `third` y, `head` the sum."""
    random = np.random.default_rng(7)
    weights = {name: random.normal(size=(WIDTH, WIDTH)).astype(np.float32) for name in ("a", "b", "c", "d", "bias")}
    weights["bias"] = weights["bias"][0]
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["xa"], name="first"),
        helper.make_node("MatMul", ["xa", "b"], ["xab"], name="second"),
        helper.make_node("MatMul", ["y", "c"], ["yc"], name="third"),
        helper.make_node("Add", ["xab", "yc"], ["sum"], name="add"),
        helper.make_node("Gemm", ["sum", "d", "bias"], ["logits"], name="head", transB=1),
    ]
    shape = ["tokens", WIDTH]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "four layers",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(values, name) for name, values in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    folder = tmp_path / "plain"
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    return folder


@pytest.fixture
def feeds():
    """Rows of x are alike; one row of y is a thousand times as large as the others."""
    random = np.random.default_rng(8)
    x, y = (random.normal(size=(TOKENS, WIDTH)).astype(np.float32) for _ in range(2))
    y[0] *= 1000
    return {"x": x, "y": y}


def quantized(graph, **options):
    """Return the file that ONNX Runtime quantizes dynamically."""
    file = graph / "quantized.onnx"
    quantize_dynamic(graph / "model.onnx", file, weight_type=QuantType.QInt8, per_channel=True, **options)
    return file


def test_layer_whose_range_one_row_stretches_errs_most(graph, feeds):
    """Five of its six rows are all but lost; over all rows at once it would err as little as the others."""
    worst, *others = layers_by_error(graph / "model.onnx", quantized(graph), feeds)
    assert worst.node == "third"
    assert worst.error > 0.5
    assert all(layer.error < 0.05 for layer in others if layer.node != "head_MatMul")  # its range is stretched too
    assert {layer.node for layer in others} == {"first", "second", "head_MatMul"}
    assert not (graph / GRAPH_FILE).exists()


def test_layers_read_what_the_fp32_graph_gives_them(graph, feeds):
    """The second layer errs as much as if the first were exact, which it is where that stays in fp32."""
    both = {layer.node: layer.error for layer in layers_by_error(graph / "model.onnx", quantized(graph), feeds)}
    alone = layers_by_error(
        graph / "model.onnx", quantized(graph, nodes_to_exclude=["first", "third", "head_MatMul"]), feeds
    )
    assert [layer.node for layer in alone] == ["second"]
    assert alone[0].error == pytest.approx(both["second"], rel=1e-6)


@pytest.mark.parametrize(("name", "least", "most"), [("int8", 1e-4, 0.01), ("int4", 0.02, 0.2)])
def test_weights_in_blocks_err_by_their_bits(graph, feeds, tmp_path, name, least, most):
    """One large row does not matter where activations stay as they are."""
    output = tmp_path / name
    output.mkdir()
    quantize_weights([graph], output, WEIGHT_PARAMETERS[name])
    layers = layers_by_error(graph / "model.onnx", output / "model.onnx", feeds)
    assert {layer.node for layer in layers} == {"first", "second", "third"}
    assert all(least < layer.error < most for layer in layers), layers
