"""How small a slowdown does the gate see, and how often does it cry wolf?

tox run -e slowdowns                  # 100 trials of each slowdown, quiet and beside a neighbour: two to four hours
tox run -e slowdowns -- --trials 20
tox run -e slowdowns -- --anchor numpy    # plain beside numpy; by default O2-quantized beside plain

Every trial is added to build/slowdowns.jsonl, and what lies there of the same anchor and processor counts: an
interrupted run goes on where it ended. With `--results docs/slowdowns.jsonl` those go on that are published.
Remove the file after a change of the gate.

A trial measures a variant with each slowdown planted: after every run the thread works on for that share of the
processor time that the run took. The five take turns, as variants do in the gate, and the gate's own
functions judge. Every trial is a process with sessions of its own, as is every approval; PER_APPROVAL trials, of the
minutes after it, are held to one. Beside it stands pytest-benchmark's
`--benchmark-compare-fail=median:5%`, on the wall-clock times of the very same rounds.

The neighbour works in bursts on another core: a tenth of a second on average, and as long a rest. Whoever else works
is a neighbour too: a trial that was to be quiet, and during which others kept more than QUIET of a core busy, is
counted beside a neighbour, held to the approval that it was made for; after RESTLESS of them in a row it is given up.
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
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from pytest_benchmark.utils import PercentageRegressionCheck
from rich.console import Console
from rich.table import Table

from fixtures.build.store import Store
from fixtures.build.workers import build_all
from fixtures.export import recipes
from fixtures.export.variants import VARIANT
from fixtures.gate.session import ROOT, read_model
from fixtures.latency import change as latency_change
from fixtures.latency import speed as latency_speed
from fixtures.latency.disturbance import Watch, own_cores
from fixtures.latency.pairs import feeds_of
from fixtures.latency.records import Speed
from fixtures.latency.speed import SPEED_S, SPEED_SHAPE, Blocks, Side, Yardstick, precise
from fixtures.models.checkpoints import find_checkpoint
from fixtures.runtimes import hardware
from fixtures.runtimes.onnx_runtime import OnnxRuntime
from fixtures.runtimes.session import MODEL_FILE, Feeds
from fixtures.runtimes.timing import timed
from fixtures.scoring.encoded import Encoded
from fixtures.scoring.tasks import TASKS
from fixtures.scoring.tokens import LONG_FILE, plan_tokens

SLOWDOWNS = (0.0, 0.02, 0.05, 0.10, 0.20)
MEASURED = {"plain": "O2-quantized", "numpy": "plain"}
"""The variant that stands beside each anchor."""
PER_APPROVAL, POOL = 20, 12
SPAWN = multiprocessing.get_context("spawn")
RIVAL = "pytest-benchmark, median:5%"
CONDITIONS = ("quiet", "beside a neighbour")
QUIET, RESTLESS = 0.1, 50
"""Cores that others may keep busy during a quiet trial, on average; trials in a row that may be none."""


Found = TypeVar("Found")


class Trial(msgspec.Struct):
    """One planted slowdown, judged.

    Attributes:
        slower: how many times slower than approved, as the gate measured it. verdict: the gate's.
        sessions: opened anew until then. approved: how many times as fast as the anchor. rival: whether
        pytest-benchmark saw it. processor: on which it was. others: cores that they kept busy, on average, the
        neighbour among them; in the first trials, with what the hypervisor took.
    """

    condition: str
    slowdown: float
    slower: float
    verdict: str
    sessions: int
    approved: float
    rival: bool
    processor: str
    others: float = 0.0
    anchor: str = "plain"

    def __str__(self) -> str:
        return f"{self.slowdown:.0%} {self.slower:.3f} {self.verdict} ({self.sessions} sessions)"


def files_of(folder: Path, anchor: str) -> tuple[list[Path], Encoded]:
    """Return plain's export of the embedded model, the measured variant's if it is another, and the long text as
    tokens."""
    built, machine = Store(folder), hardware.detect()
    model = read_model(ROOT / "baselines" / "minilm-l6")
    checkpoint = find_checkpoint(model)
    task = TASKS[model.settings.task]
    root = recipes.prepare(model.name, checkpoint, model.settings.source)
    plans = [
        recipes.plan(model.name, VARIANT[name], root, task.export_task, machine)
        for name in dict.fromkeys(("plain", MEASURED[anchor]))
    ]
    tokens = plan_tokens(model, checkpoint)
    build_all(built, [*plans, tokens], 1, print)
    files = [built.run(plan).folder / MODEL_FILE for plan in plans]
    return files, Encoded.load(built.run(tokens).folder / LONG_FILE)


def neighbour(core: int) -> None:
    """Work in bursts on one core, as long as the process lives that started it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    generator, short, long = np.random.default_rng(), np.ones(10_000, np.float32), np.ones(4_000_000, np.float32)
    parent = os.getppid()
    while os.getppid() == parent:
        ends = time.perf_counter() + generator.exponential(0.1)
        while time.perf_counter() < ends:
            np.sqrt(short)
            long * 2
        time.sleep(generator.exponential(0.1))


