"""Targets of what people write, and of reports: model.toml, published.toml and gate.json."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import strategies as st
from rich.console import Console

from fixtures.gate.command_line import parse
from fixtures.gate.context import Context, make_context
from fixtures.gate.single_values import UsageError
from fixtures.gate.subject import read_model, read_subject
from fixtures.latency.records import Callers, Cell, Measurement, Quantity, Speed, Undecided, Workload
from fixtures.models.settings import Latency, Limit, Model, ModelError, Settings, Threshold
from fixtures.models.tables import Index, OwnProbes
from fixtures.report import fleet
from fixtures.report.decisions import FlippedDecision, ThresholdResult
from fixtures.report.results import (
    Check,
    Choice,
    Failure,
    MachineRecord,
    ModelResult,
    MovedProbes,
    Results,
    Status,
    VariantResult,
)
from fixtures.scoring import published
from fixtures.scoring.own_probes import find_own_probes, select_probes
from suites.meta.house import ROOT
from suites.meta.studies.fuzz.campaign import Attempt
from suites.meta.studies.fuzz.files import Changes, ValidFiles, one_of_files
from suites.meta.studies.fuzz.mutations import Edit, byte_files, edited, json_bytes, json_files, keys_of, toml_files

BASELINES = ROOT / "baselines"
KEYS = (
    *Settings.__struct_fields__,
    *(f"latency.{key}" for key in Latency.__struct_fields__),
    *(f"limits.{key}" for key in Limit.__struct_fields__),
    *(f"thresholds.{key}" for key in Threshold.__struct_fields__),
    *(f"probes.{key}" for key in OwnProbes.__struct_fields__),
    *(f"index.{key}" for key in Index.__struct_fields__),
    *("ceilings.O2.max_abs_error", "ceilings.int8.min_cosine", "update.min_cosine", "prompts.query", "export.pooled"),
    *("tokenizer.padding_side", "tokenizer.truncation_side", "unknown"),
)


def context_of(folder: Path, **options: object) -> Context:
    """Return the context of a session over a folder with `baselines`, and a store and a report of its own."""
    folders = {name: str(folder / name) for name in ("baselines", "store", "report")}
    for path in folders.values():
        Path(path).mkdir(parents=True, exist_ok=True)
    return make_context(parse((folders | options).get, ci=False))


def prepare_model_toml(folder: Path, _: Path) -> Attempt:
    """Every model.toml of the baselines, read by itself."""
    texts = [
        file.read_text() for file in sorted(BASELINES.glob("*/*/model.toml")) + sorted(BASELINES.glob("*/model.toml"))
    ]
    valid = ValidFiles(folder, {"model.toml": texts[0].encode()})

    def read(example: Changes) -> None:
        valid.change(example)
        read_model(folder)

    strategies = [one_of_files({"model.toml": toml_files(text, KEYS)}) for text in texts]
    return Attempt(st.one_of(strategies), read, (ModelError,), (str(folder),))


def prepare_planned_model(folder: Path, _: Path) -> Attempt:
    """Every model.toml of the zoo, with its conformance.json, and all that is read and planned before a run."""
    folders = sorted(file.parent for file in BASELINES.glob("zoo/*/model.toml"))
    contents = {
        f"baselines/{model.name}/{file.name}": file.read_bytes() for model in folders for file in model.iterdir()
    }
    valid = ValidFiles(folder, contents)
    context = context_of(folder)

    def read(example: Changes) -> None:
        valid.change(example)
        (name,) = example
        read_subject(context, (folder / name).parent)

    strategies = {
        name: toml_files(content.decode(), KEYS) for name, content in contents.items() if name.endswith(".toml")
    }
    return Attempt(one_of_files(strategies), read, (UsageError,), (str(folder), *(model.name for model in folders)))


def prepare_published(folder: Path, _: Path) -> Attempt:
    """Every published.toml of the baselines."""
    models = [read_model(file.parent) for file in sorted(BASELINES.rglob("published.toml"))]
    contents = {f"{model.name}/published.toml": (model.folder / "published.toml").read_bytes() for model in models}
    valid = ValidFiles(folder, contents)
    models_by_name = {model.name: msgspec.structs.replace(model, folder=folder / model.name) for model in models}

    def read(example: Changes) -> None:
        valid.change(example)
        (name,) = example
        published.read(models_by_name[Path(name).parent.name])

    texts = {name: content.decode() for name, content in contents.items()}
    keys = [*keys_of("\n".join(texts.values())), "answer", "label", "unknown"]
    return Attempt(
        one_of_files({name: toml_files(text, keys) for name, text in texts.items()}),
        read,
        (ModelError,),
        (str(folder),),
    )


OWN_FILES = {
    "texts.jsonl": "".join(f'{{"id": {number}, "text": "text {number}"}}\n' for number in range(12)),
    "pairs.jsonl": "".join(f'{{"query": "a", "passage": "b {number}", "grade": 1}}\n' for number in range(12)),
    "beir/corpus.jsonl": "".join(
        f'{{"_id": "d{number}", "title": "", "text": "t {number}"}}\n' for number in range(20)
    ),
    "beir/queries.jsonl": "".join(f'{{"_id": "q{number}", "text": "a {number}"}}\n' for number in range(12)),
    "beir/qrels/test.tsv": "query-id\tcorpus-id\tscore\n" + "".join(f"q{n}\td{n}\t1\n" for n in range(12)),
}
"""Probes of one's own in each of their forms."""


