"""Static quantization: ranges of the probes, each method's own, and part of the artifact's key."""

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from suites.meta.house import EMBEDDER, LOOSE, House

STATIC = '[ceilings."int8, static"]\nmax_abs_error = 1\nmin_cosine = -1\nmax_similarity_change = 2\ntopk_overlap = 0\n'
METHODS = ("static-quantized", "static-quantized-entropy", "static-quantized-percentile")


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    folder = tmp_path_factory.mktemp("static")
    house = House(folder, folder / "store")
    house.add("tiny", EMBEDDER + LOOSE + STATIC)
    done = house.run(*(f"--variant={name}" for name in METHODS))
    assert done.returncode == 0, done.text
    return house


def artifacts(house, function):
    """Return the manifests and folders of what a step function made."""
    found = [(json.loads(file.read_text()), file.parent) for file in house.store.glob("artifacts/*/manifest.json")]
    return [(manifest, folder) for manifest, folder in found if manifest["recipe"]["run"].endswith(function)]


def test_each_method_has_ranges_of_its_own(house):
    digests = {one["digest"] for one in house.gate()["models"][0]["variants"]}
    assert len(digests) == 3
    found = {
        manifest["recipe"]["parameters"]["method"]: json.loads((folder / "ranges.json").read_text())
        for manifest, folder in artifacts(house, ":calibrate")
    }
    assert set(found) == {"MinMax", "Entropy", "Percentile"}
    for name, (low, high) in found["MinMax"].items():
        for other in ("Entropy", "Percentile"):
            assert low <= found[other][name][0] + 1e-3 * abs(low)
            assert high >= found[other][name][1] - 1e-3 * abs(high), "MinMax leaves nothing out"
    assert found["Entropy"] != found["Percentile"] != found["MinMax"]


def test_ranges_are_part_of_the_key(house):
    """By content: ranges that another processor rounds otherwise would be another artifact."""
    ranges = {manifest["digest"] for manifest, _ in artifacts(house, ":calibrate")}
    for manifest, _ in artifacts(house, ":quantize_static"):
        assert manifest["touched"] == []
        assert len(ranges.intersection(manifest["recipe"]["inputs"])) == 1


def test_graph_has_pairs_with_the_scales_of_the_ranges(house):
    for manifest, folder in artifacts(house, ":quantize_static"):
        model = onnx.load(folder / "model.onnx")
        made = [node.op_type for node in model.graph.node]
        assert made.count("QuantizeLinear") >= 4
        assert made.count("DequantizeLinear") > made.count("QuantizeLinear"), "weights are stored in 8 bits"
        assert "DynamicQuantizeLinear" not in made
        ranges = next(json.loads((where / "ranges.json").read_text()) for one, where in artifacts(house, ":calibrate")
                      if one["digest"] in manifest["recipe"]["inputs"])  # fmt: skip
        values = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
        checked = 0
        for node in model.graph.node:
            if node.op_type == "QuantizeLinear" and node.input[0] in ranges:
                low, high = ranges[node.input[0]]
                width = max(high, 0) - min(low, 0)
                np.testing.assert_allclose(values[node.input[1]], width / 255, rtol=1e-3)
                checked += 1
        assert checked >= 4
