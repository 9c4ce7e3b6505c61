"""From a folder to a verdict without a model.toml: one folder of each kind, timed, and once more with a planted fault.

python -m suites.sentence_transformers.first_look, in the environment of `gate`. Writes docs/first-look.md if every kind
was tried. Exit status 1 where a sound folder does not pass, or where a fault is not seen.

Folders of SAVED formats are those that `tox run -e sentence-transformers5` and `-e sentence-transformers6` have left.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fixtures.faults.families.weights import WEIGHT_FAULTS
from fixtures.faults.fault import SEED, Inapplicable, Site
from fixtures.faults.planting import applies
from fixtures.gate.command_line import ROOT
from fixtures.models.cross_encoders import read_cross_encoder
from fixtures.models.files import MODULES_FILE
from fixtures.models.sentence_transformers import RENAMED_MODES
from fixtures.models.settings import Settings
from fixtures.runtimes import hardware
from suites.sentence_transformers.compare import task_of
from suites.sentence_transformers.kinds import FOLDERS, KIND, KINDS, MIDDLE, OLD, PLAIN, SAVED, Kind

DOCUMENT = ROOT / "docs" / "first-look.md"
NEWEST_FIRST = (*reversed(SAVED), MIDDLE, OLD, PLAIN)
LOOSE = {
    "embedding": {"max_abs_error": 1, "min_cosine": -1, "max_similarity_change": 2, "topk_overlap": 0},
    "rerank": {
        **{"max_logit_error": 9, "mean_logit_error": 9, "kendall_tau": -1, "min_kendall_tau": -1, "order_flips": 1},
        **{"new_ties": 1, "top1_agreement": 0, "ndcg_at_5_change": 1},
    },
    "pair-classification": {"max_logit_error": 9, "argmax_agreement": 0, "max_probability_change": 1},
}
"""Task -> ceilings of int8: random weights amplify its error, and what is looked at here is not that."""
KNOWN_LIMITS = {
    ("sentence-t5", "slow_and_fast_tokenizer_agree"): "https://github.com/huggingface/tokenizers/issues/2116",
    ("transformers-decoder", "slow_and_fast_tokenizer_agree"): "https://github.com/QwenLM/Qwen3-Embedding/issues/54",
    ("lower-case", "slow_and_fast_tokenizer_agree"): "5.x writes do_lower_case into tokenizer.json alone",
}
"""Row of KINDS and check -> why it fails there whoever exports: a limit of a model.toml."""
_INTRODUCTION = """\
One folder of each kind of docs/folders.md, as its newest format is, judged by

    tox run -e gate -- --checkpoint FOLDER

with an empty store and without a model.toml, in seconds from start to verdict, exports of all variants included. Behind
`--set` stands what the folder does not say. The folders are tiny: most of the time is that of loading libraries.
Ceilings of int8 are loose here, since random weights amplify its error, and so is that of O3 (a GELU by tanh) where
embeddings are sqrt(length) times as long. Then the weights of the exported graph are
changed, and the file is judged by `--artifact`: whether that is seen. What fails whoever exports, and would be a limit
of a model.toml, is left out: {limits}.

