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
from suites.meta.house import EMBEDDER, LOOSE, RERANKER, House

OURS = [one.name for one in ON_REQUEST if one.provider == OPENVINO]
STATIC = '[ceilings."int8, static"]\nmax_abs_error = 1\nmin_cosine = -1\nmax_similarity_change = 2\ntopk_overlap = 0\n'
LOGITS = (
    "[ceilings.{}]\nmax_logit_error = 9\nmean_logit_error = 9\nkendall_tau = -1\nmin_kendall_tau = -1\n"
    "order_flips = 1\ntop1_agreement = 0\nndcg_at_5_change = 1\n"
)


def test_without_openvino_its_variants_are_unsupported():
    machine = Machine("x86_64", "avx2", "avx2", "cpu", 2, 2, 2**30, ("CPUExecutionProvider",))
    assert OURS == ["openvino", "openvino-quantized", "openvino-static"]
    for name in OURS:
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
    graph = helper.make_graph([helper.make_node("Mul", [one.name for one in inputs], ["masked"])], "g", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    openvino.save_model(openvino.convert_model(tmp_path / "m.onnx"), tmp_path / "m.xml")
    feeds = {"input_ids": np.array([[5, 6, 7]]), "attention_mask": np.array([[1, 1, 0]]), "more": np.zeros(1)}
    ours, theirs = opening.open_session(tmp_path / "m.xml", 1, OPENVINO), OnnxRuntime(tmp_path / "m.onnx", 1)
    assert sorted(ours.inputs) == sorted(theirs.inputs)
    assert ours.outputs == theirs.outputs
    first = ours(feeds)["masked"]
    np.testing.assert_array_equal(first, theirs(feeds)["masked"])
    ours({**feeds, "input_ids": np.array([[1, 1, 1]])})
    np.testing.assert_array_equal(first, theirs(feeds)["masked"], "outputs must outlive the next run")
    with pytest.raises(KeyError, match="the graph needs the inputs"):
        ours({"input_ids": feeds["input_ids"]})


def test_gate_judges_its_variants_like_all_others(openvino, tmp_path):
    house = House(tmp_path, tmp_path / "store")
    house.add("tiny", EMBEDDER + LOOSE + STATIC)
    house.add("ranker", RERANKER + LOGITS.format("int8") + LOGITS.format('"int8, static"'))
    options = [f"--variant={name}" for name in ("plain", *OURS)]
    done = house.run(*options, "--approve")
    assert done.returncode == 0, done.text
    for model in house.gate()["models"]:
        rows = {one["variant"]: one for one in model["variants"]}
        error = next(iter(rows["plain"]["closeness"]))
        assert rows["openvino"]["closeness"][error] < rows["openvino"]["ceiling"][error]
        assert rows["openvino-quantized"]["bytes"] < rows["openvino"]["bytes"]
        assert rows["openvino-static"]["closeness"][error] > 0
    assert house.gate()["versions"]["openvino"]
    done = house.run(*options)
    assert done.returncode == 0, done.text
    assert set(house.statuses().values()) == {"pass"}
    assert not done.heavy


def test_checks_of_onnx_graphs_do_not_apply_and_the_others_do(openvino, tmp_path):
    house = House(tmp_path, tmp_path / "store")
    house.add("tiny", EMBEDDER + LOOSE + STATIC)
    done = house.run("--variant=openvino", suite="suites/conformance")
    assert done.returncode == 0, done.text
    checks = house.gate()["models"][0]["variants"][0]["checks"]
    endings = {name: one["status"] for name, one in checks.items()}
    assert endings["graph_is_valid_onnx"] == "not applicable"
    assert sum(one == "pass" for one in endings.values()) >= 15, done.text


def test_latency_stands_beside_plains(openvino, tmp_path):
    house = House(tmp_path, tmp_path / "store")
    house.add("tiny", EMBEDDER + LOOSE + "[latency]\nquick = [[1, 16]]\n")
    done = house.run("--variant=plain", "--variant=openvino", suite="suites/latency")
    assert done.returncode == 0, done.text
    rows = {one["variant"]: one for one in house.gate()["models"][0]["variants"]}
    if undecided := rows["openvino"]["undecided"]:
        pytest.skip(f"the machine was disturbed: {undecided}")
    assert rows["openvino"]["latency"][0]["ratio_to_plain"] > 0
    assert rows["openvino"]["load_ms"] > 0
    assert {one["callers"] for one in rows["openvino"]["callers"]} == {1, 2, 4}
    assert rows["openvino"]["speed"]["anchor"] == "plain"
    assert re.search(r"openvino +\d", done.text)


def test_bf16_is_judged_where_the_processor_computes_it(openvino, tmp_path):
    """The same file as `openvino`, told to round: further off than fp32, and within the ceiling of bf16."""
    house = House(tmp_path, tmp_path / "store")
    house.add("tiny", EMBEDDER)
    done = house.run("--variant=openvino", "--variant=openvino-bf16", "--variant=openvino-fp16")
    assert done.returncode == 0, done.text
    rows = {one["variant"]: one for one in house.gate()["models"][0]["variants"]}
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

    made = tmp_path / "made"
    made.mkdir()
    auto_class = "AutoModelForSequenceClassification"
    seeded.make([], made, {"architecture": "distilbert", "seed": 3, "auto_class": auto_class, "labels": 3})
    tokenizer = AutoTokenizer.from_pretrained(made)
    options = {"INFERENCE_PRECISION_HINT": hint} if hint else {}
    both = [
        AutoModelForSequenceClassification.from_pretrained(made),
        OVModelForSequenceClassification.from_pretrained(made, export=True, ov_config=options),
    ]
    texts = ["He's a dreadful magician.", "The last ferry leaves at six in the evening.", "No."]
    expected, found = (
        [{one["label"]: one["score"] for one in row} for row in
         pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)(texts)]
        for model in both
    )  # fmt: skip
    for theirs, ours in zip(expected, found, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5 if hint else 1e-2), "it may choose bf16 by itself"
