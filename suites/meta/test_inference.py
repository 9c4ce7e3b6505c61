"""A checkpoint without a model.toml: what its files say is read, what they do not say is asked for by name."""

import hashlib
import json
import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest

from fixtures.arrays import Array
from fixtures.baselines.errors import ApprovalError
from fixtures.baselines.files import CONFORMANCE, ConformanceFile, Provenance, write_new_baseline
from fixtures.export import seeded
from fixtures.export.family import find_family
from fixtures.export.seeded_tokenizers import POSITIONS
from fixtures.export.variants import VARIANT
from fixtures.gate.command_line import ROOT, parse
from fixtures.gate.inferred import write_schema
from fixtures.gate.single_values import UsageError
from fixtures.gate.subject import read_model
from fixtures.models.inference import STATED, Undetermined, Value, infer, render
from fixtures.models.settings import ModelError, Prompts, model_folders
from fixtures.plugin.hooks import LONG_MODULES
from fixtures.scoring.tasks import TASKS

ZOO = {folder.name: folder for folder in model_folders(ROOT / "baselines" / "zoo")}
ASKED = {
    **{f"{name}-embedder": {"pooling"} for name in ("bert", "modernbert", "mpnet", "qwen3", "t5")},
    "gpt2-lm": {"task"},
    "gpt2-lm-with-past": {"task"},
    "qwen3-reranker": {"task", "template"},
}
"""Model of the zoo -> keys that its files do not say; none of the others."""
OLD = "sentence_transformers.models."
ENCODER = {"architectures": ["BertModel"], "max_position_embeddings": 512}
MEAN = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


def write(folder, **files):
    """Write JSON files into a folder; a name has __ for its slash, and no ending."""
    for name, content in files.items():
        file = folder / f"{name.replace('__', '/')}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def modules(*kinds):
    paths = ["", *(f"{number}_{kind}" for number, kind in enumerate(kinds, 1))]
    return [{"type": OLD + kind, "path": path} for kind, path in zip(("Transformer", *kinds), paths, strict=True)]


def told(folder, **stated):
    """Return key -> (value, origin) of what is read."""
    return {line.key: (line.value, line.origin) for line in infer(folder, TASKS, stated)}


@pytest.mark.parametrize("name", ZOO)
def test_seeded_checkpoints_say_what_the_zoo_does(tmp_path, name):
    """Whatever they do not say is asked for, key by key."""
    settings = read_model(ZOO[name]).settings
    architecture, _, seed = settings.source.removeprefix("seeded:").partition("@")
    parameters = {"architecture": architecture, "seed": int(seed), "labels": settings.labels}
    seeded.make([], tmp_path, parameters | {"auto_class": TASKS[settings.task].auto_class})
    if settings.task == "pair-classification":  # that pairs are read, sentence-transformers alone says
        write(tmp_path, config_sentence_transformers={"model_type": "CrossEncoder"})
    if settings.task == "sparse":  # and that terms are pooled
        write(tmp_path, config_sentence_transformers={"model_type": "SparseEncoder"})
    stated: dict[str, Value] = {}
    while True:
        try:
            lines = told(tmp_path, **stated)
            break
        except Undetermined as error:
            value = getattr(settings, error.key)
            assert not error.choices or value in error.choices  # noqa: PT017
            stated[error.key] = value
    assert stated.keys() == ASKED.get(name, set())
    assert lines["task"][0] == settings.task
    assert lines.get("labels", (1,))[0] == settings.labels
    assert lines.get("template", (None,))[0] == settings.template
    modules = seeded.modules_of(settings.source)
    assert lines.get("pooling", (None,))[0] == (settings.pooling or modules.pooling)
    prompts = modules.prompts or Prompts()
    assert lines.get("prompts.query", ("",))[0] == prompts.query
    assert lines.get("prompts.passage", ("",))[0] == prompts.passage
    assert lines["max_length"][0] == (modules.max_seq_length or POSITIONS)
    assert {key for key, (_, origin) in lines.items() if origin == STATED} == stated.keys()


