"""The gate of speed, in whole runs on a tiny model: speeds are held to what was approved on the same processor."""

import json
import re

import msgspec
import pytest

from fixtures.baselines.files import StoredVariant
from fixtures.export.variants import VARIANT
from fixtures.gate.case import Case
from fixtures.gate.speed_verdicts import anchor_of, judge_cell
from fixtures.gate.subject import Subject
from fixtures.latency.change import CELL_THRESHOLD, Tendency
from fixtures.latency.records import Cell
from fixtures.runtimes import hardware
from fixtures.runtimes.providers import CUDA
from suites.meta.calls import stand_in
from suites.meta.house import EMBEDDER, LOOSE, House

SPEED = "suites/latency/test_latency.py::test_speed"
NOT_OF_A_TIER = ("reference", "conformance")


@pytest.fixture(scope="module")
def house(tmp_path_factory, shared_store):
    house = House(tmp_path_factory.mktemp("speed"), shared_store)
    house.add("tiny", 'variants = ["plain", "O2"]\n' + EMBEDDER + LOOSE)
    run = house.run("suites/accuracy/test_scores.py", "--approve", "-k", "scores or O2", suite=SPEED)
    assert run.returncode == 0, run.text
    assert re.search(
        r"^  speed of O2: \d\.\d+ times as fast as plain \(.*\); 25\.0% slower will pass$", run.text, re.MULTILINE
    ), run.text
    return house


def tier_file(house):
    (file,) = (file for file in (house.baselines / "tiny").glob("*.json") if file.stem not in NOT_OF_A_TIER)
    return file


@pytest.fixture
def tier(house):
    """The tier's file, changed by `tier(variant, edit)` and restored afterwards."""
    file = tier_file(house)
    original = file.read_bytes()

    def change(variant, edit):
        content = json.loads(file.read_bytes())
        edit(content["variants"][variant])
        file.write_text(json.dumps(content))

    yield change
    file.write_bytes(original)


def times(factor):
    def edit(stored):
        (speed,) = stored["speeds"]
        speed["ratio"] *= factor
        speed["interval"] = [edge * factor for edge in speed["interval"]]

    return edit


def result(house, variant):
    return next(entry for entry in house.gate()["models"][0]["variants"] if entry["variant"] == variant)


def test_approved_speeds_are_stored_with_their_anchor(house):
    stored = json.loads(tier_file(house).read_text())["variants"]
    assert stored["plain"]["speeds"] == [], "it was not measured"
    (speed,) = stored["O2"]["speeds"]
    assert speed["anchor"] == "plain"
    assert speed["interval"][0] < speed["ratio"] < speed["interval"][1]


def test_approval_of_scores_alone_keeps_what_was_timed(house, tier):
    tier("O2", lambda stored: stored["speeds"][0].update(versions={"onnxruntime": "1.20.0"}))
    before = json.loads(tier_file(house).read_text())["variants"]["O2"]
    assert house.run("--variant", "O2", "--approve").returncode == 0
    after = json.loads(tier_file(house).read_text())["variants"]["O2"]
    assert (after["speeds"], after["latency"]) == (before["speeds"], before["latency"])
    tier("O2", times(3))
    assert house.run("--variant", "O2", suite=SPEED).returncode == 1
    (failure,) = house.gate()["failures"]
    assert "changed since the approval: onnxruntime 1.20.0 -> " in failure["message"]


def stored_cell(shape, ratio):
    machine = hardware.detect()
    return {
        **{"batch": shape[0], "length": shape[1]},
        **{"p50_ms": 1.0, "p95_ms": 1.0, "items_per_s": 1.0},
        **{"ratio_to_plain": ratio, "interval": [0.99 * ratio, 1.01 * ratio], "ratio_to_torch": None},
        **{"rounds": 10, "threads": machine.threads, "processor": machine.processor},
    }


CELL = "suites/latency/test_latency.py::test_latency"
MIXED = "suites/latency/test_throughput.py::test_mixed_lengths[tiny-O2-8-False]"


