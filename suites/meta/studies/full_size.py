"""Judges a checkpoint of 568 million random weights: time, memory of each step, and disk, beside optimum-cli.

tox run -e full-size                              # the shape of bge-reranker-v2-m3; writes docs/full-size.md and .json
tox run -e full-size -- --shape bge-m3            # three heads, and a text of 8,192 tokens at batch 1; writes nothing
tox run -e full-size -- --suite suites/conformance --variant plain    # other checks, or a part; writes nothing

Memory is what Linux says: of a process its peak resident set (VmHWM), of a step that of its process while it built,
of all together the sum of their proportional sets (PSS), sampled. Disk is what the blocks of the store's files take.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import psutil

from fixtures.build.cost import peak_of
from fixtures.build.reuse import BuiltStep
from fixtures.export import seeded
from fixtures.report import files
from fixtures.report.results import Results
from fixtures.runtimes import hardware
from suites.meta.studies.bench import TIER_FLAG
from suites.meta.studies.scale import COSTS, Cost, FullSizeCosts, VariantCost, WarmCost

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "full-size.md"
OPTIMUM = str(Path(sys.executable).with_name("optimum-cli"))
SAMPLE_S = 0.5
SHAPES: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "bge-reranker-v2-m3": ("AutoModelForSequenceClassification", "rerank", ()),
    "bge-m3": ("fixtures.m3:load", "bge-m3", ("max_length=8192",)),
}
"""Name -> class that the checkpoint is made for, task, and what else `--set` says."""
VARIANTS = ("plain", "O1", "O2", "O3", "quantized", "O2-quantized")
"""What optimum-cli can be asked for too."""
SUITES = ("suites/accuracy",)
FILES_ALONE = ("suites/conformance/test_contract.py::test_outputs_are_those_of_the_task",)
"""Checks that read graphs and score nothing, so that a run of them is the time that the files take."""


@dataclass
class Usage:
    """What a command took.

    Attributes:
        busy_s: seconds of all cores of the machine together.
        peak_bytes: of each of its processes, by process id.
        together_bytes: of all its processes at most.
        disk_bytes: of the folder that it writes, at most.
    """

    seconds: float = 0
    busy_s: float = 0
    together_bytes: int = 0
    disk_bytes: int = 0
    status: int = 0
    peak_bytes: dict[int, int] = field(default_factory=dict)

    @property
    def largest_bytes(self) -> int:
        return max(self.peak_bytes.values(), default=0)


def busy_s() -> float:
    cpu = psutil.cpu_times()
    return float(cpu.user + cpu.nice + cpu.system)


def bytes_in(folder: Path) -> int:
    """Return the bytes that the files in a folder take on the disk; those that vanish meanwhile take none."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(parent, name).lstat().st_blocks * 512
    return total


def measure(command: Sequence[str], written: Path, output: Path) -> Usage:
    """Run a command, and return what it took.

    Args:
        written: the folder that it writes.
        output: file for what it prints.
    """
    usage = Usage()
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    with output.open("w") as stream:
        start, busy = time.perf_counter(), busy_s()
        process = psutil.Popen(command, cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT)
        while process.poll() is None:
            together = 0
            for member in [process, *process.children(recursive=True)]:
                with contextlib.suppress(psutil.Error, OSError):
                    together += member.memory_full_info().pss
                    usage.peak_bytes[member.pid] = max(peak_of(member.pid), usage.peak_bytes.get(member.pid, 0))
            usage.together_bytes = max(usage.together_bytes, together)
            usage.disk_bytes = max(usage.disk_bytes, bytes_in(written))
            time.sleep(SAMPLE_S)
        usage.seconds, usage.busy_s, usage.status = time.perf_counter() - start, busy_s() - busy, process.returncode
    return usage


def gate_command(checkpoint: Path, shape: str, variants: Sequence[str], suites: Sequence[str], work: Path) -> list[str]:
    _, task, stated = SHAPES[shape]
    return [
        *(sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "fixtures.options"),
        *("-p", "no:cacheprovider", *suites, "--checkpoint", str(checkpoint), "--set", f"task={task}"),
        *(word for setting in stated for word in ("--set", setting)),
        *(word for variant in variants for word in ("--variant", variant)),
        *("--store", str(work / "store"), "--report", str(work / "report")),
    ]


