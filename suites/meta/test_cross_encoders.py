"""CrossEncoders of sentence-transformers of every version: their prompt and activation are read, or refused by name."""

import json

import msgspec
import numpy as np
import pytest

from fixtures.arrays import sigmoid
from fixtures.export import seeded
from fixtures.export.variants import VARIANT, ceiling_of
from fixtures.models.cross_encoders import (
    CrossEncoderSettings,
    completed_cross_encoder,
    read_answers,
    read_cross_encoder,
    write_pair_prompt,
)
from fixtures.models.files import checkpoint_digest
from fixtures.models.inference import infer
from fixtures.models.settings import Model, ModelError, Prompts, Settings
from fixtures.scoring.tasks import TASKS
from suites.conformance import test_prompts

TORCH = "torch.nn.modules."
SIGMOID, IDENTITY, TANH = f"{TORCH}activation.Sigmoid", f"{TORCH}linear.Identity", f"{TORCH}activation.Tanh"
CONFIG, LIBRARY = "config.json", "config_sentence_transformers.json"
WEB = {"prompts": {"web": "Web search: ", "none": ""}, "default_prompt_name": "web", "model_type": "CrossEncoder"}
TRANSFORMER = {"type": "sentence_transformers.base.modules.transformer.Transformer", "path": ""}


def write(folder, files):
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("files", "settings"),
    [
        ({}, CrossEncoderSettings()),
        ({CONFIG: {}, LIBRARY: {"prompts": {"web": "w: "}, "default_prompt_name": None}}, CrossEncoderSettings()),
        ({LIBRARY: WEB}, CrossEncoderSettings("Web search: ")),
        ({LIBRARY: WEB | {"default_prompt_name": "none"}}, CrossEncoderSettings()),
        (
            {CONFIG: {"sbert_ce_default_activation_function": IDENTITY}},
            CrossEncoderSettings("", "identity", "sbert_ce_default_activation_function in config.json"),
        ),
        (
            {
                CONFIG: {
                    "sentence_transformers": {"activation_fn": SIGMOID},
                    "sbert_ce_default_activation_function": TANH,
                }
            },
            CrossEncoderSettings("", "sigmoid", "sentence_transformers.activation_fn in config.json"),
        ),
        (
            {CONFIG: {"sentence_transformers": {"activation_fn": IDENTITY}}, LIBRARY: {"activation_fn": SIGMOID}},
            CrossEncoderSettings("", "sigmoid", f"activation_fn in {LIBRARY}"),
        ),
        (
            {
                LIBRARY: {"activation_fn": "torch.nn.Sigmoid", "model_type": "CrossEncoder"},
                "modules.json": [TRANSFORMER],
            },
            CrossEncoderSettings("", "sigmoid", f"activation_fn in {LIBRARY}"),
        ),
    ],
)
def test_prompt_and_activation_are_those_of_predict(tmp_path, files, settings):
    """Where several files name an activation, the library's order decides."""
    assert read_cross_encoder(write(tmp_path, files)) == settings


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({LIBRARY: {"default_prompt_name": "q"}}, f"{LIBRARY}: default_prompt_name: 'q' is none of no prompts"),
        ({LIBRARY: WEB | {"prompts": {"web": 3}}}, f"{LIBRARY}: prompts.web: is 3, and not of type str"),
        ({LIBRARY: {"activation_fn": TANH}}, f"{LIBRARY}: activation_fn: '{TANH}' is neither .*\"identity\""),
        (
            {CONFIG: {"sentence_transformers": {"activation_fn": "mine.Swish"}}},
            "config.json: sentence_transformers.activation_fn: 'mine.Swish' is neither",
        ),
        (
            {LIBRARY: WEB, "modules.json": [TRANSFORMER, {"type": "sentence_transformers.x.Dense", "path": "1_Dense"}]},
            "modules.json: Transformer, Dense in '1_Dense': of a CrossEncoder a Transformer in the folder itself",
        ),
        (
            {LIBRARY: WEB, "modules.json": [TRANSFORMER], "sentence_bert_config.json": {"do_lower_case": True}},
            "sentence_bert_config.json: do_lower_case: is true",
        ),
        (
            {
                LIBRARY: WEB,
                "modules.json": [TRANSFORMER],
                "sentence_bert_config.json": {"transformer_task": "text-generation"},
            },
            "transformer_task: is 'text-generation', and sequence-classification is judged here",
        ),
        (
            {
                LIBRARY: WEB,
                "modules.json": [TRANSFORMER],
                "sentence_bert_config.json": {"modality_config": {"message": {}}},
            },
            "modality_config.message: texts go through a chat template",
        ),
    ],
)
def test_what_is_not_known_is_refused_by_file_and_key(tmp_path, files, message):
    with pytest.raises(ModelError, match=message):
        read_cross_encoder(write(tmp_path, files))


