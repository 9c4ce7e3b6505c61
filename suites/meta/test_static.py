"""Static quantization: each method has its own ranges of the probes, and they are part of the artifact's key."""

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantizationMode, QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import QuantizationConfig

from fixtures.runtimes import hardware
from suites.meta.house import EMBEDDER, LOOSE, House

STATIC = '[ceilings."int8, static"]\nmax_abs_error = 1\nmin_cosine = -1\nmax_similarity_change = 2\ntopk_overlap = 0\n'
METHODS = ("static-quantized", "static-quantized-entropy", "static-quantized-percentile")


@pytest.fixture(scope="module")
def house(tmp_path_factory, shared_store):
    house = House(tmp_path_factory.mktemp("static"), shared_store)
    house.add("tiny", EMBEDDER + LOOSE + STATIC)
    run = house.run(*(f"--variant={name}" for name in METHODS))
    assert run.returncode == 0, run.text
    return house


@pytest.fixture(scope="module")
def graphs(house):
    """Manifest and folder of each method's graph."""
    digests = {row["digest"] for row in house.gate()["models"][0]["variants"]}
    graphs = [pair for pair in house.artifacts(":quantize_static") if pair[0]["digest"] in digests]
    assert len(graphs) == len(digests) == len(METHODS)
    return graphs


@pytest.fixture(scope="module")
def calibrations(house, graphs):
    """Manifest and folder of the ranges that the graphs were made of."""
    inputs = {digest for manifest, _ in graphs for digest in manifest["recipe"]["inputs"]}
    return [pair for pair in house.artifacts(":calibrate") if pair[0]["digest"] in inputs]


def read_ranges(folder):
    return json.loads((folder / "ranges.json").read_text())


def test_each_method_has_ranges_of_its_own(calibrations):
    ranges = {manifest["recipe"]["parameters"]["method"]: read_ranges(folder) for manifest, folder in calibrations}
    assert set(ranges) == {"MinMax", "Entropy", "Percentile"}
    for name, (low, high) in ranges["MinMax"].items():
        for method in ("Entropy", "Percentile"):
            assert low <= ranges[method][name][0] + 1e-3 * abs(low)
            assert high >= ranges[method][name][1] - 1e-3 * abs(high), "MinMax leaves nothing out"
    assert ranges["Entropy"] != ranges["Percentile"] != ranges["MinMax"]


def test_ranges_are_part_of_the_key(graphs, calibrations):
    """They are by content: ranges that another processor rounds otherwise make another artifact."""
    digests = {manifest["digest"] for manifest, _ in calibrations}
    for manifest, _ in graphs:
        assert manifest["touched"] == []
        assert len(digests.intersection(manifest["recipe"]["inputs"])) == 1


def test_graph_has_pairs_with_the_scales_of_the_ranges(graphs, calibrations):
    ranges_by_digest = {manifest["digest"]: read_ranges(folder) for manifest, folder in calibrations}
    for manifest, folder in graphs:
        model = onnx.load(folder / "model.onnx")
        kinds = [node.op_type for node in model.graph.node]
        assert kinds.count("QuantizeLinear") >= 4
        assert kinds.count("DequantizeLinear") > kinds.count("QuantizeLinear"), "weights are stored in 8 bits"
        assert "DynamicQuantizeLinear" not in kinds
        (ranges,) = (ranges_by_digest[key] for key in manifest["recipe"]["inputs"] if key in ranges_by_digest)
        values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        checked = 0
        for node in model.graph.node:
            if node.op_type == "QuantizeLinear" and node.input[0] in ranges:
                low, high = ranges[node.input[0]]
                width = max(high, 0) - min(low, 0)
                np.testing.assert_allclose(values[node.input[1]], width / 255, rtol=1e-3)
                checked += 1
        assert checked >= 4


def test_graph_is_the_one_that_optimum_makes(graphs, calibrations, house, tmp_path):
    """Optimum passes ranges and options on to the quantizer that makes it here."""
    folders = {manifest["digest"]: folder for manifest, folder in [*calibrations, *house.artifacts(":export_onnx")]}
    int8 = hardware.detect().int8
    config = QuantizationConfig(
        is_static=True,
        format=QuantFormat.QDQ,
        mode=QuantizationMode.QLinearOps,
        weights_dtype=QuantType[int8.weights_dtype],
        activations_dtype=QuantType[int8.activations_dtype],
        per_channel=int8.per_channel,
        reduce_range=int8.reduce_range,
        operators_to_quantize=["MatMul", "Gather"],
    )
    for number, (manifest, folder) in enumerate(graphs):
        export, calibration = (folders[digest] for digest in manifest["recipe"]["inputs"])
        ranges = {
            name: TensorData(lowest=np.float32(low), highest=np.float32(high))
            for name, (low, high) in read_ranges(calibration).items()
        }
        ORTQuantizer.from_pretrained(export, file_name="model.onnx").quantize(
            config,
            tmp_path / str(number),
            file_suffix="",
            calibration_tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
        )
        assert (tmp_path / str(number) / "model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()
