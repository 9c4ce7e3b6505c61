"""Clean runs that must stay quiet: fresh processes, one thread and two, other folders, other random texts.

tox run -e false-alarms              # fifty runs; prints each, and how many gave an alarm
tox run -e false-alarms -- --runs 4  # fewer

Each run has a store of its own, with the exports and without what was measured of them, so that all
scores are made again; a temporary folder of its own, whose name is long or has spaces; one thread or two;
Hypothesis draws other texts and batches of one to a few rows, and the checks of batches have 1, 2, 3
and 32 rows.
"""

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
MEASURED = ("score_onnx", "tokenize", "measure")


def gate(store, report, kind, threads, temporary, profile):
    """Run the gate in a fresh process; return seconds and the process."""
    environment = os.environ | {"LOKY_MAX_CPU_COUNT": threads, "TMPDIR": str(temporary)}
    command = [
        *(sys.executable, "-m", "pytest", *KINDS[kind], "-q", "-p", "no:cacheprovider"),
        *("--store", str(store), "--report", str(report), f"--hypothesis-profile={profile}"),
    ]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return time.perf_counter() - start, done


def without_measurements(store, copy):
    """Copy a store, by hard links, without what was measured: it is measured again."""
    shutil.copytree(store, copy, copy_function=os.link, ignore=shutil.ignore_patterns("locks", "logs", "partial"))
    for folder in (copy / "artifacts").iterdir():
        step = json.loads((folder / "manifest.json").read_text())["recipe"]["run"].rpartition(":")[2]
        if step in MEASURED:
            shutil.rmtree(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--store", type=Path, help="a warm store; by default one is made first")
    chosen = parser.parse_args()
    alarms = []
    with tempfile.TemporaryDirectory(prefix="exportgate-") as folder:
        work = Path(folder)
        store = chosen.store or work / "store"
        for kind in KINDS:
            _, done = gate(store, work / "report", kind, "2", work, "gate")
            if done.returncode:
                sys.exit(f"the gate is not clean to begin with:\n{done.stdout[-4000:]}{done.stderr[-2000:]}")
        runs = itertools.cycle(itertools.product(FOLDERS, THREADS, KINDS))
        for number, (name, threads, kind) in zip(range(1, chosen.runs + 1), runs, strict=False):
            place = work / name / str(number)
            (place / "tmp").mkdir(parents=True)
            without_measurements(store, place / "store")
            taken, done = gate(place / "store", place / "report", kind, threads, place / "tmp", "elsewhere")
            failures = json.loads((place / "report" / "gate.json").read_text())["failures"]
            said = [f"{one['variant']} {one['check']}: {one['message'].splitlines()[0]}" for one in failures]
            print(f"{number:3} {kind:34} {threads} threads, {name[:20]!r}: {taken:5.1f} s, exit {done.returncode}",
                  *said, sep="\n    ", flush=True)  # fmt: skip
            if done.returncode:
                alarms.append(number)
            shutil.rmtree(place)
    print(f"{len(alarms)} false alarms in {chosen.runs} clean runs")
    sys.exit(bool(alarms))


if __name__ == "__main__":
    main()
