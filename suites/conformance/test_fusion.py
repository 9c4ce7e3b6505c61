"""Fused operators: a fusion that vanishes costs speed and says nothing."""

import pytest

from fixtures.gate.case import Case
from fixtures.gate.session import Gate
from fixtures.plugin.outcomes import inapplicable, unbaselined
from fixtures.plugin.suite_fixtures import NoteFinding

pytestmark = pytest.mark.check


def test_operators_are_the_pinned_ones(case: Case, operators: dict[str, int], gate: Gate, finding: NoteFinding) -> None:
    """The graph has the fused and integer operators that were approved, in their numbers.

    A ready-made file need not be fused as exportgate's own export is; what it lacks is remarked on.
    """
    pins = case.subject.baseline.conformance_file
    if gate.approving:
        return
    name = case.context.by_exporter(case.variant.name)
    if case.ready_made and case.stored is None:
        own = pins.operators.get(name, {}) if pins else {}
        if lacking := [f"{count} {operator}" for operator, count in own.items() if operator not in operators]:
            finding(f"has none of what exportgate's own {case.variant.name} has: {', '.join(lacking)}")
        return
    if pins is None or name not in pins.operators:
        unbaselined(case.subject, "no operators were approved of this variant; record them with --approve")
    pinned = pins.operators[name]
    changed = [
        f"{operator}: {pinned.get(operator, 0)} -> {operators.get(operator, 0)}"
        for operator in sorted(pinned.keys() | operators.keys())
        if pinned.get(operator, 0) != operators.get(operator, 0)
    ]
    if changed:
        pytest.fail(
            f"{case}: fused operators are no longer those that were approved: {', '.join(changed)}\n"
            f"  approved with {pins.provenance.versions}; if the change is meant, --approve",
            pytrace=False,
        )


def test_optimized_for_gpu_means_fused(case: Case, operators: dict[str, int]) -> None:
    """O4 without a single fusion is only a cast to fp16, as Optimum makes it where it sees no GPU."""
    if not any(link[:2] == ("optimize", "O4") for link in case.variant.recipe):
        inapplicable("not O4")
    fused = [name for name in operators if name.startswith("com.microsoft")]
    assert fused, f"{case}: nothing is fused: Optimum saw no GPU and only cast to fp16"
