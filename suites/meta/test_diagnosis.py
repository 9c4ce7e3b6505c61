"""What diagnosis says of planted faults is what was planted; of sound scores and graphs it says nothing."""

import dataclasses
import re
import shutil

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from fixtures.build.store import Store
from fixtures.diagnosis import alternatives, locate, symptoms
from fixtures.diagnosis.evidence import Evidence
from fixtures.diagnosis.locate import a_few
from fixtures.diagnosis.symptoms import SYMPTOMS
from fixtures.diagnosis.tap import deviation
from fixtures.export import recipes
from fixtures.export.variants import VARIANT
from fixtures.faults.planting import build_faulty_artifact
from fixtures.faults.table import FAULT
from fixtures.models.checkpoints import Checkpoint
from fixtures.models.settings import Model, Settings
from fixtures.runtimes import hardware
from fixtures.runtimes.onnx_runtime import OnnxRuntime
from fixtures.runtimes.session import MODEL_FILE
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
    return Encoded(fields, offsets, dict.fromkeys(fields, 0), "right", {})


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


def evidence(task, scores, **others):
    scoring = Scoring("mean", task == "embedding")
    expected = others.pop("reference", EXPECTED[task])
    return Evidence(task, expected, scores, TOKENS, others.pop("scoring", scoring), 1e-4, **others)


def told(lines):
    """Return the names of the rows that the lines are of."""
    names = []
    for line in lines:
        found = [row.name for row in SYMPTOMS if re.fullmatch(re.escape(row.says).replace(re.escape("{}"), ".*"), line)]
        assert len(found) == 1, line
        names += found
    return names


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
    found = np.zeros(PROBES, int)
    for rows, _ in TOKENS.batches(SCORING_BATCH, SCORING_SPREAD):
        found[rows] = TOKENS.lengths[rows].max() - TOKENS.lengths[rows]
    return found


def with_hole(rows):
    scores = LOGITS.copy()
    scores[rows] = np.nan
    return scores


OTHER = unit(RANDOM.normal(size=(PROBES, SIZE)))
PARTLY = np.where(np.arange(PROBES)[:, None] < 20, OTHER, np.nan)
INT8 = unit(UNIT + 0.02 * RANDOM.normal(size=UNIT.shape))
THOSE = np.isin(np.arange(PROBES), [5, 17, 40])

CASES = {
    "not finite": [("rerank", with_hole(slice(0, 30)), {})],
    "fewer dimensions": [("embedding", unit(UNIT[:, :12]), {})],
    "constant": [("rerank", np.ones(PROBES), {}), ("rerank", np.full(PROBES, 0.5), {})],
    "columns exchanged": [
        ("question-answering", SPANS[:, ::-1], {}),
        ("text-classification", CLASSES[:, [0, 2, 1, 3]], {}),
    ],
    "rows exchanged": [("embedding", UNIT[::-1], {}), ("rerank", LOGITS[::-1], {})],
    "alternative": [
        ("embedding", OTHER, {"alternatives": lambda: {"something else": UNIT, "cls pooling": PARTLY}}),
    ],
    "not normalised": [
        ("embedding", VECTORS, {}),
        ("embedding", UNIT / np.abs(UNIT).sum(axis=1, keepdims=True), {}),
        ("embedding", UNIT * 0.9, {}),
    ],
    "normalised": [("embedding", UNIT, {"reference": VECTORS, "scoring": Scoring("mean", False)})],
    "sigmoid": [("rerank", sigmoid(LOGITS), {}), ("question-answering", sigmoid(SPANS), {})],
    "sigmoid twice": [("rerank", sigmoid(sigmoid(LOGITS)), {})],
    "softmax": [
        ("text-classification", np.exp(CLASSES) / np.exp(CLASSES).sum(axis=1, keepdims=True), {}),
    ],
    "negated": [("rerank", -LOGITS, {})],
    "scaled": [
        ("rerank", LOGITS / 1.02, {}),
        ("embedding", VECTORS * 0.5, {"reference": VECTORS, "scoring": Scoring("mean", False)}),
    ],
    "shifted": [("rerank", LOGITS + 0.3, {}), ("text-classification", CLASSES + 0.2 * np.eye(4)[2], {})],
    "function": [("rerank", LOGITS + 0.001 * LOGITS**3, {})],
    "padding": [("embedding", moved(padding() > 0), {}), ("rerank", moved(padding() > 0, 1, "rerank"), {})],
    "long": [("rerank", moved(TOKENS.lengths > 40, 1, "rerank"), {})],
    "token types": [("rerank", moved(np.arange(PROBES) % 2 == 1, 1, "rerank"), {})],
    "token": [("embedding", moved([5, 17, 40]), {"token": {RARE: "##foo"}.get})],
    "too exact": [("embedding", UNIT + 1e-8, {"approved": INT8})],
    "precision": [("rerank", LOGITS + 0.01 * RANDOM.choice([-1, 1], PROBES), {}), ("embedding", INT8, {})],
}  # fmt: skip
"""Symptom -> (task, scores, what else is known) of which it, and no other, is to be told."""


