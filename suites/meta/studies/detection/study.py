"""Is every planted fault found, and nothing else? Faults are planted, handed to the gate, and its failures judged."""

from __future__ import annotations

import functools
import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import tokenizers
import tomlkit

from fixtures.arrays import Floats
from fixtures.baselines.tolerances import TOLERANCES
from fixtures.build.manifest import MANIFEST
from fixtures.build.needs import ModelSize
from fixtures.build.step import Step
from fixtures.build.store import Store
from fixtures.build.workers import Limits, build_all
from fixtures.export import recipes, seeded
from fixtures.export.pooled_export import head_parameters
from fixtures.export.variants import DEFAULT_VARIANTS, VARIANT
from fixtures.faults.effect import Input, SoundScores, encode, score_sound, true_effect
from fixtures.faults.families.scope import IN_BLOCKS
from fixtures.faults.fault import Fault, Inapplicable
from fixtures.faults.planting import applies, build_faulty_artifact
from fixtures.faults.table import FAULT, FAULTS
from fixtures.models.checkpoints import Checkpoint, find_checkpoint
from fixtures.models.late_interaction import DEFAULTS
from fixtures.models.settings import Model, Settings
from fixtures.runtimes import hardware
from fixtures.runtimes.onnx_runtime import OnnxRuntime
from fixtures.runtimes.providers import MODEL_FILE
from fixtures.scoring.fast_tokenizer import TOKENIZER_FILE
from fixtures.scoring.probes import PROBES, Probe, fill
from fixtures.scoring.scores import score
from fixtures.scoring.tasks import TASKS, Scoring
from suites.meta.house import House, Run
from suites.meta.studies.detection import named_checks as named_checks_plugin
from suites.meta.studies.detection.named_checks import SEPARATOR

MODELS = {
    "mean": 'task = "embedding"\nsource = "seeded:bert@7"\nmax_length = 64\npooling = "mean"\nnormalize = true\n',
    "rerank": 'task = "rerank"\nsource = "seeded:bert@8"\nmax_length = 64\n',
    "cls": 'task = "embedding"\nsource = "seeded:bert@7"\nmax_length = 64\npooling = "cls"\nnormalize = true\n',
    "roberta": 'task = "embedding"\nsource = "seeded:roberta@9"\nmax_length = 64\npooling = "mean"\nnormalize = true\n',
    "dense": 'task = "embedding"\nsource = "seeded:bert_dense@17"\nmax_length = 64\npooling = "mean"\n'
    "normalize = true\nexport = {pooled = true}\n"
    'prompts = {query = "task: search result | query: ", passage = "title: none | text: "}\n',
    "cut": 'task = "embedding"\nsource = "seeded:bert@7"\nmax_length = 64\npooling = "mean"\nnormalize = true\n'
    "dimensions = 16\n",
    "two-logits": 'task = "rerank"\nsource = "seeded:bert@12"\nmax_length = 64\nlabels = 2\npositive = "LABEL_1"\n',
    "sparse": 'task = "sparse"\nsource = "seeded:bert@16"\nmax_length = 64\npooling = "max"\nactivation = "relu"\n',
    "late": 'task = "late-interaction"\nsource = "seeded:bert_late@18"\nmax_length = 64\nnormalize = true\n'
    'late_interaction = {query_prefix = "[Q] ", document_prefix = "[D] ", query_length = 16, '
    "do_query_expansion = true, attend_to_expansion_tokens = false, "
    f"skiplist_words = {json.dumps(DEFAULTS.skiplist_words)}}}\n",
    "nli": 'task = "pair-classification"\nsource = "seeded:roberta@18"\nmax_length = 64\nlabels = 3\n'
    'zero_shot = {labels = ["sports", "politics", "cooking"], entailment = "LABEL_2"}\n',
    "tagger": 'task = "token-classification"\nsource = "seeded:electra@8"\nmax_length = 64\nlabels = 5\n',
    "qa": 'task = "question-answering"\nsource = "seeded:bert@10"\nmax_length = 64\nlabels = 2\n',
}
"""Tiny models, the usual ones first: name -> model.toml."""
MAIN_MODELS = ("mean", "rerank")
"""Models that get every fault that they have a place for, where each is planted in one variant, and whose probes are
studied. Where each is planted in all variants, the first model that has a place for it gets it."""
LOOSE_CLASSES = ("int8", "int8 weights", "int4")
# Random weights amplify the errors of these: what their ceilings are is the models', and not detection's, matter.
LOOSE_CEILINGS = {
    "embedding": "max_abs_error = 1\nmin_cosine = -1\nmax_similarity_change = 2\ntopk_overlap = 0\n",
    "rerank": "max_logit_error = 9\nmean_logit_error = 9\nkendall_tau = -1\nmin_kendall_tau = -1\norder_flips = 1\n"
    "new_ties = 1\ntop1_agreement = 0\nndcg_at_5_change = 1\n",
    "sparse": "max_abs_error = 9\nmin_cosine = -1\nmax_similarity_change = 9\ntopk_overlap = 0\n"
    "active_terms_overlap = 0\n",
    "late-interaction": "max_abs_error = 2\nmin_token_cosine = -1\nmax_maxsim_error = 2\nkendall_tau = -1\n",
    "pair-classification": "max_logit_error = 9\nargmax_agreement = 0\nmax_probability_change = 1\n"
    "zero_shot_agreement = 0\n",
    "token-classification": "max_logit_error = 9\nargmax_agreement = 0\nmax_probability_change = 1\n"
    "entity_agreement = 0\n",
    "question-answering": "max_logit_error = 9\nspan_agreement = 0\n",
}
CHECKS = (
    "suites/accuracy/test_scores.py",
    "suites/conformance/test_contract.py",
    "suites/conformance/test_labels.py",
    "suites/conformance/test_loading.py",
    "suites/conformance/test_masks.py",
    "suites/conformance/test_numbers.py",
    "suites/conformance/test_tokenizer.py",
    "suites/conformance/test_weights.py",
    "suites/conformance/test_fusion.py",
    "suites/conformance/test_quantization.py",
    "suites/conformance/test_properties.py::test_embeddings_have_unit_norm",
    "suites/conformance/test_properties.py::test_duplicates_score_alike",
)
"""What is run on every faulty artifact: all that looks at scores, tokens, graph and weights."""
# Random weights break other claims than those that are judged here, such as int8 over batches.
APPROVING_CHECKS = (
    "suites/accuracy/test_scores.py",
    "suites/conformance/test_tokenizer.py",
    "suites/conformance/test_fusion.py",
)
QUIETLY = ("--tb=no", "-rN", "--no-header", "-p", "no:logging")
"""What pytest would print and capture of each of several thousand tests; gate.json has all that is judged."""
ARTIFACTS_PER_RUN = 150
"""Faulty artifacts that one run of the gate judges, at most."""


