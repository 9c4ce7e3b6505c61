"""Every check of the conformance suite sees the fault that it is there for.

A fault is planted in a copy of an artifact of a tiny model, and the check is called on it.
"""

import dataclasses
import functools
import importlib
import itertools
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fixtures.arrays import Array
from fixtures.baselines.files import ConformanceFile
from fixtures.build import manifest
from fixtures.build.needs import ModelSize
from fixtures.build.step import Step, step_function
from fixtures.export import onnx_export
from fixtures.export.onnx_export import OPSET, export_onnx
from fixtures.export.quantize import quantize_fused
from fixtures.export.ready_made import ReadyMade
from fixtures.export.variants import PROVIDER_LIMITS, VARIANT, recipe_limits
from fixtures.gate import checks
from fixtures.gate.case import plan_case
from fixtures.gate.checks import CHECKS
from fixtures.gate.command_line import parse
from fixtures.gate.context import make_context
from fixtures.gate.measured import Measured
from fixtures.gate.session import Gate
from fixtures.models.limit_words import LIMIT_WORDS
from fixtures.models.sentence_transformers import ModuleSettings
from fixtures.models.settings import Prompts
from fixtures.plugin.items import reproducing_command
from fixtures.runtimes.hardware import Machine
from fixtures.runtimes.optimum_runtime import OptimumRuntime
from fixtures.scoring import stress
from suites.conformance import (
    test_batches,
    test_contract,
    test_fusion,
    test_loading,
    test_masks,
    test_numbers,
    test_places,
    test_properties,
    test_quantization,
    test_recipe,
    test_tokenizer,
)
from suites.meta.calls import call_check

ROOT = Path(__file__).resolve().parents[2]
MODELS = {
    "embedder": 'task = "embedding"\nsource = "seeded:bert@7"\nmax_length = 64\npooling = "mean"\nnormalize = true\n',
    "left-padder": 'task = "embedding"\nsource = "seeded:bert@7"\nmax_length = 64\npooling = "mean"\n'
    'tokenizer = { padding_side = "left" }\n',
    "reranker": 'task = "rerank"\nsource = "seeded:bert@8"\nmax_length = 64\n',
}
FAILURES = (AssertionError, pytest.fail.Exception)


@pytest.fixture(scope="module")
def session(tmp_path_factory, shared_store):
    """A gate over tiny models, without a pytest session of its own."""
    folder = tmp_path_factory.mktemp("house")
    for name, text in MODELS.items():
        (folder / "baselines" / name).mkdir(parents=True)
        (folder / "baselines" / name / "model.toml").write_text(text)
    options = {"baselines": str(folder / "baselines"), "store": str(shared_store), "report": str(folder / "report"),
               "approve": False, "grid": "quick"}  # fmt: skip
    gate = Gate(make_context(parse(options.get, ci=False)))
    cases = [gate.case(subject, name) for subject in gate.load() for name in ("plain", "O1", "O2", "quantized")]
    steps = [step for case in cases for step in (case.scores_step, case.subject.plan.stress_reference)]
    gate.context.build(dict.fromkeys([*steps, cases[0].optimum_step], ModelSize()), print)
    assert gate.context.failures == {}
    return gate


@pytest.fixture
def cases(session):
    """Return a function: model and variant -> the case as it was built, with results of its own."""

    def fresh(model="embedder", variant="plain"):
        subject = next(subject for subject in session.subjects if subject.name == model)
        return plan_case(subject, VARIANT[variant])

    return fresh


@pytest.fixture
def faulty(cases, tmp_path):
    """Return a function that plants a fault: a change of the graph, or of the artifact's folder."""

    def plant(change, model="embedder", variant="plain", *, of_folder=False):
        case = cases(model, variant)
        folder = tmp_path / "artifact"
        shutil.copytree(case.artifact.folder, folder)
        if of_folder:
            change(folder)
        else:
            graph = onnx.load(folder / "model.onnx")
            change(graph)
            onnx.save(graph, folder / "model.onnx")
        case.__dict__["artifact"] = dataclasses.replace(case.artifact, folder=folder)
        return case

    return plant


# ------------------------------------------------------------------------------------- faults


def weights(model):
    """Return the float matrices of a graph, largest first."""
    matrices = [
        tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2
    ]
    return sorted(matrices, key=lambda tensor: -np.prod(tensor.dims))


def change_a_weight(model, factor=1.5):
    weight = weights(model)[1]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), weight.name))


def all_weights(value):
    def change(model):
        for weight in model.graph.initializer:
            if weight.data_type == TensorProto.FLOAT:
                weight.CopyFrom(numpy_helper.from_array(np.full(weight.dims, value, np.float32), weight.name))

    return change