ROWS = [(name, n) for name, cases in CASES.items() for n in range(len(cases))]


@pytest.mark.parametrize(("name", "number"), ROWS, ids=[f"{name}-{number}" for name, number in ROWS])
def test_symptom_is_told_of_what_was_planted_and_no_other(name, number):
    task, scores, others = CASES[name][number]
    assert told(symptoms.symptoms(evidence(task, scores, **others))) == [name]


def test_every_symptom_has_a_case():
    assert list(CASES) == [row.name for row in SYMPTOMS]


@pytest.mark.parametrize("task", EXPECTED)
@pytest.mark.parametrize("by", [0, 1e-7])
def test_equal_scores_have_no_symptom(task, by):
    noise = by * RANDOM.normal(size=EXPECTED[task].shape)
    assert symptoms.symptoms(evidence(task, EXPECTED[task] + noise)) == []


@pytest.mark.parametrize("task", EXPECTED)
@pytest.mark.parametrize("seed", range(5))
def test_other_scores_have_no_symptom(task, seed):
    """Scores that have nothing to do with those expected are no case of any row."""
    random = np.random.default_rng(seed)
    other = random.normal(size=EXPECTED[task].shape) * 2
    assert symptoms.symptoms(evidence(task, unit(other) if task == "embedding" else other)) == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [4, 15, 40])
def test_probes_that_move_at_random_share_nothing(seed, count):
    rows = np.random.default_rng(seed).permutation(PROBES)[:count]
    names = told(symptoms.symptoms(evidence("rerank", moved(rows, 1, "rerank"))))
    assert not {"padding", "long", "token types", "token"} & set(names)


def test_messages_have_the_numbers():
    (line,) = symptoms.symptoms(evidence("embedding", moved(THOSE), token={RARE: "##foo"}.get))
    assert "999 ('##foo'), in 3 of 60 probes" in line
    (line,) = symptoms.symptoms(evidence("rerank", moved(TOKENS.lengths > 40, 1, "rerank")))
    below, above = TOKENS.lengths[TOKENS.lengths <= 40].max(), TOKENS.lengths[TOKENS.lengths > 40].min()
    assert f"of {below} tokens do not move, of {above} and more do" in line
    (line,) = symptoms.symptoms(evidence("rerank", np.ones(PROBES)))
    assert "1, as the softmax of one logit is" in line
    (line,) = symptoms.symptoms(evidence("rerank", LOGITS / 1.02))
    assert "multiplied by 0.9804" in line


def test_token_of_probes_that_are_not_finite_is_told():
    lines = symptoms.symptoms(evidence("rerank", with_hole(THOSE)))
    assert told(lines) == ["not finite", "token"]


def test_token_is_not_told_of_two_candidates():
    ids = TOKENS.fields["input_ids"].copy()
    ids[TOKENS.offsets[[5, 17, 40]] + 2] = RARE - 1
    both = dataclasses.replace(TOKENS, fields={**TOKENS.fields, "input_ids": ids})
    assert "token" not in told(
        symptoms.symptoms(dataclasses.replace(evidence("embedding", moved(THOSE)), encoded=both))
    )


