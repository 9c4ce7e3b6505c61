"""Labels and heads: what a classifier's logits are called, and which number a reranker ranks by."""

import json
import shutil
from typing import cast

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fixtures.arrays import sigmoid
from fixtures.baselines.files import ConformanceFile
from fixtures.export import seeded
from fixtures.gate.case import Case
from fixtures.gate.session import Gate
from fixtures.gate.subject import Subject, read_model
from fixtures.graphs.graph import last_operator
from fixtures.models.checkpoints import Checkpoint
from fixtures.models.heads import check_head, checkpoint_labels, labels_of, padding_problem, positive_places
from fixtures.models.settings import Model, ModelError, Settings
from fixtures.plugin.outcomes import Ended
from fixtures.report.results import Status
from fixtures.runtimes.session import Runtime
from fixtures.scoring import tokens
from fixtures.scoring.encoded import TOKENS_FILE, EncodedProbes
from fixtures.scoring.tasks import ACTIVATED, TASKS, Scoring
from suites.conformance import test_labels
from suites.meta.calls import stand_in
from suites.meta.house import FEW

RERANKER = 'task = "rerank"\nsource = "path:checkpoint"\nmax_length = 64\n'
# Random weights amplify the error of int8.
LOOSE = (
    "[ceilings.int8]\nmax_logit_error = 9\nmean_logit_error = 9\nkendall_tau = -1\nmin_kendall_tau = -1\n"
    "order_flips = 1\nnew_ties = 1\ntop1_agreement = 0\nndcg_at_5_change = 1\n"
)

# --------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("config", "labels"),
    [
        ({}, ("LABEL_0", "LABEL_1")),
        ({"num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"id2label": {"1": "yes", "0": "no"}}, ("no", "yes")),
        ({"id2label": {"0": "LABEL_0"}}, ("LABEL_0",)),
        ({"id2label": {str(index): f"l{index}" for index in range(11)}}, tuple(f"l{index}" for index in range(11))),
    ],
)
def test_labels_stand_in_the_order_of_the_logits(config, labels):
    assert labels_of(config) == labels


@pytest.mark.parametrize("names", [["no", "yes"], {"0": "no", "2": "yes"}, {"a": "no"}])
def test_labels_that_are_no_table_of_numbers_are_refused(names):
    with pytest.raises(ValueError, match="id2label is no table of numbers from 0"):
        labels_of({"id2label": names})


def test_labels_of_a_reranker_are_its_adapters(tmp_path):
    """Its base has two labels, as every config.json that names none."""
    settings = Settings(task="rerank", source="path:x", max_length=8)
    (tmp_path / "config.json").write_text("{}")
    assert checkpoint_labels(settings, Checkpoint(tmp_path, tmp_path, "")) == ("LABEL_0",)
    assert checkpoint_labels(settings, Checkpoint(tmp_path, None, "")) == ("LABEL_0", "LABEL_1")


def subject_with(labels, approved, **attributes):
    baseline = stand_in(object, conformance_file=stand_in(ConformanceFile, labels=approved))
    return stand_in(Subject, name="tagger", labels=labels, approved=baseline, is_candidate=True, **attributes)


def test_classifier_of_pairs_with_one_label_is_a_reranker(tmp_path):
    text = RERANKER.replace('"rerank"', '"pair-classification"')
    model = Model("m", tmp_path, Settings(task="pair-classification", source="path:x", max_length=8))
    (tmp_path / "model.toml").write_text(text)
    (tmp_path / "config.json").write_text(json.dumps({"num_labels": 1}))
    with pytest.raises(ModelError, match=r'model.toml:1: task: .* has one, LABEL_0: write task = "rerank"'):
        check_head(model, Checkpoint(tmp_path, None, ""))
    (tmp_path / "config.json").write_text(json.dumps({"num_labels": 3}))
    check_head(model, Checkpoint(tmp_path, None, ""))


def test_labels_in_another_order_are_named():
    """Of a candidate too, whose baseline is that of the approved checkpoint."""
    gate = stand_in(Gate, approving=False)
    test_labels.test_labels_are_the_approved_ones(subject_with(("no", "yes"), ("no", "yes")), gate)
    with pytest.raises(pytest.fail.Exception, match="approved checkpoint: 0 is yes instead of no, 1 is no"):
        test_labels.test_labels_are_the_approved_ones(subject_with(("yes", "no"), ("no", "yes")), gate)
    with pytest.raises(pytest.fail.Exception, match="2 is maybe instead of nothing"):
        test_labels.test_labels_are_the_approved_ones(subject_with(("no", "yes", "maybe"), ("no", "yes")), gate)


def test_labels_beside_a_graph_in_another_order_are_named(tmp_path):
    case = stand_in(Case, subject=subject_with(("no", "yes"), ()), artifact=stand_in(object, folder=tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "no", "1": "yes"}}))
    test_labels.test_shipped_labels_are_the_checkpoints(case)
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "yes", "1": "no"}}))
    with pytest.raises(pytest.fail.Exception, match=r"config.json beside it are .* the checkpoint: 0 is yes instead"):
        test_labels.test_shipped_labels_are_the_checkpoints(case)


