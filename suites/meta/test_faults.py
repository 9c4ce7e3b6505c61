"""The table of faults is complete, and every row plants what it says and has the effect that it says."""

import dataclasses
import functools
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest

from fixtures.baselines.tolerances import TOLERANCES
from fixtures.build.manifest import digest_files
from fixtures.build.store import Store
from fixtures.export import recipes, seeded
from fixtures.export.pooled_export import head_parameters
from fixtures.export.variants import VARIANT
from fixtures.faults.effect import encode, random_inputs, score_sound, true_effect, with_every_token
from fixtures.faults.families.post_processing import add_pooling
from fixtures.faults.families.sparse import add_terms
from fixtures.faults.fault import SEED, Inapplicable, Site
from fixtures.faults.graph_edits import edit_graph
from fixtures.faults.planting import applies, build_faulty_artifact
from fixtures.faults.table import FAMILIES, FAULT, FAULTS
from fixtures.faults.tokenizer_edits import edit_tokenizer
from fixtures.graphs.graph import added_operators
from fixtures.graphs.integer_formats import quantized_weights
from fixtures.models.checkpoints import Checkpoint
from fixtures.models.late_interaction import DEFAULTS
from fixtures.models.settings import Export, Settings
from fixtures.models.tables import LateInteraction
from fixtures.runtimes import hardware
from fixtures.scoring.probes import PAIRS, TEXTS
from fixtures.scoring.tasks import TASKS
from suites.meta.house import ROOT

MACHINE = hardware.detect()
FORMS = ("plain", "O2", "quantized", "O2-quantized", "int4")
"""One variant per form of graph: as exported, fused, both in int8, and weights in blocks."""
RANDOM_TEXTS = 100
DENSE_HEAD = seeded.ARCHITECTURES["bert_dense"].modules
embedder = functools.partial(Settings, task="embedding", max_length=64, normalize=True)
MODELS = {
    "embedder": embedder(source="seeded:bert@7", pooling="mean"),
    "cls": embedder(source="seeded:bert@7", pooling="cls"),
    "reranker": Settings(task="rerank", source="seeded:bert@8", max_length=64),
    "cut": embedder(source="seeded:bert@7", pooling="mean", dimensions=16),
    "roberta": embedder(source="seeded:roberta@9", pooling="mean"),
    "dense": embedder(
        source="seeded:bert_dense@17", pooling="mean", prompts=DENSE_HEAD.prompts, export=Export(pooled=True)
    ),
    "two-logits": Settings(task="rerank", source="seeded:bert@12", labels=2, positive="LABEL_1", max_length=64),
    "sparse": Settings(task="sparse", source="seeded:bert@16", max_length=64, pooling="max", activation="relu"),
    "late": Settings(
        task="late-interaction",
        source="seeded:bert_late@18",
        max_length=64,
        normalize=True,
        late_interaction=LateInteraction(query_length=16).over(DEFAULTS),
    ),
    "tagger": Settings(task="token-classification", source="seeded:electra@8", labels=5, max_length=64),
    "nli": Settings(task="pair-classification", source="seeded:roberta@18", labels=3, max_length=64),
    "answerer": Settings(task="question-answering", source="seeded:bert@10", labels=2, max_length=64),
}
REQUIRED_FAULTS = {
    "attention scale off by 1 %": "attention-scale-off-by-1-percent",
    "mask ignored": "mask-ignored",
    "LayerNorm epsilon dropped": "layernorm-epsilon-dropped",
    "one head's weights swapped": "heads-of-values-swapped",
    "residual dropped": "attention-residual-dropped",
    "GELU kind": "gelu-by-tanh",
    "transposed weight": "weight-transposed",
    "an op in the wrong precision": "matmul-in-fp16",
    "Q/K swapped": "query-and-key-swapped",
    "one layer skipped": "last-layer-skipped",
    "a bit flipped in the exponent": "exponent-bit-flipped",
    "one row of the embedding table wrong": "embedding-row-wrong",
    "one tensor from another revision": "tensor-from-another-revision",
    "scale of one quantized layer off by 2 %": "int8-scale-off-by-2-percent",
    "zero point off by one": "int8-zero-point-off-by-one",
    "bias lost": "bias-lost",
    "lowercasing changed": "lowercasing-off",
    "pair order swapped": "pair-order-swapped",
    "truncated from the wrong side": "truncated-on-the-left",
    "max length 128 for 512": "max-length-a-quarter",
    "token_type_ids zeroed": "token-types-ignored",
    "special tokens lost": "special-tokens-lost",
    "fallback tokenizer": "fallback-tokenizer",
    "mean for CLS": "mean-for-cls",
    "no normalisation": "no-normalisation",
    "padding counted in the mean": "padding-counted-in-the-mean",
    "softmax over one logit": "softmax-over-one-logit",
    "sigmoid twice": "sigmoid-twice",
    "tokenizer from another revision": "tokenizer-from-another-revision",
    "external data of another file": "external-data-of-another-file",
    "truncated file": "file-truncated",
    "stale cache": "older-checkpoint",
}
"""What the table has to have at least, in words -> its row."""


