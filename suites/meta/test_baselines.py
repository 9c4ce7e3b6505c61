"""Stored baselines: what is read back and what is refused, and that no failure loses the old one."""

import contextlib
import errno
import hashlib
import json
import os
import re

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save_file

from fixtures.arrays import Array
from fixtures.baselines import files as baselines_files
from fixtures.baselines import matching, tolerances
from fixtures.baselines.errors import ApprovalError, BaselineError
from fixtures.baselines.files import (
    AnyFile,
    ConformanceFile,
    Provenance,
    ReferenceFile,
    RetrievalFile,
    StoredVariant,
    TierFile,
)
from fixtures.baselines.tolerances import TOLERANCES, tolerance
from fixtures.export.variants import PRECISIONS, VARIANT
from fixtures.gate.command_line import ROOT
from fixtures.latency.records import Cell, Speed
from fixtures.models.files import sha256_of

PROVENANCE = Provenance("sha256:" + "0" * 64, {"onnxruntime": "1.32.0"}, "avx2", "a processor", "2026-01-31")
CELL = Cell(1, 16, 2.5, 3.0, 400.0, 1.5, (1.4, 1.6), 2.25, 30, 2)
SPEED = Speed("plain", 1, 16, 1.5, (1.4, 1.6), 30, 2, "a processor")
SCORES = {"plain": np.array([[1, 2], [3, 4]], np.float32), "O2": np.array([[1, 2], [3, 5]], np.float32)}

TOKENS: dict[str, Array] = {"input_ids": np.array([1, 2, 3], np.int32), "offsets": np.array([0, 1, 3], np.int64)}
PAIR = SCORES["plain"]
GRADES: dict[str, Array] = {"ndcg_at_10": np.array([0.5, 1.0]), "mrr_at_10": np.array([0.0, 1.0])}


def save(folder, scores=SCORES):
    folder.mkdir(exist_ok=True)
    baselines_files.write_baseline(folder, stored_files(scores))


def stored_files(scores):
    """Return the files of a baseline with these scores, as an approval hands them over."""
    variants = {
        name: StoredVariant(PROVENANCE, "sha256:1", 9, {"min_cosine": 1.0}, (CELL,), speeds=(SPEED,)) for name in scores
    }
    reference = ReferenceFile(probes="p", arrays="", provenance=PROVENANCE)
    tier = TierFile(probes="p", arrays="", tier="avx2", variants=variants)
    pins = ConformanceFile(probes="p", arrays="", provenance=PROVENANCE, tokenizer={}, operators={"plain": {}})
    retrieval = RetrievalFile(probes="q", arrays="", provenance=PROVENANCE)
    files: dict[str, tuple[AnyFile, dict[str, Array]]] = {
        "reference.json": (reference, {"scores": scores["plain"]}),
        "avx2.json": (tier, scores),
        "conformance.json": (pins, TOKENS),
        "retrieval.json": (retrieval, GRADES),
    }
    return files


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
    assert baseline.retrieval_file is not None
    assert baseline.grades["ndcg_at_10"].tolist() == [0.5, 1]


def test_empty_folder_has_no_baseline(tmp_path):
    assert baselines_files.read_baseline(tmp_path, "avx2") == baselines_files.NO_BASELINE


def test_other_tiers_are_left_alone(tmp_path):
    save(tmp_path)
    for file in tmp_path.glob("avx2.*"):
        file.rename(tmp_path / file.name.replace("avx2", "avx512"))
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


@pytest.mark.parametrize("name", ["reference.json", "avx2.json", "conformance.json", "retrieval.json"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "cannot be read"),
        (lambda _: "", "cannot be read"),
        (lambda text: text.replace('"schema": 1', '"schema": 0'), "schema: write a whole number, 1 or more, and not 0"),
        (lambda text: text.replace('"probes"', '"probe"'), "cannot be read .*probe"),
        (lambda text: text.replace(".safetensors", ".lost"), r"arrays: '\w+\.\w+\.lost' is none of its own"),
        (lambda text: text.replace('"arrays": "', '"arrays": "../'), "arrays: .* is none of its own"),
        (lambda text: re.sub(r'"arrays": "[^"]*"', '"arrays": ""', text), "arrays: '' is none of its own"),
        (lambda text: "[" * 10_000 + text, "cannot be read"),
        (lambda text: "\x00" + text, "cannot be read"),
    ],
)
def test_damaged_json_is_named_with_the_next_step(tmp_path, name, damage, message):
    save(tmp_path)
    file = tmp_path / name
    file.write_text(damage(file.read_text()))
    with pytest.raises(BaselineError, match=rf"(?s){message}.*restore it from version control.*--approve"):
        baselines_files.read_baseline(tmp_path, "avx2")


