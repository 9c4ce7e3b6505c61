"""The gate for a model update: a new checkpoint still means what the approved one meant."""

from fixtures.gate.session import inapplicable
from fixtures.gate.verdicts import judge_update


def test_update_keeps_its_meaning(subject, reference, gate):
    """A candidate moves what people built on the scores no further than `[update]` allows."""
    if subject.update is None:
        inapplicable("no candidate: --candidate MODEL=PATH names one")
    if not gate.approve:
        judge_update(subject)
