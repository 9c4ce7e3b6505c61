"""Feeds, pairs and statistics of the latency grid. Times here are made up; none is asserted."""

import itertools

import numpy as np
import pytest

from fixtures import latency
from fixtures.tasks import Encoded

LONG = Encoded(
    {"input_ids": np.r_[101, 1000:2000, 102], "attention_mask": np.ones(1002, np.int64)},
    np.array([0, 1002]), {"input_ids": 0, "attention_mask": 0}, "right", {"head": 1, "tail": 1},
)  # fmt: skip


@pytest.mark.parametrize(("batch", "length"), [(1, 3), (1, 16), (8, 128), (32, 512), (2, 1002)])
def test_feeds_have_their_shape_and_no_padding(batch, length):
    feeds = latency.feeds_of(LONG, batch, length)
    ids = feeds["input_ids"]
    assert ids.shape == feeds["attention_mask"].shape == (batch, length)
    assert feeds["attention_mask"].all()
    assert (ids[:, 0] == 101).all()
    assert (ids[:, -1] == 102).all()
    assert ((ids[:, 1:-1] >= 1000) & (ids[:, 1:-1] < 2000)).all()
    assert (np.diff(ids[:, 1:-1]) == 1).all(), "not neighbouring tokens of the text"


def test_rows_of_a_batch_differ():
    assert len(np.unique(latency.feeds_of(LONG, 32, 64)["input_ids"], axis=0)) == 32


@pytest.mark.parametrize("length", [2, 1003])
def test_length_that_cannot_be_made_is_an_error(length):
    with pytest.raises(ValueError, match=f"no input of {length} tokens: 2 are taken, 1002 are there"):
        latency.feeds_of(LONG, 1, length)


def test_grids_are_those_of_the_design():
    assert set(latency.GRIDS["quick"]) == {*itertools.product((1, 8), (16, 128)), (1, 512)}
    assert set(latency.GRIDS["full"]) == set(itertools.product((1, 2, 4, 8, 16, 32), (16, 64, 128, 256, 512)))


def test_grid_of_a_model():
    assert latency.grid_of("quick", None, 200) == [(1, 16), (1, 128), (8, 16), (8, 128)]
    assert latency.grid_of("full", ((3, 5),), 512) == [(3, 5)]


def test_cell_by_hand():
    variant = np.array([1.0, 2.0, 3.0, 4.0, 5.0] * 4) / 1e3
    found = latency.cell((8, 16), 3 * variant, variant, threads=2)
    assert (found.p50_ms, found.p95_ms) == (3.0, 5.0)
    assert found.items_per_s == pytest.approx(8 / 3e-3, rel=1e-5)
    assert (found.ratio_to_plain, found.interval) == (3.0, (3.0, 3.0))
    assert (found.rounds, found.threads) == (20, 2)


def test_pairs_cancel_what_the_machine_does_to_both():
    """Another tenant doubles the time of some rounds; the ratio of each pair stays what it is."""
    random = np.random.default_rng(3)
    weather = 1 + random.integers(0, 2, 40) + 0.01 * random.normal(size=40)
    found = latency.cell((1, 16), 0.004 * weather, 0.002 * weather, threads=1)
    assert found.ratio_to_plain == pytest.approx(2)


def test_interval_is_that_of_a_median():
    """Order statistics: of 1000 samples from a known median, at least 95 % of the intervals hold it."""
    random = np.random.default_rng(5)
    held = 0
    for _ in range(1000):
        ratios = random.lognormal(np.log(2), 0.3, 21)
        low, high = latency.cell((1, 1), ratios, np.ones(21), 1).interval
        held += low <= 2 <= high
    assert held >= 940


def test_number_of_rounds_fits_the_time():
    assert latency.rounds_for(10.0) == latency.MIN_ROUNDS
    assert latency.rounds_for(1e-6) == latency.MAX_ROUNDS
    middle = latency.SECONDS_PER_CELL / latency.MIN_ROUNDS / 2
    assert latency.rounds_for(middle) == 2 * latency.MIN_ROUNDS