def optimum_commands(checkpoint: Path, output: Path) -> dict[str, list[str]]:
    """Return the commands that make what optimum-cli can make, by variant."""
    export = [OPTIMUM, "export", "onnx", "--model", str(checkpoint), "--task", "text-classification"]
    export += ["--library-name", "transformers"]
    tier = hardware.detect().tier
    flag = TIER_FLAG.get(tier, f"--{tier}")
    commands = {"plain": [*export, str(output / "plain")]}
    commands |= {level: [*export, "--optimize", level, str(output / level)] for level in ("O1", "O2", "O3")}
    for name, source in (("quantized", "plain"), ("O2-quantized", "O2")):
        quantize = [OPTIMUM, "onnxruntime", "quantize", "--onnx_model", str(output / source), flag, "--per_channel"]
        commands[name] = [*quantize, "-o", str(output / name)]
    return commands


def variant_of(step: BuiltStep, variants: Sequence[str]) -> str:
    """Return the variant that a step is built for, which its label says; empty if it is built for several."""
    path = step.step.partition(": ")[2].partition(":")[0]
    names = {"export": "plain", "export > MinMax": "static-quantized"}
    name = names.get(path) or path.removeprefix("export > ").replace(" for-int8 > quantize-fused", "-quantized")
    name = name.replace("quantize-restored", "static-quantized-restored").removesuffix("quantize") or "quantized"
    return name if name in variants else ""


def gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f}"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(map(str, line))} |" for line in lines] + [""]


def steps_table(results: Results) -> list[str]:
    rows = [
        (step.step, f"{step.cost.seconds:.0f}", gigabytes(step.cost.peak_bytes))
        for step in results.steps.built
        if step.cost
    ]
    return table(("step", "s", "peak GB of its process"), rows)


