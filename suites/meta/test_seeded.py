"""Seeded checkpoints: the same on every machine, and like the real checkpoints of their families."""

from dataclasses import dataclass

import numpy as np
import pytest

from fixtures.arrays import rms
from fixtures.export.seeded import ARCHITECTURES, OUTLIER_EVERY, OUTLIER_SCALE, make
from fixtures.export.seeded_tokenizers import POSITIONS
from fixtures.models.encoders import encoder_class
from fixtures.models.heads import read_config
from fixtures.models.settings import ANSWERS
from fixtures.scoring.probes import PAIRS, TEXTS, fill

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@dataclass(frozen=True)
class Family:
    """Properties of a real checkpoint of an architecture.

    Attributes:
        auto_class: one with a head, where the zoo uses one.
        pair: tokens of the pair ("yes", "no"), with Y and N for those of the texts themselves.
        slow: ids of probes that the slow tokenizer tokenises otherwise; None where there is no slow tokenizer.
        labels: number of labels of the head.
    """

    auto_class: str
    pair: str
    slow: frozenset[str] | None = frozenset()
    labels: int = 3


# The library tokenizers composes marks otherwise than SentencePiece: huggingface/tokenizers#2116.
MARKS = frozenset({"combining", "zalgo"})
FAMILIES = {
    "bert": Family("AutoModel", "[CLS] Y [SEP] N [SEP]"),
    "bert_dense": Family("AutoModel", "[CLS] Y [SEP] N [SEP]"),
    "bert_late": Family("AutoModel", "[CLS] Y [SEP] N [SEP]"),
    "distilbert": Family("AutoModelForSequenceClassification", "[CLS] Y [SEP] N [SEP]"),
    "electra": Family("AutoModelForTokenClassification", "[CLS] Y [SEP] N [SEP]"),
    "mpnet": Family("AutoModel", "<s> Y </s> </s> N </s>"),
    "roberta": Family("AutoModelForMaskedLM", "<s> Y </s> </s> N </s>"),
    "xlm_roberta": Family("AutoModelForSequenceClassification", "<s> Y </s> </s> N </s>", MARKS),
    "deberta_v2": Family("AutoModelForQuestionAnswering", "[CLS] Y [SEP] N [SEP]", MARKS, labels=2),
    "modernbert": Family("AutoModel", "[CLS] Y [SEP] N [SEP]", None),
    "gpt2": Family("AutoModelForCausalLM", "Y N"),
    "qwen3": Family("AutoModelForCausalLM", "Y N <|endoftext|>"),
    "gemma3": Family("AutoModel", "<bos> Y <eos> N <eos>", None),
    "t5": Family("AutoModel", "Y </s> N </s>", MARKS),
    "t5_dense": Family("AutoModel", "Y </s> N </s>", MARKS),
    "mt5": Family("AutoModel", "Y </s> N </s>", MARKS),
    "umt5": Family("AutoModel", "Y </s> N </s>", MARKS),
}
SAME_IDS = ({"en-upper", "en-lower"}, {"zero-width", "visible"}, {"combining", "precomposed"}, {"empty", "space"})
"""Probes that a tokenizer may give the same ids: for lower-casing, control characters, composition, blanks."""

every_architecture = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return a function: architecture, auto class, seed, number of the build -> folder of the checkpoint."""
    folders = {}

    def folder(name, auto_class=None, seed=7, build=1):
        auto_class = auto_class or FAMILIES[name].auto_class
        key = (name, auto_class, seed, build)
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp(name)
            parameters = {"architecture": name, "seed": seed, "auto_class": auto_class, "labels": FAMILIES[name].labels}
            make([], folders[key], parameters)
        return folders[key]

    return folder


@pytest.fixture(scope="module")
def load(built):
    """Return a function: architecture -> its tokenizer and its model, as a user loads them."""
    loaded = {}

    def tokenizer_and_model(name, auto_class=None):
        key = (name, auto_class)
        if key not in loaded:
            folder = built(name, auto_class)
            loader = encoder_class(read_config(folder), auto_class or FAMILIES[name].auto_class)
            kind = getattr(transformers, loader)
            model, report = kind.from_pretrained(folder, output_loading_info=True)
            assert not any(report.values()), f"{name}: {report}"
            loaded[key] = transformers.AutoTokenizer.from_pretrained(folder), model.eval()
        return loaded[key]

    return tokenizer_and_model


def contents(folder):
    """Return path in the folder -> bytes."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def outputs(model, batch):
    """Return the first output, (batch, length, width) or (batch, width), and all hidden states."""
    with torch.no_grad():
        result = model(**batch, output_hidden_states=True)
    return result[0].numpy(), [hidden.numpy() for hidden in result.hidden_states]


