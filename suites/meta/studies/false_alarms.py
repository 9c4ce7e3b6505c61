"""Runs the gate on sound exports, which must stay quiet: fresh processes, one thread and two, other folders and texts.

tox run -e false-alarms              # fifty runs; prints each, and how many gave an alarm
tox run -e false-alarms -- --runs 4  # fewer

Each run has a store of its own, with the exports and without what was measured of them, so that all
scores are made again; a temporary folder of its own, whose name is long or has spaces; one thread or two;
Hypothesis draws other texts and batches of one to a few rows, and the checks of batches have 1, 2, 3
and 32 rows.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
THREADS = ("1", "2")
FOLDERS = ("short", "with spaces in it", "a-" + "long-" * 20 + "name")
ZOO = ("--baselines", "baselines/zoo")
KINDS = {
    "embedded models, approved scores": ["suites/accuracy", "suites/conformance/test_tokenizer.py"],
    "bert-embedder, all checks": ["suites/accuracy", "suites/conformance", *ZOO, "--model", "bert-embedder"],
    "reranker, all checks": ["suites/accuracy", "suites/conformance", *ZOO, "--model", "xlm-roberta-reranker"],
}
"""What a run judges: real models against what was approved of them, and tiny ones in every respect."""
MEASUREMENTS = ("score_onnx", "tokenize", "measure")
"""Steps whose artifacts a run makes again."""


def run_gate(
    store: Path, report: Path, kind: str, threads: str, temporary: Path, profile: str
) -> subprocess.CompletedProcess[str]:
    """Run the gate in a fresh process.

    Args:
        kind: a key of KINDS.
        temporary: folder for temporary files.
        profile: of Hypothesis.
    """
    environment = os.environ | {"LOKY_MAX_CPU_COUNT": threads, "TMPDIR": str(temporary)}
    command = [
        *(sys.executable, "-m", "pytest", *KINDS[kind], "-q", "-p", "no:cacheprovider"),
        *("--store", str(store), "--report", str(report), f"--hypothesis-profile={profile}"),
    ]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def copy_exports(store: Path, copy: Path) -> None:
    """Copy a store, by hard links, without what was measured: it is measured again."""
    shutil.copytree(
        store, copy, copy_function=os.link, ignore=shutil.ignore_patterns("locks", "logs", "partial", "sessions")
    )
    for folder in (copy / "artifacts").iterdir():
        step = json.loads((folder / "manifest.json").read_text())["recipe"]["run"].rpartition(":")[2]
        if step in MEASUREMENTS:
            shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--store", type=Path, help="a warm store; by default one is made first")
    options = parser.parse_args()
    alarms = 0
    with tempfile.TemporaryDirectory(prefix="exportgate-") as folder:
        work = Path(folder)
        store = options.store or work / "store"
        for kind in KINDS:
            process = run_gate(store, work / "report", kind, "2", work, "gate")
            if process.returncode:
                sys.exit(f"the gate is not clean to begin with:\n{process.stdout[-4000:]}{process.stderr[-2000:]}")
        setups = itertools.cycle(itertools.product(FOLDERS, THREADS, KINDS))
        for number, (name, threads, kind) in zip(range(1, options.runs + 1), setups, strict=False):
            place = work / name / str(number)
            (place / "tmp").mkdir(parents=True)
            copy_exports(store, place / "store")
            start = time.perf_counter()
            process = run_gate(place / "store", place / "report", kind, threads, place / "tmp", "elsewhere")
            duration = f"{time.perf_counter() - start:5.1f} s, exit {process.returncode}"
            print(f"{number:3} {kind:34} {threads} threads, {name[:20]!r}: {duration}", flush=True)
            for failure in json.loads((place / "report" / "gate.json").read_text())["failures"]:
                first_line = failure["message"].splitlines()[0]
                print(f"    {failure['variant']} {failure['check']}: {first_line}", flush=True)
            alarms += bool(process.returncode)
            shutil.rmtree(place)
    print(f"{alarms} false alarms in {options.runs} clean runs")
    sys.exit(bool(alarms))


if __name__ == "__main__":
    main()