def test_folder_of_an_embedder(tmp_path):
    write(
        tmp_path,
        config=ENCODER,
        modules=modules("Pooling", "Normalize"),
        **{"1_Pooling__config": MEAN | {"include_prompt": False}},
        config_sentence_transformers={"prompts": {"query": "query: ", "document": ""}, "truncate_dim": 64},
        sentence_bert_config={"max_seq_length": 256},
        tokenizer={"truncation": {"max_length": 128}},  # which those libraries set anew
        tokenizer_config={"model_max_length": 1e30},
    )
    assert told(tmp_path) == {
        "task": ("embedding", "modules.json"),
        "max_length": (
            256,
            "the shortest of max_seq_length in sentence_bert_config.json (256), max_position_embeddings in config.json "
            "(512)",
        ),
        "pooling": ("mean", "pooling_mode_mean_tokens in 1_Pooling/config.json"),
        "normalize": (True, "the last module of modules.json: Transformer, Pooling, Normalize"),
        "dimensions": (64, "truncate_dim in config_sentence_transformers.json"),
        "include_prompt": (False, "include_prompt in 1_Pooling/config.json"),
        "prompts.query": ("query: ", "prompts in config_sentence_transformers.json"),
        "prompts.passage": ("", "prompts in config_sentence_transformers.json"),
    }


@pytest.mark.parametrize(
    ("files", "task", "origin"),
    [
        ({"config": {"sentence_transformers": {"version": "5"}}}, "rerank", "sentence_transformers in config.json"),
        (
            {"config": {"sbert_ce_default_activation_function": "torch.nn.Sigmoid"}},
            "rerank",
            "sbert_ce_default_activation_function in config.json",
        ),
        (
            {"config": {}, "config_sentence_transformers": {"model_type": "CrossEncoder"}, "modules": modules()},
            "rerank",
            "model_type in config_sentence_transformers.json",
        ),
        ({"config": {}}, "rerank", "architectures in config.json"),
        ({"config": {"id2label": {"0": "no", "1": "yes"}}}, "text-classification", "architectures in config.json"),
        ({"config": {"id2label": None}}, "text-classification", "architectures in config.json"),
        (
            {
                "config": {"id2label": {"0": "no", "1": "yes"}},
                "config_sentence_transformers": {"model_type": "CrossEncoder"},
            },
            "pair-classification",
            "model_type in config_sentence_transformers.json, with 2 labels",
        ),
        (
            {
                "config": {
                    "id2label": {"0": "a", "1": "b", "2": "c"},
                    "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity",
                }
            },
            "pair-classification",
            "sbert_ce_default_activation_function in config.json, with 3 labels",
        ),
        (
            {"config": {"id2label": {"0": "CONTRADICTION", "1": "NEUTRAL", "2": "ENTAILMENT"}}},
            "pair-classification",
            "id2label in config.json, with entailment",
        ),
    ],
)
def test_heads_of_sequence_classifiers(tmp_path, files, task, origin):
    config = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}} | files["config"]
    write(tmp_path, **files | {"config": config})
    lines = told(tmp_path)
    assert lines["task"] == (task, origin + ", with one label" * (task == "rerank"))
    if names := files["config"].get("id2label"):
        assert lines["labels"] == (len(names), f"id2label in config.json ({', '.join(names.values())})")


def test_embedders_may_have_any_architecture(tmp_path):
    """Qwen3-Embedding is a Qwen3ForCausalLM, and others are ForMaskedLM."""
    write(tmp_path, modules=modules("Pooling"), **{"1_Pooling__config": {"pooling_mode": "lasttoken"}})
    for architecture in ("Qwen3ForCausalLM", "BertForMaskedLM", "MyModelOfOld", "T5EncoderModel"):
        write(tmp_path, config={"architectures": [architecture]})
        lines = told(tmp_path)
        assert lines["task"][0] == "embedding"
        assert lines["pooling"] == ("last", "pooling_mode in 1_Pooling/config.json")
        assert lines["normalize"] == (False, "no module Normalize at the end of modules.json: Transformer, Pooling")
        assert lines["max_length"] == (512, "512 unless it is set; the files say nothing")


