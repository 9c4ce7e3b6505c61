"""Sparse embedders: references are what SparseEncoder makes of a folder, and what is not known there is refused."""

import json
import re
import shutil
from typing import cast

import msgspec
import numpy as np
import pytest

from fixtures.diagnosis.evidence import Evidence
from fixtures.diagnosis.symptoms import find_symptoms
from fixtures.export import seeded
from fixtures.export.layout import layout_parameters, put_configuration
from fixtures.export.variants import VARIANT, ceiling_of
from fixtures.gate.verdicts import judge_drift
from fixtures.models.files import checkpoint_digest, checkpoint_sums
from fixtures.models.fingerprint import weights_of
from fixtures.models.inference import infer
from fixtures.models.sentence_transformers import ModuleLayer, ModuleSettings
from fixtures.models.settings import Model, ModelError, Prompts, Settings
from fixtures.models.sparse_encoders import read_sparse_encoder
from fixtures.runtimes.session import Runtime
from fixtures.scoring.closeness import Closeness
from fixtures.scoring.probes import QUERIES
from fixtures.scoring.scores import score
from fixtures.scoring.sparse import QUERY_TOKENS, term_weights
from fixtures.scoring.tasks import TASKS, Scoring
from fixtures.scoring.tokens import filled
from suites.meta.house import ROOT

TOLERANCE = 1e-5
PROMPTS = {"query": "query: ", "document": "passage: "}
MLM = "sentence_transformers.sparse_encoder.models.MLMTransformer.MLMTransformer"
SPLADE = "sentence_transformers.sparse_encoder.models.SpladePooling.SpladePooling"
STATIC = "sentence_transformers.sparse_encoder.models.SparseStaticEmbedding.SparseStaticEmbedding"
POOLED = {"1_SpladePooling/config.json": {"pooling_strategy": "max", "activation_function": "relu"}}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a masked language model of the zoo."""
    folder = tmp_path_factory.mktemp("base")
    parameters = {"architecture": "bert", "seed": 16, "auto_class": "AutoModelForMaskedLM", "labels": 1}
    seeded.make([], folder, parameters)
    return folder


def save(base, folder, pooling="max", activation="relu", prompts=None, encoder="Transformer"):
    """Save a SparseEncoder as sentence-transformers does, and return it."""
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling

    options = {"transformer_task": "fill-mask"} if encoder == "Transformer" else {}
    kind = {"Transformer": Transformer, "MLMTransformer": MLMTransformer}[encoder]
    modules = [kind(str(base), max_seq_length=64, **options), SpladePooling(pooling, activation)]
    model = SparseEncoder(modules=modules, device="cpu", prompts=prompts)
    model.save_pretrained(str(folder), create_model_card=False)
    return model


def save_router(base, folder):
    """Save a SparseEncoder whose queries are looked up in a table, its encoder in the folder itself, as on the hub."""
    import torch
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Router, Transformer
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, model_max_length=64)
    weights = torch.from_numpy(np.random.default_rng(1).uniform(0.1, 4, len(tokenizer)).astype(np.float32))
    document = [Transformer(str(base), max_seq_length=64, transformer_task="fill-mask"), SpladePooling("max")]
    router = Router.for_query_document([SparseStaticEmbedding(tokenizer, weights)], document)
    SparseEncoder(modules=[router], device="cpu").save_pretrained(str(folder), create_model_card=False)
    name = "document_0_Transformer"
    for file in (folder / name).iterdir():
        shutil.move(file, folder / file.name)
    (folder / name).rmdir()
    config = folder / "router_config.json"
    config.write_text(config.read_text().replace(f'"{name}"', '""'))
    return SparseEncoder(str(folder), device="cpu")


def judged(house, folder, keys=""):
    """Return a folder as the gate judges it."""
    digest = checkpoint_digest(folder)
    house.add("tiny", f'task = "sparse"\nsource = "path:{folder}"\ndigest = "sha256:{digest}"\nmax_length = 64\n{keys}')
    (subject,) = house.start().load()
    return subject


def texts_of(subject, folder, prompts=None):
    """Return the probes as texts, those that are cut to a length too."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [probe.text for probe in filled(subject.probes, tokenizer, None, 64, prompts or Prompts())]


