"""Feeds, pairs and statistics of the latency grid, throughput and footprint. Times of pairs are made up."""

import gc
import itertools
import multiprocessing
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from fixtures.gate.command_line import ROOT
from fixtures.latency import disturbance, footprint, pairs, ratios, throughput
from fixtures.latency.pairs import (
    GRIDS,
    MAX_ROUNDS,
    MIN_ROUNDS,
    PRECISION,
    WARMUP_ROUNDS,
    EnoughRounds,
    PairedRounds,
    feeds_of,
)
from fixtures.latency.ratios import half_width
from fixtures.runtimes import torch_runtime
from fixtures.scoring.encoded import Encoded, EncodedLongText, LongTextFacts

LONG = EncodedLongText(
    {"input_ids": np.r_[101, 1000:2000, 102], "attention_mask": np.ones(1002, np.int64)},
    np.array([0, 1002]),
    {"input_ids": 0, "attention_mask": 0},
    "right",
    LongTextFacts(head=1, tail=1, positions=1002),
)


@pytest.mark.parametrize(("batch", "length"), [(1, 3), (1, 16), (8, 128), (32, 512), (2, 1002)])
def test_feeds_have_their_shape_and_no_padding(batch, length):
    feeds = feeds_of(LONG, batch, length)
    ids = feeds["input_ids"]
    assert ids.shape == feeds["attention_mask"].shape == (batch, length)
    assert feeds["attention_mask"].all()
    assert (ids[:, 0] == 101).all()
    assert (ids[:, -1] == 102).all()
    assert ((ids[:, 1:-1] >= 1000) & (ids[:, 1:-1] < 2000)).all()
    assert (np.diff(ids[:, 1:-1]) == 1).all(), "not neighbouring tokens of the text"


def test_rows_of_a_batch_differ():
    assert len(np.unique(feeds_of(LONG, 32, 64)["input_ids"], axis=0)) == 32


@pytest.mark.parametrize("length", [2, 1003])
def test_length_that_cannot_be_made_is_an_error(length):
    message = f"cannot make an input of {length} tokens: at least 3 are needed, and the long text has 1002"
    with pytest.raises(ValueError, match=message):
        feeds_of(LONG, 1, length)


def test_grids_are_those_of_the_design():
    assert set(GRIDS["quick"]) == {*itertools.product((1, 8), (16, 128)), (1, 512)}
    assert set(GRIDS["full"]) == set(itertools.product((1, 2, 4, 8, 16, 32), (16, 64, 128, 256, 512)))


# ----------------------------------------------------------------------------------------- pairs


def test_cell_by_hand():
    variant_s = np.array([1.0, 2.0, 3.0, 4.0, 5.0] * 4) / 1e3
    cell = pairs.cell_of((8, 16), (3 * variant_s).tolist(), variant_s.tolist(), threads=2)
    assert (cell.p50_ms, cell.p95_ms) == (3.0, 5.0)
    assert cell.items_per_s == pytest.approx(8 / 3e-3, rel=1e-5)
    assert (cell.ratio_to_plain, cell.interval) == (3.0, (3.0, 3.0))
    assert (cell.rounds, cell.threads) == (20, 2)


def test_pairs_cancel_what_the_machine_does_to_both():
    """Another tenant doubles the time of some rounds; the ratio of each pair stays what it is."""
    random = np.random.default_rng(3)
    load = 1 + random.integers(0, 2, 40)
    anchor_s, variant_s = (
        (seconds * load * (1 + 0.01 * random.normal(size=40))).tolist() for seconds in (0.004, 0.002)
    )
    cell = pairs.cell_of((1, 16), anchor_s, variant_s, threads=1)
    assert cell.ratio_to_plain == pytest.approx(2, rel=0.01)
    assert half_width(cell.interval) < 0.01


def test_interval_is_that_of_a_median():
    """Order statistics: of 1000 samples from a distribution of known median, at least 95 % of the intervals hold it."""
    random = np.random.default_rng(5)
    correct = 0
    for _ in range(1000):
        low, high = pairs.cell_of((1, 1), random.lognormal(np.log(2), 0.3, 21).tolist(), [1.0] * 21, 1).interval
        correct += low <= 2 <= high
    assert correct >= 940


def rounds_of(anchor, variant, **options):
    """Return rounds of made-up times, run as pytest-benchmark would run them."""
    rounds = PairedRounds(lambda: next(anchor), lambda: next(variant), 30, 2, **options)
    for _ in range(3 * MAX_ROUNDS):
        try:
            rounds.setup()
        except EnoughRounds:
            return rounds
        rounds.run()
        rounds.teardown()
    raise AssertionError("the rounds did not end")


def times(median, spread, seed):
    random = np.random.default_rng(seed)
    while True:
        yield median * float(np.exp(spread * random.normal()))


def test_rounds_end_when_the_ratio_is_known(quiet_machine):
    steady, noisy = (rounds_of(times(2, spread, 1), times(1, spread, 2)) for spread in (0.001, 0.03))
    assert len(steady.variant_s) == len(steady.anchor_s) == MIN_ROUNDS
    assert MIN_ROUNDS < len(noisy.variant_s) < MAX_ROUNDS
    ratio, interval = ratios.median_ratio(noisy.anchor_s, noisy.variant_s)
    assert half_width(interval) <= PRECISION
    assert ratio == pytest.approx(2, rel=0.02)