def instead_of(model, name, *nodes):
    """Let whatever reads `name` read `name!`, which these nodes make."""
    for node in model.graph.node:
        for index, read in enumerate(node.input):
            if read == name:
                node.input[index] = f"{name}!"
    for node in reversed(nodes):
        model.graph.node.insert(0, node)


def after(model, name, *nodes):
    """Let these nodes make the output `name` of what made it, now called `name?`."""
    for node in model.graph.node:
        for index, output in enumerate(node.output):
            if output == name:
                node.output[index] = f"{name}?"
    model.graph.node.extend(nodes)


def constant(model, name, value):
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def ignores(name, like="input_ids"):
    """The input is there, and a constant is used instead: ones of a mask, zeros of token types."""

    def change(model):
        fill = model.graph.initializer.add()
        fill.CopyFrom(numpy_helper.from_array(np.int64(name == "attention_mask").reshape(1), "fill"))
        nodes = [
            helper.make_node("Shape", [like], ["shape of ids"]),
            helper.make_node("Expand", ["fill", "shape of ids"], [f"{name}!"]),
        ]
        instead_of(model, name, *nodes)

    return change


def lacks_token_types(model):
    ignores("token_type_ids")(model)
    model.graph.input.remove(next(value for value in model.graph.input if value.name == "token_type_ids"))


def wants_int32(model):
    ids = next(value for value in model.graph.input if value.name == "input_ids")
    ids.type.tensor_type.elem_type = TensorProto.INT32
    instead_of(model, "input_ids", helper.make_node("Cast", ["input_ids"], ["input_ids!"], to=TensorProto.INT64))