def costs_of(results: Results, checkpoint: Path, warm: Usage, variants: Sequence[str], measured: str) -> FullSizeCosts:
    """Return the costs that the study of scale reads."""
    (model,) = results.models
    built: dict[str, list[BuiltStep]] = defaultdict(list)
    for step in results.steps.built:
        built[variant_of(step, variants)].append(step)

    def cost(name: str, stored_bytes: int, check_seconds: float) -> dict[str, Any]:
        steps = built[name]
        return {
            "build_seconds": round(sum(step.cost.seconds for step in steps if step.cost), 1),
            "check_seconds": round(check_seconds, 1),
            "peak_bytes": max((step.cost.peak_bytes for step in steps if step.cost), default=0),
            "stored_bytes": stored_bytes,
            "stored_objects": len(steps),
        }

    share = (model.check_seconds or 0) / max(1, len(model.variants))
    return FullSizeCosts(
        measured=measured,
        checkpoint_bytes=bytes_in(checkpoint),
        shared=Cost(**cost("", 0, 0)),
        variants={
            variant.variant: VariantCost(artifact_bytes=variant.bytes, **cost(variant.variant, variant.bytes, share))
            for variant in model.variants
        },
        warm=WarmCost(round(warm.seconds, 1), sum(variant.bytes for variant in model.variants)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="bge-reranker-v2-m3")
    parser.add_argument("--variant", action="append")
    parser.add_argument("--suite", action="append")
    parser.add_argument("--checkpoint", type=Path, help="a folder that an earlier run made; by default one is made")
    parser.add_argument("--work", type=Path, help="folder for everything that is made; by default a temporary one")
    parser.add_argument("--without-optimum", action="store_true", help="do not run optimum-cli")
    options = parser.parse_args()
    variants, suites = options.variant or VARIANTS, options.suite or SUITES
    whole = not (options.variant or options.suite or options.without_optimum) and options.shape == "bge-reranker-v2-m3"
    with tempfile.TemporaryDirectory(prefix="exportgate-") as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        checkpoint = options.checkpoint or work / "checkpoint" / options.shape
        if not checkpoint.exists():
            checkpoint.mkdir(parents=True)
            make = {"architecture": "xlm_roberta_large", "seed": 0, "auto_class": SHAPES[options.shape][0], "labels": 1}
            seeded.make([], checkpoint, make)
        command = gate_command(checkpoint, options.shape, variants, suites, work)
        cold = measure(command, work / "store", work / "gate.log")
        print((work / "gate.log").read_text()[-6000:])
        results = files.read(work / "report" / files.JSON_FILE)
        lines = [
            f"Cold gate: {cold.seconds:.0f} s, exit status {cold.status}; both cores together were busy for "
            f"{cold.busy_s:.0f} s. The largest process held {gigabytes(cold.largest_bytes)} GB, all together "
            f"{gigabytes(cold.together_bytes)} GB; the store took {gigabytes(cold.disk_bytes)} GB at most, and "
            f"{gigabytes(bytes_in(work / 'store'))} GB afterwards.",
            "",
            *steps_table(results),
        ]
        warm = measure(command, work / "store", work / "warm.log")
        lines += [
            f"Warm gate: {warm.seconds:.0f} s, exit status {warm.status}; the largest process held "
            f"{gigabytes(warm.largest_bytes)} GB.",
            "",
        ]
        if not options.without_optimum and options.shape == "bge-reranker-v2-m3":
            command = gate_command(checkpoint, options.shape, variants, FILES_ALONE, work / "files")
            built = measure(command, work / "files" / "store", work / "files.log")
            shutil.rmtree(work / "files")
            lines += beside_optimum(checkpoint, work, [name for name in VARIANTS if name in variants], built)
        print("\n".join(lines))
        if whole:
            machine = hardware.detect()
            measured = (
                f"{options.shape}'s shape with random weights on {machine.cpu}, tier {machine.tier}, "
                f"{machine.threads} threads, {machine.memory_bytes / 2**30:.0f} GiB available, onnxruntime "
                f"{results.versions['onnxruntime']}, {time.strftime('%Y-%m-%d')}"
            )
            costs = costs_of(results, checkpoint, warm, variants, measured)
            COSTS.write_text(json.dumps(msgspec.to_builtins(costs), indent=1) + "\n")
            write_page([f"Measured: {measured}.", "", *lines])


def beside_optimum(checkpoint: Path, work: Path, variants: Sequence[str], built: Usage) -> list[str]:
    """Make the same files with optimum-cli, and return a table of both.

    Args:
        built: what a run took that needs the files alone.
    """
    output = work / "optimum"
    rows: list[tuple[str, str, str]] = []
    total = Usage()
    for name, command in optimum_commands(checkpoint, output).items():
        if name not in variants and not (name == "plain" or name == "O2"):
            continue
        usage = measure(command, output, work / f"optimum-{name}.log")
        total.seconds += usage.seconds
        total.peak_bytes[len(rows)] = usage.largest_bytes
        remark = "" if usage.status == 0 else f" (fails: exit status {usage.status})"
        rows.append((name + remark, f"{usage.seconds:.0f}", gigabytes(usage.largest_bytes)))
    total.disk_bytes = bytes_in(output)
    shutil.rmtree(output)
    rows.append(("all of them", f"{total.seconds:.0f}", gigabytes(total.largest_bytes)))
    return [
        *table(("optimum-cli", "s", "peak GB"), rows),
        f"A run of `{FILES_ALONE[0]}`, which needs the same files and no scores, took {built.seconds:.0f} s from an "
        f"empty store, {built.seconds / total.seconds:.2f} of optimum-cli's time, exit status {built.status}; its "
        f"processes held {gigabytes(built.together_bytes)} GB together. optimum-cli's files take "
        f"{gigabytes(total.disk_bytes)} GB.",
        "",
    ]


BEGIN, END = "<!-- Written by: tox run -e full-size -->", "<!-- end of what tox run -e full-size writes -->"


def write_page(lines: Sequence[str]) -> None:
    """Put the figures into docs/full-size.md, between its two marks."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text("\n".join([before + BEGIN, "", *lines, END]) + after)


if __name__ == "__main__":
    main()
