"""config.json and tokenizer_config.json of another Transformers: translated where that is exact, refused otherwise."""

import json

import pytest

from fixtures.build.step import Step
from fixtures.export import seeded
from fixtures.export.translate import readable, translate
from fixtures.models import transformers_files
from fixtures.models.checkpoints import Checkpoint
from fixtures.models.files import checkpoint_digest
from fixtures.models.settings import ModelError
from fixtures.models.transformers_files import TRANSLATED, ConfigurationKeys, keys_of, translation_of
from fixtures.scoring import tokens
from suites.meta.house import EMBEDDER


@pytest.fixture
def translated(tmp_path):
    """Return a function: the content of config.json and tokenizer_config.json -> what they are translated to."""

    def run(config=None, tokenizer=None, names=TRANSLATED):
        files = {}
        for name, document in zip(TRANSLATED, (config, tokenizer), strict=True):
            if document is not None:
                files[name] = tmp_path / name
                files[name].write_text(document if isinstance(document, str) else json.dumps(document))
        return translation_of(files, names)

    return run


def known_of(model_type: str) -> ConfigurationKeys:
    known = keys_of(model_type)
    assert known is not None
    return known


def test_keys_are_read_from_the_source_of_the_installed_classes():
    assert {"rope_theta", "rope_scaling", "layer_types", "dtype", "torch_dtype", "id2label"} <= known_of("qwen3").read
    assert {"global_rope_theta", "local_attention"} <= known_of("modernbert").read
    assert {"rope_local_base_freq", "sliding_window_pattern"} <= known_of("gemma3_text").read
    assert "n_embd" in known_of("gpt2").read
    assert "norm_rel_ebd" in known_of("deberta-v2").read, "its layers read it, and its class does not"
    assert "rope_theta" in known_of("gpt_neox").computed, (
        "its class sets it from rotary_emb_base, whatever stands there"
    )
    assert keys_of("no-such-model") is None


@pytest.mark.parametrize(
    "model_type", ["bert", "qwen3", "modernbert", "gemma3_text", "xlm-roberta", "gpt2", "t5", "mpnet"]
)
def test_every_key_that_the_installed_class_writes_is_known(model_type):
    """Otherwise sound checkpoints would be refused."""
    from transformers import AutoConfig

    written = AutoConfig.for_model(model_type).to_dict().keys()
    known = known_of(model_type)
    assert {key for key in written if not key.startswith("_")} - known.read - known.computed == set()


def without(document, *keys):
    return {key: value for key, value in document.items() if key not in keys}


QWEN3 = {"model_type": "qwen3", "transformers_version": "5.24.0", "hidden_size": 32}
MODERNBERT = {"model_type": "modernbert", "transformers_version": "5.24.0", "num_hidden_layers": 4}
GEMMA3 = {"model_type": "gemma3_text", "transformers_version": "5.24.0"}
DEFAULT = {"rope_type": "default"}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
LAYERS = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]


def by_layer(full, sliding):
    return {"full_attention": full, "sliding_attention": sliding}


