"""The gate from outside: pytest runs of the suites on tiny seeded models, and their whole life."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

from fixtures.build import manifest as build_manifest
from fixtures.build.manifest import write_manifest
from fixtures.build.store import Store
from fixtures.gate.checks import CHECKS
from fixtures.latency.records import Quantity, Undecided, undecided_shapes
from fixtures.models.files import sha256_of
from suites.meta.house import EMBEDDER, LOOSE, RERANKER, ROOT, VARIANTS, House


@pytest.fixture(scope="module")
def approved_once(tmp_path_factory, shared_store):
    """The folder of a house whose tiny embedder has an approved baseline; no test changes it."""
    folder = tmp_path_factory.mktemp("approved")
    house = House(folder, shared_store)
    house.add("tiny", EMBEDDER + LOOSE)
    run = house.run("--approve")
    assert run.returncode == 0, run.text
    return folder


@pytest.fixture
def approved(house, approved_once, tmp_path):
    """A house whose tiny embedder has an approved baseline, with the report of the run that approved it."""
    shutil.copytree(approved_once, tmp_path, dirs_exist_ok=True)
    return house


def test_life_of_a_model(house):
    """Unbaselined, approved, passing; the last run builds nothing and imports no framework."""
    house.add("tiny", EMBEDDER + LOOSE)
    first = house.run()
    assert first.returncode == 0, first.text
    assert house.statuses() == {name: "unsupported" if name == "O4" else "unbaselined" for name in VARIANTS}
    second = house.run("--approve")
    assert second.returncode == 0, second.text
    assert "approved tiny on tier" in second.text
    third = house.run(trace_imports=True)
    assert third.returncode == 0, third.text
    assert house.statuses() == {name: "unsupported" if name == "O4" else "pass" for name in VARIANTS}
    paths = {row["variant"]: row["path"] for row in house.gate()["models"][0]["variants"]}
    assert [name for name, path in paths.items() if not path.endswith("/model.onnx")] == ["O4"]
    assert all(Path(path).is_file() for path in paths.values() if path)
    choices = house.gate()["models"][0]["choices"]
    assert f"\n{paths[choices[0]['variant']]}\n" in third.text
    assert "] built" not in third.text
    assert "reused from the store, 0 built" in third.text
    assert not third.frameworks, f"a warm run imported {third.frameworks}"


def test_reranker_runs_too(house):
    loose = (
        "[ceilings.int8]\nmax_logit_error = 99\nmean_logit_error = 99\nkendall_tau = -1\nmin_kendall_tau = -1\n"
        "order_flips = 1\nnew_ties = 1\ntop1_agreement = 0\nndcg_at_5_change = 1\n"
    )
    house.add("tiny-reranker", RERANKER + loose)
    done = house.run("--approve")
    assert done.returncode == 0, done.text
    again = house.run()
    assert again.returncode == 0, again.text
    assert house.gate()["verdict"] == "pass"


def test_variant_with_one_perturbed_weight_fails(approved, tmp_path):
    """A ceiling of int8 would let it pass; the approved scores do not."""
    house = House(tmp_path, tmp_path / "store")
    shutil.copytree(approved.store / "artifacts", house.store / "artifacts", copy_function=os.link)
    perturb_one_weight(house.artifact("quantized"))
    done = house.run("--variant", "quantized")
    assert done.returncode == 1, done.text
    assert house.statuses() == {"quantized": "fail"}
    failed = [one["check"] for one in house.gate()["failures"]]
    assert "scores_do_not_drift" in failed
    message = house.gate()["failures"][-1]["message"]
    for part in ("tiny quantized", "max_abs_error", "tolerance", "worst probe", "reproduce: tox run -e gate"):
        assert part in message
    assert "moved by: the ONNX file is another than the approved one, so that what made it moved it" in message


def test_moved_scores_of_the_same_file_name_what_runs_it(approved):
    """The stored scores and the stored version of ONNX Runtime are others, and the file is not."""
    file = next(approved.baselines.glob("tiny/[!rc]*.json"))
    content = json.loads(file.read_text())
    for one in content["variants"].values():
        one["provenance"]["versions"] |= {"onnxruntime": "1.32.999", "torch": "2.0.0"}
    file.write_text(json.dumps(content))
    move_stored_scores(file.parent, file.name, 1e-2)
    done = approved.run()
    assert done.returncode == 1, done.text
    (failure,) = approved.gate()["failures"]
    assert failure["check"] == "scores_do_not_drift"
    said = failure["message"].partition("moved by: ")[2].partition("\n")[0]
    assert said.startswith(
        "the ONNX file is byte for byte the approved one, so that what runs it moved it: onnxruntime"
    )
    assert "torch" not in said


def test_broken_ceiling_fails_and_is_not_approved(house):
    folder = house.add("tiny", EMBEDDER + "[ceilings.quantized]\nmax_abs_error = 1e-9\n")
    done = house.run("--approve", "--variant", "quantized")
    assert done.returncode == 1, done.text
    assert "NOT APPROVED tiny" in done.text
    assert [file.name for file in folder.iterdir()] == ["model.toml"]


def test_changed_reference_fails(approved):
    """Stored reference scores that are no longer those of the checkpoint are noticed."""
    move_stored_scores(approved.baselines / "tiny", "reference.json", 1e-3)
    done = approved.run("--variant", "plain")
    assert done.returncode == 1, done.text
    assert [one["check"] for one in approved.gate()["failures"]] == ["reference_is_the_approved_one"]


def test_scores_of_other_weights_explain_nothing(approved):
    """A variant of another checkpoint moved because that did: approved scores say nothing of how it was exported."""
    model = approved.baselines / "tiny" / "model.toml"
    model.write_text(model.read_text().replace("bert@7", "bert@17"))
    done = approved.run("--variant", "plain")
    assert done.returncode == 1, done.text
    moved = {one["check"]: one["message"] for one in approved.gate()["failures"]}
    assert moved.keys() == {"reference_is_the_approved_one", "scores_do_not_drift"}
    assert "changed since the approval: checkpoint sha256:" in moved["scores_do_not_drift"]
    assert "nearer to PyTorch" not in done.text


def test_approve_keeps_what_was_not_measured(approved):
    before = json.loads(next(approved.baselines.glob("tiny/[!r]*.json")).read_text())
    done = approved.run("--approve", "--variant", "O2")
    assert done.returncode == 0, done.text
    after = json.loads(next(approved.baselines.glob("tiny/[!r]*.json")).read_text())
    assert after["variants"].keys() == before["variants"].keys()


def test_approval_that_leaves_checks_of_the_baseline_out_is_refused(approved):
    """A first approval covers what it tries; from then on none covers less."""
    contents = {file: file.read_bytes() for file in (approved.baselines / "tiny").iterdir()}
    partial = approved.run("--approve", "--variant", "O2", "-k", "ceiling")
    assert partial.returncode == 1, partial.text
    said = " ".join(partial.text.split())
    assert (
        "NOT APPROVED tiny: its baseline stands for checks that this run left out: reference_is_the_approved_one"
        in said
    )
    assert "of suites/accuracy on O2: select suites/accuracy too, and leave -k" in said
    assert approved.gate()["verdict"] == "fail"
    assert {file: file.read_bytes() for file in (approved.baselines / "tiny").iterdir()} == contents
    both = ("suites/conformance", "--approve", "--variant", "O2")
    done = approved.run(*both)
    assert done.returncode == 0, done.text
    partial = approved.run("--approve", "--variant", "O2")
    assert partial.returncode == 1, partial.text
    said = " ".join(partial.text.split())
    first, *further = sorted(CHECKS)
    assert f"left out: {first} and {len(further)} more checks of suites/conformance on O2: select suites/c" in said
    again = approved.run(*both)
    assert again.returncode == 0, again.text


def test_approve_is_refused_in_ci(house):
    house.add("tiny", EMBEDDER)
    done = house.run("--approve", ci="true")
    assert done.returncode == 4
    assert "--approve: refused under CI=true" in done.text
    assert "Traceback" not in done.text


def test_require_all_fails_what_would_be_skipped(approved):
    done = approved.run("--variant", "O4", "--require-all")
    assert done.returncode == 1
    assert "--require-all: unsupported: O4 needs CUDAExecutionProvider" in done.text


def test_run_that_could_judge_nothing_does_not_pass(approved):
    """PyTorch's scores are the approved ones, and no variant was tried."""
    done = approved.run("--variant", "O4")
    assert done.returncode == 5, done.text
    assert approved.statuses() == {"O4": "unsupported"}
    assert approved.gate()["verdict"] == "not judged"
    assert (approved.report / "gate.md").read_text().startswith("# exportgate: not judged\n")
    assert "NOT JUDGED: no failed checks, and no scores were judged: of 1 variants 1" in " ".join(done.text.split())
    assert "exit status 5: no check of a variant's scores had an answer (" in done.text