class Placement(NamedTuple):
    """A fault, and where to plant it."""

    fault: Fault
    model: str
    variant: str


@dataclass(frozen=True)
class FaultyArtifact:
    """One fault, planted in one variant of one model.

    Attributes:
        effect: how far it really moves scores, on texts that are no probes; `inf` if it cannot be run.
        probes: names of the probes whose scores it moves by more than the tolerance; None where that was not measured.
    """

    fault: Fault
    model: str
    variant: str
    folder: Path = field(repr=False)
    effect: float
    probes: frozenset[str] | None = field(repr=False)

    @property
    def tolerance(self) -> float:
        """Drift tolerance of the variant."""
        return drift_tolerance(settings_of(self.model), self.variant)

    @property
    def matters(self) -> bool:
        """Whether it moves scores further than they may drift; what is not finite does."""
        return not self.effect <= self.tolerance


@dataclass(frozen=True)
class Verdict(FaultyArtifact):
    """What the gate said of a faulty artifact.

    Attributes:
        failures: check -> message, of the checks that went red.
    """

    failures: dict[str, str]

    @property
    def caught(self) -> list[str]:
        """The right checks that went red."""
        return [check for check in self.failures if check.partition("[")[0] in self.fault.checks]

    @property
    def named(self) -> bool:
        """Whether a message of a right check names the probable cause."""
        return any(re.search(self.fault.cause, self.failures[check]) for check in self.caught)

    def __str__(self) -> str:
        red = "; ".join(f"{check}: {message.splitlines()[0]}" for check, message in self.failures.items()) or "nothing"
        return (
            f"{self.fault.name} in {self.model} {self.variant}: effect {self.effect:.2g}, tolerance "
            f"{self.tolerance:.2g}; expected one of {', '.join(dict.fromkeys(self.fault.checks))} to say "
            f"/{self.fault.cause}/; red: {red}"
        )


