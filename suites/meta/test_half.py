"""Sixteen bits: what fp16 variants are, what overflows in them, and what a GPU's session has to prove."""

from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from safetensors.numpy import load_file, save_file

from fixtures.arrays import Floats
from fixtures.diagnosis.tap import Activation, largest_activation
from fixtures.export import seeded
from fixtures.export.variants import ALL_VARIANTS, VARIANT
from fixtures.gate.case import Case
from fixtures.gate.subject import Subject
from fixtures.models.checkpoints import find_checkpoint
from fixtures.runtimes import hardware
from fixtures.runtimes.hardware import Machine, nvidia_gpu
from fixtures.runtimes.onnx_runtime import OnnxRuntime, bind_to_device
from fixtures.runtimes.profiler import ExecutedNode, executed_nodes, fallback_nodes
from fixtures.runtimes.providers import CPU, CUDA, OPENVINO_PRECISIONS
from fixtures.scoring.encoded import Encoded
from fixtures.scoring.stress import EXTREME_INPUTS
from suites.conformance import test_loading, test_numbers
from suites.meta.calls import stand_in
from suites.meta.conftest import models_read
from suites.meta.house import EMBEDDER

HALF = ("fp16", "O4-rehearsed")
GPU = Machine("x86_64", "avx2", "cuda", "A GPU", 2, 2, 2**30, (CUDA, CPU))


def test_sound_weights_are_held_by_fp16(house):
    house.add("tiny", EMBEDDER)
    options = ["--variant=plain", *(f"--variant={name}" for name in HALF)]
    run = house.run("suites/accuracy", *options, suite="suites/conformance")
    assert run.returncode == 0, run.text
    rows = {row["variant"]: row for row in house.gate()["models"][0]["variants"]}
    for name in HALF:
        checks = rows[name]["checks"]
        assert "of 65504, /" in checks["sixteen_bits_leave_room"]["text"]
        assert " matrix products in fp16" in checks["sixteen_bits_are_computed_in"]["text"]
        assert {checks[f"sixteen_bits_hold_extreme_inputs[{name}]"]["status"] for name in EXTREME_INPUTS} == {"pass"}
        assert checks["no_node_leaves_the_gpu"]["status"] == "not applicable"
        assert rows[name]["bytes"] < 0.7 * rows["plain"]["bytes"]
        assert 1e-7 < rows[name]["closeness"]["max_abs_error"] < 2e-3
    assert rows["O4-rehearsed"]["operators"]["com.microsoft.Attention"] == 2
    assert rows["O4-rehearsed"]["operators"]["com.microsoft.SkipLayerNormalization"] == 4
    assert "com.microsoft.Attention" not in rows["fp16"]["operators"]
    assert rows["plain"]["checks"]["sixteen_bits_leave_room"]["status"] == "not applicable"


def test_activation_beyond_fp16_is_found(house, tmp_path):
    """fp32 holds it, in PyTorch and in plain; fp16 yields what is no number, and the tensor is named."""
    large = tmp_path / "large"
    large.mkdir()
    seeded.make([], large, {"architecture": "bert", "seed": 7, "auto_class": "AutoModel", "labels": 1})
    weights, value = load_file(large / "model.safetensors"), "encoder.layer.0.attention.self.value"
    for name in (f"{value}.weight", f"{value}.bias"):
        weights[name] *= np.float32(2**20)
    weights["encoder.layer.0.attention.output.dense.weight"] /= np.float32(2**20)
    save_file(weights, large / "model.safetensors", {"format": "pt"})
    text = EMBEDDER.replace("seeded:bert@7", f"path:{large}")
    digest = find_checkpoint(models_read(house.add("tiny", text)), pinned=False).digest
    house.add("tiny", f'digest = "{digest}"\n{text}')
    run = house.run("--variant=plain", "--variant=fp16", suite="suites/conformance/test_numbers.py")
    assert run.returncode == 1, run.text
    rows = {row["variant"]: row for row in house.gate()["models"][0]["variants"]}
    assert {check["status"] for check in rows["plain"]["checks"].values()} == {"pass", "not applicable"}
    checks = rows["fp16"]["checks"]
    assert checks["sixteen_bits_leave_room"]["status"] == "fail"
    assert "attention/self" in checks["sixteen_bits_leave_room"]["text"]
    texts = [checks[f"sixteen_bits_hold_extreme_inputs[{name}]"]["text"] for name in EXTREME_INPUTS]
    assert any("some scores are not finite: fp16 ends at 65504" in text for text in texts), texts


