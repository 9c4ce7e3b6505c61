"""Is the gate's reference what sentence-transformers makes of a folder? Writes docs/folders.md if both packages scored.

python -m suites.sentence_transformers.compare, in the environment of `gate`. Exit status 1 where a score differs, where
a folder is refused, or where one is read whose modules the gate does not know.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fixtures.arrays import Array
from fixtures.build.store import StepFailed
from fixtures.gate.command_line import ROOT, parse
from fixtures.gate.context import Context, make_context
from fixtures.gate.single_values import UsageError
from fixtures.gate.subject import Subject, read_subject
from fixtures.models.cross_encoders import read_cross_encoder
from fixtures.models.files import MODULES_FILE, checkpoint_digest
from fixtures.models.sentence_transformers import RENAMED_MODES
from fixtures.models.settings import Prompts
from fixtures.runtimes.torch_runtime import TorchRuntime
from fixtures.scoring.probes import prompt_of
from fixtures.scoring.scores import score
from suites.sentence_transformers.kinds import (
    FIVE,
    FOLDERS,
    KIND,
    KINDS,
    MIDDLE,
    OLD,
    PLAIN,
    SAVED,
    SIX,
    UNKNOWN_MODULES,
    Kind,
)
from suites.sentence_transformers.truth import BARE, DEFAULT, Truth, digest_of_folder, digest_of_inputs, inputs_of, read

TOLERANCE = 1e-5
"""How far a component of an embedding, or a score, may be from the library's."""
DOCUMENT = ROOT / "docs" / "folders.md"
WRITTEN_BY = {OLD: "2.x", MIDDLE: "4.0 to 5.3", FIVE: "5.4 to 5.x", SIX: "6.x", PLAIN: "Transformers"}
"""Format -> what the document calls it."""


_INTRODUCTION = """\
How far the gate's reference is at most from what sentence-transformers makes of a folder: a component of an embedding,
or what `predict` says of a pair, behind its prompt and its activation. The folders are tiny and seeded; a column says
who wrote them. Those of 2.x and of 4.0 to 5.3 are written by hand and read by both packages, the others by the package
that wrote them. Where no file names a CrossEncoder's activation, model.toml states the library's default. What the gate
refuses, or cannot load, it does not judge. A kind is equal up to {tolerance}.

Measured by `tox run -e sentence-transformers5` and `tox run -e sentence-transformers6`:
{packages}."""


@dataclass(frozen=True)
class Comparison:
    """The gate's reference of one folder beside the library's scores.

    Attributes:
        error: the largest difference; infinite where there is no reference.
        refusal: what the gate says of a folder that it does not judge; empty if it does.
    """

    truth: Truth
    error: float
    refusal: str = ""

    @property
    def is_equal(self) -> bool:
        return self.error <= TOLERANCE

    def __str__(self) -> str:
        verdict = "equal" if self.is_equal else "DIFFERS"
        return f"{verdict:8}{self.truth.folder:40} {self.truth.package:8} {self.refusal or format(self.error, '.1e')}"


def compare(context: Context, truth: Truth, scores: Mapping[str, Array], root: Path = FOLDERS) -> Comparison:
    """Compare the gate's reference of a folder with the library's scores.

    Raises:
        ValueError: the folder, or what is scored, is another one since.
    """
    folder = root / truth.folder
    if (digest_of_folder(folder), digest_of_inputs()) != (truth.folder_digest, truth.inputs_digest):
        raise ValueError(f"{folder} is not what was scored: tox run -e sentence-transformers{truth.package[0]}")
    with tempfile.TemporaryDirectory(prefix="exportgate-") as baselines:
        try:
            subject = read_subject(context, write_model(Path(baselines), KIND[truth.kind], truth.max_length, folder))
        except UsageError as error:
            return Comparison(truth, np.inf, str(error))
        try:
            return Comparison(truth, largest_difference(reference_of(subject), expected_of(subject, truth, scores)))
        except (StepFailed, KeyError) as error:
            return Comparison(truth, np.inf, str(error))


def largest_difference(reference: Array, scores: Array) -> float:
    """Return the largest difference of two arrays; infinite where they have other shapes, or one is not finite."""
    if reference.shape != scores.shape:
        return np.inf
    return float(np.nan_to_num(np.abs(reference - scores), nan=np.inf).max())


def reference_of(subject: Subject) -> Array:
    """Return what PyTorch makes of the inputs: of the probes as the gate has it, and of the last one scored anew."""
    probes, (*_, (text, pair)) = subject.reference[_rows(subject)], inputs_of(subject.task.probes)
    prompt = (subject.model.settings.prompts or Prompts()).query if pair is not None else ""
    runtime = TorchRuntime(subject.weights_folder, subject.task.auto_class, 1)
    return np.concatenate([probes, score(runtime, subject.encode([(prompt + text, pair)]), subject.scoring)])


def expected_of(subject: Subject, truth: Truth, scores: Mapping[str, Array]) -> Array:
    """Return what the library makes of the inputs: of pairs by default, of each text with the prompt that it gets here.

    Raises:
        KeyError: the library puts that prompt before no text.
    """
    if subject.task.probes == "pairs":
        return scores[DEFAULT]
    call_of = {prompt: call for call, prompt in truth.prompts.items()}
    prompts = subject.model.settings.prompts or Prompts()
    calls = [call_of[prompt_of(subject.probes[row], prompts)] for row in _rows(subject)]
    return np.stack([scores[call][index] for index, call in enumerate([*calls, BARE])])


