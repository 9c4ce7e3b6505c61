"""One page of what library versions and exporters change, from small results."""

import configparser
import json
import shutil

import msgspec
import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from fixtures.report import kept_files, upgrade
from fixtures.report.results import Failure, MachineRecord, ModelResult, Results, Status, VariantResult
from fixtures.report.upgrade import ENVIRONMENTS, ITSELF, NEWEST, Environment
from suites.meta.house import ROOT

INSTALLED = {"1.20": "1.20.1", "1.23": "1.23.2", "1.27": "1.27.0", NEWEST: "1.32.0"} | {
    "4.48": "4.48.3",
    "4.57": "4.57.6",
    "5": "5.24.0",
}
OF_ORT = {"1.20": 0.05, "1.23": 0.003, "1.27": -0.003, NEWEST: 0.0}
"""Version -> where int8 scores lie beside the approved ones: those of 1.23 and of 1.27 on two sides."""


def scores_of(environment):
    """Return what a gate would measure: ONNX Runtime moves int8, Transformers PyTorch's scores and plain's file."""
    older = 2e-5 if environment.transformers == "4.48" else 0.0
    kept = 0.0 if environment.made_by == ITSELF else 1e-3
    offsets = {"PyTorch": older, "plain": older, "quantized": OF_ORT[environment.onnxruntime] + kept}
    return {f"tiny/{name}": np.full((2, 3), offset, np.float32) for name, offset in offsets.items()}


def results_of(environment):
    distances = {name.removeprefix("tiny/"): float(scores[0, 0]) for name, scores in scores_of(environment).items()}
    failures = []
    if distances["quantized"] > 0.01:
        failures.append(Failure("tiny", "quantized", "scores_do_not_drift", "too far"))
    variants = [
        VariantResult(
            "plain",
            drift={"max_abs_error": distances["plain"]},
            graph=f"{environment.exporter}'s file beside {environment.transformers}",
            path="/store/artifacts/plain/model.onnx",
        ),
        VariantResult(
            "quantized",
            drift={"max_abs_error": abs(distances["quantized"])},
            graph=f"{environment.exporter}'s file",
            status=Status.FAIL if failures else Status.PASS,
            path="/store/artifacts/int8/model.onnx",
        ),
        VariantResult("O4", status=Status.UNSUPPORTED),
    ]
    model = ModelResult(
        "tiny", "sha256:1", "embedding", reference_drift={"max_abs_error": distances["PyTorch"]}, variants=variants
    )
    return Results(
        MachineRecord(arch="x86_64", tier="avx2", cpu="", cores=1),
        {name: INSTALLED[getattr(environment, name)] for name in ("onnxruntime", "transformers")},
        [model],
        failures,
        Status.FAIL if failures else Status.PASS,
    )


def write_run(folder, environment, results=None):
    place = folder / environment.tox_name
    place.mkdir(exist_ok=True)
    (place / "gate.json").write_bytes(msgspec.json.encode(results or results_of(environment)))
    save_file(scores_of(environment), place / "scores.safetensors")


@pytest.fixture
def folder(tmp_path):
    for environment in ENVIRONMENTS:
        write_run(tmp_path, environment)
    return tmp_path


def index_of(**fields):
    newest = {"onnxruntime": NEWEST, "transformers": "4.57", "exporter": "optimum"}
    return ENVIRONMENTS.index(Environment(**(newest | fields)))


def test_every_environment_is_a_column_in_order(folder):
    runs = upgrade.read(folder)
    assert [run.header for run in runs][:: len(runs) - 1] == [
        ["1.20.1", "4.48.3", "optimum"],
        ["1.32.0", "5.24.0", "torch", "files of 1.20"],
    ]
    assert len(runs) == 15
    table = upgrade.drifts(runs)
    assert list(table) == [("tiny", "PyTorch"), ("tiny", "plain"), ("tiny", "quantized")]
    assert [str(drift) for drift in table["tiny", "quantized"]] == (
        ["0.05 FAIL"] * 3 + ["0.003"] * 6 + ["0"] * 4 + ["0.001"] * 2
    )


def test_each_upgrade_is_told_what_it_moves(folder):
    """1.23 and 1.27 are as far from what was approved, and twice as far from each other."""
    moved = {str(step): column for step, column in upgrade.moved(upgrade.read(folder)).items()}
    assert {step: str(column["tiny", "quantized"]) for step, column in moved.items()} == {
        "onnxruntime 1.20 -> 1.23 (optimum)": "0.047",
        "onnxruntime 1.23 -> 1.27 (optimum)": "0.006",
        "onnxruntime 1.27 -> newest (optimum)": "0.003",
        "onnxruntime 1.20 -> 1.23 (torch)": "0.047",
        "onnxruntime 1.23 -> 1.27 (torch)": "0.006",
        "onnxruntime 1.27 -> newest (torch)": "0.003",
        "transformers 4.48 -> 4.57 (optimum)": "0",
        "transformers 4.57 -> 5 (torch)": "0",
        "exporter optimum -> torch": "0",
        "files made by onnxruntime 1.20 -> itself (optimum)": "0.001",
        "files made by onnxruntime 1.20 -> itself (torch)": "0.001",
    }
    transformers = moved["transformers 4.48 -> 4.57 (optimum)"]
    assert str(transformers["tiny", "plain"]) == "2e-5"
    assert not transformers["tiny", "plain"].graph
    assert transformers["tiny", "quantized"].graph == "optimum's file"
    assert not moved["exporter optimum -> torch"]["tiny", "quantized"].graph


