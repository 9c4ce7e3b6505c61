"""Results with everything that index.html may show, and with texts that would like to be more than text."""

from __future__ import annotations

import math

import msgspec

from fixtures.baselines.tolerances import ProvenanceChange
from fixtures.latency.pairs import GRIDS
from fixtures.latency.records import Cell, Measurement, Quantity, Speed, Undecided
from fixtures.report.conclusions import conclude
from fixtures.report.probe_results import (
    MovedProbe,
    Neighbour,
    ProbeErrors,
    ProbeNeighbours,
    ProbeScore,
    QueryRanking,
    RankedPassage,
    ScoreKind,
    ShownProbe,
    SinceApproval,
)
from fixtures.report.results import (
    Check,
    ClaimAnswer,
    ClaimStatus,
    Failure,
    MachineRecord,
    ModelResult,
    Results,
    Status,
    VariantResult,
)
from fixtures.scoring.tasks import TASKS

HOSTILE = (
    '<script>document.title = "taken over"</script><img src=x onerror="document.title = \'taken over\'">',
    "]]>--></style></script></textarea><h1>another page</h1>",
    "left\u202eto right\u2066 and\u200f back",
    "bell \x07 escape \x1b[31m null \x00 delete \x7f",
    "{{ 7 * 7 }} {% include 'index.css' %} ${7 * 7}",
    "a" * 300,
    "日本語のテキスト, النص العربي, עברית",
)
"""Texts of probes; each is shown as it is, or with escapes in place of what cannot be seen."""
LIMIT = "scores_hold_under_mask: only right padding is right (https://example.org/1)"
NO_GPU = "O4 needs CUDAExecutionProvider, and this machine has CPUExecutionProvider"
MS = {"PyTorch": 30.0, "plain": 24.0, "O1": 24.0, "O2": 20.0, "O3": 19.0, "quantized": 13.0, "O2-quantized": 11.0}
"""Name -> p50 of one text of 128 tokens."""
ERRORS = {"plain": 2e-7, "O1": 2e-7, "O2": 3e-7, "O3": 7e-4, "quantized": 0.04, "O2-quantized": 0.038}
COMMAND = "python -m pytest -c pyproject.toml -p fixtures.options " + "--model some-model " * 12 + "-k scores_hold"


def cells(name: str, grid: str) -> list[Cell]:
    """Return latencies over a grid: in proportion to the number of tokens."""
    timed = []
    for batch, length in GRIDS[grid]:
        ms = MS[name] * batch * length / 128 + 0.8
        ratio = (MS["plain"] * batch * length / 128 + 0.8) / ms
        interval = ratio * 0.98, ratio * 1.02
        timed.append(Cell(batch, length, ms, ms * 1.1, 1e3 * batch / ms, ratio, interval, None, 40, 2, ms * 1.2))
    return timed


def probe(index: int, count: int) -> ShownProbe:
    texts = [HOSTILE[(index + offset) % len(HOSTILE)] for offset in range(count)]
    return ShownProbe(f"probe-{index}", texts, 7 * index + 3)


