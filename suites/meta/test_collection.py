"""Checks are made for the models that ask for them, and once where none does."""

import re

import pytest

from fixtures.gate import asked
from suites.accuracy import test_index, test_published, test_retrieval, test_thresholds, test_update
from suites.meta.house import EMBEDDER, FEW, LOOSE, House

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
    run = house.run("--variant", "plain", "--model", "silent", suite=SUITES[0])
    assert run.returncode == 0
    assert "2 not applicable" in run.text
    assert "model.toml states no [[thresholds]]" in (house.report / "junit.xml").read_text()
    assert list(collected(house, SUITES[1], *FEW).values()) == [["asking-plain"]] * 3


def test_check_is_made_once_of_a_variant_that_is_selected(house):
    """Not of the first model, which has none of these."""
    house.add("asking", f'variants = ["plain"]\n{EMBEDDER}')
    assert collected(house, SUITES[1], "--variant", "quantized") == {
        name: ["silent-quantized"] for name in asked.ASKED if "index" in name or "norm" in name
    }


def test_limit_of_a_check_that_the_model_does_not_ask_for_does_not_refuse_an_approval(house):
    """Somebody took the thresholds away, and left the limit."""
    limit = (
        '[[limits]]\nvariant = "quantized"\ncheck = "decisions_stay"\nreason = "known"\nlink = "https://example.org"\n'
    )
    house.add("silent", EMBEDDER + LOOSE + limit)
    run = house.run(*FEW, "--model", "silent", "--approve")
    assert run.returncode == 0, run.text
    assert "approved silent" in run.text


def test_each_row_is_of_a_check():
    modules = (test_index, test_published, test_retrieval, test_thresholds, test_update)
    checks = {name.removeprefix("test_") for module in modules for name in vars(module)}
    assert asked.ASKED.keys() <= checks