def test_the_page_and_the_terminal_have_both_tables(folder):
    runs = upgrade.read(folder)
    console = Console(width=200, record=True)
    with console.capture() as captured:
        upgrade.show(runs, console)
    for text in (upgrade.markdown(runs), captured.get()):
        assert "1.20.1" in text
        assert "0.05 FAIL" in text
        assert "0.047 =" in text


def test_a_run_that_moved_too_far_ends_red(folder, capsys):
    assert upgrade.main(folder) == 1
    assert "| tiny | quantized | 0.05 FAIL |" in (folder / "upgrade.md").read_text()
    content = json.loads((folder / "upgrade.json").read_text())
    assert content[0]["moved"]["tiny quantized"] == pytest.approx(0.05)
    assert [run["made_by"] for run in content[-3:]] == [ITSELF, "1.20", "1.20"]
    for environment in ENVIRONMENTS[:3]:
        write_run(folder, environment, results_of(Environment("1.23", environment.transformers, environment.exporter)))
    assert upgrade.main(folder) == 0
    capsys.readouterr()


def test_an_environment_that_did_not_run_is_there_with_its_reason(folder, capsys):
    name = ENVIRONMENTS[index_of(onnxruntime="1.23", transformers="4.48")].tox_name
    (folder / name / "gate.json").unlink()
    printed = "Looking\nERROR: No matching distribution found for onnxruntime==1.23.*\n"
    tox = {"testenvs": {name: {"setup": [{"retcode": 1, "output": printed}]}}}
    (folder / "tox.json").write_text(json.dumps(tox))
    assert upgrade.main(folder) == 1
    page = (folder / "upgrade.md").read_text()
    assert "- upgrade-ort123-transformers448: ERROR: No matching distribution found for onnxruntime==1.23.*" in page
    assert "| 0.05 FAIL | 0.05 FAIL | 0.05 FAIL | - | 0.003 |" in page
    (folder / "tox.json").unlink()
    assert upgrade.read(folder)[3].reason == upgrade.DID_NOT_RUN
    assert name in capsys.readouterr().out


def test_an_upgrade_from_or_to_an_environment_that_did_not_run_is_not_compared(folder):
    newest = ENVIRONMENTS[index_of()]
    shutil.rmtree(folder / newest.tox_name)
    columns = upgrade.moved(upgrade.read(folder))
    lost = [step for step in columns if newest in (step.old, step.new)]
    assert len(lost) == 4
    for step, column in columns.items():
        assert (column["tiny", "quantized"].distance is None) == (step in lost)
    assert not any(columns[step]["tiny", "quantized"].graph for step in lost)


def test_a_broken_report_is_a_reason(folder):
    (folder / ENVIRONMENTS[0].tox_name / "gate.json").write_text("{")
    assert "is no report of exportgate" in upgrade.read(folder)[0].reason


def test_environments_of_tox_are_those_of_the_table():
    """tox.ini spells the versions once more, as names of environments."""
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    onnxruntimes, transformers = (
        ",".join(upgrade.AXES[name]).replace(".", "") for name in ("onnxruntime", "transformers")
    )
    label = next(line for line in tox["tox"]["labels"].splitlines() if line.startswith("upgrades = "))
    pairs, *others = label.removeprefix("upgrades = ").split(", ")
    assert pairs == f"upgrade-ort{{{onnxruntimes}}}-transformers{{{transformers}}}"
    kept = others.pop().replace("{457,5}", "{}")
    spelled = [*others, kept.format("457"), kept.format("5")]
    assert spelled == [environment.tox_name for environment in ENVIRONMENTS[-3:]]
    pins = tox["testenv"]["deps"].splitlines()
    for library, factor in (("onnxruntime", "ort"), ("transformers", "transformers")):
        for version in upgrade.AXES[library][:-1]:
            assert f"{factor}{version.replace('.', '')}: {library}=={version}.*" in pins


def test_files_of_a_run_are_options_of_another(folder):
    place = folder / ENVIRONMENTS[0].tox_name
    assert kept_files.main(place) == 0
    assert (place / kept_files.KEPT_FILES).read_text().splitlines() == [
        "--artifact=tiny:plain=/store/artifacts/plain/model.onnx",
        "--artifact=tiny:quantized=/store/artifacts/int8/model.onnx",
    ]


def test_a_run_without_files_or_report_hands_none_on(folder, capsys):
    empty = Results(
        MachineRecord(arch="x86_64", tier="avx2", cpu="", cores=1), {"onnxruntime": "1.20.1"}, [], [], Status.PASS
    )
    write_run(folder, ENVIRONMENTS[0], empty)
    assert kept_files.main(folder / ENVIRONMENTS[0].tox_name) == 1
    assert "names no file that was judged" in capsys.readouterr().err
    assert kept_files.main(folder / "nowhere") == 1
    assert "nowhere" in capsys.readouterr().err
    assert not list(folder.rglob(kept_files.KEPT_FILES))
