"""What diagnosis says of planted faults is what was planted; of sound scores and graphs it says nothing."""

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from fixtures.arrays import Array
from fixtures.build.step import Step
from fixtures.build.store import Store
from fixtures.diagnosis.alternatives import alternative_scores
from fixtures.diagnosis.changes import AttributeChanged, OperatorsMissing, OutputMissing
from fixtures.diagnosis.compare import compare_nodes, paired_nodes
from fixtures.diagnosis.evidence import Evidence
from fixtures.diagnosis.locate import Divergence, locate, worst_probes
from fixtures.diagnosis.symptoms import SYMPTOM_TESTS, find_symptoms
from fixtures.diagnosis.tap import TappedGraph, deviation
from fixtures.export import recipes
from fixtures.export.variants import VARIANT
from fixtures.faults.planting import build_faulty_artifact
from fixtures.faults.table import FAULT
from fixtures.models.checkpoints import Checkpoint
from fixtures.models.settings import Model, Settings
from fixtures.runtimes import hardware
from fixtures.runtimes.onnx_runtime import OnnxRuntime
from fixtures.runtimes.providers import MODEL_FILE
from fixtures.scoring import scores as scoring_scores
from fixtures.scoring.encoded import TOKENS_FILE, Encoded
from fixtures.scoring.scores import SCORING_BATCH, SCORING_SPREAD
from fixtures.scoring.tasks import TASKS, Scoring
from fixtures.scoring.tokens import plan_tokens

MACHINE = hardware.detect()
FORMS = ("plain", "O2", "quantized", "O2-quantized")
MODELS = {
    "embedder": Settings(task="embedding", source="seeded:bert@7", pooling="mean", normalize=True, max_length=64),
    "reranker": Settings(task="rerank", source="seeded:bert@8", max_length=64),
}
PROBES, SIZE, RARE = 60, 24, 999


# ------------------------------------------------------------------------ symptoms of scores


def encoded(seed=0):
    """Probes of 3 to 60 tokens; every other one has a second segment, and three have a token that no other has."""
    random = np.random.default_rng(seed)
    lengths = random.integers(3, 60, PROBES)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = random.integers(10, 200, offsets[-1])
    ids[offsets[[5, 17, 40]] + 1] = RARE
    types = np.repeat(np.arange(PROBES) % 2, lengths)
    fields = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": types}
    return Encoded(fields, offsets, dict.fromkeys(fields, 0), "right")


TOKENS = encoded()
RANDOM = np.random.default_rng(1)
VECTORS = RANDOM.normal(size=(PROBES, SIZE)) + 2 * RANDOM.normal(size=SIZE)
UNIT = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
LOGITS = RANDOM.normal(size=PROBES) * 3
CLASSES = RANDOM.normal(size=(PROBES, 4)) * 3
SPANS = RANDOM.normal(size=(int(TOKENS.offsets[-1]), 2)) * 3
EXPECTED = {
    "embedding": UNIT, "rerank": LOGITS, "text-classification": CLASSES, "question-answering": SPANS,
}  # fmt: skip


def evidence(task, scores, reference=None, scoring=None, **details):
    reference = EXPECTED[task] if reference is None else reference
    scoring = scoring or Scoring(task, "mean", task == "embedding")
    return Evidence(task, reference, scores, TOKENS, scoring, 1e-4, **details)


def names_of_symptoms(evidence):
    return [symptom.name for symptom in find_symptoms(evidence)]


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def moved(rows, by=0.1, task="embedding"):
    """Return scores whose given probes moved, each in another way."""
    scores = EXPECTED[task].copy()
    scores[rows] += by * np.random.default_rng(2).normal(size=scores[rows].shape)
    return unit(scores) if task == "embedding" else scores


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def padding():
    padding = np.zeros(PROBES, int)
    for rows, _ in TOKENS.batches(SCORING_BATCH, SCORING_SPREAD):
        padding[rows] = TOKENS.lengths[rows].max() - TOKENS.lengths[rows]
    return padding


def with_hole(rows):
    scores = LOGITS.copy()
    scores[rows] = np.nan
    return scores