def settings_of(model: str) -> Settings:
    return msgspec.toml.decode(MODELS[model].encode(), type=Settings)


def drift_tolerance(settings: Settings, variant: str) -> float:
    """Return how far a variant may drift while no library changes."""
    return TOLERANCES[VARIANT[variant].precision.name, True].limits[TASKS[settings.task].error_row]


@functools.cache
def _sound_scores(folder: Path, model: str, texts: int) -> SoundScores:
    """Return what a sound artifact scores on some texts; each is beside many faulty ones."""
    return score_sound(folder, settings_of(model), count=texts)


@dataclass(frozen=True)
class ProbeScores:
    """What a sound artifact scores on the probes, which are filled up with its tokenizer."""

    probes: list[Probe]
    inputs: list[Input]
    scores: Floats


@functools.cache
def _probe_scores(folder: Path, model: str) -> ProbeScores:
    settings = settings_of(model)
    backend = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    backend.no_truncation()
    probes = [
        fill(probe, lambda text, pair: len(backend.encode(text, pair).ids), settings.max_length)
        for probe in PROBES[TASKS[settings.task].probes]
    ]
    inputs = [(probe.text, probe.pair) for probe in probes]
    return ProbeScores(probes, inputs, _score_inputs(folder, inputs, settings))


def moved_probes(sound: ProbeScores, faulty: Path, faulty_settings: Settings, tolerance: float) -> frozenset[str]:
    """Return the names of the probes whose scores differ by more than the tolerance."""
    every = frozenset(probe.id for probe in sound.probes)
    try:
        measured = _score_inputs(faulty, sound.inputs, faulty_settings)
    except Exception:  # whatever a file that cannot be run raises: every probe sees it
        return every
    if sound.scores.shape != measured.shape:
        return every
    within = np.abs(sound.scores - measured).reshape(len(sound.probes), -1).max(axis=1) <= tolerance
    return frozenset(probe.id for probe, holds in zip(sound.probes, within, strict=True) if not holds)


def _score_inputs(folder: Path, inputs: list[Input], settings: Settings) -> Floats:
    encoded = encode(folder, inputs, settings)
    scoring = Scoring.of(settings, encoded.facts.special_ids)
    return score(OnnxRuntime(folder / MODEL_FILE, 1), encoded, scoring)


@dataclass(frozen=True)
class ProbeStudy:
    """Which probes earn their place.

    Attributes:
        measured: how many artifacts that matter were scored on probes.
        selection: probes in the order in which each sees most of what those before it miss, with how many faults
            those are.
        indispensable: probe -> faults that it alone sees.
        unseen: verdicts of artifacts that no probe sees.
    """

    measured: int
    selection: list[tuple[str, int]]
    indispensable: dict[str, list[str]]
    unseen: list[Verdict]


def study_probes(verdicts: Iterable[Verdict]) -> ProbeStudy:
    """Select probes greedily until they see all that any probe sees."""
    measured = [(verdict, verdict.probes) for verdict in verdicts if verdict.probes is not None and verdict.matters]
    missed = [probes for _, probes in measured if probes]
    selection = []
    while missed:
        counts = Counter(name for probes in missed for name in probes)
        best, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
        selection.append((best, count))
        missed = [probes for probes in missed if best not in probes]
    indispensable: dict[str, list[str]] = {}
    for verdict, probes in measured:
        if len(probes) == 1:
            indispensable.setdefault(next(iter(probes)), []).append(f"{verdict.fault.name} ({verdict.model})")
    unseen = [verdict for verdict, probes in measured if not probes]
    return ProbeStudy(len(measured), selection, indispensable, unseen)