@pytest.mark.parametrize(
    ("config", "older"),
    [
        (
            QWEN3 | {"rope_parameters": {"rope_theta": 1e6, **DEFAULT}},
            {"rope_theta": 1e6},
        ),
        (
            {"model_type": "phi", "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.4}},
            {"rope_theta": 1e4, "partial_rotary_factor": 0.4},
        ),
        (QWEN3 | {"rope_parameters": {"rope_theta": 1e6, **YARN}}, {"rope_theta": 1e6, "rope_scaling": YARN}),
        (
            MODERNBERT | {"rope_parameters": by_layer({"rope_theta": 8e4}, {"rope_theta": 2e4, **DEFAULT})},
            {"global_rope_theta": 8e4, "local_rope_theta": 2e4},
        ),
        (MODERNBERT | {"layer_types": LAYERS}, {"global_attn_every_n_layers": 3}),
        (MODERNBERT | {"layer_types": ["full_attention"] * 4}, {"global_attn_every_n_layers": 1}),
        (
            GEMMA3 | {"rope_parameters": by_layer({"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
                                                  {"rope_theta": 1e4, "rope_type": "default"})},
            {"rope_theta": 1e6, "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_local_base_freq": 1e4},
        ),
    ],
)  # fmt: skip
def test_config_of_transformers_5_is_translated(translated, config, older):
    """Into the keys that Transformers 4 reads, and nothing else of it changes."""
    kept = without(config, "rope_parameters", "layer_types")
    assert translated(config) == {"config.json": kept | older}
    assert translated(kept | older) == {}, "what is read as it is stays as it is"


@pytest.mark.parametrize(
    "config",
    [
        QWEN3 | {"rope_theta": 1e6, "layer_types": ["full_attention"] * 2, "dtype": "float32"},
        {"model_type": "bert", "transformers_version": "4.8.2", "gradient_checkpointing": False, "pooler_fc_size": 768},
        {"model_type": "bert", "position_embedding_type": "absolute", "transformers_version": "4.57.6"},
        {"model_type": "xlm-roberta", "sentence_transformers": {"activation_fn": "torch.nn.Identity"}},
        {"model_type": "bert", "auto_map": {"AutoConfig": "custom.Config"}},
        {"architectures": ["BertModel"]},
    ],
)
def test_config_that_is_read_as_it_is_stays(translated, config):
    """Old junk too: whoever wrote it did not read it either."""
    assert translated(config) == {}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (QWEN3 | {"rope_parameters": {"rope_type": "default"}}, "rope_parameters: .* cannot be said in the keys"),
        (QWEN3 | {"rope_parameters": by_layer({"rope_theta": 1e6}, {"rope_theta": 1e4})}, "rope_parameters: .*install"),
        (
            QWEN3 | {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}},
            r"rope_theta is 10000\.0, and rope_parameters says 1000000\.0: .* remove the wrong one",
        ),
        (MODERNBERT | {"rope_parameters": by_layer({"rope_theta": 8e4, **YARN}, {"rope_theta": 2e4})}, "rope_param"),
        (
            MODERNBERT | {"model_type": "modernbert-decoder",
                          "rope_parameters": by_layer({"rope_theta": 16e4}, {"rope_theta": 1e4})},
            "rope_parameters: .* cannot be said",
        ),
        (QWEN3 | {"rope_parameters": {"rope_theta": 1e6, "rope_type": "spiral"}}, "rope_parameters: .*spiral"),
        (QWEN3 | {"rope_parameters": []}, "rope_parameters: .* cannot be said"),
        (
            QWEN3 | {"rope_scaling": YARN, "rope_parameters": {"rope_theta": 1e6}},
            "rope_scaling is .*yarn.*, and rope_parameters says null",
        ),
        (MODERNBERT | {"layer_types": LAYERS[::-1][1:]}, "layer_types: .* cannot be said"),
        (MODERNBERT | {"layer_types": LAYERS, "global_attn_every_n_layers": 2}, "layer_types: .* cannot be said"),
        (
            QWEN3 | {"new_gate": True},
            r"config\.json: new_gate: the qwen3 of the installed .* does not read it .*was written by 5\.24\.0\)",
        ),
        (
            {"model_type": "bert", "rope_parameters": {"rope_theta": 1e4}, "transformers_version": "4.57.6"},
            "rope_parameters: .* cannot be said",
        ),
        ({"model_type": "bert", "position_embedding_type": "x", "layer_types": []}, "layer_types: .* cannot be said"),
        (
            {"model_type": "gpt_neox", "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.25}},
            "rope_parameters: .* cannot be said",
        ),
        ({"model_type": "brand_new"}, "model_type: the installed .* no 'brand_new': install one that has it"),
        ("[]", r"config\.json holds no JSON object"),
        ('{"model_type": "qw', r"config\.json is not valid JSON"),
    ],
)  # fmt: skip
def test_config_that_would_be_misread_is_refused_with_file_and_key(translated, config, message):
    with pytest.raises(ModelError, match=message):
        translated(config)