def test_what_this_machine_cannot_run_does_not_stand_in_the_way_of_the_rest(approved):
    run = approved.run("--variant", "O2", "--variant", "O4", "--require", "checkpoints,baselines,speeds,variants")
    assert run.returncode == 0, run.text
    assert approved.statuses() == {"O2": "pass", "O4": "unsupported"}


def test_approving_without_scores_says_so(approved):
    done = approved.run("--approve", "-k", "graph_is_valid", "--variant", "plain", suite="suites/conformance")
    assert done.returncode == 1
    assert "NOT APPROVED tiny: nothing of it was judged; select suites/accuracy or conformance too" in done.text


def test_what_was_not_compared_is_not_a_pass(approved):
    """Conformance alone says nothing about scores, and gate.json does not either."""
    done = approved.run("-k", "graph_is_valid", "--variant", "plain", suite="suites/conformance")
    assert done.returncode == 0, done.text
    assert approved.statuses() == {"plain": "unbaselined"}
    assert approved.gate()["verdict"] == "not judged"
    assert "NOT JUDGED: no failed checks, and no scores were judged: of 1 variants 1" in " ".join(done.text.split())


def test_nothing_that_is_selected_is_not_judged(approved):
    done = approved.run("-k", "nonsense", suite="suites/conformance")
    assert done.returncode == 5
    assert approved.gate()["verdict"] == "not judged"
    assert "NOT JUDGED: no failed checks" in done.stdout
    assert "exit status 5: no test was selected" in done.stdout
    assert "FAIL" not in done.stdout
    done = approved.run("-k", "nonsense", "--approve")
    assert done.returncode == 5
    assert "NOT APPROVED: no test was selected" in done.stdout


