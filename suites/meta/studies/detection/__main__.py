"""Is every planted fault found, and nothing else? Writes docs/detection.md.

tox run -e detection                  # all faults in all variants, beside other tools; writes docs/detection.md
tox run -e detection -- --variant O2  # fewer; writes nothing
tox run -e detection -- --exporter torch    # in graphs of PyTorch's own exporter; writes nothing
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from fixtures.export.recipes import EXPORTERS
from fixtures.faults.fault import keep_settings
from fixtures.faults.table import FAULT
from suites.meta.house import ROOT
from suites.meta.studies.detection.document import SIDE_BY_SIDE, Alarm, document
from suites.meta.studies.detection.rivals import Comparison, ask_rivals
from suites.meta.studies.detection.study import MODELS, DetectionStudy, Verdict, settings_of


def main() -> int:
    parser = argparse.ArgumentParser(
        "detection", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", action="append", help="only this variant (repeatable); nothing is written")
    parser.add_argument(
        "--fault",
        action="append",
        choices=FAULT,
        metavar="FAULT",
        help="only this fault (repeatable); nothing is written",
    )
    parser.add_argument(
        "--exporter", choices=tuple(EXPORTERS), help="plant in graphs that it makes; nothing is written"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="exportgate-") as folder:
        exporter = options.exporter or "optimum"
        study = DetectionStudy(Path(folder), options.variant or (), exporter=exporter)
        study.prepare()
        verdicts = study.judge(study.placements([FAULT[name] for name in options.fault or FAULT]))
        for verdict in verdicts:
            share = verdict.effect / verdict.tolerance
            place = f"{verdict.fault.name:36} {verdict.model:8} {verdict.variant:22}"
            print(f"{_outcome(verdict):7} {place} {share:9.2g}")
        missed = [verdict for verdict in verdicts if verdict.matters and not verdict.named]
        for verdict in missed:
            print(verdict)
        if not (options.variant or options.fault or options.exporter):
            complaints, alarms = compare_with_rivals(study, verdicts)
            text = document(study.machine, study.variants, verdicts, complaints, alarms)
            (ROOT / "docs" / "detection.md").write_text(text)
        matter = [verdict for verdict in verdicts if verdict.matters]
        caught = sum(bool(verdict.caught) for verdict in matter)
        named = sum(verdict.named for verdict in matter)
        print(f"{len(matter)} faulty artifacts matter: {caught} caught, {named} with their probable cause")
    return bool(missed)


def _outcome(verdict: Verdict) -> str:
    if verdict.named:
        return "named"
    if verdict.caught:
        return "caught"
    return "MISSED" if verdict.matters else "below"


def compare_with_rivals(
    study: DetectionStudy, verdicts: Sequence[Verdict]
) -> tuple[dict[int, dict[str, str]], set[Alarm]]:
    """Ask the other tools about the artifacts that matter, and about the sound ones.

    Nobody asks them about a fault of model.toml, which they do not read.

    Returns:
        index of a verdict -> tool -> what it says, empty where it is content; the sound artifacts that they call wrong.
    """

    def compare(model: str, variant: str, faulty: Path) -> Comparison:
        return Comparison(study.checkpoints[model], study.sound[model][variant], faulty, settings_of(model), variant)

    comparisons = {
        index: compare(verdict.model, verdict.variant, verdict.folder)
        for index, verdict in enumerate(verdicts)
        if verdict.matters and verdict.variant in SIDE_BY_SIDE and verdict.fault.change_settings is keep_settings
    }
    sound = {
        (model, variant): compare(model, variant, study.sound[model][variant])
        for model in MODELS
        for variant in SIDE_BY_SIDE
    }
    with ProcessPoolExecutor(study.machine.threads, get_context("spawn")) as pool:
        complaints = dict(zip(comparisons, pool.map(ask_rivals, comparisons.values(), chunksize=8), strict=True))
        of_sound = dict(zip(sound, pool.map(ask_rivals, sound.values()), strict=True))
    alarms = {(rival, *place) for place, complaint in of_sound.items() for rival, words in complaint.items() if words}
    return complaints, alarms


if __name__ == "__main__":
    sys.exit(main())
