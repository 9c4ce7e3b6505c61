"""Search for layers that must stay in fp32: as few as suffice, within its budget, and its answer is kept."""

import json

import pytest

from fixtures.export.restore import fewest
from suites.meta.house import EMBEDDER

RESTORED = (
    '[ceilings."int8, restored"]\nmax_abs_error = {}\nmin_cosine = -1\nmax_similarity_change = 2\ntopk_overlap = 0\n'
)
VARIANT = "--variant=static-quantized-restored"


class Holds:
    """A trial that holds from some count on, and notes the counts that are tried."""

    def __init__(self, needed: int) -> None:
        self.needed = needed
        self.calls: list[int] = []

    def __call__(self, count: int) -> bool:
        self.calls.append(count)
        return count >= self.needed


@pytest.mark.parametrize("largest", [1, 2, 7, 48, 1000])
def test_search_finds_the_fewest_that_hold(largest):
    for needed in {0, 1, largest // 3, largest}:
        holds = Holds(needed)
        assert fewest(holds, largest, 30) == needed
        calls = holds.calls
        assert len(calls) == len(set(calls)), "no count is tried twice"
        assert calls[0] == 0, "a graph that keeps its ceiling as it is needs no search"


def test_search_within_a_budget_keeps_the_smallest_that_held():
    assert fewest(lambda count: count >= 100, 1000, 9) == 128, "doubled until it held; then the budget was spent"
    assert fewest(lambda count: count >= 100, 1000, 5) is None


def test_search_that_never_holds_ends():
    holds = Holds(6)
    assert fewest(holds, 5, 30) is None
    assert holds.calls == [0, 1, 2, 4, 5]


def answer(house):
    return json.loads((house.artifact("static-quantized-restored") / "restored.json").read_text())


def test_graph_keeps_the_ceiling_and_names_its_layers(house):
    """Nine tenths of the error of the graph without layers in fp32 need some of its layers there, and not all."""
    house.add("tiny", EMBEDDER + RESTORED.format(1))
    run = house.run(VARIANT)
    assert run.returncode == 0, run.text
    loose = answer(house)
    assert loose["in_fp32"] == []
    limit = 0.9 * loose["tried"][0]["max_abs_error"]

    house.add("tiny", EMBEDDER + RESTORED.format(limit))
    run = house.run(VARIANT)
    assert run.returncode == 0, run.text
    tight = answer(house)
    count = len(tight["in_fp32"])
    assert 0 < count < tight["of"]
    assert next(attempt["max_abs_error"] for attempt in tight["tried"] if attempt["in_fp32"] == count) <= limit
    errors = [layer["error"] for layer in tight["in_fp32"]]
    assert errors == sorted(errors, reverse=True), "those that err most come first"
    assert tight["bytes"] != tight["bytes_without"]
    run = house.run(VARIANT, suite="suites/conformance/test_quantization.py")
    text = house.gate()["models"][0]["variants"][0]["checks"]["quantization_is_that_of_the_recipe"]["text"]
    assert f"{count} of {tight['of']} layers in fp32, found in" in text, run.text
    assert "MB more than without" in text


@pytest.mark.parametrize("variant", ["quantized-restored", "O2-quantized-restored", "int4-restored"])
def test_every_kind_of_integers_is_restored(house, variant):
    """A ceiling that the graph without layers in fp32 breaks by a tenth needs some of its layers there, and not all."""
    house.add("tiny", EMBEDDER + RESTORED.format(1))
    assert house.run(f"--variant={variant}").returncode == 0
    limit = 0.9 * json.loads((house.artifact(variant) / "restored.json").read_text())["tried"][0]["max_abs_error"]
    house.add("tiny", EMBEDDER + RESTORED.format(limit))
    run = house.run(f"--variant={variant}")
    assert run.returncode == 0, run.text
    answer = json.loads((house.artifact(variant) / "restored.json").read_text())
    assert 0 < len(answer["in_fp32"]) < answer["of"]
    (attempt,) = (tried for tried in answer["tried"] if tried["in_fp32"] == len(answer["in_fp32"]))
    assert attempt["max_abs_error"] <= limit
    run = house.run(f"--variant={variant}", suite="suites/conformance/test_quantization.py")
    assert run.returncode == 0, run.text
    text = house.gate()["models"][0]["variants"][0]["checks"]["quantization_is_that_of_the_recipe"]["text"]
    assert f"{len(answer['in_fp32'])} of {answer['of']} layers in fp32" in text


def test_ceiling_that_any_integer_breaks_is_an_error(house):
    house.add("tiny", EMBEDDER + RESTORED.format(1e-6))
    run = house.run(VARIANT)
    assert run.returncode == 1
    assert "attempts found no graph that keeps its ceiling: with" in run.text
    assert "layers in fp32, max_abs_error is" in run.text.replace("\n", " ")
    assert '[ceilings."int8, restored"] in model.toml may allow more' in run.text.replace("\n", " ")
