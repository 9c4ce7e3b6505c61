"""Time and memory of ranking a large corpus: whether memory grows with the number of passages.

tox run -e corpus                              # 10,000 and 100,000 passages, a small seeded model
tox run -e corpus -- --passages 100000 --model minilm-l6

Each process's time and peak memory are those that the store notes with what it built.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from fixtures.build.manifest import read_manifest

ROOT = Path(__file__).resolve().parents[3]
SEEDED = 'task = "embedding"\nsource = "seeded:bert@7"\nmax_length = 64\npooling = "mean"\nnormalize = true\n'
WORDS = (ROOT / "fixtures" / "retrieval" / "docstrings" / "corpus.jsonl").read_text(encoding="utf-8").split()
QUERIES, LENGTH = 200, 60
"""Queries, each graded for one passage, and words of a passage."""


def write_corpus(folder: Path, passages: int) -> None:
    """Write a folder in BEIR's layout whose passages are words drawn with a seed."""
    drawn = random.Random(0)
    (folder / "qrels").mkdir(parents=True)
    with (
        (folder / "corpus.jsonl").open("w", encoding="utf-8") as corpus,
        (folder / "queries.jsonl").open("w", encoding="utf-8") as queries,
        (folder / "qrels" / "test.tsv").open("w", encoding="utf-8") as qrels,
    ):
        qrels.write("query-id\tcorpus-id\tscore\n")
        for number in range(passages):
            words = drawn.choices(WORDS, k=LENGTH)
            corpus.write(json.dumps({"_id": f"d{number}", "title": "", "text": " ".join(words)}) + "\n")
            if number % (passages // QUERIES) == 0:
                queries.write(json.dumps({"_id": f"q{number}", "text": " ".join(words[:12])}) + "\n")
                qrels.write(f"q{number}\td{number}\t1\n")


def measure(passages: int, model: str) -> None:
    """Rank in a fresh store, and print what each ranking cost."""
    with tempfile.TemporaryDirectory(prefix="exportgate-") as name:
        work = Path(name)
        folder = work / "baselines" / "model"
        write_corpus(folder / "beir", passages)
        text = (ROOT / "baselines" / model / "model.toml").read_text(encoding="utf-8") if model else SEEDED
        (folder / "model.toml").write_text(f'{text}\n[probes]\npath = "beir"\n', encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "fixtures.options"]
        command += [str(ROOT / "suites" / "accuracy" / "test_retrieval.py"), "--variant", "plain", "-q"]
        command += ["--baselines", str(work / "baselines"), "--store", str(work / "store")]
        subprocess.run([*command, "--report", str(work / "report")], cwd=ROOT, check=True)
        for manifest in sorted((work / "store" / "artifacts").glob("*/manifest.json")):
            read = read_manifest(manifest.parent)
            step = str(read.recipe["run"]).rpartition(":")[2]
            if step.startswith("retrieve") and read.cost:
                print(f"{passages:,} passages: {step}: {read.cost}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, action="append", help="by default 10,000 and 100,000")
    parser.add_argument("--model", default="", help="a model of baselines/; by default a small seeded one")
    options = parser.parse_args()
    for passages in options.passages or (10_000, 100_000):
        measure(passages, options.model)


if __name__ == "__main__":
    main()