def fixed_batch(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def wants_more(model):
    model.graph.input.append(helper.make_tensor_value_info("pixel_values", TensorProto.INT64, ["batch", "length"]))


def yields_more(model):
    after_name = model.graph.output[0].name
    model.graph.node.append(helper.make_node("Identity", [after_name], ["pooler_output"]))
    model.graph.output.append(
        helper.make_tensor_value_info("pooler_output", TensorProto.FLOAT, ["batch", "length", 32])
    )


def clips_token_ids(model):
    constant(model, "last token", np.int64(3))
    instead_of(model, "input_ids", helper.make_node("Min", ["input_ids", "last token"], ["input_ids!"]))


def cuts_what_is_too_long(model):
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        bounds = [
            constant(model, f"{name} {part}", np.array([value])) for part, value in (("a", 0), ("b", 128), ("c", 1))
        ]
        instead_of(model, name, helper.make_node("Slice", [name, *bounds], [f"{name}!"]))


def noisy(model):
    name = model.graph.output[0].name
    after(model, name, helper.make_node("RandomNormalLike", [f"{name}?"], ["noise"], scale=1e-5),
          helper.make_node("Add", [f"{name}?", "noise"], [name]))  # fmt: skip


def counts_rows(model):
    """Each row's number in the batch is added to its outputs."""
    name = model.graph.output[0].name
    for label, value in (("zero", 0), ("one", 1)):
        constant(model, label, np.int64(value))
    constant(model, "axes", np.array([1, 2]))
    constant(model, "first", np.int64(0))
    after(
        model, name,
        helper.make_node("Shape", [f"{name}?"], ["shape of outputs"]),
        helper.make_node("Gather", ["shape of outputs", "first"], ["rows"]),
        helper.make_node("Range", ["zero", "rows", "one"], ["numbers"]),
        helper.make_node("Cast", ["numbers"], ["float numbers"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["float numbers", "axes"], ["column"]),
        helper.make_node("Add", [f"{name}?", "column"], [name]),
    )  # fmt: skip


def newer_ir(model):
    model.ir_version = 11


def older_opset(model):
    model.opset_import[0].version = 17


def unknown_operator(model):
    name = model.graph.output[0].name
    after(model, name, helper.make_node("Wish", [f"{name}?"], [name]))


CONTRACT = [
    (test_contract.test_inputs_are_what_the_tokenizer_makes, lacks_token_types, "no input token_type_ids"),
    (test_contract.test_inputs_are_what_the_tokenizer_makes, wants_int32, "input input_ids is int32"),
    (test_contract.test_inputs_are_what_the_tokenizer_makes, fixed_batch, "input input_ids is fixed to"),
    (test_contract.test_inputs_are_what_the_tokenizer_makes, wants_more, "nothing feeds the input pixel_values"),
    (test_contract.test_outputs_are_those_of_the_task, yields_more, "outputs .*pooler_output.* instead of"),
]


@pytest.mark.parametrize(("check", "fault", "message"), CONTRACT, ids=lambda value: getattr(value, "__name__", ""))
def test_contract_is_broken(faulty, finding, check, fault, message):
    case = faulty(fault)
    with pytest.raises(AssertionError, match=message):
        call_check(check, case, finding=finding)


@pytest.mark.parametrize("variant", ["plain", "O1", "O2", "quantized"])
def test_sound_exports_pass(cases, variant, finding):
    """The checks that see faults below see none here."""
    case = cases("embedder", variant)
    call_check(test_contract.test_inputs_are_what_the_tokenizer_makes, case, finding=finding)
    call_check(test_contract.test_outputs_are_those_of_the_task, case)
    call_check(test_loading.test_graph_is_valid_onnx, case)
    call_check(test_loading.test_versions_are_those_of_the_recipe, case, finding=finding)
    call_check(test_masks.test_scores_hold_under_mask, case, mask="right-padding")
    call_check(test_numbers.test_same_input_gives_the_same_bits, case)
    call_check(test_numbers.test_callers_score_as_they_do_alone, case)
    call_check(test_numbers.test_scores_are_finite_and_differ, case)
    call_check(test_recipe.test_exporter_leaves_its_inputs_untouched, case)
    for batch in (1, 3):
        call_check(test_batches.test_batch_scores_like_its_rows_alone, case, batch=batch, finding=finding)
    for name in ("past-the-limit", "unknown-token"):
        assert name in case.subject.stress_reference.refused
        call_check(test_batches.test_what_is_no_input_is_refused, case, fault=name)
    for place in test_places.PLACES:
        call_check(test_places.test_works_in_another_place, case, place=place)


@pytest.mark.parametrize("task", ["default", "feature-extraction"])
def test_reranker_without_its_head_is_caught_and_an_embedder_is_accepted(cases, session, tmp_path, task):
    """Exported so, a reranker has no logits; an embedder is what it should be."""
    for model in ("reranker", "embedder"):
        case = cases(model)
        folder = tmp_path / model
        parameters = {"task": task, "opset": OPSET}
        export_onnx([session.context.artifact(case.subject.plan.root).folder], folder, parameters)
        case.__dict__["artifact"] = dataclasses.replace(case.artifact, folder=folder)
        if model == "embedder":
            call_check(test_contract.test_outputs_are_those_of_the_task, case)
            call_check(test_masks.test_scores_hold_under_mask, case, mask="right-padding")
            continue
        with pytest.raises(AssertionError, match=r"another task\? rerank is exported with --task text-classification"):
            call_check(test_contract.test_outputs_are_those_of_the_task, case)


@pytest.mark.parametrize(
    ("fault", "check", "message"),
    [
        (newer_ir, test_loading.test_versions_are_those_of_the_recipe, "IR version 11"),
        (older_opset, test_loading.test_versions_are_those_of_the_recipe, "opset 17, and the recipe says 18"),
    ],
)
def test_wrong_versions_are_seen(faulty, finding, fault, check, message):
    with pytest.raises(AssertionError, match=message):
        call_check(check, faulty(fault), finding=finding)


def test_invalid_graph_is_seen(faulty):
    with pytest.raises(onnx.checker.ValidationError, match="Wish"):
        call_check(test_loading.test_graph_is_valid_onnx, faulty(unknown_operator))


def test_optimum_that_sees_another_file_is_seen(cases, faulty):
    """As when its class fills in or casts what the raw session is given."""
    case = cases()
    call_check(test_loading.test_raw_onnxruntime_and_optimum_agree, case, optimum=case.optimum_scores)
    changed = faulty(change_a_weight)
    runtime = OptimumRuntime(changed.file, case.subject.task.ort_class, "CPUExecutionProvider")
    feeds = case.subject.encoded.feeds(stress.short_probes(case.subject.encoded))
    with pytest.raises(AssertionError, match="raw ONNX Runtime and Optimum differ by"):
        test_loading.test_raw_onnxruntime_and_optimum_agree(
            case, case.subject.task.scores(runtime, feeds, case.subject.scoring)
        )


@pytest.mark.parametrize("mask", ["left-padding", "holes", "random"])
def test_fused_mask_is_seen(cases, mask):
    """O2 as it is: what the report calls its limit is a real difference."""
    case = cases("embedder", "O2")
    with pytest.raises(FAILURES, match=r"max_abs_error .* breaks its ceiling(.|\n)*under the same mask"):
        call_check(test_masks.test_scores_hold_under_mask, case, mask=mask)
    assert case.limit_of(f"scores_hold_under_mask[{mask}]")


def test_fused_mask_is_no_limit_of_a_tokenizer_that_pads_left(cases):
    case = cases("left-padder", "O2")
    assert case.limit_of("scores_hold_under_mask[left-padding]") is None
    assert case.limit_of("scores_hold_under_mask[holes]")


def test_mask_that_is_ignored_is_seen(faulty):
    case = faulty(ignores("attention_mask"))
    with pytest.raises(FAILURES, match="breaks its ceiling"):
        call_check(test_masks.test_scores_hold_under_mask, case, mask="right-padding")


def test_row_without_tokens_that_turns_nan_is_seen(faulty):
    def divide_by_mask(model):
        """As a softmax over nothing does."""
        name = model.graph.output[0].name
        constant(model, "last axis", np.array([1]))
        constant(model, "and one more", np.array([2]))
        after(
            model, name,
            helper.make_node("Cast", ["attention_mask"], ["float mask"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["float mask", "last axis"], ["any"], keepdims=1),
            helper.make_node("Unsqueeze", ["any", "and one more"], ["any of row"]),
            helper.make_node("Log", ["any of row"], ["0 or -inf"]),
            helper.make_node("Add", [f"{name}?", "0 or -inf"], [name]),
        )  # fmt: skip

    case = faulty(divide_by_mask)
    with pytest.raises(AssertionError, match=r"fully-masked-row: .* numbers are not finite, and PyTorch's are"):
        call_check(test_masks.test_scores_hold_under_mask, case, mask="fully-masked-row")


@pytest.mark.parametrize("batch", [2, 3, 32])
def test_dependence_on_the_batch_is_seen(faulty, batch, finding):
    with pytest.raises(FAILURES, match=f"the same rows alone, batch {batch}"):
        call_check(
            test_batches.test_batch_scores_like_its_rows_alone, faulty(counts_rows), batch=batch, finding=finding
        )


@pytest.mark.parametrize("lengths", ["1, 2, 7", "limit-1, limit"])
def test_dependence_on_padding_is_seen(faulty, lengths):
    with pytest.raises(FAILURES, match="the same rows alone, lengths"):
        test_batches.test_lengths_score_together_as_alone(faulty(ignores("attention_mask")), lengths)


@pytest.mark.parametrize(
    ("fault", "name"), [(clips_token_ids, "unknown-token"), (cuts_what_is_too_long, "past-the-limit")]
)
def test_answer_to_what_is_no_input_is_seen(faulty, fault, name):
    case = faulty(fault)
    with pytest.raises(FAILURES, match=rf"{name}: PyTorch refuses it .\w+Error.*and the export answers"):
        call_check(test_batches.test_what_is_no_input_is_refused, case, fault=name)


@pytest.mark.parametrize(
    ("scores", "message"),
    [(np.nan, "some scores are not finite"), (0, "all scores are zero"), (1, "every probe has the same scores")],
)
def test_numbers_that_say_nothing_are_seen(cases, scores, message):
    case = cases()
    case.__dict__["scores"] = np.full_like(case.scores, scores)
    with pytest.raises(AssertionError, match=message):
        call_check(test_numbers.test_scores_are_finite_and_differ, case)


def test_run_that_differs_from_the_last_is_seen(faulty):
    with pytest.raises(AssertionError, match="runs differ by up to"):
        call_check(test_numbers.test_same_input_gives_the_same_bits, faulty(noisy))


def test_callers_that_disturb_each_other_are_seen(faulty):
    with pytest.raises(AssertionError, match="runs beside 3 other callers differ from the same batch alone"):
        call_check(test_numbers.test_callers_score_as_they_do_alone, faulty(noisy))


def pinned(case, operators=None, tokenizer=None, tokens=None):
    """Return the case of a model with an approved conformance.json."""
    subject = case.subject
    encoded = subject.encoded
    file = ConformanceFile(
        probes=subject.probes_digest,
        arrays="",
        provenance=subject.provenance(),
        tokenizer=tokenizer or msgspec.structs.asdict(encoded.facts.tokenizer),
        operators={case.variant.name: operators or case.operators},
    )
    ids = {"input_ids": encoded.fields["input_ids"], "offsets": encoded.offsets} | (tokens or {})
    approved = dataclasses.replace(subject.approved, conformance_file=file, tokens=ids)
    return dataclasses.replace(case, subject=dataclasses.replace(subject, approved=approved))


def test_fusion_that_vanished_is_seen(cases):
    case = cases("embedder", "O2")
    call_check(test_fusion.test_operators_are_the_pinned_ones, pinned(case))
    operators = case.operators | {"com.microsoft.Attention": 3, "com.microsoft.FastGelu": 2}
    with pytest.raises(FAILURES, match=r"Attention: 3 -> 2, com.microsoft.FastGelu: 2 -> 0"):
        call_check(test_fusion.test_operators_are_the_pinned_ones, pinned(case, operators=operators))


def test_fusions_that_a_ready_made_file_lacks_are_remarked_on(cases):
    """A plain graph that is handed in as O2 scores as it should, and is no faster."""
    case = dataclasses.replace(pinned(cases("embedder", "O2")), ready_made=ReadyMade(Path("model.onnx"), {}, {}))
    check = test_fusion.test_operators_are_the_pinned_ones
    findings: list[str] = []
    call_check(check, case, operators=cases("embedder", "O2").operators, finding=findings.append)
    assert findings == []
    call_check(check, case, operators=cases().operators, finding=findings.append)
    (text,) = findings
    assert re.match(r"has none of what exportgate's own O2 has: .*2 com\.microsoft\.Attention", text)


def test_O4_that_is_only_a_cast_is_refused(cases, session):
    """The plain graph as O4: what Optimum makes of it where it sees no GPU, but for the types."""
    case = cases("embedder", "O4")
    case.__dict__["artifact"] = cases().artifact
    with pytest.raises(AssertionError, match="nothing is fused"):
        call_check(test_fusion.test_optimized_for_gpu_means_fused, case)
    case = cases("embedder", "O4")
    case.__dict__["artifact"] = cases("embedder", "O2").artifact
    call_check(test_fusion.test_optimized_for_gpu_means_fused, case)


@pytest.mark.parametrize("place", test_places.PLACES)
def test_place_that_changes_the_scores_is_seen(cases, monkeypatch, place):
    def spoiled(source, where):
        folder = where / "spoiled"
        folder.mkdir()
        change_a_weight(model := onnx.load(source / "model.onnx"))
        onnx.save(model, folder / "model.onnx")
        return folder

    monkeypatch.setitem(test_places.PLACES, place, spoiled)
    with pytest.raises(AssertionError, match=f"other scores when it is {place}"):
        call_check(test_places.test_works_in_another_place, cases(), place=place)


def test_weights_that_stay_behind_are_seen(cases, monkeypatch):
    """A place that takes the graph along and not its external data."""

    def without_data(source, where):
        folder = test_places.external_data(source, where)
        (folder / "model.onnx_data").unlink()
        return folder

    monkeypatch.setitem(test_places.PLACES, "copied-external-data", without_data)
    with pytest.raises(Exception, match="onnx_data"):
        call_check(test_places.test_works_in_another_place, cases(), place="copied-external-data")


def test_other_tokens_are_seen(cases):
    case = cases()
    subject = case.subject
    call_check(test_tokenizer.test_token_ids_are_the_golden_ones, pinned(case))
    call_check(test_tokenizer.test_tokenizer_settings_are_the_pinned_ones, pinned(case))
    ids = subject.encoded.fields["input_ids"].copy()
    ids[subject.encoded.offsets[3] + 1] += 1
    with pytest.raises(FAILURES, match=f"1 of 96 probes have other token ids .*\n  {subject.probes[3].id}"):
        call_check(test_tokenizer.test_token_ids_are_the_golden_ones, pinned(case, tokens={"input_ids": ids}))
    settings = msgspec.structs.asdict(subject.encoded.facts.tokenizer) | {"padding_side": "left"}
    with pytest.raises(AssertionError, match="padding_side: left -> right"):
        call_check(test_tokenizer.test_tokenizer_settings_are_the_pinned_ones, pinned(case, tokenizer=settings))


def edit_tokenizer(change):
    """Return a fault of tokenizer.json alone: a function that changes its content in place."""

    def edit(folder):
        document = json.loads((folder / "tokenizer.json").read_text())
        change(document)
        (folder / "tokenizer.json").write_text(json.dumps(document))

    return edit


def cuts_by_itself(tokenizer, length=16):
    tokenizer["truncation"] = {"direction": "Right", "max_length": length, "strategy": "LongestFirst", "stride": 0}


def pads_by_itself(tokenizer):
    tokenizer["padding"] = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                            "pad_type_id": 0, "pad_token": "[PAD]"}  # fmt: skip


def keeps_capitals(tokenizer):
    tokenizer["normalizer"]["lowercase"] = False


def keeps_accents(tokenizer):
    tokenizer["normalizer"]["strip_accents"] = False


def joins_chinese(tokenizer):
    tokenizer["normalizer"]["handle_chinese_chars"] = False


def ends_without_separator(tokenizer):
    tokenizer["post_processor"]["single"].pop()


def adds_a_word(tokenizer):
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    tokenizer["added_tokens"].append({"id": 1000, "content": "the", **flags})


@pytest.mark.parametrize("model", ["embedder", "reranker"])
@pytest.mark.parametrize(
    ("fault", "setting"),
    [
        (keeps_capitals, r"normalizer\.lowercase: true -> false \(Transformers sets it from do_lower_case in"),
        (keeps_accents, r"normalizer\.strip_accents: null -> false \(Transformers sets it from strip_accents in"),
        (joins_chinese, r"normalizer\.handle_chinese_chars: true -> false \(.* from tokenize_chinese_chars in"),
        (ends_without_separator, r"post_processor\.single\.2: "),
        (cuts_by_itself, r"truncation\.max_length: 64 -> 16"),
        (pads_by_itself, r"padding: null -> "),
        (adds_a_word, r"added_tokens\.\d: "),
    ],
)
def test_tokenizer_file_that_alone_makes_other_tokens_is_seen(faulty, cases, tmp_path, model, fault, setting):
    """Whether Transformers sets it right when it loads or not, and in the checkpoint as well as beside the graph."""
    case = faulty(edit_tokenizer(fault), model, of_folder=True)
    with pytest.raises(FAILURES, match=setting) as caught:
        call_check(test_tokenizer.test_shipped_tokenizer_file_alone_makes_the_same_tokens, case)
    assert "who reads it alone: fastembed, text-embeddings-inference, transformers.js" in str(caught.value)
    check = functools.partial(call_check, test_tokenizer.test_tokenizer_file_alone_makes_the_same_tokens, cases(model))
    if fault in (cuts_by_itself, pads_by_itself):  # which exports state anew
        check(checkpoint_folder=case.artifact.folder)
        return
    with pytest.raises(FAILURES, match=setting):
        check(checkpoint_folder=case.artifact.folder)


@pytest.mark.parametrize("model", MODELS)
def test_tokenizer_files_of_a_sound_export_make_the_same_tokens(cases, model):
    case = cases(model)
    call_check(test_tokenizer.test_tokenizer_file_alone_makes_the_same_tokens, case)
    call_check(test_tokenizer.test_shipped_tokenizer_file_alone_makes_the_same_tokens, case)
    call_check(test_tokenizer.test_shipped_lengths_leave_room_for_what_was_judged, case)


def test_length_that_the_caller_sets_is_no_fault(faulty):
    """A file that cuts later than its scores were judged leaves it to the caller."""
    case = faulty(edit_tokenizer(functools.partial(cuts_by_itself, length=128)), of_folder=True)
    call_check(test_tokenizer.test_shipped_tokenizer_file_alone_makes_the_same_tokens, case)
    call_check(test_tokenizer.test_shipped_lengths_leave_room_for_what_was_judged, case)


def states(name, **keys):
    """Return a fault: a configuration file beside the graph with these keys."""

    def write(folder):
        file = folder / name
        document = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(document | keys))

    return write


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (edit_tokenizer(cuts_by_itself), r"truncation.max_length in tokenizer.json cuts at 16; .* Rust, Go and Java"),
        (edit_tokenizer(pads_by_itself), r"Fixed in tokenizer.json pads every text to 64; .* tokenizer.json alone"),
        (
            states("tokenizer_config.json", max_length=32),
            r"max_length in tokenizer_config.json cuts at 32; .*fastembed",
        ),
        (states("sentence_bert_config.json", max_seq_length=63), r"cuts at 63; .*text-embeddings-inference"),
    ],
)
def test_length_beside_the_graph_that_was_not_judged_is_seen(faulty, fault, message):
    case, measured = faulty(fault, of_folder=True), Measured()
    with pytest.raises(FAILURES, match=message):
        call_check(test_tokenizer.test_shipped_lengths_leave_room_for_what_was_judged, case, measured=measured)
    assert measured.length_limits is not None
    assert measured.length_limits.conflicts(64)


