"""Calls a check of the suites as pytest would, with what its fixtures yield for a case or for a stand-in of one."""

import inspect
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, TypeVar, cast

from fixtures.gate.case import Case
from fixtures.gate.measured import Measured
from fixtures.gate.session import Gate
from fixtures.models.tensors import read_tensors

FIXTURES: Mapping[str, Callable[[Case], Any]] = {
    "case": lambda case: case,
    "scored": lambda case: case,
    "subject": lambda case: case.subject,
    "gate": lambda case: Gate(case.context),
    "onnx_model": lambda case: case.graph,
    "operators": lambda case: case.operators,
    "stress_reference": lambda case: case.subject.stress_reference,
    "weights": lambda case: read_tensors(case.subject.weights_folder),
    "checkpoint_folder": lambda case: case.subject.weights_folder,
    "measured": lambda case: Measured(),
    "finding": lambda case: lambda text: None,
}
"""Fixture -> what it yields; those that measure note it nowhere."""


def call_check(check: Callable[..., None], case: Case, **values: Any) -> None:
    """Call a check about a case.

    Args:
        values: of the check's other parameters, and in place of FIXTURES.
    """
    names = inspect.signature(check).parameters
    check(**{name: values[name] if name in values else FIXTURES[name](case) for name in names})


Kind = TypeVar("Kind")


def stand_in(kind: type[Kind], **attributes: object) -> Kind:
    """Return an object of a kind as far as it has these attributes: whoever reads another one fails."""
    return cast(Kind, SimpleNamespace(**attributes))