@pytest.fixture(scope="module")
def sound_folders(shared_store):
    """Return a function: model -> variant -> folder of its sound artifact, which nobody may change."""
    store = Store(shared_store)
    folders = {}

    def export(model):
        settings = MODELS[model]
        if model not in folders:
            task = TASKS[settings.task]
            checkpoint = Checkpoint(None, None, "sha256:" + "0" * 64)
            root = recipes.prepare(model, checkpoint, settings.source, task.auto_class, settings.labels)
            head = head_parameters(settings, DENSE_HEAD)
            steps = {
                form: recipes.plan(
                    model, VARIANT[form], root, task.export_task, MACHINE, recipes.OWN_EXPORTS.get(task.name), head=head
                )
                for form in FORMS
            }
            folders[model] = {form: store.run(step).folder for form, step in steps.items()}
        return folders[model]

    return export


def architecture_of(folder):
    return json.loads((folder / "config.json").read_text())["model_type"]


def digests(folder):
    """Return path in the folder -> digest."""
    return {name.partition("/")[2]: digest for name, digest in digest_files([folder]).items()}


def claims(fault, sound_folders):
    """Yield the tiny models and forms that a row says it applies to.

    Some models are for the rows that name their pooling, labels, keys or task; to all others they are as the first.
    """
    for model, settings in MODELS.items():
        if model == "cls" and "cls" not in fault.poolings:
            continue
        if (model == "dense" and not fault.needs) or (model == "cut" and "dimensions" not in fault.needs):
            continue
        if model == "two-logits" and not fault.labels:
            continue
        if model == "sparse" and "sparse" not in fault.tasks:
            continue
        if model == "late" and "late-interaction" not in fault.tasks:
            continue
        if model == "tagger" and "token-classification" not in fault.tasks:
            continue
        if model == "nli" and fault.tasks != ("pair-classification",):
            continue
        if model == "answerer" and "question-answering" not in fault.tasks:
            continue
        for variant, folder in sound_folders(model).items():
            if applies(fault, variant, settings, architecture_of(folder)):
                yield model, variant


def plant(fault, sound_folders, model, variant, folder):
    """Plant a fault in a copy of what its stage is about and return the folder."""
    source = sound_folders(model)["plain" if fault.stage == "export" else variant]
    shutil.copytree(source, folder, copy_function=shutil.copyfile)
    fault.plant(Site(folder, sound_folders(model), variant, MODELS[model], np.random.default_rng(SEED)))
    return folder


def build(fault, sound_folders, model, variant, workspace):
    workspace.mkdir()
    return build_faulty_artifact(fault, variant, sound_folders(model), MODELS[model], MACHINE, workspace)


@functools.cache
def sound_scores(folder, model):
    return score_sound(folder, MODELS[model], count=RANDOM_TEXTS)


def effect_of(fault, sound_folders, model, variant, folder):
    sound = sound_scores(sound_folders(model)[variant], model)
    return true_effect(sound, folder, fault.change_settings(MODELS[model]), read_alone=fault.read_alone)


# ----------------------------------------------------------------------------------- the table


def test_table_is_complete():
    assert len(FAULTS) >= 60
    assert len(FAULT) == len(FAULTS), "two rows have one name"
    assert all(len(faults) >= 10 for faults in FAMILIES.values())
    assert set(REQUIRED_FAULTS.values()) <= FAULT.keys()


def test_row_is_well_formed(row):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", row.name)
    assert row.defect
    assert row.stands_for
    re.compile(row.cause)
    assert row.stage in ("export", "last")
    assert not row.link or re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+", row.link)
    assert set(row.tasks) <= TASKS.keys()
    assert set(row.variants) <= VARIANT.keys()
    suites = "".join(file.read_text() for file in (ROOT / "suites").glob("[!m]*/test_*.py"))
    assert row.checks
    assert set(row.checks) <= set(re.findall(r"^def test_(\w+)", suites, re.MULTILINE))


# ------------------------------------------------------------------------------------ planting


