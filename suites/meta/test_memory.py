"""Growth of memory with the shapes that a process has run: what is measured, and what is told."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fixtures.gate.case import Case
from fixtures.gate.session import Gate
from fixtures.latency import memory
from fixtures.latency.footprint import Footprint
from fixtures.latency.memory import GROWTH_CEILING, SHAPES, Growth, measure_growth, shapes
from suites.latency import test_memory as check
from suites.meta.calls import stand_in


def feeds_of(batch, length):
    return {"input_ids": np.ones((batch, length), np.int64)}


def measured(monkeypatch, alone_mb, swept_mb, mended_mb):
    """Let processes take this much memory, and return what `measure_growth` makes of it and how it asked."""
    asked = []

    def footprint(file, threads, provider, feeds, sweep=(), *, memory_patterns=True):
        asked.append(SimpleNamespace(shape=feeds["input_ids"].shape, runs=len(sweep), patterns=memory_patterns))
        return Footprint(1, 1, alone_mb, alone_mb, swept_mb if memory_patterns else mended_mb)

    monkeypatch.setattr(memory, "measure_footprint", footprint)
    return measure_growth(Path("model.onnx"), 2, "CPUExecutionProvider", feeds_of, shapes(512)), asked


def test_shapes_are_many_and_the_same_in_every_run():
    assert len(shapes(512)) == SHAPES
    assert shapes(512) == shapes(512)
    assert len(set(shapes(512))) > SHAPES * 0.8
    assert max(length for _, length in shapes(16)) <= 16


def test_growth_below_the_ceiling_is_measured_once(monkeypatch):
    growth, asked = measured(monkeypatch, 200, 240, 210)
    assert growth == Growth(200, 240)
    assert str(growth) == "240 MB after 200 shapes, 1.20 times the 200 MB of the largest alone"
    largest = max(shapes(512), key=lambda shape: shape[0] * shape[1])
    assert [(call.shape, call.runs) for call in asked] == [(largest, 0), (shapes(512)[0], SHAPES - 1)]


def test_growth_beyond_the_ceiling_tells_what_mends_it(monkeypatch):
    growth, asked = measured(monkeypatch, 200, 700, 230)
    assert growth.ratio > GROWTH_CEILING
    assert "230 MB with SessionOptions.enable_mem_pattern = False" in str(growth)
    assert [call.patterns for call in asked] == [True, True, False]


def test_check_fails_where_memory_grows(monkeypatch):
    """And says by how much, and what mends it."""
    subject = SimpleNamespace(long=SimpleNamespace(facts=SimpleNamespace(positions=512)))
    case = stand_in(Case, subject=subject, file="x", provider="CPUExecutionProvider")
    gate = stand_in(Gate, machine=SimpleNamespace(threads=2))
    monkeypatch.setattr(check, "measure_growth", lambda *_: Growth(200, 290))
    check.test_memory_stays_after_many_shapes(case, gate, print)
    monkeypatch.setattr(check, "measure_growth", lambda *_: Growth(200, 310, 230))
    with pytest.raises(AssertionError, match=r"1\.55 times .*enable_mem_pattern = False, and 1\.5 times is the"):
        check.test_memory_stays_after_many_shapes(case, gate, print)
