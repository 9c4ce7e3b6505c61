"""What an approval measures beside the scores that were judged."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.gate import approval
from fixtures.gate.measured import Measured, MeasuredModel


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
    monkeypatch.setattr(approval, "drift_of", lambda case: None)
    approval.complete(gate, subject)
    assert measured.operators is None