UNRELATED = unit(RANDOM.normal(size=(PROBES, SIZE)))
UNRELATED_START = np.where(np.arange(PROBES)[:, None] < 20, UNRELATED, np.nan)
INT8 = unit(UNIT + 0.02 * RANDOM.normal(size=UNIT.shape))
CUT = Scoring("embedding", "mean", True, dimensions=12)
WEIGHTS = np.maximum(CLASSES, 0)
RARE_PROBES = np.isin(np.arange(PROBES), [5, 17, 40])

CASES: dict[str, list[tuple[str, Array, dict[str, object]]]] = {
    "not finite": [("rerank", with_hole(slice(0, 30)), {})],
    "fewer dimensions": [("embedding", unit(UNIT[:, :12]), {})],
    "projected otherwise": [("late-interaction", np.tile(UNIT, 2), {"reference": UNIT})],
    "constant": [("rerank", np.ones(PROBES), {}), ("rerank", np.full(PROBES, 0.5), {})],
    "columns exchanged": [
        ("question-answering", SPANS[:, ::-1], {}),
        ("text-classification", CLASSES[:, [0, 2, 1, 3]], {}),
    ],
    "rows exchanged": [("embedding", UNIT[::-1], {}), ("rerank", LOGITS[::-1], {})],
    "alternative": [
        ("embedding", UNRELATED, {"alternative_scores": lambda: {"max": UNIT, "cls pooling": UNRELATED_START}}),
    ],
    "terms lost": [("sparse", np.where(np.arange(4) == 1, 0, WEIGHTS), {"reference": WEIGHTS})],
    "not normalised": [
        ("embedding", VECTORS, {}),
        ("embedding", UNIT / np.abs(UNIT).sum(axis=1, keepdims=True), {}),
        ("embedding", UNIT * 0.9, {}),
        ("embedding", VECTORS[:, :12], {"reference": UNIT[:, :12], "scoring": CUT}),
    ],
    "normalised": [("embedding", UNIT, {"reference": VECTORS, "scoring": Scoring("embedding", "mean", False)})],
    "normalised after the cut": [
        ("embedding", unit(UNIT[:, :12]), {"reference": UNIT[:, :12], "scoring": CUT}),
    ],
    "sigmoid": [("rerank", sigmoid(LOGITS), {}), ("question-answering", sigmoid(SPANS), {})],
    "sigmoid twice": [("rerank", sigmoid(sigmoid(LOGITS)), {})],
    "softmax": [
        ("text-classification", np.exp(CLASSES) / np.exp(CLASSES).sum(axis=1, keepdims=True), {}),
    ],
    "negated": [("rerank", -LOGITS, {})],
    "scaled": [
        ("rerank", LOGITS / 1.02, {}),
        ("embedding", VECTORS * 0.5, {"reference": VECTORS, "scoring": Scoring("embedding", "mean", False)}),
    ],
    "shifted": [("rerank", LOGITS + 0.3, {}), ("text-classification", CLASSES + 0.2 * np.eye(4)[2], {})],
    "function": [("rerank", LOGITS + 0.001 * LOGITS**3, {})],
    "padding": [("embedding", moved(padding() > 0), {}), ("rerank", moved(padding() > 0, 1, "rerank"), {})],
    "long": [("rerank", moved(TOKENS.lengths > 40, 1, "rerank"), {})],
    "token types": [("rerank", moved(np.arange(PROBES) % 2 == 1, 1, "rerank"), {})],
    "token": [("embedding", moved([5, 17, 40]), {"token_of": {RARE: "##foo"}.get})],
    "too exact": [("embedding", UNIT + 1e-8, {"approved": INT8})],
    "precision": [("rerank", LOGITS + 0.01 * RANDOM.choice([-1, 1], PROBES), {}), ("embedding", INT8, {})],
}  # fmt: skip
"""Symptom -> (task, scores, what else is known): cases in which it is found, and no other."""


ROWS = [(name, n) for name, cases in CASES.items() for n in range(len(cases))]


@pytest.mark.parametrize(("name", "number"), ROWS, ids=[f"{name}-{number}" for name, number in ROWS])
def test_planted_symptom_is_found_and_no_other(name, number):
    task, scores, details = CASES[name][number]
    assert names_of_symptoms(evidence(task, scores, **details)) == [name]


def test_every_symptom_has_a_case():
    assert list(CASES) == [row.name for row in SYMPTOM_TESTS]


