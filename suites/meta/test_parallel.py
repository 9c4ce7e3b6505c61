"""pytest-xdist: a model's checks stay together, and the report is that of one process."""

import pytest

from suites.meta.house import EMBEDDER, LOOSE, House

MODELS = ("one", "tiny-2", "tiny-2-plain")
"""An id such as `tiny-2-plain-quantized` may be of either of two."""


@pytest.fixture(scope="module")
def house(tmp_path_factory, shared_store):
    house = House(tmp_path_factory.mktemp("parallel"), shared_store)
    for number, name in enumerate(MODELS):
        house.add(name, EMBEDDER.replace("@7", f"@{7 + number}") + LOOSE)
    return house


OPTIONS = ("--variant=plain", "--variant=quantized", "suites/conformance/test_numbers.py")


def found(house):
    """Return the report without what differs between any two runs."""
    gate = house.gate()
    del gate["steps"]  # the first run builds them
    for model in gate["models"]:
        del model["check_seconds"], model["build_seconds"]
        for variant in model["variants"]:
            variant["checks"] = dict(sorted(variant["checks"].items()))
    gate["machine"] = {key: one for key, one in gate["machine"].items() if key != "memory_bytes"}
    return gate


def test_report_is_that_of_one_process(house):
    alone = house.run(*OPTIONS)
    assert alone.returncode == 0, alone.text
    expected, scores = found(house), (house.report / "scores.safetensors").read_bytes()
    both = house.run("-n2", *OPTIONS, "-v")
    assert both.returncode == 0, both.text
    assert found(house) == expected
    assert (house.report / "scores.safetensors").read_bytes() == scores
    assert both.text.count("passed") == 1
    lines = [line for line in both.text.splitlines() if line.startswith("[gw")]
    who = [{line[:5] for line in lines if f"[{name}" in line} for name in ("one", "tiny-2")]
    assert [len(one) for one in who] == [1, 1], both.text
    assert who[0] != who[1], "both processes have work"


def test_steps_are_counted_and_building_is_no_checking(tmp_path):
    house = House(tmp_path, tmp_path / "store")
    for name in ("first", "second"):
        house.add(name, EMBEDDER + LOOSE)
    run = house.run("-n1", "--variant=plain")
    assert run.returncode == 0, run.text
    gate = house.gate()
    built = sum(1 for _ in house.store.glob("artifacts/*"))
    assert len(gate["steps"]["built"]) == built
    assert gate["steps"]["reused"] == built, "the second model's are the first one's"
    first, second = gate["models"]
    assert first["check_seconds"] < first["build_seconds"]
    assert second["build_seconds"] == 0


def test_failure_is_reported_with_its_line_to_reproduce(house):
    strict = EMBEDDER.replace("@7", "@8") + LOOSE.replace("max_abs_error = 1", "max_abs_error = 1e-6")
    house.add("tiny-2", strict)
    try:
        done = house.run("-n2", *OPTIONS)
    finally:
        house.add("tiny-2", EMBEDDER.replace("@7", "@8") + LOOSE)
    assert done.returncode == 1
    assert house.gate()["verdict"] == "fail"
    (failure,) = house.gate()["failures"]
    assert (failure["model"], failure["variant"], failure["check"]) == (
        "tiny-2", "quantized", "scores_stay_within_ceiling",
    )  # fmt: skip
    assert failure["reproduce"].startswith("tox run -e gate -- 'suites/accuracy/test_scores.py::")
    assert failure["message"].endswith(f"\n  reproduce: {failure['reproduce']}")


def test_nothing_is_timed_beside_others(house):
    done = house.run("-n2", "--variant=plain", "--model=one", suite="suites/latency/test_latency.py")
    assert done.returncode == 5, done.text
    assert "no tests ran" in done.text


def test_approval_is_of_one_process(house):
    done = house.run("-n2", "--approve")
    assert done.returncode == 4
    assert "-n: an approval is one process's: leave -n out" in done.text


def test_store_that_cannot_be_used_is_a_usage_error(house, tmp_path):
    (tmp_path / "file").touch()
    done = house.run("-n2", f"--store={tmp_path / 'file'}")
    assert done.returncode == 4
    assert done.text.count("ERROR: --store: ") == 1, done.text


def test_what_no_process_could_judge_does_not_pass(house):
    done = house.run("-n2", "--variant=O4")
    assert done.returncode == 5, done.text
    assert house.gate()["verdict"] == "not judged"
    assert "exit status 5: no check of a variant's scores had an answer (" in done.text
