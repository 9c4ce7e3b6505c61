"""Calls a check of the suites as pytest would, with what its fixtures yield for a case."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from fixtures.gate.case import Case
from fixtures.gate.session import Gate

FIXTURES: Mapping[str, Callable[[Case], Any]] = {
    "case": lambda case: case,
    "scored": lambda case: case,
    "subject": lambda case: case.subject,
    "gate": lambda case: Gate(case.context),
    "onnx_model": lambda case: case.graph,
    "operators": lambda case: case.operators,
    "stress_reference": lambda case: case.subject.stress_reference,
    "weights_folder": lambda case: case.subject.weights_folder,
    "finding": lambda case: lambda text: None,
}
"""Fixture -> what it yields; those that measure note it nowhere."""


def call_check(check: Callable[..., None], case: Case, **values: Any) -> None:
    """Call a check about a case.

    Args:
        values: of the check's other parameters, and in place of FIXTURES.
    """
    wanted = inspect.signature(check).parameters
    check(**{name: values[name] if name in values else FIXTURES[name](case) for name in wanted})