def test_tokenizer_of_transformers_5_is_translated(translated):
    tokenizer = {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<a>", "<b>"], "pad_token": "<p>"}
    older = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "additional_special_tokens": ["<a>", "<b>"],
        "pad_token": "<p>",
    }
    assert translated(tokenizer=tokenizer) == {"tokenizer_config.json": older}
    both = {"additional_special_tokens": ["<c>", "<a>"], "extra_special_tokens": ["<a>"]}
    assert translated(tokenizer=both)["tokenizer_config.json"] == {"additional_special_tokens": ["<c>", "<a>"]}


@pytest.mark.parametrize(
    "tokenizer",
    [
        {"tokenizer_class": "BertTokenizer"},
        {"tokenizer_class": "PreTrainedTokenizerFast", "extra_special_tokens": {"image_token": "<i>"}},
        {"tokenizer_class": "BertTokenizer", "auto_map": {"AutoTokenizer": ["custom.Custom", None]}},
    ],
)
def test_tokenizer_that_is_read_as_it_is_stays(translated, tokenizer):
    assert translated(tokenizer=tokenizer) == {}


def test_tokenizer_class_that_is_not_installed_is_refused(translated):
    with pytest.raises(ModelError, match=r"tokenizer_config\.json: tokenizer_class: the installed .* has no BrandNew"):
        translated(tokenizer={"tokenizer_class": "BrandNew"})


def test_configuration_beside_a_graph_decides_nothing(translated):
    """Only its tokenizer is loaded."""
    assert (
        translated(QWEN3 | {"new_gate": True}, {"tokenizer_class": "Qwen2Tokenizer"}, ("tokenizer_config.json",)) == {}
    )


def test_nothing_is_translated_where_transformers_is_not_installed(translated, monkeypatch):
    monkeypatch.setattr(transformers_files, "_installed_version", tuple)
    assert translated(QWEN3 | {"new_gate": True}) == {}


def test_copy_has_the_translated_files_and_the_others_as_they_are(tmp_path):
    source, output = tmp_path / "source", tmp_path / "output"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(QWEN3 | {"rope_parameters": {"rope_theta": 1e6}}))
    (source / "model.safetensors").write_bytes(b"weights")
    step = readable("any", Checkpoint(source, None, "sha256:0"))
    assert isinstance(step, Step)
    assert step.parameters == {"files": ["config.json"]}
    before = (source / "config.json").read_bytes()
    translate([source], output, step.parameters)
    assert json.loads((output / "config.json").read_text())["rope_theta"] == 1e6
    assert (output / "model.safetensors").read_bytes() == b"weights"
    assert (source / "config.json").read_bytes() == before


def test_tokenizer_that_transformers_5_saved_without_its_vocabulary_has_no_slow_form(tmp_path):
    """Version 5 saves tokenizer.json alone, and then 4.57 returns False where it would load the slow form."""
    seeded.make([], tmp_path, {"architecture": "xlm_roberta", "seed": 1, "auto_class": "AutoModel", "labels": 1})
    parameters = {"padding_side": None, "truncation_side": None, "template": None, "max_length": 8}
    assert tokens._slow_differences(tmp_path, [], [], parameters) == []
    (tmp_path / "sentencepiece.bpe.model").unlink()
    assert tokens._slow_differences(tmp_path, [], [], parameters) == "no slow tokenizer: its vocabulary is not there"


@pytest.mark.parametrize("option", ["", "--candidate=bert="])
def test_checkpoint_that_would_be_misread_ends_the_run_before_anything_is_built(house, shop, tmp_path, option):
    """Exit status 4, with the file, the key and what to do."""
    folder = tmp_path / "newer"
    folder.mkdir()
    for file in (shop[0] / "first").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"new_gate": True, "transformers_version": "99.0"}))
    pinned = f'digest = "sha256:{checkpoint_digest(folder)}"\n'
    house.add("bert", pinned + EMBEDDER.replace("seeded:bert@7", f"path:{folder}"))
    run = shop[1].run(f"{option}{folder}") if option else house.run()
    assert run.returncode == 4, run.text
    assert f"{folder / 'config.json'}: new_gate: the bert of the installed Transformers" in run.text
