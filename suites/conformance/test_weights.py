"""Weights hold what no probe can see, such as the row of a token that no probe has."""

import pytest

from fixtures.graphs import weights
from fixtures.models.tensors import WeightsUnreadable, read_tensors


def test_weights_are_the_checkpoints(case, gate, weights_folder, finding):
    """Every weight in the graph is what the checkpoint has in its place: exactly, or as rounding to int8 leaves it."""
    try:
        tensors = read_tensors(weights_folder)
    except WeightsUnreadable as error:
        gate.skip(f"unsupported: {error}")
    compared = weights.compare(tensors, case.graph)
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
