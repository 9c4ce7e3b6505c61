"""The labels of a classifier: whoever reads its logits by number has to get the label that was approved."""

import itertools
from collections.abc import Sequence

import pytest

from fixtures.gate.case import Case
from fixtures.gate.session import Gate
from fixtures.gate.subject import Subject
from fixtures.models.heads import CONFIG_FILE, read_labels
from fixtures.plugin.outcomes import inapplicable, unbaselined

pytestmark = pytest.mark.check


def require_same_labels(name: str, expected: Sequence[str], source: str, actual: Sequence[str], place: str) -> None:
    """Fail if two lists of labels differ, and name those that do."""
    pairs = enumerate(itertools.zip_longest(expected, actual, fillvalue="nothing"))
    if changed := [f"{index} is {label} instead of {wanted}" for index, (wanted, label) in pairs if label != wanted]:
        pytest.fail(f"{name}: the labels in {place} are not those of {source}: {', '.join(changed)}", pytrace=False)


def test_labels_are_the_approved_ones(subject: Subject, gate: Gate) -> None:
    """`id2label` in the checkpoint's config.json, and in a candidate's, is what was approved."""
    if not subject.labels:
        inapplicable("it has no labels, or one")
    if gate.approving:
        return
    pins = subject.approved.conformance_file
    if pins is None or not pins.labels:
        unbaselined(subject, f"{subject.name} has no approved labels; record them with --approve")
    require_same_labels(subject.name, pins.labels, "the approved checkpoint", subject.labels, CONFIG_FILE)


def test_shipped_labels_are_the_checkpoints(case: Case) -> None:
    """`id2label` in the config.json beside the graph, which programs read that deploy it, is the checkpoint's."""
    if not case.subject.labels:
        inapplicable("it has no labels, or one")
    if not (case.artifact.folder / CONFIG_FILE).is_file():
        inapplicable(f"no {CONFIG_FILE} lies beside it")
    shipped = read_labels(case.artifact.folder)
    require_same_labels(str(case), case.subject.labels, "the checkpoint", shipped, f"the {CONFIG_FILE} beside it")
