"""The three comparisons: each says that scores still mean what they meant."""

import pytest

from fixtures.gate.case import Case
from fixtures.gate.session import Gate
from fixtures.gate.subject import Subject
from fixtures.gate.verdicts import ceiling_limits, judge, judge_drift
from fixtures.plugin.outcomes import inapplicable, require, unbaselined
from fixtures.scoring.closeness import Closeness

pytestmark = pytest.mark.scores


def test_reference_is_the_approved_one(subject: Subject, reference_drift: Closeness | None, gate: Gate) -> None:
    """The checkpoint, Transformers and PyTorch yield the scores that were approved."""
    if gate.approving:
        return
    if subject.judged_by_stored:
        inapplicable("ready-made files are compared with the approved reference itself")
    stored = subject.baseline.reference_file
    if reference_drift is None or stored is None:
        unbaselined(subject, f"{subject.name} has no approved reference; record one with --approve")
    require(judge_drift(subject, reference_drift, "reference", stored.provenance, stored.probes))


def test_scores_stay_within_ceiling(scored: Case, closeness: Closeness) -> None:
    """A variant errs no more against the reference, both measured now, than its class may."""
    require(judge(scored, closeness, ceiling_limits(scored)))


def test_scores_do_not_drift(scored: Case, drift: Closeness | None, gate: Gate) -> None:
    """A variant yields the scores that were approved for it on this tier."""
    if gate.approving:
        return
    file, stored = scored.subject.baseline.tier_file, scored.stored
    if drift is None or stored is None or file is None:
        unbaselined(scored.subject, scored.unbaselined)
    require(judge_drift(scored, drift, scored.precision.name, stored.provenance, file.probes))