@pytest.mark.parametrize("wrong", ["suite", "store"])
def test_usage_error_has_no_report(house, tmp_path, wrong):
    """The models are read by then, and a table of them would look like a result."""
    house.add("tiny", EMBEDDER)
    (tmp_path / "file").touch()
    options = ("--store", str(tmp_path / "file")) if wrong == "store" else ("suites/nowhere",)
    done = house.run("--variant", "plain", *options)
    assert done.returncode == 4, done.text
    assert "ERROR: --store: " in done.text if wrong == "store" else "ERROR: file or directory not found" in done.text
    assert "tiny (embedding)" not in done.stdout
    assert "Traceback" not in done.text
    assert not (house.report / "gate.json").exists()


def test_scores_of_another_checkpoint_are_not_kept(approved):
    """An approval drops what was approved of another checkpoint, and so tries all of it that is still wanted."""
    file = next(approved.baselines.glob("tiny/[!r]*.json"))
    old = json.loads(file.read_text())
    for stored in old["variants"].values():
        stored["provenance"]["digest"] = "sha256:" + "0" * 64
    file.write_text(json.dumps(old))
    partial = approved.run("--approve", "--variant", "O2")
    assert partial.returncode == 1, partial.text
    said = " ".join(partial.text.split())
    assert "NOT APPROVED tiny: the checkpoint or the probes changed, and this run left out O1, O2-quantized, " in said
    assert "select them too, with --variant O1 --variant O2-quantized --variant" in said
    assert len(json.loads(file.read_text())["variants"]) == len(old["variants"])
    model = approved.baselines / "tiny" / "model.toml"
    model.write_text('variants = ["O2"]\n' + model.read_text())
    done = approved.run("--approve", "--variant", "O2")
    assert done.returncode == 0, done.text
    assert "dropped, since the checkpoint or the probes changed: O1, O2-quantized" in done.text
    assert list(json.loads(file.read_text())["variants"]) == ["O2"]


