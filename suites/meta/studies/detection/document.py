"""docs/detection.md: what is caught, beside other tools, what lies below the tolerance, and what the probes earn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fixtures.faults.table import FAULTS
from fixtures.runtimes.hardware import Machine
from suites.meta.studies.detection.rivals import RIVALS
from suites.meta.studies.detection.study import MAIN_MODELS, Verdict, study_probes

SIDE_BY_SIDE = ("plain", "O2", "quantized")
"""Variants that the other tools are asked about: each takes its time."""
Alarm = tuple[str, str, str]
"""(tool, model, variant) of a sound artifact that a tool calls wrong, so that it can see nothing there."""


@dataclass(frozen=True)
class Tally:
    """How often a tool sees a fault, over the artifacts in which the fault matters."""

    detected: int = 0
    artifacts: int = 0

    def __add__(self, tally: Tally) -> Tally:
        return Tally(self.detected + tally.detected, self.artifacts + tally.artifacts)

    def __str__(self) -> str:
        return f"{self.detected}/{self.artifacts}" if self.artifacts else "-"


def document(
    machine: Machine,
    variants: Sequence[str],
    verdicts: Sequence[Verdict],
    complaints: Mapping[int, Mapping[str, str]],
    alarms: set[Alarm],
) -> str:
    """Return docs/detection.md.

    Args:
        variants: those that were judged.
        complaints: index of a verdict -> tool -> what it says of the artifact, empty where it is content.
    """
    sections = (
        _summary(machine, variants, verdicts),
        _side_by_side(verdicts, complaints, alarms),
        _below_tolerance(verdicts),
        _probes(verdicts),
        _missed(verdicts),
    )
    return "\n".join(line for section in sections for line in section)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _summary(machine: Machine, variants: Sequence[str], verdicts: Sequence[Verdict]) -> list[str]:
    matter = [verdict for verdict in verdicts if verdict.matters]
    below = [verdict for verdict in verdicts if not verdict.matters]
    models = {verdict.model for verdict in verdicts}
    return [
        "# Detection",
        "",
        "Written by `tox run -e detection`: every fault of `fixtures/faults/` is planted in tiny seeded models, the "
        "faulty artifacts are handed to the gate with `--artifact`, and what a fault really does is measured on texts "
        "that are no probes and on every id of the vocabulary. A fault matters where that exceeds the drift "
        "tolerance of the variant.",
        "",
        f"Machine: {machine.arch}, tier {machine.tier}. {len(FAULTS)} faults, {len(verdicts)} faulty artifacts of "
        f"{len(models)} models in {len(variants)} variants.",
        "",
        f"- {len(matter)} artifacts matter: {sum(bool(verdict.caught) for verdict in matter)} are caught by a right "
        f"check, and {sum(verdict.named for verdict in matter)} with a message that names the probable cause.",
        f"- {len(below)} do not; {sum(bool(verdict.failures) for verdict in below)} of them are red all the same.",
        "",
    ]


def _side_by_side(
    verdicts: Sequence[Verdict], complaints: Mapping[int, Mapping[str, str]], alarms: set[Alarm]
) -> list[str]:
    tools = ("exportgate", *(rival.name for rival in RIVALS))
    lines = [
        "## Side by side",
        "",
        "The same files, where the fault matters: artifacts seen of artifacts asked, in "
        f"{', '.join(SIDE_BY_SIDE)}; for exportgate, in all variants. A tool is asked only where it is content "
        "with the sound artifact.",
        "",
        _row("fault", "largest effect", *tools),
        _row("---", "---:", *["---:"] * len(tools)),
    ]
    totals = dict.fromkeys(tools, Tally())
    for fault in FAULTS:
        planted = ((index, verdict) for index, verdict in enumerate(verdicts) if verdict.fault == fault)
        matter = {index: verdict for index, verdict in planted if verdict.matters}
        if not matter:
            continue
        tallies = {"exportgate": Tally(sum(bool(verdict.caught) for verdict in matter.values()), len(matter))}
        for rival in RIVALS:
            words = [
                complaints[index][rival.name]
                for index, verdict in matter.items()
                if index in complaints and (rival.name, verdict.model, verdict.variant) not in alarms
            ]
            tallies[rival.name] = Tally(sum(map(bool, words)), len(words))
        totals = {tool: total + tallies[tool] for tool, total in totals.items()}
        largest = max(verdict.effect for verdict in matter.values())
        lines.append(_row(fault.name, f"{largest:.2g}", *map(str, tallies.values())))
    lines += [
        _row("**all**", "", *map(str, totals.values())),
        "",
        "| tool | needs | misses |",
        "| --- | --- | --- |",
        *(_row(rival.name, rival.needs, rival.misses) for rival in RIVALS),
        _row(
            "exportgate",
            "an approved baseline for drift; the checkpoint for weights and tokens",
            "what is below the tolerance; what no probe, weight or operator shows: see below",
        ),
        "",
        "Sound artifacts that a tool calls wrong: "
        + ("; ".join(f"{tool}: {model} {variant}" for tool, model, variant in sorted(alarms)) or "none")
        + ".",
        "",
    ]
    return lines


def _below_tolerance(verdicts: Sequence[Verdict]) -> list[str]:
    lines = [
        "## Below the tolerance",
        "",
        "Faults that move scores by less than they may drift, and by how much of that. The largest of the artifacts "
        "that do not matter.",
        "",
        _row("fault", "share of the tolerance", "red all the same", "why"),
        _row("---", "---:", "---:", "---"),
    ]
    for fault in FAULTS:
        below = [verdict for verdict in verdicts if verdict.fault == fault and not verdict.matters]
        if below:
            share = max(verdict.effect / verdict.tolerance for verdict in below)
            red = sum(bool(verdict.failures) for verdict in below)
            lines.append(_row(fault.name, f"{share:.2g}", f"{red}/{len(below)}", fault.note))
    return [*lines, ""]


def _probes(verdicts: Sequence[Verdict]) -> list[str]:
    study = study_probes(verdicts)
    indispensable = "; ".join(f"{probe}: {', '.join(faults)}" for probe, faults in study.indispensable.items())
    unseen = ", ".join(
        f"{verdict.fault.name} ({verdict.model}; caught by {', '.join(verdict.caught) or 'nothing'})"
        for verdict in study.unseen
    )
    return [
        "## What the probes earn",
        "",
        f"In `plain`, on {' and '.join(MAIN_MODELS)}: of {study.measured} artifacts that matter, each probe of this "
        "list sees most of what those before it miss.",
        "",
        _row("probe", "artifacts that it adds"),
        _row("---", "---:"),
        *(_row(probe, str(count)) for probe, count in study.selection),
        "",
        f"Seen by one probe alone: {indispensable or 'nothing'}.",
        "",
        f"Seen by no probe: {unseen or 'nothing'}.",
        "",
    ]


def _missed(verdicts: Sequence[Verdict]) -> list[str]:
    missed = [verdict for verdict in verdicts if verdict.matters and not verdict.named]
    if not missed:
        return []
    return ["## Not caught, or not named", "", *(f"- {verdict}" for verdict in missed), ""]