def test_far_slower_at_one_shape_fails(house, tier):
    """Where the machine lets it be measured; otherwise it is undecided."""
    tier("O2", lambda stored: stored.update(latency=[stored_cell((1, 16), 100)]))
    run = house.run("--variant", "O2", "-k", "1x16", suite=CELL)
    if undecided := result(house, "O2")["undecided"]:
        pytest.skip(undecided[0]["reason"])
    assert run.returncode == 1, run.text
    (failure,) = (failure for failure in house.gate()["failures"] if failure["check"] == "latency")
    assert "the gate lets 25.0% pass" in failure["message"]


@pytest.mark.parametrize(
    ("approved_ratio", "edit", "tendencies"),
    [
        (1.2, {}, [Tendency.SAME]),
        (1.3, {}, [Tendency.SLOWER]),
        (1.3, {"interval": [0.9, 1.9]}, [Tendency.UNDECIDED]),
        (0.8, {}, [Tendency.SAME]),
        (0.7, {}, [Tendency.FASTER]),
        (9.9, {"processor": "another"}, []),
        (9.9, {"threads": 99}, []),
        (9.9, {"length": 17}, []),
    ],
)
def test_cell_is_held_to_that_of_its_shape_and_machine(approved_ratio, edit, tendencies):
    current, stored = (
        msgspec.convert(cell, Cell, strict=False)
        for cell in (stored_cell((1, 16), 1.0), stored_cell((1, 16), approved_ratio) | edit)
    )
    approved = stand_in(StoredVariant, latency=(stored,))
    case = stand_in(Case, subject=stand_in(Subject, name="m"), variant=VARIANT["O2"], stored=approved)
    verdicts = judge_cell(case, current)
    assert [verdict.tendency for verdict in verdicts] == tendencies
    for verdict in verdicts:
        assert bool(verdict) == (verdict.tendency is not Tendency.SLOWER)
        if not verdict:
            assert re.match(r"(?s)m O2: 1.300 times slower .*25.0% pass; 10 pairs", verdict.failure)


def test_shapes_that_were_not_timed_keep_their_latency(house, tier):
    tier("O2", lambda stored: stored.update(latency=[stored_cell((3, 7), 1.0)]))
    run = house.run(
        "suites/accuracy/test_scores.py", "--approve", "--variant", "O2", "-k", "scores or 1x16", suite=CELL
    )
    assert run.returncode == 0, run.text
    stored = json.loads(tier_file(house).read_text())["variants"]["O2"]["latency"]
    timed = {(cell["batch"], cell["length"]) for cell in stored}
    assert (3, 7) in timed
    assert timed - {(3, 7)} in ({(1, 16)}, set()), "on a busy machine the other is undecided"


def test_slower_than_approved_fails(house, tier):
    tier("O2", times(3))
    run = house.run("--variant", "O2", suite=SPEED)
    assert run.returncode == 1, run.text
    (failure,) = house.gate()["failures"]
    assert failure["check"] == "speed"
    assert "times slower" in failure["message"]
    assert f"the gate lets {CELL_THRESHOLD:.1%} pass" in failure["message"], "its runs are short"
    assert "If the machine was busy" in failure["message"]