def small(tmp_path):
    """A graph whose product of 300 and 300 fp16 does not hold, behind a mask's huge constant."""
    weight = numpy_helper.from_array(np.full((1, 1), 300, np.float32), "weight")
    huge = numpy_helper.from_array(np.full((1, 1), -3.4e38, np.float32), "huge")
    steps = (
        ("MatMul", "input_ids", "weight", "product"),
        ("Mul", "attention_mask", "huge", "masked"),
        ("Min", "product", "masked", "least"),
    )
    nodes = [helper.make_node(operator, [left, right], [result]) for operator, left, right, result in steps]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1]) for name in ("input_ids", "attention_mask")
    ]
    outputs = [helper.make_tensor_value_info("least", TensorProto.FLOAT, ["n", 1])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [weight, huge])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def column(*values: float) -> Floats:
    """Return (len(values), 1)."""
    return np.array(values, np.float32)[:, None]


def test_largest_activation_of_what_is_in_fp16_is_named_and_masks_are_none(tmp_path):
    """`least` is an output, and stays in fp32; `masked` is made of the mask alone."""
    file = small(tmp_path)
    onnx.save(convert_float_to_float16(onnx.load(file), keep_io_types=True), tmp_path / "half.onnx")
    feeds = {"input_ids": column(2, 300), "attention_mask": column(1, 1)}
    assert largest_activation(file, tmp_path / "half.onnx", [feeds]) == Activation("product", 90_000)
    assert largest_activation(file, file, [feeds]) == Activation("", 0), "nothing of it is in fp16"


def test_profiler_tells_who_ran_what_in_which_type(tmp_path):
    feeds = {"input_ids": column(2, 3), "attention_mask": column(1, 1)}
    nodes = executed_nodes(small(tmp_path), CPU, feeds)
    assert {node.operator for node in nodes} == {"MatMul", "Mul", "Min"}
    assert {(node.inputs[0], node.outputs, node.elements) for node in nodes} == {("float", ("float",), 2)}
    assert {node.provider for node in nodes} == {CPU}
    assert not fallback_nodes(nodes, CPU)
    assert fallback_nodes(nodes, CUDA) == nodes, "a session that fell back whole"


def test_only_nodes_that_compute_floats_have_to_stay():
    shape = ExecutedNode("Shape", CPU, ("float16",), ("int64",), 2)
    scale = ExecutedNode("Sqrt", CPU, ("float",), ("float",), 1)
    cast = ExecutedNode("Cast", CPU, ("int64",), ("float16",), 32)
    on_gpu = ExecutedNode("MatMul", CUDA, ("float16", "float16"), ("float16",), 512)
    assert fallback_nodes([shape, scale, cast, on_gpu], CUDA) == [cast]


@pytest.fixture
def on_gpu():
    """A variant on a GPU, as far as the checks of what ran look at it."""
    fields = {name: np.arange(1, 9) for name in ("input_ids", "attention_mask")}
    encoded = Encoded(fields, np.array([0, 3, 8]), dict.fromkeys(fields, 0), "right")
    subject = stand_in(Subject, encoded=encoded)
    return stand_in(Case, provider=CUDA, file=None, subject=subject, variant=VARIANT["O4"])


ON_GPU = ExecutedNode("MatMul", CUDA, ("float16", "float16"), ("float16",), 512)


def test_node_that_leaves_the_gpu_fails_its_check(on_gpu, monkeypatch):
    check = test_loading.test_no_node_leaves_the_gpu
    findings: list[str] = []
    monkeypatch.setattr(test_loading, "executed_nodes", lambda *_: [ON_GPU])
    check(on_gpu, findings.append)
    assert findings == ["1 of 1 nodes on the GPU"]
    on_cpu = ExecutedNode("Erf", CPU, ("float",), ("float",), 512)
    monkeypatch.setattr(test_loading, "executed_nodes", lambda *_: [ON_GPU, on_cpu])
    with pytest.raises(AssertionError, match="1 of 2 nodes ran elsewhere, such as ExecutedNode"):
        check(on_gpu, findings.append)