def test_nothing_can_be_exchanged_where_there_is_one_label(tmp_path):
    with pytest.raises(Ended) as ended:
        test_labels.test_labels_are_the_approved_ones(subject_with((), ()), stand_in(Gate, approving=False))
    assert ended.value.status is Status.INAPPLICABLE


# --------------------------------------------------------------------------------------- which head


@pytest.mark.parametrize(
    ("keys", "config", "line", "message"),
    [
        (
            "",
            {"id2label": {"0": "bad", "1": "good"}},
            1,
            'positive: .* two logits, bad, good: name .* positive = "good"',
        ),
        ("", {}, 1, "two logits, LABEL_0, LABEL_1: name the one that says relevant"),
        ('positive = "yes"\n', {}, 4, "positive: the checkpoint has two logits, LABEL_0, LABEL_1"),
        (
            'positive = "LABEL_0"\n',
            {"id2label": {"0": "LABEL_0"}},
            4,
            "positive: the checkpoint has one logit, LABEL_0",
        ),
        ("", {"num_labels": 3}, 1, "task: a reranker has one .* this checkpoint has 3: LABEL_0, .*pair-classification"),
        ("", {"num_labels": 1, "model_type": "qwen3"}, None, "config.json has no pad_token_id, .* of a qwen3 reads"),
        ("", {"id2label": [1]}, None, "config.json: id2label is no table of numbers"),
        ("", None, None, "config.json cannot be read"),
    ],
)
def test_head_that_can_be_read_in_two_ways_is_refused_by_name(tmp_path, keys, config, line, message):
    (tmp_path / "model.toml").write_text(RERANKER + keys)
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message) as error:
        check_head(read_model(tmp_path), Checkpoint(tmp_path, None, ""))
    assert line is None or f"model.toml:{line}: " in str(error.value)


