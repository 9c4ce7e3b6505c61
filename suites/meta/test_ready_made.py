"""Ready-made ONNX files: found, mapped, judged or refused."""

import json
import os
import re
import shutil
import subprocess
import sys

import ml_dtypes
import numpy as np
import onnx
import pytest
import tokenizers
from onnx import TensorProto, helper, numpy_helper

from fixtures.export.graph_names import ReadyMadeError, map_inputs, map_outputs
from fixtures.export.quantize import quantize_weights
from fixtures.export.ready_made import PADDED_TO, find
from fixtures.export.recipes import WEIGHT_PARAMETERS
from fixtures.scoring.tasks import TASKS
from suites.meta.house import FEW, ROOT

FIELDS = ["input_ids", "token_type_ids", "attention_mask"]


@pytest.mark.parametrize(
    ("declared", "fields", "mapping"),
    [
        (FIELDS, FIELDS, {name: name for name in FIELDS}),
        (["input_ids"], FIELDS, {"input_ids": "input_ids"}),
        (
            ["ids", "mask", "segment_ids"],
            FIELDS,
            {"ids": "input_ids", "mask": "attention_mask", "segment_ids": "token_type_ids"},
        ),
        (["Input_IDs:0", "input_mask"], FIELDS[::2], {"Input_IDs:0": "input_ids", "input_mask": "attention_mask"}),
        (["input.1", "input.3"], FIELDS, {"input.1": "input_ids", "input.3": "attention_mask"}),
        (["a", "b", "c"], FIELDS, {"a": "input_ids", "b": "attention_mask", "c": "token_type_ids"}),
        (["input_ids", "x"], FIELDS[::2], {"input_ids": "input_ids", "x": "attention_mask"}),
    ],
)
def test_inputs_are_mapped(declared, fields, mapping):
    assert map_inputs(declared, fields) == mapping


@pytest.mark.parametrize(
    ("declared", "fields"),
    [
        (["input_ids", "pixel_values"], FIELDS),
        (["a", "b", "c"], FIELDS[::2]),
        ([*FIELDS, "labels"], FIELDS),
        (["input_ids", "attention_mask", "position_ids"], FIELDS),  # a decoder's graph beside BERT's tokenizer
        (["input_ids", "attention_mask", "segment_ids"], [*FIELDS[:2], "position_ids"]),
    ],
)
def test_inputs_that_nothing_feeds_are_refused(declared, fields):
    with pytest.raises(ReadyMadeError, match="nothing feeds the input"):
        map_inputs(declared, fields)


@pytest.mark.parametrize(
    ("task", "axes", "mapping"),
    [
        ("embedding", {"last_hidden_state": 3}, {"last_hidden_state": "last_hidden_state"}),
        ("embedding", {"last_hidden_state": 3, "pooler_output": 2}, {"last_hidden_state": "last_hidden_state"}),
        ("embedding", {"token_embeddings": 3, "sentence_embedding": 2}, {"sentence_embedding": "sentence_embedding"}),
        ("embedding", {"1234": 3}, {"1234": "last_hidden_state"}),
        ("embedding", {"1234": 3, "5678": 2}, {"1234": "last_hidden_state"}),
        ("embedding", {"5678": 2}, {"5678": "sentence_embedding"}),
        ("embedding", {"output": 2, "onnx::Shape_422": 3}, {"onnx::Shape_422": "last_hidden_state"}),
        ("embedding", {"last_hidden_state": 2, "hidden_states": 3}, {"hidden_states": "last_hidden_state"}),
        ("embedding", {"last_hidden_state": 0}, {"last_hidden_state": "last_hidden_state"}),
        ("late-interaction", {"token_embeddings": 3}, {"token_embeddings": "token_embeddings"}),
        ("late-interaction", {"last_hidden_state": 3, "pooler_output": 2}, {"last_hidden_state": "token_embeddings"}),
        ("sparse", {"logits": 3}, {"logits": "logits"}),
        ("sparse", {"output": 3}, {"output": "logits"}),
        ("sparse", {"logits": 3, "sentence_embedding": 2}, {"sentence_embedding": "sentence_embedding"}),
        ("sparse", {"sparse_vector": 2}, {"sparse_vector": "sentence_embedding"}),
        ("rerank", {"logits": 3, "x": 2}, {"x": "logits"}),
        ("rerank", {"output_0": 2}, {"output_0": "logits"}),
        ("rerank", {"score": 1}, {"score": "logits"}),
        ("rerank", {"hidden": 3, "x": 2}, {"x": "logits"}),
        ("question-answering", {"end": 2, "start": 2}, {"end": "end_logits", "start": "start_logits"}),
    ],
)
def test_outputs_are_mapped(task, axes, mapping):
    assert map_outputs(axes, TASKS[task]) == mapping


