"""A fingerprint is another one where anything is that decides vectors, and stays where nothing is."""

import dataclasses
import hashlib
import json
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save_file

from fixtures.build.manifest import Artifact
from fixtures.export.ready_made import ReadyMade
from fixtures.gate import measured
from fixtures.gate.command_line import parse
from fixtures.gate.context import make_context
from fixtures.gate.measured import fingerprint_of
from fixtures.gate.session import Gate
from fixtures.models.fingerprint import Fingerprint, Pooling, Truncation
from fixtures.models.sentence_transformers import ModuleLayer
from fixtures.models.settings import Prompts
from fixtures.report.conclusions import conclude
from fixtures.report.results import Failure, MachineRecord, ModelResult, Results, VariantResult

OLD = "sentence_transformers.models."
KINDS = ("Transformer", "Pooling", "Dense", "Normalize")
MODULES = [{"type": OLD + kind, "path": f"{index}_{kind}" if index else ""} for index, kind in enumerate(KINDS)]
FILES: dict[str, Any] = {
    "config.json": {"architectures": ["BertModel"], "max_position_embeddings": 512, "hidden_act": "gelu"},
    "tokenizer.json": {"model": {}},
    "special_tokens_map.json": {},
    "modules.json": MODULES,
    "1_Pooling/config.json": {"pooling_mode": "mean"},
    "2_Dense/config.json": {"activation_function": "torch.nn.modules.activation.Tanh"},
    "config_sentence_transformers.json": {"prompts": {"query": "query: "}, "truncate_dim": 64},
    "sentence_bert_config.json": {"max_seq_length": 256, "do_lower_case": False},
}
CLASSIFIER = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "no", "1": "yes", "2": "perhaps"}}
GOLDEN = Fingerprint(
    weights=f"sha256:{'1' * 64}",
    config=f"sha256:{'2' * 64}",
    tokenizer=f"sha256:{'3' * 64}",
    task="embedding",
    truncation=Truncation(256, "right"),
    precision="int8",
    prompts=Prompts("检索：", "passage: "),
    pooling=Pooling("mean", True, layers=(ModuleLayer("dense", "2_Dense", "tanh"),)),
    dimensions=64,
    graph=f"sha256:{'4' * 64}",
)


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))


def write_weights(file, value=1.0):
    save_file({"linear.weight": np.full((96, 2), value, np.float32)}, file)


@pytest.fixture
def folder(tmp_path):
    """The folder of an embedder of sentence-transformers, whose weights are none."""
    folder = tmp_path / "mine"
    write(folder, FILES)
    write_weights(folder / "model.safetensors")
    write_weights(folder / "2_Dense" / "model.safetensors")
    (tmp_path / "baselines").mkdir()
    return folder


def case_of(folder, variant="plain", sets=(), side="right", graph="sha256:4"):
    """Return a variant of a checkpoint as if it were built: its tokenizer's side, and the digest of its graph."""
    options = {"checkpoint": [str(folder)], "set": [f"{key}={value}" for key, value in sets]}
    folders = {name: str(folder.parent / name) for name in ("baselines", "report", "store")}
    gate = Gate(make_context(parse((folders | options).get, ci=False)))
    case = gate.case(gate.load()[0], variant)
    tokenizer = SimpleNamespace(facts=SimpleNamespace(tokenizer=SimpleNamespace(truncation_side=side)))
    vars(case).update(encoded=tokenizer, artifact=Artifact("key", folder, "sha256:5", 6, (), graph))
    return case


def parts_of(case):
    return json.loads(msgspec.json.encode(fingerprint_of(case)))


def changed(before, after):
    return {key for key in {*before, *after} if before.get(key) != after.get(key)}


def test_digest_is_the_one_of_the_parts_as_json():
    """Nobody who stamped an index can be told that it is stale because exportgate changed."""
    assert GOLDEN.digest == "sha256:1dbb0fcf882f79e2657a41b560f1cfb1b020fe5beaee818178819a1cf280f42c"
    document = json.loads(msgspec.json.encode(GOLDEN))
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert GOLDEN.digest == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def test_parts_of_a_folder(folder):
    parts = parts_of(case_of(folder))
    sums = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in (
        "2_Dense/model.safetensors", "model.safetensors")]  # fmt: skip
    assert parts == {
        "weights": f"sha256:{hashlib.sha256(''.join(sums).encode()).hexdigest()}",
        "config": parts["config"],
        "tokenizer": parts["tokenizer"],
        "task": "embedding",
        "truncation": {"max_length": 256, "side": "right"},
        "precision": "fp32",
        "prompts": {"query": "query: "},
        "pooling": {
            "pooling": "mean",
            "normalize": True,
            "layers": [{"kind": "dense", "folder": "2_Dense", "activation": "tanh"}],
        },
        "dimensions": 64,
    }


