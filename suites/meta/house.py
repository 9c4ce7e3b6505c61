"""A baselines folder with tiny seeded models, and pytest runs over it in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

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


class House:
    """A baselines folder and a store, and pytest runs over them."""

    def __init__(self, folder, store):
        self.baselines, self.store, self.report = folder / "baselines", store, folder / "report"

    def add(self, name, text):
        (self.baselines / name).mkdir(parents=True, exist_ok=True)
        (self.baselines / name / "model.toml").write_text(text)
        return self.baselines / name

    def command(self, *options, suite="suites/accuracy"):
        return [
            sys.executable, "-X", "importtime", "-m", "pytest", suite, "-p", "no:cacheprovider",
            "-p", "suites.meta.alone",
            "--baselines", str(self.baselines), "--store", str(self.store), "--report", str(self.report), *options,
        ]  # fmt: skip

    def run(self, *options, suite="suites/accuracy", ci=None):
        environment = {key: value for key, value in os.environ.items() if key != "CI" and not key.startswith("PYTEST_")}
        done = subprocess.run(
            self.command(*options, suite=suite), cwd=ROOT, env=environment | ({"CI": ci} if ci else {}),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        imported = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time:" in line]
        done.heavy = {"torch", "transformers"} & set(imported)
        errors = [line for line in done.stderr.splitlines() if "import time:" not in line]
        done.text = done.stdout + "\n".join(errors)
        return done

    def gate(self):
        return json.loads((self.report / "gate.json").read_text())

    def statuses(self):
        return {one["variant"]: one["status"] for model in self.gate()["models"] for one in model["variants"]}
