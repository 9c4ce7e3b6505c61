"""Code that a checkpoint or a graph brings along: none of it runs, and whoever needs it is told."""

import ctypes
import json
import shutil
import subprocess

import onnx
import pytest
from onnx import helper

from fixtures.export import seeded
from suites.meta.house import EMBEDDER, LOOSE, House

CODE = """from pathlib import Path

Path({trace!r}).touch()
from transformers import BertConfig, BertModel, BertTokenizerFast


class OwnConfig(BertConfig):
    model_type = "own"


class OwnModel(BertModel):
    config_class = OwnConfig


class OwnTokenizer(BertTokenizerFast):
    pass
"""


CONSTRUCTOR = """#include <stdio.h>
__attribute__((constructor)) static void run(void) {{ fclose(fopen("{trace}", "w")); }}
"""
"""A library that makes a file when it is loaded."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint whose folder has Python code; the file that this code makes when it runs."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    folder.mkdir()
    seeded.make([], folder, {"architecture": "bert", "seed": 0, "auto_class": "AutoModel", "labels": 1})
    trace = folder.parent / "ran"
    (folder / "own.py").write_text(CODE.format(trace=str(trace)))
    return folder, trace


def write_keys(file, **keys):
    """Set keys of a JSON file, and return what it had before."""
    before = file.read_text()
    file.write_text(json.dumps(json.loads(before) | keys))
    return before


def run(tmp_path, shared_store, folder):
    house = House(tmp_path, shared_store)
    house.baselines.mkdir()
    return house.run("--variant", "plain", "--checkpoint", str(folder), "--set", "pooling=mean")


@pytest.mark.parametrize("model_type", ["bert", "own"])
def test_code_of_a_checkpoint_does_not_run(tmp_path, shared_store, checkpoint, model_type):
    folder, trace = checkpoint
    classes = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    before = write_keys(folder / "config.json", model_type=model_type, auto_map=classes)
    outcome = run(tmp_path, shared_store, folder)
    (folder / "config.json").write_text(before)
    assert not trace.exists()
    if model_type == "bert":  # Transformers has a class of its own for it
        assert outcome.returncode == 0, outcome.text
    else:
        assert outcome.returncode == 4, outcome.text
        assert (
            "has no 'own', and no code of a checkpoint runs here (auto_map: {'AutoConfig': 'own.OwnConfig'"
            in outcome.stderr
        )


def test_code_of_a_tokenizer_does_not_run(tmp_path, shared_store, checkpoint):
    folder, trace = checkpoint
    keys = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}}
    before = write_keys(folder / "tokenizer_config.json", **keys)
    outcome = run(tmp_path, shared_store, folder)
    (folder / "tokenizer_config.json").write_text(before)
    assert not trace.exists()
    assert outcome.returncode == 4, outcome.text
    assert "has no 'OwnTokenizer', and no code of a checkpoint runs here" in outcome.stderr


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no compiler to make the library with")
def test_library_beside_a_graph_is_not_loaded(tmp_path, shared_store):
    """A graph with an operator of its own fails by that operator's name, and the library that has it stays closed."""
    house = House(tmp_path, shared_store)
    house.add("tiny", EMBEDDER + LOOSE)
    house.run("--variant=plain")
    artifact = house.artifact("plain")
    folder = tmp_path / "ready-made"
    shutil.copytree(artifact, folder)
    model = onnx.load(folder / "model.onnx")
    model.opset_import.append(helper.make_opsetid("own.operators", 1))
    model.graph.node[-1].domain, model.graph.node[-1].op_type = "own.operators", "Trace"
    onnx.save(model, folder / "model.onnx")
    trace, source = tmp_path / "ran", tmp_path / "trace.c"
    source.write_text(CONSTRUCTOR.format(trace=trace))
    library = folder / "libcustom_op_library.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    run = house.run(f"--artifact=tiny:plain={folder}")
    assert run.returncode == 1, run.text
    assert "own.operators" in run.stdout
    assert not trace.exists()
    ctypes.CDLL(str(library))
    assert trace.exists(), "whoever loads it, runs it"