def test_slow_tokenizer_that_differs_is_seen(cases, monkeypatch):
    subject = cases().subject
    encoded = subject.encoded

    def change(differences):
        facts = msgspec.structs.replace(encoded.facts, slow_differences=differences)
        monkeypatch.setitem(subject.__dict__, "encoded", dataclasses.replace(encoded, facts=facts))

    change([])
    test_tokenizer.test_slow_and_fast_tokenizer_agree(subject)
    change([5])
    with pytest.raises(FAILURES, match="slow and fast tokenizer differ at 1 "):
        test_tokenizer.test_slow_and_fast_tokenizer_agree(subject)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": "cls"}, "pooling is 'mean', and its 1_Pooling/config.json says 'cls'"),
        ({"normalize": False}, "normalize is True, and its modules.json says False"),
        ({"dimensions": 8}, "dimensions is None, and truncate_dim in its config_sentence_transformers.json says 8"),
        ({"prompts": Prompts("query: ")}, "prompts is None, and its config_sentence_transformers.json says Prompts"),
        ({"include_prompt": False}, "include_prompt is True, and its 1_Pooling/config.json says False"),
    ],
)
def test_head_that_is_not_the_checkpoints_is_seen(cases, changes, message):
    subject = cases().subject

    def judge(modules):
        plan = dataclasses.replace(subject.plan, modules=modules)
        test_tokenizer.test_pooling_is_the_checkpoints_own(dataclasses.replace(subject, available_plan=plan))

    own = ModuleSettings("mean", normalize=True)
    judge(own)
    with pytest.raises(FAILURES, match=re.escape(message)):
        judge(msgspec.structs.replace(own, **changes))