@pytest.mark.parametrize(
    ("files", "options", "parts"),
    [
        ({"config.json": FILES["config.json"] | {"hidden_act": "relu"}}, {}, {"config"}),
        ({"tokenizer.json": {"model": {"vocab": {}}}}, {}, {"tokenizer"}),
        ({"special_tokens_map.json": {"pad_token": "0"}}, {}, {"tokenizer"}),
        ({"vocab.txt": "word"}, {}, {"tokenizer"}),
        ({"sentencepiece.bpe.model": "word"}, {}, {"tokenizer"}),
        ({"1_Pooling/config.json": {"pooling_mode": "cls"}}, {}, {"pooling"}),
        ({"1_Pooling/config.json": {"pooling_mode": "mean", "include_prompt": False}}, {}, {"pooling"}),
        ({"modules.json": MODULES[:3]}, {}, {"pooling"}),
        ({"2_Dense/config.json": {"activation_function": "torch.nn.modules.linear.Identity"}}, {}, {"pooling"}),
        (
            {"config_sentence_transformers.json": {"prompts": {"query": "q: "}, "truncate_dim": 64}}, {}, {"prompts"},
        ),
        (
            {"config_sentence_transformers.json": {"prompts": {"query": "query: "}, "truncate_dim": 32}},
            {}, {"dimensions"},
        ),
        ({"sentence_bert_config.json": {"max_seq_length": 256, "do_lower_case": True}}, {}, {"lowercase"}),
        ({"sentence_bert_config.json": {"max_seq_length": 128}}, {}, {"truncation"}),
        ({}, {"sets": [("max_length", 64)]}, {"truncation"}),
        ({}, {"sets": [("dimensions", 16)]}, {"dimensions"}),
        ({}, {"sets": [("prompts.passage", "passage: ")]}, {"prompts"}),
        ({}, {"side": "left"}, {"truncation"}),
        ({}, {"variant": "O3"}, {"precision"}),
        ({}, {"variant": "fp16"}, {"precision"}),
        ({}, {"variant": "quantized"}, {"precision", "graph"}),
    ],
)  # fmt: skip
def test_each_change_alone_is_another_fingerprint(folder, files, options, parts):
    before = case_of(folder)
    write(folder, files)
    after = case_of(folder, **options)
    assert changed(parts_of(before), parts_of(after)) == parts
    assert fingerprint_of(before).digest != fingerprint_of(after).digest


@pytest.mark.parametrize("file", ["model.safetensors", "2_Dense/model.safetensors"])
def test_weights_are_those_of_all_modules(folder, file):
    before = parts_of(case_of(folder))
    write_weights(folder / file, 1.0000001)
    assert changed(before, parts_of(case_of(folder))) == {"weights"}


@pytest.mark.parametrize(
    ("files", "options"),
    [
        ({"README.md": "words", "data_config.json": []}, {}),
        ({"config_sentence_transformers.json": FILES["config_sentence_transformers.json"] | {"__version__": {}}}, {}),
        ({}, {"variant": "O1", "graph": "sha256:6"}),
        ({}, {"variant": "O2", "graph": "sha256:7"}),
        ({}, {"sets": [("export.pooled", "true")]}),
        ({}, {"sets": [("ceilings.fp32.max_abs_error", 1)]}),
    ],
)
def test_what_decides_no_vector_changes_nothing(folder, files, options):
    before = fingerprint_of(case_of(folder))
    write(folder, files)
    assert fingerprint_of(case_of(folder, **options)) == before


def test_integers_are_those_of_one_file(folder):
    """Two quantizers choose other scales; two exporters of fp32 differ by rounding."""
    digests = [fingerprint_of(case_of(folder, "quantized", graph=graph)).digest for graph in ("sha256:6", "sha256:7")]
    assert len(set(digests)) == 2
    rounded = [fingerprint_of(case_of(folder, "O3", graph=graph)).digest for graph in ("sha256:6", "sha256:7")]
    assert len(set(rounded)) == 1