def test_fp16_that_is_none_fails_its_check(on_gpu, monkeypatch):
    check = test_numbers.test_sixteen_bits_are_computed_in
    findings: list[str] = []
    in_fp32 = ExecutedNode("MatMul", CUDA, ("float", "float"), ("float",), 512)
    cast = ExecutedNode("Cast", CUDA, ("float16",), ("float",), 512)
    monkeypatch.setattr(test_numbers, "executed_nodes", lambda *_: [ON_GPU, in_fp32, cast])
    check(on_gpu, on_gpu, findings.append)
    assert findings == ["1 of 2 matrix products in fp16; the provider casts the others to fp32"]
    monkeypatch.setattr(test_numbers, "executed_nodes", lambda *_: [in_fp32, cast])
    with pytest.raises(AssertionError, match="no product of 1 is computed in fp16"):
        check(on_gpu, on_gpu, findings.append)
    monkeypatch.setattr(test_numbers, "executed_nodes", lambda *_: [in_fp32])
    with pytest.raises(AssertionError, match="nothing in it is in fp16"):
        check(on_gpu, on_gpu, findings.append)


def test_binding_yields_what_a_plain_run_does(tmp_path):
    feeds = {"input_ids": column(2, 3), "attention_mask": column(-1, 1)}
    runtime = OnnxRuntime(small(tmp_path), 1)
    binding = bind_to_device(runtime.session, feeds, "cpu")
    runtime.session.run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], runtime(feeds)["least"])


def test_provider_that_is_not_there_is_no_session(tmp_path):
    """Not even with onnxruntime-gpu: it lists CUDA on every machine, and falls back."""
    with pytest.raises((RuntimeError, ValueError)):
        OnnxRuntime(small(tmp_path), 1, CUDA)


# ------------------------------------------------------------------------------- what a GPU judges


def test_gpu_runs_all_but_integers_and_openvino():
    for variant in ALL_VARIANTS:
        reason = variant.unsupported(GPU)
        if variant.quantizes or variant.provider in OPENVINO_PRECISIONS:
            assert f"{variant.name} is for processors" in reason
        else:
            assert not reason
            assert variant.provider_on(GPU) == CUDA
    without_gpu = Machine("x86_64", "avx2", "avx2", "", 2, 2, 0, (CPU,))
    assert VARIANT["plain"].provider_on(without_gpu) == CPU
    assert "its kernels and its latency are unproven here" in VARIANT["O4"].unsupported(without_gpu)


def test_gpu_has_a_baseline_of_its_own():
    assert GPU.baseline == "cuda"
    assert GPU.on_gpu


def test_gpu_is_asked_of_its_driver(monkeypatch):
    monkeypatch.setattr(hardware, "pynvml", SimpleNamespace(
        NVMLError=RuntimeError, nvmlInit=lambda: None, nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetCudaComputeCapability=lambda first: (9, 0), nvmlDeviceGetName=lambda first: "NVIDIA H100",
    ))  # fmt: skip
    assert nvidia_gpu() == "NVIDIA H100, compute capability 9.0"
    hardware.detect.cache_clear()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    try:
        machine = hardware.detect("cuda")
    finally:
        hardware.detect.cache_clear()
    assert (machine.tier, machine.cpu, machine.baseline) == ("cuda", "NVIDIA H100, compute capability 9.0", "cuda")
    assert machine.providers[0] == CUDA


def test_provider_without_a_gpu_is_none(monkeypatch):
    monkeypatch.setattr(hardware, "nvidia_gpu", lambda: "")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["TensorrtExecutionProvider", CUDA, CPU])
    hardware.detect.cache_clear()
    try:
        assert hardware.detect().providers[0] == CPU
    finally:
        hardware.detect.cache_clear()


def test_report_says_what_is_unproven_of_O4(house):
    """So that nobody takes a rehearsal for the thing."""
    house.add("tiny", EMBEDDER)
    run = house.run("--variant=O4")
    assert run.returncode == 5, run.text
    assert house.statuses() == {"O4": "unsupported"}
    page = (house.report / "gate.md").read_text()
    assert "its kernels and its latency are unproven here" in page
    assert "O4-rehearsed shows its fusions and how fp16 rounds" in page