class DetectionStudy:
    """Sound artifacts of every model, approved as ready-made files, and faulty ones beside them.

    Args:
        folder: an empty folder to work in.
        only: variants; by default all that this machine can judge.
        store: of artifacts; by default a new one in the folder.
        texts: how many random texts measure the effect of a fault.
        named_checks: whether each faulty artifact is judged by the checks alone that its fault names; probes are not
            studied then.
        exporter: what makes the graphs, a row of `recipes.EXPORTERS`.
    """

    def __init__(
        self,
        folder: Path,
        only: Sequence[str] = (),
        store: Path | None = None,
        *,
        texts: int = 400,
        named_checks: bool = False,
        exporter: str = "optimum",
    ) -> None:
        self.folder, self.texts, self.exporter = folder, texts, exporter
        self.plugins = ("-p", named_checks_plugin.__name__) if named_checks else ()
        self.studies_probes = not named_checks
        self.machine = hardware.detect(None)
        self.house = House(folder, store or folder / "store")
        self.variants = [
            variant.name
            for variant in (*DEFAULT_VARIANTS, *(VARIANT[name] for name in IN_BLOCKS))
            if not variant.unsupported(self.machine) and (not only or variant.name in only)
            if not recipes.EXPORTERS[exporter].unsupported(variant, "feature-extraction")
        ]
        self.sound: dict[str, dict[str, Path]] = {}
        self.checkpoints: dict[str, Path] = {}

    def prepare(self, placements: Sequence[Placement] | None = None) -> None:
        """Export every model, and approve the artifacts as ready-made files.

        Args:
            placements: where faults will be planted: the variants that none is planted in are left out, but plain. By
                default all are exported.
        """
        variants = {name: ["plain", *self.variants] for name in MODELS}
        if placements is not None:
            variants = {
                name: ["plain", *(place.variant for place in placements if place.model == name)] for name in MODELS
            }
        store = Store(self.house.store)
        steps: dict[tuple[str, str], Step] = {}
        roots: dict[str, Step] = {}
        for name in MODELS:
            settings = settings_of(name)
            task = TASKS[settings.task]
            digest = find_checkpoint(Model(name, self.folder, settings)).digest
            checkpoint = Checkpoint(None, None, digest)
            root = recipes.prepare(name, checkpoint, settings.source, task.auto_class, settings.labels)
            assert isinstance(root, Step)
            roots[name] = root
            for variant in dict.fromkeys(variants[name]):
                head = head_parameters(settings, seeded.modules_of(settings.source))
                steps[name, variant] = recipes.plan(
                    name,
                    VARIANT[variant],
                    root,
                    task.export_task,
                    self.machine,
                    recipes.OWN_EXPORTS.get(task.name),
                    head=head,
                    exporter=self.exporter,
                    traced=task.traced(position_ids=False),
                )
        limits = Limits(self.machine.threads, self.machine.memory_bytes)
        failed = build_all(
            store, dict.fromkeys([*steps.values(), *roots.values()], ModelSize()), limits, lambda *_: None
        )
        assert not failed, failed
        for (name, variant), step in steps.items():
            folder = self.folder / "sound" / name / variant
            shutil.copytree(store.run(step).folder, folder, ignore=shutil.ignore_patterns(MANIFEST))
            self.sound.setdefault(name, {})[variant] = folder
        self.checkpoints = {name: store.run(root).folder for name, root in roots.items()}
        for name, text in MODELS.items():
            loose = LOOSE_CEILINGS[settings_of(name).task]
            self.house.add(name, text + "".join(f'[ceilings."{row}"]\n{loose}' for row in LOOSE_CLASSES))
        artifacts = [
            (name, variant, folder)
            for name, folders in self.sound.items()
            for variant, folder in folders.items()
            if variant in self.variants
        ]
        process = self.run_gate(artifacts, "--approve", checks=APPROVING_CHECKS)
        assert process.returncode == 0, process.text

    def run_gate(
        self,
        artifacts: Iterable[tuple[str, str, Path]],
        *options: str,
        checks: Sequence[str] = CHECKS,
        house: House | None = None,
        plugins: Sequence[str] = (),
    ) -> Run:
        """Run the gate over artifacts, (model, variant, folder), and return the finished process."""
        house = house or self.house
        arguments = house.report.with_name("arguments.txt")
        named = [f"--artifact={model}:{variant}={folder}" for model, variant, folder in artifacts]
        arguments.write_text("\n".join([*checks[1:], *named, *options]))
        exporter = f"--exporter={self.exporter}"
        return house.run(
            *QUIETLY, *plugins, exporter, f"@{arguments}", suite=checks[0]
        )  # in a file, pytest loads no plugin

    def placements(self, faults: Iterable[Fault], main_models: Sequence[str] = MAIN_MODELS[:1]) -> list[Placement]:
        """Return where to plant faults: in all variants that they apply to.

        Args:
            main_models: models that get every fault; the others get what those before them have no place for.
        """
        placements: list[Placement] = []
        for fault in faults:
            placed = False
            for model in MODELS:
                settings = settings_of(model)
                architecture = settings.source.partition(":")[2].partition("@")[0]
                fitting = [variant for variant in self.variants if applies(fault, variant, settings, architecture)]
                if model in main_models or not placed:
                    placements += [Placement(fault, model, variant) for variant in fitting]
                    placed = placed or bool(fitting)
        return placements

    def one_variant_each(self) -> list[Placement]:
        """Return where to plant all faults: in one variant of each model, another for the next fault."""
        choices: dict[tuple[str, str], list[Placement]] = {}
        for placement in self.placements(FAULTS, MAIN_MODELS):
            choices.setdefault((placement.fault.name, placement.model), []).append(placement)
        return [variants[number % len(variants)] for number, variants in enumerate(choices.values())]

    def judge(self, placements: Sequence[Placement]) -> list[Verdict]:
        """Plant faults, hand the artifacts to the gate, and measure what they really do."""
        names = [(fault.name, model, variant) for fault, model, variant in placements]  # faults cannot be pickled
        with ProcessPoolExecutor(self.machine.threads) as pool:
            planted = list(pool.map(self._plant, range(len(names)), names, chunksize=4))
        artifacts = [
            FaultyArtifact(*placement, *outcome)
            for placement, outcome in zip(placements, planted, strict=True)
            if outcome is not None
        ]
        size = min(ARTIFACTS_PER_RUN, -(-len(artifacts) // self.machine.threads)) or 1
        batches = [artifacts[start : start + size] for start in range(0, len(artifacts), size)]
        with ThreadPoolExecutor(self.machine.threads) as pool:
            return [verdict for verdicts in pool.map(self._judge, batches) for verdict in verdicts]

    def _plant(self, number: int, names: tuple[str, str, str]) -> tuple[Path, float, frozenset[str] | None] | None:
        """Return the faulty folder, the fault's true effect, and the probes that see it; None if it has no place."""
        name, model, variant = names
        fault, settings = FAULT[name], settings_of(model)
        workspace = self.folder / "faulty" / str(number)
        workspace.mkdir(parents=True)
        try:
            folder = build_faulty_artifact(
                fault, variant, self.sound[model], settings, self.machine, workspace, self.exporter
            )
        except Inapplicable:
            return None
        faulty_settings, sound = fault.change_settings(settings), self.sound[model][variant]
        sound_scores = _sound_scores(sound, model, self.texts)
        effect = true_effect(sound_scores, folder, faulty_settings, read_alone=fault.read_alone)
        probes = None
        if self.studies_probes and variant == "plain" and model in MAIN_MODELS:
            probes = moved_probes(
                _probe_scores(sound, model), folder, faulty_settings, drift_tolerance(settings, variant)
            )
        return folder, effect, probes

    def _judge(self, artifacts: Sequence[FaultyArtifact]) -> list[Verdict]:
        house = House(Path(tempfile.mkdtemp(dir=self.folder)), self.house.store)
        names = [f"{artifact.model}{SEPARATOR}{artifact.fault.name}" for artifact in artifacts]
        for artifact, name in zip(artifacts, names, strict=True):
            self._copy_model(artifact.fault, artifact.model, house.baselines / name)
        process = self.run_gate(
            [(name, artifact.variant, artifact.folder) for artifact, name in zip(artifacts, names, strict=True)],
            house=house,
            plugins=self.plugins,
        )
        assert process.returncode in (0, 1), process.text
        failures = house.gate()["failures"]
        return [
            Verdict(
                **vars(artifact),
                failures={
                    failure["check"]: failure["message"]
                    for failure in failures
                    if failure["model"] == name and failure["variant"] in ("", artifact.variant)
                },
            )
            for artifact, name in zip(artifacts, names, strict=True)
        ]

    def _copy_model(self, fault: Fault, model: str, folder: Path) -> None:
        """Give a fault a model of its own, with the approved baseline and the fault's settings."""
        if folder.exists():
            return
        shutil.copytree(self.house.baselines / model, folder)
        settings = settings_of(model)
        document = tomlkit.parse((folder / "model.toml").read_text())
        for key, value in msgspec.structs.asdict(fault.change_settings(settings)).items():
            if value != getattr(settings, key):
                document[key] = msgspec.to_builtins(value)
        (folder / "model.toml").write_text(tomlkit.dumps(document))
