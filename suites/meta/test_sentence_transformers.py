"""Folders of sentence-transformers of every version: what they say is read, and what is not known is refused."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fixtures.export import seeded
from fixtures.export.onnx_export import finish_parameters
from fixtures.gate.case import Case
from fixtures.models.checkpoints import Checkpoint
from fixtures.models.files import checkpoint_digest
from fixtures.models.sentence_transformers import (
    CONFIG_FILE,
    ModuleLayer,
    ModuleSettings,
    read_modules,
    read_prompts,
)
from fixtures.models.settings import Model, ModelError, Prompts, Settings
from fixtures.scoring.head import Layer, pool, read_layers
from fixtures.scoring.tokens import plan_tokens
from suites.conformance import test_prompts
from suites.meta.calls import stand_in
from suites.meta.house import EMBEDDER

OLD, NEW = "sentence_transformers.models.", "sentence_transformers.sentence_transformer.modules."
TANH = "torch.nn.modules.activation.Tanh"
HIDDEN = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
RIGHT, LEFT = np.array([[1, 1, 1, 1], [1, 1, 0, 0]]), np.array([[1, 1, 1, 1], [0, 0, 1, 1]])


def write(folder: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def modules(*kinds: str, package: str = OLD) -> dict[str, object]:
    """Return modules.json of a Transformer and these modules."""
    paths = ["", *(f"{number}_{kind}" for number, kind in enumerate(kinds, 1))]
    rows = zip(("Transformer", *kinds), paths, strict=True)
    return {"modules.json": [{"idx": 0, "type": package + kind, "path": path} for kind, path in rows]}


POOLED_MEAN = {"1_Pooling/config.json": {"word_embedding_dimension": 3, "pooling_mode_mean_tokens": True}}
DENSE = {"in_features": 3, "out_features": 2, "bias": True, "activation_function": TANH}


@pytest.mark.parametrize(
    ("config", "pooling", "include_prompt"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls", True),
        ({"pooling_mode_lasttoken": True, "include_prompt": False}, "last", False),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, "max+mean", True),
        ({}, "mean", True),
        ({"embedding_dimension": 3, "pooling_mode": "lasttoken", "include_prompt": True}, "last", True),
        ({"embedding_dimension": 3, "pooling_mode": ["mean", "cls"]}, "mean+cls", True),
        ({"pooling_mode": "weightedmean"}, "weightedmean", True),
    ],
)
@pytest.mark.parametrize("package", [OLD, NEW])
def test_poolings_of_old_and_new_folders(tmp_path, config, pooling, include_prompt, package):
    write(tmp_path, modules("Pooling", "Normalize", package=package) | {"1_Pooling/config.json": config})
    assert read_modules(tmp_path) == ModuleSettings(pooling, normalize=True, include_prompt=include_prompt)


def test_layers_prompts_and_limits(tmp_path):
    files = modules("Pooling", "Dense", "LayerNorm") | POOLED_MEAN | {"2_Dense/config.json": DENSE}
    config = {"prompts": {"query": "q: ", "document": "d: "}, "truncate_dim": 2, "similarity_fn_name": "dot"}
    files |= {"config_sentence_transformers.json": config, "2_Dense/pytorch_model.bin": ""}
    files |= {"sentence_bert_config.json": {"max_seq_length": 128, "do_lower_case": True}}
    write(tmp_path, files | {"3_LayerNorm/pytorch_model.bin": ""})
    layers = (ModuleLayer("dense", "2_Dense", "tanh"), ModuleLayer("layer_norm", "3_LayerNorm"))
    assert read_modules(tmp_path) == ModuleSettings(
        "mean", False, layers, True, Prompts("q: ", "d: "), 2, "dot", 128, lowercase=True
    )


@pytest.mark.parametrize(
    ("config", "prompts"),
    [
        ({"prompts": {}, "default_prompt_name": None}, None),
        ({"prompts": {"query": "", "document": ""}}, None),
        ({"prompts": {"query": "q: ", "passage": "p: "}}, Prompts("q: ", "p: ")),
        ({"prompts": {"query": "q: ", "document": "", "passage": "p: "}}, Prompts("q: ", "p: ")),
        ({"prompts": {"query": "q: "}, "default_prompt_name": "query"}, Prompts("q: ", "")),
        ({"prompts": {"retrieval": "r: "}, "default_prompt_name": "retrieval"}, Prompts("r: ", "r: ")),
        ({"prompts": {"retrieval": "r: "}}, None),
    ],
)
def test_prompts_are_those_of_encode_query_and_encode_document(tmp_path, config, prompts):
    write(tmp_path, modules("Pooling") | POOLED_MEAN | {"config_sentence_transformers.json": config})
    assert read_modules(tmp_path).prompts == prompts


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"modules.json": '[{"idx": 0, '}, "modules.json is not valid JSON"),
        ({"modules.json": []}, "modules.json: names no module"),
        (modules("Pooling"), "1_Pooling/config.json is missing, and modules.json names its folder"),
        (modules("LSTM", "Pooling"), "modules.json: 1.type: no module Pooling follows"),
        (modules("Pooling", "WeightedLayerPooling") | POOLED_MEAN, "a module WeightedLayerPooling cannot be judged"),
        (modules("Pooling", package="my_code.") | POOLED_MEAN, "0.type: 'my_code.Transformer' is code of the"),
        (
            {"modules.json": [{"type": OLD + "Transformer", "path": "0_Transformer"}]},
            "the encoder lies in '0_Transformer': move its files into the folder itself",
        ),
        (
            {"modules.json": [{"type": OLD + "StaticEmbedding", "path": ""}]},
            "modules.json: 0.type: a module StaticEmbedding cannot be judged",
        ),
        (
            modules("Pooling") | {"1_Pooling/config.json": {"pooling_mode": "median"}},
            "pooling_mode: 'median' is none of",
        ),
        (
            modules("Pooling") | {"1_Pooling/config.json": {"pooling_mode_median_tokens": True}},
            "pooling_mode_median_tokens: is no pooling that is known here",
        ),
        (modules("Pooling", "Dense") | POOLED_MEAN, "2_Dense is missing, and modules.json names it: the checkpoint is"),
        (modules("Pooling", "Dense") | POOLED_MEAN | {"2_Dense/config.json": DENSE}, "2_Dense holds no weights"),
        (
            modules("Pooling", "Dense")
            | POOLED_MEAN
            | {"2_Dense/pytorch_model.bin": "", "2_Dense/config.json": DENSE | {"activation_function": "mine.Swish"}},
            "2_Dense/config.json: activation_function: 'mine.Swish' is none of torch.nn",
        ),
        (
            modules("Pooling", "Dense")
            | POOLED_MEAN
            | {
                "2_Dense/pytorch_model.bin": "",
                "2_Dense/config.json": DENSE | {"module_input_name": "token_embeddings"},
            },
            "module_input_name: is 'token_embeddings': only layers behind the pooling",
        ),
        (
            modules("Pooling") | POOLED_MEAN | {"config_sentence_transformers.json": {"prompts": {"query": 3}}},
            "prompts.query: is 3, and a prompt is a text",
        ),
        (
            modules("Pooling") | POOLED_MEAN | {"config_sentence_transformers.json": {"default_prompt_name": "query"}},
            "default_prompt_name: 'query' is none of no prompts",
        ),
        (
            modules("Pooling") | POOLED_MEAN | {"config_sentence_transformers.json": {"truncate_dim": "8"}},
            "truncate_dim: is '8', and not of type int",
        ),
        (
            {"modules.json": [{"type": OLD + "Transformer", "path": ""}, {"type": OLD + "Pooling", "path": "../else"}]},
            "modules.json: 1.path: '../else' leaves the checkpoint's folder",
        ),
        (
            modules("Pooling") | POOLED_MEAN | {"config_sentence_transformers.json": {"model_type": "SparseEncoder"}},
            "model_type: is 'SparseEncoder', and no embedder",
        ),
        (
            modules("Pooling", "Normalize") | POOLED_MEAN | {"2_Normalize/config.json": {"module_input_name": "x"}},
            "2_Normalize/config.json: module_input_name: is 'x'",
        ),
        (
            modules("Pooling") | POOLED_MEAN | {"sentence_bert_config.json": {"modality_config": {"message": {}}}},
            "modality_config.message: texts go through a chat template",
        ),
        (
            modules("Pooling")
            | POOLED_MEAN
            | {"sentence_bert_config.json": {"model_args": {"trust_remote_code": True}}},
            "model_args.trust_remote_code: changes how the encoder is loaded",
        ),
        (
            modules("Pooling") | POOLED_MEAN | {"sentence_bert_config.json": {"transformer_task": "fill-mask"}},
            "sentence_bert_config.json: transformer_task: is 'fill-mask'",
        ),
    ],
)
def test_what_is_not_known_is_refused_by_file_and_key(tmp_path, files, message):
    write(tmp_path, files)
    with pytest.raises(ModelError, match=re.escape(message)):
        read_modules(tmp_path)


@pytest.mark.parametrize("mask", [RIGHT, LEFT], ids=["right padding", "left padding"])
@pytest.mark.parametrize(
    ("pooling", "pooled_rows"),
    [
        ("mean", lambda rows: rows.mean(0)),
        ("cls", lambda rows: rows[0]),
        ("last", lambda rows: rows[-1]),
        ("max", lambda rows: rows.max(0)),
        ("mean_sqrt_len_tokens", lambda rows: rows.sum(0) / np.sqrt(len(rows))),
        ("weightedmean", lambda rows: np.average(rows, axis=0, weights=np.arange(len(rows)) + 1)),
        ("mean+max", lambda rows: np.concatenate([rows.mean(0), rows.max(0)])),
    ],
)
def test_padding_is_not_pooled(pooling, pooled_rows, mask):
    expected = [pooled_rows(row[kept == 1]) for row, kept in zip(HIDDEN, mask, strict=True)]
    np.testing.assert_allclose(pool(HIDDEN, mask, pooling, normalize=False), expected, rtol=1e-6)


def test_prompt_is_left_out_where_the_folder_says_so():
    pooled = np.array([[0, 0, 1, 1], [0, 1, 0, 0]])
    expected = [HIDDEN[0, 2:].mean(0), HIDDEN[1, 1]]
    np.testing.assert_allclose(pool(HIDDEN, RIGHT, "mean", normalize=False, pooled=pooled), expected)
    weighted = [np.average(HIDDEN[0, 2:], axis=0, weights=[3, 4]), HIDDEN[1, 1]]
    np.testing.assert_allclose(pool(HIDDEN, RIGHT, "weightedmean", normalize=False, pooled=pooled), weighted)


@pytest.mark.parametrize("activation", ["tanh", "identity", "relu", "gelu", "silu", "sigmoid"])
@pytest.mark.parametrize("residual", [False, True])
def test_layers_compute_what_pytorch_does(activation, residual):
    import torch

    functions = {"tanh": torch.tanh, "identity": torch.nn.Identity(), "relu": torch.relu,
                 "gelu": torch.nn.GELU(), "silu": torch.nn.SiLU(), "sigmoid": torch.sigmoid}  # fmt: skip
    random = np.random.default_rng(0)
    weight, bias, vectors = (random.standard_normal(shape).astype(np.float32) for shape in ((4, 4), 4, (5, 4)))
    dense = Layer(ModuleLayer("dense", "d", activation, residual), {"linear.weight": weight, "linear.bias": bias})
    norm = Layer(ModuleLayer("layer_norm", "n"), {"norm.weight": bias, "norm.bias": weight[0]})
    given = torch.from_numpy(vectors)
    expected = functions[activation](given @ torch.from_numpy(weight).T + torch.from_numpy(bias))
    expected = expected + given if residual else expected
    np.testing.assert_allclose(dense(vectors), expected.numpy(), atol=1e-5)
    expected = torch.layer_norm(given, (4,), torch.from_numpy(bias), torch.from_numpy(weight[0]))
    np.testing.assert_allclose(norm(vectors), expected.numpy(), atol=1e-5)


def test_widths_that_do_not_fit_are_refused(tmp_path):
    for name, shape in (("2_Dense", (2, 3)), ("3_Dense", (2, 4))):
        (tmp_path / name).mkdir()
        save_file({"linear.weight": np.zeros(shape, np.float32)}, tmp_path / name / "model.safetensors")
    with pytest.raises(ValueError, match="3_Dense takes vectors of 4 numbers and gets 2"):
        read_layers(tmp_path, [ModuleLayer("dense", "2_Dense"), ModuleLayer("dense", "3_Dense")])
    (tmp_path / "2_Dense" / "model.safetensors").unlink()
    save_file({"weight": np.zeros((2, 3), np.float32)}, tmp_path / "2_Dense" / "model.safetensors")
    with pytest.raises(ValueError, match=r"2_Dense lacks linear\.weight"):
        read_layers(tmp_path, [ModuleLayer("dense", "2_Dense")])


def test_every_module_is_in_the_digest(tmp_path):
    write(tmp_path, modules("Pooling", "Dense") | POOLED_MEAN | {"2_Dense/config.json": DENSE, "config.json": {}})
    digests = {checkpoint_digest(tmp_path)}
    for name in (
        "2_Dense/pytorch_model.bin",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "1_Pooling/config.json",
    ):
        (tmp_path / name).write_text("changed")
        digests.add(checkpoint_digest(tmp_path))
    assert len(digests) == 5
    (tmp_path / "2_Dense" / "notes.md").write_text("no part of the checkpoint")
    assert checkpoint_digest(tmp_path) in digests


PROMPTS = {"prompts": {"query": "query: ", "document": "passage: "}}


@pytest.fixture
def prompted(house, tmp_path):
    """A house whose embedder is a folder with a dense layer and prompts, and the folder."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    seeded.make([], folder, {"architecture": "bert", "seed": 7, "auto_class": "AutoModel", "labels": 1})
    pooling = {"embedding_dimension": 32, "pooling_mode": "mean"}
    files = modules("Pooling", "Dense", "Normalize", package=NEW) | {"1_Pooling/config.json": pooling}
    write(
        folder,
        files
        | {
            "2_Dense/config.json": DENSE | {"in_features": 32, "out_features": 12},
            "config_sentence_transformers.json": PROMPTS,
        },
    )
    weight = np.random.default_rng(0).standard_normal((12, 32)).astype(np.float32)
    save_file({"linear.weight": weight}, folder / "2_Dense" / "model.safetensors")
    digest = checkpoint_digest(folder)
    house.add("tiny", f'task = "embedding"\nsource = "path:{folder}"\ndigest = "sha256:{digest}"\nmax_length = 64\n')
    return house, folder


