"""A graph that pools by itself computes what pooling behind the graph does, under every mask."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from fixtures.export.pooled_export import ACTIVATIONS, POOLINGS, append_head
from fixtures.models.sentence_transformers import ModuleLayer
from fixtures.models.settings import POOLING_MODES
from fixtures.scoring import head
from fixtures.scoring.head import Layer, pool
from fixtures.scoring.tasks import POOLED

WIDTH = 6
MASKS = {
    "none": np.ones((3, 5), np.int64),
    "right padding": np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]),
    "left padding": np.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1]]),
    "holes": np.array([[1, 0, 1, 1, 0], [0, 1, 0, 1, 1], [1, 1, 0, 0, 1]]),
}
RANDOM = np.random.default_rng(3)
HIDDEN = RANDOM.standard_normal((3, 5, WIDTH)).astype(np.float32)


def weights(*shapes: tuple[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {name: RANDOM.standard_normal(shape).astype(np.float32) for name, shape in shapes}


def dense(inputs: int, outputs: int, activation: str = "tanh", *, bias: bool = True, residual: bool = False) -> Layer:
    shapes: list[tuple[str, tuple[int, ...]]] = [("linear.weight", (outputs, inputs))]
    shapes += [("linear.bias", (outputs,))] if bias else []
    shapes += [("residual.weight", (outputs, inputs))] if residual and inputs != outputs else []
    return Layer(ModuleLayer("dense", "2_Dense", activation, residual), weights(*shapes))


NORM = Layer(ModuleLayer("layer_norm", "3_LayerNorm"), weights(("norm.weight", (WIDTH,)), ("norm.bias", (WIDTH,))))
UNIT = Layer(ModuleLayer("normalize"), {})


def graph_of(
    hidden_type: int, pooling: str, normalize: bool, layers: tuple[Layer, ...], dimensions: int | None
) -> onnxruntime.InferenceSession:
    """Return a session of a graph whose token embeddings are its input, with a head behind it."""
    given = helper.make_tensor_value_info("given", hidden_type, ["batch", "length", WIDTH])
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "length"])
    output = helper.make_tensor_value_info("last_hidden_state", hidden_type, ["batch", "length", WIDTH])
    nodes = [helper.make_node("Identity", ["given"], ["last_hidden_state"])]
    graph = helper.make_graph(nodes, "encoder", [given, mask], [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    append_head(model, pooling, normalize, layers, dimensions)
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def require_same(pooling: str, normalize: bool, layers: tuple[Layer, ...], dimensions: int | None) -> None:
    session = graph_of(TensorProto.FLOAT, pooling, normalize, layers, dimensions)
    assert [output.name for output in session.get_outputs()] == [POOLED]
    for mask in MASKS.values():
        (vectors,) = session.run(None, {"given": HIDDEN, "attention_mask": mask})
        expected = pool(HIDDEN, mask, pooling, normalize, layers)[:, :dimensions]
        np.testing.assert_allclose(vectors, expected, atol=1e-5)


@pytest.mark.parametrize("pooling", [*POOLING_MODES, "mean+max", "cls+last+mean"])
@pytest.mark.parametrize("normalize", [True, False])
def test_graph_pools_as_is_pooled_behind_it(pooling, normalize):
    require_same(pooling, normalize, (), None)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("bias", "residual"), [(True, False), (False, True)])
def test_graph_has_the_layers(activation, bias, residual):
    layer = dense(WIDTH, WIDTH, activation, bias=bias, residual=residual)
    require_same("mean", True, (NORM, layer, UNIT, dense(WIDTH, 4, residual=residual)), 3)


def test_graph_in_16_bits_pools_in_32():
    session = graph_of(TensorProto.FLOAT16, "mean", False, (), None)
    mask, large = MASKS["none"], np.full((3, 5, WIDTH), 30_000, np.float16)
    (vectors,) = session.run(None, {"given": large, "attention_mask": mask})
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, np.full((3, WIDTH), float(large[0, 0, 0])))


def test_tables_have_the_same_rows():
    assert set(POOLINGS) == set(head.POOLINGS) == set(POOLING_MODES)
    assert set(ACTIVATIONS) == set(head.ACTIVATIONS)