def test_token_is_not_told_where_its_probes_do_not_stand_out():
    """They move twice as far as the others, and others move half as far as these."""
    signs = np.random.default_rng(3).choice([-1, 1], PROBES)
    scores = LOGITS + signs * np.where(THOSE, 0.2, np.linspace(0.05, 0.1, PROBES))
    assert "token" not in told(symptoms.symptoms(evidence("rerank", scores)))


def test_precision_is_not_told_where_some_probes_move_far_more():
    signs = np.random.default_rng(3).choice([-1, 1], PROBES)
    scores = LOGITS + signs * np.where(np.arange(PROBES) < 4, 0.1, 0.002)
    assert "precision" not in told(symptoms.symptoms(evidence("rerank", scores)))


def test_what_moved_is_told_by_the_approved_scores():
    """Errors of int8 against the reference hide three probes; against the approved scores they stand out."""
    scores = unit(INT8 + 0.1 * (moved(THOSE) - UNIT))
    assert told(symptoms.symptoms(evidence("embedding", scores, approved=INT8))) == ["token"]
    assert "token" not in told(symptoms.symptoms(evidence("embedding", scores)))


def test_alternatives_are_computed_only_where_scores_moved():
    def fails():
        raise AssertionError

    assert symptoms.symptoms(evidence("embedding", UNIT, alternatives=fails)) == []


# --------------------------------------------------------------------- sound graphs, and faulty ones


