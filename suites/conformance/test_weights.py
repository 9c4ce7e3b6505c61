"""Weights hold what no probe can see, such as the row of a token that no probe has."""

from pathlib import Path

import onnx
import pytest

from fixtures.gate.case import Case
from fixtures.graphs import weights
from fixtures.models.tensors import WeightsUnreadable, read_tensors
from fixtures.plugin.outcomes import unsupported
from fixtures.plugin.suite_fixtures import NoteFinding

pytestmark = pytest.mark.check


def test_weights_are_the_checkpoints(
    case: Case, onnx_model: onnx.ModelProto, weights_folder: Path, finding: NoteFinding
) -> None:
    """Every weight in the graph is what the checkpoint has in its place: exactly, or as rounding to int8 leaves it."""
    try:
        tensors = read_tensors(weights_folder)
    except WeightsUnreadable as error:
        unsupported(case.context, str(error))
    compared = weights.compare(tensors, onnx_model, case.file.parent)
    finding(str(compared))
    if not compared:
        first, *further = compared.differences
        lines = [
            f"{case.subject.name} {case.variant.name}: {first}",
            *(f"  {difference}" for difference in further[:9]),
        ]
        if len(further) > 9:
            lines.append(f"  and {len(further) - 9} more")
        pytest.fail("\n".join(lines), pytrace=False)