def test_models_whose_names_run_together_are_kept_apart(house):
    """tiny + O2-quantized and tiny-O2 + quantized."""
    house.add("tiny", EMBEDDER + LOOSE)
    house.add("tiny-O2", EMBEDDER + LOOSE)
    house.run("--variant", "quantized", "--variant", "O2-quantized")
    found = [(model["name"], one["variant"], bool(one["closeness"])) for model in house.gate()["models"]
             for one in model["variants"]]  # fmt: skip
    assert found == [(name, one, True) for name in ("tiny", "tiny-O2") for one in ("quantized", "O2-quantized")]


def test_options_may_name_folders_that_are_there(approved):
    """As tox calls it. pytest alone would take the folders for tests, and know no option of ours."""
    command = [
        sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "fixtures.options", "-q",
        "--baselines", str(approved.baselines), "--store", str(approved.store), "--report", str(approved.report),
        "--variant", "plain", "-k", "scores",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert approved.gate()["models"][0]["name"] == "tiny"


def test_variant_that_no_model_has_is_a_usage_error(house):
    house.add("tiny", 'variants = ["plain"]\n' + EMBEDDER)
    assert "--variant: O2: not among the variants of tiny" in house.usage_error(variant=["O2"])


def test_texts_longer_than_the_checkpoint_has_positions_are_a_usage_error(house):
    text = (ROOT / "baselines" / "minilm-l6" / "model.toml").read_text()
    folder = house.add("long", text.replace("max_length = 256", "max_length = 1024"))
    message = house.usage_error(variant=["plain"])
    assert f"{folder / 'model.toml'}:7: max_length: is 1024, and the checkpoint has only 512 positions" in message


def test_missing_checkpoint_of_an_approved_model_is_a_usage_error(approved):
    """It used to be PASS with every variant unsupported."""
    model = approved.baselines / "tiny" / "model.toml"
    model.write_text(model.read_text().replace("seeded:bert@7", "path:nowhere"))
    done = approved.run("--variant", "plain")
    assert done.returncode == 4, done.text
    said = " ".join(done.text.split())
    assert f"{model}:2: source: tiny: the checkpoint folder {model.parent / 'nowhere'} does not exist: restore" in said
    assert "PASS" not in done.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ["nosuch"]}, "--model: 'nosuch' is none of tiny"),
        ({"variant": ["O9"]}, "--variant: 'O9' is none of plain, O1"),
        ({"baselines": "/nowhere"}, "--baselines: /nowhere is no folder"),
        ({"baselines": str(ROOT / "suites")}, "holds no folder with a model.toml"),
        ({"store": ""}, "--store: is empty"),
        ({"report": "/proc/nowhere"}, "--report: /proc/nowhere cannot be written"),
        ({"tier": "avx3"}, "--tier: unknown tier 'avx3'"),
        ({"tier": "cuda"}, "--tier: tier cuda needs"),
        ({"store": "ftpx://place"}, "--store: ftpx://place: Protocol not known"),
        ({"store": "/proc/nowhere"}, "--store: "),
    ],
)
def test_wrong_option_is_a_usage_error(house, options, message):
    house.add("tiny", EMBEDDER)
    assert message in house.usage_error(**options)


def test_value_that_pytest_refuses_is_a_usage_error(house):
    house.add("tiny", EMBEDDER)
    done = house.run("--grid", "huge")
    assert done.returncode == 4, done.text
    assert "--grid" in done.text
    assert "Traceback" not in done.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task = \n", "model.toml: not valid TOML: Invalid value (at line 1"),
        (EMBEDDER + "colour = 3\n", "model.toml:6: colour:"),
        (
            EMBEDDER.replace('"embedding"', '"poetry"'),
            "model.toml:1: task: 'poetry' is none of embedding, rerank",
        ),
        (EMBEDDER.replace("64", '"long"'), "model.toml:3: max_length:"),
        (EMBEDDER + 'variants = ["O2", "O7"]\n', "model.toml:6: variants: 'O7' is none of plain"),
    ],
)
def test_wrong_model_toml_names_file_line_and_key(house, text, message):
    house.add("tiny", text)
    assert message in house.usage_error()