def require_equal(reference, sparse):
    """Fail unless a reference is what SparseEncoder yields; print how far it is.

    A sum over 64 tokens is up to a hundred, where a step of fp32 is 8e-6: above 1 the tolerance is relative.
    """
    expected = sparse.to_dense().cpu().numpy()
    errors = np.abs(reference - expected)
    print(f"max abs error {errors.max():.2g}, {float((expected > 0).mean()):.0%} of the terms are active")
    assert reference.shape == expected.shape
    assert (expected > 0).any()
    assert (errors <= TOLERANCE * np.maximum(1, expected)).all()


# ---------------------------------------------------------------------------- sentence-transformers


@pytest.mark.parametrize("pooling", ["max", "sum"])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
def test_reference_is_what_sparse_encoder_makes_of_its_folder(house, base, tmp_path, pooling, activation):
    """Texts that are cut at max_seq_length too, and whichever module loads the encoder."""
    encoder = "MLMTransformer" if pooling == "sum" else "Transformer"
    model = save(base, tmp_path / "saved", pooling, activation, encoder=encoder)
    subject = judged(house, tmp_path / "saved")
    assert (subject.model.settings.pooling, subject.model.settings.activation) == (pooling, activation)
    require_equal(subject.reference, model.encode(texts_of(subject, tmp_path / "saved")))


def test_folder_of_transformers_is_pooled_as_sparse_encoder_loads_it(house, base):
    from sentence_transformers import SparseEncoder

    subject = judged(house, base)
    assert (subject.model.settings.pooling, subject.model.settings.activation) == ("max", "relu")
    model = SparseEncoder(str(base), device="cpu")
    model.max_seq_length = 64
    require_equal(subject.reference, model.encode(texts_of(subject, base)))


def test_prompts_stand_before_queries_and_passages(house, base, tmp_path):
    model = save(base, tmp_path / "saved", prompts=PROMPTS)
    subject = judged(house, tmp_path / "saved")
    prompts = Prompts("query: ", "passage: ")
    assert subject.model.settings.prompts == prompts
    prompted = texts_of(subject, tmp_path / "saved", prompts)
    for prompt, encode in (("query: ", model.encode_query), ("passage: ", model.encode_document)):
        rows = [row for row, text in enumerate(prompted) if text.startswith(prompt)]
        require_equal(subject.reference[rows], encode([prompted[row].removeprefix(prompt) for row in rows]))


def test_queries_of_a_router_are_looked_up(house, base, tmp_path):
    """As SparseStaticEmbedding does, and PyTorch and graphs score the documents alone."""
    model = save_router(base, tmp_path / "saved")
    subject = judged(house, tmp_path / "saved")
    texts = texts_of(subject, tmp_path / "saved")
    for is_query, encode in ((True, model.encode_query), (False, model.encode_document)):
        rows = [row for row, probe in enumerate(subject.probes) if (probe.id in QUERIES) is is_query]
        require_equal(subject.reference[rows], encode([texts[row] for row in rows]))

    class Documents:
        inputs = ("input_ids", "attention_mask", "token_type_ids")

        def __call__(self, feeds):
            assert not feeds[QUERY_TOKENS].any()
            return {"logits": np.ones((*feeds["input_ids"].shape, 1000), np.float32)}

    scores = score(Documents(), subject.encoded, subject.scoring)
    documents = [probe.id not in QUERIES for probe in subject.probes]
    np.testing.assert_allclose(scores[documents], np.log(2), rtol=1e-6)
    np.testing.assert_allclose(scores[np.logical_not(documents)], subject.reference[np.logical_not(documents)])