def test_row_plants_wherever_it_claims_to(row, sound_folders, tmp_path):
    """It changes its own copy, the same way every time, and nothing else."""
    places = list(claims(row, sound_folders))
    assert places, "the row applies to none of the tiny models"
    if row.stage == "export":
        places = list({model: (model, variant) for model, variant in places}.values())
    for model, variant in places:
        source = sound_folders(model)["plain" if row.stage == "export" else variant]
        before = digests(source)
        files = digests(plant(row, sound_folders, model, variant, tmp_path / f"{model} {variant}"))
        assert digests(source) == before
        assert digests(plant(row, sound_folders, model, variant, tmp_path / f"{model} {variant} again")) == files
        outside_the_files = row.change_settings(MODELS[model]) != MODELS[model] or row.change_int8 is not None
        assert (files == before) == outside_the_files


def test_row_says_so_if_it_moves_no_score(row, sound_folders, tmp_path):
    """Every fault moves a score of some model by more than its tolerance, or its note says why not."""
    moved = []
    for model, variant in claims(row, sound_folders):
        try:
            folder = build(row, sound_folders, model, variant, tmp_path / f"{model} {variant}")
        except Inapplicable:
            raise
        except Exception:  # a recipe's steps raise what they like
            moved.append(float("inf"))
        else:
            moved.append(effect_of(row, sound_folders, model, variant, folder))
        allowed = TOLERANCES[VARIANT[variant].precision.name, True].limits[TASKS[MODELS[model].task].error_row]
        if moved[-1] > allowed and not row.note:
            return
        if moved[-1] <= allowed and row.note:
            return
    assert not row.note, f"its note says that some model does not move, and all do: {moved}"
    pytest.fail(f"it moves no score, and has no note: {moved}")


@pytest.mark.parametrize(
    "fault", [fault for fault in FAMILIES["text"] if not fault.read_alone], ids=lambda fault: fault.name
)
def test_transformers_reads_the_faulty_tokenizer_as_encode_does(fault, sound_folders, tmp_path):
    """What `true_effect` measures is what the gate sees, which reads tokenizers with Transformers."""
    from transformers import AutoTokenizer

    model, variant = next(iter(claims(fault, sound_folders)))
    folder = plant(fault, sound_folders, model, variant, tmp_path / "faulty")
    settings = fault.change_settings(MODELS[model])
    rows = random_inputs(folder, settings, count=40)
    encoded = encode(folder, rows, settings)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    limit = min(settings.max_length, tokenizer.model_max_length)
    for (text, pair), start, end in zip(rows, encoded.offsets[:-1], encoded.offsets[1:], strict=True):
        prompt = settings.prompts.query if settings.prompts else ""
        expected = tokenizer(prompt + text, pair, truncation=True, max_length=limit)
        if not expected["input_ids"]:
            continue  # `encode` leaves a separator, since no model takes nothing
        assert expected["input_ids"] == encoded.fields["input_ids"][start:end].tolist()
        if "token_type_ids" in expected:
            assert expected["token_type_ids"] == encoded.fields["token_type_ids"][start:end].tolist()
    assert (tokenizer.padding_side, tokenizer.pad_token_id) == (encoded.padding_side, encoded.pad["input_ids"])


def test_change_that_changes_nothing_is_inapplicable(sound_folders, tmp_path):
    graph_fault = dataclasses.replace(FAULT["bias-lost"], plant=edit_graph(lambda graph, site: None))
    with pytest.raises(Inapplicable, match="the same after the change"):
        plant(graph_fault, sound_folders, "embedder", "plain", tmp_path / "graph")
    text_fault = dataclasses.replace(graph_fault, plant=edit_tokenizer(lambda tokenizer, config, site: None))
    with pytest.raises(Inapplicable, match="the same after the change"):
        plant(text_fault, sound_folders, "embedder", "plain", tmp_path / "text")


@pytest.mark.parametrize(
    ("name", "model", "variant"),
    [
        ("fused-query-and-key-swapped", "embedder", "plain"),
        ("softmax-over-queries", "embedder", "O2"),
        ("token-types-ignored", "roberta", "plain"),
        ("lowercasing-off", "roberta", "plain"),
        ("int8-scale-off-by-2-percent", "embedder", "plain"),
        ("pooler-left-out", "embedder", "plain"),
        ("head-lost-in-export", "embedder", "plain"),
        ("no-normalisation", "reranker", "plain"),
    ],
)
def test_place_that_lacks_what_a_fault_needs_is_inapplicable(sound_folders, tmp_path, name, model, variant):
    """And the table does not claim it."""
    fault = FAULT[name]
    assert not applies(fault, variant, MODELS[model], architecture_of(sound_folders(model)[variant]))
    with pytest.raises(Inapplicable):
        plant(fault, sound_folders, model, variant, tmp_path / "copy")


