"""Published scores: the file, the shipped folders, every kind beside Transformers' own, and the hub's cache."""

import json
import math
import re
import shutil
from dataclasses import dataclass

import numpy as np
import pytest

from fixtures.build.step import Step, key_of
from fixtures.build.store import StepFailed, Store
from fixtures.export import recipes, seeded
from fixtures.export.variants import VARIANT
from fixtures.gate.subject import read_model
from fixtures.models import settings
from fixtures.models.checkpoints import Checkpoint
from fixtures.models.settings import Model, ModelError
from fixtures.runtimes import hardware
from fixtures.runtimes.torch_runtime import TorchRuntime
from fixtures.scoring import bge_m3, published, published_scores
from fixtures.scoring.bge_m3 import colbert_score, dense_score, dropped_ids, lexical_score
from fixtures.scoring.published import PublishedScore, ReproducedScore
from fixtures.scoring.published_scores import plan_published, plan_variant
from fixtures.scoring.tasks import TASKS
from fixtures.scoring.tokens import plan_tokens
from suites.meta.house import ROOT, House

MACHINE = hardware.detect()
SHIPPED = sorted(settings.model_folders(ROOT / "baselines" / "hub"))
FERRY = "The last ferry leaves at six, and the crew sleeps on the island."
QUESTION = "Where does the crew sleep?"
TEMPLATE = "Query: {query}\nPassage: {passage}\nAnswer:"
DOCUMENT = '[[document]]\nsource = "a page"\nprecision = "fp16"\ntolerance = 0.01\nwhy = "fp16"\n'
SCORE = '[[document.score]]\nkind = "similarity"\ninputs = ["a", "b"]\nvalue = 0.5\n'


def folder_of(folder, text="", task="embedding", source="seeded:bert@7", keys=""):
    """Write a model's folder with published.toml, and read model.toml."""
    pooling = 'pooling = "mean"\n' if task == "embedding" else ""
    (folder / "model.toml").write_text(f'task = "{task}"\nsource = "{source}"\nmax_length = 64\n{pooling}{keys}')
    if text:
        (folder / "published.toml").write_text(text)
    return read_model(folder)


# ------------------------------------------------------------------------------------ the file


def test_rows_say_what_their_document_says(tmp_path):
    paper = DOCUMENT.replace("a page", "a paper").replace("0.01", "0.5")
    rows = published.read(folder_of(tmp_path, DOCUMENT + SCORE + SCORE.replace("0.5", "1") + paper + SCORE))
    assert [(row.value, row.source, row.tolerance) for row in rows] == [
        (0.5, "a page", 0.01), (1.0, "a page", 0.01), (0.5, "a paper", 0.5),
    ]  # fmt: skip
    assert str(rows[0]) == "similarity of 'a' | 'b'"


def test_without_the_file_there_are_no_rows(tmp_path):
    model, checkpoint = folder_of(tmp_path), Checkpoint(None, None, "")
    assert published.read(model) == ()
    assert plan_published(model, (), checkpoint, plan_tokens(model, checkpoint)) is None


LOGIT = SCORE.replace("similarity", "logit")


