"""The search for layers that must stay in fp32: as few as it takes, within its budget, and its answer is kept."""

import json

import pytest

from fixtures.export.restore import fewest
from suites.meta.house import EMBEDDER, House

RESTORED = (
    '[ceilings."int8, restored"]\nmax_abs_error = {}\nmin_cosine = -1\nmax_similarity_change = 2\ntopk_overlap = 0\n'
)
VARIANT = "--variant=static-quantized-restored"


@pytest.mark.parametrize("most", [1, 2, 7, 48, 1000])
def test_search_finds_the_fewest_that_hold(most):
    for needed in {0, 1, most // 3, most}:
        calls = []
        found = fewest(lambda count, calls=calls, needed=needed: calls.append(count) or count >= needed, most, 30)
        assert found == needed
        assert len(calls) == len(set(calls)), "no count is tried twice"
        assert calls[0] == 0, "whatever is quantized as it is needs no search"


def test_search_within_a_budget_keeps_what_held():
    assert fewest(lambda count: count >= 100, 1000, 9) == 128, "doubled until it held, and then time was up"
    assert fewest(lambda count: count >= 100, 1000, 5) is None


def test_search_that_never_holds_ends():
    calls = []
    assert fewest(lambda count: calls.append(count) or False, 5, 30) is None
    assert calls == [0, 1, 2, 4, 5]


def answer(house):
    (file,) = house.store.glob("artifacts/*/restored.json")
    return json.loads(file.read_text())


def test_graph_keeps_the_ceiling_and_names_its_layers(tmp_path):
    """Half the error of the graph that is quantized all over needs some of its layers in fp32, and not all."""
    house = House(tmp_path, tmp_path / "all")
    house.add("tiny", EMBEDDER + RESTORED.format(1))
    done = house.run(VARIANT)
    assert done.returncode == 0, done.text
    whole = answer(house)
    assert whole["in_fp32"] == []
    error = whole["tried"][0]["max_abs_error"]

    house = House(tmp_path, tmp_path / "some")
    house.add("tiny", EMBEDDER + RESTORED.format(0.75 * error))
    done = house.run(VARIANT)
    assert done.returncode == 0, done.text
    some = answer(house)
    assert 0 < len(some["in_fp32"]) < some["of"]
    found = next(one["max_abs_error"] for one in some["tried"] if one["in_fp32"] == len(some["in_fp32"]))
    assert found <= 0.75 * error
    assert some["in_fp32"] == sorted(some["in_fp32"], key=lambda one: one["decibels"]), "those that lose most first"
    done = house.run(VARIANT, suite="suites/conformance/test_quantization.py")
    said = house.gate()["models"][0]["variants"][0]["checks"]["quantization_is_that_of_the_recipe"]["text"]
    assert f"{len(some['in_fp32'])} of {some['of']} layers in fp32, found in" in said, done.text


def test_ceiling_that_embeddings_alone_break_is_said_so(tmp_path):
    house = House(tmp_path, tmp_path / "store")
    house.add("tiny", EMBEDDER + RESTORED.format(1e-6))
    done = house.run(VARIANT)
    assert done.returncode == 1
    assert "trials found no graph that keeps its ceiling: with" in done.text
    assert "layers in fp32, max_abs_error is" in done.text.replace("\n", " ")
