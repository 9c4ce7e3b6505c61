"""Seeded checkpoints are the architectures that they are named after, small, and the same everywhere."""

import json

import pytest

from fixtures import seeded
from fixtures.models import sha256_of
from fixtures.probes import ANSWERS, TEXTS

SEED = 7
STACKED_MARKS = {"combining", "zalgo"}
SLOW_DIFFERS = {
    "xlm_roberta": STACKED_MARKS,
    "deberta_v2": STACKED_MARKS,
    "qwen3": {one.id for one in TEXTS},
}
"""Architecture -> probes at which its slow tokenizer may differ from the fast one: SentencePiece's normalization
(tokenizers#2116), and the <|endoftext|> that only the fast one appends."""


@pytest.fixture(scope="module", params=seeded.ARCHITECTURES)
def made(request, tmp_path_factory):
    """Name and folder of one seeded checkpoint."""
    folder = tmp_path_factory.mktemp(request.param)
    make(folder, request.param)
    return request.param, folder


def make(folder, architecture, seed=SEED, auto_class="AutoModel", labels=1):
    parameters = {"architecture": architecture, "seed": seed, "auto_class": auto_class, "labels": labels}
    seeded.make([], folder, parameters)


def test_same_seed_makes_the_same_bytes_and_another_one_others(made, tmp_path):
    name, folder = made
    digests = []
    for part, seed in (("same", SEED), ("other", SEED + 1)):
        (tmp_path / part).mkdir()
        make(tmp_path / part, name, seed)
        digests.append(sha256_of(tmp_path / part / "model.safetensors"))
    assert digests[0] == sha256_of(folder / "model.safetensors") != digests[1]
    assert (tmp_path / "same" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_it_loads_and_texts_differ(made):
    import torch
    from transformers import AutoModel, AutoTokenizer

    _, folder = made
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        vectors = [model(**tokenizer(one.text, return_tensors="pt")).last_hidden_state.mean(1)[0] for one in TEXTS[:8]]
    unit = torch.nn.functional.normalize(torch.stack(vectors), dim=1)
    assert torch.isfinite(unit).all()
    assert (unit @ unit.T - torch.eye(len(unit))).max() < 0.9999


def test_ids_of_the_configuration_are_the_tokenizers(made):
    from transformers import AutoTokenizer

    name, folder = made
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["vocab_size"] == len(tokenizer)
    for kind in ("pad", "bos", "eos"):
        if (known := getattr(tokenizer, f"{kind}_token_id")) is not None:
            assert config[f"{kind}_token_id"] == known
    assert tokenizer.padding_side == ("left" if name == "qwen3" else "right")
    if name == "qwen3":
        assert {*ANSWERS} <= tokenizer.get_vocab().keys()
        assert tokenizer("any text")["input_ids"][-1] == tokenizer.eos_token_id


def test_slow_tokenizer_agrees_where_it_can(made):
    from transformers import AutoTokenizer

    name, folder = made
    fast, slow = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(folder, use_fast=False)
    differ = {one.id for one in TEXTS if slow(one.text)["input_ids"] != fast(one.text)["input_ids"]}
    assert differ <= SLOW_DIFFERS.get(name, set())
    assert bool(differ) == (name in SLOW_DIFFERS)


@pytest.mark.parametrize("name", ["roberta", "xlm_roberta", "mpnet"])
def test_positions_begin_behind_the_padding_id(name, tmp_path):
    """130 positions hold 128 tokens: 128 run, and 129 raise."""
    import torch
    from transformers import AutoModel

    make(tmp_path, name)
    model = AutoModel.from_pretrained(tmp_path).eval()
    assert model.config.max_position_embeddings == seeded.POSITIONS + model.config.pad_token_id + 1
    with torch.inference_mode():
        model(torch.full((1, seeded.POSITIONS), 7))
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, seeded.POSITIONS + 1), 7))


@pytest.mark.parametrize(
    ("auto_class", "labels"),
    [("AutoModelForSequenceClassification", 3), ("AutoModelForTokenClassification", 5)],
)
def test_heads_have_their_labels(auto_class, labels, tmp_path):
    import transformers

    make(tmp_path, "electra", auto_class=auto_class, labels=labels)
    assert getattr(transformers, auto_class).from_pretrained(tmp_path).num_labels == labels
