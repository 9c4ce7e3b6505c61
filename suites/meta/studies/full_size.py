"""Judges a checkpoint of full size: time, peak memory of each step, and disk, beside optimum-cli in the same run.

tox run -e full-size                          # the shape of bge-reranker-v2-m3
tox run -e full-size -- --variant plain       # only this variant
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[3]
SAMPLE_S = 0.2


@dataclass
class Usage:
    seconds: float = 0
    cpu_s: float = 0
    together_bytes: int = 0
    disk_bytes: int = 0
    succeeded: bool = False
    processes: dict[int, tuple[str, int]] = field(default_factory=dict)


def busy_s() -> float:
    cpu = psutil.cpu_times()
    return float(cpu.user + cpu.system + cpu.nice)


def peak_of(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def bytes_in(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(parent, name).lstat().st_blocks * 512
    return total


def measure(command: Sequence[str], folder: Path, output: Path) -> Usage:
    usage = Usage()
    start, busy = time.perf_counter(), busy_s()
    with output.open("w") as stream:
        process = psutil.Popen(command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT)
        while process.poll() is None:
            together = 0
            for member in [process, *process.children(recursive=True)]:
                with contextlib.suppress(psutil.Error, OSError):
                    together += member.memory_full_info().pss
                    peak = peak_of(member.pid)
                    name, known = usage.processes.get(member.pid, ("", 0))
                    usage.processes[member.pid] = (name or " ".join(member.cmdline())[:60], max(known, peak))
            usage.together_bytes = max(usage.together_bytes, together)
            usage.disk_bytes = max(usage.disk_bytes, bytes_in(folder))
            time.sleep(SAMPLE_S)
    usage.seconds, usage.cpu_s = time.perf_counter() - start, busy_s() - busy
    usage.succeeded = process.returncode == 0
    return usage


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    options, rest = parser.parse_known_args()
    work = options.work
    store = work / "store"
    usage = measure(
        [
            sys.executable,
            "-m",
            "pytest",
            "-c",
            str(ROOT / "pyproject.toml"),
            "-p",
            "fixtures.options",
            "--store",
            str(store),
            "--report",
            str(work / "report"),
            *rest,
        ],
        store,
        work / "gate.log",
    )
    print(
        usage.succeeded,
        f"{usage.seconds:.0f} s, cpu {usage.cpu_s:.0f}, together {usage.together_bytes / 1e9:.2f} GB, disk {usage.disk_bytes / 1e9:.2f}",
    )
    for name, peak in sorted(usage.processes.values(), key=lambda row: -row[1])[:12]:
        print(f"   {peak / 1e9:6.2f} GB {name}")
    import json

    for file in sorted(store.glob("artifacts/*/manifest.json"), key=lambda file: file.stat().st_mtime):
        row = json.loads(file.read_text())
        size = sum(entry["bytes"] for entry in row["files"].values())
        print(
            f"   {row['cost']['seconds']:7.1f} s {row['cost']['peak_bytes'] / 1e9:6.2f} GB, {size / 1e9:6.2f} GB {row['recipe']['run']} {row['recipe']['parameters'].get('level', '')}"
        )


if __name__ == "__main__":
    main()