@pytest.mark.parametrize(
    ("task", "axes"),
    [
        ("embedding", {"a": 3, "b": 3}),
        ("embedding", {"a": 2, "b": 2}),
        ("embedding", {"logits": 2}),
        ("sparse", {"logits": 2}),
        ("rerank", {"last_hidden_state": 3}),
        ("question-answering", {"a": 2, "b": 2}),
        ("question-answering", {"start": 2}),
    ],
)
def test_outputs_that_cannot_be_identified_are_refused(task, axes):
    with pytest.raises(ReadyMadeError, match=r"no output can be identified as .*; export it with --task"):
        map_outputs(axes, TASKS[task])


def test_output_of_integers_is_never_scores():
    with pytest.raises(ReadyMadeError, match="the graph has output of integers; export it"):
        map_outputs({}, TASKS["embedding"], ["output"])


@pytest.mark.parametrize(
    ("location", "message"),
    [
        (b"weights\xff", r"keeps weights in weights\\xff, which is missing"),
        (b"x" * 5000, r"keeps weights in x+, which cannot be there: .* is no path: File name too long"),
        (b"a\x00b", r"keeps weights in a\x00b, which cannot be there: .* is no path"),
    ],
    ids=["no UTF-8", "long", "NUL"],
)
def test_location_that_no_file_can_have_is_refused(tmp_path, location, message):
    placeholder = "w" * len(location)
    weight = numpy_helper.from_array(np.zeros(4, np.float32), "weight")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=placeholder)
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    graph = helper.make_graph([helper.make_node("Identity", ["weight"], ["y"])], "graph", [], [value], [weight])
    model = helper.make_model(graph).SerializeToString()
    (tmp_path / "model.onnx").write_bytes(model.replace(placeholder.encode(), location))
    with pytest.raises(ReadyMadeError, match=message):
        find(tmp_path / "model.onnx", None)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_link_in_a_circle_is_refused(tmp_path, name):
    for file in ("model.onnx", "tokenizer.json"):
        (tmp_path / file).touch()
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(name)
    with pytest.raises(ReadyMadeError, match=rf"{name} (is a link to|cannot be read)"):
        find(tmp_path, None)


# -------------------------------------------------------------------------------- through the gate


@pytest.fixture(scope="session")
def plain(shop):
    """The shop's plain export, as somebody else would hand it over."""
    _, house, _ = shop
    run = house.run("--variant", "plain", "-k", "ceiling")
    assert run.returncode == 0, run.text
    return house.artifact("plain")


@pytest.fixture
def folder(plain, tmp_path):
    """A copy of the plain export, which a test may change."""
    shutil.copytree(plain, tmp_path / "export")
    (tmp_path / "export" / "manifest.json").unlink()
    return tmp_path / "export"


def edit(folder, change, **options):
    """Change the graph of a folder; `options` are of onnx.save_model."""
    model = onnx.load(folder / "model.onnx")
    change(model)
    onnx.save_model(model, folder / "model.onnx", **options)


def rename(model):
    names = {
        "input_ids": "ids",
        "attention_mask": "input_mask",
        "token_type_ids": "segment_ids",
        "last_hidden_state": "1234",
    }
    for node in model.graph.node:
        for values in (node.input, node.output):
            for number, name in enumerate(values):
                values[number] = names.get(name, name)
    for value in (*model.graph.input, *model.graph.output):
        value.name = names[value.name]


