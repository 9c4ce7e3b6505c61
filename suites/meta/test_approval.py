"""What an approval measures beside the scores that were judged, and what it asks for."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.baselines.files import NO_BASELINE
from fixtures.gate import approval
from fixtures.gate.checks import CHECKS, COMPARISONS, DECISIONS, PUBLICATIONS, RETRIEVAL
from fixtures.gate.context import Context
from fixtures.gate.coverage import left_out_checks
from fixtures.gate.measured import Measured, MeasuredModel
from fixtures.gate.session import Gate
from fixtures.models.settings import Limit, Model, Settings, Threshold
from fixtures.scoring.own_files import CORPUS_FILE
from fixtures.scoring.tasks import TASKS
from suites.accuracy import test_published, test_retrieval, test_scores, test_thresholds
from suites.meta.calls import stand_in


class Stored:
    """Stands for a case whose graph is not of ONNX."""

    is_onnx = False
    version = ""
    variant = SimpleNamespace(name="openvino")

    @property
    def operators(self) -> dict[str, int]:
        raise AssertionError("it is no ONNX graph")


@dataclass(frozen=True)
class Subject:
    is_candidate: bool


@pytest.mark.parametrize("is_candidate", [False, True])
def test_operators_are_counted_of_onnx_graphs_only(monkeypatch, is_candidate):
    """A candidate's OpenVINO variant has none, and its approval must not end in an error."""
    case, measured = Stored(), Measured()
    measured.closeness = SimpleNamespace(metrics={})  # type: ignore[assignment]
    subject: Any = Subject(is_candidate)
    models = {subject: MeasuredModel()}
    gate: Any = SimpleNamespace(cases_of=lambda _: [case], measured={case: measured}, measured_models=models)
    monkeypatch.setattr(approval, "reference_drift_of", lambda subject: None)
    monkeypatch.setattr(approval, "update_of", lambda subject: None)
    monkeypatch.setattr(approval, "update_decisions_of", lambda subject: [])
    monkeypatch.setattr(approval, "drift_of", lambda case: None)
    approval.complete(gate, subject)
    assert measured.operators is None


O2: Any = Stored()
"""Stands for a case that was judged."""
HELD: Any = object()
"""Stands for a stored file."""
LIMIT = Limit("O2", "scores_hold_under_mask[holes]", "a reason", "https://example.org")
EXCUSED = Limit("O2", "decisions_stay", "a reason", "https://example.org")
GATED, REPORTED = Threshold("shown", "logit", 0.0, 0.01), Threshold("shown", "logit", 0.0)
INDEX_LIMIT = Limit("O2", "index_keeps_neighbours", "a reason", "https://example.org")
PARAMETERS = {LIMIT.check, "scores_hold_under_mask[random]"}


def left_out(baseline, ended, *, limits=(), thresholds=(), index=None, published=(), emulators=(), searched=False):
    """Return what an approval of O2 says that a run left out, and of which this ended."""
    subject: Any = Subject(False)
    subject.__dict__.update(
        approved=baseline, published=published, task=TASKS["embedding"],
        context=stand_in(Context, emulators=emulators, machine=SimpleNamespace(emulated="")),
        plan=SimpleNamespace(own=SimpleNamespace(files={CORPUS_FILE: ""}) if searched else None),
        model=stand_in(Model, settings=stand_in(Settings, limits=limits, thresholds=thresholds, index=index)),
    )  # fmt: skip
    gate = stand_in(Gate, cases_of=lambda _: [], measured={}, ended={O2: ended, subject: set()})
    return left_out_checks(gate, subject, {"O2": O2})


@pytest.mark.parametrize(
    ("baseline", "ended", "given", "text"),
    [
        ({}, set(), {}, ""),
        (
            {},
            {"scores_stay_within_ceiling"},
            {"published": (1,)},
            "published_scores_are_reproduced and 1 more check of",
        ),
        ({}, set(), {"limits": (LIMIT,)}, "scores_hold_under_mask[holes] of suites/conformance on O2: select suites/c"),
        ({}, {"scores_hold_under_mask[random]"}, {"limits": (LIMIT,)}, "scores_hold_under_mask[holes] of suites/conf"),
        ({}, {LIMIT.check}, {"limits": (LIMIT,)}, ""),
        ({}, set(), {"limits": (EXCUSED,), "thresholds": (REPORTED,)}, "decisions_stay of suites/accuracy on O2: sele"),
        ({}, set(), {"limits": (EXCUSED,)}, ""),
        ({}, set(), {"thresholds": (GATED,)}, "decisions_stay of suites/accuracy on O2"),
        ({}, DECISIONS, {"thresholds": (GATED,), "limits": (EXCUSED,)}, ""),
        ({}, set(), {"thresholds": (REPORTED,)}, ""),
        ({}, set(), {"limits": (INDEX_LIMIT,), "index": HELD}, "index_keeps_neighbours of suites/accuracy on O2: sel"),
        ({}, set(), {"limits": (INDEX_LIMIT,)}, ""),
        ({"reference_file"}, COMPARISONS, {}, ""),
        ({"reference_file"}, {"scores_stay_within_ceiling"}, {}, "reference_is_the_approved_one and 1 more check of"),
        ({"conformance_file"}, CHECKS, {}, ""),
        ({"conformance_file"}, (CHECKS - {"scores_hold_under_mask"}) | PARAMETERS, {}, ""),
        ({"conformance_file"}, CHECKS - {"builds"}, {}, "left out: builds of suites/conformance on O2: select suites/"),
        ({"conformance_file"}, set(), {"emulators": (1,)}, ""),
        ({"retrieval_file"}, set(), {"searched": True}, "passages_are_found_as_well of suites/accuracy on O2"),
        ({"retrieval_file"}, RETRIEVAL, {"searched": True}, ""),
        ({"retrieval_file"}, set(), {}, ""),
        (
            {"reference_file", "conformance_file"},
            COMPARISONS,
            {},
            f"{len(CHECKS) - 1} more checks of suites/conformance",
        ),
    ],
)
def test_approval_asks_for_what_the_baseline_covers(baseline, ended, given, text):
    stored = replace(NO_BASELINE, **dict.fromkeys(baseline, HELD))
    reason = left_out(stored, set(ended), **given)
    assert text in reason
    assert bool(reason) == bool(text)


def test_checks_that_an_approval_asks_for_exist():
    tests = {*vars(test_scores), *vars(test_published), *vars(test_thresholds), *vars(test_retrieval)}
    assert {f"test_{name}" for name in COMPARISONS | PUBLICATIONS | DECISIONS | RETRIEVAL} <= tests