@pytest.mark.parametrize(
    ("config", "key", "choices", "message"),
    [
        (
            ENCODER,
            "pooling",
            "mean",
            "say --set pooling=mean or cls, last, max, .*; several are joined by \\+",
        ),
        ({"architectures": ["GPT2LMHeadModel"]}, "task", "text-generation", "GPT2LMHeadModel in config.json can be"),
        ({"architectures": ["Swin"]}, "task", "rerank", "architectures in config.json names none that is known"),
        ({}, "task", "embedding", "task cannot be told"),
        (
            {"architectures": ["Qwen3ForCausalLM"], "sentence_transformers": {}},
            "template",
            None,
            "template cannot be told: it is a text with {query} and {passage}, .*: say --set template=...",
        ),
    ],
)
def test_what_no_file_says_is_asked_for(tmp_path, config, key, choices, message):
    with pytest.raises(Undetermined, match=message) as error:
        told(write(tmp_path, config=config))
    assert error.value.key == key
    assert choices is None or choices in error.value.choices


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no config.json: it is no folder of a checkpoint"),
        ({"config": "{"}, "config.json is not valid JSON"),
        ({"config": "[]"}, "config.json holds no JSON object"),
        ({"adapter_config": {}}, "holds an adapter alone: .*--set adapter=/"),
        ({"config": ENCODER, "config_sentence_transformers": "{"}, "config_sentence_transformers.json is not valid"),
        ({"config": ENCODER, "modules": modules("LSTM")}, "modules.json: 1.type: no module Pooling follows"),
    ],
)
def test_folders_that_cannot_be_read_are_refused(tmp_path, files, message):
    with pytest.raises(ModelError, match=message):
        told(write(tmp_path, **files))


def test_what_is_set_comes_before_what_the_files_say(tmp_path):
    write(tmp_path, config=ENCODER)
    stated: dict[str, Value] = {"pooling": "cls", "max_length": 16}
    limit = {"variant": "", "check": "c", "reason": "r", "link": "l"}
    stated |= {"prompts.query": 'say "q":\n', "ceilings.int8.min_cosine": 0.5, "limits": [limit]}
    lines = infer(tmp_path, TASKS, stated)
    assert tomllib.loads(render(lines)) == {
        "task": "embedding",
        "max_length": 16,
        "pooling": "cls",
        "normalize": False,
        "limits": [limit],
        "prompts": {"query": 'say "q":\n'},
        "ceilings": {"int8": {"min_cosine": 0.5}},
    }
    assert re.search(r"^max_length = 16 +# --set$", render(lines), re.MULTILINE)


def test_values_of_set_are_toml_or_text(tmp_path):
    texts = ["max_length=64", "normalize=true", "pooling=mean", "prompts.query=query: ", 'variants=["O2"]', 'a="1"']
    options = {"checkpoint": [str(tmp_path)], "set": texts, "baselines": str(tmp_path), "report": str(tmp_path / "r")}
    assert parse(options.get, ci=False).stated == {
        **{"max_length": 64, "normalize": True, "pooling": "mean", "prompts.query": "query: "},
        **{"variants": ["O2"], "a": "1"},
    }


def test_names_of_labels_are_no_lines(tmp_path):
    config = {"architectures": ["BertForTokenClassification"], "id2label": {"0": "a\ntask = 1", "1": '"'}}
    assert tomllib.loads(render(infer(write(tmp_path, config=config), TASKS, {})))["labels"] == 2