def test_cause_is_looked_for_in_what_the_graph_scores(house, base, tmp_path):
    """Queries that are looked up never move, and say nothing of it."""
    save_router(base, tmp_path / "saved")
    subject = judged(house, tmp_path / "saved")
    documents = np.array([[probe.id not in QUERIES] for probe in subject.probes])
    scores = np.where(documents, 1.5 * subject.reference, subject.reference)
    (symptom,) = find_symptoms(Evidence("sparse", subject.reference, scores, subject.encoded, subject.scoring, 1e-4))
    assert symptom.name == "scaled"


def test_table_of_a_router_is_in_the_digest_and_in_the_weights(house, base, tmp_path):
    folder = tmp_path / "saved"
    save_router(base, folder)
    subject = judged(house, folder)
    names = {name for name in checkpoint_sums(folder) if "/" in name}
    table = "query_0_SparseStaticEmbedding"
    assert {f"{table}/model.safetensors", f"{table}/tokenizer.json", "document_1_SpladePooling/config.json"} <= names
    before, digest = weights_of(subject.plan.checkpoint), checkpoint_digest(folder)
    file = folder / table / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert checkpoint_digest(folder) != digest
    assert weights_of(judged(house, folder).plan.checkpoint) != before


@pytest.mark.parametrize("routed", [False, True])
def test_layout_says_what_the_folder_said(house, base, tmp_path, routed):
    from sentence_transformers import SparseEncoder

    folder, layout = tmp_path / "saved", tmp_path / "layout"
    save_router(base, folder) if routed else save(base, folder, "sum", "log1p_relu", PROMPTS)
    model = judged(house, folder).model
    shutil.copytree(folder, tmp_path / "artifact", ignore=shutil.ignore_patterns("modules.json", "[0-9]_*", "*_*_*"))
    sums = {name: folder / name for name in checkpoint_sums(folder)}
    put_configuration(tmp_path / "artifact", sums, layout, layout_parameters(model))
    assert read_sparse_encoder(layout) == msgspec.structs.replace(read_sparse_encoder(folder), max_seq_length=64)
    shutil.copyfile(folder / "model.safetensors", layout / "model.safetensors")
    loaded = SparseEncoder(str(layout), device="cpu")
    assert loaded.encode_query("a tenant")._nnz() > 0


# ----------------------------------------------------------------------------------- what is read


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


def modules(*kinds):
    return {"modules.json": [{"idx": index, "type": kind, "path": path} for index, (kind, path) in enumerate(kinds)]}


PLAIN = modules((MLM, ""), (SPLADE, "1_SpladePooling")) | POOLED
ROUTER = modules(("sentence_transformers.models.Router.Router", "")) | {
    "router_config.json": {
        "types": {"query_0": STATIC, "": MLM, "document_1": SPLADE},
        "structure": {"query": ["query_0"], "document": ["", "document_1"]},
        "parameters": {"default_route": "document", "allow_empty_key": True},
    },
    "document_1/config.json": {"pooling_strategy": "max", "word_embedding_dimension": None},
    "query_0/config.json": {"frozen": False},
    "query_0/model.safetensors": 0,
    "query_0/tokenizer.json": {"model": {"vocab": {"a": 0}}, "truncation": None},
    "tokenizer.json": {"model": {"vocab": {"a": 0}}, "truncation": {"max_length": 64}},
}


def routed(**changes):
    """Return the files of a Router whose router_config.json differs."""
    return ROUTER | {"router_config.json": ROUTER["router_config.json"] | changes}


def test_folders_of_old_versions(tmp_path):
    assert read_sparse_encoder(tmp_path) == ModuleSettings()
    files = {"sentence_bert_config.json": {"max_seq_length": 256, "do_lower_case": True}}
    write(tmp_path, PLAIN | files)
    expected = ModuleSettings("max", max_seq_length=256, lowercase=True, activation="relu")
    assert read_sparse_encoder(tmp_path) == expected
    write(tmp_path, ROUTER)
    (layer,) = read_sparse_encoder(tmp_path).layers
    assert layer == ModuleLayer("query_table", "query_0")