@pytest.mark.parametrize(
    ("keys", "config"),
    [
        ("", {"num_labels": 1}),
        ('positive = "LABEL_0"\n', {}),
        ("", {"num_labels": 1, "model_type": "qwen3", "pad_token_id": 0}),
    ],
)
def test_head_that_can_be_read_in_one_way_is_taken(tmp_path, keys, config):
    (tmp_path / "model.toml").write_text(RERANKER + keys)
    (tmp_path / "config.json").write_text(json.dumps(config))
    check_head(read_model(tmp_path), Checkpoint(tmp_path, None, ""))


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"architectures": ["Qwen3ForSequenceClassification"], "model_type": "qwen3", "pad_token_id": 5}, ""),
        ({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}, ""),
        ({"architectures": ["BertForSequenceClassification"], "model_type": "bert", "pad_token_id": 0}, ""),
        ({"model_type": "qwen3"}, ""),
        (
            {"architectures": ["Qwen3ForSequenceClassification"], "model_type": "qwen3", "pad_token_id": 4},
            "pad_token_id is 4 in config.json, and the tokenizer pads with 5",
        ),
    ],
)
def test_padding_that_a_decoders_classifier_takes_for_text_is_named(config, problem):
    assert padding_problem(config, 5).startswith(problem)
    assert bool(padding_problem(config, 5)) == bool(problem)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RERANKER + 'answers = ["1", "0"]\n', "answers: only a decoder-reranker answers"),
        (RERANKER.replace("rerank", "fill-mask") + 'positive = "a"\n', "positive: only a reranker has positive"),
        (RERANKER.replace("rerank", "fill-mask") + 'activation = "sigmoid"\n', "activation: only a reranker has activ"),
        (RERANKER + 'activation = "tanh"\n', 'activation: write "identity", .* or "sigmoid", and not "tanh"'),
        (
            RERANKER.replace("rerank", "pair-classification") + 'activation = "sigmoid"\n',
            "activation: labels of pairs are judged as logits",
        ),
        (RERANKER + 'prompts.passage = "p: "\n', "prompts.passage: a pair has a prompt before its first text alone"),
        (
            RERANKER.replace("rerank", "fill-mask") + 'prompts = { query = "q: " }\n',
            "prompts: only an embedding model has them",
        ),
        (RERANKER + 'answers = ["1"]\n', r'answers: write two tokens, such as \["1", "0"\], and not \["1"\]'),
    ],
)
def test_key_of_another_head_is_refused(tmp_path, text, message):
    (tmp_path / "model.toml").write_text(text)
    with pytest.raises(ModelError, match=f"model.toml:4: {message}"):
        read_model(tmp_path)


def yields(outputs) -> Runtime:
    """Return a runtime that yields the same outputs for everything."""
    return cast(Runtime, lambda feeds: outputs)


LOGITS = np.array([[1, 4], [2, -3], [0, 0]], np.float32)


@pytest.mark.parametrize(
    ("outputs", "scoring", "scores"),
    [
        ({"logits": LOGITS[:, :1]}, {}, [1, 2, 0]),
        ({"logits": LOGITS[:, 0]}, {}, [1, 2, 0]),
        ({"logits": LOGITS}, {"special_ids": positive_places(("a", "b"), "b")}, [3, -5, 0]),
        ({"logits": LOGITS}, {"special_ids": positive_places(("a", "b"), "a")}, [-3, 5, 0]),
        ({"logits": LOGITS[:, :1]}, {"activation": "sigmoid"}, sigmoid(LOGITS[:, 0])),
        ({ACTIVATED: LOGITS[:, :1]}, {"activation": "sigmoid"}, [1, 2, 0]),
    ],
)
def test_reranker_ranks_by_one_number(outputs, scoring, scores):
    """Two logits by their difference, whose sigmoid is the softmax; a graph's own sigmoid is not applied again."""
    measured = TASKS["rerank"].scores(yields(outputs), {}, Scoring("rerank", **scoring))
    assert measured.tolist() == pytest.approx(list(scores))
    assert measured.dtype == np.float32


@pytest.mark.parametrize(
    ("logits", "special_ids", "message"),
    [
        (LOGITS, {}, r"yields one logit per pair, and the output has shape \(3, 2\)"),
        (LOGITS[:, :1], positive_places(("a", "b"), "b"), r"two logits per pair, and the output has shape \(3, 1\)"),
        (LOGITS[None], {}, r"one logit per pair, and the output has shape \(1, 3, 2\)"),
    ],
)
def test_logits_of_another_head_are_refused(logits, special_ids, message):
    with pytest.raises(ValueError, match=message):
        TASKS["rerank"].scores(yields({"logits": logits}), {}, Scoring("rerank", special_ids=special_ids))


# --------------------------------------------------------------------------------- answers of a decoder


def answered(folder, output, **keys):
    """Tokenise the probes for a decoder-reranker; return the ids of its answers."""
    settings = Settings(
        task="decoder-rerank", source="seeded:qwen3@6", max_length=96, template="{query}|{passage}", **keys
    )
    step = tokens.plan_tokens(Model("tiny", folder, settings), Checkpoint(folder, None, ""), "few ")
    output.mkdir()
    tokens.tokenize([folder], output, step.parameters)
    return EncodedProbes.load(output / TOKENS_FILE).facts.special_ids


