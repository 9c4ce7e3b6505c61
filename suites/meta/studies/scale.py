"""What many models of 568 million weights take on many machines, on paper: from costs that were measured of one.

tox run -e scale                                    # writes the tables of docs/shards.md
tox run -e scale -- --models 2000 --machines 100    # prints them for other numbers

docs/full-size.json has the costs; what is null there is to be measured yet, and so is everything that follows from it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fixtures.gate.command_line import ROOT
from fixtures.gate.sharding import cut

COSTS, PAGE = ROOT / "docs" / "full-size.json", ROOT / "docs" / "shards.md"
BEGIN, END = "<!-- Written by: tox run -e scale -->", "<!-- end of what tox run -e scale writes -->"
MODELS, MACHINES = 500, 50
OPEN = "to be measured"


class Cost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a part of one model takes.

    Attributes:
        build_seconds: of all its steps, scores included. check_seconds: of its checks.
        peak_bytes: memory that all processes hold at most.
        stored_bytes: what the store gains by it. stored_objects: as how many objects.
    """

    build_seconds: float | None
    check_seconds: float | None
    peak_bytes: int | None
    stored_bytes: int | None
    stored_objects: int | None


class VariantCost(Cost, frozen=True, forbid_unknown_fields=True):
    """What one variant takes beyond what it shares with the others; `artifact_bytes` are those that are deployed."""

    artifact_bytes: int | None


class WarmCost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The same model again where nothing changed, on a machine whose cache is empty, from the store between machines.

    Attributes:
        seconds: of all of it, fetching included. fetched_bytes: from the store.
    """

    seconds: float | None
    fetched_bytes: int | None


class FullSizeCosts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """docs/full-size.json.

    Attributes:
        measured: model, suites, machine, versions and day, in words; null as long as nothing was measured.
        checkpoint_bytes: what a machine fetches from the hub.
        shared: what is done once for all variants: the checkpoint prepared, probes tokenised, PyTorch's scores, and the
            checks of the model itself.
    """

    measured: str | None
    checkpoint_bytes: int | None
    shared: Cost
    variants: dict[str, VariantCost]
    warm: WarmCost


@dataclass(frozen=True)
class Limit:
    """What a place gives to one shard; None where it sets no limit, or where that is the owner's to say."""

    place: str
    memory_bytes: float
    disk_bytes: float | None
    hours: float | None


LIMITS = (
    # docs.github.com/en/actions/reference/runners/github-hosted-runners, and .../reference/limits
    Limit("GitHub's ubuntu-24.04", 16e9, 14e9, 6.0),
    Limit("`docs/examples/slurm-shard.sh`", 32 * 2**30, None, 8.0),
    Limit("`docs/examples/kubernetes-shards.yaml`", 32 * 2**30, None, None),
)