def test_checkpoint_without_a_model_toml(tmp_path):
    config = {"architectures": ["BertForMaskedLM"], "max_position_embeddings": 512}
    write(tmp_path, PLAIN | {"config.json": config, "sentence_bert_config.json": {"max_seq_length": 256}})
    lines = {line.key: (line.value, line.origin) for line in infer(tmp_path, TASKS, {})}
    assert lines["task"] == ("sparse", "SpladePooling in modules.json")
    assert lines["max_length"][0] == 256
    assert lines["pooling"] == ("max", "pooling_strategy of its SpladePooling")
    assert lines["activation"] == ("relu", "activation_function of its SpladePooling")
    write(tmp_path, {"config_sentence_transformers.json": {"model_type": "SparseEncoder", "prompts": PROMPTS}})
    lines = {line.key: (line.value, line.origin) for line in infer(tmp_path, TASKS, {})}
    assert lines["task"] == ("sparse", "model_type in config_sentence_transformers.json")
    assert lines["prompts.query"][0] == "query: "


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            modules((MLM, ""), ("sentence_transformers.models.Pooling", "1_Pooling")),
            "modules.json: MLMTransformer, Pooling: of a SparseEncoder a masked language model and a SpladePooling",
        ),
        (PLAIN | modules((MLM, "0"), (SPLADE, "1_SpladePooling")), "the encoder lies in '0': move its files"),
        (
            PLAIN | modules(("sentence_transformers.models.Transformer", ""), (SPLADE, "1_SpladePooling")),
            'sentence_bert_config.json: transformer_task: is missing: a Transformer without "fill-mask"',
        ),
        (
            PLAIN | {"sentence_bert_config.json": {"transformer_task": "text-generation"}},
            "transformer_task: is 'text-generation', and fill-mask is judged here",
        ),
        (
            PLAIN | {"1_SpladePooling/config.json": {"pooling_strategy": "mean"}},
            "1_SpladePooling/config.json: pooling_strategy: 'mean' is none of max, sum",
        ),
        (
            PLAIN | {"1_SpladePooling/config.json": {"activation_function": "gelu"}},
            "activation_function: 'gelu' is none of relu, log1p_relu",
        ),
        (
            PLAIN | {"1_SpladePooling/config.json": {"top_k": 3}},
            "top_k: changes how terms are pooled, and is not known",
        ),
        (
            PLAIN | {"config_sentence_transformers.json": {"model_type": "SentenceTransformer"}},
            "model_type: is 'SentenceTransformer', and no SparseEncoder",
        ),
        (routed(structure={"query": ["query_0"]}), "structure: routes query: one for query and one for document"),
        (
            routed(structure={"query": ["", "document_1"], "document": ["", "document_1"]}),
            "structure.query: MLMTransformer, SpladePooling: queries are judged that one SparseStaticEmbedding looks",
        ),
        (routed(structure={"query": ["x"], "document": []}), "structure.query: is no list of modules that types names"),
        (routed(parameters={"route_mappings": {"(None, None)": "query"}}), "parameters.route_mappings: is not known"),
        (
            routed(types={"query_0": "my.SparseStaticEmbedding", "": MLM, "document_1": SPLADE}),
            "types.query_0: 'SparseStaticEmbedding' is code of the checkpoint's own",
        ),
        (
            ROUTER | {"query_0/config.json": {"path": "idf.json"}},
            "query_0/config.json: path: its weights lie elsewhere",
        ),
        (ROUTER | {"query_0/tokenizer.json": {"model": {}}}, "query_0/tokenizer.json is another tokenizer than"),
    ],
)
def test_what_is_not_known_is_refused_by_file_and_key(tmp_path, files, message):
    write(tmp_path, files)
    with pytest.raises(ModelError, match=re.escape(message)):
        read_sparse_encoder(tmp_path)


def test_table_of_another_vocabulary_is_refused(house, base, tmp_path):
    folder = tmp_path / "saved"
    save_router(base, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 1008}))
    keys = (
        f'task = "sparse"\nsource = "path:{folder}"\ndigest = "sha256:{checkpoint_digest(folder)}"\nmax_length = 64\n'
    )
    house.add("tiny", keys)
    message = house.usage_error()
    assert "model.safetensors: weight: has shape (1000,), and the model weighs 1008 terms" in message


