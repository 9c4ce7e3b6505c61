"""Integer products: exact twins, and who is to blame where a processor's sums are wrong."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fixtures.diagnosis import integers
from fixtures.diagnosis.integers import ROUNDING, UNKNOWN, Product, conclude_exact, graph_of, smallest
from fixtures.export.quantize import exact_integers
from fixtures.export.variants import VARIANT
from fixtures.runtimes.emulation import PROCESSORS
from fixtures.runtimes.hardware import Machine
from fixtures.runtimes.onnx_runtime import AS_IT_IS, OnnxRuntime
from suites.meta.house import EMBEDDER, LOOSE, House

RANDOM = np.random.default_rng(3)
ROW = RANDOM.integers(0, 256, 96, np.uint8)
COLUMN = RANDOM.integers(-128, 128, 96, np.int8)
ROW[10:12], COLUMN[10:12] = 250, 120  # more than 16 bits hold


def product(length=96):
    return Product(ROW[:length], COLUMN[:length], 117, 0)


def saturating(products):
    return [one.saturated for one in products]


def test_exact_sum_is_onnxruntimes_and_saturated_ones_differ(tmp_path):
    """On whatever runs these tests, onnxruntime's own sums are exact for short products of small integers."""
    small = [Product(ROW[:n] // 4, COLUMN[:n] // 4, 3, 1) for n in (1, 2, 7, 96)]
    onnx.save(graph_of(small), tmp_path / "model.onnx")
    outputs = OnnxRuntime(tmp_path / "model.onnx", 1)({f"row{i}": one.row[None] for i, one in enumerate(small)})
    assert [int(outputs[f"sum{i}"][0, 0]) for i in range(4)] == [one.exact for one in small]
    assert [one.saturated for one in small] == [one.exact for one in small], "nothing to cut off"
    cut = Product(np.array([255, 255], np.uint8), np.array([127, 127], np.int8), 0, 0)
    assert (cut.exact, cut.saturated) == (64770, 32767)


def test_smallest_part_is_found():
    whole = product()
    found = smallest(whole, saturating)
    assert len(found.row) == 2
    assert found.saturated != found.exact
    assert smallest(whole, lambda parts: [one.exact for one in parts]) is whole


@pytest.mark.parametrize(
    ("sums", "cause"),
    [
        (lambda one: {"a": one.saturated, "b": one.saturated}, "kernel"),
        (lambda one: {"a": one.saturated}, "kernel"),
        (lambda one: {"a": one.saturated, "b": one.exact}, "emulator"),
        (lambda one: {"a": one.exact + 1, "b": one.exact + 1}, "unknown"),
        (lambda one: {"a": one.exact, "b": one.exact}, "unknown"),
    ],
    ids=["cut off on both", "cut off", "one of two", "another sum", "alone it is exact"],
)
def test_cause_is_named_with_evidence(sums, cause):
    found, evidence = integers.conclude(product(), sums(product()))
    assert found == cause
    assert "16 bits" in evidence or found != "kernel"


@pytest.fixture
def file(tmp_path):
    """A graph as Optimum quantizes one: activations quantized on the fly, signed weights with a scale per column."""
    weights = RANDOM.integers(-128, 128, (64, 8), np.int8)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["a", "scale", "zero"], name="activations"),
        helper.make_node("MatMulInteger", ["a", "w", "zero", "w_zero"], ["sum"], name="/layer/MatMul_quant"),
        helper.make_node("Cast", ["sum"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.zeros(8, np.int8), "w_zero")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (tmp_path / "input").mkdir()
    onnx.save(model, tmp_path / "input" / "model.onnx")
    return tmp_path / "input" / "model.onnx"


def run_with(cut, folder):
    """Return a runner whose MatMulInteger is cut off at 16 bits in its fifth column, if `cut`."""

    def run(model, feeds):
        onnx.save(model, folder / "run.onnx")
        outputs = OnnxRuntime(folder / "run.onnx", 1)(feeds)
        if cut:
            weights = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
            sums = outputs["sum"].copy()
            for row in range(len(sums)):
                one = Product(outputs["a"][row], weights["w"][:, 5], int(outputs["zero"]), 0)
                sums[row, 5] = one.saturated
            outputs["sum"] = sums
        return outputs

    return run


def test_wrong_node_is_found_with_its_row_and_column(file, tmp_path):
    feeds = {"x": RANDOM.standard_normal((3, 64)).astype(np.float32)}
    found = integers.find(file, feeds, run_with(True, tmp_path))
    assert found.node == "/layer/MatMul_quant"
    assert 0 < found.share <= 1 / 8
    assert found.product.saturated != found.product.exact
    assert integers.conclude(found.product, {"it": found.product.saturated})[0] == "kernel"
    reduced = Product(found.product.row, found.product.column // 2, found.product.row_zero, 0)
    assert reduced.saturated == reduced.exact, "seven bits cannot overflow"


def test_exact_twin_yields_what_the_quantized_graph_yields_where_sums_are_exact(file, tmp_path):
    (tmp_path / "twin").mkdir()
    exact_integers([file.parent], tmp_path / "twin", {})
    twin = onnx.load(tmp_path / "twin" / "model.onnx")
    onnx.checker.check_model(twin)
    assert "MatMulInteger" not in {node.op_type for node in twin.graph.node}
    feeds = {"x": RANDOM.standard_normal((3, 64)).astype(np.float32)}
    weights = next(one for one in onnx.load(file).graph.initializer if one.name == "w")
    ours = OnnxRuntime(tmp_path / "twin" / "model.onnx", 1)(feeds)["y"]
    low, high = feeds["x"].min(), feeds["x"].max()
    scale = np.float32((high - low) / 255)
    zero = np.rint(-low / scale)
    quantized = np.clip(np.rint(feeds["x"] / scale) + zero, 0, 255).astype(np.int64)
    exact = (quantized - int(zero)) @ numpy_helper.to_array(weights).astype(np.int64)
    np.testing.assert_allclose(ours, exact.astype(np.float32) * scale, rtol=1e-6)


def test_exact_sums_are_rounding_only_if_the_file_as_it_is_agrees(file, tmp_path):
    """Fused, this very file rounds as its twin does or not, as the processor has it; as it is, it must agree."""
    (tmp_path / "twin").mkdir()
    exact_integers([file.parent], tmp_path / "twin", {})
    feeds = {"x": RANDOM.standard_normal((3, 64)).astype(np.float32)}
    assert integers.find(file, feeds, run_with(False, tmp_path)) is None
    ours, twins = (OnnxRuntime(one, 1, optimization=AS_IT_IS)(feeds)["y"]
                   for one in (file, tmp_path / "twin" / "model.onnx"))  # fmt: skip
    np.testing.assert_array_equal(ours, twins)
    assert conclude_exact(True)[0] == ROUNDING
    assert conclude_exact(False)[0] == UNKNOWN


def machine(native):
    return Machine("x86_64", native, native, "cpu", 2, 2, 2**30, ("CPUExecutionProvider",))


@pytest.mark.parametrize(
    ("variant", "native", "overflows"),
    [
        ("quantized", "avx2", False),
        ("quantized-s8", "avx2", True),
        ("quantized-s8-reduced", "avx2", False),
        ("quantized-u8", "avx2", False),
        ("quantized-s8", "avx512_vnni", False),
        ("quantized", "avx512", True),
        ("O2-quantized", "avx512", True),
        ("plain", "avx512", False),
    ],
)
def test_overflow_is_known_of_signed_weights_without_vnni(variant, native, overflows):
    assert VARIANT[variant].overflows(machine(native)) is overflows


def test_every_processor_has_a_second_one():
    assert all(one.second not in ("", one.cpu) for one in PROCESSORS.values())


def test_parameters_are_judged_where_they_are_named_and_nowhere_else(tmp_path):
    house = House(tmp_path, tmp_path / "store")
    house.add("tiny", EMBEDDER + LOOSE)
    done = house.run("--variant=quantized", "--variant=quantized-u8", "--variant=plain")
    assert done.returncode == 0, done.text
    rows = {one["variant"]: one for one in house.gate()["models"][0]["variants"]}
    assert list(rows) == ["plain", "quantized", "quantized-u8"]
    assert rows["quantized-u8"]["overflow"] < 1e-3
    assert rows["plain"]["overflow"] is None
    assert "Integer arithmetic of tiny" in (house.report / "gate.md").read_text()