def add_pooling(model, normalize=True):
    """Make a graph pool and normalise, as sentence-transformers exports do; the token embeddings stay an output."""
    node, add = helper.make_node, model.graph.node.append
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.array([axis]), f"axis {axis}") for axis in (1, 2)]
        + [numpy_helper.from_array(np.array(1e-12, np.float32), "little")]
    )
    add(node("Cast", ["attention_mask"], ["float mask"], to=TensorProto.FLOAT))
    add(node("Unsqueeze", ["float mask", "axis 2"], ["column"]))
    add(node("Mul", ["last_hidden_state", "column"], ["masked"]))
    add(node("ReduceSum", ["masked", "axis 1"], ["sum"], keepdims=0))
    add(node("ReduceSum", ["float mask", "axis 1"], ["tokens"], keepdims=1))
    add(node("Max", ["tokens", "little"], ["count"]))  # of a row without tokens
    add(node("Div", ["sum", "count"], ["mean"]))
    add(node("ReduceL2", ["mean", "axis 1"], ["norm"], keepdims=1))
    add(node("Max", ["norm", "little"], ["some norm"]))
    add(node("Div", ["mean", "some norm"] if normalize else ["mean", "one"], ["sentence_embedding"]))
    if not normalize:
        model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), "one"))
    model.graph.output.append(helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", 32]))


def narrow_inputs(model):
    for value in model.graph.input:
        value.type.tensor_type.elem_type = TensorProto.INT32
        wide = f"{value.name} wide"
        for node in model.graph.node:
            for number, name in enumerate(node.input):
                if name == value.name:
                    node.input[number] = wide
        model.graph.node.insert(0, helper.make_node("Cast", [value.name], [wide], to=TensorProto.INT64))


def result(house, variant="plain"):
    (row,) = [row for row in house.gate()["models"][0]["variants"] if row["variant"] == variant]
    return row


def test_ready_made_folder_scores_like_the_reference_and_imports_no_framework(shop, folder):
    """PyTorch is not needed where the reference is approved; names and external data may be others."""
    _, house, _ = shop
    edit(folder, rename, save_as_external_data=True, location="weights.bin", size_threshold=0)
    run = house.run(f"--artifact=bert:plain={folder}", trace_imports=True)
    assert run.returncode == 0, run.text
    assert not run.frameworks - {"transformers"}, "PyTorch was imported"
    row = result(house)
    assert row["status"] == "unbaselined"
    assert "the approved scores are of exportgate's own export, and this is a ready-made file" in row["reason"]
    assert row["closeness"]["max_abs_error"] < 1e-5
    assert row["path"] == str(folder / "model.onnx"), "what was handed in, and not the copy with other names"
    assert "inputs ids as input_ids, input_mask as attention_mask, segment_ids as token_type_ids" in row["ready_made"]
    assert "outputs 1234 as last_hidden_state" in row["ready_made"]
    assert "ids as input_ids" in run.text, "the terminal shows the mapping"
    assert "Ready-made files" in (house.report / "gate.md").read_text()


def test_single_file_is_judged_with_the_checkpoints_tokenizer(shop, folder):
    _, house, _ = shop
    edit(folder, add_pooling)
    for file in folder.iterdir():
        if file.name != "model.onnx":
            file.unlink()
    run = house.run(f"--artifact=bert:plain={folder / 'model.onnx'}", suite="suites/conformance")
    assert run.returncode == 0, run.text
    assert "scored by its own pooled output sentence_embedding" in result(house)["ready_made"]
    assert "extra outputs, not scored: last_hidden_state" in result(house)["ready_made"]


def test_narrow_integers_are_cast_and_remarked_on(shop, folder):
    _, house, _ = shop
    edit(folder, narrow_inputs)
    run = house.run(f"--artifact=bert:plain={folder}", suite="suites/conformance/test_contract.py")
    assert run.returncode == 0, run.text
    text = result(house)["checks"]["inputs_are_what_the_tokenizer_makes"]["text"]
    assert text == "whoever runs it has to cast to int32: input_ids, attention_mask, token_type_ids"
    run = house.run(f"--artifact=bert:plain={folder}")
    assert run.returncode == 0, run.text


def test_worse_file_breaks_its_ceiling(shop, folder):
    _, house, _ = shop
    edit(folder, lambda model: add_pooling(model, normalize=False))
    run = house.run(f"--artifact=bert:plain={folder}")
    assert run.returncode == 1, run.text
    assert house.gate()["failures"][0]["check"] == "scores_stay_within_ceiling"
    assert f"--artifact=bert:plain={folder}" in house.gate()["failures"][0]["message"]


def widen(model, name="last_hidden_state"):
    """Let an output hold every number twice."""
    for node in model.graph.node:
        node.output[:] = ["narrow" if output == name else output for output in node.output]
        node.input[:] = ["narrow" if value == name else value for value in node.input]
    model.graph.node.append(helper.make_node("Concat", ["narrow", "narrow"], [name], axis=-1))
    (output,) = [output for output in model.graph.output if output.name == name]
    output.type.tensor_type.shape.dim[-1].dim_value = 64


def add_mask_output(model):
    """Name the mask, in integers, what others call the token embeddings, and these what nobody does."""
    value = helper.make_tensor_value_info("output", TensorProto.INT64, ["batch", "length"])
    for node in model.graph.node:
        node.output[:] = ["onnx::Shape_422" if name == "last_hidden_state" else name for name in node.output]
    model.graph.node.append(helper.make_node("Identity", ["attention_mask"], ["output"]))
    model.graph.output[0].name = "onnx::Shape_422"
    model.graph.output.insert(0, value)


@pytest.mark.parametrize("pooled", [False, True])
def test_output_of_another_width_is_named_with_its_width_and_the_expected_one(shop, folder, pooled):
    """Whatever compares its scores."""
    _, house, _ = shop
    if pooled:
        edit(folder, add_pooling)
    edit(folder, lambda model: widen(model, "sentence_embedding" if pooled else "last_hidden_state"))
    suite = "suites/accuracy/test_scores.py"
    run = house.run(f"--artifact=bert:plain={folder}", "suites/conformance/test_masks.py", suite=suite)
    assert run.returncode == 1, run.text
    failures = {failure["check"].partition("[")[0]: failure["message"] for failure in house.gate()["failures"]}
    assert {"scores_stay_within_ceiling", "scores_hold_under_mask"} <= failures.keys()
    output = "sentence_embedding" if pooled else "last_hidden_state"
    for check in ("scores_stay_within_ceiling", "scores_hold_under_mask"):
        assert f"scores of output {output} cannot be compared: 64 wide instead of 32" in failures[check]
    assert "broadcast" not in run.text


def test_output_of_integers_is_not_taken_for_embeddings(shop, folder):
    _, house, _ = shop
    edit(folder, add_mask_output)
    run = house.run(f"--artifact=bert:plain={folder}", "suites/conformance/test_contract.py")
    assert run.returncode == 0, run.text
    assert "outputs onnx::Shape_422 as last_hidden_state" in result(house)["ready_made"]
    assert "extra outputs, not scored: output" in result(house)["ready_made"]


def test_other_tokenizer_is_seen(shop, folder):
    """test_shipped_tokenizer_is_the_checkpoints fails if the tokenizer beside the file makes other tokens."""
    _, house, _ = shop
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=False)
    backend.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"do_lower_case": False}))
    run = house.run(f"--artifact=bert:plain={folder}", suite="suites/conformance/test_tokenizer.py")
    assert run.returncode == 1, run.text
    (failure,) = house.gate()["failures"]
    assert failure["check"] == "shipped_tokenizer_is_the_checkpoints"
    assert "probes have other token ids than the checkpoint makes" in failure["message"]