@dataclasses.dataclass(frozen=True)
class Sound:
    """A tiny model: variant -> folder, its settings and its probes."""

    settings: Settings
    folders: dict
    encoded: Encoded

    def score(self, folder):
        return scoring_scores.score(OnnxRuntime(folder / MODEL_FILE, 1), self.encoded, self.settings)

    def few(self, errors=None):
        middle = (
            np.arange(len(self.encoded.lengths)) == np.argsort(self.encoded.lengths)[-len(self.encoded.lengths) // 3]
        )
        return a_few(self.encoded, middle.astype(float) if errors is None else errors)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    built = Store(tmp_path_factory.mktemp("store"))
    found = {}
    for name, settings in MODELS.items():
        task = TASKS[settings.task]
        checkpoint = Checkpoint(None, None, "sha256:" + "0" * 64)
        root = recipes.prepare(name, checkpoint, settings.source, task.auto_class, settings.labels)
        tokens = built.run(plan_tokens(Model(name, built.run(root).folder, settings), root)).folder
        folders = {
            form: built.run(recipes.plan(name, VARIANT[form], root, task.export_task, MACHINE)).folder for form in FORMS
        }
        found[name] = Sound(settings, folders, Encoded.load(tokens / TOKENS_FILE))
    return found


def planted(fault, model, form, where):
    """Return the folder of an artifact with a fault of the table."""
    where.mkdir()
    return build_faulty_artifact(FAULT[fault], form, model.folders, model.settings, MACHINE, where)


def located(model, form, folder, errors=None):
    return locate.locate(model.folders[form] / MODEL_FILE, folder / MODEL_FILE, model.few(errors))


WHERE = {
    "attention-scale-off-by-1-percent": r"at encoder\.layer\.0\.attention\.self \((Add|Q?Attention)\), by 0\.\d+ %.*"
    r"(Mul 1\.01|scale unset -> 0\.2525)",
    "layernorm-epsilon-1e-5": r"LayerNormalization.*epsilon 1e-12 -> 1e-05 \(so in 5 nodes\)",
    "layernorm-epsilon-of-fp16": r"at embeddings\.LayerNorm .*inputs of it agree: epsilon 1e-12 -> 0\.001 \(so in "
    r"5 nodes\)",
    "attention-residual-dropped": r"at encoder\.layer\.0\.attention\.output\.LayerNorm .*the residual is left out",
    "feed-forward-residual-dropped": r"at encoder\.layer\.0\.output\.LayerNorm .*the residual is left out",
    "gelu-by-tanh": r"layer\.0.*GELU is computed in another way.*intermediate_act_fn.*(Tanh|FastGelu)",
    "relu-for-gelu": r"layer\.0.*GELU is computed in another way.*Relu",
    "tensor-from-another-revision": r"at encoder\.layer\.0\.attention\.output\.dense .*inputs of it agree: its weight "
    r"onnx::MatMul_309.* differs in \d+ of \d+ elements",
    "mask-ignored": r"made of attention_mask alone.*added behind attention_mask",
    "mask-ignored-in-the-last-layer": r"at encoder\.layer\.1\.attention\.self .*the mask is left out",
    "causal-attention": r"layer\.0\.attention\.self .*attention is causal",
    "first-layer-skipped": r"at encoder\.layer\.1\.attention\.self.*: encoder\.layer\.0 is missing",
    "last-layer-skipped": r"at encoder\.layer\.1\.output\.LayerNorm.*: encoder\.layer\.1 is missing",
    "matmul-in-fp16": r"layer\.0\.intermediate.*part of it is computed in fp16",
    "embedding-table-shifted": r"at embeddings\.word_embeddings \(Gather\)",
    "position-embeddings-dropped": r"missing: .*embeddings\.position_embeddings",
}  # fmt: skip
"""Fault -> what is said of it, whatever the form of the graph."""
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
    found = located(sound["embedder"], form, planted(fault, sound["embedder"], form, tmp_path / "faulty"))
    assert re.search(WHERE[fault], str(found)), found


@pytest.mark.parametrize(
    ("fault", "form", "said"),
    [
        ("softmax-over-queries", "plain", r"attention\.self \(Softmax\).*inputs of it agree: axis -1 -> 2"),
        ("query-and-key-swapped", "plain", r"self\.query .*it is that of encoder\.layer\.0\.attention\.self\.key"),
        ("query-and-key-swapped", "O2", r"attention\.self \(Attention\).*its weight .*: query and key"),
        ("weight-transposed", "O2", r"output\.dense .*it is transposed"),
        ("bias-lost", "plain", r"intermediate\.dense \(Add\).*it is zero"),
        ("weights-in-bf16", "plain", r"it is rounded to bf16 \(\d+ of \d+ weights differ\)"),
        ("twice-the-heads", "O2-quantized", r"\(QAttention\).*num_heads 2 -> 4"),
        ("int8-scale-off-by-2-percent", "quantized", r"intermediate\.dense .*all times 1\.02"),
        ("int8-zero-point-off-by-one", "O2-quantized", r"intermediate\.dense .*zero_point differs .*all \+1"),
        ("quantized-under-this-name", "plain", r"it is quantized, and exportgate's own is not"),
        ("dropout-left-in", "plain", r"draws random numbers.*added behind embeddings\.LayerNorm .*: Dropout"),
        ("cls-for-mean", "O2", r"its output sentence_embedding is pooled by nodes of its own: .*Gather"),
        ("int32-inputs", "plain", r"its input input_ids is int32 instead of int64"),
    ],
)
def test_difference_is_told(sound, fault, form, said, tmp_path):
    found = located(sound["embedder"], form, planted(fault, sound["embedder"], form, tmp_path / "faulty"))
    assert re.search(said, str(found)), found


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("sigmoid-in-the-graph", r"at classifier .*the output logits is made by Sigmoid in place of Gemm"),
        ("pooler-without-tanh", r"missing: Tanh of bert\.pooler"),
        ("head-lost-in-export", r"it has no output logits"),
    ],
)
def test_fault_of_a_head_is_located(sound, fault, said, tmp_path):
    found = located(sound["reranker"], "plain", planted(fault, sound["reranker"], "plain", tmp_path / "faulty"))
    assert re.search(said, str(found)), found