def test_folder_is_judged_with_its_modules_and_prompts(prompted):
    """The reference is what PyTorch alone makes of the texts behind their prompts."""
    import torch
    import transformers

    house, folder = prompted
    (subject,) = house.start().load()
    assert subject.model.settings.prompts == Prompts("query: ", "passage: ")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoder = transformers.AutoModel.from_pretrained(folder)
    weight = torch.from_numpy(load_file(folder / "2_Dense" / "model.safetensors")["linear.weight"])
    for row, prompt in ((0, "query: "), (1, "passage: ")):
        with torch.inference_mode():
            hidden = encoder(**tokenizer(prompt + subject.probes[row].text, return_tensors="pt")).last_hidden_state[0]
        expected = torch.nn.functional.normalize(torch.tanh(hidden.mean(0) @ weight.T), dim=0)
        np.testing.assert_allclose(subject.reference[row], expected.numpy(), atol=1e-5)


def test_shipped_folder_without_the_prompts_is_red(prompted, tmp_path):
    """The report says how far a lost prompt moves a text; a folder that asks for none, or for others, fails."""
    house, _ = prompted
    gate = house.start(variant=["plain"])
    own = next(case for case in gate.cases_of(gate.load()[0]))
    findings: list[str] = []
    test_prompts.test_prompts_are_asked_for_and_matter(own, findings.append)
    assert [finding.partition(" has")[0] for finding in findings] == [
        "a query without 'query: '",
        "a passage without 'passage: '",
    ]
    shipped = tmp_path / "shipped"
    shutil.copytree(own.artifact.folder, shipped, ignore=shutil.ignore_patterns("manifest.json", CONFIG_FILE))

    def judge():
        gate = house.start(artifact=[f"tiny:plain={shipped}"])
        (case,) = (case for case in gate.cases_of(gate.load()[0]) if case.ready_made)
        test_prompts.test_prompts_are_asked_for_and_matter(case, findings.append)

    with pytest.raises(AssertionError, match=r"shipped has no config_sentence_transformers\.json"):
        judge()
    write(shipped, {"config_sentence_transformers.json": {"prompts": {"query": "q: "}}})
    with pytest.raises(AssertionError, match=r"'query: ' before queries.* asks for 'q: ' before queries"):
        judge()
    write(shipped, {"config_sentence_transformers.json": PROMPTS})
    judge()
    write(shipped, {"config_sentence_transformers.json": "{"})
    with pytest.raises(pytest.fail.Exception, match=r"config_sentence_transformers\.json is not valid JSON"):
        judge()