def test_truncated_baseline_is_a_usage_error(approved):
    file = next(approved.baselines.glob("tiny/[!r]*.json"))
    file.write_text(file.read_text()[: file.stat().st_size // 2])
    done = approved.run()
    assert done.returncode == 4
    assert f"{file}: cannot be read" in done.text
    assert "restore it from version control" in done.text
    assert "Traceback" not in done.text


def test_nan_in_stored_scores_is_a_usage_error(approved):
    move_stored_scores(approved.baselines / "tiny", "reference.json", np.nan)
    assert "holds values that are not finite" in approved.usage_error()


def test_arrays_of_another_file_are_a_usage_error(approved):
    """The reference is compared with nothing where its arrays are those of the tier: that is not "nothing approved"."""
    reference = approved.baselines / "tiny" / "reference.json"
    (tier,) = approved.baselines.glob("tiny/[!rc]*.json")
    content = json.loads(reference.read_text())
    content["arrays"] = json.loads(tier.read_text())["arrays"]
    reference.write_text(json.dumps(content))
    done = approved.run()
    assert done.returncode == 4, done.text
    assert f"{reference}: arrays: '{content['arrays']}' is none of its own" in done.text
    assert "restore it from version control" in done.text
    assert "Traceback" not in done.text


def test_scores_of_other_probes_than_stated_are_a_usage_error(approved):
    """Their digest is in their name, and the probes are those of today, so that only the number of rows tells."""
    folder = approved.baselines / "tiny"
    content = json.loads((folder / "reference.json").read_text())
    scores = load_file(folder / content["arrays"])["scores"]
    (folder / content["arrays"]).unlink()
    save_file({"scores": scores[:-1]}, folder / "new")
    content["arrays"] = f"reference.{sha256_of(folder / 'new')[:12]}.safetensors"
    (folder / "new").rename(folder / content["arrays"])
    (folder / "reference.json").write_text(json.dumps(content))
    message = f"arrays: scores is of {len(scores) - 1} probes, and there are {len(scores)}"
    assert message in approved.usage_error()


def test_killed_export_leaves_the_store_clean(tmp_path):
    house = House(tmp_path, tmp_path / "store")
    house.add("tiny", EMBEDDER + LOOSE)
    command = house.command("--variant", "plain")
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(house.store.glob("partial/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(house.store.glob("partial/*")), "the export was not caught in the act"
    deadline = time.monotonic() + 30
    while any(Store(house.store).root.glob("partial/*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not list(house.store.glob("partial/*")), "a worker outlived its parent, or its rest was kept"
    for folder in house.store.glob("artifacts/*"):
        build_manifest.verify(folder.name, folder)
    assert house.run("--variant", "plain").returncode == 0


def test_two_sessions_build_each_artifact_once(tmp_path):
    house = House(tmp_path, tmp_path / "store")
    house.add("tiny", EMBEDDER + LOOSE)
    command = house.command("--variant", "plain")
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in "ab"]
    assert [process.wait() for process in both] == [0, 0]
    assert not list(house.store.glob("partial/*"))
    builds = [log.read_text().count("building ") for log in house.store.glob("logs/*")]
    assert builds == [1] * len(list(house.store.glob("artifacts/*")))


def test_latency_and_conformance_run_on_a_tiny_model(house):
    house.add("tiny", EMBEDDER + LOOSE + "[latency]\nquick = [[1, 16], [2, 32]]\n")
    stored = house.report.with_name("benchmarks.json")
    for suite in ("suites/conformance", "suites/latency"):
        done = house.run("--variant", "plain", "--variant", "O2", f"--benchmark-json={stored}", suite=suite)
        assert done.returncode == 0, done.text
    model = house.gate()["models"][0]
    fused = next(one for one in model["variants"] if one["variant"] == "O2")
    cells = {(cell["batch"], cell["length"]): cell for cell in fused["latency"]}
    of_torch, undecided = (msgspec.convert(one["undecided"], list[Undecided]) for one in (model, fused))
    assert {*cells, *undecided_shapes(undecided)} == {(1, 16), (2, 32)}, "some are undecided, and none is lost"
    assert all(cell["ratio_to_torch"] > 0 for shape, cell in cells.items() if shape not in undecided_shapes(of_torch))
    assert all(cell["end_to_end_ms"] > cell["p50_ms"] for cell in cells.values())
    if any(entry.measurement.quantity != Quantity.LATENCY for entry in undecided):
        pytest.skip(f"the machine was disturbed: {fused['undecided']}")
    assert fused["cold_start_ms"] > fused["load_ms"]
    assert len(fused["workloads"]) == 5
    assert {(one["callers"], one["threads"]) for one in fused["callers"]} >= {(1, 1), (4, 2)}
    beside_its_times(json.loads(stored.read_text()), cells, fused)


def beside_its_times(benchmarks, cells, fused):
    """Everything that the report says of latency lies in pytest-benchmark's file too."""
    assert benchmarks["machine_info"]["exportgate"]["threads"] >= 1
    extra = {one["name"]: one["extra_info"] for one in benchmarks["benchmarks"]}
    assert all({"affinity", "quota", "load", "mhz"} <= one.keys() for one in extra.values())
    for (batch, length), cell in cells.items():
        assert extra[f"test_latency[tiny-O2-{batch}x{length}]"].items() >= cell.items()
    assert extra["test_speed[tiny-O2]"].items() >= fused["speed"].items()
    assert extra["test_footprint[tiny-O2]"]["cold_start_ms"] == fused["cold_start_ms"]
    named = [one for name, one in extra.items() if "test_mixed_lengths[tiny-O2" in name]
    assert [one["items_per_s"] for one in named] == [one["items_per_s"] for one in fused["workloads"]]
    assert any("test_callers[tiny-O2" in name for name in extra)


def perturb_one_weight(folder):
    """Change one weight of one quantized matrix, and the manifest so that the store does not notice."""
    model = onnx.load(folder / "model.onnx")
    weight = next(one for one in model.graph.initializer if "MatMul" in one.name and one.name.endswith("quantized"))
    values = numpy_helper.to_array(weight).copy()
    values.flat[values.size // 2] ^= 0x7F
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("model.onnx", "manifest.json"):  # other stores have links to the old ones
        (folder / name).unlink()
    onnx.save(model, folder / "model.onnx")
    write_manifest(folder, manifest["key"], manifest["recipe"])


def move_stored_scores(folder, name, by):
    """Add `by` to one stored score, and rename the arrays file to its new content."""
    file = folder / name
    content = json.loads(file.read_text())
    arrays = load_file(folder / content["arrays"])
    next(iter(arrays.values())).flat[0] += by
    (folder / content["arrays"]).unlink()
    save_file(arrays, folder / "new")
    content["arrays"] = f"{file.stem}.{sha256_of(folder / 'new')[:12]}.safetensors"
    (folder / "new").rename(folder / content["arrays"])
    file.write_text(json.dumps(content))


MASKS = "suites/conformance/test_masks.py"


def variant_of(house, name):
    return next(variant for variant in house.gate()["models"][0]["variants"] if variant["variant"] == name)


def checks(house, variant):
    return variant_of(house, variant)["checks"]


def test_known_limit_is_reported_and_no_failure(house):
    """O2 under masks that fused attention does not take: measured, said, counted apart."""
    house.add("tiny", EMBEDDER)
    done = house.run("--variant", "O2", "--variant", "O2-raw-mask", suite=MASKS)
    assert done.returncode == 0, done.text
    assert "3 limits" in done.text
    found = checks(house, "O2")["scores_hold_under_mask[left-padding]"]
    assert found["status"] == "limit"
    for part in ("takes the mask for the index of the last token", "issues/18945", "measured: tiny O2: max_abs_error"):
        assert part in found["text"]
    assert {one["status"] for one in checks(house, "O2-raw-mask").values()} == {"pass"}
    assert variant_of(house, "O2")["limits_in_short"] == ["right padding only"]
    assert 'aria-describedby="limit-1-0">right padding only</a>' in (house.report / "index.html").read_text()
    page = (house.report / "gate.md").read_text()
    assert "Known limits" in page
    assert "scores_hold_under_mask\\[left-padding] | - | limit | pass |" in page


def test_left_padding_is_what_a_left_padder_is_deployed_with(house):
    house.add("tiny", EMBEDDER + 'tokenizer = { padding_side = "left" }\n')
    done = house.run("--variant", "O2", "--variant", "O2-raw-mask", suite=MASKS)
    assert done.returncode == 1, done.text
    assert [(one["variant"], one["check"]) for one in house.gate()["failures"]] == [
        ("O2", "scores_hold_under_mask[left-padding]")
    ]
    assert "known of this recipe, and no limit here" in house.gate()["failures"][0]["message"]


def test_model_that_cannot_be_tokenised_fails_with_a_message_and_a_report(house):
    """GPT-2 has no mask token: every check fails, none with an internal error."""
    house.add("tiny", 'task = "fill-mask"\nsource = "seeded:gpt2@1"\nmax_length = 64\n')
    done = house.run("--variant", "plain", suite=MASKS)
    assert done.returncode == 1, done.text
    assert "INTERNALERROR" not in done.text
    assert "Unrecognized configuration class" in house.gate()["failures"][0]["message"]


def test_limit_that_is_met_no_longer_fails(house):
    """A list of excuses must not rot."""
    limit = '[[limits]]\nvariant = "plain"\ncheck = "scores_hold_under_mask"\nreason = "r"\nlink = "https://x.org"\n'
    house.add("tiny", EMBEDDER + limit)
    done = house.run("--variant", "plain", suite=f"{MASKS}::test_scores_hold_under_mask")
    assert done.returncode == 1, done.text
    assert "it holds no longer: remove it from [[limits]]" in done.text


def test_architecture_that_cannot_be_optimized_is_unsupported_with_optimums_error_behind_it(house):
    house.add("tiny", EMBEDDER.replace("bert", "qwen3").replace("mean", "last"))
    done = house.run("--variant", "plain", "--variant", "O2", suite="suites/conformance/test_loading.py")
    assert done.returncode == 0, done.text
    assert house.statuses() == {"plain": "unbaselined", "O2": "unsupported"}
    assert "doesn't support the graph optimization of qwen3 yet" in done.text
    strict = house.run("--variant", "O2", "--require-all", suite="suites/conformance/test_loading.py")
    assert strict.returncode == 1
    assert "do not know this architecture" in strict.text


def test_pins_are_approved_without_scores_and_watched(house):
    """conformance.json alone: the zoo's baselines have no scores."""
    folder = house.add("tiny", EMBEDDER)
    suite = "suites/conformance/test_fusion.py"
    first = house.run("--variant", "O2", suite=suite)
    assert first.returncode == 0, first.text
    assert checks(house, "O2")["operators_are_the_pinned_ones"]["status"] == "unbaselined"
    done = house.run("--approve", "--variant", "O2", suite=suite)
    assert done.returncode == 0, done.text
    assert "approved tiny: token ids and operators, in conformance.json" in done.text
    assert not (folder / "reference.json").exists()
    pins = json.loads((folder / "conformance.json").read_text())
    assert pins["operators"]["O2"]["com.microsoft.Attention"] == 2
    pins["operators"]["O2"]["com.microsoft.Attention"] = 3
    (folder / "conformance.json").write_text(json.dumps(pins))
    changed = house.run("--variant", "O2", suite=suite)
    assert changed.returncode == 1
    assert "com.microsoft.Attention: 3 -> 2" in changed.text


def test_variant_that_does_not_build_fails_with_the_exporters_words(house):
    """ModernBERT has no task that Optimum exports so: the message has the error and the log."""
    house.add("tiny", 'task = "text-generation"\nsource = "seeded:modernbert@7"\nmax_length = 64\n')
    done = house.run("--variant", "plain", "-k", "test_builds", suite="suites/conformance")
    assert done.returncode == 1, done.text
    message = house.gate()["failures"][0]["message"]
    for part in ("tiny plain: cannot be built: ", "its output: "):
        assert part in message
