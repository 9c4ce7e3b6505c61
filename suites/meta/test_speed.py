"""The gate of speed, through whole runs on a tiny model: what was approved is held, and told from other machines'."""

import json

import pytest

from fixtures.latency import THRESHOLD
from suites.meta.house import EMBEDDER, LOOSE, House

SPEED = "suites/latency/test_latency.py::test_speed"


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speed")
    house = House(folder, folder / "store")
    house.add("tiny", 'variants = ["plain", "O2"]\n' + EMBEDDER + LOOSE)
    done = house.run("suites/accuracy/test_scores.py", "--approve", "-k", "scores or O2", suite=SPEED)
    assert done.returncode == 0, done.text
    return house


def tier_file(house):
    (file,) = (one for one in (house.baselines / "tiny").glob("*.json") if one.stem not in ("reference", "conformance"))
    return file


@pytest.fixture
def tier(house):
    """The tier's file, changed by `tier(variant, edit)` and restored afterwards."""
    file = tier_file(house)
    kept = file.read_bytes()

    def change(variant, edit):
        content = json.loads(file.read_bytes())
        edit(content["variants"][variant])
        file.write_text(json.dumps(content))

    yield change
    file.write_bytes(kept)


def times(factor):
    def edit(stored):
        speed = stored["speed"]
        speed["ratio"] *= factor
        speed["interval"] = [edge * factor for edge in speed["interval"]]

    return edit


def result(house, variant):
    return next(one for one in house.gate()["models"][0]["variants"] if one["variant"] == variant)


def test_approved_speeds_are_stored_with_their_anchor(house):
    stored = json.loads(tier_file(house).read_text())["variants"]
    assert stored["plain"]["speed"] is None, "it was not measured"
    assert stored["O2"]["speed"]["anchor"] == "plain"
    assert stored["O2"]["speed"]["interval"][0] < stored["O2"]["speed"]["ratio"] < stored["O2"]["speed"]["interval"][1]


def test_slower_than_approved_fails(house, tier):
    tier("O2", times(3))
    done = house.run("--variant", "O2", suite=SPEED)
    assert done.returncode == 1, done.text
    (failure,) = house.gate()["failures"]
    assert failure["check"] == "speed"
    assert "times slower" in failure["message"]
    assert f"the gate lets {THRESHOLD:.1%} pass" in failure["message"]


def test_faster_than_approved_is_a_stale_baseline(house, tier):
    tier("O2", times(1 / 3))
    done = house.run("--variant", "O2", suite=SPEED)
    assert done.returncode == 0, done.text
    assert result(house, "O2")["checks"]["speed"]["text"].startswith("baseline stale: tiny O2: 0.3")


def test_processors_are_not_compared_with_each_other(house, tier):
    tier("O2", lambda stored: (times(3)(stored), stored["speed"].update(processor="another")))
    done = house.run("--variant", "O2", "-rs", suite=SPEED)
    assert done.returncode == 0, done.text
    assert "the speed of tiny O2 was approved on another, and this is" in " ".join(done.text.split())


def test_without_an_approved_speed_it_is_unbaselined(house, tier):
    tier("O2", lambda stored: stored.update(speed=None))
    done = house.run("--variant", "O2", "-rs", suite=SPEED)
    assert done.returncode == 0, done.text
    assert "no approved speed of tiny O2" in " ".join(done.text.split())
    done = house.run("--variant", "O2", "--require-all", suite=SPEED)
    assert done.returncode == 1, done.text