def test_exporter_that_changes_its_input_is_seen(cases, session, monkeypatch):
    case = cases("embedder", "O2")
    touched = dataclasses.replace(case.artifact, touched=("input0/model.onnx_data is deleted by tiny: O2",))
    monkeypatch.setitem(session.context._artifacts, case.step, touched)
    with pytest.raises(AssertionError, match=r"model\.onnx_data is deleted by"):
        call_check(test_recipe.test_exporter_leaves_its_inputs_untouched, case)


PROPERTIES = [
    (test_properties.test_order_of_a_batch_does_not_matter, counts_rows, "the same batch in another order"),
    (test_properties.test_padding_does_not_matter, ignores("attention_mask"), "the same texts alone"),
    (test_properties.test_duplicates_score_alike, counts_rows, "a text and its duplicate differ by"),
    (test_properties.test_embeddings_have_unit_norm, all_weights(0), "norms"),
]


@pytest.mark.parametrize(("check", "fault", "message"), PROPERTIES, ids=lambda value: getattr(value, "__name__", ""))
def test_property_that_does_not_hold_is_seen(faulty, check, fault, message):
    """And the example names its case in a word, and ends with a line that scores it again."""
    case = faulty(fault)
    with pytest.raises(FAILURES, match=message) as caught:
        call_check(check, case)
    assert f"case={case!r},\n" in "\n".join(caught.value.__notes__)
    line = next(
        note for note in caught.value.__notes__ if note.startswith("from fixtures.scoring.stress import replay")
    )
    scope: dict[str, Array] = {}
    exec(line.replace("; replay(", "; found = replay("), scope)
    assert scope["found"].ndim == 2


