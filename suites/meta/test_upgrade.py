"""One table of what library versions change, from small results."""

import json
import shutil

import msgspec
import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from fixtures.report import upgrade
from fixtures.report.results import Failure, MachineRecord, ModelResult, Results, Status, VariantResult

REAL = {"1.20": "1.20.1", "1.23": "1.23.2", "1.27": "1.27.0", "newest": "1.32.0"}


def found(ort, transformers):
    """What a gate would find: int8 moves with ONNX Runtime, PyTorch and the file with Transformers."""
    older = 0.0 if transformers == "newest" else 2e-5
    moved = {"1.20": 0.05, "1.23": 0.003, "1.27": 0.003, "newest": 0.0}[ort]
    variants = [
        VariantResult("plain", drift={"max_abs_error": older}, graph=f"file of {transformers}"),
        VariantResult(
            "quantized",
            drift={"max_abs_error": moved},
            graph="one file",
            status=Status.FAIL if moved > 0.01 else Status.PASS,
        ),
        VariantResult("O4", status=Status.UNSUPPORTED),
    ]
    model = ModelResult("tiny", "sha256:1", "embedding", reference_drift={"max_abs_error": older}, variants=variants)
    failures = [Failure("tiny", "quantized", "scores_do_not_drift", "too far")] if moved > 0.01 else []
    versions = {"onnxruntime": REAL[ort], "transformers": "4.48.3" if transformers == "4.48" else "4.57.6"}
    return Results(
        MachineRecord(arch="x86_64", tier="avx2", cpu="", cores=1),
        versions,
        [model],
        failures,
        Status.FAIL if failures else Status.PASS,
    )


@pytest.fixture
def folder(tmp_path):
    for ort in upgrade.AXES["onnxruntime"]:
        for transformers in upgrade.AXES["transformers"]:
            place = tmp_path / upgrade.tox_environment(onnxruntime=ort, transformers=transformers)
            place.mkdir()
            (place / "gate.json").write_bytes(msgspec.json.encode(found(ort, transformers)))
            save_file(scores(ort, transformers), place / "scores.safetensors")
    return tmp_path


def scores(ort, transformers):
    """As far from what was approved as `found` says; int8 of 1.23 and of 1.27 on two sides of it."""
    older = 0 if transformers == "newest" else 2e-5
    moved = {"1.20": 0.05, "1.23": 0.003, "1.27": -0.003, "newest": 0.0}[ort]
    offsets = {"PyTorch": older, "plain": older, "quantized": moved}
    return {f"tiny/{name}": np.full((2, 3), offset, np.float32) for name, offset in offsets.items()}


def shown(folder):
    console = Console(width=160, record=True)
    with console.capture() as captured:
        upgrade.show(upgrade.read(folder), console)
    return captured.get()


def test_every_pair_is_a_column_in_order(folder):
    pairs = upgrade.read(folder)
    assert [tuple(pair.versions.values()) for pair in pairs][::7] == [("1.20", "4.48"), ("newest", "newest")]
    assert len(pairs) == 8
    table = upgrade.drifts(pairs)
    assert list(table) == [("tiny", "PyTorch"), ("tiny", "plain"), ("tiny", "quantized")]
    assert [str(drift) for drift in table["tiny", "quantized"]] == ["0.05 FAIL"] * 2 + ["0.003"] * 4 + ["0"] * 2
    assert "1.20.1" in shown(folder)
    assert "0.05 FAIL" in shown(folder)


def test_each_library_is_told_what_it_moves(folder):
    """1.23 and 1.27 are as far from what was approved, and twice as far from each other."""
    sentences = list(upgrade.attribution(upgrade.read(folder)))
    assert sentences == [
        "tiny PyTorch: onnxruntime (1.20 -> 1.23 0; 1.23 -> 1.27 0; 1.27 -> newest 0), "
        "transformers (4.48 -> newest 2e-5)",
        "tiny plain: onnxruntime (1.20 -> 1.23 0 by the same file; 1.23 -> 1.27 0 by the same file; 1.27 -> newest 0 "
        "by the same file), transformers (4.48 -> newest 2e-5)",
        "tiny quantized: onnxruntime (1.20 -> 1.23 0.047 by the same file; 1.23 -> 1.27 0.006 by the same file; "
        "1.27 -> newest 0.003 by the same file), transformers (4.48 -> newest 0 by the same file)",
    ]


def test_a_pair_that_moved_too_far_ends_red(folder, capsys):
    assert upgrade.main(folder) == 1
    assert "| tiny | quantized | 0.05 FAIL |" in (folder / "upgrade.md").read_text()
    content = json.loads((folder / "upgrade.json").read_text())
    assert content[0]["moved"]["tiny quantized"] == 0.05
    for ort in ("4.48", "newest"):
        file = folder / upgrade.tox_environment(onnxruntime="1.20", transformers=ort) / "gate.json"
        file.write_bytes(msgspec.json.encode(found("1.23", ort)))
    assert upgrade.main(folder) == 0
    capsys.readouterr()


def test_a_pair_that_did_not_run_is_there_with_its_reason(folder, capsys):
    name = upgrade.tox_environment(onnxruntime="1.23", transformers="4.48")
    (folder / name / "gate.json").unlink()
    printed = "Looking\nERROR: No matching distribution found for onnxruntime==1.23.*\n"
    tox = {"testenvs": {name: {"setup": [{"retcode": 1, "output": printed}]}}}
    (folder / "tox.json").write_text(json.dumps(tox))
    assert upgrade.main(folder) == 1
    page = (folder / "upgrade.md").read_text()
    assert "onnxruntime 1.23, transformers 4.48: ERROR: No matching distribution found for onnxruntime==1.23.*" in page
    assert "| 0.05 FAIL | 0.05 FAIL | - | 0.003 |" in page
    (folder / "tox.json").unlink()
    assert upgrade.read(folder)[2].reason == upgrade.DID_NOT_RUN
    assert "1.23" in capsys.readouterr().out


def test_a_step_from_or_to_a_pair_that_did_not_run_is_not_compared(folder):
    shutil.rmtree(folder / upgrade.tox_environment(onnxruntime="newest", transformers="newest"))
    assert upgrade.attribution(upgrade.read(folder))
    for line in upgrade.attribution(upgrade.read(folder)):
        assert "1.27 -> newest not compared" in line
        assert "4.48 -> newest not compared" in line


def test_a_broken_report_is_a_reason(folder):
    (folder / upgrade.tox_environment(onnxruntime="1.20", transformers="4.48") / "gate.json").write_text("{")
    assert "is no report of exportgate" in upgrade.read(folder)[0].reason


def test_environments_of_tox_are_the_pairs():
    """tox.ini spells the versions once more, as names of environments."""
    from suites.meta.house import ROOT

    text = (ROOT / "tox.ini").read_text()
    axes = {"ort": upgrade.AXES["onnxruntime"], "transformers": upgrade.AXES["transformers"]}
    spelled = "upgrade-" + "-".join(f"{name}{{{','.join(versions)}}}" for name, versions in axes.items())
    assert f"[testenv:{spelled.replace('.', '')}]" in text
    for library, versions in upgrade.AXES.items():
        factor = {"onnxruntime": "ort"}.get(library, library)
        for version in versions[:-1]:
            assert f"    {factor}{version.replace('.', '')}: {library}=={version}.*\n" in text
