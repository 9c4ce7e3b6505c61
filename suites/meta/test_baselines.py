"""Stored baselines: what is read back and what is refused, and that no failure loses the old one."""

import errno
import json
import os

import msgspec
import numpy as np
import pytest

from fixtures.arrays import Array
from fixtures.baselines import files as baselines_files
from fixtures.baselines import tolerances
from fixtures.baselines.files import ApprovalError, BaselineError, Provenance, ReferenceFile, StoredVariant, TierFile
from fixtures.baselines.tolerances import TOLERANCES, tolerance
from fixtures.export.variants import VARIANT
from fixtures.latency.records import Cell

PROVENANCE = Provenance("sha256:" + "0" * 64, {"onnxruntime": "1.32.0"}, "avx2", "a processor", "2026-01-31")
CELL = Cell(1, 16, 2.5, 3.0, 400.0, 1.5, (1.4, 1.6), 2.25, 30, 2)
SCORES = {"plain": np.array([[1, 2], [3, 4]], np.float32), "O2": np.array([[1, 2], [3, 5]], np.float32)}


def save(folder, scores=SCORES):
    folder.mkdir(exist_ok=True)
    variants = {name: StoredVariant(PROVENANCE, "sha256:1", 9, {"min_cosine": 1.0}, (CELL,)) for name in scores}
    reference = ReferenceFile(probes="p", arrays="", provenance=PROVENANCE)
    tier = TierFile(probes="p", arrays="", tier="avx2", variants=variants)
    files: dict[str, tuple[ReferenceFile | TierFile, dict[str, Array]]] = {
        "reference.json": (reference, {"scores": scores["plain"]}),
        "avx2.json": (tier, scores),
    }
    baselines_files.write_baseline(folder, files)


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_round_trip(tmp_path):
    save(tmp_path)
    baseline = baselines_files.read_baseline(tmp_path, "avx2")
    assert baseline.reference_file is not None
    assert baseline.reference_file.provenance == PROVENANCE
    np.testing.assert_array_equal(baseline.reference, SCORES["plain"])
    assert baseline.tier_file is not None
    assert baseline.tier_file.variants["O2"].latency == (CELL,)
    assert baseline.scores.keys() == SCORES.keys()
    np.testing.assert_array_equal(baseline.scores["O2"], SCORES["O2"])


def test_empty_folder_has_no_baseline(tmp_path):
    assert baselines_files.read_baseline(tmp_path, "avx2") == baselines_files.NO_BASELINE


def test_other_tiers_are_left_alone(tmp_path):
    save(tmp_path)
    (tmp_path / "avx2.json").rename(tmp_path / "avx512.json")
    assert baselines_files.read_baseline(tmp_path, "avx2").tier_file is None


def test_json_is_for_people(tmp_path):
    save(tmp_path)
    text = (tmp_path / "avx2.json").read_text()
    assert text.count("\n") > 20
    assert text.endswith("}\n")


def test_new_scores_replace_the_old_file(tmp_path):
    save(tmp_path)
    save(tmp_path, {**SCORES, "plain": SCORES["plain"] + 1})
    assert len(list(tmp_path.glob("avx2.*.safetensors"))) == 1
    np.testing.assert_array_equal(baselines_files.read_baseline(tmp_path, "avx2").scores["plain"], SCORES["plain"] + 1)


@pytest.mark.parametrize("name", ["reference.json", "avx2.json"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "cannot be read"),
        (lambda _: "", "cannot be read"),
        (lambda text: text.replace('"schema": 1', '"schema": 7'), "has schema 7, and this version reads 1"),
        (lambda text: text.replace('"probes"', '"probe"'), "cannot be read .*probe"),
        (lambda text: text.replace(".safetensors", ".lost"), "lost: cannot be read"),
    ],
)
def test_damaged_json_is_named_with_the_next_step(tmp_path, name, damage, message):
    save(tmp_path)
    file = tmp_path / name
    file.write_text(damage(file.read_text()))
    with pytest.raises(BaselineError, match=rf"(?s){message}.*restore it from version control.*--approve"):
        baselines_files.read_baseline(tmp_path, "avx2")


def test_tier_without_reference_is_refused(tmp_path):
    save(tmp_path)
    (tmp_path / "reference.json").unlink()
    with pytest.raises(BaselineError, match=r"avx2.json: exists, and reference.json does not; .* delete avx2.json"):
        baselines_files.read_baseline(tmp_path, "avx2")


def test_file_of_another_tier_is_refused(tmp_path):
    save(tmp_path)
    (tmp_path / "avx2.json").rename(tmp_path / "avx512.json")
    with pytest.raises(BaselineError, match=r"avx512.json: is of tier avx2"):
        baselines_files.read_baseline(tmp_path, "avx512")