def test_other_padding_of_the_tokenizer_is_seen(shop, folder):
    _, house, _ = shop
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"padding_side": "left"}))
    run = house.run(f"--artifact=bert:plain={folder}", suite="suites/conformance/test_tokenizer.py")
    assert run.returncode == 1, run.text
    assert "padding_side: right -> left" in house.gate()["failures"][0]["message"]


def word_embeddings(model):
    return next(tensor for tensor in model.graph.initializer if tensor.name.endswith("word_embeddings.weight"))


def replace(tensor, values):
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def triple_vocabulary(model):
    table = word_embeddings(model)
    replace(table, np.vstack([numpy_helper.to_array(table)] * 3))


def halve_vocabulary(model):
    table = word_embeddings(model)
    replace(table, numpy_helper.to_array(table)[:500])


def pad_vocabulary(model):
    table = word_embeddings(model)
    rows = numpy_helper.to_array(table)
    replace(table, np.pad(rows, ((0, -len(rows) % PADDED_TO), (0, 0))))


def declare_opset_6(model):
    model.opset_import[0].version = 6


def declare_opset_999(model):
    model.opset_import[0].version = 999


def add_an_input(model):
    model.graph.input.append(helper.make_tensor_value_info("pixel_values", TensorProto.INT64, ["batch", "length"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (triple_vocabulary, "embedding table has 3000 rows, and tokenizer and checkpoint know 1000 tokens"),
        (halve_vocabulary, "embedding table has 500 rows, and the tokenizer 1000 tokens"),
        (declare_opset_6, "opset 6 is older than 7"),
        (declare_opset_999, "does not load it (opset 999)"),
        (add_an_input, "nothing feeds the input pixel_values"),
    ],
)
def test_what_would_be_judged_wrongly_is_refused(shop, folder, change, message):
    _, house, _ = shop
    edit(folder, change)
    run = house.run(f"--artifact=bert:plain={folder}")
    assert run.returncode == 1, run.text
    failures = house.gate()["failures"]
    assert len({failure["message"].partition("\n")[0] for failure in failures}) == 1
    assert message in failures[0]["message"]
    assert result(house)["status"] == "fail"


def test_padded_embedding_table_is_accepted(shop, folder):
    _, house, _ = shop
    edit(folder, pad_vocabulary)
    run = house.run(f"--artifact=bert:plain={folder}")
    assert run.returncode == 0, run.text


def without_tokenizer(folder):
    for file in folder.iterdir():
        if file.name != "model.onnx":
            file.unlink()
    return "holds no tokenizer"


def without_data(folder):
    edit(folder, lambda model: None, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (folder / "weights.bin").unlink()
    return "keeps weights in weights.bin, which is missing"


def with_two_graphs(folder):
    (folder / "model.onnx").rename(folder / "a.onnx")
    shutil.copyfile(folder / "a.onnx", folder / "b.onnx")
    return "holds a.onnx, b.onnx: name the one to judge"


def with_an_optimized_graph_too(folder):
    shutil.copyfile(folder / "model.onnx", folder / "model_quantized.onnx")
    return "holds model.onnx, model_quantized.onnx: name the one to judge"


def without_graph(folder):
    (folder / "model.onnx").unlink()
    return "holds no .onnx file"


def with_half_of_the_graph(folder):
    content = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content[: len(content) // 2])
    return "cannot be read as ONNX"


def with_an_empty_graph(folder):
    (folder / "model.onnx").write_bytes(b"")
    return "holds no graph"


@pytest.mark.parametrize(
    "fault",
    [
        without_tokenizer,
        without_data,
        with_two_graphs,
        with_an_optimized_graph_too,
        without_graph,
        with_half_of_the_graph,
        with_an_empty_graph,
    ],
)
def test_incomplete_or_ambiguous_exports_are_refused(shop, folder, fault):
    _, house, _ = shop
    message = fault(folder)
    run = house.run(f"--artifact=bert:plain={folder}")
    assert run.returncode == 1, run.text
    (failure,) = house.gate()["failures"]
    assert message in failure["message"]
    assert failure["check"] == "builds"


@pytest.fixture
def tiny(tmp_path):
    """A folder with a graph of one weight, whose data may lie outside its file, and a tokenizer."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{}")
    (tmp_path / "outside.bin").write_bytes(np.ones(4, np.float32).tobytes())
    return folder


def external(location, name="weight"):
    """Return a weight of four numbers whose data lies in a file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def graph_with(place, tensor):
    """Return a model that has a tensor at one of the places where a model may have tensors."""
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    constant = helper.make_node("Constant", [], ["y"], value=tensor)
    node = helper.make_node("Constant", [], ["y"], value=numpy_helper.from_array(np.ones(4, np.float32)))
    graph = helper.make_graph([constant if place == "attribute" else node], "graph", [], [output])
    model = helper.make_model(graph)
    match place:
        case "weight":
            model.graph.initializer.append(tensor)
        case "sparse weight":
            model.graph.sparse_initializer.add().values.CopyFrom(tensor)
        case "weight of an inner graph":
            inner = helper.make_graph([node], "inner", [], [output], [tensor])
            model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner))
        case "tensors of an attribute":
            model.graph.node.append(helper.make_node("Custom", [], ["z"], domain="x", values=[tensor]))
        case "function":
            imports = [helper.make_opsetid("", 17)]
            model.functions.append(helper.make_function("x", "F", [], ["y"], [constant], imports))
        case "training":
            model.training_info.add().algorithm.initializer.append(tensor)
    return model


PLACES = (
    *("weight", "sparse weight", "attribute", "weight of an inner graph", "tensors of an attribute", "function"),
    "training",
)


@pytest.mark.parametrize("place", PLACES)
def test_data_outside_the_folder_is_refused_wherever_a_model_has_tensors(tiny, place):
    onnx.save(graph_with(place, external("../outside.bin")), tiny / "model.onnx")
    with pytest.raises(ReadyMadeError, match=r"model\.onnx keeps weights in \.\./outside\.bin, outside its folder"):
        find(tiny, None)
    onnx.save(graph_with(place, external("inside.bin")), tiny / "model.onnx")
    shutil.copyfile(tiny.parent / "outside.bin", tiny / "inside.bin")
    assert find(tiny, None).graph["inside.bin"] == tiny / "inside.bin"


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("{outside}", "outside its folder: save it again"),
        ("data/../../outside.bin", "outside its folder: save it again"),
        ("..\\outside.bin", "outside its folder: save it again"),
        ("C:\\outside.bin", "outside its folder: save it again"),
        ("none.bin", "which is missing: copy it too"),
        ("", "which is missing: copy it too"),
        ("link.bin", "which is a link to {outside}, outside {folder}: put a copy of the file in place of the link"),
        ("lost.bin", "which is a link to {folder}/nothing, which is missing"),
        ("elsewhere/outside.bin", "which is a link to {outside}, outside"),
        ("model.onnx", "which another file of an export is called"),
        ("./model.onnx", "which another file of an export is called"),
        ("tokenizer.json", "which another file of an export is called"),
    ],
)
def test_data_that_is_not_beside_the_graph_is_refused(tiny, location, message):
    """Another file than the one whose digest was taken would be judged."""
    outside = tiny.parent / "outside.bin"
    (tiny / "link.bin").symlink_to(outside)
    (tiny / "lost.bin").symlink_to(tiny / "nothing")
    (tiny / "elsewhere").symlink_to(tiny.parent)
    onnx.save(graph_with("weight", external(location.format(outside=outside))), tiny / "other.onnx")
    message = re.escape(message.format(outside=outside, folder=tiny))
    with pytest.raises(ReadyMadeError, match=rf"other\.onnx keeps weights in .*, {message}"):
        find(tiny, None)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_link_out_of_a_folder_is_refused(tiny, name):
    onnx.save(graph_with("weight", numpy_helper.from_array(np.ones(4, np.float32), "weight")), tiny / "model.onnx")
    (tiny / name).rename(tiny.parent / name)
    (tiny / name).symlink_to(tiny.parent / name)
    with pytest.raises(ReadyMadeError, match=rf"{name} is a link to .*, outside"):
        find(tiny, None)


