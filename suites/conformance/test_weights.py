"""Weights hold what no probe can see, such as the row of a token that no probe has.

Every weight in the graph is the checkpoint's: exactly, in fp16 where it was cast, in int8 within rounding; tensor and
row are named.
"""

from collections.abc import Mapping

import onnx
import pytest

from fixtures.arrays import Floats
from fixtures.gate.case import Case
from fixtures.gate.measured import Measured
from fixtures.graphs.weights import compare
from fixtures.plugin.suite_fixtures import NoteFinding

pytestmark = pytest.mark.check
LEAST_SHARE = 0.95
"""Of the elements of a graph's weights: below, what was not recognised is remarked on."""


def test_weights_are_the_checkpoints(
    case: Case, onnx_model: onnx.ModelProto, weights: Mapping[str, Floats], measured: Measured, finding: NoteFinding
) -> None:
    """Every weight in the graph is what the checkpoint has in its place: exactly, or as rounding to int8 leaves it."""
    compared = compare(weights, onnx_model, case.file.parent)
    measured.matched_share = compared.share
    if compared.share < LEAST_SHARE and not compared.differences:
        finding(f"only {compared.share:.0%} of the elements were recognised: damage to the others is not seen here")
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
