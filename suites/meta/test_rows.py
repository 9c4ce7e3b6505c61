"""Rows that a team adds with hooks: the example of docs/extending.md, and rows that fit no table."""

import itertools
import os

import pytest

from fixtures.export.variants import EXPORT, VARIANT, Variant
from fixtures.gate.command_line import ROOT
from fixtures.gate.rows import Rows
from fixtures.gate.single_values import UsageError
from fixtures.scoring.ceilings import EXACT, Precision
from fixtures.scoring.tasks import TASKS
from suites.meta.conftest import SHARED_STORE

EXAMPLES = ROOT / "docs" / "examples"
CLASSIFIER = 'task = "scaled-classification"\nsource = "seeded:bert@7"\nmax_length = 64\nlabels = 3\n'
JUDGED = ("plain", "stamped", "O1-quantized")
LOOSE = "[ceilings.int8]\nmax_logit_error = 10\nargmax_agreement = 0\nmax_probability_change = 1\n"


@pytest.fixture
def teams_house(house, monkeypatch):
    """A house whose runs load the example as a plugin."""
    paths = [str(EXAMPLES), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return house


def test_variants_link_and_task_of_a_team_are_judged(teams_house):
    """Built in worker processes, which know the rows too, and judged like our own."""
    teams_house.add("tickets", CLASSIFIER + LOOSE)
    named = itertools.chain.from_iterable(("--variant", name) for name in JUDGED)
    done = teams_house.run("-p", "our_rows", *named, "-k", "ceiling")
    assert done.returncode == 0, done.text
    assert {name for name, entry in variants_of(teams_house).items() if entry["closeness"]} == set(JUDGED)
    plain, stamped = (variants_of(teams_house)[name] for name in ("plain", "stamped"))
    assert stamped["graph"] != plain["graph"]
    assert stamped["closeness"] == plain["closeness"]
    merged = teams_house.run("-p", "our_rows", "--merge", str(teams_house.report))
    assert merged.returncode == 0, merged.text


def variants_of(house):
    return {entry["variant"]: entry for model in house.gate()["models"] for entry in model["variants"]}


def test_rows_are_unknown_without_their_plugin(teams_house):
    teams_house.add("tickets", CLASSIFIER)
    done = teams_house.run("--variant", "plain")
    assert done.returncode == 4
    assert "task: 'scaled-classification' is none of embedding" in done.text


def test_fault_of_a_team_is_planted_like_ours(teams_house, monkeypatch):
    monkeypatch.setenv(SHARED_STORE, str(teams_house.store))
    teams_house.add("tickets", CLASSIFIER)
    done = teams_house.run("-p", "our_rows", "-k", "our-first-bias-lost and row", suite="suites/meta/test_faults.py")
    assert done.returncode == 0, done.text
    assert "3 passed" in done.text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            Rows(variants=(Variant("plain", (EXPORT, EXPORT), EXACT),)),
            "pytest_exportgate_variants: 'plain' is the name of another row: choose a new one",
        ),
        (
            Rows(variants=(Variant("ours", (("shrink",),), EXACT),)),
            "pytest_exportgate_variants: ours: no link is called 'shrink'; the links are export, optimize",
        ),
        (
            Rows(variants=(Variant("ours", (EXPORT,), Precision("int3", {}, "")),)),
            "pytest_exportgate_variants: ours: no tolerance is known of the precision 'int3': fp32",
        ),
    ],
)
def test_row_that_fits_no_table_is_refused(rows, message):
    before = dict(VARIANT), dict(TASKS)
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        rows.add()
    assert before == (VARIANT, TASKS)
