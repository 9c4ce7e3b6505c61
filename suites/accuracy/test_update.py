"""The gate for a model update: a new checkpoint still means what the approved one meant."""

import pytest

from fixtures.gate.session import Gate
from fixtures.gate.subject import Subject
from fixtures.gate.verdicts import judge_update
from fixtures.plugin.outcomes import require
from fixtures.scoring.update import Update

pytestmark = pytest.mark.scores


def test_update_keeps_its_meaning(subject: Subject, update: Update, gate: Gate) -> None:
    """A candidate moves what people built on the scores no further than `[update]` allows."""
    if not gate.approving:
        require(judge_update(subject, update))
