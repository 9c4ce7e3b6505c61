"""The speed that the gate compares: its measurement, its interval and its judgement. Times are made up."""

import contextlib
import itertools
import time

import msgspec
import numpy as np
import pytest
import threadpoolctl

from fixtures.export.variants import VARIANT
from fixtures.gate.case import Case
from fixtures.gate.subject import Subject
from fixtures.gate.timing import StopwatchSession
from fixtures.latency import change
from fixtures.latency import speed as latency_speed
from fixtures.latency.change import THRESHOLD
from fixtures.latency.records import Speed
from fixtures.latency.speed import BLOCK_S, MIN_BLOCKS, SPEED_BUDGET_S, NumpyAnchor, SpeedBlocks, is_precise
from fixtures.plugin.benchmarks import measurable
from fixtures.runtimes.session import Session, TensorInfo
from suites.meta.calls import stand_in

# ------------------------------------------------------------------------------- change since the approval


def speed(ratio, half, anchor="plain"):
    return Speed(anchor, 1, 128, ratio, (ratio * np.exp(-half), ratio * np.exp(half)), 100, 8, "xeon", run_ms=20.0)


def test_short_runs_are_held_to_the_wide_threshold():
    short = msgspec.structs.replace(speed(2.0, 0.005), run_ms=0.5)
    assert change.compare(short, speed(2.0 / 1.1, 0.005)).tendency == "same"
    assert change.compare(short, speed(2.0 / 1.3, 0.005)).tendency == "slower"
    assert change.compare(speed(2.0, 0.005), speed(2.0 / 1.1, 0.005)).tendency == "slower"
    without_run_ms = msgspec.structs.replace(speed(2.0, 0.005), run_ms=0.0)
    current = msgspec.structs.replace(speed(2.0 / 1.1, 0.005), run_ms=0.5)
    assert change.compare(without_run_ms, current).tendency == "same"


def test_approval_leaves_half_of_the_variance_to_what_is_compared_with_it():
    loosest = speed(2.0, np.log1p(THRESHOLD) / np.sqrt(2) - 1e-6)
    assert change.is_decisive(loosest)
    assert change.compare(loosest, loosest).tendency == "same"
    assert not change.is_decisive(speed(2.0, np.log1p(THRESHOLD) / np.sqrt(2) + 1e-4))


def test_change_is_printed_as_a_factor_above_1():
    assert str(change.compare(speed(2.0, 0.0), speed(1.0, 0.0))) == "2.000 times slower (2.000 to 2.000)"
    assert str(change.compare(speed(1.0, 0.0), speed(2.0, 0.0))) == "2.000 times faster (2.000 to 2.000)"


@pytest.mark.parametrize(
    ("approved", "current", "verdict"),
    [
        (speed(2.0, 0.005), speed(2.0, 0.005), "same"),
        (speed(2.0, 0.005), speed(2.0 / 1.05, 0.005), "slower"),
        (speed(2.0, 0.005), speed(2.0 * 1.05, 0.005), "faster"),
        (speed(2.0, 0.005), speed(2.0 / 1.02, 0.005), "same"),  # beyond chance, below the threshold
        (speed(2.0, 0.04), speed(2.0 / 1.05, 0.04), "undecided"),  # beyond the threshold, and not beyond chance
        (speed(2.0, 0.2), speed(2.0, 0.2), "undecided"),
        (speed(2.0, np.inf), speed(2.0, 0.005), "undecided"),
        (speed(2.0, 0.005, "numpy"), speed(2.0 / 1.05, 0.005, "numpy"), "slower"),
        (speed(2.0, 0.02, "PyTorch"), speed(2.0 / 1.15, 0.03, "PyTorch"), "same"),  # which PyTorch may have done
        (speed(2.0, 0.02, "PyTorch"), speed(2.0 / 1.3, 0.03, "PyTorch"), "slower"),
    ],
)
def test_change_is_judged_by_threshold_and_interval(approved, current, verdict):
    assert change.compare(approved, current).tendency == verdict


def test_intervals_of_both_speeds_add_as_independent_errors():
    doubled = change.compare(speed(2.0, 0.03), speed(1.0, 0.04))
    assert doubled.times_slower == pytest.approx(2)
    assert doubled.interval == pytest.approx((2 * np.exp(-0.05), 2 * np.exp(0.05)))


@pytest.mark.parametrize(
    ("current", "conclusive"),
    [
        (speed(2.0, 0.01), True),
        (speed(2.0, 0.03), False),
        (speed(2.0 / 1.03, 0.01), False),
        (speed(2.0 / 1.05, 0.01), True),
        (speed(2.0 * 1.03, 0.01), False),
        (speed(2.0 * 1.05, 0.01), True),
    ],
)
def test_change_is_conclusive_where_its_interval_holds_no_threshold(current, conclusive):
    assert change.compare(speed(2.0, 0.005), current).is_conclusive == conclusive


@pytest.mark.parametrize(
    ("approved", "decisive"),
    [
        (speed(2.0, 0.02), True),
        (speed(2.0, 0.03), False),
        (speed(2.0, np.inf), False),
        (speed(2.0, 0.15, "PyTorch"), True),
        (speed(2.0, 0.03, "numpy"), False),
    ],
)
def test_approval_is_decisive_where_an_exact_equal_speed_is_the_same(approved, decisive):
    assert change.is_decisive(approved) == decisive
    unchanged = change.compare(approved, msgspec.structs.replace(approved, interval=(2.0, 2.0)))
    assert (unchanged.tendency == "same") == decisive


# ------------------------------------------------------------------------------------------- measurement


