"""Measures how small a slowdown the gate sees, and how often it raises a false alarm.

tox run -e slowdowns                  # 100 trials of each slowdown, quiet and beside a neighbour: two to four hours
tox run -e slowdowns -- --trials 20
tox run -e slowdowns -- --anchor numpy    # plain beside numpy; by default O2-quantized beside plain

Every trial is added to build/slowdowns.jsonl. Trials of the same anchor and processor that are there already count, so
that an interrupted run continues. `--results docs/slowdowns.jsonl` continues the published trials. Remove the file
after a change of the gate.

A trial measures a variant with each slowdown planted: after every run the thread works on for that share of the
processor time that the run took. The five measurements take turns, as variants do in the gate, and the gate's own
functions judge them. Every trial is a process with sessions of its own, and so is every approval. The next PER_APPROVAL
trials after an approval are compared with it. pytest-benchmark's `--benchmark-compare-fail=median:5%` judges the
wall-clock times of the very same rounds.

The neighbour works in bursts on another core: a tenth of a second on average, and rests as long. Other work on the
machine is a neighbour too. A trial that was meant to be quiet, and during which other processes kept more than
QUIET_CORES busy, counts as beside a neighbour, compared with the approval that it was made for. After MAX_RESTLESS such
trials in a row the program gives up.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import multiprocessing
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from pytest_benchmark.utils import PercentageRegressionCheck
from rich.console import Console
from rich.table import Table

from fixtures.build.needs import ModelSize
from fixtures.build.store import Store
from fixtures.build.workers import Limits, build_all
from fixtures.export import recipes
from fixtures.export.variants import VARIANT
from fixtures.gate.command_line import ROOT
from fixtures.gate.subject import read_model
from fixtures.latency.change import compare
from fixtures.latency.disturbance import InterferenceMonitor, own_cores
from fixtures.latency.pairs import feeds_of
from fixtures.latency.records import Speed
from fixtures.latency.speed import (
    SPEED_BUDGET_S,
    SPEED_SHAPE,
    NumpyAnchor,
    SpeedBlocks,
    TimedRun,
    is_precise,
    measure_speeds,
)
from fixtures.models.checkpoints import find_checkpoint
from fixtures.runtimes import hardware
from fixtures.runtimes.onnx_runtime import OnnxRuntime
from fixtures.runtimes.providers import MODEL_FILE
from fixtures.runtimes.session import Feeds
from fixtures.runtimes.timing import seconds_of
from fixtures.scoring.encoded import LONG_FILE, EncodedLongText
from fixtures.scoring.tasks import TASKS
from fixtures.scoring.tokens import plan_tokens

SLOWDOWNS = (0.0, 0.02, 0.05, 0.10, 0.20)
MEASURED = {"plain": "O2-quantized", "numpy": "plain"}
"""Anchor -> the variant that is measured beside it."""
PER_APPROVAL, POOL = 20, 12
"""Trials that are compared with one approval; sessions of each variant that are open at once."""
SPAWN = multiprocessing.get_context("spawn")
RIVAL = "pytest-benchmark, median:5%"
CONDITIONS = ("quiet", "beside a neighbour")
QUIET_CORES, MAX_RESTLESS = 0.1, 50
"""Cores that other processes may keep busy during a quiet trial, on average; trials in a row that may be restless."""


Result = TypeVar("Result")


class Trial(msgspec.Struct):
    """One planted slowdown, judged.

    Attributes:
        slower: how many times slower than approved, as the gate measured it.
        verdict: the gate's.
        sessions: opened anew until the verdict.
        approved: how many times as fast as the anchor it was at the approval.
        rival: whether pytest-benchmark saw the slowdown.
        processor: `Machine.processor`.
        busy_cores: cores that other processes kept busy, on average, the neighbour among them; in the oldest trials,
            with what the hypervisor took.
    """

    condition: str
    slowdown: float
    slower: float
    verdict: str
    sessions: int
    approved: float
    rival: bool
    processor: str
    busy_cores: float = msgspec.field(name="others", default=0.0)
    anchor: str = "plain"

    def __str__(self) -> str:
        return f"{self.slowdown:.0%} {self.slower:.3f} {self.verdict} ({self.sessions} sessions)"


@dataclass(frozen=True)
class Approval:
    """What trials are compared with.

    Attributes:
        median_s: the wall-clock median that pytest-benchmark would store.
        busy_cores: cores that other processes kept busy meanwhile, on average.
    """

    speed: Speed
    median_s: float
    busy_cores: float


def files_of(folder: Path, anchor: str) -> tuple[list[Path], EncodedLongText]:
    """Build the embedded model's plain, and the measured variant if it is not plain.

    Returns:
        The files of these variants, and the long text as tokens.
    """
    store, machine = Store(folder), hardware.detect()
    model = read_model(ROOT / "baselines" / "minilm-l6")
    checkpoint = find_checkpoint(model)
    task = TASKS[model.settings.task]
    root = recipes.prepare(model.name, checkpoint, model.settings.source)
    plans = [
        recipes.plan(model.name, VARIANT[name], root, task.export_task, machine)
        for name in dict.fromkeys(("plain", MEASURED[anchor]))
    ]
    tokens = plan_tokens(model, checkpoint)
    build_all(store, dict.fromkeys([*plans, tokens], ModelSize()), Limits(1, 2**33), print)
    files = [store.run(plan).folder / MODEL_FILE for plan in plans]
    return files, EncodedLongText.load(store.run(tokens).folder / LONG_FILE)


def neighbour(core: int) -> None:
    """Work in bursts on one core until the process that started it ends."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    generator, short, long = np.random.default_rng(), np.ones(10_000, np.float32), np.ones(4_000_000, np.float32)
    parent = os.getppid()
    while os.getppid() == parent:
        end = time.perf_counter() + generator.exponential(0.1)
        while time.perf_counter() < end:
            np.sqrt(short)
            long * 2
        time.sleep(generator.exponential(0.1))