def test_embedding_row_is_found_with_the_probe_that_has_it_and_told_without(sound, tmp_path):
    model = sound["embedder"]
    shutil.copytree(model.folders["plain"], tmp_path / "faulty")
    file = tmp_path / "faulty" / MODEL_FILE
    graph = onnx.load(str(file))
    ids, lengths = model.encoded.fields["input_ids"], model.encoded.lengths
    each = np.repeat(np.arange(len(lengths)), lengths)
    rare = [one for one in np.unique(ids) if len(set(each[ids == one])) == 1]
    row, token = next((each[ids == one][0], one) for one in rare if lengths[each[ids == one][0]] < 30)
    change(graph, "embeddings.word_embeddings.weight", lambda table: table.__setitem__(token, 1))
    onnx.save(graph, str(file))
    errors = np.abs(model.score(file.parent) - model.score(model.folders["plain"])).max(axis=1)
    assert errors.argmax() == row
    found = located(model, "plain", file.parent, errors)
    assert "at embeddings.word_embeddings (Gather)" in str(found)
    assert f"row {token}" in str(found)
    found = located(model, "plain", file.parent)
    assert found.tensor == ""
    assert f"row {token}" in str(found)


def change(graph, name, edit):
    """Edit a constant in place."""
    one = next(one for one in graph.graph.initializer if one.name == name)
    value = numpy_helper.to_array(one).copy()
    edit(value)
    one.CopyFrom(numpy_helper.from_array(value, name))


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
    found = locate.locate(anchor, tmp_path / MODEL_FILE, model.few(), {"tokens": "input_ids"})
    assert found.scope == "encoder.layer.1.attention.self"
    assert "axis -1 -> 2" in str(found)


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


def test_deviation_is_relative():
    left = np.array([1.0, -1.0, 1.0, -1.0])
    assert deviation(left, left * 1.01) == pytest.approx(0.01)
    assert deviation(np.array([np.inf, np.nan]), np.array([np.inf, np.nan])) == 0
    assert deviation(left, np.array([1.0, -1.0, 1.0, np.nan])) == np.inf
    assert deviation(left, left[:2]) == np.inf
    masked = np.append(left, -3.4e38)
    assert deviation(masked, masked * [1.01, 1, 1, 1, 1]) == pytest.approx(0.01 / np.sqrt(5))


@pytest.mark.parametrize("rank", [0, 30, -1])
def test_few_probes_are_padded_and_have_the_worst(sound, rank):
    """Whether the worst is the shortest or the longest, something in its batch is padded."""
    encoded = sound["embedder"].encoded
    row = np.argsort(encoded.lengths, kind="stable")[rank]
    errors = np.zeros(len(encoded.lengths))
    errors[row] = np.nan
    (feeds,) = a_few(encoded, errors)
    own = encoded.fields["input_ids"][encoded.offsets[row] : encoded.offsets[row + 1]]
    assert (feeds["input_ids"][0][: len(own)] == own).all()
    assert 2 <= len(feeds["input_ids"]) <= 4
    assert (feeds["attention_mask"] == 0).any()


@pytest.mark.parametrize("form", ["plain", "O2-quantized"])
@pytest.mark.parametrize(
    ("model", "fault", "said"),
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
def test_scores_of_faulty_graphs_have_their_symptom(sound, form, model, fault, said, tmp_path):
    model = sound[model]
    how = Scoring.of(model.settings, model.encoded)
    own = model.folders[form]
    reference, approved = model.score(model.folders["plain"]), model.score(own)
    scores = model.score(planted(fault, model, form, tmp_path / "faulty"))
    runtime = OnnxRuntime(own / MODEL_FILE, 1)
    lines = symptoms.symptoms(
        Evidence(
            model.settings.task, reference, scores, model.encoded, how, 1e-5, approved,
            lambda: alternatives.alternatives(runtime, model.settings.task, model.encoded, how),
        )
    )  # fmt: skip
    assert all(any(words in line for line in lines) for words in said), lines


@pytest.mark.parametrize("form", FORMS)
def test_sound_graphs_have_no_symptom(sound, form):
    for model in sound.values():
        scores = model.score(model.folders[form])
        how = Scoring.of(model.settings, model.encoded)
        one = Evidence(model.settings.task, scores, scores, model.encoded, how, 1e-5, scores)
        assert symptoms.symptoms(one) == []
