"""Is every planted fault found, and nothing else? What test_detection.py judges and docs/detection.md shows.

tox run -e detection                  # all faults in all variants, beside other tools; writes docs/detection.md
tox run -e detection -- --variant O2  # fewer; writes nothing
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import tokenizers

from fixtures.arrays import Floats
from fixtures.baselines.tolerances import TOLERANCES
from fixtures.build.manifest import MANIFEST
from fixtures.build.store import Store
from fixtures.build.workers import build_all
from fixtures.export import recipes
from fixtures.export.variants import DEFAULT_VARIANTS, VARIANT
from fixtures.faults.effect import encode, true_effect
from fixtures.faults.fault import Fault, Inapplicable, keep_settings
from fixtures.faults.planting import applies, build_faulty_artifact
from fixtures.faults.table import FAULT, FAULTS
from fixtures.models.checkpoints import Checkpoint, find_checkpoint
from fixtures.models.settings import Model, Settings
from fixtures.runtimes import hardware
from fixtures.runtimes.onnx_runtime import OnnxRuntime
from fixtures.runtimes.providers import MODEL_FILE
from fixtures.scoring import probes as scoring_probes
from fixtures.scoring import scores
from fixtures.scoring.fast_tokenizer import TOKENIZER_FILE
from fixtures.scoring.probes import PROBES
from fixtures.scoring.tasks import TASKS, Scoring
from suites.meta.house import ROOT, House

MODELS = {
    "mean": 'task = "embedding"\nsource = "seeded:bert@7"\nmax_length = 64\npooling = "mean"\nnormalize = true\n',
    "rerank": 'task = "rerank"\nsource = "seeded:bert@8"\nmax_length = 64\n',
    "cls": 'task = "embedding"\nsource = "seeded:bert@7"\nmax_length = 64\npooling = "cls"\nnormalize = true\n',
    "roberta": 'task = "embedding"\nsource = "seeded:roberta@9"\nmax_length = 64\npooling = "mean"\nnormalize = true\n',
    "qa": 'task = "question-answering"\nsource = "seeded:bert@10"\nmax_length = 64\nlabels = 2\n',
}
"""Tiny models, the usual ones first."""
FIRST = ("mean", "rerank")
"""Models that get every fault that they have a place for, where each is planted in one variant; where each is planted
in all, the first model that has a place for it gets it."""
# Random weights amplify the error of int8: what its ceilings are is the models', and not detection's, matter.
LOOSE = {
    "embedding": "max_abs_error = 1\nmin_cosine = -1\nmax_similarity_change = 2\ntopk_overlap = 0\n",
    "rerank": "max_logit_error = 9\nmean_logit_error = 9\nkendall_tau = -1\nmin_kendall_tau = -1\norder_flips = 1\n"
    "top1_agreement = 0\nndcg_at_5_change = 1\n",
    "question-answering": "max_logit_error = 9\nspan_agreement = 0\n",
}
CHECKS = (
    "suites/accuracy/test_scores.py",
    *(f"suites/conformance/test_{name}.py" for name in ("contract", "loading", "masks", "numbers", "tokenizer",
      "weights", "fusion", "quantization")),
    "suites/conformance/test_properties.py::test_embeddings_have_unit_norm",
    "suites/conformance/test_properties.py::test_duplicates_score_alike",
)  # fmt: skip
"""What is run on every faulty artifact: all that looks at scores, tokens, graph and weights."""
AT_ONCE = 150
"""Faulty artifacts that one run of the gate judges."""


@dataclass(frozen=True)
class Verdict:
    """What became of one fault in one variant of one model.

    Attributes:
        effect: how far it really moves scores, on texts that are no probes; `inf` if it cannot be run.
        tolerance: drift tolerance of the variant.
        failures: check -> message, of the checks that went red.
        closeness: the task's error metric as the gate measured it; None if nothing was compared.
        ceiling: of that metric, for the variant's class.
        folder: the faulty artifact.
        probes: names of the probes whose scores it moves by more than the tolerance; None where that was not asked.
    """

    fault: Fault
    model: str
    variant: str
    effect: float
    tolerance: float
    failures: dict[str, str]
    closeness: float | None
    ceiling: float
    folder: str = field(repr=False)
    probes: frozenset[str] | None = field(repr=False)

    @property
    def matters(self) -> bool:
        return not self.effect <= self.tolerance

    @property
    def caught(self) -> list[str]:
        """The right checks that went red."""
        return [name for name in self.failures if name.partition("[")[0] in self.fault.checks]

    @property
    def named(self) -> bool:
        """A message of a right check names the probable cause."""
        return any(re.search(self.fault.cause, self.failures[name]) for name in self.caught)

    def __str__(self) -> str:
        said = "; ".join(f"{name}: {message.splitlines()[0]}" for name, message in self.failures.items()) or "nothing"
        return (
            f"{self.fault.name} in {self.model} {self.variant}: effect {self.effect:.2g}, tolerance "
            f"{self.tolerance:.2g}; expected one of {', '.join(dict.fromkeys(self.fault.checks))} to say "
            f"/{self.fault.cause}/; red: {said}"
        )


def settings_of(model: str) -> Settings:
    return msgspec.toml.decode(MODELS[model].encode(), type=Settings)


def tolerance_of(settings: Settings, variant: str) -> float:
    """Return how far a variant may drift while no library changes."""
    metric = TASKS[settings.task].metrics[0]
    return TOLERANCES[VARIANT[variant].precision.name, True].limits[metric]


def seeing(clean: Path, faulty: Path, settings: Settings, other: Settings, tolerance: float) -> frozenset[str]:
    """Return the names of the probes whose scores differ by more than the tolerance."""
    backend = tokenizers.Tokenizer.from_file(str(clean / TOKENIZER_FILE))
    backend.no_truncation()
    filled = [
        scoring_probes.fill(one, lambda text, pair: len(backend.encode(text, pair).ids), settings.max_length)
        for one in PROBES[TASKS[settings.task].probes]
    ]
    rows = [(one.text, one.pair) for one in filled]
    try:
        before, after = (_scores_of(folder, rows, chosen) for folder, chosen in ((clean, settings), (faulty, other)))
    except Exception:  # whatever a file that cannot be run raises: everything sees it
        return frozenset(one.id for one in filled)
    if before.shape != after.shape:
        return frozenset(one.id for one in filled)
    moved = ~(np.abs(before - after).reshape(len(filled), -1).max(axis=1) <= tolerance)
    return frozenset(one.id for one, far in zip(filled, moved, strict=True) if far)


def _scores_of(folder: Path, rows: list[tuple[str, str | None]], settings: Settings) -> Floats:
    encoded = encode(folder, rows, settings)
    scoring = Scoring.of(settings, encoded.facts.special_ids)
    return scores.score(OnnxRuntime(folder / MODEL_FILE, 1), encoded, scoring)


def few_probes(verdicts: Iterable[Verdict]) -> tuple[list[tuple[str, int]], dict[str, list[str]], list[Verdict]]:
    """Return the study of the probes, greedily.

    Returns:
        probes in the order in which each sees most of what those before it miss, with how many faults those are;
        probe -> faults that it alone sees; the verdicts that matter and that no probe sees.
    """
    asked = [one for one in verdicts if one.probes is not None and one.matters]
    left = [one for one in asked if one.probes]
    chosen = []
    while left:
        counts = Counter(name for one in left for name in one.probes or ())
        best, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
        chosen.append((best, count))
        left = [one for one in left if best not in (one.probes or ())]
    alone: dict[str, list[str]] = {}
    for one in asked:
        if one.probes is not None and len(one.probes) == 1:
            alone.setdefault(next(iter(one.probes)), []).append(f"{one.fault.name} ({one.model})")
    return chosen, alone, [one for one in asked if not one.probes]


class Laboratory:
    """Sound artifacts of every model, approved as ready-made files, and faulty ones beside them.

    Args:
        folder: an empty folder to work in.
        only: variants; by default all that this machine can judge.
    """

    def __init__(self, folder: Path, only: Sequence[str] = ()) -> None:
        self.folder = folder
        self.machine = hardware.detect(None)
        self.house = House(folder, folder / "store")
        self.variants = [
            one.name for one in DEFAULT_VARIANTS if not one.unsupported(self.machine) and (not only or one.name in only)
        ]
        self.clean: dict[str, dict[str, Path]] = {}
        self.checkpoints: dict[str, Path] = {}

    def prepare(self) -> None:
        """Export every model in every variant, and approve the artifacts as files that were handed in."""
        built = Store(self.house.store)
        steps, roots = {}, {}
        for name in MODELS:
            settings = settings_of(name)
            task = TASKS[settings.task]
            digest = find_checkpoint(Model(name, self.folder, settings)).digest
            checkpoint = Checkpoint(None, None, digest)
            roots[name] = recipes.prepare(name, checkpoint, settings.source, task.auto_class, settings.labels)
            for variant in dict.fromkeys(["plain", *self.variants]):
                steps[name, variant] = recipes.plan(name, VARIANT[variant], roots[name], task.export_task, self.machine)
        failed = build_all(built, [*steps.values(), *roots.values()], self.machine.threads, lambda _: None)
        assert not failed, failed
        for (name, variant), step in steps.items():
            to = self.folder / "clean" / name / variant
            shutil.copytree(built.run(step).folder, to, ignore=shutil.ignore_patterns(MANIFEST))
            self.clean.setdefault(name, {})[variant] = to
        self.checkpoints = {name: built.run(root).folder for name, root in roots.items()}
        for name, text in MODELS.items():
            self.house.add(name, f"{text}[ceilings.int8]\n{LOOSE[settings_of(name).task]}")
        given = [(name, variant, self.clean[name][variant]) for name in MODELS for variant in self.variants]
        # Random weights break other claims than those that are judged here, such as int8 over batches.
        done = self.run(given, "--approve", checks=(CHECKS[0], *CHECKS[5:6], "suites/conformance/test_fusion.py"))
        assert done.returncode == 0, done.text

    def run(
        self,
        given: Iterable[tuple[str, str, Path]],
        *options: str,
        checks: Sequence[str] = CHECKS,
        house: House | None = None,
    ):
        """Run the gate over artifacts: (model, variant, folder)."""
        house = house or self.house
        arguments = house.report.with_name("arguments.txt")
        artifacts = [f"--artifact={model}:{variant}={path}" for model, variant, path in given]
        arguments.write_text("\n".join([*checks[1:], *artifacts, *options]))
        return house.run(f"@{arguments}", suite=checks[0])

    def rows(self, chosen: Iterable[Fault], first: Sequence[str] = FIRST[:1]) -> list[tuple[Fault, str, str]]:
        """Return (fault, model, variant) for all variants that the faults apply to.

        Args:
            first: models that get every fault; the others get what those before them have no place for.
        """
        found = []
        for fault in chosen:
            for model in MODELS:
                settings = settings_of(model)
                architecture = settings.source.partition(":")[2].partition("@")[0]
                fitting = [one for one in self.variants if applies(fault, one, settings, architecture)]
                placed = any(one == fault for one, *_ in found)
                if model in first or not placed:
                    found += [(fault, model, variant) for variant in fitting]
        return found

    def one_variant_each(self) -> list[tuple[Fault, str, str]]:
        """Return `rows` of all faults with one variant of each model, another for each fault."""
        places: dict[tuple[str, str], list[tuple[Fault, str, str]]] = {}
        for row in self.rows(FAULTS, FIRST):
            places.setdefault((row[0].name, row[1]), []).append(row)
        return [those[number % len(those)] for number, those in enumerate(places.values())]

    def judge(self, rows: Sequence[tuple[Fault, str, str]]) -> list[Verdict]:
        """Plant faults, hand the artifacts to the gate, and measure what they really do.

        Args:
            rows: (fault, model, variant).
        """
        with ProcessPoolExecutor(self.machine.threads) as pool:
            named = [(fault.name, model, variant) for fault, model, variant in rows]
            planted = list(pool.map(self._plant, range(len(rows)), named, chunksize=4))
        there = [(row, *found) for row, found in zip(rows, planted, strict=True) if found[0]]
        size = min(AT_ONCE, -(-len(there) // self.machine.threads)) or 1
        parts = [there[start : start + size] for start in range(0, len(there), size)]
        with ThreadPoolExecutor(self.machine.threads) as pool:
            return [one for found in pool.map(self._judge, parts) for one in found]

    def _plant(self, number: int, row: tuple[str, str, str]) -> tuple[Path | None, float, frozenset[str] | None]:
        """Return the faulty folder, the fault's true effect, and the probes that see it; no folder where there is no
        place for it."""
        name, model, variant = row
        fault = FAULT[name]
        settings, where = settings_of(model), self.folder / "faulty" / str(number)
        where.mkdir(parents=True)
        try:
            folder = build_faulty_artifact(fault, variant, self.clean[model], settings, self.machine, where)
        except Inapplicable:
            return None, 0.0, None
        other, clean = fault.change_settings(settings), self.clean[model][variant]
        effect = true_effect(clean, folder, settings, other)
        seen = None
        if variant == "plain" and model in FIRST:
            seen = seeing(clean, folder, settings, other, tolerance_of(settings, variant))
        return folder, effect, seen

    def _judge(self, there: Sequence[tuple[Any, ...]]) -> list[Verdict]:
        house = House(Path(tempfile.mkdtemp(dir=self.folder)), self.house.store)
        names = {(fault.name, model): f"{model}--{fault.name}" for (fault, model, _), *_ in there}
        for (fault, model, _), *_ in there:
            self._copy_model(fault, model, house.baselines / names[fault.name, model])
        given = [(names[fault.name, model], variant, path) for (fault, model, variant), path, *_ in there]
        done = self.run(given, house=house)
        assert done.returncode in (0, 1), done.text
        report = house.gate()
        measured = {(model["name"], one["variant"]): one for model in report["models"] for one in model["variants"]}
        verdicts = []
        for (fault, model, variant), path, effect, seen in there:
            name, settings = names[fault.name, model], settings_of(model)
            metric = TASKS[settings.task].metrics[0]
            precision = VARIANT[variant].precision
            failures = {
                one["check"]: one["message"]
                for one in report["failures"]
                if one["model"] == name and one["variant"] in ("", variant)
            }
            verdicts.append(
                Verdict(
                    fault, model, variant, effect, tolerance_of(settings, variant), failures,
                    measured[name, variant]["closeness"].get(metric), precision.ceiling[metric], str(path), seen,
                )
            )  # fmt: skip
        return verdicts

    def _copy_model(self, fault: Fault, model: str, to: Path) -> None:
        """Give a fault a model of its own, with the approved baseline, and with its settings."""
        if to.exists():
            return
        shutil.copytree(self.house.baselines / model, to)
        settings = settings_of(model)
        faulty = msgspec.structs.asdict(fault.change_settings(settings))
        changes = {key: value for key, value in faulty.items() if value != getattr(settings, key)}
        text = (to / "model.toml").read_text()
        for key, value in changes.items():
            text = re.sub(rf"^{key} = .*\n", "", text, flags=re.MULTILINE)
            text = f"{key} = {json.dumps(value)}\n{text}"
        (to / "model.toml").write_text(text)


# ------------------------------------------------------------------------------------ the document


@dataclass(frozen=True)
class Beside:
    """How often a tool sees a fault, over the artifacts in which the fault matters."""

    seen: int
    asked: int

    def __str__(self) -> str:
        return f"{self.seen}/{self.asked}" if self.asked else "-"


SIDE_BY_SIDE = ("plain", "O2", "quantized")
"""Variants that the other tools are asked about: each takes its time."""


def ask_rivals(task: tuple[Path, Path, Path, Settings, str]) -> dict[str, str]:
    """Return rival -> what it says of one faulty artifact; nothing if it is content."""
    from suites.meta.rivals import RIVALS

    checkpoint, clean, faulty, settings, variant = task
    return {one.name: one.judge(checkpoint, clean, faulty, settings, variant) for one in RIVALS}


def document(
    laboratory: Laboratory,
    verdicts: list[Verdict],
    said: dict[int, dict[str, str]],
    alarms: set[tuple[str, str, str]],
) -> str:
    """Return docs/detection.md.

    Args:
        said: index of a verdict -> what the rivals say of its artifact.
        alarms: (rival, model, variant) of the sound artifacts that a rival calls wrong, where it can see nothing.
    """
    from suites.meta.rivals import RIVALS

    matter = [one for one in verdicts if one.matters]
    below = [one for one in verdicts if not one.matters]
    chosen, alone, unseen = few_probes(verdicts)
    machine = laboratory.machine
    lines = [
        "# Detection", "",
        "Written by `tox run -e detection`: every fault of `fixtures/faults/` is planted in tiny seeded models, the "
        "faulty artifacts are handed to the gate with `--artifact`, and what a fault really does is measured on texts "
        "that are no probes and on every id of the vocabulary. A fault matters where that exceeds the drift "
        "tolerance of the variant.", "",
        f"Machine: {machine.arch}, tier {machine.tier}. {len(FAULTS)} faults, {len(verdicts)} faulty artifacts of "
        f"{len({(one.model) for one in verdicts})} models in {len(laboratory.variants)} variants.", "",
        f"- {len(matter)} artifacts matter: {sum(bool(one.caught) for one in matter)} are caught by a right check, and "
        f"{sum(one.named for one in matter)} with a message that names the probable cause.",
        f"- {len(below)} do not; {sum(bool(one.failures) for one in below)} of them are red all the same.",
        "", "## Side by side", "",
        "The same files, where the fault matters: artifacts seen of artifacts asked, in "
        f"{', '.join(SIDE_BY_SIDE)}; for exportgate, in all variants. A tool is asked only where it is content "
        "with the sound artifact.", "",
        _row("fault", "largest effect", "exportgate", *(one.name for one in RIVALS)),
        _row("---", "---:", *["---:"] * (1 + len(RIVALS))),
    ]  # fmt: skip
    totals: dict[str, Beside] = {}
    for fault in FAULTS:
        own = [(index, one) for index, one in enumerate(verdicts) if one.fault == fault and one.matters]
        if not own:
            continue
        cells = {"exportgate": Beside(sum(bool(one.caught) for _, one in own), len(own))}
        for rival in RIVALS:
            asked = [
                said[index][rival.name]
                for index, one in own
                if index in said and (rival.name, one.model, one.variant) not in alarms
            ]
            cells[rival.name] = Beside(sum(bool(words) for words in asked), len(asked))
        for name, cell in cells.items():
            before = totals.get(name, Beside(0, 0))
            totals[name] = Beside(before.seen + cell.seen, before.asked + cell.asked)
        lines.append(_row(fault.name, f"{max(one.effect for _, one in own):.2g}", *map(str, cells.values())))
    lines.append(_row("**all**", "", *(str(one) for one in totals.values())))
    lines += ["", "| tool | needs | misses |", "| --- | --- | --- |"]
    lines += [_row(one.name, one.needs, one.misses) for one in RIVALS]
    lines += [
        _row("exportgate", "an approved baseline for drift; the checkpoint for weights and tokens",
             "what is below the tolerance; what no probe, weight or operator shows: see below"),
        "", "Sound artifacts that a tool calls wrong: "
        + ("; ".join(f"{rival}: {model} {variant}" for rival, model, variant in sorted(alarms)) or "none") + ".", "",
        "## Below the tolerance", "",
        "Faults that move scores by less than they may drift, and by how much of that. The largest of the artifacts "
        "that do not matter.", "",
        _row("fault", "share of the tolerance", "red all the same", "why"), _row("---", "---:", "---:", "---"),
    ]  # fmt: skip
    for fault in FAULTS:
        own_below = [one for one in below if one.fault == fault]
        if own_below:
            share = max(one.effect / one.tolerance for one in own_below)
            red = sum(bool(one.failures) for one in own_below)
            lines.append(_row(fault.name, f"{share:.2g}", f"{red}/{len(own_below)}", fault.note))
    lines += [
        "", "## What the probes earn", "",
        f"In `plain`, on {' and '.join(FIRST)}: of {sum(one.probes is not None and one.matters for one in verdicts)} "
        "artifacts that matter, each probe of this list sees most of what those before it miss.", "",
        _row("probe", "artifacts that it adds"), _row("---", "---:"),
        *(_row(name, str(count)) for name, count in chosen),
        "", "Seen by one probe alone: " + ("; ".join(f"{name}: {', '.join(those)}" for name, those in alone.items())
            or "nothing") + ".", "",
        "Seen by no probe: " + (", ".join(
            f"{one.fault.name} ({one.model}; caught by {', '.join(one.caught) or 'nothing'})" for one in unseen
        ) or "nothing") + ".",
        "",
    ]  # fmt: skip
    missed = [one for one in matter if not one.named]
    if missed:
        lines += ["## Not caught, or not named", "", *(f"- {one}" for one in missed), ""]
    return "\n".join(lines)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", action="append", help="only this variant (repeatable); nothing is written")
    parser.add_argument("--fault", action="append", choices=FAULT, help="only this fault (repeatable); nothing written")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="exportgate-") as folder:
        laboratory = Laboratory(Path(folder), chosen.variant or ())
        laboratory.prepare()
        verdicts = laboratory.judge(laboratory.rows([FAULT[name] for name in chosen.fault or FAULT]))
        for one in verdicts:
            mark = "named" if one.named else "caught" if one.caught else "MISSED" if one.matters else "below"
            print(f"{mark:7} {one.fault.name:36} {one.model:8} {one.variant:22} {one.effect / one.tolerance:9.2g}")
        missed = [one for one in verdicts if one.matters and not one.named]
        for one in missed:
            print(one)
        if not (chosen.variant or chosen.fault):
            asked = {
                index: one
                for index, one in enumerate(verdicts)
                if one.matters and one.variant in SIDE_BY_SIDE and one.fault.change_settings is keep_settings
            }
            tasks_of = [
                (laboratory.checkpoints[one.model], laboratory.clean[one.model][one.variant], Path(one.folder),
                 settings_of(one.model), one.variant)
                for one in asked.values()
            ]  # fmt: skip
            cleans = [
                (laboratory.checkpoints[model], laboratory.clean[model][variant], laboratory.clean[model][variant],
                 settings_of(model), variant)
                for model in MODELS
                for variant in SIDE_BY_SIDE
            ]  # fmt: skip
            with ProcessPoolExecutor(laboratory.machine.threads, get_context("spawn")) as pool:
                said = dict(zip(asked, pool.map(ask_rivals, tasks_of, chunksize=8), strict=True))
                clean = list(pool.map(ask_rivals, cleans))
            alarms = {
                (rival, task[1].parent.name, task[4])
                for task, words in zip(cleans, clean, strict=True)
                for rival, told in words.items()
                if told
            }
            (ROOT / "docs").mkdir(exist_ok=True)
            (ROOT / "docs" / "detection.md").write_text(document(laboratory, verdicts, said, alarms))
        matter = [one for one in verdicts if one.matters]
        print(f"{len(matter)} faulty artifacts matter: {sum(bool(one.caught) for one in matter)} caught, "
              f"{sum(one.named for one in matter)} with their probable cause")  # fmt: skip
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