@dataclass(frozen=True)
class Scale:
    """Some models on some machines; everything is None that follows from what was not measured."""

    costs: FullSizeCosts
    models: int
    machines: int

    @property
    def parts(self) -> list[Cost]:
        return [self.costs.shared, *self.costs.variants.values()]

    @property
    def per_machine(self) -> int:
        """Models of the largest shard: all cost the same."""
        costs = {str(model): 1.0 for model in range(self.models)}
        return max((len(shard) for shard in cut(costs, self.machines)), default=0)

    @property
    def model_seconds(self) -> float | None:
        """Seconds of one model of which nothing is built."""
        return total(seconds for part in self.parts for seconds in (part.build_seconds, part.check_seconds))

    @property
    def stored_bytes(self) -> float | None:
        """What the store gains by one model."""
        return total(part.stored_bytes for part in self.parts)

    @property
    def stored_objects(self) -> float | None:
        return total(part.stored_objects for part in self.parts)

    @property
    def peak_bytes(self) -> float | None:
        peaks = [part.peak_bytes for part in self.parts]
        known = [peak for peak in peaks if peak is not None]
        return max(known) if len(known) == len(peaks) else None

    @property
    def disk_bytes(self) -> float | None:
        """Disk of a machine after its whole shard: what it fetched from the hub, and what it keeps of the store."""
        return times(total((self.costs.checkpoint_bytes, self.stored_bytes)), self.per_machine)

    @property
    def hours(self) -> float | None:
        """Hours of the largest shard of which nothing is built."""
        return times(self.model_seconds, self.per_machine / 3600)

    def quantities(self) -> list[tuple[str, str, str]]:
        """Return (what, where nothing is built, where nothing changed)."""
        costs, warm = self.costs, self.costs.warm
        stored = gigabytes(times(self.stored_bytes, self.models))
        objects = number(times(self.stored_objects, self.models))
        return [
            ("models per machine", str(self.per_machine), str(self.per_machine)),
            ("hours", number(self.hours), number(times(warm.seconds, self.per_machine / 3600))),
            ("machine hours", number(times(self.model_seconds, self.models / 3600)),
             number(times(warm.seconds, self.models / 3600))),
            ("GB from the hub", gigabytes(times(costs.checkpoint_bytes, self.models)),
             gigabytes(times(costs.checkpoint_bytes, self.models))),
            ("GB to the store", stored, "0"),
            ("GB from the store", "0", gigabytes(times(warm.fetched_bytes, self.models))),
            ("GB in the store", stored, stored),
            ("objects in the store", objects, objects),
            ("GB on a machine's disk", gigabytes(self.disk_bytes),
             gigabytes(times(total((costs.checkpoint_bytes, warm.fetched_bytes)), self.per_machine))),
            ("GB of memory at most", gigabytes(self.peak_bytes), OPEN if self.peak_bytes is None else "less"),
        ]  # fmt: skip

    def breaking(self) -> list[tuple[str, str, str, float | None]]:
        """Return (place, resource, need and limit, share of the limit), the scarcest first, unknown ones last."""
        needs = []
        for limit in LIMITS:
            needs.append((limit.place, "GB of memory", self.peak_bytes, limit.memory_bytes, 1e9))
            if limit.disk_bytes:
                needs.append((limit.place, "GB of disk", self.disk_bytes, limit.disk_bytes, 1e9))
            if limit.hours:
                needs.append((limit.place, "hours", self.hours, limit.hours, 1.0))
        rows = [
            (place, resource, f"{number(times(need, 1 / unit))} of {number(most / unit)}", times(need, 1 / most))
            for place, resource, need, most, unit in needs
        ]
        return sorted(rows, key=lambda row: -1.0 if row[3] is None else row[3], reverse=True)


def total(values: Iterable[float | None]) -> float | None:
    """Return the sum; None if a value is."""
    numbers = list(values)
    known = [value for value in numbers if value is not None]
    return sum(known) if len(known) == len(numbers) else None


def times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def number(value: float | None) -> str:
    """Return a number with three significant digits at least, or that it is to be measured."""
    if value is None:
        return OPEN
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def gigabytes(value: float | None) -> str:
    return number(times(value, 1e-9))


def render(scale: Scale) -> str:
    """Return the tables, in Markdown."""
    costs = scale.costs
    lines = [
        f"Measured: {costs.measured or OPEN}.",
        "",
        "| of one model | build s | check s | GB of memory | GB to deploy | GB in the store |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    named: dict[str, Cost] = {"all variants share": costs.shared, **costs.variants}
    for name, part in named.items():
        deployed = gigabytes(part.artifact_bytes) if isinstance(part, VariantCost) else "-"
        seconds = number(part.build_seconds), number(part.check_seconds)
        lines.append(
            f"| {' | '.join((name, *seconds, gigabytes(part.peak_bytes), deployed, gigabytes(part.stored_bytes)))} |"
        )
    lines += [
        "",
        f"| {scale.models} models on {scale.machines} machines | where nothing is built | where nothing changed |",
        "| --- | ---: | ---: |",
        *(f"| {' | '.join(row)} |" for row in scale.quantities()),
        "",
        "| what breaks first, where nothing is built | resource | a shard needs | of the limit |",
        "| --- | --- | ---: | ---: |",
        *(
            f"| {place} | {resource} | {need} | {OPEN if share is None else f'{share:.0%}'} |"
            for place, resource, need, share in scale.breaking()
        ),
    ]
    return "\n".join(lines)


def read_costs(file: Path = COSTS) -> FullSizeCosts:
    return msgspec.json.decode(file.read_bytes(), type=FullSizeCosts)


def with_tables(page: str, tables: str) -> str:
    """Return the page with its tables replaced."""
    pattern = f"{re.escape(BEGIN)}.*{re.escape(END)}"
    return re.sub(pattern, lambda _: f"{BEGIN}\n\n{tables}\n\n{END}", page, count=1, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=MODELS)
    parser.add_argument("--machines", type=int, default=MACHINES)
    arguments = parser.parse_args()
    tables = render(Scale(read_costs(), arguments.models, arguments.machines))
    print(tables)
    if (arguments.models, arguments.machines) == (MODELS, MACHINES):
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")


if __name__ == "__main__":
    main()