@pytest.mark.parametrize(
    ("task", "text", "line", "message"),
    [
        ("embedding", DOCUMENT + SCORE.replace('"a", "b"', "a, b"), None, "not valid TOML: Invalid value .at line 8"),
        ("embedding", "documents = 1\n", 1, "documents: there is no such key: .*; did you mean document"),
        ("embedding", "", 1, "published.toml: document is missing: write document = a list that is not empty"),
        ("embedding", "document = []\n", 1, r"document: write a list that is not empty, .*, and not \[\]$"),
        ("embedding", DOCUMENT, 1, r"document\[0\]: score is missing: write score = a list"),
        ("embedding", DOCUMENT + SCORE + DOCUMENT.replace("0.01", "0") + SCORE, 13, "tolerance: .* above 0, and not"),
        ("embedding", DOCUMENT.replace("0.01", "inf") + SCORE, 4, "tolerance: write a finite number"),
        ("embedding", DOCUMENT.replace("a page", "") + SCORE, 2, r".0..source: .* not empty, and not"),
        ("embedding", DOCUMENT + SCORE + SCORE + "values = 3\n", 14, r".1..values: .*; did you mean value"),
        ("embedding", DOCUMENT + SCORE.replace("0.5", '"0.5"'), 9, r".0..value: write a number, and not .0.5"),
        ("embedding", DOCUMENT + SCORE + SCORE.replace("0.5", "nan"), 13, "value: write a finite number"),
        ("embedding", DOCUMENT + SCORE.replace(', "b"', ""), 8, "inputs: a similarity .* has 2 inputs, not 1"),
        ("embedding", DOCUMENT + LOGIT, 7, "kind: 'logit' cannot be compared: .* embedding are similarity"),
        ("fill-mask", DOCUMENT + LOGIT, 7, "kind: .* task fill-mask has no kind of score yet"),
        ("embedding", DOCUMENT + SCORE + "label = 1\n", 10, "label: a similarity of task embedding has no label"),
        ("text-classification", DOCUMENT + LOGIT.replace(', "b"', ""), 6, "label: .* needs label"),
        ("text-classification", DOCUMENT + LOGIT + "label = -1\n", 10, "label: write a whole number, 0 or more"),
        ("question-answering", DOCUMENT + SCORE.replace("similarity", "answer"), 6, "answer: .* needs answer"),
    ],
)  # fmt: skip
def test_wrong_published_toml_names_file_table_and_key(tmp_path, task, text, line, message):
    model = folder_of(tmp_path, task=task, keys="labels = 2\n")
    (tmp_path / "published.toml").write_text(text)
    with pytest.raises(ModelError, match=message) as error:
        published.read(model)
    assert str(tmp_path / "published.toml") + (f":{line}: " if line else ": ") in str(error.value)


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_shipped_folder_is_pinned_and_reads(folder):
    model = read_model(folder)
    assert re.fullmatch(r"hub:[\w.-]+/[\w.-]+@[0-9a-f]{40}", model.settings.source)
    rows = published.read(model)
    assert rows
    assert all(row.source.startswith("http") or row.source.startswith("transformers/") for row in rows)


def test_shipped_folders_are_those():
    names = ["bge-large-zh-v1.5", "bge-m3", "bge-reranker-v2-m3", "distilbert-sst2", "roberta-base-squad2"]
    assert [folder.name for folder in SHIPPED] == names


# --------------------------------------------------------------------------------- comparison


def row_of(value=0.5, kind="similarity", answer="", label=None):
    return PublishedScore(
        kind=kind,
        inputs=("first " * 20, "second"),
        value=value,
        label=label,
        answer=answer,
        source="https://example.org",
        precision="fp16",
        tolerance=0.01,
        tolerance_reason="fp16 rounds",
    )


@pytest.mark.parametrize(
    ("published_score", "reproduced", "ceiling", "missed"),
    [
        (row_of(), ReproducedScore(0.509), None, False),
        (row_of(), ReproducedScore(0.511), None, True),
        (row_of(), ReproducedScore(math.nan), None, True),
        (row_of(answer="six", kind="answer"), ReproducedScore(0.5, "six"), None, False),
        (row_of(answer="six", kind="answer"), ReproducedScore(0.5, "at six"), None, True),
        (row_of(), ReproducedScore(0.55), {"max_similarity_change": 0.05}, False),
        (row_of(), ReproducedScore(0.57), {"max_similarity_change": 0.05}, True),
        (row_of(kind="logit"), ReproducedScore(9.0), {"max_similarity_change": 0.05}, False),
        (row_of(kind="colbert"), ReproducedScore(9.0), {"max_similarity_change": 0.05}, False),
        (row_of(kind="colbert"), ReproducedScore(9.0), None, True),
    ],
)
def test_what_is_off_by_more_than_it_may_be_is_missed(published_score, reproduced, ceiling, missed):
    assert bool(published_scores.misses("tiny", [published_score], [reproduced], ceiling)) == missed


def test_message_has_all_that_one_needs():
    (message,) = published_scores.misses("tiny", [row_of(label=1)], [ReproducedScore(0.75)])
    for part in (
        *("tiny", "similarity of label 1", "'first first", "...", "| 'second'", "published 0.5, measured 0.75"),
        *("off by 0.25", "tolerance 0.01", "https://example.org", "(fp16)", "fp16 rounds", "compare task, pooling"),
    ):
        assert part in message
    (message,) = published_scores.misses(
        "tiny O2", [row_of()], [ReproducedScore(0.75)], {"max_similarity_change": 0.125}
    )
    assert "tolerance 0.01 and ceiling 0.125" in message


