"""Shards: how the models of a run are cut, and what is made of the shards' reports."""

import itertools
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from fixtures.baselines.costs import costs_of, read_costs, write_costs
from fixtures.baselines.errors import BaselineError
from fixtures.gate.command_line import parse
from fixtures.gate.sharding import cut
from fixtures.gate.single_values import UsageError
from fixtures.report import files, fleet, terminal
from fixtures.report.results import Failure, MachineRecord, ModelResult, Results, Shard, Status, VariantResult
from suites.meta.house import EMBEDDER, LOOSE, RERANKER, House

COSTS = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=4), st.floats(1e-3, 1e9), max_size=40)
COUNTS = st.integers(1, 60)


def load_of(costs, models):
    """Return what some models cost, exactly."""
    return sum((Fraction(costs[name]) for name in models), Fraction())


@given(COSTS, COUNTS)
def test_cut_leaves_nothing_out_and_judges_nothing_twice(costs, count):
    shards = cut(costs, count)
    assert sorted(itertools.chain.from_iterable(shards)) == sorted(costs)
    assert len(shards) == min(count, len(costs))
    assert all(shards), "none is empty that is not beyond the number of models"


@given(COSTS, COUNTS, st.randoms())
def test_cut_is_the_same_whatever_the_order(costs, count, random):
    names = list(costs)
    random.shuffle(names)
    assert cut({name: costs[name] for name in names}, count) == cut(costs, count)


@given(COSTS.filter(bool), COUNTS)
def test_no_shard_costs_more_than_list_scheduling_allows(costs, count):
    """Graham 1966: the mean, and the part of the longest that the mean does not have; of the loads as they are added,
    which rounding moves by little."""
    heaviest = max(load_of(costs, models) for models in cut(costs, count))
    bound = load_of(costs, costs) / count + Fraction(max(costs.values())) * (count - 1) / count
    assert heaviest <= bound * Fraction(1 + 1e-9)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=7), st.integers(1, 4))
def test_largest_shard_is_within_four_thirds_of_the_best_cut(costs, count):
    by_name = {f"m{index}": float(cost) for index, cost in enumerate(costs)}
    heaviest = max(load_of(by_name, models) for models in cut(by_name, count))
    loads = (
        max(sum(cost for cost, chosen in zip(costs, places, strict=True) if chosen == place) for place in range(count))
        for places in itertools.product(range(count), repeat=len(costs))
    )
    assert heaviest <= min(loads) * (Fraction(4, 3) - Fraction(1, 3 * count))


# ------------------------------------------------------------------------------------------ costs


def approved(folder, name, sizes):
    """Make a model with a tier file of artifacts of these sizes, as far as costs read it."""
    model = folder / name
    model.mkdir(parents=True)
    (model / "model.toml").write_text(EMBEDDER)
    if sizes:
        variants = {f"variant{index}": {"bytes": size} for index, size in enumerate(sizes)}
        (model / "avx2.json").write_text(json.dumps({"variants": variants}))
        (model / "avx2.0123456789ab.safetensors").touch()
        (model / "reference.json").write_text('{"provenance": {}}')
        (model / "reference.0123456789ab.safetensors").touch()
        (model / "notes.json").write_text('{"variants": {"of another kind": {"bytes": 1000000000}}}')
    return model


def test_costs_are_stated_ones_then_sizes_at_their_rate_then_what_is_usual(tmp_path):
    folders = [approved(tmp_path, *row) for row in (("a", [100, 25]), ("b", [300]), ("c", []), ("d", [50]))]
    assert costs_of(folders, {}) == {"a": 100.0, "b": 300.0, "c": 100.0, "d": 50.0}
    assert costs_of(reversed(folders), {"a": 20.0, "gone": 9.0}) == {"a": 20.0, "b": 60.0, "c": 20.0, "d": 10.0}
    assert costs_of(folders, {"c": 7.0}) == dict.fromkeys("abcd", 7.0), (
        "seconds say nothing of bytes where none has both"
    )
    assert costs_of([folders[2]], {}) == {"c": 1.0}
    assert costs_of([], {"a": 20.0}) == {}


