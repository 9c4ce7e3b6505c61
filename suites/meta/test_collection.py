"""Checks are made for the models that ask for them, and once where none does."""

import re

import pytest

from fixtures.plugin import decisions, index_fixtures, retrieval, suite_fixtures
from fixtures.plugin.collection import ASKED
from suites.meta.house import EMBEDDER, FEW, House

THRESHOLD = '[[thresholds]]\nname = "duplicate"\nscore = "cosine"\nvalue = 0.5\n'
SUITES = ("suites/accuracy/test_thresholds.py", "suites/accuracy/test_index.py")


@pytest.fixture
def house(tmp_path, shared_store):
    house = House(tmp_path, shared_store)
    house.add("asking", EMBEDDER + THRESHOLD)
    house.add("silent", EMBEDDER)
    return house


def collected(house, suite, *options):
    """Return the tests of a suite that are made, by name: of which models and variants."""
    run = house.run("--collect-only", "-q", *options, suite=suite)
    tests = re.findall(r"::test_(\w+)\[(\S+)\]", run.text)
    return {name: [chosen for test, chosen in tests if test == name] for name, _ in tests}


def test_check_is_made_for_the_model_that_asks(house):
    assert collected(house, SUITES[0], *FEW) == {
        "decisions_stay": ["asking-plain", "asking-quantized"],
        "update_keeps_decisions": ["asking"],
    }


def test_check_is_made_once_where_no_model_asks_and_says_why(house):
    options = (*FEW, "--model", "silent")
    assert collected(house, SUITES[0], *options) == {
        "decisions_stay": ["silent-plain"],
        "update_keeps_decisions": ["silent"],
    }
    run = house.run("--variant", "plain", "--model", "silent", "-rs", suite=SUITES[0])
    assert run.returncode == 0
    assert "2 not applicable" in run.text
    assert list(collected(house, SUITES[1], *FEW).values()) == [["asking-plain"]] * 3


def test_each_row_is_of_a_fixture():
    modules = (suite_fixtures, decisions, retrieval, index_fixtures)
    assert {name for module in modules for name in vars(module)} >= ASKED.keys()
