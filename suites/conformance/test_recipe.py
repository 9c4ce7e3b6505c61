"""The exporter's own steps."""

import pytest

from fixtures.gate.case import Case

pytestmark = pytest.mark.check


def test_exporter_leaves_its_inputs_untouched(case: Case) -> None:
    """No step of the recipe changed or deleted a file that it read."""
    touched = [words for step in case.step.lineage() for words in case.context.artifact(step).touched]
    assert not touched, f"{case}: {'; '.join(touched)}"
