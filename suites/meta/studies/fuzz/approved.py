"""Targets of what was approved: baselines, their arrays, approvals that were killed, and artifacts of the store."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from hypothesis import strategies as st
from safetensors.numpy import load

from fixtures.baselines import files as baselines_files
from fixtures.baselines.errors import BaselineError
from fixtures.baselines.files import Baseline, read_baseline
from fixtures.baselines.tolerances import changes, tolerance
from fixtures.baselines.transaction import APPROVALS, JOURNAL
from fixtures.build.manifest import MANIFEST, Damaged
from fixtures.build.step import key_of
from fixtures.build.store import Store, StoreError
from suites.meta.house import ROOT
from suites.meta.studies.fuzz.campaign import Attempt
from suites.meta.studies.fuzz.files import Changes, NoFile, ValidFiles, change_of, files_in, one_of_files
from suites.meta.studies.fuzz.mutations import byte_files, json_files, safetensors_files

MODEL, TIER = ROOT / "baselines" / "minilm-l6", "avx2"
DOCUMENTS = ("reference.json", f"{TIER}.json", "conformance.json")


def prepare_baseline(folder: Path, _: Path) -> Attempt:
    """JSON files or arrays of a baseline are others: no part of it may count as not approved."""
    contents = {
        file.name: file.read_bytes() for document in DOCUMENTS for file in MODEL.glob(f"{document.partition('.')[0]}.*")
    }
    valid = ValidFiles(folder, contents)
    approved = read_baseline(folder, TIER)

    def read(example: Changes) -> None:
        valid.change(example)
        check_complete(read_baseline(folder, TIER), approved)

    strategies = {
        name: json_files(content) if name.endswith(".json") else safetensors_files(content)
        for name, content in contents.items()
    }
    return Attempt(one_of_files(strategies), read, (BaselineError,), (str(folder),))


def check_complete(baseline: Baseline, approved: Baseline) -> None:
    """Check that all that was approved is there, and use it as a run does."""
    assert baseline.reference_file, "the reference counts as not approved"
    assert baseline.tier_file, "the tier counts as not approved"
    assert baseline.conformance_file, "conformance counts as not approved"
    assert approved.reference_file
    np.testing.assert_array_equal(baseline.reference, approved.reference)
    assert baseline.scores.keys() == approved.scores.keys(), "variants count as not approved"
    for name, scores in approved.scores.items():
        np.testing.assert_array_equal(baseline.scores[name], scores)
    for name, tokens in approved.tokens.items():
        np.testing.assert_array_equal(baseline.tokens[name], tokens)
    current = approved.reference_file.provenance
    of_variants = [variant.provenance for variant in baseline.tier_file.variants.values()]
    for provenance in (baseline.reference_file.provenance, baseline.conformance_file.provenance, *of_variants):
        changes(provenance, current)
        tolerance("fp32", provenance.versions, current.versions)


def prepare_arrays(folder: Path, _: Path) -> Attempt:
    """Arrays are others, and the JSON file names them by their new digest, as a careless merge could leave them."""
    contents = {
        file.name: file.read_bytes() for name in DOCUMENTS for file in MODEL.glob(f"{name.partition('.')[0]}.*")
    }
    arrays = {json.loads(contents[name])["arrays"]: name for name in DOCUMENTS}
    valid = ValidFiles(folder, contents)

    def read(example: Mapping[str, bytes]) -> None:
        ((name, content),) = example.items()
        document = json.loads(contents[arrays[name]])
        digest = hashlib.sha256(content).hexdigest()[: baselines_files.DIGEST_LENGTH]
        renamed = f"{arrays[name].partition('.')[0]}.{digest}.safetensors"
        named = json.dumps(document | {"arrays": renamed}).encode()
        valid.change({name: NoFile.MISSING, renamed: content, arrays[name]: named})
        baseline = read_baseline(folder, TIER)
        assert baseline.reference_file
        assert baseline.tier_file
        assert baseline.conformance_file
        for values in (baseline.reference, *baseline.scores.values()):
            assert values is not None
            assert np.isfinite(values).all()
            assert values.dtype == np.float32

    strategies = {name: safetensors_files(content) for name, content in contents.items() if name in arrays}
    examples = [change_of(name, strategy) for name, strategy in strategies.items()]
    return Attempt(st.one_of(examples), read, (BaselineError,), (str(folder),))


def prepare_artifact(folder: Path, _: Path) -> Attempt:
    """Manifest or files of an artifact in the store are others: it is found as it was built, or not at all."""
    store, document = Store(folder / "store"), {"run": "a step", "parameters": {"a": 1}, "inputs": ["sha256:0"]}
    key = key_of(document)

    def make(work: Path) -> None:
        (work / "output" / "model.onnx").write_bytes(b"a graph" * 99)
        (work / "output" / "config.json").write_text("{}")

    built = store.build(key, document, make)
    valid = ValidFiles(built.folder, files_in(built.folder), kept=False)

    def read(example: Changes) -> None:
        valid.change(example)
        with warnings.catch_warnings(action="ignore"):
            artifact = store.find(key)
        if artifact is None:
            raise Damaged(f"{MANIFEST} or a file")
        assert artifact == built, "another artifact is found"
        changed = example.keys() - {MANIFEST}
        assert all((artifact.folder / name).read_bytes() == valid.files[name] for name in changed), "a file is another"

    strategies = {
        name: json_files(content) if name == MANIFEST else byte_files(content) for name, content in valid.files.items()
    }
    return Attempt(one_of_files(strategies), read, (Damaged, StoreError), (MANIFEST,))


# --------------------------------------------------------------------------------------------- approvals


def prepare_approval(folder: Path, _: Path) -> Attempt:
    """An approval was killed, and its journal, what it wrote or what it replaces is another: all of it, or none."""
    before, after = _approvals(folder / "made")
    names = sorted(before.keys() | after.keys())
    journal = {
        "files": {
            name: {"before": _digest(before[name]) if name in before else None, "after": _digest(after[name])}
            for name in after
        },
        "removed": sorted(before.keys() - after.keys()),
    }
    replaced = [name for name in after if name.endswith(".safetensors")] + ["reference.json"]
    stage = f"baselines/{APPROVALS}/m"
    contents = {f"baselines/m/{name}": content for name, content in before.items()}
    contents |= {f"baselines/m/{name}": after[name] for name in replaced}
    contents |= {f"{stage}/{name}": content for name, content in after.items() if name not in replaced}
    contents |= {f"{stage}/{JOURNAL}": json.dumps(journal).encode()}
    others = {"baselines/m/model.toml": b"# kept\n", "baselines/other/model.toml": b"# kept\n", "kept.txt": b"kept\n"}
    valid = ValidFiles(folder / "run", contents | others, kept=False)
    model = valid.folder / "baselines" / "m"

    def read(example: Changes) -> None:
        valid.change(example)
        try:
            with warnings.catch_warnings(action="ignore"):
                baseline = read_baseline(model, TIER)
        finally:
            for name, content in others.items():
                file = valid.folder / name
                assert file.is_file(), f"{name} is gone"
                assert file.read_bytes() == content, f"{name} is another"
        assert baseline.reference is not None, "the reference counts as not approved"
        assert baseline.scores, "the tier counts as not approved"
        present = {name for name in names if (model / name).is_file()}
        for state in (before, after):
            if present == state.keys() and all((model / name).read_bytes() == state[name] for name in state):
                return
        changed = {Path(name).name for name in example}
        assert changed & set(DOCUMENTS), f"half an approval is read: {sorted(present)}"

    strategies = {name: byte_files(content) for name, content in contents.items() if name.endswith(".json")} | {
        f"{stage}/{JOURNAL}": st.one_of(json_files(contents[f"{stage}/{JOURNAL}"]), _hostile_journals(journal))
    }
    return Attempt(one_of_files(strategies), read, (BaselineError,), (str(valid.folder),))


def _hostile_journals(journal: Mapping[str, Any]) -> st.SearchStrategy[bytes]:
    """Return a strategy of journals that name files elsewhere, or files that no approval writes or removes."""
    names = st.sampled_from(
        ("../other/model.toml", "../../kept.txt", "model.toml", "/etc/nowhere", "..", ".", "", "a\x00b", "x" * 5000)
    )
    added = names.map(lambda name: {**journal, "removed": [name]})
    replaced = names.map(
        lambda name: {**journal, "files": {**journal["files"], name: {"before": None, "after": _digest(b"# kept\n")}}}
    )
    return st.one_of(added, replaced).map(lambda document: json.dumps(document).encode())


def _approvals(folder: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return name -> content of two approvals of one model, of few probes."""
    states = []
    for change in (0, 1):
        files = {}
        for document in DOCUMENTS:
            kind = {
                "reference.json": baselines_files.ReferenceFile,
                "conformance.json": baselines_files.ConformanceFile,
            }
            stored = msgspec.json.decode(
                (MODEL / document).read_bytes(), type=kind.get(document, baselines_files.TierFile)
            )
            arrays = load((MODEL / stored.arrays).read_bytes())
            if document != "conformance.json":
                arrays = {name: values[:2] + np.float32(change) for name, values in arrays.items()}
            files[document] = (stored, arrays)
        (folder / str(change) / "m").mkdir(parents=True)
        baselines_files.write_baseline(folder / str(change) / "m", files)
        states.append({file.name: file.read_bytes() for file in (folder / str(change) / "m").iterdir()})
    return states[0], states[1]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