@pytest.mark.parametrize("name", ["reference.json", "avx2.json", "conformance.json"])
def test_newer_baseline_says_so(tmp_path, name):
    """Whatever else it holds; it is neither damaged, nor to be approved again."""
    save(tmp_path)
    (tmp_path / name).write_text('{"schema": 7, "probes": ["in a form that is yet to come"]}')
    told = rf"{name} was written by a newer exportgate \(schema 7, this one reads up to 1\): upgrade exportgate$"
    with pytest.raises(BaselineError, match=told):
        baselines_files.read_baseline(tmp_path, "avx2")


def test_tier_without_reference_is_refused(tmp_path):
    save(tmp_path)
    for file in tmp_path.glob("reference.*"):
        file.unlink()
    with pytest.raises(BaselineError, match=r"avx2.json: exists, and reference.json does not; .* delete avx2.json"):
        baselines_files.read_baseline(tmp_path, "avx2")


def test_file_of_another_tier_is_refused(tmp_path):
    save(tmp_path)
    text = (tmp_path / "avx2.json").read_text()
    (tmp_path / "avx512.json").write_text(text.replace('"avx2.', '"avx512.'))
    for file in tmp_path.glob("avx2.*.safetensors"):
        file.rename(tmp_path / file.name.replace("avx2", "avx512"))
    with pytest.raises(BaselineError, match=r"avx512.json: tier: is of tier avx2"):
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


def rename_arrays(folder, name, arrays):
    """Replace the arrays of a JSON file by others, and name them as an approval would."""
    file = folder / name
    content = json.loads(file.read_text())
    (folder / content["arrays"]).unlink()
    save_file(arrays, folder / "new")
    content["arrays"] = f"{file.stem}.{sha256_of(folder / 'new')[:12]}.safetensors"
    (folder / "new").rename(folder / content["arrays"])
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        ("reference.json", {}, "reference.json: arrays: their file holds nothing, and should hold scores"),
        ("reference.json", {"score": PAIR}, "arrays: their file holds score, and should hold scores"),
        ("reference.json", {"scores": PAIR, "more": PAIR}, "holds more, scores, and should hold scores"),
        ("reference.json", {"scores": PAIR.astype(np.float64)}, "scores is float64 of 2 x 2, and scores are float32"),
        ("reference.json", {"scores": PAIR.astype(np.int32)}, "scores is int32 of 2 x 2"),
        ("reference.json", {"scores": PAIR[None]}, "scores is float32 of 1 x 2 x 2"),
        ("reference.json", {"scores": PAIR[:0]}, "scores is float32 of 0 x 2"),
        ("reference.json", {"scores": np.array(1, np.float32)}, "scores is float32 of no axis"),
        ("avx2.json", {}, "avx2.json: variants: has either an entry or scores, and not both, of O2, plain"),
        ("avx2.json", {"plain": PAIR, "O2": PAIR[:1]}, "arrays: some scores have 1 and some 2 rows"),
        ("avx2.json", {"plain": PAIR, "O2": PAIR.astype(np.float16)}, "O2 is float16 of 2 x 2"),
        ("conformance.json", {}, "their file holds nothing, and should hold input_ids, offsets"),
        ("conformance.json", {"offsets": TOKENS["offsets"]}, "should hold input_ids, offsets"),
        ("conformance.json", TOKENS | {"input_ids": PAIR}, "input_ids is float32 of 2 axes, and should be int32 of 1"),
        ("conformance.json", TOKENS | {"offsets": np.array([0, 4])}, "offsets do not divide the 3 token ids"),
        ("conformance.json", TOKENS | {"offsets": np.array([0, 2, 1, 3])}, "offsets do not divide the 3 token ids"),
        ("conformance.json", TOKENS | {"offsets": np.array([0])}, "offsets do not divide the 3 token ids"),
        ("retrieval.json", {}, "retrieval.json: arrays: their file holds no grades, or those of some queries alone"),
        ("retrieval.json", GRADES | {"mrr_at_10": np.array([0.5])}, "holds no grades, or those of some queries alone"),
        ("retrieval.json", GRADES | {"mrr_at_10": np.array([0.5, 1.1])}, "mrr_at_10 is no grade from 0 to 1 for each"),
        ("retrieval.json", {"ndcg_at_10": PAIR}, "ndcg_at_10 is no grade from 0 to 1 for each query, in float64"),
    ],
)
def test_arrays_that_are_not_those_of_their_file_are_refused(tmp_path, name, arrays, message):
    """Their digest is in their name, so that only their names, types and shapes tell."""
    save(tmp_path)
    rename_arrays(tmp_path, name, arrays)
    with pytest.raises(BaselineError, match=rf"{re.escape(message)}.*restore it from version control"):
        baselines_files.read_baseline(tmp_path, "avx2")