def test_costs_are_read_as_they_are_written(tmp_path):
    assert read_costs(tmp_path) == {}
    (tmp_path / "costs.toml").write_bytes(write_costs({"bge-v1.5": 1234.56, "a": 0.01234, "fetched": 0.0}))
    assert read_costs(tmp_path) == {"bge-v1.5": 1230.0, "a": 0.0123}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[seconds]\n\na = 0", "costs.toml:3: seconds.a: write a number above 0, and not 0"),
        ("[seconds]\na = nan", "costs.toml:2: seconds.a: write a number above 0, and not NaN"),
        ("[seconds]\na = inf", "costs.toml:2: seconds.a: write a finite number, and not inf"),
        ("[seconds]\na = '1 h'", 'costs.toml:2: seconds.a: write a number above 0, and not "1 h"'),
        ("[seconds]\nbge-v1.5 = 3", 'and not {"5": 3}; a name with a dot needs quotes'),
        ("[second]\na = 1", "there is no such key: the keys are seconds; did you mean seconds?"),
        ("", "costs.toml:1: seconds is missing: write seconds = a table of keys"),
        ("a", "costs.toml: not valid TOML: "),
    ],
)
def test_wrong_costs_are_an_error_that_names_the_line(tmp_path, text, message):
    (tmp_path / "costs.toml").write_text(text)
    with pytest.raises(BaselineError) as error:
        read_costs(tmp_path)
    assert message in str(error.value)


def test_tier_file_that_cannot_be_read_is_an_error_and_no_other_cut(tmp_path):
    folder = approved(tmp_path, "a", [100])
    (folder / "avx2.json").write_text("{")
    with pytest.raises(BaselineError, match=r"a/avx2.json: cannot be read \(.*\); restore it from version control"):
        costs_of([folder], {})


# ------------------------------------------------------------------------------------ the option


@pytest.fixture
def baselines(tmp_path):
    for name, sizes in (("a", [100]), ("b", [300]), ("c", [200])):
        approved(tmp_path / "baselines", name, sizes)
    return tmp_path / "baselines"


def parsed(baselines, **options):
    given = {"baselines": str(baselines), "report": str(baselines.parent / "report")} | options
    return parse(given.get, ci=False)


def judged(options):
    return [folder.name for folder in options.folders]


def test_shards_of_the_option_are_those_of_the_cut(baselines):
    assert [judged(parsed(baselines, shard=f"{number}/2")) for number in (1, 2)] == [["b"], ["a", "c"]]
    assert judged(parsed(baselines, shard="1/1")) == ["a", "b", "c"]
    assert judged(parsed(baselines, shard="4/4")) == []
    assert parsed(baselines, shard="02/2").shard == Shard(2, 2, ["a", "b", "c"])
    assert parsed(baselines).shard is None


def test_shards_are_of_the_selected_models(baselines):
    assert parsed(baselines, shard="1/2", model=["a", "c"]).shard == Shard(1, 2, ["a", "c"])
    assert judged(parsed(baselines, shard="1/2", model=["a", "c"])) == ["c"]
    candidates = parsed(baselines, shard="2/2", candidate=["a=seeded:bert@1", "b=seeded:bert@2"])
    assert (judged(candidates), candidates.shard) == (["a"], Shard(2, 2, ["a", "b"]))


def test_stated_costs_decide(baselines):
    (baselines / "costs.toml").write_text("[seconds]\na = 9\nb = 1\nc = 1\n")
    assert [judged(parsed(baselines, shard=f"{number}/2")) for number in (1, 2)] == [["a"], ["b", "c"]]


@pytest.mark.parametrize(
    "shard", ["0/3", "4/3", "x", "", "1", "1/0", "-1/3", "1/3/4", " 1/3", "1.0/3", "1/1000000000", "١/٣"]
)
def test_what_is_no_shard_is_refused(baselines, shard):
    with pytest.raises(UsageError) as error:
        parsed(baselines, shard=shard)
    assert str(error.value) == f"--shard: {shard!r} is no K/N with K from 1 to N, such as 3/8"


def test_shards_of_a_checkpoint_are_refused(baselines):
    with pytest.raises(UsageError, match="--checkpoint: --shard cannot be combined with it"):
        parsed(baselines, shard="1/2", checkpoint=["path:."])


def test_wrong_costs_are_a_usage_error(baselines):
    (baselines / "costs.toml").write_text("[seconds]\na = -1\n")
    with pytest.raises(UsageError, match=r"--shard: .*costs.toml:2: seconds.a: write a number above 0"):
        parsed(baselines, shard="1/2")
    parsed(baselines)