@contextlib.contextmanager
def beside_a_neighbour() -> Iterator[None]:
    """Let a neighbour work on the last of our cores.

    Raises:
        RuntimeError: the neighbour ended too early.
    """
    process = SPAWN.Process(target=neighbour, args=(max(own_cores()),), daemon=True)
    process.start()
    try:
        yield
        if not process.is_alive():
            raise RuntimeError(f"the neighbour ended with exit code {process.exitcode}")
    finally:
        process.kill()
        process.join()


def in_new_process(measure: Callable[..., Result], *arguments: object) -> Result:
    with ProcessPoolExecutor(1, SPAWN) as pool:
        return pool.submit(measure, *arguments).result()


class SessionPools:
    """Sessions of the variant and of its anchor, drawn from POOL of each that are open already: loading takes time.

    Args:
        files: plain's and the variant's, which is measured beside plain; or plain's alone, measured beside numpy.

    Attributes:
        anchor: its name.
        walls_s: slowdown -> wall-clock seconds of the slowed rounds, which are what pytest-benchmark stores.
    """

    def __init__(self, files: Sequence[Path], feeds: Feeds) -> None:
        pools = [self._pool(file, feeds) for file in files]
        plain_runs = [functools.partial(seconds_of, run, time.process_time) for run in pools[0]]
        beside_plain = len(files) > 1
        self.anchor = "plain" if beside_plain else "numpy"
        self._anchors: Sequence[TimedRun] = plain_runs
        if not beside_plain:
            self._anchors = [NumpyAnchor().timed_run(as_long_as=run) for run in plain_runs]
        self._variants = pools[-1]
        self.walls_s: dict[float, list[float]] = {slowdown: [] for slowdown in SLOWDOWNS}

    @staticmethod
    def _pool(file: Path, feeds: Feeds) -> list[Callable[[], object]]:
        sessions = [OnnxRuntime(file, 1) for _ in range(POOL)]
        return [functools.partial(session.session.run, None, session.select(feeds)) for session in sessions]

    def draw(self, slowdown: float) -> tuple[TimedRun, TimedRun]:
        """Return the timed runs of the anchor and of the slowed variant, of sessions drawn at random."""
        run = random.choice(self._variants)

        def slowed() -> float:
            wall, start = time.perf_counter(), time.process_time()
            run()
            end = start + (time.process_time() - start) * (1 + slowdown)
            while (clock := time.process_time()) < end:
                pass
            self.walls_s[slowdown].append(time.perf_counter() - wall)
            return clock - start

        return random.choice(self._anchors), slowed

    def measurement(self, slowdown: float, is_settled: Callable[[Speed], bool]) -> SpeedBlocks:
        draw = functools.partial(self.draw, slowdown)
        return SpeedBlocks(self.anchor, SPEED_SHAPE, draw, "this one", {}, is_settled)

    def median_s(self, slowdown: float) -> float:
        return float(np.median(self.walls_s[slowdown]))


def approve(files: Sequence[Path], feeds: Feeds, budget_s: float) -> Approval:
    """Measure what later trials are compared with; five measurements take turns, as in the gate.

    Args:
        files: as of SessionPools.
        budget_s: of a measurement that is no approval.
    """
    pools, monitor = SessionPools(files, feeds), InterferenceMonitor(threads=1)
    speed, *_ = measure_speeds([pools.measurement(slowdown, is_precise) for slowdown in SLOWDOWNS], 2 * budget_s)
    return Approval(speed, pools.median_s(0.0), monitor.cores_of_other_processes())