def variant(task: str, name: str, grid: str) -> VariantResult:
    """Return a variant that keeps its limits, with all that is known of its probes."""
    metrics = TASKS[task].metrics
    error, ceiling = ERRORS[name], 0.08 if "quantized" in name else 2e-3
    pairs = task == "rerank"
    speed = Speed("plain", 1, 128, 1.5, (1.49, 1.51), 100, 5, "some processor")
    checks = {f"check_{number}_of_graphs_and_scores": Check(Status.PASS) for number in range(40)}
    checks["scores_hold_under_mask"] = Check(Status.LIMIT, LIMIT) if name.startswith("O2") else Check(Status.PASS)
    checks["tokens_are_the_checkpoints"] = Check(Status.PASS, "a finding about <b>tokens</b>")
    checks["no_node_leaves_the_gpu"] = Check(Status.UNSUPPORTED, NO_GPU)
    checks["int8_alone"] = Check(Status.INAPPLICABLE)
    result = VariantResult(
        name,
        digest="sha256:ab",
        bytes=23_000_000 if "quantized" in name else 90_000_000,
        fingerprint="sha256:" + "f0" * 32,
        path=f"/store/{name}/model.onnx",
        closeness={metrics[0]: error, metrics[1]: 0.9999},
        ceiling={metrics[0]: ceiling},
        drift={metrics[0]: 3e-8},
        latency=cells(name, grid),
        speed=speed,
        approved_speed=msgspec.structs.replace(speed, ratio=1.8, interval=(1.79, 1.81)),
        limits=[LIMIT] if name.startswith("O2") else [],
        limits_in_short=["right padding only"] if name.startswith("O2") else [],
        checks=checks,
        load_ms=80.0,
        probe_errors=ProbeErrors(metrics[0], 412, [error * math.exp((rank - 199) / 40) for rank in range(200)]),
        moved_probes=[
            MovedProbe(
                [probe(index, 2 if pairs else 1)],
                ScoreKind.LOGIT if pairs else ScoreKind.COSINE,
                ProbeScore(1.0),
                ProbeScore(1 - error / (index + 1)),
                error / (index + 1),
            )
            for index in range(10)
        ],
        since_approval=approval(ProvenanceChange("ONNX file", "sha256:" + "b" * 64, "sha256:" + "c" * 64)),
    )
    if pairs:
        passages = [
            RankedPassage(f"p{rank}", HOSTILE[rank % 7], rank + 1, 20 - rank, 5 - rank / 2, rank / 2, rank % 3)
            for rank in range(20)
        ]
        result.ranking = QueryRanking("q7", HOSTILE[0], -1.0, 40, passages)
    else:
        near = [Neighbour(probe(index, 1), 0.9 - index / 50) for index in range(6)]
        result.neighbours = [ProbeNeighbours(probe(9, 1), near[:5], [*near[:3], near[4], near[5]], 0.02)]
    return result


def approval(*changes: ProvenanceChange) -> SinceApproval:
    upgrade = ProvenanceChange("onnxruntime", "1.31.0", "1.32.0")
    return SinceApproval(
        "2026-11-20",
        "sha256:" + "a" * 64,
        "avx512",
        "A CPU",
        {"onnxruntime": "1.31.0"},
        [upgrade, *changes],
        True,
        3e-8,
    )


def model(name: str, task: str, grid: str) -> ModelResult:
    """Return a model with the variants of ERRORS and one that cannot run here; O2-quantized is undecided everywhere."""
    variants = [variant(task, label, grid) for label in ERRORS]
    variants[-1].undecided = [
        Undecided(Measurement(Quantity.LATENCY, cell.batch, cell.length), "other processes took 50% of the time")
        for cell in variants[-1].latency
    ]
    variants[-1].latency = []
    variants.append(
        VariantResult(
            "O4",
            status=Status.UNSUPPORTED,
            reason=NO_GPU,
            checks={check: Check(Status.UNSUPPORTED, NO_GPU) for check in variants[0].checks},
        )
    )
    return ModelResult(
        name,
        "sha256:" + "cb" * 32,
        task,
        variants=variants,
        checks={"tokens_are_the_checkpoints": Check(Status.PASS)},
        torch_latency=cells("PyTorch", grid),
        reference_drift={TASKS[task].metrics[0]: 1e-7},
        since_approval=approval(),
        max_length=256,
    )


def page_results(*names: str, grid: str = "quick", failing: bool = False) -> Results:
    """Return concluded results of models, by default of an embedder and a reranker.

    Args:
        failing: whether O3 of the first model fails.
    """
    machine = MachineRecord(
        arch="x86_64", native="avx512", tier="avx512", cpu="Some <CPU>", cores=4, providers=["CPUExecutionProvider"]
    )
    tasks = ("embedding", "rerank")
    models = [
        model(name, tasks[index % 2], grid) for index, name in enumerate(names or ("an-embedder", "a-<b>reranker</b>"))
    ]
    failures = []
    if failing:
        message = f"{models[0].name} O3: 3 of 412 probes break the ceiling\n  {HOSTILE[1]}\n  reproduce: {COMMAND}"
        failures.append(Failure(models[0].name, "O3", "scores_stay_within_ceiling", message, COMMAND))
    answers = [
        ClaimAnswer(f"field notes: claim {number}", "a ratio", model.name, ClaimStatus.HOLDS, f"{number} of 9")
        for model in models
        for number in range(9)
    ]
    results = Results(machine, {"onnxruntime": "1.32.0", "torch": "2.8.0"}, models, failures, answers=answers)
    conclude(results, passed=not failing)
    return results


def without_latencies(results: Results) -> Results:
    """Return the results as a run without the latency suite has them."""
    for model in results.models:
        model.torch_latency = []
        for variant in model.variants:
            variant.latency, variant.undecided, variant.speed, variant.load_ms = [], [], None, None
    conclude(results, passed=True)
    return results
