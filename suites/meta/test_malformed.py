"""What people and strangers write into files: whatever it is, it is read or refused, with the file's name."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fixtures.export import seeded
from fixtures.models.content import CONTROLS
from fixtures.models.settings import Settings
from fixtures.plugin.stash import usage_errors
from suites.meta.house import EMBEDDER

KEYS = Settings.__struct_fields__
VALUES = {
    "a NUL": '"a\\u0000b"',
    "lists in lists": "[" * 3000 + "]" * 3000,
    "a number of 5,000 digits": "1" + "0" * 5000,
    "a number of 31 digits": str(10**30),
    "below zero": "-1",
    "no number": "nan",
    "an infinite number": "inf",
    "a path of nobody's": '"path:~nosuchuser/model"',
    "nobody's home": '"~nosuchuser"',
    "a name that is too long": f'"path:/{"x" * 5000}"',
    "a path with a NUL": '"path:/a\\u0000b"',
    "a date": "1979-05-27",
    "a table": "{a = 1}",
    "a list": "[1]",
    "nothing": '""',
    "a text that turns its direction": '"\\u202ex"',
    "a package above": '"package:../model"',
    "a folder above a package": '"package:os/../../etc"',
    "half a surrogate pair": '"path:\\ud800"',
    "a seed of 50 digits": f'"seeded:bert@{"9" * 50}"',
}
FILES = {
    "a NUL": b"task = \x00",
    "UTF-16": "task = 'embedding'".encode("utf-16"),
    "bytes": bytes(range(256)) * 10,
    "nothing": b"",
    "lists in lists": b"labels = " + b"[" * 100_000,
    "a key of 5,000 parts": b".".join([b"a"] * 5000) + b" = 1",
    "a byte order mark": b"\xef\xbb\xbf" + EMBEDDER.encode(),
}


def refusal(house, **options):
    """Start a session; return the usage error that it ends in, or the empty string if it starts."""
    try:
        with usage_errors():
            house.start(variant=["plain"], **options)
    except pytest.UsageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_odd_value_is_read_or_refused_whatever_its_key(house, value):
    refusals = 0
    for key in KEYS:
        others = [line for line in EMBEDDER.splitlines() if not line.startswith(f"{key} ")]
        file = house.add("tiny", "\n".join([f"{key} = {value}", *others, ""])) / "model.toml"
        if message := refusal(house):
            assert str(file) in message or "tiny" in message
            refusals += 1
    assert refusals > len(KEYS) / 2


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_file_that_is_no_model_toml_is_refused(house, content):
    file = house.add("tiny", "") / "model.toml"
    file.write_bytes(content)
    assert str(file) in refusal(house)


@pytest.mark.parametrize("option", ["store", "report", "baselines", "checkpoint"])
@pytest.mark.parametrize("path", ["~nosuchuser/folder", "x" * 5000, "a\0b"], ids=["nobody's", "long", "NUL"])
def test_option_that_is_no_path_is_refused_by_name(house, option, path):
    house.add("tiny", EMBEDDER)
    message = refusal(house, **{option: [path] if option == "checkpoint" else path})
    assert message.startswith(f"--{option}: ")
    assert "twice" not in message


@pytest.mark.parametrize("path", ["~nosuchuser/folder", "x" * 5000, "a\0b"], ids=["nobody's", "long", "NUL"])
def test_assignment_that_is_no_path_is_refused_by_name(house, path):
    house.add("tiny", EMBEDDER)
    assert refusal(house, artifact=[f"tiny:plain={path}"]).startswith("--artifact: ")
    assert "is no path" in refusal(house, candidate=[f"tiny={path}"])


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "a\u202eb"], ids=["escape", "right to left"])
def test_name_that_would_command_a_terminal_is_refused(house, name):
    house.add(name, EMBEDDER)
    message = refusal(house)
    assert "has control characters: rename the folder" in message
    assert name not in message


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A folder of sentence-transformers with every file that decides a score."""
    folder = tmp_path_factory.mktemp("dense") / "dense"
    folder.mkdir()
    seeded.make([], folder, {"architecture": "bert_dense", "seed": 17, "auto_class": "AutoModel", "labels": 1})
    return folder