def test_links_of_the_hub_cache_are_of_their_repository(tiny):
    snapshot, blobs = tiny.parent / "snapshots" / "0123", tiny.parent / "blobs"
    (snapshot / "onnx").mkdir(parents=True)
    blobs.mkdir()
    onnx.save(graph_with("weight", external("model.onnx_data")), blobs / "graph")
    (tiny.parent / "outside.bin").rename(blobs / "data")
    (tiny / "tokenizer.json").rename(blobs / "tokenizer")
    (snapshot / "onnx" / "model.onnx").symlink_to(blobs / "graph")
    (snapshot / "onnx" / "model.onnx_data").symlink_to(blobs / "data")
    (snapshot / "tokenizer.json").symlink_to(blobs / "tokenizer")
    for path in (snapshot, snapshot / "onnx" / "model.onnx"):
        assert find(path, None).graph.keys() == {"model.onnx", "model.onnx_data"}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("bert=/tmp", "--artifact: 'bert' is not of the form MODEL:VARIANT"),
        ("bert:plain", "--artifact: 'bert:plain' is not of the form MODEL:VARIANT=PATH"),
        ("none:plain=/tmp", "--artifact: 'none' is none of bert"),
        ("bert:O9=/tmp", "--artifact: 'O9' is none of plain"),
        ("bert:plain=/no/where", "--artifact: /no/where does not exist"),
    ],
)
def test_wrong_artifact_is_a_usage_error(shop, option, message):
    _, house, _ = shop
    assert message in house.usage_error(artifact=[option])