@pytest.mark.parametrize(
    ("given", "name", "source"),
    [
        ("models/My embedder (v2)", "My-embedder-v2", "path:/models/My embedder (v2)"),
        ("path:models/mine", "mine", "path:/models/mine"),
        ("models--owner--name/snapshots/0123", "name", "path:/models--owner--name/snapshots/0123"),
        ("package:a_package/model", "a_package", "package:a_package/model"),
        ("hub:owner/some-name@" + "0" * 40, "some-name", "hub:owner/some-name@" + "0" * 40),
    ],
)
def test_names_are_those_of_folders(tmp_path, monkeypatch, given, name, source):
    monkeypatch.chdir(tmp_path)
    Path(given.removeprefix("path:")).mkdir(parents=True)
    Path("baselines").mkdir()
    options = {"checkpoint": [given], "baselines": "baselines", "report": "report"}
    parsed = parse(options.get, ci=False)
    assert parsed.folders == (Path("report", name),)
    assert parsed.checkpoint == source.replace("path:", f"path:{tmp_path}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoint": ["mine", "mine"]}, "--checkpoint: is given twice"),
        ({"model": ["mine"]}, "--checkpoint: --model cannot be combined with it"),
        ({"candidate": ["mine=a"]}, "--checkpoint: --candidate cannot be combined"),
        ({"emulate": "arm64"}, "--checkpoint: --emulate cannot be combined"),
        ({"full_size": True}, "--checkpoint: --full-size cannot be combined"),
        ({"checkpoint": ["nowhere"]}, "--checkpoint: there is no folder 'nowhere': name one, or package:"),
        ({"checkpoint": [""]}, "--checkpoint: there is no folder '': name one"),
        ({"checkpoint": ["path:nowhere"]}, "--checkpoint: there is no folder 'nowhere'"),
        ({"checkpoint": ["seeded:bert@1"]}, "--checkpoint: seeded:bert@1 has no files that could be read"),
        ({"checkpoint": ["hub:owner/name"]}, "--checkpoint: hub: needs owner/name@ and the full 40-digit commit hash"),
        (
            {"checkpoint": ["approved"]},
            "--checkpoint: baselines has a model approved already: .*--candidate approved=path:/",
        ),
        ({"checkpoint": ["mine/config.json"]}, "mine/config.json is a file, and a checkpoint is a folder; --artifact"),
        ({"checkpoint": None, "set": ["pooling=cls"]}, "--set: says nothing without --checkpoint"),
        ({"set": ["pooling"]}, "--set: 'pooling' is not of the form KEY=VALUE"),
        ({"set": ["a=1", "a=2"]}, "--set: a is given twice"),
        ({"set": ["source=path:x"]}, "--set: source: is what --checkpoint says"),
        ({"artifact": ["other:plain=/"]}, "--artifact: 'other' is none of mine"),
    ],
)
def test_options_that_contradict_are_refused(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, mine__config=ENCODER)
    for folder in ("approved", "baselines/approved"):
        Path(folder).mkdir(parents=True)
    given = {"checkpoint": ["mine"], "baselines": "baselines", "report": "report"} | options
    with pytest.raises(UsageError, match=message):
        parse(given.get, ci=False)


def test_approval_needs_baselines_that_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "baselines").mkdir()
    given = {name: str(tmp_path / name) for name in ("baselines", "report")} | {"checkpoint": [str(tmp_path / "mine")]}
    monkeypatch.setattr("os.access", lambda folder, mode: Path(folder).name != "baselines")
    parse(given.get, ci=False)
    with pytest.raises(UsageError, match=r"--approve: .*baselines cannot be written"):
        parse((given | {"approve": True}).get, ci=False)


def test_baseline_that_is_refused_leaves_nothing(tmp_path):
    folder = tmp_path / "mine"
    provenance = Provenance("sha256:0", {}, "avx2", "a processor", "2026-01-31")
    pins = ConformanceFile(probes="p", arrays="", provenance=provenance, tokenizer={}, operators={"plain": {}})
    tokens: dict[str, Array] = {"input_ids": np.array([1], np.int32), "offsets": np.array([0, 1], np.int64)}
    with pytest.raises(ApprovalError):
        write_new_baseline(folder, {CONFORMANCE: (pins, {"ids": np.array([np.nan])})}, {"model.toml": b"task"})
    assert not list(tmp_path.iterdir())
    write_new_baseline(folder, {CONFORMANCE: (pins, tokens)}, {"model.toml": b"task"})
    assert sorted(file.suffix for file in folder.iterdir()) == [".json", ".safetensors", ".toml"]
    with pytest.raises(OSError, match="mine"):
        write_new_baseline(folder, {CONFORMANCE: (pins, tokens)}, {"model.toml": b"other"})
    assert (folder / "model.toml").read_bytes() == b"task"
    assert sorted(file.name for file in tmp_path.iterdir()) == [".approval", "mine"]
    assert sorted(file.name for file in (tmp_path / ".approval").iterdir()) == [".gitignore", "lock"]


