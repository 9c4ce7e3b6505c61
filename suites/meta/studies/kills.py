"""Kills runs at random moments, each followed by a normal run: right verdict, sound baselines, nothing left behind.

tox run -e kills                             # 200 kills, and one table
tox run -e kills -- --kills 20 --seed 3      # fewer, at other moments
tox run -e kills -- --signal INT             # Ctrl-C instead: the run has to end by itself

Half of the kills end the run's own process alone, and half its workers too; what is no kill goes to the run alone. A
kind of run is repeated from the same state: nothing built, nothing approved, nothing fetched, or all of it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from fixtures.build.manifest import Damaged, verify
from suites.meta.house import EMBEDDER, FEW, LOOSE, heed_interrupts

ROOT = Path(__file__).resolve().parents[3]
ENDS_S = 15
"""How long a run may take to end after a signal, and its processes after a kill."""


@dataclass(frozen=True)
class Kind:
    """A kind of run that is killed.

    Attributes:
        options: of the gate.
        built, approved: what is there when it starts. shared: what it builds is sent to a shared store, empty at first.
        moments: the share of the run in which it is killed.
    """

    options: tuple[str, ...]
    built: bool
    approved: bool
    shared: bool = False
    moments: tuple[float, float] = (0, 1)


KINDS: Mapping[str, Kind] = {
    "export": Kind((), built=False, approved=True),
    "approval": Kind(("--approve",), built=True, approved=False),
    "second approval": Kind(("--approve",), built=True, approved=True),
    "report": Kind((), built=True, approved=True, moments=(0.6, 1.05)),
    "shared store": Kind((), built=False, approved=True, shared=True),
}


@dataclass(frozen=True)
class Site:
    """The folders of one run.

    Attributes:
        cache: of what a shared store has.
    """

    folder: Path

    @property
    def baselines(self) -> Path:
        return self.folder / "baselines"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def report(self) -> Path:
        return self.folder / "report"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def start(self, kind: Kind) -> subprocess.Popen[bytes]:
        """Start the gate in a process group of its own."""
        store = f"local://{self.folder / 'shared'}" if kind.shared else str(self.store)
        command = [
            *(sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), "-p", "fixtures.options"),
            *("-p", "no:cacheprovider", "suites/accuracy", *FEW),
            *("--baselines", str(self.baselines), "--store", store, "--report", str(self.report), *kind.options),
        ]
        environment = {name: value for name, value in os.environ.items() if name != "CI"}
        environment |= {"XDG_CACHE_HOME": str(self.cache), "TMPDIR": str(self.folder)}
        with (self.folder / "output").open("wb") as output:
            return subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                preexec_fn=heed_interrupts,
            )  # fmt: skip

    def baseline_files(self) -> set[str]:
        """Return the paths of what lies in the baselines; whether it is whole, the run that reads it says."""
        return {str(file.relative_to(self.baselines)) for file in self.baselines.rglob("*") if file.is_file()}


@dataclass
class Tally:
    """What became of the kills of one kind.

    Attributes:
        kills: runs that were killed before they ended.
        late: runs that had ended already.
        problems: what was wrong after a normal run -> how often.
    """

    kills: int = 0
    late: int = 0
    problems: Counter[str] = field(default_factory=Counter)


def problems_after(site: Site, kind: Kind, expected: Set[str]) -> list[str]:
    """Return what is wrong after a normal run that followed a kill.

    Args:
        expected: what lies in the baselines after a run that was not killed.
    """
    problems = []
    process = site.start(kind)
    if process.wait() != 0:
        problems.append(f"exit status {process.returncode}")
        print((site.folder / "output").read_text(errors="replace")[-3000:])
    try:
        if json.loads((site.report / "gate.json").read_text())["verdict"] != "pass":
            problems.append("verdict")
    except (OSError, ValueError, KeyError):
        problems.append("no gate.json")
    files = site.baseline_files()
    if files != expected:
        problems.append(f"baseline files {sorted(files ^ expected)}")
    roots = [site.cache / "exportgate" if kind.shared else site.store]
    for root in roots:
        if any((root / "partial").iterdir()):
            problems.append("leftovers in partial")
        for artifact in (root / "artifacts").iterdir():
            try:
                verify(artifact.name, artifact)
            except Damaged:
                problems.append("damaged artifact")
    return problems


def end(process: subprocess.Popen[bytes], number: signal.Signals, *, alone: bool) -> list[str]:
    """End a run by a signal, and return what is wrong with its end.

    Args:
        alone: whether it goes to the run's own process, and not to its workers.
    """
    if alone:
        process.send_signal(number)
    else:
        os.killpg(process.pid, number)
    try:
        process.wait(ENDS_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return ["did not end"]
    return []


def orphans_of(site: Site) -> list[int]:
    """Return the processes that a killed run left behind, after the time that they may take to end."""
    deadline = time.monotonic() + ENDS_S
    while True:
        left = []
        for process in psutil.process_iter(["environ", "status"]):
            environment = process.info["environ"] or {}
            if environment.get("TMPDIR") == str(site.folder) and process.info["status"] != psutil.STATUS_ZOMBIE:
                left.append(process.pid)
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.2)


def prepare(folder: Path, kind: Kind, templates: Path) -> Site:
    """Return a site in the state in which a kind of run begins."""
    shutil.rmtree(folder, ignore_errors=True)
    site = Site(folder)
    folder.mkdir(parents=True)
    shutil.copytree(templates / ("approved" if kind.approved else "new"), site.baselines)
    if kind.built:
        shutil.copytree(templates / "store", site.store)
    return site


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signal", choices=("KILL", "INT", "TERM"), default="KILL")
    options = parser.parse_args()
    moments, number = random.Random(options.seed), signal.Signals[f"SIG{options.signal}"]
    with tempfile.TemporaryDirectory(prefix="exportgate-") as name:
        work = Path(name)
        templates = work / "templates"
        (templates / "new" / "tiny").mkdir(parents=True)
        (templates / "new" / "tiny" / "model.toml").write_text(EMBEDDER + LOOSE)
        site = Site(work / "template")
        shutil.copytree(templates / "new", site.baselines)
        if site.start(Kind(("--approve",), built=False, approved=False)).wait():
            sys.exit(f"the run that is not killed fails:\n{(site.folder / 'output').read_text()[-3000:]}")
        shutil.copytree(site.baselines, templates / "approved")
        shutil.copytree(site.store, templates / "store")
        durations_s: dict[str, float] = {}
        expected: dict[str, set[str]] = {}
        for label, kind in KINDS.items():
            site = prepare(work / "whole", kind, templates)
            start = time.monotonic()
            if site.start(kind).wait():
                sys.exit(f"{label}: the run that is not killed fails:\n{(site.folder / 'output').read_text()[-3000:]}")
            durations_s[label], expected[label] = time.monotonic() - start, site.baseline_files()
        tallies = {label: Tally() for label in KINDS}
        for round_number in itertools.count():
            if sum(tally.kills for tally in tallies.values()) >= options.kills:
                break
            label = list(KINDS)[round_number % len(KINDS)]
            kind, tally = KINDS[label], tallies[label]
            site = prepare(work / "killed", kind, templates)
            first, last = kind.moments
            wait_s = moments.uniform(first, last) * durations_s[label]
            alone = moments.random() < 0.5 or number != signal.SIGKILL
            problems = []
            process = site.start(kind)
            try:
                process.wait(wait_s)
                tally.late += 1
            except subprocess.TimeoutExpired:
                problems += end(process, number, alone=alone)
                tally.kills += 1
            orphans = orphans_of(site)
            problems += ["processes that went on"] if orphans else []
            problems += problems_after(site, kind, expected[label])
            for pid in orphans:
                psutil.Process(pid).kill()
            tally.problems.update(problems)
            whom = "alone" if alone else "with its workers"
            print(
                f"{round_number + 1:4} {label:16} {wait_s:6.2f} s {whom:17} {'; '.join(problems) or 'sound'}",
                flush=True,
            )
    print(f"\n| run | {options.signal} | ended before | unsound afterwards |\n| --- | --- | --- | --- |")
    for label, tally in tallies.items():
        problems_text = ", ".join(f"{name}: {count}" for name, count in tally.problems.items()) or "none"
        print(f"| {label} | {tally.kills} | {tally.late} | {problems_text} |")
    sys.exit(any(tally.problems for tally in tallies.values()))


if __name__ == "__main__":
    main()