def test_truncated_arrays_are_refused(tmp_path):
    save(tmp_path)
    file = next(tmp_path.glob("avx2.*.safetensors"))
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(BaselineError, match=r"avx2.*safetensors: cannot be read"):
        baselines_files.read_baseline(tmp_path, "avx2")


def test_changed_arrays_are_refused(tmp_path):
    save(tmp_path)
    file = next(tmp_path.glob("avx2.*.safetensors"))
    blob = bytearray(file.read_bytes())
    blob[-2] ^= 1
    file.write_bytes(blob)
    with pytest.raises(BaselineError, match="is not the file that was approved"):
        baselines_files.read_baseline(tmp_path, "avx2")


def test_entries_without_scores_are_refused(tmp_path):
    save(tmp_path)
    stored = json.loads((tmp_path / "avx2.json").read_text())
    stored["variants"]["O3"] = stored["variants"]["O2"]
    (tmp_path / "avx2.json").write_text(json.dumps(stored))
    with pytest.raises(BaselineError, match="has either an entry or scores, and not both, of O3"):
        baselines_files.read_baseline(tmp_path, "avx2")


def test_latencies_of_one_round_are_not_stored(tmp_path):
    """Their interval is NaN, for which gate.json would have null."""
    variant = StoredVariant(PROVENANCE, "sha256:1", 9, {}, (msgspec.structs.replace(CELL, interval=(np.nan, np.nan)),))
    tier = TierFile(probes="p", arrays="", tier="a", variants={"plain": variant})
    with pytest.raises(ApprovalError, match="the latencies of plain have too few rounds"):
        baselines_files.write_baseline(tmp_path, {"a.json": (tier, {})})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_not_stored(tmp_path, value):
    save(tmp_path)
    before = content(tmp_path)
    with pytest.raises(ApprovalError, match="the scores of O2 are not finite"):
        save(tmp_path, {**SCORES, "O2": np.array([value, 1], np.float32)})
    assert content(tmp_path) == before


def test_scores_that_are_not_finite_are_not_read(tmp_path, monkeypatch):
    """The file is whole and its name fits, so that only the values tell."""
    with monkeypatch.context() as patch:
        patch.setattr(np, "isfinite", np.ones_like)
        save(tmp_path, {"plain": np.array([np.nan], np.float32)})
    with pytest.raises(BaselineError, match="holds values that are not finite"):
        baselines_files.read_baseline(tmp_path, "avx2")


@pytest.mark.parametrize("writes", range(4))
def test_full_disk_leaves_the_old_baseline(tmp_path, monkeypatch, writes):
    """The old baseline stays whole, whichever of the four files does not fit on the disk."""
    save(tmp_path)
    before = content(tmp_path)
    remaining, real_fsync = [writes], os.fsync

    def fsync(number):
        if not remaining[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        remaining[0] -= 1
        real_fsync(number)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, {name: scores + 1 for name, scores in SCORES.items()})
    assert content(tmp_path) == before


def test_tolerance_is_wider_across_minor_versions_only():
    current = {"onnxruntime": "1.32.1", "torch": "2.13.0", "transformers": "4.57.6"}
    for precision, decisive in (("int8", "onnxruntime"), ("reference", "torch"), ("reference", "transformers")):
        tight = tolerance(precision, current, current)
        assert tolerance(precision, {**current, decisive: current[decisive] + ".1"}, current) is tight
        wide = tolerance(precision, {**current, decisive: "0.1"}, current)
        assert wide.limits["max_logit_error"] > tight.limits["max_logit_error"]
        assert tolerance(precision, {}, current) is wide
    assert tolerance("int8", {**current, "torch": "1.0"}, current) is tolerance("int8", current, current)


def test_changes_name_everything_that_differs():
    current = Provenance("sha256:1", {"onnxruntime": "1.32.1", "torch": "2"}, "avx2", "another", "2026-02-01")
    assert tolerances.changes(PROVENANCE, current) == [
        f"checkpoint {PROVENANCE.digest} -> sha256:1",
        "processor a processor -> another",
        "onnxruntime 1.32.0 -> 1.32.1",
        "torch none -> 2",
    ]
    assert tolerances.changes(current, current) == []


def test_every_precision_has_tolerances_with_reasons():
    precisions = {"reference"} | {variant.precision.name for variant in VARIANT.values()}
    assert {(precision, versions) for precision in precisions for versions in (True, False)} == set(TOLERANCES)
    for row in TOLERANCES.values():
        assert row.limits.keys() == {"max_abs_error", "max_logit_error"}
        assert len(row.reason) > 20


def test_drift_tolerance_is_tighter_than_the_ceiling():
    """Otherwise a drift check could find nothing that the ceiling does not."""
    for variant in VARIANT.values():
        for metric in ("max_abs_error", "max_logit_error"):
            tight = TOLERANCES[variant.precision.name, True].limits[metric]
            assert tight * 2 < variant.precision.ceiling[metric]