@pytest.mark.parametrize("name", ["reference.json", "avx2.json", "conformance.json", "retrieval.json"])
def test_arrays_of_another_file_are_refused(tmp_path, name):
    save(tmp_path)
    for source in ("reference.json", "avx2.json", "conformance.json", "retrieval.json"):
        if source != name:
            content = json.loads((tmp_path / name).read_text())
            content["arrays"] = json.loads((tmp_path / source).read_text())["arrays"]
            (tmp_path / name).write_text(json.dumps(content))
            with pytest.raises(BaselineError, match=rf"{name}: arrays: '{source[:4]}.* is none of its own"):
                baselines_files.read_baseline(tmp_path, "avx2")


@pytest.mark.parametrize("name", ["reference.json", "avx2.json", "conformance.json", "retrieval.json"])
def test_arrays_that_no_file_names_are_refused(tmp_path, name):
    """The JSON file that is lost, or that names older arrays, must not look like nothing approved."""
    save(tmp_path)
    stem = name.removesuffix(".json")
    unnamed = tmp_path / f"{stem}.{'0' * 12}.safetensors"
    unnamed.write_bytes(b"")
    with pytest.raises(BaselineError, match=rf"{unnamed.name}: {name} names {stem}\..*, and nothing names this file"):
        baselines_files.read_baseline(tmp_path, "avx2")
    unnamed.unlink()
    (tmp_path / name).unlink()
    with pytest.raises(BaselineError, match=rf"safetensors: holds approved arrays, and {name}, which names them, is m"):
        baselines_files.read_baseline(tmp_path, "avx2")


def test_link_to_a_file_that_is_lost_is_refused(tmp_path):
    (tmp_path / "conformance.json").symlink_to("elsewhere.json")
    with pytest.raises(BaselineError, match=r"conformance\.json: is a link to a file that is missing"):
        baselines_files.read_baseline(tmp_path, "avx2")


def test_arrays_of_a_type_that_numpy_has_not_are_refused(tmp_path):
    save(tmp_path)
    header = json.dumps({"scores": {"dtype": "F8_E5M2", "shape": [1], "data_offsets": [0, 1]}}).encode()
    blob = len(header).to_bytes(8, "little") + header + b"\0"
    content = json.loads((tmp_path / "reference.json").read_text())
    (tmp_path / content["arrays"]).unlink()
    content["arrays"] = f"reference.{hashlib.sha256(blob).hexdigest()[:12]}.safetensors"
    (tmp_path / content["arrays"]).write_bytes(blob)
    (tmp_path / "reference.json").write_text(json.dumps(content))
    with pytest.raises(
        BaselineError, match=r"reference\.\w+\.safetensors: (cannot be read|.* is float8)|scores is float8"
    ):
        baselines_files.read_baseline(tmp_path, "avx2")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("avx2.json", {"variants": {}}, "variants: is empty"),
        ("conformance.json", {"operators": {}}, "operators: is empty"),
    ],
)
def test_empty_entries_are_refused(tmp_path, name, change, message):
    save(tmp_path)
    content = json.loads((tmp_path / name).read_text()) | change
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(BaselineError, match=rf"{name}: {message}"):
        baselines_files.read_baseline(tmp_path, "avx2")


