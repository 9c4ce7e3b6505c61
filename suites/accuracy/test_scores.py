"""The three comparisons: each says that scores still mean what they meant."""

from fixtures import baselines
from fixtures.gate import judge


def test_reference_is_the_approved_one(subject, gate):
    """The checkpoint, Transformers and PyTorch yield the scores that were approved."""
    drift = subject.reference_drift
    if gate.approve:
        return
    if drift is None:
        gate.skip(f"unbaselined: {subject.name} has no approved reference; record one with --approve")
    stored = subject.baseline.reference_file
    assert stored.probes == subject.probes_digest, "the probes changed since the approval: approve again"
    allowed, changed = baselines.tolerance("reference", stored.provenance.versions, gate.versions)
    limits = {name: allowed.limits[name] for name in subject.task.metrics if name in allowed.limits}
    judge(subject, drift, limits, "tolerance", f"{allowed.reason}; changed: {', '.join(changed) or 'nothing'}")


def test_scores_stay_within_ceiling(case):
    """A variant errs no more against the reference, both measured now, than its class may."""
    judge(case, case.closeness, case.ceiling, "ceiling", case.variant.precision.source)


def test_scores_do_not_drift(case, gate):
    """A variant yields the scores that were approved for it on this tier."""
    drift = case.drift
    if gate.approve:
        return
    if drift is None:
        gate.skip(f"unbaselined: {case.result.reason}")
    assert case.subject.baseline.tier_file.probes == case.subject.probes_digest, (
        "the probes changed since the approval: approve again"
    )
    allowed, changed = baselines.tolerance(case.variant.precision.name, case.stored.provenance.versions, gate.versions)
    limits = {name: allowed.limits[name] for name in case.subject.task.metrics if name in allowed.limits}
    judge(case, drift, limits, "tolerance", f"{allowed.reason}; changed: {', '.join(changed) or 'nothing'}")