@pytest.mark.parametrize(
    ("named", "stated", "labels", "activation"),
    [
        (SIGMOID, None, 1, "sigmoid"),
        (IDENTITY, None, 1, None),
        (None, None, 1, None),
        (None, "sigmoid", 1, "sigmoid"),
        (SIGMOID, "identity", 1, None),
        (TANH, "identity", 1, None),
        (IDENTITY, None, 3, None),
        (SIGMOID, "identity", 3, None),
    ],
)
def test_model_toml_comes_before_the_folder(tmp_path, named, stated, labels, activation):
    write(tmp_path, {LIBRARY: WEB | ({"activation_fn": named} if named else {})})
    task = "rerank" if labels == 1 else "pair-classification"
    settings = Settings(task=task, source="path:x", max_length=8, activation=stated)
    completed = completed_cross_encoder(Model("m", tmp_path, settings), tmp_path, labels).settings
    assert (completed.activation, completed.prompts) == (activation, Prompts("Web search: "))
    other = Model("m", tmp_path, Settings(task="text-classification", source="path:x", max_length=8))
    assert completed_cross_encoder(other, tmp_path, labels) is other


def test_sigmoid_of_several_labels_is_refused_by_name(tmp_path):
    write(tmp_path, {LIBRARY: {"activation_fn": SIGMOID}})
    model = Model("m", tmp_path, Settings(task="pair-classification", source="path:x", max_length=8))
    with pytest.raises(
        ModelError, match=f'activation_fn in {LIBRARY}: a sigmoid of each of 3 .*activation = "identity"'
    ):
        completed_cross_encoder(model, tmp_path, 3)


def test_ceilings_shrink_as_a_sigmoid_does():
    """An export that holds a ceiling of logits holds that of their sigmoids, and one that holds no more is red."""
    plain, behind = (
        ceiling_of(
            VARIANT["quantized"],
            Model("m", None, Settings(task="rerank", source="path:x", max_length=8, activation=activation)),  # type: ignore[arg-type]
            TASKS["rerank"].metrics,
        )
        for activation in (None, "sigmoid")
    )
    assert behind == plain | {name: plain[name] / 4 for name in ("max_logit_error", "mean_logit_error")}
    logits = np.linspace(-9, 9, 200)
    error = plain["max_logit_error"]
    assert np.abs(sigmoid(logits + error) - sigmoid(logits)).max() <= behind["max_logit_error"]


def decoder(folder, **score):
    """Write what a CrossEncoder over a decoder says of the tokens that it compares."""
    (folder / "1_LogitScore").mkdir()
    rows = [TRANSFORMER, {"type": "sentence_transformers.cross_encoder.modules.x.LogitScore", "path": "1_LogitScore"}]
    tokens = {"added_tokens": [{"content": "<no>", "id": 3}], "model": {"vocab": {"yes": 1, "Yes": 2}}}
    config = {"architectures": ["Qwen3ForCausalLM"]}
    write(
        folder,
        {LIBRARY: {"model_type": "CrossEncoder"}, "modules.json": rows, "tokenizer.json": tokens, CONFIG: config},
    )
    return write(folder, {"1_LogitScore/config.json": score})


def test_answers_of_a_decoder_are_those_that_its_folder_compares(tmp_path):
    folder = decoder(tmp_path, true_token_id=2, false_token_id=3)
    template = "{query}{passage}"
    settings = Settings(task="decoder-rerank", source="path:x", max_length=8, template=template)
    completed = completed_cross_encoder(Model("m", folder, settings), folder, 0)
    assert completed.settings.answers == ("Yes", "<no>")
    (tmp_path / "model.toml").write_text('task = "decoder-rerank"\nanswers = ["1", "0"]\n')
    with pytest.raises(ModelError, match=r"model\.toml:2: answers: 1_LogitScore/config.json .* 'Yes' with '<no>'"):
        completed_cross_encoder(Model("m", folder, msgspec.structs.replace(settings, answers=("1", "0"))), folder, 0)
    lines = {line.key: (line.value, line.origin) for line in infer(folder, TASKS, {"template": template})}
    assert lines["task"][0] == "decoder-rerank"
    assert lines["answers"] == (["Yes", "<no>"], "true_token_id and false_token_id in 1_LogitScore/config.json")


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ({"true_token_id": 1}, "1_LogitScore/config.json: false_token_id: is missing"),
        ({"true_token_id": 1, "false_token_id": 9}, "true_token_id, false_token_id: 9 is no token of tokenizer.json"),
    ],
)
def test_answers_that_are_not_two_tokens_are_refused_by_name(tmp_path, score, message):
    with pytest.raises(ModelError, match=message):
        read_answers(decoder(tmp_path, **score))