@pytest.fixture
def fast_blocks(monkeypatch):
    """Blocks of made-up times need no garbage collection and no seconds."""
    monkeypatch.setattr(latency_speed, "without_garbage_collection", contextlib.nullcontext)
    monkeypatch.setattr(latency_speed, "BLOCK_S", 0.0)
    monkeypatch.setattr(latency_speed, "BLOCK_PAIRS", 15)


def measurement_of(seed, *, ratio=2.0, is_settled=lambda speed: True, opened=None):
    """Return a measurement whose sessions differ by one or two per cent, besides the noise of each round."""
    random = np.random.default_rng(seed)

    def open_sessions():
        session_s = float(np.exp(0.02 * random.normal())) / ratio
        if opened is not None:
            opened.append(seed)
        return (lambda: 1.0), (lambda: session_s * float(np.exp(0.05 * random.normal())))

    return SpeedBlocks("plain", (1, 16), open_sessions, "xeon", {}, is_settled)


def test_numpy_anchor_lasts_as_long_as_the_variant(monkeypatch):
    anchor, seconds = NumpyAnchor(), itertools.chain([1.0] * 2, itertools.cycle([1.0, 3.0]))
    monkeypatch.setattr(anchor, "run_once", lambda: next(seconds))
    assert anchor.timed_run(as_long_as=lambda: 3.8)() == 2.0, "the mean of four"


def test_numpy_anchor_runs_on_one_thread(monkeypatch):
    def threads():
        pools = threadpoolctl.threadpool_info()
        return [pool["num_threads"] for pool in pools if pool["user_api"] == "blas"]

    anchor, before = NumpyAnchor(), threads()
    during: list[int] = []

    def process_time():
        during.extend(threads())
        return 0.0

    monkeypatch.setattr(time, "process_time", process_time)
    anchor.run_once()
    monkeypatch.undo()
    if before in ([], [1]):
        pytest.skip("numpy's products have one core, or a library that threadpoolctl cannot limit")
    assert set(during) == {1}
    assert threads() == before


def test_speed_has_the_spread_between_sessions_in_its_interval(fast_blocks):
    """95 of 100 intervals hold the true ratio."""
    speeds = latency_speed.measure_speeds([measurement_of(seed) for seed in range(200)], 30)
    correct = sum(speed.interval[0] <= 2 <= speed.interval[1] for speed in speeds)
    assert 0.9 <= correct / len(speeds) < 1
    assert all(speed.sessions == MIN_BLOCKS for speed in speeds)


def test_variants_take_turns_until_each_is_settled(fast_blocks):
    opened: list[int] = []
    late = measurement_of(2, is_settled=lambda speed: speed.sessions == MIN_BLOCKS + 2, opened=opened)
    latency_speed.measure_speeds([measurement_of(1, opened=opened), late], 30)
    assert opened == [1, 2] * MIN_BLOCKS + [2, 2]


def test_variant_that_does_not_run_stops_no_other(fast_blocks):
    def open_sessions():
        raise RuntimeError("no such operator")

    def measurement(case):
        if case is lost:
            raise OSError("no such artifact")
        broken = SpeedBlocks("plain", (1, 16), open_sessions, "xeon", {}, lambda speed: True)
        return broken if case is unusable else measurement_of(1)

    lost, unusable, sound = cases = [Case(stand_in(Subject, name=name), VARIANT["O2"]) for name in "abc"]
    measurements = measurable(cases, measurement, sound)
    assert list(measurements) == [sound]
    assert latency_speed.measure_speeds(list(measurements.values()), 30)[0].sessions == MIN_BLOCKS
    with pytest.raises(RuntimeError, match="no such operator"):
        measurable(cases, measurement, unusable)
    with pytest.raises(OSError, match="no such artifact"):
        measurable(cases, measurement, lost)


def test_blocks_end_when_the_budget_is_spent(fast_blocks):
    (speed,) = latency_speed.measure_speeds([measurement_of(1, is_settled=lambda speed: False)], 0)
    assert speed.sessions == MIN_BLOCKS


MAX_BLOCKS = SPEED_BUDGET_S["quick"] / BLOCK_S


def verdicts(slowdown, count=150):
    """Return the gate's verdicts on a slowdown, each with an approval of its own."""
    approvals = latency_speed.measure_speeds([measurement_of(seed, is_settled=is_precise) for seed in range(count)], 30)

    def settled_beside(approved):
        return lambda speed: speed.sessions >= MAX_BLOCKS or change.compare(approved, speed).is_conclusive

    measurements = [
        measurement_of(count + seed, ratio=2 / (1 + slowdown), is_settled=settled_beside(approved))
        for seed, approved in enumerate(approvals)
    ]
    speeds = latency_speed.measure_speeds(measurements, 30)
    return [change.compare(approved, speed).tendency for approved, speed in zip(approvals, speeds, strict=True)]


def test_slowdown_by_5_percent_is_seen_and_none_is_not(fast_blocks):
    """The noise is what was measured between and within sessions; `tox run -e slowdowns` measures real sessions."""
    assert verdicts(0.05).count("slower") >= 0.95 * 150
    assert verdicts(0.0).count("slower") <= 0.02 * 150


def test_runs_are_timed_apart_from_what_is_around_them(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    class Slow(Session):
        def run(self, selected):
            clock[0] += 10.0
            return [selected["input_ids"] + 1]

        def select(self, feeds):
            clock[0] += 1.0
            return feeds

    runtime = StopwatchSession(Slow([stand_in(TensorInfo, name="input_ids")], [stand_in(TensorInfo, name="logits")]))
    outputs = [runtime({"input_ids": np.arange(3)}) for _ in range(2)]
    assert (runtime.seconds, clock[0], runtime.inputs) == (20.0, 22.0, ["input_ids"])
    assert outputs[1]["logits"].tolist() == [1, 2, 3]