@pytest.mark.parametrize("task", EXPECTED)
@pytest.mark.parametrize("by", [0, 1e-7])
def test_equal_scores_have_no_symptom(task, by):
    noise = by * RANDOM.normal(size=EXPECTED[task].shape)
    assert find_symptoms(evidence(task, EXPECTED[task] + noise)) == []


@pytest.mark.parametrize("task", EXPECTED)
@pytest.mark.parametrize("seed", range(5))
def test_unrelated_scores_have_no_symptom(task, seed):
    """Scores that have nothing to do with those expected are no case of any row."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=EXPECTED[task].shape) * 2
    assert find_symptoms(evidence(task, unit(scores) if task == "embedding" else scores)) == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [4, 15, 40])
def test_probes_that_move_at_random_share_nothing(seed, count):
    rows = np.random.default_rng(seed).permutation(PROBES)[:count]
    names = names_of_symptoms(evidence("rerank", moved(rows, 1, "rerank")))
    assert not {"padding", "long", "token types", "token"} & set(names)


def test_terms_that_weigh_nothing_are_counted():
    """Where the others are right; weights that all moved are no lost terms."""
    weights, lost = WEIGHTS, np.where(np.arange(4) == 1, 0, WEIGHTS)
    (symptom,) = find_symptoms(evidence("sparse", lost, weights))
    assert f"others are right: {(weights[:, 1] > 0).sum()} of {(weights > 0).sum()} over" in symptom.message
    assert "terms lost" not in names_of_symptoms(evidence("sparse", lost * 1.01, weights))
    assert "terms lost" not in names_of_symptoms(evidence("text-classification", lost, weights))


def test_messages_have_the_numbers():
    (symptom,) = find_symptoms(evidence("embedding", moved(RARE_PROBES), token_of={RARE: "##foo"}.get))
    assert "999 ('##foo'), in 3 of 60 probes" in str(symptom)
    (symptom,) = find_symptoms(evidence("rerank", moved(TOKENS.lengths > 40, 1, "rerank")))
    below, above = TOKENS.lengths[TOKENS.lengths <= 40].max(), TOKENS.lengths[TOKENS.lengths > 40].min()
    assert f"those of {below} tokens do not move, those of {above} and more do" in str(symptom)
    (symptom,) = find_symptoms(evidence("rerank", np.ones(PROBES)))
    assert "1, which is the softmax of one logit" in str(symptom)
    (symptom,) = find_symptoms(evidence("rerank", LOGITS / 1.02))
    assert "multiplied by 0.9804" in str(symptom)
    (symptom,) = find_symptoms(evidence("embedding", UNIT / np.abs(UNIT).sum(axis=1, keepdims=True)))
    assert str(symptom).endswith(", directions are right, each is divided by the sum of its magnitudes")


def test_token_of_probes_that_are_not_finite_is_found():
    assert names_of_symptoms(evidence("rerank", with_hole(RARE_PROBES))) == ["not finite", "token"]


def test_token_is_not_found_where_two_would_do():
    ids = TOKENS.fields["input_ids"].copy()
    ids[TOKENS.offsets[[5, 17, 40]] + 2] = RARE - 1
    two_tokens = dataclasses.replace(TOKENS, fields={**TOKENS.fields, "input_ids": ids})
    assert "token" not in names_of_symptoms(
        dataclasses.replace(evidence("embedding", moved(RARE_PROBES)), encoded=two_tokens)
    )


def test_token_is_not_found_where_its_probes_do_not_stand_out():
    """They move twice as far as the others, and others move half as far as these."""
    signs = np.random.default_rng(3).choice([-1, 1], PROBES)
    scores = LOGITS + signs * np.where(RARE_PROBES, 0.2, np.linspace(0.05, 0.1, PROBES))
    assert "token" not in names_of_symptoms(evidence("rerank", scores))


def test_precision_is_not_found_where_some_probes_move_far_more():
    signs = np.random.default_rng(3).choice([-1, 1], PROBES)
    scores = LOGITS + signs * np.where(np.arange(PROBES) < 4, 0.1, 0.002)
    assert "precision" not in names_of_symptoms(evidence("rerank", scores))


def test_what_moved_is_measured_from_the_approved_scores():
    """Errors of int8 against the reference hide three probes; against the approved scores they stand out."""
    scores = unit(INT8 + 0.1 * (moved(RARE_PROBES) - UNIT))
    assert names_of_symptoms(evidence("embedding", scores, approved=INT8)) == ["token"]
    assert "token" not in names_of_symptoms(evidence("embedding", scores))


def test_alternatives_are_computed_only_where_scores_moved():
    def fails():
        raise AssertionError

    assert find_symptoms(evidence("embedding", UNIT, alternative_scores=fails)) == []


# --------------------------------------------------------------------- sound graphs, and faulty ones


@dataclasses.dataclass(frozen=True)
class Sound:
    """A tiny model: variant -> folder, its settings and its probes."""

    settings: Settings
    folders: dict[str, Path]
    encoded: Encoded

    def score(self, folder):
        return scoring_scores.score(OnnxRuntime(folder / MODEL_FILE, 1), self.encoded, Scoring.of(self.settings, {}))

    def few(self, errors=None):
        if errors is None:
            errors = np.zeros(len(self.encoded.lengths))
            errors[np.argsort(self.encoded.lengths)[-len(errors) // 3]] = 1
        return worst_probes(self.encoded, errors)


@pytest.fixture(scope="module")
def sound(shared_store):
    built = Store(shared_store)
    models = {}
    for name, settings in MODELS.items():
        task = TASKS[settings.task]
        checkpoint = Checkpoint(None, None, "sha256:" + "0" * 64)
        root = recipes.prepare(name, checkpoint, settings.source, task.auto_class, settings.labels)
        assert isinstance(root, Step)
        tokens = built.run(plan_tokens(Model(name, built.run(root).folder, settings), root)).folder
        folders = {
            form: built.run(recipes.plan(name, VARIANT[form], root, task.export_task, MACHINE)).folder for form in FORMS
        }
        models[name] = Sound(settings, folders, Encoded.load(tokens / TOKENS_FILE))
    return models


def planted(fault, model, form, where):
    """Return the folder of an artifact with a fault of the table."""
    where.mkdir()
    return build_faulty_artifact(FAULT[fault], form, model.folders, model.settings, MACHINE, where)


def located(model, form, folder, errors=None):
    return locate(model.folders[form] / MODEL_FILE, folder / MODEL_FILE, model.few(errors))


WHERE = {
    "attention-scale-off-by-1-percent": r"at encoder\.layer\.0\.attention\.self \((Add|Q?Attention)\), by 0\.\d+ %.*"
    r"(Mul 1\.01|scale unset -> 0\.2525)",
    "layernorm-epsilon-1e-5": r"LayerNormalization.*epsilon 1e-12 -> 1e-05 \(in 5 nodes\)",
    "layernorm-epsilon-of-fp16": r"at embeddings\.LayerNorm .*inputs of that node agree: epsilon 1e-12 -> 0\.001 "
    r"\(in 5 nodes\)",
    "attention-residual-dropped": r"at encoder\.layer\.0\.attention\.output\.LayerNorm .*the residual is left out",
    "feed-forward-residual-dropped": r"at encoder\.layer\.0\.output\.LayerNorm .*the residual is left out",
    "gelu-by-tanh": r"layer\.0.*GELU is computed in another way.*intermediate_act_fn.*(Tanh|FastGelu)",
    "relu-for-gelu": r"layer\.0.*GELU is computed in another way.*Relu",
    "tensor-from-another-revision": r"at encoder\.layer\.0\.attention\.output\.dense .*inputs of that node agree: "
    r"its weight onnx::MatMul_309.* differs in \d+ of \d+ elements",
    "mask-ignored": r"computed from attention_mask alone.*added after attention_mask",
    "mask-ignored-in-the-last-layer": r"at encoder\.layer\.1\.attention\.self .*the mask is left out",
    "causal-attention": r"layer\.0\.attention\.self .*attention is causal",
    "first-layer-skipped": r"at encoder\.layer\.1\.attention\.self.*: encoder\.layer\.0 is missing",
    "last-layer-skipped": r"at encoder\.layer\.1\.output\.LayerNorm.*: encoder\.layer\.1 is missing",
    "matmul-in-fp16": r"layer\.0\.intermediate.*part of it is computed in fp16",
    "embedding-table-shifted": r"at embeddings\.word_embeddings \(Gather\)",
    "position-embeddings-dropped": r"missing: .*embeddings\.position_embeddings",
}  # fmt: skip
"""Fault -> what the message says of it, whatever the form of the graph."""
IN_ALL_FORMS = (
    "attention-scale-off-by-1-percent", "layernorm-epsilon-1e-5", "attention-residual-dropped", "gelu-by-tanh",
    "tensor-from-another-revision", "mask-ignored", "last-layer-skipped",
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_sound_graph_is_not_located(sound, form):
    for model in sound.values():
        assert located(model, form, model.folders[form]) is None


@pytest.mark.parametrize(
    ("fault", "form"), [(fault, form) for fault in WHERE for form in (FORMS if fault in IN_ALL_FORMS else FORMS[1:2])]
)
def test_fault_is_located(sound, fault, form, tmp_path):
    divergence = located(sound["embedder"], form, planted(fault, sound["embedder"], form, tmp_path / "faulty"))
    assert re.search(WHERE[fault], str(divergence)), divergence


@pytest.mark.parametrize(
    ("fault", "form", "message"),
    [
        ("softmax-over-queries", "plain", r"attention\.self \(Softmax\).*inputs of that node agree: axis -1 -> 2"),
        ("query-and-key-swapped", "plain", r"self\.query .*it is that of encoder\.layer\.0\.attention\.self\.key"),
        ("query-and-key-swapped", "O2", r"attention\.self \(Attention\).*its weight .*: query and key"),
        ("weight-transposed", "O2", r"output\.dense .*it is transposed"),
        ("bias-lost", "plain", r"intermediate\.dense \(Add\).*it is zero"),
        ("weights-in-bf16", "plain", r"it is rounded to bf16 \(\d+ of \d+ weights differ\)"),
        ("twice-the-heads", "O2-quantized", r"\(QAttention\).*num_heads 2 -> 4"),
        ("int8-scale-off-by-2-percent", "quantized", r"intermediate\.dense .*all are multiplied by 1\.02"),
        ("int8-zero-point-off-by-one", "O2-quantized", r"intermediate\.dense .*zero_point differs .*all differ by \+1"),
        ("quantized-under-this-name", "plain", r"it is quantized, and exportgate's own is not"),
        ("dropout-left-in", "plain", r"draws random numbers.*added after embeddings\.LayerNorm .*: Dropout"),
        ("cls-for-mean", "O2", r"its output sentence_embedding is pooled by nodes of its own: .*Gather"),
        ("int32-inputs", "plain", r"its input input_ids is int32 instead of int64"),
    ],
)
def test_difference_is_described(sound, fault, form, message, tmp_path):
    divergence = located(sound["embedder"], form, planted(fault, sound["embedder"], form, tmp_path / "faulty"))
    assert re.search(message, str(divergence)), divergence


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("sigmoid-in-the-graph", r"at classifier .*the output logits is computed by Sigmoid instead of Gemm"),
        ("pooler-without-tanh", r"missing: Tanh of bert\.pooler"),
        ("head-lost-in-export", r"it has no output logits"),
    ],
)
def test_fault_of_a_head_is_located(sound, fault, message, tmp_path):
    divergence = located(sound["reranker"], "plain", planted(fault, sound["reranker"], "plain", tmp_path / "faulty"))
    assert re.search(message, str(divergence)), divergence


def test_embedding_row_is_located_with_the_probe_that_has_it_and_described_without(sound, tmp_path):
    model = sound["embedder"]
    shutil.copytree(model.folders["plain"], tmp_path / "faulty")
    file = tmp_path / "faulty" / MODEL_FILE
    graph = onnx.load(str(file))
    ids, lengths = model.encoded.fields["input_ids"], model.encoded.lengths
    row_of_token = np.repeat(np.arange(len(lengths)), lengths)
    rows_with = {token: set(row_of_token[ids == token]) for token in np.unique(ids)}
    rare = {token: rows.pop() for token, rows in rows_with.items() if len(rows) == 1}
    token, row = next((token, row) for token, row in rare.items() if lengths[row] < 30)
    change(graph, "embeddings.word_embeddings.weight", lambda table: table.__setitem__(token, 1))
    onnx.save(graph, str(file))
    errors = np.abs(model.score(file.parent) - model.score(model.folders["plain"])).max(axis=1)
    assert errors.argmax() == row
    divergence = located(model, "plain", file.parent, errors)
    assert "at embeddings.word_embeddings (Gather)" in str(divergence)
    assert f"row {token}" in str(divergence)
    divergence = located(model, "plain", file.parent)
    assert divergence.tensor == ""
    assert f"row {token}" in str(divergence)


def change(graph, name, edit):
    """Edit a constant in place."""
    constant = next(tensor for tensor in graph.graph.initializer if tensor.name == name)
    value = numpy_helper.to_array(constant).copy()
    edit(value)
    constant.CopyFrom(numpy_helper.from_array(value, name))


def test_graph_with_other_names_is_not_located(sound, tmp_path):
    graph = onnx.load(str(sound["embedder"].folders["plain"] / MODEL_FILE))
    outputs = [name for node in graph.graph.node for name in node.output if name != "last_hidden_state"]
    names = {name: f"t{number}" for number, name in enumerate(outputs)}
    for node in graph.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    del graph.graph.value_info[:]
    onnx.save(graph, str(tmp_path / MODEL_FILE))
    assert located(sound["embedder"], "plain", tmp_path) is None


@pytest.mark.parametrize("prefix", ["/0/auto_model", "/bert"])
def test_part_of_a_larger_model_is_located(sound, prefix, tmp_path):
    """Names that have more in front, and inputs that are called otherwise, are taken for what they are."""
    graph = onnx.load(str(sound["embedder"].folders["plain"] / MODEL_FILE))
    for node in graph.graph.node:
        for names in (node.input, node.output):
            names[:] = [
                prefix + name if name.startswith("/") else name.replace("input_ids", "tokens") for name in names
            ]
        if node.name == "/encoder/layer.1/attention/self/Softmax":
            node.attribute[0].CopyFrom(helper.make_attribute("axis", 2))
    graph.graph.input[0].name = "tokens"
    del graph.graph.value_info[:]
    onnx.save(graph, str(tmp_path / MODEL_FILE))
    model = sound["embedder"]
    anchor = model.folders["plain"] / MODEL_FILE
    divergence = locate(anchor, tmp_path / MODEL_FILE, model.few(), {"tokens": "input_ids"})
    assert divergence is not None
    assert divergence.module == "encoder.layer.1.attention.self"
    (change,) = divergence.changes
    assert isinstance(change, AttributeChanged)
    assert (change.attribute, change.expected, change.actual) == ("axis", "-1", "2")


def test_external_data_is_read(sound, tmp_path):
    file = tmp_path / "faulty" / MODEL_FILE
    file.parent.mkdir()
    graph = onnx.load(str(sound["embedder"].folders["plain"] / MODEL_FILE))
    onnx.save_model(
        graph, str(file), save_as_external_data=True, location="model.onnx_data", size_threshold=0,
        convert_attribute=False,
    )  # fmt: skip
    assert located(sound["embedder"], "plain", file.parent) is None
    change(graph := onnx.load(str(file)), "encoder.layer.1.output.dense.bias", lambda bias: bias.__imul__(2))
    onnx.save_model(graph, str(file), save_as_external_data=True, location="model.onnx_data", size_threshold=0)
    assert "encoder.layer.1.output.dense" in str(located(sound["embedder"], "plain", file.parent))


def save_products(file, weights, axis):
    """Save x -> x @ first -> softmax of it @ second, in this order of nodes."""
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["product"]),
        helper.make_node("Softmax", ["product"], ["shares"], axis=axis),
        helper.make_node("MatMul", ["shares", "second"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y")]
    constants = [
        numpy_helper.from_array(weight, name) for name, weight in zip(("first", "second"), weights, strict=True)
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), file)


def test_number_of_weights_that_differ_stands_beside_a_weight(tmp_path):
    """Whatever else differs after it."""
    random = np.random.default_rng(0)
    save_products(tmp_path / "anchor.onnx", random.normal(size=(2, 3, 3)).astype(np.float32), -1)
    save_products(tmp_path / "judged.onnx", random.normal(size=(2, 3, 3)).astype(np.float32), 0)
    anchor, judged = TappedGraph(tmp_path / "anchor.onnx"), TappedGraph(tmp_path / "judged.onnx")
    weight, attribute = compare_nodes(anchor, judged, paired_nodes(anchor, judged)[:2])
    assert str(weight).endswith("(2 of 2 weights differ)")
    assert str(attribute) == "Softmax shares: axis -1 -> 0"


def test_long_lists_of_changes_are_cut():
    places = tuple((f"layer.{number}", ("Add", "Mul")) for number in range(6))
    missing = OperatorsMissing(places)
    assert str(missing).endswith("Add, Mul of layer.2, Add, Mul of layer.3 and of 2 more modules")
    divergence = Divergence("t", "layer.0", "Add", 0.1, True, (), None, (missing, *map(OutputMissing, "abc")))
    assert str(divergence).endswith("it has no output a; it has no output b; and 1 more")


def test_deviation_is_relative():
    left = np.array([1.0, -1.0, 1.0, -1.0])
    assert deviation(left, left * 1.01) == pytest.approx(0.01)
    assert deviation(np.array([np.inf, np.nan]), np.array([np.inf, np.nan])) == 0
    assert deviation(left, np.array([1.0, -1.0, 1.0, np.nan])) == np.inf
    assert deviation(left, left[:2]) == np.inf
    assert deviation(np.zeros(2), left[:2]) == np.inf
    masked = np.append(left, -3.4e38)
    assert deviation(masked, masked * [1.01, 1, 1, 1, 1]) == pytest.approx(0.01 / np.sqrt(5))


@pytest.mark.parametrize("rank", [0, 30, -1])
def test_few_probes_are_padded_and_have_the_worst(sound, rank):
    """Whether the worst is the shortest or the longest, something in its batch is padded."""
    encoded = sound["embedder"].encoded
    row = np.argsort(encoded.lengths, kind="stable")[rank]
    errors = np.zeros(len(encoded.lengths))
    errors[row] = np.nan
    feeds = worst_probes(encoded, errors)
    worst = encoded.fields["input_ids"][encoded.offsets[row] : encoded.offsets[row + 1]]
    assert (feeds["input_ids"][0][: len(worst)] == worst).all()
    assert 2 <= len(feeds["input_ids"]) <= 4
    assert (feeds["attention_mask"] == 0).any()


@pytest.mark.parametrize("form", ["plain", "O2-quantized"])
@pytest.mark.parametrize(
    ("model", "fault", "messages"),
    [
        ("embedder", "cls-for-mean", ["cls pooling"]),
        ("embedder", "max-for-mean", ["max pooling"]),
        ("embedder", "last-column-for-own", ["last column"]),
        ("embedder", "special-tokens-left-out-of-the-mean", ["without special tokens"]),
        ("embedder", "padding-counted-in-the-mean", ["mean pooling with padding", "only probes that are padded"]),
        ("embedder", "mask-ignored", ["attention mask of ones", "only probes that are padded"]),
        ("embedder", "no-normalisation", ["not normalised: norms lie between"]),
        ("reranker", "token-types-ignored", ["token_type_ids of zeros"]),
        ("reranker", "sigmoid-twice", ["sigmoid of the sigmoid"]),
        ("reranker", "softmax-over-one-logit", ["softmax of one logit"]),
    ],
)
def test_scores_of_faulty_graphs_have_their_symptom(sound, form, model, fault, messages, tmp_path):
    model = sound[model]
    task, encoded, scoring = model.settings.task, model.encoded, Scoring.of(model.settings, {})
    reference, approved = model.score(model.folders["plain"]), model.score(model.folders[form])
    scores = model.score(planted(fault, model, form, tmp_path / "faulty"))
    runtime = OnnxRuntime(model.folders[form] / MODEL_FILE, 1)

    def alternatives():
        return alternative_scores(runtime, task, encoded, scoring)

    symptoms = find_symptoms(Evidence(task, reference, scores, encoded, scoring, 1e-5, approved, alternatives))
    assert all(any(message in str(symptom) for symptom in symptoms) for message in messages), symptoms


@pytest.mark.parametrize("form", FORMS)
def test_sound_graphs_have_no_symptom(sound, form):
    for model in sound.values():
        scores = model.score(model.folders[form])
        scoring = Scoring.of(model.settings, {})
        evidence = Evidence(model.settings.task, scores, scores, model.encoded, scoring, 1e-5, scores)
        assert find_symptoms(evidence) == []