@pytest.mark.parametrize("own", [True, False], ids=["the checkpoint's prompts", "others in model.toml"])
def test_exports_ask_for_the_judged_prompts(prompted, own):
    """Every link of a recipe hands the file on; what the checkpoint says goes with it byte for byte."""
    house, folder = prompted
    text = (house.baselines / "tiny" / "model.toml").read_text()
    house.add("tiny", text if own else text + '[prompts]\nquery = "q: "\n')
    gate = house.start(variant=["plain", "O2", "quantized", "O2-quantized"])
    for case in gate.cases_of(gate.load()[0]):
        file = case.artifact.folder / CONFIG_FILE
        assert (file.read_bytes() == (folder / CONFIG_FILE).read_bytes()) == own
        assert read_prompts(file) == (Prompts("query: ", "passage: ") if own else Prompts("q: "))
        with pytest.raises(AssertionError, match=r"config_sentence_transformers\.json asks for 'q"):
            test_prompts.require_shipped_prompts(case, Prompts("other: "))


def test_export_without_the_prompts_is_red(tmp_path):
    case = stand_in(Case, ready_made=None, artifact=stand_in(object, folder=tmp_path))
    with pytest.raises(AssertionError, match=r"has no config_sentence_transformers\.json"):
        test_prompts.require_shipped_prompts(case, Prompts("query: "))