def test_a_number_that_does_not_match_its_row_is_an_error():
    with pytest.raises(ValueError, match="zip"):
        published_scores.misses("tiny", [row_of(), row_of()], [ReproducedScore(0.5)])


# --------------------------------------------------------- every kind beside Transformers' own


@dataclass(frozen=True)
class Built:
    """A tiny model of one task: its rows, checkpoint, measured values and step, and the store that it lies in."""

    model: Model
    rows: tuple[PublishedScore, ...]
    root: Step
    tokens: Step
    step: Step
    store: Store

    @property
    def checkpoint(self):
        return self.store.run(self.root).folder

    @property
    def reproduced(self):
        return published_scores.load([self.store.run(step) for step in self.step.lineage()][-1].folder)

    def load(self, auto_class):
        import transformers

        kind = getattr(transformers, auto_class)
        return kind.from_pretrained(self.checkpoint).eval(), transformers.AutoTokenizer.from_pretrained(self.checkpoint)


@pytest.fixture
def build(shared_store, tmp_path):
    """Return a function: task, architecture, scores, further keys -> Built."""

    def build(task, architecture, scores, keys=""):
        model = folder_of(tmp_path, DOCUMENT + scores, task, f"seeded:{architecture}@9", keys)
        none = Checkpoint(None, None, "sha256:" + "0" * 64)
        auto_class = TASKS[task].auto_class
        root = recipes.prepare(task, none, model.settings.source, auto_class, model.settings.labels)
        tokens, rows = plan_tokens(model, root), published.read(model)
        step = plan_published(model, rows, root, tokens)
        assert isinstance(root, Step)
        assert step is not None
        return Built(model, rows, root, tokens, step, Store(shared_store))

    return build


def score(kind, *inputs, **overrides):
    keys = {"inputs": list(inputs), "value": 0.0} | overrides
    return f'[[document.score]]\nkind = "{kind}"\n' + "".join(f"{key} = {json.dumps(keys[key])}\n" for key in keys)


def test_similarity_is_the_cosine_of_transformers_embeddings(build):
    import torch

    built = build("embedding", "bert", score("similarity", FERRY, QUESTION) + score("similarity", FERRY, FERRY))
    model, tokenizer = built.load("AutoModel")
    with torch.inference_mode():
        hidden = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in (FERRY, QUESTION)]
    expected = torch.cosine_similarity(*(vectors.mean(0) for vectors in hidden), dim=0).item()
    assert [score.value for score in built.reproduced] == pytest.approx([expected, 1], abs=1e-6)
    assert abs(expected - 1) > 0.01


def test_logit_of_a_reranker_is_transformers_own(build):
    import torch

    built = build("rerank", "xlm_roberta", score("logit", QUESTION, FERRY) + score("logit", FERRY, QUESTION))
    model, tokenizer = built.load("AutoModelForSequenceClassification")
    with torch.inference_mode():
        expected = [model(**tokenizer(*pair, return_tensors="pt")).logits.item()
                    for pair in ((QUESTION, FERRY), (FERRY, QUESTION))]  # fmt: skip
    assert [score.value for score in built.reproduced] == pytest.approx(expected, abs=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-3


def test_logit_of_a_decoder_is_yes_against_no(build):
    import torch

    keys = f"template = {json.dumps(TEMPLATE)}\n"
    built = build("decoder-rerank", "qwen3", score("logit", "Who?", "The crew."), keys)
    model, tokenizer = built.load("AutoModelForCausalLM")
    before, after = TEMPLATE.replace("{query}", "Who?").split("{passage}")
    ids = [token for part in (before, "The crew.", after) for token in tokenizer.encode(part, add_special_tokens=False)]
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, -1]
    (reproduced,) = built.reproduced
    assert reproduced.value == pytest.approx((logits[yes] - logits[no]).item(), abs=1e-4)


def test_probabilities_are_those_of_transformers_pipeline(build):
    from transformers import pipeline

    rows = "".join(score(kind, FERRY, label=label) for kind in ("probability", "logit") for label in (0, 1, 2))
    built = build("text-classification", "distilbert", rows, "labels = 3\n")
    model, tokenizer = built.load("AutoModelForSequenceClassification")
    ask = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
    expected = {
        (kind, int(answer["label"].removeprefix("LABEL_"))): answer["score"]
        for kind, function in (("probability", "softmax"), ("logit", "none"))
        for answer in ask([FERRY], function_to_apply=function)[0]
    }
    reproduced = {(row.kind, row.label): score.value for row, score in zip(built.rows, built.reproduced, strict=True)}
    assert reproduced == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("architecture", ["roberta", "deberta_v2"])
