"""A baselines folder with tiny seeded models, and pytest runs over it in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from fixtures.gate.command_line import parse
from fixtures.gate.context import make_context
from fixtures.gate.session import Gate
from fixtures.plugin.stash import usage_errors

ROOT = Path(__file__).resolve().parents[2]
EMBEDDER = 'task = "embedding"\nsource = "seeded:bert@7"\nmax_length = 64\npooling = "mean"\nnormalize = true\n'
RERANKER = 'task = "rerank"\nsource = "seeded:bert@8"\nmax_length = 64\n'
# Random weights amplify int8's error: what is tested here is the machinery, not these models.
LOOSE = "[ceilings.int8]\nmax_abs_error = 1\nmin_cosine = -1\nmax_similarity_change = 2\ntopk_overlap = 0\n"
VARIANTS = (
    *("plain", "O1", "O2", "O3", "O4", "quantized", "O2-quantized", "O3-quantized"),
    *("O2-raw-mask", "O2-raw-mask-quantized"),
)
FEW = ("--variant", "plain", "--variant", "quantized")
IMPORT_TIME = "import time:"
"""What begins each line of `python -X importtime`."""


def _environment() -> dict[str, str]:
    """Return the environment of a run: without what tells of the run that these tests are."""
    return {key: value for key, value in os.environ.items() if key != "CI" and not key.startswith("PYTEST_")}


def heed_interrupts() -> None:
    """Let SIGINT end this process, although the one that started it ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Run:
    """A finished pytest run.

    Attributes:
        stderr: without the lines about imports.
        imported: modules that its processes imported; empty if that was not traced.
    """

    returncode: int
    stdout: str
    stderr: str
    imported: frozenset[str]

    @property
    def text(self) -> str:
        """All that it printed."""
        return self.stdout + self.stderr

    @property
    def frameworks(self) -> set[str]:
        """Those of PyTorch and Transformers that its own process imported; workers write to the logs of the store."""
        assert "pytest" in self.imported, "imports were not traced"
        return {"torch", "transformers"} & {module.partition(".")[0] for module in self.imported}


class House:
    """A baselines folder and a store, and pytest runs over them.

    Args:
        folder: where baselines and reports are written.
    """

    def __init__(self, folder: Path, store: Path) -> None:
        self.baselines, self.store, self.report = folder / "baselines", store, folder / "report"

    def add(self, name: str, text: str) -> Path:
        """Write a model.toml, and return its folder."""
        folder = self.baselines / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.toml").write_text(text)
        return folder

    def command(self, *options: str, suite: str = "suites/accuracy") -> list[str]:
        return [
            *(sys.executable, "-m", "pytest", suite, "-p", "no:cacheprovider", "-p", "suites.meta.alone"),
            *("--baselines", str(self.baselines), "--store", str(self.store), "--report", str(self.report), *options),
        ]

    def run(
        self,
        *options: str,
        suite: str = "suites/accuracy",
        ci: str | None = None,
        trace_imports: bool = False,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> Run:
        """Run a suite in a process of its own.

        Args:
            variables: of its environment, beside those of this process.
            ci: the value of the variable CI; None where it is not set.
            trace_imports: note what is imported; pytest captures nothing then, since it would swallow the notes.
        """
        environment = _environment() | ({} if ci is None else {"CI": ci}) | dict(variables)
        command = self.command(*options, suite=suite)
        if trace_imports:
            command[1:1] = ["-X", "importtime"]
            command.append("--capture=no")
        process = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="surrogateescape", check=False
        )
        lines = process.stderr.splitlines()
        imported = frozenset(line.rpartition("|")[2].strip() for line in lines if IMPORT_TIME in line)
        errors = "\n".join(line for line in lines if IMPORT_TIME not in line)
        return Run(process.returncode, process.stdout, errors, imported)

    def begin(self, *options: str, interruptible: bool = False) -> subprocess.Popen[str]:
        """Start a run in a process of its own, as `run` does, and return it while it runs; all output is one stream.

        Args:
            interruptible: let SIGINT end it; processes of pytest-xdist ignore that, and so does what they start.
        """
        return subprocess.Popen(
            self.command(*options), cwd=ROOT, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, preexec_fn=heed_interrupts if interruptible else None,
        )  # fmt: skip

    def usage_error(self, **options: object) -> str:
        """Start a session in this process that ends in a usage error, and return its message.

        What pytest makes of such an error is tried by whole runs in test_gate.

        Args:
            options: their values, as pytest has parsed them.
        """
        with pytest.raises(pytest.UsageError) as error, usage_errors():
            self.start(**options)
        return str(error.value)

    def start(self, **options: object) -> Gate:
        """Start a session in this process, and return it with its models read.

        Args:
            options: their values, as pytest has parsed them.
        """
        folders = {"baselines": str(self.baselines), "store": str(self.store), "report": str(self.report)}
        gate = Gate(make_context(parse((folders | options).get, ci=False)))
        gate.context.store  # noqa: B018
        gate.load()
        return gate

    def gate(self) -> dict[str, Any]:
        """Return gate.json."""
        gate: dict[str, Any] = json.loads((self.report / "gate.json").read_text())
        return gate

    def artifacts(self, function: str) -> list[tuple[dict[str, Any], Path]]:
        """Return manifest and folder of every artifact in the store that a step function made, whoever needed it.

        Args:
            function: end of the step's registered name.
        """
        files = self.store.glob("artifacts/*/manifest.json")
        manifests = [(json.loads(file.read_text()), file.parent) for file in files]
        return [(manifest, folder) for manifest, folder in manifests if manifest["recipe"]["run"].endswith(function)]

    def artifact(self, variant: str) -> Path:
        """Return the artifact that the last run judged as a variant of its only model."""
        (digest,) = (row["digest"] for row in self.gate()["models"][0]["variants"] if row["variant"] == variant)
        return next(folder for manifest, folder in self.artifacts("") if manifest["digest"] == digest)

    def statuses(self) -> dict[str, str]:
        """Return the status of each variant of the models; where several models have it, of the last."""
        models = self.gate()["models"]
        return {variant["variant"]: variant["status"] for model in models for variant in model["variants"]}