def layers(model):
    """Yield (name, weight with a row per output) of all linear layers, except those that are tied to an embedding."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, transformers.Conv1D)) and id(module.weight) not in embeddings:
            weight = module.weight.detach().numpy()
            yield name, weight if isinstance(module, torch.nn.Linear) else weight.T


def test_every_architecture_has_its_family():
    assert FAMILIES.keys() == {name for name, row in ARCHITECTURES.items() if not row.weight_bytes}


# --------------------------------------------------------------------------------------- builds


@every_architecture
def test_same_seed_yields_the_same_bytes(built, name):
    """The vocabulary is the same too: ids in another order are another model."""
    first, second = contents(built(name)), contents(built(name, build=2))
    differ = sorted(file for file in first.keys() | second.keys() if first.get(file) != second.get(file))
    assert not differ, f"{name}: {', '.join(differ)} differ between two builds"


@every_architecture
def test_another_seed_changes_weights_and_nothing_else(built, name):
    first, second = contents(built(name)), contents(built(name, seed=8))
    changed = {file for file in first if first[file] != second.get(file)}
    assert changed == {file for file in first if file.endswith("model.safetensors")}
    assert first.keys() == second.keys()


# ------------------------------------------------------------------------------------ tokenizers


@every_architecture
def test_probes_by_ids_configuration_and_tokenizer_agree(load, name):
    tokenizer, model = load(name)
    config = model.config
    assert config.vocab_size == len(tokenizer) == model.get_input_embeddings().num_embeddings
    roles = [role for role in ("pad", "bos", "eos", "cls", "sep") if getattr(tokenizer, f"{role}_token")]
    assert {role: getattr(config, f"{role}_token_id") for role in roles} == {
        role: getattr(tokenizer, f"{role}_token_id") for role in roles
    }
    for role in ("pad", "bos", "eos", "cls", "sep"):
        assert (getattr(config, f"{role}_token_id", None) or 0) < config.vocab_size, role
    assert tokenizer.pad_token_id is not None


@every_architecture
def test_special_tokens_stand_where_the_family_has_them(load, name):
    tokenizer, _ = load(name)
    texts = {role: tokenizer.tokenize(text) for role, text in zip("YN", ANSWERS, strict=True)}
    expected = [token for part in FAMILIES[name].pair.split() for token in texts.get(part, [part])]
    assert tokenizer.convert_ids_to_tokens(tokenizer(*ANSWERS)["input_ids"]) == expected


@every_architecture
def test_probes_that_differ_have_different_ids(load, name):
    tokenizer, _ = load(name)
    probes_by_ids: dict[tuple[int, ...], set[str]] = {}
    for probe in TEXTS:
        if probe.length is None:
            probes_by_ids.setdefault(tuple(tokenizer(probe.text)["input_ids"]), set()).add(probe.id)
    collisions = [probes for probes in probes_by_ids.values() if len(probes) > 1 and probes not in SAME_IDS]
    assert not collisions, f"{name}: {collisions}"


@every_architecture
def test_slow_and_fast_tokenizer_agree(built, load, name):
    """Only Qwen3's fast tokenizer appends the token whose vector is the embedding; its slow one does not."""
    fast, _ = load(name)
    slow = transformers.AutoTokenizer.from_pretrained(built(name), use_fast=False)
    assert slow.is_fast == (FAMILIES[name].slow is None)
    end = [fast.eos_token_id] if name == "qwen3" else []
    probes = [
        fill(probe, lambda text, pair: len(fast(text, pair)["input_ids"]), POSITIONS) for probe in (*TEXTS, *PAIRS)
    ]
    slow_end = [] if slow.is_fast else end
    differ = {
        probe.id
        for probe in probes
        if slow(probe.text, probe.pair)["input_ids"] + slow_end != fast(probe.text, probe.pair)["input_ids"]
    }
    assert differ == (FAMILIES[name].slow or frozenset())


# ---------------------------------------------------------------------------------------- models


@every_architecture
def test_outputs_differ_where_texts_differ(load, name):
    """Any two texts differ by more than fp32 loses, and the outputs vary by more than int8 loses."""
    tokenizer, model = load(name)
    texts = {tuple(tokenizer(probe.text)["input_ids"]): probe for probe in TEXTS if probe.length is None}
    probes = [probe for ids, probe in texts.items() if 0 < len(ids) <= POSITIONS]
    batch = tokenizer([probe.text for probe in probes], padding=True, return_tensors="pt")
    scores, hidden = outputs(model, batch)
    distance = distances(hidden[-1], batch) + np.eye(len(probes))
    first, second = np.unravel_index(distance.argmin(), distance.shape)
    assert distance.min() > 1e-3, f"{name}: {probes[first].id} and {probes[second].id} differ by {distance.min():.1e}"
    assert np.median(distances(scores, batch)) > 0.03, f"{name}: its outputs hardly vary"


