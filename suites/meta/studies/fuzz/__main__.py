"""Is every damaged file read or refused by name, and never a traceback, a hang or nothing approved?

tox run -e fuzz                        # the profile `ci`: some two minutes, the same examples every time
tox run -e fuzz -- --profile nightly   # thirty times as many, others every time: about an hour
tox run -e fuzz -- --target approval   # one target (repeatable)
tox run -e fuzz -- --document          # writes docs/fuzzing.md, too

An example that is neither is printed, made small, and left in build/fuzz.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from suites.meta.house import ROOT
from suites.meta.studies.fuzz.campaign import Tally, Target, run_campaign
from suites.meta.studies.fuzz.document import document, row
from suites.meta.studies.fuzz.targets import TARGETS, seeds_in

PROFILES = {"ci": 1, "nightly": 30}
"""How many times the examples of `Target.examples` a profile tries; only the first tries the same ones every time."""
LEFT = ROOT / "build" / "fuzz"


def main() -> int:
    parser = argparse.ArgumentParser("fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=PROFILES, default="ci")
    parser.add_argument("--target", action="append", choices=[target.name for target in TARGETS], metavar="TARGET")
    parser.add_argument("--document", action="store_true", help="write docs/fuzzing.md; with all targets alone")
    options = parser.parse_args()
    if options.document and options.target:
        parser.error("--document: wants all targets: leave --target out")
    selected = [target for target in TARGETS if not options.target or target.name in options.target]
    shutil.rmtree(LEFT, ignore_errors=True)
    tallies: list[tuple[Target, Tally]] = []
    with tempfile.TemporaryDirectory(prefix="exportgate-") as temporary:
        seeds = seeds_in(Path(temporary) / "seeds")
        for target in selected:
            folder = Path(temporary) / target.name
            folder.mkdir()
            examples = target.examples * PROFILES[options.profile]
            tally = run_campaign(target, folder, seeds, examples, derandomize=options.profile == "ci")
            print(row(target, tally), flush=True)
            if tally.fault:
                shutil.copytree(folder, LEFT / target.name, symlinks=True, dirs_exist_ok=True)
                print(tally.fault)
            tallies.append((target, tally))
    faulty = [tally.target for _, tally in tallies if tally.fault]
    total = sum(tally.examples for _, tally in tallies)
    print(f"{total} examples, faulty targets: {', '.join(faulty) or 'none'}")
    if options.document:
        (ROOT / "docs" / "fuzzing.md").write_text(document(options.profile, tallies), encoding="utf-8")
    return bool(faulty)


if __name__ == "__main__":
    sys.exit(main())
