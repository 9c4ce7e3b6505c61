"""Texts of mixed lengths, one by one and in batches; several callers on one session."""

import functools

import numpy as np
import pytest

from fixtures.gate.timing import LONGEST, MIXED, shape_of
from fixtures.latency import throughput
from fixtures.latency.records import Measurement, Quantity
from fixtures.latency.throughput import WAYS
from fixtures.report.results import RECOMMENDATION_SHAPE
from fixtures.runtimes.opening import load


@pytest.mark.parametrize(("batch", "by_length"), WAYS)
def test_mixed_lengths(case, batch, by_length, recorded):
    """The same texts: throughput, and how much of what is computed is padding."""
    runtime = case.runtime
    texts = case.encoded.subset(mixed(case.encoded.lengths))

    def run(feeds):
        return runtime.run(runtime.select(feeds))

    measurement = Measurement(Quantity.WORKLOAD, batch, sorted=by_length)
    measure = functools.partial(throughput.workload, run, texts, batch, by_length=by_length)
    case.result.workloads.append(recorded(case, measurement, measure))


@pytest.mark.parametrize("threads", [1, 2, 0], ids=["one thread", "two threads", "all threads"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_callers(case, count, threads, gate, recorded):
    """Several callers share one session; how many intra-op threads serve them best."""
    threads = threads or gate.machine.threads
    measurement = Measurement(Quantity.CALLERS, callers=count, threads=threads)
    measured = any((result.callers, result.threads) == (count, threads) for result in case.result.callers)
    if measured or any(entry.measurement == measurement for entry in case.result.undecided):
        pytest.skip(f"all threads are {threads} here, and that was measured")
    runtime = load(case.file, threads, case.provider)
    feeds = runtime.select(shape_of(case.subject, *RECOMMENDATION_SHAPE))
    run = functools.partial(runtime.run, feeds)
    busy = min(count * threads, gate.machine.threads)
    measure = functools.partial(throughput.callers, run, count, threads)
    case.result.callers.append(recorded(case, measurement, measure, busy))


def mixed(lengths):
    """Return texts of all lengths up to LONGEST, or the shortest where none is, in an order that has nothing to do with
    them."""
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] <= max(LONGEST, lengths.min())]
    chosen = order[np.linspace(0, len(order) - 1, min(MIXED, len(order))).astype(int)]
    return np.random.default_rng(0).permutation(chosen)