JSON_FILES = {
    "lists in lists": b"[" * 100_000,
    "half an object": b'{"a": 1',
    "a list": b"[1]",
    "a text": b'"a"',
    "null": b"null",
    "bytes": bytes(range(256)),
    "nothing": b"",
    "a number of 5,000 digits": b'{"max_position_embeddings": 1' + b"0" * 5000 + b"}",
}


@pytest.mark.parametrize("content", JSON_FILES.values(), ids=JSON_FILES)
def test_file_of_a_checkpoint_that_is_not_what_it_should_be_is_refused(house, dense, tmp_path, content):
    """Those that Transformers alone reads, it may refuse later: nothing here is told of them."""
    house.baselines.mkdir()
    files = [file.relative_to(dense) for file in dense.rglob("*.json") if not file.name.startswith("vocab")]
    assert len(files) > 6
    refused = []
    for name in files:
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(dense, tmp_path / "copy")
        (tmp_path / "copy" / name).write_bytes(content)
        if message := refusal(house, checkpoint=[str(tmp_path / "copy")]):
            refused.append(name)
            assert name.name in message, f"{name}: {message}"
    assert {"config.json", "modules.json"} <= {name.name for name in refused}


VALUES_OF_KEYS = [
    ("config.json", "architectures", 1e999, "architectures in config.json names none that is known"),
    ("config.json", "architectures", {"a": 1}, "architectures in config.json names none that is known"),
    ("config.json", "max_position_embeddings", 1e999, "config.json: Number out of range"),
    ("config.json", "model_type", "\ud800", "config.json is not valid JSON"),
    ("1_Pooling/config.json", "pooling_mode", 7, "pooling_mode: is 7, and no name of a pooling or list of names"),
    ("1_Pooling/config.json", "pooling_mode", [], "pooling_mode: is [], and no name of a pooling"),
    ("sentence_bert_config.json", "modality_config", [1], "modality_config: is [1], and not of type dict"),
    ("sentence_bert_config.json", "modality_config", {"text": 1}, "modality_config.text: is 1, and not of type dict"),
    ("sentence_bert_config.json", "model_kwargs", "a", "model_kwargs: is 'a', and not of type dict"),
]


@pytest.mark.parametrize(("name", "key", "value", "message"), VALUES_OF_KEYS)
def test_value_of_a_checkpoint_of_another_type_is_refused_by_its_key(house, dense, tmp_path, name, key, value, message):
    """Without modules.json, so that the task is asked of config.json, where that is the file."""
    house.baselines.mkdir()
    folder = shutil.copytree(dense, tmp_path / "copy")
    file = folder / name
    content = (json.loads(file.read_text()) if file.exists() else {}) | {key: value}
    file.write_text(json.dumps(content).replace("Infinity", "1e999"))
    if key == "architectures":
        (folder / "modules.json").unlink()
    assert message in refusal(house, checkpoint=[str(folder)])


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b", "\ud800"], ids=["long", "NUL", "surrogate"])
def test_module_whose_path_is_none_is_refused(house, dense, tmp_path, path):
    house.baselines.mkdir()
    folder = shutil.copytree(dense, tmp_path / "copy")
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = path
    (folder / "modules.json").write_text(json.dumps(modules))
    assert re.search(
        r"modules\.json(: 1\.path: .* is no path| is not valid JSON)", refusal(house, checkpoint=[str(folder)])
    )


@pytest.mark.parametrize("name", ["config.json", "modules.json", "tokenizer.json", "1_Pooling/config.json"])
@pytest.mark.parametrize("lies_there", [Path.mkdir, lambda file: file.symlink_to(file.name)], ids=["folder", "circle"])
def test_folder_or_circular_link_in_the_place_of_a_file_is_no_traceback(house, dense, tmp_path, name, lies_there):
    house.baselines.mkdir()
    folder = shutil.copytree(dense, tmp_path / "copy")
    (folder / name).unlink()
    lies_there(folder / name)
    assert refusal(house, checkpoint=[str(folder)]).startswith("--checkpoint: ")


