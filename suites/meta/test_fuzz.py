"""Damaged and hostile files are read or refused by name; and the fuzzer sees it where they are not."""

import os
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suites.meta.studies.fuzz.__main__ import PROFILES
from suites.meta.studies.fuzz.campaign import Attempt, Target, run_campaign
from suites.meta.studies.fuzz.files import NoFile, ValidFiles
from suites.meta.studies.fuzz.mutations import json_files, safetensors_files, toml_files
from suites.meta.studies.fuzz.targets import TARGETS, seeds_in

JSON = b'{"a": [1, {"b": "c"}], "d": null, "e": 0.5}'


@pytest.fixture(scope="session")
def seeds(tmp_path_factory):
    """What examples start from."""
    return seeds_in(tmp_path_factory.mktemp("fuzz") / "seeds")


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_damaged_files_are_read_or_refused(target, seeds, tmp_path):
    """The profile `ci`, which has the same examples every time; an error needs no number of them to be found again."""
    folder = tmp_path / "files"
    folder.mkdir()
    tally = run_campaign(target, folder, seeds, target.examples * PROFILES["ci"], derandomize=True)
    assert not tally.fault, f"{tally.fault}\n{folder}"
    assert tally.examples >= target.examples / 2
    assert tally.refused


# ------------------------------------------------------------------------------ the fuzzer itself


class Refusal(Exception):
    pass


def _prepare(read):
    def prepare(folder, _):
        return Attempt(st.integers(0, 9), read, (Refusal,), ("the file",), limit_s=1)

    return prepare


def _refuse_large_numbers(number):
    if number > 4:
        raise Refusal("the file has a number that is too large")


def _forget_the_file(number):
    raise Refusal("something is wrong")


def _raise_another_error(number):
    if number > 4:
        raise KeyError("digest")


def _hang(number):
    time.sleep(60)


def _crash(number):
    os.abort()


def _eat_the_memory(number):
    bytearray(2**32)


def prepare_sound(folder, seeds):
    return _prepare(_refuse_large_numbers)(folder, seeds)


def prepare_nameless(folder, seeds):
    return _prepare(_forget_the_file)(folder, seeds)


def prepare_faulty(folder, seeds):
    return _prepare(_raise_another_error)(folder, seeds)


def prepare_hanging(folder, seeds):
    return _prepare(_hang)(folder, seeds)


def prepare_crashing(folder, seeds):
    return _prepare(_crash)(folder, seeds)


def prepare_hungry(folder, seeds):
    return _prepare(_eat_the_memory)(folder, seeds)


def campaign(prepare, folder):
    (folder / "files").mkdir()
    target = Target("target", "a number", "a reader", 10, prepare)
    return run_campaign(target, folder / "files", folder, 10, derandomize=True)


def test_what_is_refused_by_name_is_counted(tmp_path):
    tally = campaign(prepare_sound, tmp_path)
    assert (tally.fault, tally.examples, tally.refused, tally.accepted) == ("", 10, 5, 5)


@pytest.mark.parametrize(
    ("prepare", "fault"),
    [
        (prepare_nameless, "nothing is named by: something is wrong"),
        (prepare_faulty, "KeyError: 'digest'"),
        (prepare_hanging, "Timeout (0:00:01)!"),
        (prepare_crashing, "the process ended with -6"),
        (prepare_hungry, "MemoryError"),
    ],
)
def test_anything_else_is_a_fault(tmp_path, prepare, fault):
    assert fault in campaign(prepare, tmp_path).fault


def test_faulty_example_is_made_small(tmp_path):
    """And it is the last one, whose files are left."""
    assert "example=5" in campaign(prepare_faulty, tmp_path).fault


HEADER = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'


@pytest.mark.parametrize(
    ("files", "content"),
    [
        (json_files(JSON), JSON),
        (toml_files('task = "embedding"\n[a]\nb = 1\n', ["task", "c"]), b'task = "embedding"\n[a]\nb = 1\n'),
        (safetensors_files(len(HEADER).to_bytes(8, "little") + HEADER + bytes(8)), HEADER),
    ],
    ids=["JSON", "TOML", "safetensors"],
)
def test_files_differ_and_many_are_nearly_valid(files, content):
    contents = set()

    @settings(max_examples=300, database=None, deadline=None, derandomize=True)
    @given(files)
    def collect(changed):
        contents.add(changed)

    collect()
    assert len(contents) > 150
    assert sum(abs(len(changed) - len(content)) < 40 for changed in contents) > 50


def test_valid_files_come_back(tmp_path):
    valid = ValidFiles(tmp_path / "files", {"a": b"1", "b/c": b"2"})
    for content in (b"3", *NoFile):
        valid.change({"b/c": content, "new": b"4"})
        assert not (tmp_path / "files" / "b" / "c").is_file() or content == b"3"
        valid.change({})
        files = {file.name: file.read_bytes() for file in (tmp_path / "files").rglob("*") if file.is_file()}
        assert files == {"a": b"1", "c": b"2"}
