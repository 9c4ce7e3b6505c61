"""Weights: what no probe can see, such as the row of a token that none of them has."""

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
        first, *others = compared.differences
        lines = [f"{case.subject.name} {case.variant.name}: {first}", *(f"  {one}" for one in others[:9])]
        lines += [f"  and {len(others) - 9} more"] * (len(others) > 9)
        pytest.fail("\n".join(lines), pytrace=False)