def test_approval_may_not_move_the_cut(baselines):
    """What it writes is what costs are estimated from, and another shard may begin after it."""
    (baselines / "costs.toml").write_text("[seconds]\na = 9\nc = 1\n")
    with pytest.raises(UsageError, match="--shard: --approve with it would change what b costs, and so how shards"):
        parsed(baselines, shard="1/2", approve=True)
    assert judged(parsed(baselines, shard="1/2", approve=True, model=["a", "c"])) == ["a"]


# ------------------------------------------------------------------------------------- the report


WHOLE = ["a", "b", "c", "d"]


def shard(number, *models, count=2, whole=WHOLE, tier="avx2", cpu="EPYC", version="1.32.0", **fields):
    """Return a shard's results; models are judged well, and timed where they have a latency."""
    machine = MachineRecord(arch="x86_64", tier=tier, cpu=cpu, cores=2)
    variants = [
        VariantResult(
            "plain", graph="sha256:p", bytes=9, closeness={"max_abs_error": 1e-6}, drift={"max_abs_error": 0.0}
        )
    ]
    results = [
        ModelResult(name, "sha256:m", "embedding", variants=variants, check_seconds=2.0, build_seconds=3.5)
        for name in models
    ]
    verdict = Status.PASS if models else Status.NOT_JUDGED
    part = Results(machine, {"onnxruntime": version}, results, verdict=verdict, shard=Shard(number, count, whole))
    return msgspec.structs.replace(part, **fields)


def merged(folder, *shards):
    """Write reports, and return what is made of them, with the folder that it lies in."""
    for index, results in enumerate(shards):
        files.write(results, folder / "shards" / str(index))
    return fleet.merge([folder / "shards"], folder / "all"), folder / "all"


def failures(results):
    return [(failure.model, failure.check, failure.message) for failure in results.failures]


def test_shards_make_one_report_in_the_order_of_the_whole(tmp_path):
    red = Failure("c", "plain", "scores", "too far")
    part = shard(2, "a", "c", failures=[red], verdict=Status.FAIL)
    both, folder = merged(tmp_path, part, shard(1, "b", "d", cpu="Xeon"))
    results = files.read(folder / "gate.json")
    assert [model.name for model in results.models] == WHOLE
    assert results.failures == [red]
    assert (results.verdict, both.verdict, results.shard) == (Status.FAIL, Status.FAIL, None)
    assert [(part.number, part.machine.cpu, part.models) for part in results.parts] == [
        (1, "Xeon", ["b", "d"]),
        (2, "EPYC", ["a", "c"]),
    ]
    assert results.machine.cpu == "EPYC / Xeon"
    assert read_costs(folder) == dict.fromkeys(WHOLE, 5.5)
    for name in ("gate.md", "index.html"):
        assert "1 on Xeon: 2; 2 on EPYC: 2" in (folder / name).read_text()


@pytest.mark.parametrize(
    ("shards", "verdict"),
    [
        ([shard(1, "a", "b", "c", "d"), shard(2)], Status.PASS),
        ([shard(1), shard(2, *WHOLE)], Status.PASS),
        ([shard(1, whole=[]), shard(2, whole=[])], Status.NOT_JUDGED),
    ],
)
def test_empty_shard_is_part_of_the_whole(tmp_path, shards, verdict):
    both, folder = merged(tmp_path, *shards)
    assert (both.verdict, files.read(folder / "gate.json").verdict) == (verdict, verdict)


def test_missing_shard_is_a_failure_that_names_it(tmp_path):
    both, folder = merged(tmp_path, shard(1, "b", count=8), shard(2, "a", "c", "d", count=8))
    results = files.read(folder / "gate.json")
    assert both.verdict == results.verdict == Status.FAIL
    assert failures(results) == [
        ("", "shards", f"shard {number} of 8 is missing: run it again, and merge all") for number in range(3, 9)
    ]
    assert "avx2: shards: shard 3 of 8 is missing: run it again, and merge all" in list(both.remarks())
    for text in ((folder / "gate.md").read_text(), terminal.render(results, 100, False)):
        assert "shard 3 of 8 is missing" in text


