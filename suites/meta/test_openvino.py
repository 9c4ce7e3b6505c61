"""OpenVINO beside ONNX Runtime: `tox run -e openvino` runs these, where it is installed."""

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fixtures.export import seeded
from fixtures.export.variants import ON_REQUEST, VARIANT
from fixtures.runtimes import opening
from fixtures.runtimes.hardware import Machine
from fixtures.runtimes.onnx_runtime import OnnxRuntime
from fixtures.runtimes.providers import OPENVINO
from suites.meta.house import EMBEDDER, LOOSE, RERANKER

NAMES = [variant.name for variant in ON_REQUEST if variant.provider == OPENVINO]
STATIC = '[ceilings."int8, static"]\nmax_abs_error = 1\nmin_cosine = -1\nmax_similarity_change = 2\ntopk_overlap = 0\n'
LOGITS = (
    "[ceilings.{}]\nmax_logit_error = 9\nmean_logit_error = 9\nkendall_tau = -1\nmin_kendall_tau = -1\n"
    "order_flips = 1\nnew_ties = 1\ntop1_agreement = 0\nndcg_at_5_change = 1\n"
)


def test_without_openvino_its_variants_are_unsupported():
    machine = Machine("x86_64", "avx2", "avx2", "cpu", 2, 2, 2**30, ("CPUExecutionProvider",))
    assert NAMES == ["openvino", "openvino-quantized", "openvino-static"]
    for name in NAMES:
        assert VARIANT[name].unsupported(machine) == (
            f"{name} needs OpenVINO, and this machine has CPUExecutionProvider: tox run -e openvino has it"
        )


@pytest.fixture
def openvino():
    return pytest.importorskip("openvino", reason="tox run -e openvino has it")