def test_answers_are_those_of_transformers_pipeline(build, architecture):
    from transformers import pipeline

    pairs = [(QUESTION, FERRY), ("When?", FERRY), ("Who?", "The island's crew."), (FERRY, QUESTION)]
    rows = "".join(score("answer", *pair, answer="?") for pair in pairs)
    built = build("question-answering", architecture, rows, "labels = 2\n")
    model, tokenizer = built.load("AutoModelForQuestionAnswering")
    ask = pipeline("question-answering", model=model, tokenizer=tokenizer)
    for (question, context), reproduced in zip(pairs, built.reproduced, strict=True):
        expected = ask(question=question, context=context, align_to_words=False)
        assert reproduced.answer == context[expected["start"] : expected["end"]]
        assert reproduced.value == pytest.approx(expected["score"], abs=1e-5)


def test_three_heads_are_compared_as_flagembedding_does(build):
    kinds = ("similarity", "lexical", "colbert")
    built = build("bge-m3", "xlm_roberta", "".join(score(kind, QUESTION, FERRY) for kind in kinds))
    _, tokenizer = built.load("AutoModel")
    feeds = tokenizer([QUESTION, FERRY], padding=True, return_tensors="np")
    feeds = {name: np.asarray(feeds[name], np.int64) for name in ("input_ids", "attention_mask")}
    outputs = TorchRuntime(built.checkpoint, "fixtures.m3:load", 1)(feeds)
    dense, lexical, colbert = vars(bge_m3.vectors(outputs, feeds, dropped_ids(tokenizer))).values()
    expected = [dense_score(*dense), lexical_score(*lexical), colbert_score(*colbert)]
    assert [score.value for score in built.reproduced] == pytest.approx(expected, abs=1e-5)
    assert expected[1] > 0


def test_a_label_that_the_model_lacks_is_said(build):
    built = build("text-classification", "distilbert", score("logit", FERRY, label=3), "labels = 3\n")
    with pytest.raises(StepFailed, match="names label 3, and the model has 3, counted from 0"):
        built.reproduced  # noqa: B018


def test_variant_is_measured_on_the_same_tokens(build):
    built = build("rerank", "xlm_roberta", score("logit", QUESTION, FERRY) + score("logit", FERRY, QUESTION))
    artifact = recipes.plan("tiny", VARIANT["plain"], built.root, "text-classification", MACHINE)
    step = plan_variant(built.model, built.rows, "CPUExecutionProvider", artifact, built.step, MACHINE)
    of_variant = published_scores.load([built.store.run(needed) for needed in step.lineage()][-1].folder)
    expected = [score.value for score in built.reproduced]
    assert [score.value for score in of_variant] == pytest.approx(expected, abs=1e-4)


def test_the_store_asks_again_only_if_something_else_is_asked(build):
    """A tolerance or a published value that is corrected needs no new measurement; an input or a setting does."""

    def key(scores, keys=""):
        return key_of(build("embedding", "bert", scores, keys).step.document)

    first = key(score("similarity", FERRY, QUESTION))
    assert key(score("similarity", FERRY, QUESTION, value=0.25)) == first
    assert key(score("similarity", QUESTION, FERRY)) != first
    assert key(score("similarity", FERRY, QUESTION), "normalize = true\n") != first
    assert key(score("similarity", FERRY, QUESTION), 'tokenizer = { truncation_side = "left" }\n') != first


# ------------------------------------------------------------------ the gate and the hub's cache
# What follows runs the whole gate: a hub: source without a digest, and the fixture `published`.

COMMIT, OTHER = "0123456789" * 4, "9876543210" * 4
HUB = f'task = "embedding"\nsource = "hub:example/tiny@{COMMIT}"\nmax_length = 64\npooling = "mean"\n'