def prepare_own_probes(folder: Path, _: Path) -> Attempt:
    """Texts, pairs, and a folder in BEIR's layout, read for a model of texts and for one of pairs."""
    contents = {name: text.encode() for name, text in OWN_FILES.items()}
    valid = ValidFiles(folder, contents)
    (folder / "model.toml").write_text('[probes]\npath = "texts.jsonl"\n')

    def read(example: Changes) -> None:
        valid.change(example)
        (name,) = example
        path = name.partition("/")[0]
        settings = Settings(task="embedding", source="seeded:bert@7", max_length=64, probes=OwnProbes(path))
        model = Model("own", folder, settings)
        for kind in ("texts", "pairs") if path == "beir" else (path.partition(".")[0],):
            select_probes(model, find_own_probes(model), kind)

    strategies = {name: byte_files(content) for name, content in contents.items()}
    return Attempt(one_of_files(strategies), read, (ModelError,), (str(folder),))


# --------------------------------------------------------------------------------------------- gate.json

RED_PLACES = (("verdict",), ("failures",), ("failures", 0), ("models", 0, "variants", 2, "status"))
"""Where a red report of `report` says that it is red."""
CELL = Cell(1, 128, 30.0, 40.0, 33.0, 1.4, (1.3, 1.5), 1.9, 40, 2, 41.0, 4000.0, 31.0, (1.8, 2.0), "a processor")
SPEED = Speed("plain", 1, 128, 1.4, (1.3, 1.5), 30, 2, "a processor", {"onnxruntime": "1.32.0"}, 29.0)
FLIP = FlippedDecision(["a", "b"], 0.71, 0.69)
THRESHOLD = ThresholdResult("duplicate", "cosine", 0.7, 0.01, 45, 1, 1, 0, 0.68, 0, [FLIP])
UNDECIDED = Undecided(Measurement(Quantity.LATENCY, 8, 128), "the hypervisor took 10 %")


def report(status: Status) -> bytes:
    """Return the gate.json of a run of which one variant ends with `status`."""
    failed = status == Status.FAIL
    variants = [
        VariantResult(
            name, status if name == "quantized" else Status.PASS, "too far" * failed, f"sha256:{name}", 90_000_000,
            f"/store/{name}/model.onnx", f"sha256:graph-{name}", closeness={"max_abs_error": 0.03, "min_cosine": 0.99},
            ceiling={"max_abs_error": 0.08}, drift={"max_abs_error": 0.0}, latency=[CELL], speed=SPEED,
            approved_speed=SPEED, undecided=[UNDECIDED], load_ms=9.0, cold_start_ms=700.0, rss_mb=200.0,
            workloads=[Workload(8, True, 50.0, 0.1)], callers=[Callers(2, 1, 60.0, 30.0, 33.0)], overflow=0.01,
            overflow_cause="kernel: sums are wrong", checks={"graph_is_valid_onnx": Check(Status.PASS, "fine")},
            operators={"com.microsoft.Attention": 6}, ready_made=["opset 17"], limits=["known"],
            limits_in_short=["brief"], stale=["faster"],
            thresholds=[THRESHOLD],
        )
        for name in ("plain", "O2", "quantized", "quantized@1.23.2")
    ]  # fmt: skip
    model = ModelResult(
        "m", "sha256:m", "embedding", reference_drift={"max_abs_error": 0.0}, update={"min_cosine": 0.9},
        update_limits={"min_cosine": 0.8}, moved=[MovedProbes(["a", "b"], "0.1", "0.2")], variants=variants,
        checks={"tokenizer_is_fast": Check(Status.PASS)}, torch_latency=[CELL], recommendation="deploy O2",
        choices=[Choice("lowest latency", "O2", 1, 2, 1, "30 ms", "0.03", ["plain"], ["batch 8"])], front=["O2"],
    )  # fmt: skip
    failures = [Failure("m", "quantized", "scores_stay_within_ceiling", "m quantized: too far\nmore")] if failed else []
    machine = MachineRecord(arch="x86_64", tier="avx2", cpu="a processor", cores=2, providers=["CPUExecutionProvider"])
    results = Results(machine, {"onnxruntime": "1.32.0"}, [model], failures, Status.FAIL if failed else Status.PASS)
    return msgspec.json.encode(results)


def prepare_report(folder: Path, _: Path) -> Attempt:
    """Reports, one of schema 1, merged with a sound one: what is red in three places is not green for one edit."""
    sound = json.loads(report(Status.PASS)) | {"machine": {"arch": "arm64", "tier": "arm64", "cpu": "b", "cores": 4}}
    contents = {
        "red.json": report(Status.FAIL),
        "green.json": report(Status.PASS),
        "older.json": (ROOT / "suites" / "meta" / "older_reports" / "gate-1.json").read_bytes(),
        "sound.json": json.dumps(sound).encode(),
    }
    valid = ValidFiles(folder / "reports", contents)

    def read(example: Changes) -> None:
        valid.change(example)
        (name,) = example
        merged = fleet.merge([valid.folder / name, valid.folder / "sound.json"], folder / "merged")
        fleet.show(merged, Console(file=io.StringIO()))
        assert name != "red.json" or merged.verdict == Status.FAIL, "a red report is green"

    strategies = {
        "red.json": st.one_of(json_files(contents["red.json"], most=1), _whitewashed(json.loads(contents["red.json"]))),
        **{name: json_files(contents[name]) for name in ("green.json", "older.json")},
    }
    return Attempt(one_of_files(strategies), read, (fleet.CannotMerge,), (str(folder),))


def _whitewashed(document: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Return a strategy of a report that is green in one of the places that say that it is red."""
    places = st.sampled_from(RED_PLACES)
    edits = st.builds(Edit, places, st.sampled_from([*map(str, Status), [], None]))
    return edits.map(lambda edit: json_bytes(edited(document, [edit])))