# ------------------------------------------------------------------------------------- sessions


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The folder of a tiny encoder that says nothing about pooling."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    folder.mkdir()
    seeded.make([], folder, {"architecture": "bert", "seed": 7, "auto_class": "AutoModel", "labels": 1})
    return folder


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([], "--checkpoint: pooling cannot be told: .*tiny has no modules.json: say --set pooling=mean or cls"),
        (["pooling=median"], "--set: pooling: 'median' is none of mean"),
        (["poolin=mean"], "--set: poolin: there is no such key: .*; did you mean pooling"),
        (["pooling=mean", "max_length=long"], "--set: max_length: write a whole number"),
        (["pooling=mean", "max_length=1024"], "--set: max_length: is 1024, and the checkpoint has only 128 positions"),
        (["pooling=mean", "normalize=yes"], '--set: normalize: write true or false, and not "yes"'),
        (["pooling=mean", "prompts=x"], '--set: prompts: write a table of keys, and not "x": --set prompts.KEY=VALUE'),
        (["pooling=mean", "prompts=x", "prompts.query=y"], "--set: prompts.query: prompts is given a value"),
        (["pooling=mean", "prompts.query=y", "prompts=x"], "--set: prompts: is given a value, and keys"),
        (["pooling=mean", "prompts..query=y"], "--set: 'prompts..query' is no key"),
        (["pooling=mean", "ceilings.O 2.x=1"], "--set: ceilings.O 2: the variants are plain"),
        (["task=sorting"], "--set: task: 'sorting' is none of embedding, rerank"),
        (["task=sentence-similarity"], "--set: task: .*; say --set task=embedding$"),
        (["task=text-ranking"], "--set: task: .*: say --set task=rerank, which"),
        (
            ["pooling=mean", f"digest=sha256:{'0' * 64}"],
            r"--set: digest: the checkpoint in .*tiny has sha256:.*not the pinned",
        ),
    ],
)
def test_wrong_settings_get_the_checks_of_model_toml(house, bare, sets, message):
    """The option is blamed, and nothing of what was refused stays in the report."""
    house.baselines.mkdir()
    assert re.match(message, house.usage_error(checkpoint=[str(bare)], set=sets))
    assert not list(house.report.iterdir())


def test_advice_on_a_checkpoint_names_the_option(tmp_path, house):
    """Its files say what is refused; the model.toml of which a message speaks is no file that a person wrote."""
    house.baselines.mkdir()
    folder = tmp_path / "pairs"
    folder.mkdir()
    seeded.make(
        [], folder, {"architecture": "bert", "seed": 7, "auto_class": "AutoModelForSequenceClassification", "labels": 1}
    )
    error = house.usage_error(checkpoint=[str(folder)], set=["task=pair-classification"])
    assert error.startswith("--set: task: a pair has several labels")
    assert error.endswith(": say --set task=rerank")
    two = tmp_path / "two"
    two.mkdir()
    seeded.make(
        [], two, {"architecture": "bert", "seed": 7, "auto_class": "AutoModelForSequenceClassification", "labels": 2}
    )
    error = house.usage_error(checkpoint=[str(two)], set=["task=rerank"])
    assert error.startswith("--checkpoint: positive: the checkpoint has two logits")
    assert "as in --set positive=LABEL_1, and" in error
    error = house.usage_error(checkpoint=[str(folder)], set=["variants=['O9']"])
    assert error.startswith("--set: variants: 'O9' is none of plain")
    assert "--variant: O4" in house.usage_error(checkpoint=[str(folder)], variant=["O4"], set=["variants=['O2']"])
    assert not list(house.report.iterdir())


def test_names_in_quotes_are_keys(tmp_path):
    write(tmp_path, config=ENCODER)
    sets = ["pooling=cls", 'ceilings."int8, restored".min_cosine=0.5']
    options = {"checkpoint": [str(tmp_path)], "set": sets, "baselines": str(tmp_path), "report": str(tmp_path / "r")}
    stated = parse(options.get, ci=False).stated
    assert stated["ceilings.int8, restored.min_cosine"] == 0.5
    lines = infer(tmp_path, TASKS, stated)
    assert tomllib.loads(render(lines))["ceilings"] == {"int8, restored": {"min_cosine": 0.5}}


def test_missing_package_is_a_usage_error(house):
    house.baselines.mkdir()
    assert "is not installed: pip install no-such-package" in house.usage_error(
        checkpoint=["package:no_such_package/m"]
    )