def test_other_modules_over_a_decoder_are_refused_by_name(tmp_path):
    folder = write(decoder(tmp_path), {"modules.json": [TRANSFORMER]})
    with pytest.raises(ModelError, match=r"modules\.json: Transformer: over a decoder, a Transformer and a LogitScore"):
        read_answers(folder)


@pytest.fixture
def prompted(house, tmp_path):
    """A house whose reranker is a folder that names a prompt and a sigmoid, and the folder."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    head = "AutoModelForSequenceClassification"
    seeded.make([], folder, {"architecture": "bert", "seed": 7, "auto_class": head, "labels": 1})
    write(folder, {LIBRARY: WEB | {"activation_fn": SIGMOID}, "modules.json": [TRANSFORMER]})
    digest = checkpoint_digest(folder)
    house.add("tiny", f'task = "rerank"\nsource = "path:{folder}"\ndigest = "sha256:{digest}"\nmax_length = 64\n')
    return house, folder


def test_pairs_are_judged_behind_prompt_and_sigmoid(prompted):
    """The reference is what PyTorch alone makes of the pairs; exports ask for the prompt, which is seen to matter."""
    import torch
    import transformers

    house, folder = prompted
    gate = house.start(variant=["plain", "quantized"])
    (subject,) = gate.load()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    for row in (0, 5):
        probe = subject.probes[row]
        with torch.inference_mode():
            batch = tokenizer(
                "Web search: " + probe.text, probe.pair, truncation=True, max_length=64, return_tensors="pt"
            )
            expected = torch.sigmoid(model(**batch).logits[0, 0])
        assert subject.reference[row] == pytest.approx(float(expected), abs=1e-5)
    for case in gate.cases_of(subject):
        assert (case.artifact.folder / LIBRARY).read_bytes() == (folder / LIBRARY).read_bytes()
        findings: list[str] = []
        test_prompts.test_prompts_are_asked_for_and_matter(case, findings.append)
        assert findings[0].startswith("a pair without 'Web search: '")


def test_pair_prompt_that_does_not_reach_the_scores_is_red(prompted, monkeypatch):
    house, _ = prompted
    gate = house.start(variant=["plain"])
    case = next(iter(gate.cases_of(gate.load()[0])))
    monkeypatch.setattr(type(case), "encode", lambda case, texts: case.encoded)
    with pytest.raises(AssertionError, match="the prompt 'Web search: ' does not reach the scores"):
        test_prompts.test_prompts_are_asked_for_and_matter(case, print)


def test_prompt_of_model_toml_is_shipped_as_the_default(tmp_path):
    write_pair_prompt(tmp_path, tmp_path, "q: ")
    stated = json.loads((tmp_path / LIBRARY).read_text())
    assert stated == {"model_type": "CrossEncoder", "prompts": {"query": "q: "}, "default_prompt_name": "query"}
    assert read_cross_encoder(tmp_path).prompt == "q: "


def test_folder_says_its_prompt_and_sigmoid(tmp_path):
    config = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    write(tmp_path, {CONFIG: config, LIBRARY: WEB | {"activation_fn": SIGMOID}})
    lines = {line.key: (line.value, line.origin) for line in infer(tmp_path, TASKS, {})}
    assert lines["activation"] == ("sigmoid", f"activation_fn in {LIBRARY}")
    assert lines["prompts.query"] == ("Web search: ", f"default_prompt_name in {LIBRARY}")
    write(tmp_path, {LIBRARY: WEB | {"activation_fn": TANH}})
    with pytest.raises(ModelError, match="neither Sigmoid nor Identity"):
        infer(tmp_path, TASKS, {})
    assert "activation" in {line.key for line in infer(tmp_path, TASKS, {"activation": "identity"})}
