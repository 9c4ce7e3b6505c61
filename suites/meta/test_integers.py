"""Integer products: exact twins, and why a processor's sums are wrong."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fixtures.diagnosis.integers import (
    FINDING_FILE,
    DeviationCause,
    Finding,
    Product,
    explain_exact_sums,
    explain_sum,
    find_wrong_node,
    graph_of_products,
    investigate,
    read_finding,
    shortest_wrong_part,
)
from fixtures.export.quantize import exact_integers
from fixtures.export.variants import VARIANT
from fixtures.runtimes.emulation import PROCESSORS
from fixtures.runtimes.hardware import Machine
from fixtures.runtimes.onnx_runtime import UNOPTIMIZED, OnnxRuntime
from fixtures.scoring.encoded import TOKENS_FILE, Encoded
from suites.meta.house import EMBEDDER, LOOSE

RANDOM = np.random.default_rng(3)
ROW = RANDOM.integers(0, 256, 96, np.uint8)
COLUMN = RANDOM.integers(-128, 128, 96, np.int8)
ROW[10:12], COLUMN[10:12] = 250, 120  # more than 16 bits hold


def saturated_sums(products):
    return [product.saturated for product in products]


def exact_sums(products):
    return [product.exact for product in products]


def test_exact_sum_is_onnxruntimes_and_saturated_ones_differ(tmp_path):
    """On whatever runs these tests, onnxruntime's own sums are exact for short products of small integers."""
    small = [Product(ROW[:n] // 4, COLUMN[:n] // 4, 3, 1) for n in (1, 2, 7, 96)]
    onnx.save(graph_of_products(small), tmp_path / "model.onnx")
    outputs = OnnxRuntime(tmp_path / "model.onnx", 1)({f"row{i}": part.row[None] for i, part in enumerate(small)})
    assert [int(outputs[f"sum{i}"][0, 0]) for i in range(4)] == exact_sums(small)
    assert saturated_sums(small) == exact_sums(small), "nothing to cut off"
    large = Product(np.array([255, 255], np.uint8), np.array([127, 127], np.int8), 0, 0)
    assert (large.exact, large.saturated) == (64770, 32767)


def test_shortest_wrong_part_is_found():
    product = Product(ROW, COLUMN, 117, 0)
    part = shortest_wrong_part(product, saturated_sums)
    assert len(part.row) == 2
    assert part.saturated != part.exact
    assert shortest_wrong_part(product, exact_sums) is product


@pytest.mark.parametrize(
    ("sums", "cause"),
    [
        (lambda product: {"a": product.saturated, "b": product.saturated}, "kernel"),
        (lambda product: {"a": product.saturated}, "kernel"),
        (lambda product: {"a": product.saturated, "b": product.exact}, "emulator"),
        (lambda product: {"a": product.exact + 1, "b": product.exact + 1}, "unknown"),
        (lambda product: {"a": product.exact, "b": product.exact}, "unknown"),
    ],
    ids=["cut off on both", "cut off", "one of two", "another sum", "alone it is exact"],
)
def test_cause_is_named_with_evidence(sums, cause):
    product = Product(ROW, COLUMN, 117, 0)
    finding = explain_sum(product, sums(product))
    assert finding.cause == cause
    assert "16 bits" in finding.evidence or finding.cause != DeviationCause.KERNEL


def test_finding_of_a_store_that_was_filled_before_is_read(tmp_path):
    """Its file has had these keys since the first one was written."""
    (tmp_path / FINDING_FILE).write_text('{"node": "n", "share": 0.25, "cause": "kernel", "evidence": "e"}')
    assert str(read_finding(tmp_path)) == "kernel: 25.0% of the sums of n are wrong: e"
    (tmp_path / FINDING_FILE).write_text('{"cause": "rounding", "evidence": "e"}')
    assert read_finding(tmp_path) == Finding(cause=DeviationCause.ROUNDING, evidence="e")
    assert str(read_finding(tmp_path)) == "rounding: e"


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
    """Return a runner with exact sums, whatever this processor's are; cut off at 16 bits in one column, if `cut`."""

    def run(model, feeds):
        onnx.save(model, folder / "run.onnx")
        outputs = OnnxRuntime(folder / "run.onnx", 1)(feeds)
        weights = next(numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == "w")
        zero = int(outputs["zero"])
        outputs["sum"] = (outputs["a"].astype(np.int32) - zero) @ weights.astype(np.int32)
        if cut:
            for row, activations in enumerate(outputs["a"]):
                outputs["sum"][row, 5] = Product(activations, weights[:, 5], zero, 0).saturated
        return outputs

    return run


def test_wrong_node_is_found_with_its_row_and_column(file, tmp_path):
    feeds = {"x": RANDOM.standard_normal((3, 64)).astype(np.float32)}
    wrong_node = find_wrong_node(file, feeds, run_with(True, tmp_path))
    assert wrong_node is not None
    assert wrong_node.name == "/layer/MatMul_quant"
    assert 0 < wrong_node.share <= 1 / 8
    product = wrong_node.product
    assert product.saturated != product.exact
    assert explain_sum(product, {"it": product.saturated}).cause == DeviationCause.KERNEL
    reduced = Product(product.row, product.column // 2, product.row_zero, 0)
    assert reduced.saturated == reduced.exact, "seven bits cannot overflow"


def test_exact_twin_yields_what_the_quantized_graph_yields_where_sums_are_exact(file, tmp_path):
    (tmp_path / "twin").mkdir()
    exact_integers([file.parent], tmp_path / "twin", {})
    twin = onnx.load(tmp_path / "twin" / "model.onnx")
    onnx.checker.check_model(twin)
    assert "MatMulInteger" not in {node.op_type for node in twin.graph.node}
    feeds = {"x": RANDOM.standard_normal((3, 64)).astype(np.float32)}
    weights = next(tensor for tensor in onnx.load(file).graph.initializer if tensor.name == "w")
    outputs = OnnxRuntime(tmp_path / "twin" / "model.onnx", 1)(feeds)["y"]
    low, high = feeds["x"].min(), feeds["x"].max()
    scale = np.float32((high - low) / 255)
    zero = np.rint(-low / scale)
    quantized = np.clip(np.rint(feeds["x"] / scale) + zero, 0, 255).astype(np.int64)
    exact = (quantized - int(zero)) @ numpy_helper.to_array(weights).astype(np.int64)
    np.testing.assert_allclose(outputs, exact.astype(np.float32) * scale, rtol=1e-6)


def test_exact_sums_are_rounding_only_if_the_file_as_it_is_agrees(file, tmp_path):
    """Fused, this very file rounds as its twin does or not, as the processor has it; as it is, it must agree.

    Its weights have seven bits, which no processor's sums cut off.
    """
    (tmp_path / "twin").mkdir()
    model = onnx.load(file)
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) // 2, "w"))
    onnx.save(model, file)
    exact_integers([file.parent], tmp_path / "twin", {})
    feeds = {"x": RANDOM.standard_normal((3, 64)).astype(np.float32)}
    assert find_wrong_node(file, feeds, run_with(False, tmp_path)) is None
    outputs, exact_outputs = (
        OnnxRuntime(path, 1, optimization=UNOPTIMIZED)(feeds)["y"] for path in (file, tmp_path / "twin" / "model.onnx")
    )
    np.testing.assert_array_equal(outputs, exact_outputs)
    assert explain_exact_sums(equal=True).cause == DeviationCause.ROUNDING
    assert explain_exact_sums(equal=False).cause == DeviationCause.UNKNOWN


def test_finding_is_written(file, tmp_path):
    """Whatever this processor's sums are."""
    for name in ("tokens", "finding"):
        (tmp_path / name).mkdir()
    offsets = np.arange(0, 64 * 6, 64)
    values = RANDOM.integers(0, 9, int(offsets[-1]))
    Encoded({"x": values}, offsets, {"x": 0}, "right").save(tmp_path / "tokens" / TOKENS_FILE)
    graph = onnx.load(file)
    graph.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    graph.graph.node.insert(0, helper.make_node("Cast", ["x"], ["x_float"], to=TensorProto.FLOAT))
    graph.graph.node[1].input[0] = "x_float"
    onnx.save(graph, file)
    investigate([file.parent, tmp_path / "tokens"], tmp_path / "finding", {"emulated": ""})
    finding = read_finding(tmp_path / "finding")
    assert bool(finding.node) == (finding.cause != DeviationCause.ROUNDING)
    assert str(finding).startswith(f"{finding.cause}: ")


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
    assert all(processor.second_cpu not in ("", processor.cpu) for processor in PROCESSORS.values())


def test_parameters_are_judged_where_they_are_named_and_nowhere_else(house):
    house.add("tiny", EMBEDDER + LOOSE)
    run = house.run("--variant=quantized", "--variant=quantized-u8", "--variant=plain")
    assert run.returncode == 0, run.text
    rows = {row["variant"]: row for row in house.gate()["models"][0]["variants"]}
    assert list(rows) == ["plain", "quantized", "quantized-u8"]
    assert rows["quantized-u8"]["overflow"] < 1e-3
    assert rows["plain"]["overflow"] is None
    assert "Integer arithmetic of tiny" in (house.report / "gate.md").read_text()
