"""The three comparisons: each says that scores still mean what they meant."""

from fixtures.gate.session import inapplicable
from fixtures.gate.verdicts import judge, judge_drift


def test_reference_is_the_approved_one(subject, reference, gate):
    """The checkpoint, Transformers and PyTorch yield the scores that were approved."""
    drift = subject.reference_drift
    if gate.approve:
        return
    if drift is None:
        if subject.judged_by_stored:
            inapplicable("ready-made files are compared with the approved reference itself")
        gate.unbaselined(subject, f"{subject.name} has no approved reference; record one with --approve")
    stored = subject.baseline.reference_file
    judge_drift(subject, drift, "reference", stored.provenance, stored.probes)


def test_scores_stay_within_ceiling(scored):
    """A variant errs no more against the reference, both measured now, than its class may."""
    judge(scored, scored.closeness, scored.ceiling, "ceiling", scored.ceiling_source)


def test_scores_do_not_drift(scored, gate):
    """A variant yields the scores that were approved for it on this tier."""
    drift = scored.drift
    if gate.approve:
        return
    if drift is None:
        gate.unbaselined(scored.subject, scored.result.reason)
    probes = scored.subject.baseline.tier_file.probes
    judge_drift(scored, drift, scored.variant.precision.name, scored.stored.provenance, probes)