def test_order_within_a_pair_is_random(quiet_machine):
    order: list[str] = []

    def run(name):
        order.append(name)
        return 1.0

    rounds = PairedRounds(lambda: run("anchor"), lambda: run("variant"), 30, 2)
    rounds._random = np.random.default_rng(0)
    for _ in range(MIN_ROUNDS):
        rounds.setup()
        rounds.run()
        rounds.teardown()
    assert set(order[::2]) == {"anchor", "variant"}
    assert all(set(pair) == {"anchor", "variant"} for pair in zip(order[::2], order[1::2], strict=True))


def test_ratio_that_stays_too_wide_is_measured_once_more_and_then_undecided(quiet_machine):
    restarts = []
    rounds = rounds_of(times(2, 2.0, 1), times(1, 2.0, 2), on_restart=lambda: restarts.append(True))
    assert restarts == [True]
    assert "the ratio is known to" in rounds.disturbance
    assert len(rounds.variant_s) == MAX_ROUNDS


def test_time_that_the_hypervisor_takes_disturbs_rounds(quiet_machine, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(disturbance, "_stolen_s", lambda: float(next(clock)))
    rounds = rounds_of(itertools.repeat(1.0), itertools.repeat(1.0))
    assert rounds.disturbance.startswith("the hypervisor took ")


def test_processor_that_throttles_itself_disturbs_rounds(quiet_machine, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(disturbance, "_throttles", lambda: next(clock))
    rounds = rounds_of(itertools.repeat(1.0), itertools.repeat(1.0))
    assert "the processor was too hot" in rounds.disturbance


def test_warm_up_ends_when_times_are_stable(quiet_machine):
    times_s = [1.0] * 3 + [0.1] * 100
    slow_start = iter(times_s)
    rounds = PairedRounds(lambda: next(slow_start), lambda: 0.0, 30, 2)
    rounds.warm_up()
    assert len(times_s) - len(list(slow_start)) == 3 * WARMUP_ROUNDS
    assert not rounds.variant_s


# ----------------------------------------------------------------------- throughput and footprint


def test_workload_counts_padding():
    lengths = [2, 4, 2, 4]
    encoded = Encoded(
        {name: np.ones(sum(lengths), np.int64) for name in ("input_ids", "attention_mask")},
        np.cumsum([0, *lengths]),
        {"input_ids": 0, "attention_mask": 0},
        "right",
    )
    shapes: list[tuple[int, ...]] = []
    for batch, by_length, padding, runs in ((1, False, 0, 4), (2, False, 0.25, 2), (2, True, 0, 2)):
        shapes.clear()
        workload = throughput.measure_workload(
            lambda feeds: shapes.append(feeds["input_ids"].shape), encoded, batch, by_length=by_length
        )
        assert (workload.batch, workload.sorted, workload.padding) == (batch, by_length, padding)
        assert len(shapes) == 2 * runs, "each once to warm up"


def test_callers_call_at_the_same_time():
    running, most_at_once, lock = set(), [0], threading.Lock()

    def run():
        with lock:
            running.add(threading.get_ident())
            most_at_once[0] = max(most_at_once[0], len(running))
        time.sleep(0.002)
        with lock:
            running.discard(threading.get_ident())

    callers = throughput.measure_callers(run, 3, 2)
    assert most_at_once[0] == 3
    assert (callers.callers, callers.threads) == (3, 2)
    assert callers.p50_ms >= 2


def test_footprint_of_a_process_that_fails_is_an_error(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(RuntimeError, match="the measuring process ended with exit code 1"):
        footprint.measure_footprint(tmp_path / "model.onnx", 1, "CPUExecutionProvider", {})


def slow_with_garbage(checkpoint):
    """Return a model that takes two seconds where garbage collection is on."""
    import torch

    class Model(torch.nn.Module):
        def forward(self, input_ids):
            time.sleep(2 * gc.isenabled())
            return {}

    return Model()


def test_garbage_is_held_while_pytorch_serves_rounds(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setitem(torch_runtime.LOADERS, "slow", slow_with_garbage)
    pipe, child_pipe = multiprocessing.Pipe()
    arguments = (child_pipe, tmp_path, "slow", 1, "cpu")
    thread = threading.Thread(target=torch_runtime.serve_rounds, args=arguments)
    thread.start()
    try:
        for _ in range(2):
            pipe.send({"input_ids": np.ones((1, 4), np.int64)})
            assert pipe.recv() == "loaded"
            pipe.send(None)
            assert pipe.recv() < 1
    finally:
        pipe.close()
        thread.join()
        gc.enable()


# ------------------------------------------------------------------------------ collected tests


@pytest.mark.parametrize(("grid", "has_throughput"), [("quick", False), ("full", True)])
def test_full_grid_decides_on_threads_and_batches_too(grid, has_throughput):
    command = [
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q", "--grid", grid),
        *("--model", "minilm-l6", "--variant", "plain"),
    ]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "test_latency[minilm-l6-plain-1x128]" in run.stdout
    assert ("test_throughput.py::test_callers" in run.stdout) == has_throughput
    assert ("test_memory.py::" in run.stdout) == has_throughput