@contextlib.contextmanager
def beside_a_neighbour() -> Iterator[None]:
    """Let a neighbour work on the last core that is ours.

    Raises:
        RuntimeError: it ended before its time.
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


def alone(measure: Callable[..., Found], *arguments: object) -> Found:
    """Measure in a new process."""
    with ProcessPoolExecutor(1, SPAWN) as pool:
        return pool.submit(measure, *arguments).result()


class Sides:
    """Sessions of the variant and of its anchor, drawn from POOL of each that are open already: loading takes time.

    Args:
        files: plain's and the variant's, which stands beside plain; or plain's alone, which stands beside numpy.

    Attributes:
        anchor: its name. walls: seconds of the slowed rounds, by the clock on the wall: what pytest-benchmark stores.
    """

    def __init__(self, files: Sequence[Path], feeds: Feeds) -> None:
        pools = [self._pool(file, feeds) for file in files]
        plain_s = [functools.partial(timed, run, time.process_time) for run in pools[0]]
        beside_plain = len(files) > 1
        self.anchor = "plain" if beside_plain else "numpy"
        self._anchors = plain_s if beside_plain else [Yardstick().beside(one) for one in plain_s]
        self._variants = pools[-1]
        self.walls: dict[float, list[float]] = {slowdown: [] for slowdown in SLOWDOWNS}

    @staticmethod
    def _pool(file: Path, feeds: Feeds) -> list[Callable[[], object]]:
        sessions = [OnnxRuntime(file, 1) for _ in range(POOL)]
        return [functools.partial(one.session.run, None, one.select(feeds)) for one in sessions]

    def renew(self, slowdown: float) -> tuple[Side, Side]:
        """Return the anchor's side and the slowed variant's."""
        run = random.choice(self._variants)

        def slowed() -> float:
            wall, start = time.perf_counter(), time.process_time()
            run()
            ends = start + (time.process_time() - start) * (1 + slowdown)
            while (now := time.process_time()) < ends:
                pass
            self.walls[slowdown].append(time.perf_counter() - wall)
            return now - start

        return random.choice(self._anchors), slowed

    def blocks(self, slowdown: float, settled: Callable[[Speed], bool]) -> Blocks:
        renew = functools.partial(self.renew, slowdown)
        return Blocks(self.anchor, SPEED_SHAPE, renew, "this one", {}, settled)

    def median_s(self, slowdown: float) -> float:
        return float(np.median(self.walls[slowdown]))


def approve(files: Sequence[Path], feeds: Feeds, seconds: float) -> tuple[Speed, float, float]:
    """Return the speed, the median that pytest-benchmark would store, and how many cores others kept busy; five
    measurements take turns, as in the gate.

    Args:
        files: as of Sides. seconds: budget of a measurement that is no approval.
    """
    sides, watch = Sides(files, feeds), Watch(threads=1)
    speed, *_ = latency_speed.speeds([sides.blocks(slowdown, precise) for slowdown in SLOWDOWNS], 2 * seconds)
    return speed, sides.median_s(0.0), watch.others()


def trial(
    files: Sequence[Path], feeds: Feeds, seconds: float, condition: str, approved: Speed, median_s: float
) -> list[Trial]:
    """Plant each slowdown, and judge it by what was approved."""
    sides = Sides(files, feeds)
    blocks = [sides.blocks(slowdown, lambda now: latency_change.change(approved, now).clear) for slowdown in SLOWDOWNS]
    rival = PercentageRegressionCheck("median", 5.0)
    watch, found = Watch(threads=1), []
    measured = latency_speed.speeds(blocks, seconds)
    busy = watch.others()
    if busy > QUIET:
        condition = CONDITIONS[1]
    for slowdown, now in zip(SLOWDOWNS, measured, strict=True):
        change = latency_change.change(approved, now)
        fails = bool(rival.fails({"median": sides.median_s(slowdown)}, {"median": median_s}))
        found.append(
            Trial(
                condition, slowdown, round(change.slower, 4), change.verdict, now.sessions, approved.ratio, fails,
                hardware.detect().processor, round(busy, 2), sides.anchor,
            )
        )  # fmt: skip
    return found


def shown(trials: list[Trial]) -> Iterator[Table]:
    """Return how many trials of each slowdown each judge saw, a table per anchor, processor and condition."""
    judges: dict[str, Callable[[Trial], bool]] = {
        "exportgate": lambda one: one.verdict == "slower", RIVAL: lambda one: one.rival,
    }  # fmt: skip
    where = dict.fromkeys((one.anchor, one.processor) for one in trials)
    for (anchor, processor), condition in itertools.product(where, CONDITIONS):
        own = [one for one in trials if (one.anchor, one.processor, one.condition) == (anchor, processor, condition)]
        table = Table("judge", *(f"{one:.0%} seen" if one else "false alarms" for one in SLOWDOWNS), box=None)
        table.title = (
            f"\n{MEASURED[anchor]} beside {anchor}, {processor}, {condition}: {len(own) // len(SLOWDOWNS)} of each"
        )
        table.title_justify = "left"
        for judge, saw in judges.items():
            seen = Counter(one.slowdown for one in own if saw(one))
            table.add_row(judge, *(str(seen[one]) for one in SLOWDOWNS))
        yield table


def count(trials: list[Trial], anchor: str, processor: str, condition: str) -> int:
    wanted = (anchor, processor, condition)
    return sum((one.anchor, one.processor, one.condition) == wanted for one in trials) // len(SLOWDOWNS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--anchor", choices=MEASURED, default="plain")
    parser.add_argument("--store", type=Path, help="a warm store; by default one is made first")
    parser.add_argument("--seconds", type=float, default=SPEED_S["quick"], help="budget of one measurement")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "slowdowns.jsonl")
    chosen = parser.parse_args()
    chosen.results.parent.mkdir(parents=True, exist_ok=True)
    chosen.results.touch()
    trials = msgspec.json.Decoder(Trial).decode_lines(chosen.results.read_bytes())
    with tempfile.TemporaryDirectory(prefix="exportgate-") as folder, contextlib.suppress(KeyboardInterrupt):
        files, long = files_of(chosen.store or Path(folder), chosen.anchor)
        given = files, feeds_of(long, *SPEED_SHAPE), chosen.seconds
        approvals: dict[str, list[Any]] = {}
        judged: Counter[str] = Counter()
        restless = 0
        done = functools.partial(count, trials, chosen.anchor, hardware.detect().processor)
        while missing := [one for one in CONDITIONS if done(one) < chosen.trials]:
            condition = min(missing, key=done)
            with beside_a_neighbour() if condition != "quiet" else contextlib.nullcontext():
                if judged[condition] % PER_APPROVAL == 0:
                    *approvals[condition], busy = alone(approve, *given)
                    if condition == "quiet" and busy > QUIET:  # who approves at a quiet time, looks that it is one
                        *approvals[condition], busy = alone(approve, *given)
                    ratio = approvals[condition][0].ratio
                    print(f"approved {condition}: {ratio} times as fast as {chosen.anchor}", flush=True)
                found = alone(trial, *given, condition, *approvals[condition])
            judged[condition] += 1
            trials += found
            with chosen.results.open("ab") as file:
                file.write(msgspec.json.Encoder().encode_lines(found))
            was = found[0].condition
            restless = restless + 1 if was != condition else 0
            if restless == RESTLESS:
                print(f"{RESTLESS} trials in a row were not quiet: others work on this machine", flush=True)
                break
            print(f"{done(was)} {was}: {', '.join(map(str, found))}", flush=True)
    Console().print(*shown(trials))


if __name__ == "__main__":
    main()
