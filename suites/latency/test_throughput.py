"""Texts of mixed lengths, one by one and in batches; several callers on one session."""

import functools

import numpy as np
import pytest

from fixtures.gate.timing import LONGEST, MIXED, shape_of
from fixtures.latency import throughput
from fixtures.latency.throughput import WAYS, callers_name, workload_name
from fixtures.report.results import RECOMMENDATION_SHAPE
from fixtures.runtimes.opening import load


@pytest.mark.parametrize(("batch", "by_length"), WAYS)
def test_mixed_lengths(case, batch, by_length, recorded):
    """The same texts: throughput, and how much of what is computed is padding."""
    runtime = case.runtime
    texts = case.encoded.subset(mixed(case.encoded.lengths))

    def run(feeds):
        return runtime.run(runtime.select(feeds))

    name = workload_name(batch, by_length)
    found = recorded(case, name, functools.partial(throughput.workload, run, texts, batch, by_length=by_length))
    case.result.workloads.append(found)


@pytest.mark.parametrize("threads", [1, 2, 0], ids=["one thread", "two threads", "all threads"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_callers(case, count, threads, gate, recorded):
    """Several callers share one session; how many intra-op threads serve them best."""
    threads = threads or gate.machine.threads
    name = callers_name(count, threads)
    known = any((one.callers, one.threads) == (count, threads) for one in case.result.callers)
    if known or name in case.result.undecided:
        pytest.skip(f"all threads are {threads} here, and that was measured")
    runtime = load(case.file, threads, case.provider)
    feeds = runtime.select(shape_of(case.subject, *RECOMMENDATION_SHAPE))
    run = functools.partial(runtime.run, feeds)
    busy = min(count * threads, gate.machine.threads)
    found = recorded(case, name, functools.partial(throughput.callers, run, count, threads), busy)
    case.result.callers.append(found)


def mixed(lengths):
    """Return texts of all lengths up to LONGEST, or the shortest where none is, in an order that has nothing to do with
    them."""
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] <= max(LONGEST, lengths.min())]
    chosen = order[np.linspace(0, len(order) - 1, min(MIXED, len(order))).astype(int)]
    return np.random.default_rng(0).permutation(chosen)