def test_decoder_answers_in_its_own_tokens(tmp_path):
    """mxbai-rerank-v2's kind says 1 and 0; the first is the relevant one."""
    transformers = pytest.importorskip("transformers")
    (tmp_path / "decoder").mkdir()
    parameters = {"architecture": "qwen3", "seed": 6, "auto_class": "AutoModelForCausalLM", "labels": 1}
    seeded.make([], tmp_path / "decoder", parameters)
    vocabulary = transformers.AutoTokenizer.from_pretrained(tmp_path / "decoder").get_vocab()
    assert answered(tmp_path / "decoder", tmp_path / "default") == {"yes": vocabulary["yes"], "no": vocabulary["no"]}
    digits = answered(tmp_path / "decoder", tmp_path / "digits", answers=("1", "0"))
    assert digits == {"yes": vocabulary["1"], "no": vocabulary["0"]}
    with pytest.raises(ValueError, match=r"lacks one of the answers relevant, not .* such as answers = \[.1., .0.\]"):
        answered(tmp_path / "decoder", tmp_path / "words", answers=("relevant", "not"))


# -------------------------------------------------------------------------------- through the gate


def add_sigmoid(model):
    """Let the graph yield the sigmoid of its logit, through a Squeeze."""
    (output,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["raw" if name == output.name else name for name in node.output]
    model.graph.node.append(helper.make_node("Sigmoid", ["raw"], ["wide"]))
    model.graph.node.append(helper.make_node("Identity", ["wide"], [output.name]))


def test_last_operator_is_found_behind_what_reshapes():
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Sigmoid", ["x"], ["a"]), helper.make_node("Identity", ["a"], ["y"])]
    graph = helper.make_graph(nodes, "g", [value("x", TensorProto.FLOAT, [1])], [value("y", TensorProto.FLOAT, [1])])
    model = helper.make_model(graph)
    assert last_operator(model, "y") == "Sigmoid"
    assert last_operator(model, "x") == ""


def test_sigmoid_in_a_file_is_judged_as_one_where_model_toml_says_so(house, tmp_path):
    """Behind our own exports it is applied, and behind a file that has it it is not."""
    house.add("tiny", 'task = "rerank"\nsource = "seeded:bert@8"\nmax_length = 64\nactivation = "sigmoid"\n' + LOOSE)
    run = house.run("--variant", "plain", "--approve")
    assert run.returncode == 0, run.text
    shutil.copytree(house.artifact("plain"), tmp_path / "file")
    (tmp_path / "file" / "manifest.json").unlink()
    model = onnx.load(tmp_path / "file" / "model.onnx")
    add_sigmoid(model)
    onnx.save(model, tmp_path / "file" / "model.onnx")
    run = house.run(f"--artifact=tiny:plain={tmp_path / 'file'}")
    assert run.returncode == 0, run.text
    (row,) = house.gate()["models"][0]["variants"]
    assert row["closeness"]["max_logit_error"] < 1e-5
    assert "scored by its own sigmoid logits" in row["ready_made"]


def test_classifier_over_a_decoder_is_judged(house):
    """It reads the last token that is not padding: batches score as their rows alone, under padding on either side."""
    house.add("tiny", 'task = "rerank"\nsource = "seeded:qwen3@8"\nmax_length = 64\n' + LOOSE)
    run = house.run(*FEW, "suites/conformance/test_batches.py", "suites/conformance/test_masks.py")
    assert run.returncode == 0, run.text


def test_two_logits_are_approved_with_their_labels(house):
    text = 'task = "rerank"\nsource = "seeded:bert@12"\nmax_length = 64\nlabels = 2\npositive = "LABEL_1"\n'
    folder = house.add("tiny", text + LOOSE)
    run = house.run("--variant", "plain", "--approve", suite="suites/conformance/test_fusion.py")
    assert run.returncode == 0, run.text
    assert json.loads((folder / "conformance.json").read_text())["labels"] == ["LABEL_0", "LABEL_1"]