def _rows(subject: Subject) -> list[int]:
    """Return the places of the probes whose text is the same for every model."""
    return [row for row, probe in enumerate(subject.probes) if probe.length is None]


def write_model(baselines: Path, kind: Kind, max_length: int, folder: Path) -> Path:
    """Write the model.toml of a folder, and return where it lies.

    It says what the folder does not: the pooling where there is no modules.json, and the library's default activation
    where a CrossEncoder names none.
    """
    model = baselines / kind.name
    model.mkdir()
    keys = {
        "task": task_of(kind),
        "source": f"path:{folder}",
        "digest": f"sha256:{checkpoint_digest(folder)}",
        "max_length": max_length,
    }
    if not kind.is_cross_encoder and not (folder / MODULES_FILE).is_file():
        keys["pooling"] = "+".join(RENAMED_MODES.get(mode, mode) for mode in kind.pooling)
    if kind.is_cross_encoder and kind.labels == 1 and read_cross_encoder(folder).activation is None:
        keys["activation"] = "sigmoid"
    (model / "model.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()))
    return model


def task_of(kind: Kind) -> str:
    """Return the task of a kind of folder."""
    if not kind.is_cross_encoder:
        return "embedding"
    return "rerank" if kind.labels == 1 else "pair-classification"


def refusal_of(context: Context, module: str, root: Path = FOLDERS) -> str:
    """Return what the gate says of a folder with a module that it does not know; empty if it reads the folder."""
    with tempfile.TemporaryDirectory(prefix="exportgate-") as scratch:
        folder = Path(scratch) / "folder"
        shutil.copytree(root / OLD / "normalize", folder)
        modules = json.loads((folder / "modules.json").read_text())
        path = f"{len(modules)}_{module.rpartition('.')[2]}"
        modules.append({"idx": len(modules), "name": str(len(modules)), "path": path, "type": module})
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / path).mkdir()
        (folder / path / "config.json").write_text("{}")
        try:
            read_subject(context, write_model(Path(scratch), KIND["normalize"], 64, folder))
        except UsageError as error:
            return str(error)
        return ""


def open_context(store: str | None = None) -> Context:
    """Return a context without models of its own."""
    with tempfile.TemporaryDirectory(prefix="exportgate-") as scratch:
        model = Path(scratch) / "baselines" / "none"
        model.mkdir(parents=True)
        (model / "model.toml").touch()
        options = {"baselines": str(model.parent), "report": f"{scratch}/report", "store": store}
        return make_context(parse(options.get, ci=False))


def document(comparisons: Sequence[Comparison], refusals: Mapping[str, str]) -> str:
    """Return docs/folders.md.

    Args:
        refusals: type of a module that the gate does not know -> what it says of a folder with it.
    """
    packages = sorted({f"{made.package} (Transformers {made.transformers})" for made in (c.truth for c in comparisons)})
    cells = {
        (kind, form): max(each, key=lambda comparison: comparison.error)
        for (kind, form), each in _by(comparisons, lambda comparison: (comparison.truth.kind, comparison.truth.format))
    }
    lines = [
        "# Folders of sentence-transformers",
        "",
        _INTRODUCTION.format(tolerance=f"{TOLERANCE:g}", packages=" and ".join(packages)),
        "",
        f"| kind | {' | '.join(WRITTEN_BY.values())} | equal |",
        f"| --- |{' ---: |' * len(WRITTEN_BY)} --- |",
    ]
    for kind in KINDS:
        row = [cells.get((kind.name, form)) for form in WRITTEN_BY]
        equal = "yes" if all(cell.is_equal for cell in row if cell) else "**no**"
        lines.append(f"| {kind.name} | {' | '.join(map(_cell, row))} | {equal} |")
    lines += [
        "",
        "A module that the gate does not know is refused by name, since it changes the embeddings:",
        "",
        "| module | refused |",
        "| --- | --- |",
        *(
            f"| `{module}` | {'yes' if module.rpartition('.')[2] in said else '**no**'} |"
            for module, said in refusals.items()
        ),
        "",
    ]
    return "\n".join(lines)


def _by(
    comparisons: Iterable[Comparison], key: Callable[[Comparison], tuple[str, ...]]
) -> Iterator[tuple[tuple[str, ...], list[Comparison]]]:
    for value, group in itertools.groupby(sorted(comparisons, key=key), key):
        yield value, list(group)


def _cell(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    return "refused" if comparison.refusal else f"{comparison.error:.1g}"


def main() -> int:
    context = open_context()
    comparisons = []
    for truth, scores in read():
        comparisons.append(compare(context, truth, scores))
        print(comparisons[-1], flush=True)
    refusals = {module: refusal_of(context, module) for module in UNKNOWN_MODULES}
    if {comparison.truth.package[0] for comparison in comparisons} == set(SAVED):
        DOCUMENT.write_text(document(comparisons, refusals), encoding="utf-8")
    different = [comparison for comparison in comparisons if not comparison.is_equal]
    read_anyway = [module for module, said in refusals.items() if module.rpartition(".")[2] not in said]
    print(f"{len(comparisons) - len(different)} of {len(comparisons)} folders equal to {TOLERANCE:g}")
    for module in read_anyway:
        print(f"NOT REFUSED {module}")
    return bool(different or read_anyway or not comparisons)


if __name__ == "__main__":
    sys.exit(main())