def distances(values, batch):
    """Return the largest difference between any two texts, (texts, texts); tokens are averaged."""
    if values.shape[:2] == batch["input_ids"].shape:
        mask = batch["attention_mask"].numpy().reshape(*values.shape[:2], *[1] * (values.ndim - 2))
        values = (values * mask).sum(axis=1) / mask.sum(axis=1)
    rows = values.reshape(len(values), -1)
    return np.abs(rows[:, None] - rows[None]).max(axis=-1)


@pytest.mark.parametrize("auto_class", ["AutoModel", None], ids=["encoder", "with-head"])
@every_architecture
def test_activations_neither_vanish_nor_explode(load, name, auto_class):
    """Errors of int8 and fp16 are then those of the formats."""
    tokenizer, model = load(name, auto_class)
    batch = tokenizer(TEXTS[0].text, return_tensors="pt")
    scores, hidden = outputs(model, batch)
    assert np.isfinite(scores).all()
    for number, state in enumerate(hidden):
        scale = rms(state)
        assert 0.2 < scale < 10, f"{name}: hidden state {number} has a scale of {scale:.3g}"


@pytest.mark.parametrize("auto_class", ["AutoModel", None], ids=["encoder", "with-head"])
@every_architecture
def test_gains_are_about_one_and_layers_have_outliers(load, name, auto_class):
    _, model = load(name, auto_class)
    gains = {
        key: parameter.detach().mean().item()
        for key, parameter in model.named_parameters()
        if parameter.ndim == 1 and "weight" in key
    }
    assert gains == pytest.approx(dict.fromkeys(gains, 1), abs=0.15)
    for key, weight in layers(model):
        columns = np.sqrt(np.square(weight).mean(axis=0) * weight.shape[1])
        ordinary = np.delete(columns, np.arange(0, len(columns), OUTLIER_EVERY))
        assert rms(ordinary) == pytest.approx(1, rel=0.4), f"{name}: {key}"
        if len(weight) > 8:  # the scale of fewer rows is chance
            assert columns[0] > OUTLIER_SCALE / 2 * np.median(ordinary), f"{name}: {key}"


@pytest.mark.parametrize("name", ["roberta", "xlm_roberta", "mpnet"])
def test_positions_start_behind_the_padding_id(load, name):
    tokenizer, model = load(name, "AutoModel")
    assert tokenizer.pad_token_id == 1
    positions = []
    hook = model.embeddings.position_embeddings.register_forward_pre_hook(
        lambda _, arguments: positions.append(arguments[0])
    )
    text = torch.full((2, POSITIONS), tokenizer.unk_token_id)
    text[1, :5] = tokenizer.pad_token_id
    outputs(model, {"input_ids": text, "attention_mask": (text != tokenizer.pad_token_id).long()})
    hook.remove()
    assert positions[0][0].tolist() == list(range(2, POSITIONS + 2))
    assert positions[0][1].tolist() == [1] * 5 + list(range(2, POSITIONS - 3))
    with pytest.raises(IndexError):
        outputs(model, {"input_ids": torch.full((1, POSITIONS + 1), tokenizer.unk_token_id)})


@every_architecture
def test_positions_hold_the_maximum_length(load, name):
    tokenizer, model = load(name)
    assert tokenizer.model_max_length == POSITIONS
    scores, _ = outputs(model, {"input_ids": torch.full((1, POSITIONS), tokenizer.convert_tokens_to_ids("a"))})
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("labels", [1, 4])
def test_classifiers_have_the_labels_that_were_asked_for(tmp_path, labels):
    parameters = {"architecture": "bert", "seed": 7, "auto_class": "AutoModelForSequenceClassification"}
    make([], tmp_path, parameters | {"labels": labels})
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert outputs(model.eval(), {"input_ids": torch.tensor([[2, 3]])})[0].shape == (1, labels)


def test_qwen3_is_like_its_embedders_and_rerankers(load):
    tokenizer, model = load("qwen3")
    attention = model.model.layers[0].self_attn
    assert attention.k_proj.out_features < attention.q_proj.out_features, "no grouped queries"
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert tokenizer.padding_side == "left"
    assert tokenizer("any text")["input_ids"][-1] == tokenizer.eos_token_id == tokenizer.pad_token_id
    answers = [tokenizer.encode(answer, add_special_tokens=False) for answer in ANSWERS]
    assert [len(ids) for ids in answers] == [1, 1]
    assert answers[0] != answers[1]


def test_tied_weights_stay_tied(load):
    for name in ("roberta", "gpt2"):
        _, model = load(name)
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight, name