def test_parts_of_a_sparse_embedder(folder):
    """How terms are pooled, and the table that queries are looked up in."""
    library, pooling = "sentence_transformers.sparse_encoder.models.", "1_SpladePooling/config.json"
    kinds = (("MLMTransformer", ""), ("SpladePooling", "1_SpladePooling"))
    modules = [{"type": library + kind, "path": path} for kind, path in kinds]
    config = FILES["config.json"] | {"architectures": ["BertForMaskedLM"], "vocab_size": 96}
    named = {"config_sentence_transformers.json": {"model_type": "SparseEncoder"}, "config.json": config}
    write(folder, named | {"modules.json": modules, pooling: {}})
    before = parts_of(case_of(folder))
    assert (before["task"], before["activation"]) == ("sparse", "relu")
    assert before["pooling"] == {"pooling": "max", "normalize": False}
    write(folder, {pooling: {"activation_function": "log1p_relu"}})
    assert changed(before, parts_of(case_of(folder))) == {"activation"}
    write(folder, {pooling: {"pooling_strategy": "sum"}})
    assert changed(before, parts_of(case_of(folder))) == {"pooling"}

    routed_kinds = (*kinds, ("SparseStaticEmbedding", "query"))
    router = {
        "types": {path: library + kind for kind, path in routed_kinds},
        "structure": {"query": ["query"], "document": ["", "1_SpladePooling"]},
        "parameters": {},
    }
    tokenizer = FILES["tokenizer.json"]
    write(
        folder, {"modules.json": [{"type": library + "Router", "path": ""}], "router_config.json": router, pooling: {}}
    )
    write(folder, {"query/config.json": {"frozen": True}, "query/tokenizer.json": tokenizer})
    save_file({"weight": np.ones(96, np.float32)}, folder / "query" / "model.safetensors")
    routed = parts_of(case_of(folder))
    assert changed(before, routed) == {"pooling", "weights"}
    save_file({"weight": np.full(96, 2, np.float32)}, folder / "query" / "model.safetensors")
    assert changed(routed, parts_of(case_of(folder))) == {"weights"}


def test_labels_and_templates(folder):
    (folder / "modules.json").unlink()
    write(folder, {"config.json": CLASSIFIER})
    before = parts_of(case_of(folder))
    assert before["labels"] == ["no", "yes", "perhaps"]
    assert "pooling" not in before
    write(folder, {"config.json": CLASSIFIER | {"id2label": {"0": "yes", "1": "no", "2": "perhaps"}}})
    assert changed(before, parts_of(case_of(folder))) == {"labels", "config"}
    sets = [("task", "decoder-rerank"), ("template", "{query} {passage}")]
    before = parts_of(case_of(folder, sets=sets))
    assert changed(before, parts_of(case_of(folder, sets=[sets[0], ("template", "{query}: {passage}")]))) == {
        "template"
    }


def test_adapter_counts(folder, tmp_path):
    adapter = tmp_path / "adapter"
    write(adapter, {"adapter_config.json": {"r": 8}})
    write_weights(adapter / "adapter_model.safetensors")
    sets = [("adapter", adapter)]
    parts = [parts_of(case_of(folder)), parts_of(case_of(folder, sets=sets))]
    assert changed(*parts) == {"weights", "config"}
    write_weights(adapter / "adapter_model.safetensors", 2.0)
    assert changed(parts[1], parts_of(case_of(folder, sets=sets))) == {"weights"}
    write(adapter, {"adapter_config.json": {"r": 4}})
    assert changed(parts[1], parts_of(case_of(folder, sets=sets))) == {"weights", "config"}


@pytest.mark.parametrize(("loaded", "parts"), [("the same", set()), ("another", {"tokenizer"})])
def test_shipped_tokenizer_counts_where_it_is_another(folder, tmp_path, monkeypatch, loaded, parts):
    """Exporters save a tokenizer anew: other bytes, and the same tokens."""
    before = case_of(folder)
    write(tmp_path / "shipped", {"tokenizer.json": {"saved": "anew"}})
    file = tmp_path / "shipped" / "tokenizer.json"
    after = dataclasses.replace(before, ready_made=ReadyMade(file.parent, {}, {file.name: file}))
    vars(after).update(encoded=before.encoded, artifact=before.artifact)
    tokens = {after.tokens: loaded, after.subject.plan.tokens: "the same"}
    monkeypatch.setattr(measured, "loaded_tokenizer", lambda case, step: tokens[step])
    assert changed(parts_of(before), parts_of(after)) == parts


@pytest.mark.parametrize(("closeness", "failed", "kept"), [({"max_abs_error": 0.0}, False, True), ({}, False, False),
                                                           ({"max_abs_error": 1.0}, True, False)])  # fmt: skip
def test_only_what_was_judged_and_passed_has_one(closeness, failed, kept):
    """Whoever stamps an index with it relies on its weights being the checkpoint's."""
    variant = VariantResult("plain", fingerprint=GOLDEN.digest, fingerprint_parts=GOLDEN, closeness=closeness)
    results = Results(
        MachineRecord(arch="x86_64", tier="avx2", cpu="a processor", cores=2),
        {},
        [ModelResult("mine", "sha256:1", "embedding", variants=[variant])],
        [Failure("mine", "plain", "scores_stay_within_ceiling", "max_abs_error 1")] if failed else [],
    )
    conclude(results, passed=not failed)
    assert bool(variant.fingerprint) == kept
    assert (variant.fingerprint_parts is not None) == kept
