"""How small a slowdown does the gate see, and how often does it cry wolf?

tox run -e slowdowns                  # 100 trials of each slowdown, quiet and beside a neighbour: five hours
tox run -e slowdowns -- --trials 20

A trial measures a variant as an approval does, then again with each slowdown planted: after every run the thread
works on for that share of the processor time that the run took. The gate's own functions judge. Where the gate opens
new sessions, a trial draws from POOL of each side that are open already: loading would take most of the time. Beside
it stands pytest-benchmark's `--benchmark-compare-fail=median:5%`, on the wall-clock times of the very same rounds.

The neighbour works in bursts on another core: a tenth of a second on average, and as long a rest.
"""

from __future__ import annotations

import argparse
import functools
import math
import multiprocessing
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from pytest_benchmark.utils import PercentageRegressionCheck
from rich.console import Console
from rich.table import Table

from fixtures import export, hardware, latency, models, probes, store, tasks, variants
from fixtures.gate import ROOT, read_model
from fixtures.runtimes import Feeds, OnnxRuntime

SLOWDOWNS = (0.0, 0.02, 0.05, 0.10, 0.20)
VARIANT = "O2-quantized"
POOL = 12
RIVAL = "pytest-benchmark, median:5%"
GATE = "exportgate"


def files_of(folder: Path, variant: str) -> tuple[Path, Path, tasks.Encoded]:
    """Return the plain export of the embedded model, the variant's, and the long text as tokens."""
    built, machine = store.Store(folder), hardware.detect()
    model = read_model(ROOT / "baselines" / "minilm-l6")
    checkpoint = models.find_checkpoint(model)
    task = tasks.TASKS[model.settings.task]
    root = export.prepare(model.name, checkpoint, model.settings.source)
    plans = [
        export.plan(model.name, variants.VARIANT[name], root, task.export_task, machine, task.exporter)
        for name in ("plain", variant)
    ]
    tokens = probes.plan_tokens(model, checkpoint)
    store.build_all(built, [*plans, tokens], 1, print)
    plain, other, probed = (built.run(step).folder for step in (*plans, tokens))
    return plain / export.MODEL_FILE, other / export.MODEL_FILE, tasks.Encoded.load(probed / probes.LONG_FILE)


def neighbour(core: int) -> None:
    """Work in bursts on one core, for ever."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    generator, square, long = np.random.default_rng(), np.ones((400, 400), np.float32), np.ones(4_000_000, np.float32)
    while True:
        ends = time.perf_counter() + generator.exponential(0.1)
        while time.perf_counter() < ends:
            square @ square
            long * 2
        time.sleep(generator.exponential(0.1))


class Measurement:
    """One measurement of the variant, slowed down.

    Attributes:
        speed: as the gate measures it.
        median_s: of the variant's rounds, by the clock on the wall: what pytest-benchmark stores.
    """

    def __init__(
        self, pools: tuple[list[OnnxRuntime], list[OnnxRuntime]], feeds: Feeds, slowdown: float, seconds: float
    ) -> None:
        walls: list[float] = []

        def renew() -> tuple[latency.Side, latency.Side]:
            plain, other = (random.choice(pool) for pool in pools)
            selected = plain.select(feeds)
            anchor = functools.partial(plain.session.run, None, selected)
            run = functools.partial(other.session.run, None, other.select(feeds))

            def slowed() -> float:
                wall, start = time.perf_counter(), time.process_time()
                run()
                ends = start + (time.process_time() - start) * (1 + slowdown)
                while (now := time.process_time()) < ends:
                    pass
                walls.append(time.perf_counter() - wall)
                return now - start

            return functools.partial(latency.timed, anchor, time.process_time), slowed

        self.speed = latency.speed("plain", latency.SPEED_SHAPE, renew, seconds, "this one")
        self.median_s = float(np.median(walls))


def trial(
    measure: functools.partial[Measurement],
    seen: Counter[tuple[float, str]],
    verdicts: Counter[str],
    halves: list[float],
) -> None:
    """Approve once, then judge each slowdown; count who saw it."""
    approved = measure(0.0)
    halves.append(latency.half_width(approved.speed.interval))
    rival = PercentageRegressionCheck("median", 5.0)
    for slowdown in SLOWDOWNS:
        now = measure(slowdown)
        found = latency.change(approved.speed, now.speed)
        if found.verdict == "slower":  # as bench.judge_speed does
            found = latency.change(approved.speed, measure(slowdown).speed)
        seen[slowdown, GATE] += found.verdict == "slower"
        verdicts[f"{slowdown:.0%} {found.verdict}"] += 1
        seen[slowdown, RIVAL] += bool(rival.fails({"median": now.median_s}, {"median": approved.median_s}))


def shown(rows: dict[str, Counter[tuple[float, str]]], trials: int) -> Table:
    table = Table("condition", "judge", *(f"{one:.0%} slower" if one else "none: false alarms" for one in SLOWDOWNS))
    for condition, seen in rows.items():
        for judge in (GATE, RIVAL):
            table.add_row(condition, judge, *(f"{seen[one, judge] / trials:.0%}" for one in SLOWDOWNS))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--store", type=Path, help="a warm store; by default one is made first")
    parser.add_argument("--seconds", type=float, default=latency.SPEED_S["quick"], help="budget of one measurement")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="exportgate-") as folder:
        plain, other, long = files_of(chosen.store or Path(folder), VARIANT)
    feeds = latency.feeds_of(long, *latency.SPEED_SHAPE)
    pools = tuple([OnnxRuntime(file, 1) for _ in range(POOL)] for file in (plain, other))
    measure = functools.partial(Measurement, pools, feeds, seconds=chosen.seconds)
    rows: dict[str, Counter[tuple[float, str]]] = {}
    for condition in ("quiet", "beside a neighbour"):
        rows[condition], verdicts, halves, started = Counter(), Counter[str](), list[float](), time.monotonic()
        process = multiprocessing.get_context("spawn").Process(
            target=neighbour, args=(os.cpu_count() - 1,), daemon=True
        )
        if condition != "quiet":
            process.start()
        for number in range(chosen.trials):
            trial(measure, rows[condition], verdicts, halves)
            print(
                f"{condition}: {number + 1} trials, {time.monotonic() - started:.0f} s, half an interval "
                f"{np.median(halves):.2%} (median), {dict(verdicts)}",
                flush=True,
            )
        if process.is_alive():
            process.kill()
    Console().print(shown(rows, chosen.trials))
    upper = 3 / chosen.trials if chosen.trials else math.nan
    print(f"{chosen.trials} trials of each; none in {chosen.trials} means less than {upper:.0%} with 95 % confidence")


if __name__ == "__main__":
    main()
