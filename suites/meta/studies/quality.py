"""What each variant costs in the ranking that people see: nDCG@10 over the docstrings on board, beside its errors.

tox run -e quality                  # writes docs/quality.md: both embedded models, the two together, and a real MPNet
tox run -e quality -- --model minilm-l6

An embedder ranks all 3,200 passages, a reranker the candidates of BM25; together the reranker orders the embedder's
first candidates, both in the same variant. Each loss has a bootstrap interval over the 400 queries.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit
from safetensors.numpy import load_file

from fixtures.arrays import Array
from fixtures.build.needs import ModelSize
from fixtures.gate import retrieved
from fixtures.gate.command_line import parse
from fixtures.gate.context import make_context
from fixtures.gate.session import Gate
from fixtures.retrieval.quality import CONFIDENCE, Loss, loss_of
from fixtures.retrieval.retrieve import RUN_FILE, plan_candidates_of_run
from fixtures.runtimes import hardware
from fixtures.scoring.closeness import broken
from suites.meta.studies import real

ROOT = Path(__file__).resolve().parents[3]
PAGE, PASSAGES = ROOT / "docs" / "quality.md", ROOT / "fixtures" / "retrieval" / "docstrings"
BEGIN, END = "<!-- Written by: tox run -e quality -->", "<!-- end of what tox run -e quality writes -->"
EMBEDDER, RERANKER, REAL = "minilm-l6", "minilm-reranker", "all-mpnet-base-v2"
MODELS: Mapping[str, tuple[Path, tuple[str, ...]]] = {
    EMBEDDER: (
        ROOT / "baselines" / EMBEDDER,
        ("plain", "O3", "quantized", "O2-quantized", "static-quantized", "int8-weights", "int4"),
    ),
    RERANKER: (
        ROOT / "baselines" / RERANKER,
        ("plain", "O3", "quantized", "O2-quantized", "static-quantized", "int8-weights", "int4"),
    ),
    REAL: (
        ROOT / "baselines" / "real" / REAL,
        ("plain", "quantized", "O2-quantized", "quantized-restored", "int8-weights", "int4"),
    ),
}
"""Model -> the folder of its model.toml, and what is measured of it."""
TOGETHER = ("plain", "quantized", "O2-quantized")
"""Variants in which an embedder and a reranker are tried together."""


def write_baselines(folder: Path, names: Sequence[str]) -> None:
    """Write each model's model.toml as it is, but judged by the docstrings too."""
    for name in names:
        source, variants = MODELS[name]
        document = tomlkit.parse((source / "model.toml").read_text(encoding="utf-8"))
        document["variants"] = list(variants)
        document["probes"] = {"path": str(PASSAGES)}
        for key in ("source", "adapter"):
            where = str(document.get(key, ""))
            if key == "adapter" and where:
                shutil.copytree(source / where, folder / name / where)
            if where.startswith("path:"):
                document[key] = f"path:{(source / where.removeprefix('path:')).resolve()}"
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "model.toml").write_text(tomlkit.dumps(document), encoding="utf-8")


def judge(baselines: Path, report: Path, store: Sequence[str]) -> dict[str, Any]:
    """Run the suites of accuracy, whatever fails, and return gate.json."""
    suites = [str(ROOT / "suites" / "accuracy" / name) for name in ("test_retrieval.py", "test_scores.py")]
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "fixtures.options", *suites]
    command += ["--baselines", str(baselines), "--report", str(report), *store]
    subprocess.run(command, cwd=ROOT, check=False)
    result: dict[str, Any] = json.loads((report / "gate.json").read_text(encoding="utf-8"))
    return result