@pytest.mark.parametrize("path", ["../query", "/query"])
def test_router_that_leaves_the_folder_is_refused(house, base, tmp_path, path):
    folder = tmp_path / "saved"
    save_router(base, folder)
    file = folder / "router_config.json"
    file.write_text(file.read_text().replace("query_0_SparseStaticEmbedding", path))
    keys = (
        f'task = "sparse"\nsource = "path:{folder}"\ndigest = "sha256:{checkpoint_digest(folder)}"\nmax_length = 64\n'
    )
    house.add("tiny", keys)
    assert f"router_config.json: types.{path}: '{path}' leaves the checkpoint's folder" in house.usage_error()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ('pooling = "mean"', "pooling: 'mean' is none of max, sum"),
        ('activation = "sigmoid"', "activation: 'sigmoid' is none of relu, log1p_relu"),
        ("dimensions = 3", "dimensions: only an embedding model has it"),
    ],
)
def test_keys_that_a_sparse_embedder_does_not_have(house, keys, message):
    house.add("tiny", f'task = "sparse"\nsource = "seeded:bert@16"\nmax_length = 64\n{keys}\n')
    assert message in house.usage_error()


def test_activations_of_terms_are_no_rerankers(house):
    house.add("tiny", 'task = "rerank"\nsource = "seeded:bert@8"\nmax_length = 64\nactivation = "relu"\n')
    assert "activation: 'relu' is none of sigmoid, identity, which task rerank has" in house.usage_error()


# ------------------------------------------------------------------------------------ term weights


def test_ceilings_of_weights_are_those_of_logits():
    """A logarithm of 1 + x errs at most as x does."""
    for variant in VARIANT.values():
        for task, row in (("sparse", "max_logit_error"), ("embedding", "max_abs_error")):
            model = Model("tiny", ROOT, Settings(task=task, source="seeded:bert@16", max_length=64))
            ceiling = ceiling_of(variant, model, TASKS[task].metrics)
            assert ceiling.keys() == set(TASKS[task].metrics)
            assert ceiling["max_abs_error"] == variant.precision.ceiling[row]


@pytest.mark.parametrize(("drift", "holds"), [(4e-5, True), (6e-5, False)])
def test_tolerances_of_weights_are_those_of_logits(house, base, drift, holds):
    subject = judged(house, base)
    closeness = Closeness({"max_abs_error": drift}, np.array([drift]))
    verdict = judge_drift(subject, closeness, "reference", subject.provenance(), subject.probes_digest)
    assert bool(verdict) is holds


@pytest.mark.parametrize("pooling", ["max", "sum"])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_terms_are_weighed_as_splade_pooling_does(pooling, activation, kind):
    """Under holes, and of a text without tokens; of logits in 16 bits, computed in 32."""
    import torch
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    logits = np.random.default_rng(0).normal(0, 4, (4, 6, 50)).astype(kind)
    mask = np.array([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 0], [1, 0, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0]])
    module = SpladePooling(pooling, activation).eval()
    given = {"token_embeddings": torch.from_numpy(logits.astype(np.float32)), "attention_mask": torch.from_numpy(mask)}
    expected = module(given)["sentence_embedding"].numpy()
    weights = term_weights(logits, mask, pooling, activation)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    assert not weights[3].any()


def test_graph_that_weighs_terms_by_itself_is_not_pooled_again():
    vectors = np.random.default_rng(0).random((2, 7)).astype(np.float32)
    feeds = {name: np.ones((2, 3), np.int64) for name in ("input_ids", "attention_mask")}

    outputs = {"sentence_embedding": vectors, "logits": np.zeros((2, 3, 7), np.float32)}
    runtime = cast(Runtime, lambda feeds: outputs)
    np.testing.assert_array_equal(TASKS["sparse"].scores(runtime, feeds, Scoring("sparse", "max")), vectors)