@pytest.mark.parametrize("key", ["latency", "speeds"])
@pytest.mark.parametrize("interval", [[1.6, 1.4], [0.0, 1.6], [-1.0, 1.6]])
def test_intervals_that_are_none_are_refused(tmp_path, key, interval):
    """A logarithm is taken of their ends."""
    save(tmp_path)
    content = json.loads((tmp_path / "avx2.json").read_text())
    content["variants"]["O2"][key][0]["interval"] = interval
    (tmp_path / "avx2.json").write_text(json.dumps(content))
    with pytest.raises(BaselineError, match=rf"avx2.json: .*variants\.O2\.{key}\[0\]\.interval"):
        baselines_files.read_baseline(tmp_path, "avx2")


@pytest.mark.parametrize(
    ("per_token", "counts", "message"),
    [
        (False, {"p": 2}, ""),
        (False, {"others": 9}, ""),
        (False, {"p": 3}, r"reference\.json: arrays: scores is of 2 probes, and there are 3"),
        (True, {"p": 3}, r"conformance\.json: arrays: offsets is of 2 probes, and there are 3"),
    ],
)
def test_rows_are_those_of_the_probes(tmp_path, per_token, counts, message):
    save(tmp_path)
    baseline = baselines_files.read_baseline(tmp_path, "avx2")
    expected = pytest.raises(BaselineError, match=message) if message else contextlib.nullcontext()
    with expected:
        matching.check_probes(baseline, tmp_path, counts, per_token=per_token)


@pytest.mark.parametrize(
    ("digest", "labels", "message"),
    [
        (PROVENANCE.digest, 1, ""),
        ("sha256:another", 3, ""),
        (PROVENANCE.digest, 3, r"conformance\.json: labels: is missing or empty, and the checkpoint has 3"),
    ],
)
def test_labels_of_the_approved_checkpoint_are_not_lost(tmp_path, digest, labels, message):
    save(tmp_path)
    baseline = baselines_files.read_baseline(tmp_path, "avx2")
    expected = pytest.raises(BaselineError, match=message) if message else contextlib.nullcontext()
    with expected:
        matching.check_labels(baseline, tmp_path, digest, labels)


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    variant = StoredVariant(PROVENANCE, "sha256:1", 9, {"min_cosine": float("nan")})
    tier = TierFile(probes="p", arrays="", tier="a", variants={"plain": variant})
    with pytest.raises(ApprovalError, match=r"a.json: variants\.plain\.closeness\.min_cosine is not finite"):
        baselines_files.write_baseline(tmp_path, {"a.json": (tier, {"plain": PAIR})})
    with pytest.raises(ApprovalError, match="should hold scores"):
        baselines_files.write_baseline(
            tmp_path, {"reference.json": (ReferenceFile(probes="p", arrays="", provenance=PROVENANCE), {"plain": PAIR})}
        )
    assert not list(tmp_path.glob("*.*"))


def test_stored_baselines_can_be_read():
    """Those of this repository, of every tier."""
    stored = [file for file in (ROOT / "baselines").rglob("*.json") if "arrays" in json.loads(file.read_text())]
    assert len(stored) > 30
    for file in stored:
        tier = "none" if file.name in ("reference.json", "conformance.json") else file.stem
        baseline = baselines_files.read_baseline(file.parent, tier)
        assert baseline.reference_file or baseline.conformance_file
        assert baseline.tier_file or tier == "none"


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


@pytest.mark.parametrize("writes", range(7))
def test_full_disk_leaves_the_old_baseline(tmp_path, monkeypatch, writes):
    """The old baseline stays whole, whichever of the six files, or the journal, does not fit on the disk."""
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
    assert [str(change) for change in tolerances.changes(PROVENANCE, current)] == [
        f"checkpoint {PROVENANCE.digest} -> sha256:1",
        "processor a processor -> another",
        "onnxruntime 1.32.0 -> 1.32.1",
        "torch none -> 2",
    ]
    assert tolerances.changes(current, current) == []


def test_every_precision_has_tolerances_with_reasons():
    precisions = {"reference", *PRECISIONS}
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