def test_recipe_runs_on_the_faulty_graph(sound_folders, tmp_path):
    """A fault of the export is in the fused and quantized graph."""
    folder = build(FAULT["bias-lost"], sound_folders, "embedder", "O2-quantized", tmp_path / "build")
    model = onnx.load(folder / "model.onnx")
    assert added_operators(model) == added_operators(
        onnx.load(sound_folders("embedder")["O2-quantized"] / "model.onnx")
    )
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    assert not onnx.numpy_helper.to_array(weights["encoder.layer.0.intermediate.dense.bias"]).any()
    assert (folder / "tokenizer.json").exists()


def test_quantizer_gets_other_parameters(sound_folders, tmp_path):
    folder = build(FAULT["quantized-per-tensor"], sound_folders, "embedder", "quantized", tmp_path / "build")
    weights = quantized_weights(onnx.load(folder / "model.onnx"))
    assert {weight.per_channel for weight in weights if not weight.is_table} == {not MACHINE.int8.per_channel}


# -------------------------------------------------------------------------------- what it does


@pytest.mark.parametrize("model", MODELS)
def test_sound_artifact_has_no_effect(sound_folders, model):
    """In every form, int8 included: the same batches and one thread."""
    for folder in sound_folders(model).values():
        assert true_effect(sound_scores(folder, model), folder) == 0


def test_graph_that_pools_as_the_model_does_has_no_effect(sound_folders, tmp_path):
    """Of pooling in the graph itself, only rounding is left."""
    for model in ("embedder", "cls"):
        fault = dataclasses.replace(FAULT["no-normalisation"], plant=add_pooling())
        folder = plant(fault, sound_folders, model, "plain", tmp_path / model)
        assert effect_of(fault, sound_folders, model, "plain", folder) < 1e-6
    fault = dataclasses.replace(FAULT["terms-pruned"], plant=add_terms())
    folder = plant(fault, sound_folders, "sparse", "plain", tmp_path / "sparse")
    assert effect_of(fault, sound_folders, "sparse", "plain", folder) < 1e-6


@pytest.mark.parametrize("name", ["file-truncated", "file-empty", "external-data-missing", "tokenizer-missing"])
def test_file_that_cannot_be_run_has_infinite_effect(sound_folders, tmp_path, name):
    folder = plant(FAULT[name], sound_folders, "embedder", "plain", tmp_path / "copy")
    assert effect_of(FAULT[name], sound_folders, "embedder", "plain", folder) == float("inf")


def test_score_that_is_not_finite_has_infinite_effect(sound_folders, tmp_path):
    """In whichever batch it is."""
    fault = FAULT["nan-in-an-unused-row"]
    folder = plant(fault, sound_folders, "reranker", "plain", tmp_path / "copy")
    assert effect_of(fault, sound_folders, "reranker", "plain", folder) == float("inf")


def test_sound_artifact_that_cannot_be_run_is_an_error(tmp_path):
    with pytest.raises(Exception, match="No such file"):
        score_sound(tmp_path, MODELS["embedder"])


def test_random_inputs_have_every_token_and_every_length_and_no_probe(sound_folders):
    for model in ("embedder", "reranker", "roberta"):
        settings, folder = MODELS[model], sound_folders(model)["plain"]
        rows = random_inputs(folder, settings)
        assert rows == random_inputs(folder, settings)
        texts = {text for row in rows for text in row if text}
        assert not texts & {
            text for probe in (*TEXTS, *PAIRS) for text in (probe.text, probe.pair) if len(text or "") > 12
        }
        encoded = encode(folder, rows, settings)
        assert encoded.lengths.min() <= 4
        assert (encoded.lengths == settings.max_length).any()
        assert len(set(encoded.lengths.tolist())) > settings.max_length / 2
        words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
        assert set(with_every_token(encoded, folder).fields["input_ids"].tolist()) >= set(words.values())


def test_vocabulary_that_does_not_fit_is_an_error(sound_folders):
    folder = sound_folders("embedder")["plain"]
    with pytest.raises(ValueError, match="too few for a vocabulary of 1000: ask for more texts"):
        score_sound(folder, MODELS["embedder"], count=5)


def test_planting_imports_no_framework():
    """Faults are listed, planted and measured without PyTorch."""
    program = "import sys, fixtures.faults.table, fixtures.faults.planting, fixtures.faults.effect; print(*sys.modules)"
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = process.stdout.split()
    assert "fixtures.faults.table" in modules
    assert not {"torch", "transformers", "optimum"} & set(modules)
