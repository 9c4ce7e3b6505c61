"""Emulated processors: the runner and its protocol on this processor, few probes, and what cannot be had.

QEMU itself is not run here: `tox run -e emulated-arm64` does that.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from fixtures.runtimes import emulation, hardware
from fixtures.runtimes.emulation import PROCESSORS, CannotEmulate, EmulatedRuntime
from fixtures.runtimes.hardware import TIER
from fixtures.runtimes.onnx_runtime import UNOPTIMIZED, OnnxRuntime
from fixtures.scoring.probes import FEW_QUERIES, PAIRS, PROBES
from suites.meta.house import EMBEDDER


@pytest.fixture
def tools(tmp_path):
    """Tools as `fetch` makes them, but for `qemu`, which hands its command to this very Python."""
    (tmp_path / "wheels").symlink_to(Path(onnxruntime.__file__).parents[1])
    script = tmp_path / "qemu"
    script.write_text(f'#!/bin/sh\nwhile [ "$1" != "{tmp_path}/python" ]; do shift; done\nshift 5\n'
                      f'exec "{sys.executable}" "$@"\n')  # fmt: skip
    script.chmod(0o755)
    return tmp_path


@pytest.fixture
def file(tmp_path):
    """A graph that multiplies ids by their mask."""
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in ("input_ids", "attention_mask")
    ]
    outputs = [helper.make_tensor_value_info("masked", TensorProto.INT64, ["batch", "length"])]
    graph = helper.make_graph(
        [helper.make_node("Mul", [tensor.name for tensor in inputs], ["masked"])], "g", inputs, outputs
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script plays QEMU")
def test_runner_answers_as_a_session_here_does(tools, file):
    ids = np.array([[5, 6, 7], [8, 9, 4]])
    feeds = {"input_ids": ids, "attention_mask": np.array([[1, 1, 1], [1, 1, 0]])}
    emulated, native = EmulatedRuntime(file, tools, PROCESSORS["avx2"]), OnnxRuntime(file, 1)
    assert (emulated.inputs, emulated.outputs) == (native.inputs, native.outputs)
    unoptimized = EmulatedRuntime(file, tools, PROCESSORS["avx2"], optimization=UNOPTIMIZED)
    np.testing.assert_array_equal(unoptimized(feeds)["masked"], native(feeds)["masked"])
    for _ in range(2):
        for name, values in emulated(feeds).items():
            np.testing.assert_array_equal(values, native(feeds)[name])
    with pytest.raises(KeyError, match="the graph needs the inputs"):
        emulated({"input_ids": feeds["input_ids"]})
    with pytest.raises(RuntimeError, match=r"the emulated process ended with exit code 1: .*INVALID_ARGUMENT"):
        emulated({name: values.astype(np.float32) for name, values in feeds.items()})


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script plays QEMU")
def test_file_that_onnxruntime_cannot_load_is_said_so(tools, tmp_path):
    (tmp_path / "model.onnx").write_text("nothing")
    with pytest.raises(RuntimeError, match=r"ended with exit code 1: .*model.onnx failed"):
        EmulatedRuntime(tmp_path / "model.onnx", tools, PROCESSORS["avx2"])


@pytest.mark.parametrize("name", PROCESSORS)
def test_every_processor_has_a_tier_and_a_baseline_of_its_own(name):
    machine = emulation.machine(hardware.detect(), name)
    assert machine.int8 == TIER[machine.tier].int8
    assert machine.arch == TIER[machine.tier].family
    assert machine.baseline == f"emulated-{machine.tier}"


def test_few_probes_are_of_all_and_short():
    for kind in ("texts", "pairs"):
        few_probes, all_probes = PROBES[f"few {kind}"], PROBES[kind]
        assert set(few_probes) < set(all_probes)
        assert 12 <= len(few_probes) <= 40
        assert all(probe.length is None for probe in few_probes)
    queries = {pair.query for pair in PROBES["few pairs"] if pair.query}
    assert len(queries) == FEW_QUERIES
    pairs = [pair for pair in PAIRS if pair.query in queries]
    assert set(pairs) <= set(PROBES["few pairs"]), "ranks need every passage of a query"


@pytest.mark.parametrize("missing", ["apt-get", "dpkg-deb"])
def test_system_without_apt_says_what_is_missing(tmp_path, monkeypatch, missing):
    monkeypatch.setattr(shutil, "which", lambda name: None if name == missing else f"/usr/bin/{name}")
    step = emulation.plan(PROCESSORS["arm64"], "1.32.0")
    with pytest.raises(CannotEmulate, match=f"emulation needs {missing}: use a Debian or Ubuntu system"):
        step.run([], tmp_path, step.parameters)


def test_what_cannot_be_downloaded_is_said_so(tmp_path):
    with pytest.raises(CannotEmulate, match=r"No matching distribution found for onnxruntime==0\.0\.1"):
        emulation._download_wheels(tmp_path / "wheels", tmp_path, "aarch64", ("onnxruntime==0.0.1",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"emulate": "z80"}, "--emulate: 'z80' is none of sse, avx2, arm64"),
        ({"emulate": "avx2", "emulate_ort": "1.27"}, "--emulate-ort: '1.27' is no version such as 1.27.0"),
        ({"emulate": "avx2", "tier": "avx2"}, "--emulate: --tier cannot be combined with it"),
        ({"emulate_ort": "1.27.0"}, "--emulate-ort: says nothing without --emulate"),
    ],
)
def test_wrong_options_are_refused(house, options, message):
    house.add("tiny", EMBEDDER)
    assert message in house.usage_error(**options)