def judge_slowdowns(
    files: Sequence[Path], feeds: Feeds, budget_s: float, condition: str, approval: Approval
) -> list[Trial]:
    """Plant each slowdown, and judge it by what was approved."""
    pools = SessionPools(files, feeds)
    measurements = [
        pools.measurement(slowdown, lambda speed: compare(approval.speed, speed).is_conclusive)
        for slowdown in SLOWDOWNS
    ]
    rival = PercentageRegressionCheck("median", 5.0)
    monitor, trials = InterferenceMonitor(threads=1), []
    speeds = measure_speeds(measurements, budget_s)
    busy_cores = monitor.cores_of_other_processes()
    if busy_cores > QUIET_CORES:
        condition = CONDITIONS[1]
    for slowdown, speed in zip(SLOWDOWNS, speeds, strict=True):
        change = compare(approval.speed, speed)
        trial = Trial(
            condition=condition,
            slowdown=slowdown,
            slower=round(change.times_slower, 4),
            verdict=change.tendency.value,
            sessions=speed.sessions,
            approved=approval.speed.ratio,
            rival=bool(rival.fails({"median": pools.median_s(slowdown)}, {"median": approval.median_s})),
            processor=hardware.detect().processor,
            busy_cores=round(busy_cores, 2),
            anchor=pools.anchor,
        )
        trials.append(trial)
    return trials


def tables_of(trials: list[Trial]) -> Iterator[Table]:
    """Yield how many trials of each slowdown each judge saw, a table per anchor, processor and condition."""
    judges: dict[str, Callable[[Trial], bool]] = {
        "exportgate": lambda trial: trial.verdict == "slower",
        RIVAL: lambda trial: trial.rival,
    }
    setups = dict.fromkeys((trial.anchor, trial.processor) for trial in trials)
    for (anchor, processor), condition in itertools.product(setups, CONDITIONS):
        selected = select(trials, anchor, processor, condition)
        columns = (f"{slowdown:.0%} seen" if slowdown else "false alarms" for slowdown in SLOWDOWNS)
        table = Table("judge", *columns, box=None)
        rounds = len(selected) // len(SLOWDOWNS)
        table.title = f"\n{MEASURED[anchor]} beside {anchor}, {processor}, {condition}: {rounds} of each"
        table.title_justify = "left"
        for judge, is_seen in judges.items():
            counts = Counter(trial.slowdown for trial in selected if is_seen(trial))
            table.add_row(judge, *(str(counts[slowdown]) for slowdown in SLOWDOWNS))
        yield table


def select(trials: list[Trial], anchor: str, processor: str, condition: str) -> list[Trial]:
    setup = (anchor, processor, condition)
    return [trial for trial in trials if (trial.anchor, trial.processor, trial.condition) == setup]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--anchor", choices=MEASURED, default="plain")
    parser.add_argument("--store", type=Path, help="a warm store; by default one is made first")
    parser.add_argument("--seconds", type=float, default=SPEED_BUDGET_S["quick"], help="budget of one measurement")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "slowdowns.jsonl")
    options = parser.parse_args()
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.touch()
    trials = msgspec.json.Decoder(Trial).decode_lines(options.results.read_bytes())
    processor = hardware.detect().processor

    def count(condition: str) -> int:
        return len(select(trials, options.anchor, processor, condition)) // len(SLOWDOWNS)

    with tempfile.TemporaryDirectory(prefix="exportgate-") as folder, contextlib.suppress(KeyboardInterrupt):
        files, long = files_of(options.store or Path(folder), options.anchor)
        arguments = files, feeds_of(long, *SPEED_SHAPE), options.seconds
        approvals: dict[str, Approval] = {}
        judged: Counter[str] = Counter()
        restless = 0
        while unfinished := [condition for condition in CONDITIONS if count(condition) < options.trials]:
            condition = min(unfinished, key=count)
            with beside_a_neighbour() if condition != "quiet" else contextlib.nullcontext():
                if judged[condition] % PER_APPROVAL == 0:
                    approval = in_new_process(approve, *arguments)
                    if condition == "quiet" and approval.busy_cores > QUIET_CORES:  # a user would wait for a quiet time
                        approval = in_new_process(approve, *arguments)
                    approvals[condition] = approval
                    print(f"approved {condition}: {approval.speed.ratio} times as fast as {options.anchor}", flush=True)
                new_trials = in_new_process(judge_slowdowns, *arguments, condition, approvals[condition])
            judged[condition] += 1
            trials += new_trials
            with options.results.open("ab") as file:
                file.write(msgspec.json.Encoder().encode_lines(new_trials))
            actual = new_trials[0].condition
            restless = restless + 1 if actual != condition else 0
            if restless == MAX_RESTLESS:
                print(f"gave up: {MAX_RESTLESS} trials in a row were not quiet; other processes work on this machine")
                break
            print(f"{count(actual)} {actual}: {', '.join(map(str, new_trials))}", flush=True)
    Console().print(*tables_of(trials))


if __name__ == "__main__":
    main()