def test_checkpoint_is_judged_shown_and_approved(house, bare):
    """Nothing is written without --approve, or where it is refused; an approved model is one like the others."""
    house.add("another", "task = 'never read'")
    options = ("--checkpoint", str(bare), "--set", "pooling=mean", "--set", "normalize=true", "--variant", "plain")
    model_toml, folder = house.report / "tiny" / "model.toml", house.baselines / "tiny"
    run = house.run(*options, "--set", "ceilings.fp32.max_abs_error=0", "--approve")
    assert run.returncode == 1
    assert "NOT APPROVED tiny" in run.stdout
    assert "model.toml: " not in run.stdout.partition("NOT APPROVED")[2], "approval was refused"
    assert f"--checkpoint=path:{bare}" in run.stdout
    assert "--set=ceilings.fp32.max_abs_error=0" in run.stdout
    assert not folder.exists()

    run = house.run(*options, "-k", "nothing")
    assert run.returncode == 5, run.text
    assert "--approve writes it" not in run.stdout, "that would be refused"

    run = house.run(*options)
    assert run.returncode == 0, run.text
    text = model_toml.read_text()
    assert re.search(r'^pooling = "mean" +# --set$', text, re.MULTILINE)
    for line in text.splitlines():
        assert f"  {line}" in run.stdout
    assert f"--approve writes it to {folder}" in run.stdout
    (model,) = house.gate()["models"]
    assert [line["key"] for line in model["inferred"]][:3] == ["task", "source", "digest"]
    assert '| pooling | "mean" | --set |' in (house.report / "gate.md").read_text()
    assert sorted(path.name for path in house.baselines.iterdir()) == ["another"]
    (variant,) = model["variants"]
    parts = json.dumps(variant["fingerprint_parts"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert variant["fingerprint"] == f"sha256:{hashlib.sha256(parts.encode()).hexdigest()}"
    assert f"| plain | {variant['fingerprint']} |" in (house.report / "gate.md").read_text()

    run = house.run(*options, "--artifact", f"tiny:plain={house.artifact('plain')}")
    assert run.returncode == 0, run.text
    (handed_in,) = house.gate()["models"][0]["variants"]
    assert handed_in["ready_made"]
    assert handed_in["fingerprint"] == variant["fingerprint"]

    run = house.run(*options, "--approve")
    assert run.returncode == 0, run.text
    assert f"approved tiny: {folder / 'model.toml'} is new" in run.stdout
    directive, *approved_lines = (folder / "model.toml").read_text().splitlines()
    schema = folder / directive.removeprefix("#:schema ")
    assert schema.read_bytes() == (ROOT / "docs" / "schemas" / "model.schema.json").read_bytes()
    assert approved_lines == text.splitlines()
    assert f"{model_toml}: " not in run.stdout.rpartition("== exportgate ==")[2]
    assert "tiny already" in house.usage_error(checkpoint=[str(bare)])
    run = house.run("--model", "tiny", "--require-all", "--variant", "plain")
    assert run.returncode == 0, run.text
    assert house.statuses() == {"plain": "pass"}


def test_schema_of_the_baselines_is_written_anew_or_stays(tmp_path):
    schema = tmp_path / "model.schema.json"
    schema.write_text("of an older exportgate")
    write_schema(tmp_path)
    assert schema.read_bytes() == (ROOT / "docs" / "schemas" / schema.name).read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == [schema.name]
    schema.unlink()
    schema.mkdir()
    with pytest.raises(OSError, match=schema.name):
        write_schema(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [schema.name]


def test_merging_judges_no_checkpoint(house, bare):
    run = house.run("--checkpoint", str(bare), "--merge", "gate.json")
    assert run.returncode == 4
    assert "ERROR: --checkpoint: --merge cannot be combined with it" in run.stderr


@pytest.mark.parametrize("approving", [False, True])
def test_first_look_is_short_unless_it_is_approved(house, bare, approving):
    house.baselines.mkdir()
    options = ("--checkpoint", str(bare), "--set", "pooling=mean", "--variant", "plain", "--collect-only", "-q")
    approval = ("--approve",) if approving else ()
    # The options are known before paths are looked for.
    run = house.run("-p", "fixtures.options", *options, *approval, suite="-cpyproject.toml")
    assert run.returncode == 0, run.text
    modules = {Path(line.partition("::")[0]).stem for line in run.stdout.splitlines() if "::" in line}
    assert {"test_scores", "test_masks", "test_weights", "test_tokenizer"} <= modules
    long = {"test_latency", *(name.removesuffix(".py") for name in LONG_MODULES)}
    assert long & modules == (long if approving else set())


def test_names_of_files_say_what_they_are(tmp_path, monkeypatch):
    """Those of transformers.js and of sentence-transformers; of several int8 files one for this processor is judged."""
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    (tmp_path / "onnx").mkdir()
    names = ("model", "model_O2", "model_O4", "model_fp16", "model_quantized", "model_int8", "model_qint8_arm64")
    others = ("model_uint8", "model_quint8_avx2", "model_q4", "model_q4f16", "model_bnb4", "encoder")
    for name in (*names, *others):
        (tmp_path / "onnx" / f"{name}.onnx").touch()
    family = find_family(tmp_path)
    assert {variant: file.stem for variant, file in family.files.items()} == {
        "plain": "model",
        "O2": "model_O2",
        "O4": "model_O4",
        "fp16": "model_fp16",
        "quantized": "model_quantized",
        "quantized-s8": "model_int8",
        "quantized-u8": "model_quint8_avx2",
        "int4": "model_q4",
    }
    assert [file.stem for file in family.others] == [
        "encoder", "model_bnb4", "model_q4f16", "model_uint8", "model_qint8_arm64"
    ]  # fmt: skip
    (tmp_path / "onnx" / "model_int8.onnx").rename(tmp_path / "onnx" / "model_qint8_avx512.onnx")
    assert find_family(tmp_path).files["quantized-s8"].stem == "model_qint8_avx512"
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert find_family(tmp_path).files["quantized-s8"].stem == "model_qint8_arm64"
    assert VARIANT.keys() >= family.files.keys()
    assert find_family(tmp_path / "nowhere") == ({}, ())


def test_files_in_the_folder_of_a_checkpoint_are_judged(house, bare, tmp_path):
    """All at once, each as what its name says; --variant selects, and exports what does not lie there."""
    house.add("another", "task = 'never read'")
    folder = tmp_path / "with-files"
    shutil.copytree(bare, folder)
    ceilings = {"max_abs_error": 1, "min_cosine": -1, "max_similarity_change": 2, "topk_overlap": 0}
    stated = ["pooling=mean", "normalize=true", *(f"ceilings.int8.{name}={limit}" for name, limit in ceilings.items())]
    options = [f"--checkpoint={folder}", *(f"--set={text}" for text in stated)]
    made = house.run(*options, "--variant=plain", "--variant=quantized")
    assert made.returncode == 0, made.text
    (folder / "onnx").mkdir()
    for variant, name in (("plain", "model"), ("quantized", "model_quantized"), ("plain", "encoder")):
        shutil.copy(house.artifact(variant) / "model.onnx", folder / "onnx" / f"{name}.onnx")
    run = house.run(*options)
    assert run.returncode == 0, run.text
    assert house.statuses() == {"plain": "unbaselined", "quantized": "unbaselined"}
    rows = house.gate()["models"][0]["variants"]
    assert [Path(row["path"]).name for row in rows] == ["model.onnx", "model_quantized.onnx"]
    assert all(row["ready_made"] for row in rows)
    assert f"quantized is {folder / 'onnx' / 'model_quantized.onnx'}" in run.stdout
    assert f"not judged: {folder / 'onnx' / 'encoder.onnx'}" in run.stdout

    run = house.run(*options, "--variant=plain", "--variant=O1")
    assert run.returncode == 0, run.text
    rows = {row["variant"]: row for row in house.gate()["models"][0]["variants"]}
    assert rows["plain"]["ready_made"]
    assert not rows["O1"]["ready_made"]
    assert f"not judged: {folder / 'onnx' / 'model_quantized.onnx'}" in run.stdout
    shutil.copy(folder / "onnx" / "model_quantized.onnx", folder / "onnx" / "model.onnx")
    run = house.run(*options, "--variant=plain", suite="suites/conformance/test_quantization.py")
    assert run.returncode == 1
    assert "is quantized, and the recipe does not say so" in run.text
    (failure,) = house.gate()["failures"]
    assert f"--artifact=with-files:plain={folder / 'onnx' / 'model.onnx'} --variant=plain" in failure["message"]
    made = house.run(*options, suite="suites/conformance/test_quantization.py")
    assert made.returncode == 1
    (failure,) = house.gate()["failures"]
    assert "model_quantized" not in failure["message"], "the command that runs it again names its own file alone"