def test_runtime_answers_as_onnxruntime_does(openvino, tmp_path):
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in ("input_ids", "attention_mask")
    ]
    outputs = [helper.make_tensor_value_info("masked", TensorProto.INT64, ["batch", "length"])]
    product = helper.make_node("Mul", ["input_ids", "attention_mask"], ["masked"])
    graph = helper.make_graph([product], "g", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    openvino.save_model(openvino.convert_model(tmp_path / "m.onnx"), tmp_path / "m.xml")
    feeds = {"input_ids": np.array([[5, 6, 7]]), "attention_mask": np.array([[1, 1, 0]]), "more": np.zeros(1)}
    runtime, onnx_runtime = opening.open_session(tmp_path / "m.xml", 1, OPENVINO), OnnxRuntime(tmp_path / "m.onnx", 1)
    assert sorted(runtime.inputs) == sorted(onnx_runtime.inputs)
    assert runtime.outputs == onnx_runtime.outputs
    first = runtime(feeds)["masked"]
    np.testing.assert_array_equal(first, onnx_runtime(feeds)["masked"])
    runtime({**feeds, "input_ids": np.array([[1, 1, 1]])})
    np.testing.assert_array_equal(first, onnx_runtime(feeds)["masked"], "outputs must outlive the next run")
    with pytest.raises(KeyError, match="the graph needs the inputs"):
        runtime({"input_ids": feeds["input_ids"]})


def test_gate_judges_its_variants_like_all_others(openvino, house):
    house.add("tiny", EMBEDDER + LOOSE + STATIC)
    house.add("ranker", RERANKER + LOGITS.format("int8") + LOGITS.format('"int8, static"'))
    options = [f"--variant={name}" for name in ("plain", *NAMES)]
    run = house.run(*options, "--approve")
    assert run.returncode == 0, run.text
    for model in house.gate()["models"]:
        rows = {result["variant"]: result for result in model["variants"]}
        error = next(iter(rows["plain"]["closeness"]))
        assert rows["openvino"]["closeness"][error] < rows["openvino"]["ceiling"][error]
        assert rows["openvino-quantized"]["bytes"] < rows["openvino"]["bytes"]
        assert rows["openvino-static"]["closeness"][error] > 0
    assert house.gate()["versions"]["openvino"]
    run = house.run(*options, trace_imports=True)
    assert run.returncode == 0, run.text
    assert set(house.statuses().values()) == {"pass"}
    assert not run.frameworks


def test_checks_of_onnx_graphs_do_not_apply_and_the_others_do(openvino, house):
    house.add("tiny", EMBEDDER + LOOSE + STATIC)
    run = house.run("--variant=openvino", suite="suites/conformance")
    assert run.returncode == 0, run.text
    checks = house.gate()["models"][0]["variants"][0]["checks"]
    endings = {name: check["status"] for name, check in checks.items()}
    assert endings["graph_is_valid_onnx"] == "not applicable"
    assert sum(status == "pass" for status in endings.values()) >= 15, run.text


def test_latency_stands_beside_plains(openvino, house):
    house.add("tiny", EMBEDDER + LOOSE + "[latency]\nquick = [[1, 16]]\n")
    run = house.run("--variant=plain", "--variant=openvino", suite="suites/latency")
    assert run.returncode == 0, run.text
    rows = {result["variant"]: result for result in house.gate()["models"][0]["variants"]}
    if undecided := rows["openvino"]["undecided"]:
        pytest.skip(f"the machine was disturbed: {undecided}")
    assert rows["openvino"]["latency"][0]["ratio_to_plain"] > 0
    assert rows["openvino"]["load_ms"] > 0
    assert {timing["callers"] for timing in rows["openvino"]["callers"]} == {1, 2, 4}
    assert rows["openvino"]["speed"]["anchor"] == "plain"
    assert re.search(r"openvino +\d", run.text)


def test_bf16_is_judged_where_the_processor_computes_it(openvino, house):
    """The same file as `openvino`, told to round: further off than fp32, and within the ceiling of bf16."""
    house.add("tiny", EMBEDDER)
    run = house.run("--variant=openvino", "--variant=openvino-bf16", "--variant=openvino-fp16")
    assert run.returncode == 0, run.text
    rows = {result["variant"]: result for result in house.gate()["models"][0]["variants"]}
    providers = house.gate()["machine"]["providers"]
    for name, runtime in (("openvino-bf16", "OpenVINO in bf16"), ("openvino-fp16", "OpenVINO in fp16")):
        if runtime in providers:
            assert rows[name]["digest"] == rows["openvino"]["digest"]
            assert rows[name]["closeness"]["max_abs_error"] > 10 * rows["openvino"]["closeness"]["max_abs_error"]
        else:
            assert rows[name]["status"] == "unsupported"
            assert f"{name} needs {runtime}" in rows[name]["reason"]


@pytest.mark.parametrize("hint", [None, "f32"])
def test_pipeline_of_the_field_notes_answers_as_pytorch_does(openvino, tmp_path, hint):
    """`OVModelForSequenceClassification.from_pretrained(export=True)` behind Transformers' `pipeline`."""
    from optimum.intel import OVModelForSequenceClassification
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    auto_class = "AutoModelForSequenceClassification"
    seeded.make([], checkpoint, {"architecture": "distilbert", "seed": 3, "auto_class": auto_class, "labels": 3})
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    options = {"INFERENCE_PRECISION_HINT": hint} if hint else {}
    models = [
        AutoModelForSequenceClassification.from_pretrained(checkpoint),
        OVModelForSequenceClassification.from_pretrained(checkpoint, export=True, ov_config=options),
    ]
    texts = ["He's a dreadful magician.", "The last ferry leaves at six in the evening.", "No."]
    pipelines = [pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None) for model in models]
    for text in texts:
        expected, actual = ({label["label"]: label["score"] for label in classify([text])[0]} for classify in pipelines)
        assert actual == pytest.approx(expected, abs=1e-5 if hint else 1e-2), "it may choose bf16 by itself"
