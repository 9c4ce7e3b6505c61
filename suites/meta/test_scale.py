"""The paper on what many models take on many machines: its arithmetic, and that its tables are those of the costs."""

import msgspec

from fixtures.gate.command_line import ROOT
from suites.meta.studies.scale import (
    BEGIN,
    END,
    LIMITS,
    MACHINES,
    MODELS,
    OPEN,
    PAGE,
    Cost,
    FullSizeCosts,
    Scale,
    VariantCost,
    WarmCost,
    read_costs,
    render,
    with_tables,
)

MADE_UP = FullSizeCosts(
    "nowhere",
    2 * 10**9,
    Cost(600.0, 100.0, 12 * 10**9, 4 * 10**9, 5),
    {
        "plain": VariantCost(200.0, 100.0, 9 * 10**9, 3 * 10**9, 3, 2 * 10**9),
        "quantized": VariantCost(400.0, 400.0, 14 * 10**9, 10**9, 2, 10**9),
    },
    WarmCost(90.0, 5 * 10**9),
)


def test_quantities_follow_from_the_costs_of_one_model():
    scale = Scale(MADE_UP, 101, 10)
    assert {name: values for name, *values in scale.quantities()} == {
        "models per machine": ["11", "11"],
        "hours": ["5.5", "0.275"],
        "machine hours": ["50.5", "2.52"],
        "GB from the hub": ["202", "202"],
        "GB to the store": ["808", "0"],
        "GB from the store": ["0", "505"],
        "GB in the store": ["808", "808"],
        "objects in the store": ["1,010", "1,010"],
        "GB on a machine's disk": ["110", "77"],
        "GB of memory at most": ["14", "less"],
    }


def test_what_breaks_first_stands_first():
    rows = Scale(MADE_UP, 101, 10).breaking()
    assert rows[0][:3] == (LIMITS[0].place, "GB of disk", "110 of 14")
    assert rows[1][:3] == (LIMITS[0].place, "hours", "5.5 of 6")
    shares = [share or 0.0 for *_, share in rows]
    assert shares == sorted(shares, reverse=True)
    assert len(rows) == 6


def test_nothing_follows_from_what_was_not_measured():
    unknown = msgspec.structs.replace(MADE_UP, shared=Cost(None, 100.0, None, 4 * 10**9, 5))
    scale = Scale(unknown, 101, 10)
    rows = {name: values for name, *values in scale.quantities()}
    assert rows["hours"] == [OPEN, "0.275"]
    assert rows["GB of memory at most"] == [OPEN, OPEN]
    assert rows["GB to the store"] == ["808", "0"]
    assert [row[3] is None for row in scale.breaking()] == [False] + [True] * 5
    assert "to be measured of 16" in render(scale)


def test_tables_of_the_page_are_those_of_the_costs():
    page = PAGE.read_text(encoding="utf-8")
    assert page.count(BEGIN) == page.count(END) == 1
    assert with_tables(page, render(Scale(read_costs(), MODELS, MACHINES))) == page, "run tox run -e scale"


def test_limits_are_those_of_the_recipes():
    slurm = (ROOT / "docs/examples/slurm-shard.sh").read_text()
    assert "#SBATCH --mem=32G\n" in slurm
    assert "#SBATCH --time=08:00:00\n" in slurm
    assert "memory: 32Gi\n" in (ROOT / "docs/examples/kubernetes-shards.yaml").read_text()
    assert [(limit.memory_bytes, limit.hours) for limit in LIMITS[1:]] == [(2**35, 8.0), (2**35, None)]