def test_approved_ready_made_file_is_held_to_its_own_scores(shop, folder):
    """A drift below the ceiling is seen once the ready-made file is approved; exportgate's own export then has no
    approved scores."""
    _, house, _ = shop
    approved = {file: file.read_bytes() for file in (house.baselines / "bert").iterdir()}
    try:
        run = house.run(f"--artifact=bert:plain={folder}", "--approve")
        assert run.returncode == 0, run.text
        run = house.run(f"--artifact=bert:plain={folder}")
        assert run.returncode == 0, run.text
        assert result(house)["status"] == "pass"
        edit(folder, shift_a_bias)
        run = house.run(f"--artifact=bert:plain={folder}")
        assert run.returncode == 1, run.text
        assert {failure["check"] for failure in house.gate()["failures"]} == {"scores_do_not_drift"}
        run = house.run(*FEW)
        assert run.returncode == 0, run.text
        assert "of a ready-made file, and this is exportgate's own export" in result(house)["reason"]
    finally:
        for file in (house.baselines / "bert").iterdir():
            file.unlink()
        for file, content in approved.items():
            file.write_bytes(content)


def shift_a_bias(model):
    bias = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("output.LayerNorm.bias"))
    values = numpy_helper.to_array(bias).copy()
    values[0] += 3e-5
    replace(bias, values)


