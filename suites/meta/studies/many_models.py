"""Judges many small seeded models: how collection and cost grow, and what processes side by side save.

tox run -e many-models                  # 10, 20 and 40 models with every default variant
tox run -e many-models -- --models 8    # 2, 4 and 8

A run is cold once, from an empty store, and warm several times, on one process and with -n 2. What a run builds is
counted against the artifacts in the store: nothing is built twice.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from fixtures.report import files
from fixtures.report.results import Results
from suites.meta.house import EMBEDDER, LOOSE

ROOT = Path(__file__).resolve().parents[3]
COLUMNS = (
    *("models", "collected in s", "cold s", "cold s, -n 2", "warm s", "warm s, -n 2"),
    *("cold: one process to two", "warm: one process to two", "steps built twice"),
)
ROUNDS = 3


@dataclass(frozen=True)
class Site:
    """A folder of models, with a store of its own."""

    folder: Path

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def add_models(self, count: int) -> None:
        for seed in range(count):
            folder = self.folder / "baselines" / f"tiny-{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "model.toml").write_text(EMBEDDER.replace("@7", f"@{seed}") + LOOSE)

    def run_s(self, *options: str) -> float:
        """Run the accuracy suite, and return its seconds.

        Raises:
            SystemExit: a check failed.
        """
        command = [
            *(sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), "-p", "fixtures.options"),
            *("-p", "no:cacheprovider", "suites/accuracy", "--baselines", str(self.folder / "baselines")),
            *("--store", str(self.store), "--report", str(self.folder / "report"), *options),
        ]
        start = time.perf_counter()
        run = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True, check=False)
        if run.returncode:
            sys.exit(f"{' '.join(options)}: exit status {run.returncode}\n{run.stdout[-4000:]}{run.stderr[-2000:]}")
        return time.perf_counter() - start

    def results(self) -> Results:
        return files.read(self.folder / "report" / files.JSON_FILE)

    def artifacts(self) -> int:
        return sum(1 for _ in self.store.glob("artifacts/*"))


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "CI"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=40)
    options = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n| {' | '.join(['---:'] * len(COLUMNS))} |")
    with tempfile.TemporaryDirectory(prefix="exportgate-") as name:
        for count in (options.models // 4, options.models // 2, options.models):
            site, beside = Site(Path(name) / f"one-{count}"), Site(Path(name) / f"two-{count}")
            for place in (site, beside):
                place.add_models(count)
            collected_s = statistics.median(site.run_s("--collect-only") for _ in range(ROUNDS))
            cold_s = site.run_s()
            cold_beside_s = beside.run_s("-n", "2")
            twice = len(beside.results().steps.built) - beside.artifacts()
            warm_s = [(site.run_s(), beside.run_s("-n", "2")) for _ in range(ROUNDS)]
            ratio = statistics.median(alone / together for alone, together in warm_s)
            alone_s, together_s = (statistics.median(times) for times in zip(*warm_s, strict=True))
            cells = (count, f"{collected_s:.1f}", f"{cold_s:.0f}", f"{cold_beside_s:.0f}", f"{alone_s:.1f}")
            ratios = (f"{together_s:.1f}", f"{cold_s / cold_beside_s:.2f}", f"{ratio:.2f}", str(twice))
            print(f"| {' | '.join([*map(str, cells), *ratios])} |", flush=True)


if __name__ == "__main__":
    main()