def test_O1_that_is_not_plain_is_seen(faulty, cases):
    with pytest.raises(FAILURES, match="plain"):
        test_properties.test_o1_equals_plain(faulty(change_a_weight, variant="O1"), cases())


def test_order_of_a_pair_that_is_ignored_is_seen(faulty, cases):
    sound = cases("reranker")
    check = test_properties.test_swapping_query_and_passage_changes_what_it_changes_in_pytorch
    call_check(check, sound)
    case = faulty(ignores("token_type_ids"), model="reranker")
    with pytest.raises(FAILURES, match="PyTorch, pairs and swapped pairs"):
        call_check(check, case)


def recast(variant="quantized", **int8):
    """The fault is a file that another recipe quantized."""

    def requantize(folder):
        parameters = {
            "weights_dtype": "QUInt8",
            "activations_dtype": "QUInt8",
            "per_channel": True,
            "reduce_range": False,
        }
        plain = folder.parent / "plain"
        plain.mkdir()
        (folder / "model.onnx").rename(plain / "model.onnx")
        quantize_fused([plain], folder, parameters | int8)

    return requantize


@pytest.mark.parametrize(
    ("int8", "message"),
    [
        ({"weights_dtype": "QInt8"}, "is QInt8, and not QUInt8"),
        ({"per_channel": False}, "per_channel is False in 12 weights"),
        ({"reduce_range": True}, "reduce_range is True"),
    ],
)
def test_quantization_of_another_recipe_is_seen(session, faulty, finding, int8, message):
    avx2 = Machine("x86_64", "avx2", "avx2", "", 1, 1, 0, ("CPUExecutionProvider",))
    case = as_quantized(faulty(recast(**int8), of_folder=True))
    with pytest.raises(AssertionError, match=message):
        call_check(RECIPE, case, gate=on(avx2, session), finding=finding)


