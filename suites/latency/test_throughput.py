"""Throughput of texts of mixed lengths, one by one and in batches, and of several callers on one session."""

import functools

import numpy as np
import pytest

from fixtures.gate.timing import LONGEST, MIXED, shape_of
from fixtures.latency.records import Measurement, Quantity
from fixtures.latency.throughput import BATCHINGS, measure_callers, measure_workload
from fixtures.report.results import RECOMMENDATION_SHAPE
from fixtures.runtimes.opening import open_session


@pytest.mark.parametrize(("batch", "by_length"), BATCHINGS)
def test_mixed_lengths(case, batch, by_length, recorded):
    """The throughput of the same texts in each batching, and the share of padding in what is computed."""
    runtime = case.runtime
    texts = case.encoded.subset(mixed_lengths(case.encoded.lengths))

    def run(feeds):
        return runtime.run(runtime.select(feeds))

    measurement = Measurement(Quantity.WORKLOAD, batch, sorted=by_length)
    measure = functools.partial(measure_workload, run, texts, batch, by_length=by_length)
    case.result.workloads.append(recorded(case, measurement, measure))


@pytest.mark.parametrize("threads", [1, 2, 0], ids=["one thread", "two threads", "all threads"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_callers(case, count, threads, gate, recorded):
    """The throughput of several callers that share one session, by its number of intra-op threads."""
    threads = threads or gate.machine.threads
    measurement = Measurement(Quantity.CALLERS, callers=count, threads=threads)
    is_measured = any((result.callers, result.threads) == (count, threads) for result in case.result.callers)
    if is_measured or any(undecided.measurement == measurement for undecided in case.result.undecided):
        pytest.skip(f"all threads are {threads} here, which was measured already")
    runtime = open_session(case.file, threads, case.provider)
    feeds = runtime.select(shape_of(case.subject, *RECOMMENDATION_SHAPE))
    run = functools.partial(runtime.run, feeds)
    busy = min(count * threads, gate.machine.threads)
    measure = functools.partial(measure_callers, run, count, threads)
    case.result.callers.append(recorded(case, measurement, measure, busy))


def mixed_lengths(lengths):
    """Return the rows of MIXED texts of all lengths up to LONGEST tokens, in an order that is independent of length.

    Where all texts are longer, the rows are those of the shortest length.
    """
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] <= max(LONGEST, lengths.min())]
    rows = order[np.linspace(0, len(order) - 1, min(MIXED, len(order))).astype(int)]
    return np.random.default_rng(0).permutation(rows)