@pytest.fixture
def house(shared_store, tmp_path, monkeypatch):
    """An empty house that knows no hub but an empty cache."""
    for name, value in {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(name, value)
    return House(tmp_path, shared_store)


@pytest.fixture
def cached(house, tmp_path):
    """The snapshot of COMMIT in the hub's cache; beside it, and what `main` is, one whose tokenizer is broken."""
    repository = tmp_path / "hub" / "models--example--tiny"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    seeded.make([], snapshot, {"architecture": "bert", "seed": 7, "auto_class": "AutoModel", "labels": 1})
    shutil.copytree(snapshot, repository / "snapshots" / OTHER)
    (repository / "snapshots" / OTHER / "tokenizer.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(OTHER)
    return snapshot


@pytest.fixture
def similarity(cached):
    """What Transformers alone makes of FERRY and QUESTION."""
    import torch
    import transformers

    model, tokenizer = (kind.from_pretrained(cached) for kind in (transformers.AutoModel, transformers.AutoTokenizer))
    with torch.inference_mode():
        hidden = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in (FERRY, QUESTION)]
    return torch.cosine_similarity(*(vectors.mean(0) for vectors in hidden), dim=0).item()


def publish(house, value):
    folder = house.add("tiny", HUB)
    text = score("similarity", FERRY, QUESTION, value=value)
    (folder / "published.toml").write_text(DOCUMENT.replace("a page", "https://example.org/card") + text)


def test_snapshot_in_the_hubs_cache_is_judged(house, similarity):
    publish(house, similarity)
    run = house.run("--variant", "plain", "--require-all", "-k", "ceiling or published")
    assert run.returncode == 0, run.text
    assert "3 passed" in run.text
    assert house.statuses() == {"plain": "unbaselined"}


def test_published_score_that_is_not_reproduced_fails(house, similarity):
    publish(house, round(similarity + 0.02, 4))
    run = house.run("--variant", "plain", "-k", "published")
    assert run.returncode == 1, run.text
    failure, of_variant = house.gate()["failures"]
    assert (failure["model"], failure["check"]) == ("tiny", "published_scores_are_reproduced")
    assert (of_variant["variant"], of_variant["check"]) == ("plain", "variant_reproduces_published_scores")
    assert of_variant["message"].startswith("tiny plain: similarity of 'The last ferry")
    assert "tolerance 0.01 and ceiling 0.0001" in of_variant["message"]
    for part in (
        *("tiny: similarity of 'The last ferry", QUESTION, f"published {round(similarity + 0.02, 4):g}"),
        *(f"measured {similarity:g}", "tolerance 0.01", "https://example.org/card", "reproduce: tox run -e gate"),
    ):
        assert part in failure["message"]


def test_wrong_pooling_in_model_toml_is_noticed(house, similarity):
    """What published scores are for: no stored reference knows how a model is meant."""
    publish(house, similarity)
    house.add("tiny", HUB.replace("mean", "cls"))
    run = house.run("--variant", "plain", "-k", "published")
    assert run.returncode == 1, run.text
    assert "compare task, pooling, normalize and source in model.toml" in run.text


def test_the_other_snapshot_would_be_noticed(house, cached):
    house.add("tiny", HUB.replace(COMMIT, OTHER))
    run = house.run("--variant", "plain", "-k", "published")
    assert run.returncode == 1, run.text
    assert "tiny: cannot be tokenised" in run.text


def test_wrong_published_toml_is_a_usage_error(house, cached):
    folder = house.add("tiny", HUB)
    (folder / "published.toml").write_text(DOCUMENT + SCORE.replace("similarity", "likeness"))
    run = house.run()
    assert run.returncode == 4, run.text
    assert "published.toml:7: document[0].score[0].kind: 'likeness' cannot be compared" in run.text
    assert "Traceback" not in run.text


def test_model_without_published_scores_is_no_failure(house, cached):
    house.add("tiny", HUB)
    run = house.run("--variant", "plain", "--require-all", "-k", "published")
    assert run.returncode == 0, run.text
    assert "2 not applicable" in run.text


def test_without_a_cache_it_is_unsupported(house):
    publish(house, 0.5)
    run = house.run("--variant", "plain")
    assert run.returncode == 5, run.text
    assert house.gate()["verdict"] == "not judged"
    assert "no check of a variant's scores had an answer" in run.text
    (model,) = house.gate()["models"]
    assert [
        (variant["status"], "neither cached nor reachable" in variant["reason"]) for variant in model["variants"]
    ] == [("unsupported", True)]
