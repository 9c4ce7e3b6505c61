"""How much of each room of fixtures/ was run, from the JSON report of coverage.py.

tox run -e coverage                              # what all tests of the machinery run
tox run -e coverage -- suites/meta/test_gate.py  # what some tests run

build/coverage/html shows each line.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

import msgspec

REPORT = Path("build", "coverage", "coverage.json")


class Summary(msgspec.Struct, frozen=True):
    """What coverage.py counts of one file, or of several together; a branch is a jump from one line to another."""

    num_statements: int = 0
    covered_lines: int = 0
    num_branches: int = 0
    covered_branches: int = 0

    def __add__(self, summary: Summary) -> Summary:
        return Summary(*map(sum, zip(msgspec.structs.astuple(self), msgspec.structs.astuple(summary), strict=True)))

    @property
    def percent(self) -> float:
        """The share of statements and branches that were run, as coverage.py has it."""
        total = self.num_statements + self.num_branches
        return 100 * (self.covered_lines + self.covered_branches) / total if total else 100.0


class File(msgspec.Struct, frozen=True):
    summary: Summary


class Report(msgspec.Struct, frozen=True):
    """coverage.json: path from the project's folder -> file."""

    files: dict[str, File]

    @classmethod
    def read(cls, file: Path) -> Report:
        return msgspec.json.decode(file.read_bytes(), type=cls)


@dataclass(frozen=True)
class Room:
    """A folder of fixtures/, or one of the modules beside them."""

    name: str
    summary: Summary

    def __str__(self) -> str:
        return (
            f"{self.name:12}{self.summary.num_statements:8}"
            f"{self.summary.num_statements - self.summary.covered_lines:8}{self.summary.percent:8.1f} %"
        )


def rooms_of(report: Report) -> Iterator[Room]:
    """Yield the rooms by name, then all together."""
    summaries: dict[str, Summary] = defaultdict(Summary)
    for path, file in report.files.items():
        summaries[PurePath(path).parts[1]] += file.summary
    yield from (Room(name, summaries[name]) for name in sorted(summaries))
    yield Room("all", sum(summaries.values(), Summary()))


def main() -> None:
    parser = argparse.ArgumentParser(
        "room_coverage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", type=Path, nargs="?", default=REPORT, help=f"by default {REPORT}")
    options = parser.parse_args()
    print(f"{'room':12}{'lines':>8}{'missed':>8}{'covered':>10}")
    print(*rooms_of(Report.read(options.report)), sep="\n")


if __name__ == "__main__":
    main()