NO_TORCH = """
import importlib.machinery

find_spec = importlib.machinery.PathFinder.find_spec
importlib.machinery.PathFinder.find_spec = classmethod(
    lambda cls, name, *rest: None if name.partition(".")[0] == "torch" else find_spec(name, *rest)
)
"""


def test_without_pytorch_a_ready_made_file_is_judged_and_exports_are_unsupported(shop, folder, tmp_path):
    """PyTorch is not installed and the store is empty: scores are judged; checks that PyTorch would have to
    answer are unsupported, and so is an export."""
    _, house, _ = shop
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_TORCH)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(ROOT)])}

    def run(*options):
        command = [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--baselines", str(house.baselines)),
            *("--store", str(tmp_path / "store"), "--report", str(house.report), *options),
        ]
        process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        return process.returncode, process.stdout + process.stderr

    code, text = run("suites/accuracy", "suites/conformance", f"--artifact=bert:plain={folder}")
    assert code == 0, text
    assert result(house)["closeness"]["max_abs_error"] < 1e-5
    assert result(house)["checks"]["scores_hold_under_mask[holes]"]["status"] == "unsupported"
    code, text = run(
        "suites/latency/test_latency.py::test_latency_of_pytorch", "-rs", f"--artifact=bert:plain={folder}"
    )
    assert code == 0, text
    assert "PyTorch is not installed, and it has to be timed" in " ".join(text.split())
    code, text = run("suites/accuracy", "--variant=plain")
    assert code == 5, text
    assert "NOT JUDGED: " in text
    code, text = run("suites/accuracy", "--variant=plain", "--require-all")
    assert code == 1, text
    assert "PyTorch is not installed" in text


def test_weights_in_blocks_are_told_from_dynamic_int8(shop, folder, tmp_path):
    """And judged as what they are where they are handed in as that."""
    _, house, _ = shop
    (blocks := tmp_path / "blocks").mkdir()
    quantize_weights([folder], blocks, WEIGHT_PARAMETERS["int8"])
    for variant, text in (
        ("quantized", "12 matrices of UInt8, a scale per block of 32, with zero points; activations stay floats"),
        ("int8-weights", "12 matrices: 8 bits in blocks of 32, with zero points, accuracy level 0"),
    ):
        run = house.run(f"--artifact=bert:{variant}={blocks}", suite="suites/conformance/test_quantization.py")
        assert run.returncode == 0, run.text
        assert text in result(house, variant)["checks"]["quantization_is_that_of_the_recipe"]["text"]
    run = house.run(f"--artifact=bert:int4={blocks}", suite="suites/conformance/test_quantization.py")
    assert run.returncode == 1
    assert "has 8 bits in blocks of 32, with zero points, accuracy level 0, and the recipe says 4 bits" in run.text