def test_model_without_prompts_ships_what_it_did():
    """Its exports keep their keys in a filled store."""
    settings = Settings(task="embedding", source="path:x", max_length=8, prompts=Prompts())
    assert finish_parameters(settings, None) == {}
    assert finish_parameters(settings, 64) == {"tokenizer_length": 64}


def test_prompt_that_does_not_reach_the_scores_is_red(prompted, monkeypatch):
    house, _ = prompted
    gate = house.start(variant=["plain"])
    case = next(iter(gate.cases_of(gate.load()[0])))
    monkeypatch.setattr(type(case), "encode", lambda case, texts: case.encoded)
    with pytest.raises(AssertionError, match="the prompt 'query: ' does not reach the scores"):
        test_prompts.test_prompts_are_asked_for_and_matter(case, print)


@pytest.mark.parametrize(
    ("config", "pooling", "told"),
    [
        ({"model_type": "gpt2"}, "weightedmean", True),
        ({"model_type": "bert", "type_vocab_size": 2}, "weightedmean", False),
        ({"model_type": "bert", "type_vocab_size": 2}, "last", False),
        ({"model_type": "modernbert"}, "last", False),
        ({"model_type": "a decoder of tomorrow"}, "last", True),
    ],
)
def test_decoder_that_embeds_is_told_positions_beside_a_ready_made_file_too(tmp_path, config, pooling, told):
    """An encoder is not, whatever its pooling: its export has no such input."""
    write(tmp_path, {"config.json": config})
    settings = Settings(task="embedding", source="path:x", max_length=8, pooling=pooling)
    checkpoint, beside = Checkpoint(tmp_path, None, ""), Checkpoint(None, None, "", named_files=())
    model = Model("m", tmp_path, settings)
    for step in (plan_tokens(model, checkpoint), plan_tokens(model, beside, head=checkpoint)):
        assert step.parameters["position_ids"] is told


def test_pooling_that_nobody_names_is_asked_for(house):
    house.add("tiny", EMBEDDER.replace('pooling = "mean"\n', ""))
    assert 'whose checkpoint has no modules.json needs pooling = "mean" or "cls" or' in house.usage_error()


def test_lowercase_of_a_folder_is_no_difference_of_its_tokenizers(house, tmp_path):
    """sentence-transformers gives the fast one a normalizer; the slow one would be compared without."""
    house.baselines.mkdir()
    seeded.make([], tmp_path, {"architecture": "bert", "seed": 7, "auto_class": "AutoModel", "labels": 1})
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    write(tmp_path, {"tokenizer_config.json": config | {"do_lower_case": False}} | modules("Pooling") | POOLED_MEAN)
    write(tmp_path, {"sentence_bert_config.json": {"max_seq_length": 64, "do_lower_case": True}})
    gate = house.start(checkpoint=[str(tmp_path)], variant=["plain"])
    assert "in the fast tokenizer alone" in gate.load()[0].encoded.facts.slow_differences