def test_model_of_no_shard_and_model_of_two_are_failures(tmp_path):
    both, folder = merged(tmp_path, shard(1, "a", "b"), shard(2, "b", "d"))
    assert both.verdict == Status.FAIL
    assert failures(files.read(folder / "gate.json")) == [
        ("b", "shards", "was judged by shards 1 and 2: they were cut by other costs; run all of one commit"),
        ("c", "shards", "was judged by no shard that is here"),
    ]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (shard(1, "c", "d"), r"1/gate.json and .*0/gate.json are both shard 1 of 2: leave one out"),
        (shard(2, "c", count=3), "is shard 2 of 3, with 4 models in all, and .*shard 1 of 2, with 4: they are of two"),
        (shard(2, "c", whole=["c"]), "is shard 2 of 2, with 1 model in all, and .* are of two runs, or of two commits"),
        (shard(2, "c", versions={"onnxruntime": "1.32.0", "torch": "2"}), "have other versions of torch: they are no"),
        (shard(3, "c"), "is shard 3 of 2: it was damaged or changed"),
        (shard(2, "z"), "has the model 'z', which is none of the whole of its shard"),
    ],
)  # fmt: skip
def test_shards_that_do_not_fit_are_refused(tmp_path, second, message):
    with pytest.raises(fleet.CannotMerge, match=message):
        merged(tmp_path, shard(1, "a", "b"), second)
    assert not (tmp_path / "all" / "gate.json").exists()


def test_tiers_have_shards_of_their_own(tmp_path):
    """Two tiers, one of which lacks a shard, and a third that was judged as a whole."""
    whole = msgspec.structs.replace(shard(1, *WHOLE, tier="sse"), shard=None)
    shards = [shard(1, "a", "b"), shard(2, "c", "d"), shard(1, "a", "b", tier="arm64"), whole]
    both, folder = merged(tmp_path, *shards)
    assert {place.name: place.results.verdict for place in both.places} == {
        "sse": Status.PASS, "avx2": Status.PASS, "arm64": Status.FAIL,
    }  # fmt: skip
    assert sorted(file.parent.name for file in folder.glob("*/gate.json")) == ["arm64", "avx2"]
    assert not (folder / "gate.json").exists()
    again = fleet.merge([folder / "avx2", folder / "arm64"], tmp_path / "again")
    assert again.verdict == Status.FAIL, "what was merged can be merged with others"


def test_scores_that_cannot_be_read_are_refused(tmp_path):
    files.write(shard(1, "a", "b"), tmp_path / "shards" / "0")
    (tmp_path / "shards" / "0" / files.SCORES_FILE).write_bytes(b"none")
    with pytest.raises(fleet.CannotMerge, match=r"0/scores.safetensors cannot be read: .*; run the gate again"):
        fleet.merge([tmp_path / "shards"], tmp_path / "all")


def test_seconds_of_an_emulator_are_no_costs(tmp_path):
    emulated = MachineRecord(arch="x86_64", tier="avx2", cpu="Haswell in QEMU", cores=2, emulated="avx2")
    _, folder = merged(tmp_path, shard(1, *WHOLE, count=1, machine=emulated))
    assert not (folder / "costs.toml").exists()


# ---------------------------------------------------------------------------------- whole machines


SEEDS = {"first": 7, "second": 9, "third": 10}
BROKEN = LOOSE + "[ceilings.plain]\nmax_abs_error = 0\n"
COUNT = 8


def without_times(folder):
    """Return gate.json without what differs between machines and between runs."""
    gate = json.loads((folder / "gate.json").read_text())
    del gate["machine"], gate["parts"], gate["shard"], gate["steps"]
    gate["failures"].sort(key=lambda failure: (failure["model"], failure["check"]))
    for model in gate["models"]:
        del model["check_seconds"], model["build_seconds"]
        for variant in model["variants"]:
            path = Path(variant.pop("path"))
            variant["file"] = path.name, path.parent.name
    return gate


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """A house with an embedder that is right, one that is wrong, and a reranker."""
    house = House(tmp_path_factory.mktemp("machines"), Path("unused"))
    for name, seed in SEEDS.items():
        text = RERANKER if name == "third" else EMBEDDER + (BROKEN if name == "second" else LOOSE)
        house.add(name, text.replace("@7", f"@{seed}").replace("@8", f"@{seed}"))
    return house