def with_quantized_weights(model, per_channel=True, dtype=np.int8, cast=False):
    """Store every matrix as int8 or fp8 with its scales, before a DequantizeLinear or before a Cast and a Mul."""
    largest = 127 if dtype is np.int8 else 448
    model.opset_import[0].version, model.ir_version = 21, 10
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in constants]:
        name = node.input[1]
        floats = numpy_helper.to_array(constants[name])
        scale = np.abs(floats).max(axis=0 if per_channel else None).astype(np.float32) / np.float32(largest)
        values = floats / scale
        integers = np.rint(values).astype(np.int8) if dtype is np.int8 else values.astype(dtype)
        model.graph.initializer.remove(constants[name])
        model.graph.initializer.append(numpy_helper.from_array(integers, f"{name}_q"))
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(scale), f"{name}_s"))
        made = [helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_s"], [name], axis=1)]
        if cast:
            made = [
                helper.make_node("Cast", [f"{name}_q"], [f"{name}_c"], to=TensorProto.FLOAT),
                helper.make_node("Mul", [f"{name}_c", f"{name}_s"], [name]),
            ]
        for position, added in enumerate(made):
            model.graph.node.insert(position, added)


@pytest.mark.parametrize(
    ("options", "precision", "text"),
    [
        ({}, "int8 weights, per channel", "12 matrices of Int8, a scale per channel, without zero points"),
        ({"cast": True}, "int8 weights, per channel", "12 matrices of Int8, a scale per channel, without zero points"),
        ({"per_channel": False}, "int8", "12 matrices of Int8, one scale, without zero points"),
        ({"dtype": ml_dtypes.float8_e4m3fn}, "fp8 weights", "12 matrices of FLOAT8E4M3FN, a scale per channel"),
    ],
)
def test_file_is_held_to_the_class_of_what_it_is(shop, folder, options, precision, text):
    """Whatever it is handed in as; one wrong weight in it is named."""
    _, house, _ = shop
    edit(folder, lambda model: with_quantized_weights(model, **options))
    checks = "suites/conformance/test_quantization.py", "suites/conformance/test_weights.py"
    run = house.run(f"--artifact=bert:quantized={folder}", *checks[1:], suite=checks[0])
    assert run.returncode == 0, run.text
    row = result(house, "quantized")
    assert row["precision"] == precision
    assert row["quantization"].startswith(text)
    assert row["quantization"].endswith("; activations stay floats")
    assert row["matched_share"] == 1
    held = f"held to the ceiling of {precision}, as it is quantized"
    assert (held in row["ready_made"]) == (precision != "int8")

    def damage(model):
        integers = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("_q"))
        values = bytearray(integers.raw_data)
        values[37] ^= 0x44
        integers.raw_data = bytes(values)

    edit(folder, damage)
    run = house.run(f"--artifact=bert:quantized={folder}", *checks[1:], suite=checks[0])
    assert run.returncode == 1
    assert "is not the checkpoint's" in run.text


def test_less_than_all_that_is_recognised_is_remarked_on(shop, folder):
    """Integers whose scale is computed in the graph stand for what nobody knows."""
    _, house, _ = shop

    def hide(model):
        with_quantized_weights(model)
        for node in list(model.graph.node):
            if node.op_type == "DequantizeLinear":
                scale = node.input[1]
                node.input[1] = f"{scale}_computed"
                model.graph.node.insert(0, helper.make_node("Abs", [scale], [f"{scale}_computed"]))

    edit(folder, hide)
    run = house.run(f"--artifact=bert:quantized={folder}", suite="suites/conformance/test_weights.py")
    assert run.returncode == 0, run.text
    row = result(house, "quantized")
    assert row["matched_share"] < 0.95
    text = row["checks"]["weights_are_the_checkpoints"]["text"]
    assert "of the elements were recognised: damage to the others is not seen here" in text


def test_token_embeddings_beside_a_vector_are_judged_too(shop, folder):
    """Those of another revision do not make the vector."""
    _, house, _ = shop
    edit(folder, add_pooling)
    check, suite = "token_embeddings_make_the_vector", "suites/conformance/test_contract.py"
    run = house.run(f"--artifact=bert:plain={folder}", suite=suite)
    assert run.returncode == 0, run.text
    assert result(house)["checks"][check]["status"] == "pass"

    def shift(model):
        for node in model.graph.node:
            node.output[:] = ["hidden" if name == "last_hidden_state" else name for name in node.output]
            node.input[:] = ["hidden" if name == "last_hidden_state" else name for name in node.input]
        model.graph.initializer.append(numpy_helper.from_array(np.linspace(0, 1, 32, dtype=np.float32), "shift"))
        model.graph.node.append(helper.make_node("Add", ["hidden", "shift"], ["last_hidden_state"]))

    edit(folder, shift)
    run = house.run(f"--artifact=bert:plain={folder}", suite=suite)
    assert run.returncode == 1, run.text
    (failure,) = house.gate()["failures"]
    assert failure["check"] == check
    assert "sentence_embedding beside what last_hidden_state is pooled to, in one run" in failure["message"]