@pytest.fixture
def plugin(monkeypatch, tmp_path):
    """Return a function: code -> the options with which pytest loads it as a plugin."""

    def options(code):
        (tmp_path / "planted.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return "-p", "planted"

    return options


def test_approval_that_says_too_little_is_not_recorded(house, tier, plugin):
    before = json.loads(tier_file(house).read_text())["variants"]["O2"]["speeds"]
    blind = plugin("from fixtures.latency import change\nchange.CELL_THRESHOLD = 1e-9\n")
    run = house.run("suites/accuracy/test_scores.py", "--approve", "--variant", "O2", *blind, suite=SPEED)
    assert run.returncode == 0, run.text
    assert "not recorded: that says too little; approve it again at a quiet time" in run.text
    assert json.loads(tier_file(house).read_text())["variants"]["O2"]["speeds"] == before


STOLEN_TIME = """
import itertools
from fixtures.latency import disturbance
disturbance._stolen_s = map(float, itertools.count(0, 1000)).__next__
"""


def test_what_the_machine_disturbs_is_undecided_and_no_number(house, plugin, tmp_path):
    """The hypervisor takes a thousand seconds whenever it is asked."""
    stored = tmp_path / "benchmarks.json"
    cell, footprint = f"{CELL}[tiny-O2-1x16]", "suites/latency/test_latency.py::test_footprint"
    options = "--variant", "O2", f"--benchmark-json={stored}", *plugin(STOLEN_TIME)
    run = house.run(footprint, MIXED, *options, suite=cell)
    assert run.returncode == 0, run.text
    measured = result(house, "O2")
    assert [entry["measurement"] for entry in measured["undecided"]] == [
        {"quantity": "latency", "batch": 1, "length": 16},
        {"quantity": "footprint"},
        {"quantity": "workload", "batch": 8},
    ]
    assert all("the hypervisor took" in entry["reason"] for entry in measured["undecided"])
    assert (measured["latency"], measured["workloads"], measured["load_ms"]) == ([], [], None)
    assert not stored.exists() or json.loads(stored.read_text())["benchmarks"] == []
    told = " ".join(run.text.split())
    assert "undecided: 3 measurements of tiny: for instance tiny O2 1x16: the hypervisor took" in told
    page = (house.report / "gate.md").read_text()
    assert page.count("| O2 | 1x16 | undecided |") == 1
    assert "footprint: the hypervisor" in page


def test_what_was_disturbed_is_no_part_of_an_approval(house, tier, plugin):
    """`tier` restores the file that the approval writes."""
    tier("O2", lambda stored: stored.update(latency=[stored_cell((1, 16), 100)]))
    suite, options = f"{CELL}[tiny-O2-1x16]", plugin(STOLEN_TIME)
    run = house.run("suites/accuracy/test_scores.py", "--approve", "--variant", "O2", *options, suite=suite)
    assert run.returncode == 0, run.text
    assert "latency of O2 at 1x16 not recorded: undecided; approve it again at a quiet time" in run.text
    (cell,) = json.loads(tier_file(house).read_text())["variants"]["O2"]["latency"]
    assert cell["ratio_to_plain"] == 100


def test_undecided_speed_fails_where_all_is_required(house, tier):
    tier("O2", lambda stored: stored["speeds"][0].update(interval=[1e-3, 1e3]))
    run = house.run("--variant", "O2", "--require-all", suite=SPEED)
    assert run.returncode == 1, run.text
    (undecided,) = result(house, "O2")["undecided"]
    assert undecided["measurement"] == {"quantity": "speed"}
    assert "than approved" in undecided["reason"]
    (failure,) = house.gate()["failures"]
    assert failure["message"].startswith("--require-all: undecided: tiny O2: ")
    assert "; approve it again at a quiet time" in failure["message"]


def test_runs_are_compared_and_drawn_by_pytest_benchmark(house, tmp_path):
    storage, drawn = f"--benchmark-storage={tmp_path / 'stored'}", tmp_path / "drawn"
    options = "--variant", "O2", "--benchmark-autosave", storage
    assert "Name (time in" not in house.run(*options, suite=MIXED).text
    run = house.run(*options, "--benchmark-compare", f"--benchmark-histogram={drawn}", suite=MIXED)
    assert run.returncode == 0, run.text
    if undecided := result(house, "O2")["undecided"]:
        pytest.skip(str(undecided))
    assert re.search(r"test_mixed_lengths\[tiny-O2-8-False\] \(NOW\)", run.text), run.text
    assert re.search(r"test_mixed_lengths\[tiny-O2-8-False\] \(0001_", run.text), run.text
    assert [file.suffix for file in tmp_path.glob("drawn*")] == [".svg"]


def test_plain_is_held_to_numpy(house, tier):
    run = house.run("suites/accuracy/test_scores.py", "--approve", "--variant", "plain", suite=SPEED)
    assert re.search(
        r"^  speed of plain: \d+\.\d+ times as fast as numpy \(.*\); 25\.0% slower will pass$", run.text, re.MULTILINE
    ), run.text
    assert result(house, "plain")["speed"]["anchor"] == "numpy"
    tier("plain", times(3))
    run = house.run("--variant", "plain", suite=SPEED)
    assert run.returncode == 1, run.text
    (failure,) = house.gate()["failures"]
    assert re.search(r"plain: [23]\.\d+ times slower .* times as fast as numpy", failure["message"])


@pytest.mark.parametrize(
    ("variant", "provider", "anchor"),
    [("O2", CUDA, "plain"), ("plain", "CPUExecutionProvider", "numpy"), ("plain", CUDA, "PyTorch")],
)
def test_numpy_is_no_anchor_of_what_a_gpu_computes(variant, provider, anchor):
    assert anchor_of(stand_in(Case, variant=VARIANT[variant], provider=provider)) == anchor


def test_faster_than_approved_is_a_stale_baseline(house, tier):
    tier("O2", times(1 / 3))
    run = house.run("--variant", "O2", suite=SPEED)
    assert run.returncode == 0, run.text
    (stale,) = result(house, "O2")["stale"]
    assert re.match(r"[23]\.\d+ times faster ", stale)
    assert "stale baseline: tiny O2: " in run.text
    page = (house.report / "gate.md").read_text()
    assert re.search(r"\| O2 \| plain \| 1x128 \|.*\| [23]\.\d+ times faster .*\| 25\.0% \|", page), page


def test_processors_are_not_compared_with_each_other(house, tier):
    """A speed that was approved on another processor does not apply here: no failure under --require-all."""
    tier("O2", lambda stored: (times(3)(stored), stored["speeds"][0].update(processor="another")))
    run = house.run("--variant", "O2", "--require-all", suite=SPEED)
    assert run.returncode == 0, run.text
    assert "1 not applicable" in run.text
    reason = "the speed of tiny O2 was approved on another, and this is"
    assert reason in (house.report / "junit.xml").read_text()
    assert reason in (house.report / "gate.md").read_text()


def test_approval_on_another_processor_keeps_the_first(house, tier):
    tier("O2", lambda stored: stored["speeds"][0].update(processor="another"))
    run = house.run("suites/accuracy/test_scores.py", "--approve", "--variant", "O2", suite=SPEED)
    assert run.returncode == 0, run.text
    stored = json.loads(tier_file(house).read_text())["variants"]["O2"]["speeds"]
    assert {speed["processor"] for speed in stored} == {"another", hardware.detect().processor}


def test_times_of_an_approved_file_are_approved_without_its_scores(house, tier):
    """The scores stay what they were; of another file, the times say nothing of what is stored."""
    tier("O2", lambda stored: stored.update(speeds=[]))
    before = json.loads(tier_file(house).read_text())
    run = house.run("--variant", "O2", "--approve", suite=SPEED)
    assert run.returncode == 0, run.text
    assert re.search(r"^approved tiny on tier \w+: times of O2; scores stay$", run.text, re.MULTILINE), run.text
    after = json.loads(tier_file(house).read_text())
    assert [speed["processor"] for speed in after["variants"]["O2"].pop("speeds")] == [hardware.detect().processor]
    before["variants"]["O2"].pop("speeds")
    assert after == before
    tier("O2", lambda stored: stored.update(artifact="sha256:" + "0" * 64))
    run = house.run("--variant", "O2", "--approve", suite=SPEED)
    assert run.returncode == 1, run.text
    assert "times alone are approved of a file that is byte for byte the approved one" in " ".join(run.text.split())


def test_without_an_approved_speed_it_is_unbaselined(house, tier):
    tier("O2", lambda stored: stored.update(speeds=[]))
    run = house.run("--variant", "O2", "-rs", suite=SPEED)
    assert run.returncode == 0, run.text
    assert "no approved speed of tiny O2" in " ".join(run.text.split())
    run = house.run("--variant", "O2", "--require-all", suite=SPEED)
    assert run.returncode == 1, run.text