def test_eight_machines_with_one_store_judge_what_one_does(machines, bucket, tmp_path):
    """Each has a cache of its own; two run at a time. Then another machine judges all, and exports nothing."""
    machines.store = bucket[1]

    def run(number):
        shard = ("--shard", f"{number}/{COUNT}") if number else ()
        variables = {"XDG_CACHE_HOME": str(tmp_path / f"cache{number}")}
        report = tmp_path / ("shards" if number else "") / f"report{number}"
        return machines.run("--variant=plain", f"--report={report}", *shard, variables=variables)

    with ThreadPoolExecutor(2) as executor:
        runs = list(executor.map(run, range(1, COUNT + 1)))
    statuses = [run.returncode for run in runs]
    assert sorted(statuses) == [0] * 7 + [1], "\n".join(run.text for run in runs)
    empty = runs[-1].text
    assert "NOT JUDGED: shard 8 of 8 has none of the 3 models: nothing was judged" in empty, empty
    logs = "".join(file.read_text() for file in tmp_path.rglob("*.log"))
    assert logs.count("building") > 8
    whole = run(0)
    assert whole.returncode == 1, whole.text
    assert "building" not in "".join(file.read_text() for file in (tmp_path / "cache0").rglob("*.log"))

    merging = machines.run(f"--report={tmp_path / 'all'}", "--merge", str(tmp_path / "shards"))
    assert merging.returncode == 1, merging.text
    assert without_times(tmp_path / "all") == without_times(tmp_path / "report0")
    scores, expected = (load_file(tmp_path / name / files.SCORES_FILE) for name in ("all", "report0"))
    assert scores.keys() == expected.keys()
    assert all((scores[name] == expected[name]).all() for name in scores)
    costs = read_costs(tmp_path / "all")
    assert costs.keys() == SEEDS.keys()
    parts = json.loads((tmp_path / "all" / "gate.json").read_text())["parts"]
    assert [(part["number"], len(part["models"])) for part in parts] == [(n, int(n <= 3)) for n in range(1, 9)]

    shutil.rmtree(tmp_path / "shards" / "report2")
    incomplete = fleet.merge([tmp_path / "shards"], tmp_path / "incomplete")
    assert incomplete.verdict == Status.FAIL
    assert "shard 2 of 8 is missing" in next(incomplete.remarks())


def test_seconds_of_building_are_those_of_what_was_built(house):
    """The store of these tests may have had it."""
    house.add("tiny", EMBEDDER.replace("@7", "@70") + LOOSE)
    house.store = house.report.parent / "store"
    seconds = []
    for _ in range(2):
        assert house.run("--variant=plain").returncode == 0
        (model,) = house.gate()["models"]
        seconds.append((model["build_seconds"] > 0, model["check_seconds"] > 0))
    assert seconds == [(True, True), (False, True)]


def test_processes_of_a_shard_judge_its_models(house):
    for name, seed in (("one", 7), ("two", 8)):
        house.add(name, EMBEDDER.replace("@7", f"@{seed}") + LOOSE)
    run = house.run("-n2", "--variant=plain", "--shard=1/2")
    assert run.returncode == 0, run.text
    assert [model["name"] for model in house.gate()["models"]] == ["one"]
    assert house.gate()["shard"] == {"number": 1, "count": 2, "models": ["one", "two"]}
    run = house.run("-n2", "--variant=plain", "--shard=4/4")
    assert run.returncode == 0, run.text
    assert house.gate()["verdict"] == "not judged"
    assert "shard 4 of 4 has none of the 2 models: nothing was judged" in run.text


def test_empty_shard_tries_nothing_and_says_so(house):
    house.add("one", EMBEDDER + LOOSE)
    run = house.run("--shard=2/2", suite="suites/conformance")
    assert run.returncode == 0, run.text
    assert "skipped" not in run.text
    gate = house.gate()
    assert (gate["verdict"], gate["models"], gate["shard"]["models"]) == ("not judged", [], ["one"])
    assert "shard 2 of 2 has none of the 1 model: nothing was judged" in (house.report / "gate.md").read_text()
    assert house.run("--shard=2/2", "-k", "no_such_test").returncode == 0


def test_shard_whose_models_lack_the_variant_is_no_error_of_it(house):
    house.add("one", 'variants = ["plain"]\n' + EMBEDDER + LOOSE)
    house.add("two", EMBEDDER.replace("@7", "@8") + LOOSE)
    run = house.run("--variant=O1", "--shard=1/2")
    assert run.returncode == 0, run.text
    assert house.gate()["verdict"] == "not judged"
    assert "--variant: O1: not among the variants of one" in house.run("--variant=O1", "--model=one").text


def test_merging_is_no_shards(house):
    run = house.run("--shard=1/2", "--merge", "nothing")
    assert (run.returncode, "--shard: --merge cannot be combined with it" in run.text) == (4, True)