def rows_of(model: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield the rows of a model's table: PyTorch, then each variant."""
    measured = [variant for variant in model["variants"] if variant["quality"]]
    reference = {loss["grade"]: loss["reference"] for loss in measured[0]["quality"]["losses"]}
    yield [model["name"], "PyTorch", "", "", *(f"{reference.get(name, 0):.4f}" for name in ("ndcg_at_10",)), "", ""]
    for variant in measured:
        error, likeness = list(variant["closeness"])[:2]
        errors = [f"{variant['closeness'][error]:.2g}", f"{variant['closeness'][likeness]:.3f}"]
        limits = variant["ceiling"]
        ceiling = ", ".join(f"breaks {name}" for name in broken(variant["closeness"], limits)) or "kept"
        loss = next(loss for loss in variant["quality"]["losses"] if loss["grade"] == "ndcg_at_10")
        known = Loss(**loss)
        yield [model["name"], variant["variant"], *errors, f"{known.value:.4f}", in_words(known), ceiling]


def in_words(loss: Loss) -> str:
    """Return a loss with its interval."""
    if loss.is_none:
        return "none"
    text = f"{loss.loss:+.4f} ({loss.low:+.4f} to {loss.high:+.4f})"
    return text if loss.told_apart else f"{text}, not told apart"


def together(baselines: Path, store: Sequence[str]) -> Iterator[list[str]]:
    """Yield the rows of embedder and reranker together, each variant beside PyTorch's pair."""
    values = {"baselines": str(baselines), "report": str(baselines / "report"), "model": [EMBEDDER, RERANKER]}
    values |= {"store": store[1]} if store else {}
    gate = Gate(make_context(parse(values.get, ci=False)))
    subjects = {subject.name: subject for subject in gate.load()}
    embedder, reranker = subjects[EMBEDDER], subjects[RERANKER]

    def grades_of(variant: str) -> Array:
        cases = [gate.case(subject, variant) if variant else None for subject in (embedder, reranker)]
        found = retrieved.plan(cases[0]) if cases[0] else retrieved.plan_reference(embedder)
        count = reranker.model.settings.probes
        assert count
        candidates = plan_candidates_of_run(found, count.candidates)
        ordered = retrieved.plan(cases[1], candidates) if cases[1] else retrieved.plan_reference(reranker, candidates)
        gate.context.build({ordered: ModelSize()}, lambda built, _: print(built, flush=True))
        run: Array = load_file(gate.context.artifact(ordered).folder / RUN_FILE)["ndcg_at_10"]
        return run

    reference = grades_of("")
    yield ["both", "PyTorch", "", "", f"{reference.mean():.4f}", "", ""]
    for variant in TOGETHER:
        loss = loss_of("ndcg_at_10", reference, grades_of(variant))
        yield ["both", variant, "", "", f"{loss.value:.4f}", in_words(loss), ""]


def page(rows: Sequence[Sequence[str]]) -> str:
    machine = hardware.detect()
    header = (
        "model",
        "variant",
        "worst error",
        "lowest cosine, or mean logit error",
        "nDCG@10",
        "loss",
        "ceilings of errors",
    )
    lines = [
        f"Measured on {machine.cpu}, tier {machine.tier}, {time.strftime('%Y-%m-%d')}: 400 queries over 3,200 "
        f"passages. Intervals are of {CONFIDENCE:.0%}.",
        "",
        f"| {' | '.join(header)} |",
        f"| {' | '.join('---' for _ in header)} |",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=list(MODELS), help="by default all")
    parser.add_argument("--store", help="by default the gate's own")
    options = parser.parse_args()
    names = options.model or list(MODELS)
    store = ("--store", options.store) if options.store else ()
    if REAL in names:
        real.join(REAL)
    with tempfile.TemporaryDirectory(prefix="exportgate-") as folder:
        baselines = Path(folder, "baselines")
        write_baselines(baselines, names)
        results = judge(baselines, Path(folder, "report"), store)
        rows = [row for model in results["models"] for row in rows_of(model)]
        if {EMBEDDER, RERANKER} <= set(names):
            rows += together(baselines, store)
    print(page(rows))
    if not options.model:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        PAGE.write_text(f"{before}{BEGIN}\n\n{page(rows)}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