@pytest.mark.parametrize("labels", [{"id2label": {"0": "a", "2": "b"}}, {"id2label": {}}, {"num_labels": 10**12}])
def test_labels_that_are_none_are_refused(house, tmp_path, labels):
    house.baselines.mkdir()
    keys = {"architecture": "bert", "seed": 7, "auto_class": "AutoModelForSequenceClassification", "labels": 3}
    seeded.make([], tmp_path, keys)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["id2label"]
    (tmp_path / "config.json").write_text(json.dumps(config | labels))
    assert f"config.json: {next(iter(labels))} is no " in refusal(house, checkpoint=[str(tmp_path)])


def test_more_labels_than_any_classifier_has_are_refused(house):
    house.add(
        "tiny", 'task = "text-classification"\nsource = "seeded:bert@7"\nmax_length = 64\nlabels = 1000000000000\n'
    )
    assert "model.toml:4: labels: write a whole number from 1 to 1000000, and not 1000000000000" in refusal(house)


def test_message_commands_no_terminal(house):
    house.add("tiny", EMBEDDER + '"\\u001b[2J\\u202e" = 1\n')
    message = refusal(house)
    assert "\\u001b[2J\\u202e" in message
    assert not CONTROLS.search(message)


def lose_columns(file):
    weights = load_file(file)
    save_file(weights | {"linear.weight": weights["linear.weight"][:, :-1]}, file)


def cut(file):
    file.write_bytes(file.read_bytes()[:100])


def name_other_width(file):
    file.write_text(json.dumps(json.loads(file.read_text()) | {"in_features": 7}))


def lose_the_weight(file):
    save_file({"linear.bias": np.zeros(4, np.float32)}, file)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model.safetensors", lose_columns, "linear.weight: takes vectors of 31 numbers, and those before it have 32"),
        ("model.safetensors", cut, "is it whole?"),
        ("model.safetensors", lose_the_weight, "linear.weight: is missing"),
        ("config.json", name_other_width, "in_features: is 7, and model.safetensors has 32"),
    ],
)
def test_module_that_does_not_fit_is_refused_before_anything_is_built(house, dense, tmp_path, name, change, message):
    house.baselines.mkdir()
    folder = shutil.copytree(dense, tmp_path / "copy")
    (module, *_) = sorted(folder.glob("*_Dense"))
    change(module / name)
    refused = refusal(house, checkpoint=[str(folder)])
    assert str(module / name) in refused
    assert message in refused


def test_more_dimensions_than_there_are_is_refused(house, dense):
    """They would not be cut, and yet stand in the fingerprint."""
    house.baselines.mkdir()
    width = json.loads(sorted(dense.glob("*_Dense/config.json"))[-1].read_text())["out_features"]
    assert refusal(house, checkpoint=[str(dense)], **{"set": [f"dimensions={width}"]}) == ""
    message = refusal(house, checkpoint=[str(dense)], **{"set": [f"dimensions={width + 1}"]})
    assert f"dimensions: is {width + 1}, and an embedding of this checkpoint has {width} numbers" in message


@pytest.mark.parametrize("labels", [2, 4])
def test_other_number_of_labels_than_the_checkpoint_has_is_refused(house, tmp_path, labels):
    house.baselines.mkdir()
    keys = {"architecture": "bert", "seed": 7, "auto_class": "AutoModelForSequenceClassification", "labels": 3}
    seeded.make([], tmp_path, keys)
    message = refusal(house, checkpoint=[str(tmp_path)], **{"set": [f"labels={labels}"]})
    assert f"labels: is {labels}, and this checkpoint has 3: LABEL_0, LABEL_1, LABEL_2" in message