def test_quantization_that_is_not_there_is_seen(cases, faulty, finding):
    call_check(RECIPE, cases(), finding=finding)
    with pytest.raises(AssertionError, match="nothing is quantized"):
        call_check(RECIPE, as_quantized(cases()), finding=finding)
    quantized = faulty(recast(), of_folder=True)
    with pytest.raises(AssertionError, match="is quantized, and the recipe does not say so"):
        call_check(RECIPE, quantized, finding=finding)


def test_signed_weights_where_they_saturate_are_a_finding(session, faulty):
    findings = {}
    case = as_quantized(faulty(recast(weights_dtype="QInt8"), of_folder=True))
    for tier in ("avx512", "avx512_vnni"):
        gate = on(Machine("x86_64", tier, tier, "", 1, 1, 0, ()), session)
        call_check(RECIPE, case, gate=gate, finding=lambda text, tier=tier: findings.update({tier: text}))
    assert "signed weights saturate in the 16-bit sums of avx512 " in findings["avx512"]
    assert "saturate" not in findings["avx512_vnni"]


RECIPE = test_quantization.test_quantization_is_that_of_the_recipe


def as_quantized(case):
    """Return the same files as the variant `quantized`."""
    quantized = dataclasses.replace(case, variant=VARIANT["quantized"])
    quantized.__dict__["artifact"] = case.artifact
    return quantized


