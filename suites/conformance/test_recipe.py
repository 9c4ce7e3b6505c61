"""The exporter's own steps."""


def test_exporter_leaves_its_inputs_untouched(case, gate):
    """No step of the recipe changed or deleted a file that it read."""
    touched = [words for step in case.step.lineage() for words in gate.artifact(step).touched]
    assert not touched, f"{case}: {'; '.join(touched)}"