Measured by `tox run -e first-look` on {cpu}, {threads} cores:
the median is {median:.0f} s, the longest {longest:.0f} s.
"""


@dataclasses.dataclass(frozen=True)
class Look:
    """What the gate says of one folder.

    Attributes:
        stated: what was said with --set, beside ceilings.
        seconds: from the start to the verdict.
        passed: names of the variants that passed.
        failed: names of the variants that failed, with their first failure.
        fault: the row of faults that was planted; empty where none could be.
        seen_by: the checks that went red over it.
    """

    kind: Kind
    form: str
    stated: tuple[str, ...]
    seconds: float
    passed: tuple[str, ...]
    failed: tuple[str, ...]
    fault: str
    seen_by: tuple[str, ...]

    @property
    def is_right(self) -> bool:
        return bool(self.passed and not self.failed and self.seen_by)

    def __str__(self) -> str:
        verdict = "right" if self.is_right else "WRONG"
        seen = f"{self.fault} seen by {', '.join(self.seen_by) or 'nothing'}"
        failed = "".join(f"; {failure}" for failure in self.failed)
        return f"{verdict} {self.kind.name:34} {self.seconds:5.1f} s {len(self.passed)} variants pass; {seen}{failed}"


class Looker:
    """Runs of the gate over one folder.

    Args:
        scratch: an empty folder for the store and the reports.
    """

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch

    def run(self, folder: Path, name: str, *options: str) -> dict[str, Any]:
        """Run the gate over a folder, and return gate.json."""
        report = self.scratch / name
        paths = {"--checkpoint": folder, "--store": self.scratch / "store", "--report": report}
        command = [
            *(sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-p", "fixtures.options", "-q", "--tb=no"),
            *(word for option, path in paths.items() for word in (option, str(path))),
            *options,
        ]
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if process.returncode not in (0, 1):
            raise RuntimeError(f"{folder}: exit status {process.returncode}: {process.stdout}{process.stderr}")
        gate: dict[str, Any] = json.loads((report / "gate.json").read_text())
        return gate

    def look(self, kind: Kind, form: str, folder: Path) -> Look:
        """Judge a folder as it is, and its plain export with a fault."""
        stated = stated_of(kind, folder)
        longer = ["ceilings.O3.max_abs_error=0.02"] if "mean_sqrt_len_tokens" in kind.pooling else []
        started = time.monotonic()
        gate = self.run(folder, "sound", *_options([*stated, *longer, *loose(task_of(kind))]))
        seconds = time.monotonic() - started
        (model,) = gate["models"]
        passed = [row["variant"] for row in model["variants"] if row["status"] in ("pass", "unbaselined")]
        failed = [
            f"{failure['variant']}: {failure['message'].splitlines()[0]}"
            for failure in gate["failures"]
            if (kind.name, failure["check"]) not in KNOWN_LIMITS
        ]
        (plain,) = (row["path"] for row in model["variants"] if row["variant"] == "plain")
        fault, faulty = self.plant(Path(plain).parent, self.scratch / "sound" / model["name"] / "model.toml")
        seen: list[str] = []
        if fault:
            suites = ("suites/accuracy", "suites/conformance/test_weights.py", "--variant", "plain")
            options = (*suites, f"--artifact={model['name']}:plain={faulty}", *_options(stated))
            seen = [failure["check"] for failure in self.run(folder, "faulty", *options)["failures"]]
        return Look(kind, form, stated, seconds, tuple(passed), tuple(failed), fault, tuple(dict.fromkeys(seen)))

    def plant(self, sound: Path, model_file: Path) -> tuple[str, Path]:
        """Return the first row of faults of weights that has a place in a graph, and the folder with it."""
        settings = msgspec.toml.decode(model_file.read_bytes(), type=Settings)
        architecture = json.loads((sound / "config.json").read_text())["model_type"]
        for fault in WEIGHT_FAULTS:
            folder = self.scratch / "planted"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(sound, folder, copy_function=shutil.copyfile)
            if not applies(fault, "plain", settings, architecture):
                continue
            try:
                fault.plant(Site(folder, {"plain": sound}, "plain", settings, np.random.default_rng(SEED)))
            except Inapplicable:
                continue
            return fault.name, folder
        return "", sound


def stated_of(kind: Kind, folder: Path) -> tuple[str, ...]:
    """Return what --set has to say of a folder: the pooling, the task or the activation, where no file has it."""
    if kind.is_cross_encoder:
        said = read_cross_encoder(folder)
        return ("activation=sigmoid",) if kind.labels == 1 and said.activation is None else ()
    stated = []
    if not (folder / MODULES_FILE).is_file():
        stated.append("pooling=" + "+".join(RENAMED_MODES.get(mode, mode) for mode in kind.pooling))
        if "CausalLM" in (folder / "config.json").read_text():
            stated.insert(0, "task=embedding")
    return tuple(stated)


def loose(task: str) -> list[str]:
    """Return what --set says of the ceilings of int8."""
    return [f"ceilings.int8.{metric}={value}" for metric, value in LOOSE[task].items()]


def _options(stated: Sequence[str]) -> list[str]:
    return [option for said in stated for option in ("--set", said)]


def document(looks: Sequence[Look]) -> str:
    """Return docs/first-look.md."""
    machine, seconds = hardware.detect(), [look.seconds for look in looks]
    limits = "; ".join(f"{check} of {kind} ({reason})" for (kind, check), reason in KNOWN_LIMITS.items())
    introduction = _INTRODUCTION.format(
        limits=limits, cpu=machine.cpu, threads=machine.threads, median=np.median(seconds), longest=max(seconds)
    )
    lines = [
        *("# A first look at folders of every kind", "", introduction),
        "| kind | format | --set | seconds | variants that pass | planted | seen by |",
        "| --- | --- | --- | ---: | --- | --- | --- |",
    ]
    for look in looks:
        passed = f"{len(look.passed)}" + ("" if not look.failed else f", and {len(look.failed)} failures")
        seen = ", ".join(look.seen_by) or "**nothing**"
        cells = (look.kind.name, look.form, " ".join(look.stated), f"{look.seconds:.0f}", passed, look.fault, seen)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> int:
    parser = argparse.ArgumentParser("first_look", description=__doc__)
    parser.add_argument("--kind", action="append", choices=KIND, help="only this kind (repeatable); nothing is written")
    options = parser.parse_args()
    looks, absent = [], []
    for kind in KINDS:
        if options.kind and kind.name not in options.kind:
            continue
        places = ((form, FOLDERS / form / kind.name) for form in NEWEST_FIRST)
        form, folder = next(((form, folder) for form, folder in places if folder.is_dir()), ("", FOLDERS))
        if not form:
            absent.append(kind.name)
            continue
        with tempfile.TemporaryDirectory(prefix="exportgate-") as scratch:
            looks.append(Looker(Path(scratch)).look(kind, form, folder))
        print(looks[-1], flush=True)
    for name in absent:
        print(f"NO FOLDER of {name}: tox run -e sentence-transformers5, then sentence-transformers6")
    if not options.kind and not absent:
        DOCUMENT.write_text(document(looks), encoding="utf-8")
    return bool(absent or not all(look.is_right for look in looks))


if __name__ == "__main__":
    sys.exit(main())
