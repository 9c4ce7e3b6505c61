"""Throughput of texts of mixed lengths, one by one and in batches, and of several callers on one session."""

import functools
from collections.abc import Sequence

import numpy as np
import pytest

from fixtures.arrays import Array, Integers
from fixtures.gate.case import Case
from fixtures.gate.measured import Measured
from fixtures.gate.session import Gate
from fixtures.gate.timing import shape_of
from fixtures.latency.records import Measurement, Quantity
from fixtures.latency.throughput import BATCHINGS, measure_callers, measure_workload
from fixtures.plugin.benchmarks import MeasureOnce
from fixtures.report.results import RECOMMENDATION_SHAPE
from fixtures.runtimes.opening import open_session
from fixtures.runtimes.session import Feeds

pytestmark = pytest.mark.timed
MIXED_TEXTS, LONGEST = 64, 128
"""Texts of a workload, and the tokens of its longest: a few of 512 would take most of the time."""


@pytest.mark.parametrize(("batch", "by_length"), BATCHINGS)
def test_mixed_lengths(case: Case, batch: int, by_length: bool, measured: Measured, measure_once: MeasureOnce) -> None:
    """The throughput of the same texts in each batching, and the share of padding in what is computed."""
    runtime = case.runtime
    texts = case.encoded.subset(mixed_lengths(case.encoded.lengths))

    def run(feeds: Feeds) -> Sequence[Array]:
        return runtime.run(runtime.select(feeds))

    timing = Measurement(Quantity.WORKLOAD, batch=batch, sorted=by_length)
    measure = functools.partial(measure_workload, run, texts, batch, by_length=by_length)
    measured.workloads.append(measure_once(case, timing, measure))


@pytest.mark.parametrize("threads", [1, 2, 0], ids=["one thread", "two threads", "all threads"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_callers(
    case: Case, count: int, threads: int, gate: Gate, measured: Measured, measure_once: MeasureOnce
) -> None:
    """The throughput of several callers that share one session, by its number of intra-op threads."""
    threads = threads or gate.machine.threads
    timing = Measurement(Quantity.CALLERS, callers=count, threads=threads)
    measured_already = any((callers.callers, callers.threads) == (count, threads) for callers in measured.callers)
    if measured_already or timing in [undecided.measurement for undecided in measured.undecided]:
        pytest.skip(f"all threads are {threads} here, which was measured already")
    runtime = open_session(case.file, threads, case.provider)
    feeds = runtime.select(shape_of(case.subject, *RECOMMENDATION_SHAPE))
    run = functools.partial(runtime.run, feeds)
    busy = min(count * threads, gate.machine.threads)
    measure = functools.partial(measure_callers, run, count, threads)
    measured.callers.append(measure_once(case, timing, measure, busy))


def mixed_lengths(lengths: Integers) -> Integers:
    """Return the rows of MIXED_TEXTS texts of up to LONGEST tokens, in an order that is independent of length.

    Where all texts are longer, the rows are those of the shortest length.
    """
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] <= max(LONGEST, lengths.min())]
    selected = order[np.linspace(0, len(order) - 1, min(MIXED_TEXTS, len(order))).astype(int)]
    return np.random.default_rng(0).permutation(selected)