def on(machine, gate):
    """Return the gate on another machine."""
    return Gate(dataclasses.replace(gate.context, machine=machine))


def test_layer_with_a_wrong_scale_is_named(faulty, cases, finding):
    def double_a_scale(model):
        scale = next(
            tensor for tensor in model.graph.initializer if tensor.name.endswith("_scale") and "MatMul" in tensor.name
        )
        scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(2), scale.name))

    check = test_quantization.test_weights_survive_quantization
    call_check(check, cases("embedder", "quantized"), finding=finding)
    case = faulty(double_a_scale, variant="quantized")
    with pytest.raises(AssertionError, match=r"encoder\.layer\.0\.\S+ is off by .* steps of its scale"):
        call_check(check, case, finding=finding)


def test_optimizer_that_deletes_external_data_is_recorded(session, cases, tmp_path):
    """ORTOptimizer deletes the external data that it read, even with another folder to save to."""
    source = tmp_path / "source"
    shutil.copytree(cases().artifact.folder, source)
    (source / "manifest.json").unlink()
    onnx.save_model(
        onnx.load(source / "model.onnx"), source / "model.onnx", save_as_external_data=True, location="model.onnx_data"
    )
    copied = Step(copy, "external", (), {"from": str(source)})
    optimized = Step(onnx_export.optimize, "tiny: O2", (copied,), {"level": "O2", "raw_mask": False})
    artifact = session.context.store.run(optimized)
    assert artifact.touched == ("input0/model.onnx_data is deleted by tiny: O2",)
    assert manifest.verify(artifact.key, artifact.folder).touched == artifact.touched


@step_function("test_conformance:copy")
def copy(inputs, output, parameters):
    """Step function: a folder of this machine."""
    shutil.copytree(parameters["from"], output, dirs_exist_ok=True)


def test_every_check_has_its_fault():
    """A check that was never seen to fail does not count."""
    names = (
        "conformance",
        "gate",
        "ready_made",
        "weights",
        "half",
        "heads",
        "sentence_transformers",
        "late_interaction",
    )
    tests = "".join((ROOT / "suites" / "meta" / f"test_{name}.py").read_text() for name in names)
    tests += (ROOT / "suites" / "meta" / "test_consumers.py").read_text()
    assert not [name for name in CHECKS | checks.CONSUMERS if name not in tests]


def test_table_of_checks_is_that_of_the_suite():
    """A limit in model.toml is held to the table, before any suite is collected."""
    for suite, names in (("conformance", CHECKS), ("consumers", checks.CONSUMERS)):
        files = (ROOT / "suites" / suite).glob("test_*.py")
        modules = [importlib.import_module(f"suites.{suite}.{file.stem}") for file in files]
        assert all(module.pytestmark is not None for module in modules)
        tests = [name for module in modules for name in vars(module) if name.startswith("test_")]
        assert {name.removeprefix("test_") for name in tests} == names


def test_limits_of_recipes_and_providers_are_of_checks_that_exist():
    """A limit of a check that no suite has would never be met."""
    limits = [limit for variant in VARIANT.values() for limit in recipe_limits(variant)]
    limits += itertools.chain.from_iterable(PROVIDER_LIMITS.values())
    assert {check.partition("[")[0] for check in [*(limit.check for limit in limits), *LIMIT_WORDS]} <= CHECKS


@pytest.mark.parametrize(("variant", "is_named"), [("plain", False), ("fp16", True)])
def test_reproduce_line_names_a_variant_that_is_judged_on_request_only(cases, variant, is_named):
    """Without its name it would not be collected."""
    item: Any = SimpleNamespace(nodeid="suites/x.py::test_x", config=SimpleNamespace(getoption={}.get))
    command = reproducing_command(item, cases("embedder", variant))
    assert command.startswith("tox run -e gate -- suites/x.py::test_x")
    assert (f"--variant={variant}" in command) == is_named


def test_graph_that_the_target_does_not_read_is_refused(cases):
    case = cases()
    options = dataclasses.replace(case.context.options, target_ort="1.17")
    subject = dataclasses.replace(case.subject, context=dataclasses.replace(case.context, options=options))
    targeted = dataclasses.replace(case, subject=subject)
    later = onnx.ModelProto()
    later.CopyFrom(case.graph)
    call_check(test_contract.test_target_runtime_reads_it, targeted, onnx_model=later)
    later.ir_version = 12
    with pytest.raises(FAILURES, match=r"onnxruntime 1\.17 does not read it: IR version 12, and 1\.17 reads 9 at most"):
        call_check(test_contract.test_target_runtime_reads_it, targeted, onnx_model=later)
