"""Digests of large files are remembered as long as nothing about a file has changed, and no longer."""

import hashlib
import os
import time
from pathlib import Path

import msgspec
import pytest

from fixtures.build import manifest
from fixtures.build.step import key_of
from fixtures.build.store import Store
from fixtures.build.upkeep import verify_store
from fixtures.models.digests import LARGE_BYTES, SETTLED_S, Digests
from fixtures.models.files import sha256_of

OLD_S = time.time() - SETTLED_S - 3600


@pytest.fixture
def digests(tmp_path):
    return Digests(tmp_path / "state" / "digests.json")


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A large file that changed long ago; its status cannot be set back, so the clock stands later."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"a" * LARGE_BYTES)
    os.utime(file, (OLD_S, OLD_S))
    later_s = time.time() + 2 * SETTLED_S
    monkeypatch.setattr(time, "time", lambda: later_s)
    return file


@pytest.fixture
def reads(monkeypatch):
    """The files that are read to be hashed, in their order."""
    read, hashed = [], hashlib.file_digest

    def noted(stream, name):
        read.append(stream.name)
        return hashed(stream, name)

    monkeypatch.setattr(hashlib, "file_digest", noted)
    return read


def test_file_is_read_once(digests, weights, reads):
    assert digests.sha256_of(weights) == digests.sha256_of(weights) == hashlib.sha256(b"a" * LARGE_BYTES).hexdigest()
    assert len(reads) == 1


def test_another_run_remembers(digests, weights, reads):
    expected = digests.sha256_of(weights)
    digests.save()
    assert Digests(digests.file).sha256_of(weights) == expected
    assert len(reads) == 1
    assert [file.name for file in digests.file.parent.iterdir()] == ["digests.json"]


def test_other_content_of_the_same_size_and_time_is_read(digests, weights):
    digests.sha256_of(weights)
    weights.write_bytes(b"b" * LARGE_BYTES)
    os.utime(weights, (OLD_S, OLD_S))
    assert digests.sha256_of(weights) == hashlib.sha256(b"b" * LARGE_BYTES).hexdigest()


def test_another_file_in_its_place_is_read(digests, weights, tmp_path):
    digests.sha256_of(weights)
    new = tmp_path / "new"
    new.write_bytes(b"b" * LARGE_BYTES)
    os.utime(new, (OLD_S, OLD_S))
    new.replace(weights)
    assert digests.sha256_of(weights) == hashlib.sha256(b"b" * LARGE_BYTES).hexdigest()


def test_link_that_leads_elsewhere_is_read(digests, weights, tmp_path):
    link, other = tmp_path / "link", tmp_path / "other"
    other.write_bytes(b"b" * LARGE_BYTES)
    link.symlink_to(weights)
    digests.sha256_of(link)
    link.unlink()
    link.symlink_to(other)
    assert digests.sha256_of(link) == hashlib.sha256(b"b" * LARGE_BYTES).hexdigest()


def test_what_changed_just_now_is_read_again(digests, tmp_path, reads):
    file = tmp_path / "model.onnx"
    file.write_bytes(b"a" * LARGE_BYTES)
    os.utime(file, (OLD_S, OLD_S))  # its status changed now
    digests.sha256_of(file)
    digests.sha256_of(file)
    assert len(reads) == 2


def test_small_files_are_read_again(digests, weights, reads):
    weights.write_bytes(b"a" * (LARGE_BYTES - 1))
    digests.sha256_of(weights)
    digests.sha256_of(weights)
    assert len(reads) == 2


def test_missing_file_raises(digests, weights):
    digests.sha256_of(weights)
    weights.unlink()
    with pytest.raises(FileNotFoundError):
        digests.sha256_of(weights)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"a": 1}', b'{"a": {"status": [1], "sha256": 1}}', b"\xff", b"[" * 9999]
)
def test_file_that_is_no_list_of_digests_holds_none(digests, weights, content):
    digests.file.parent.mkdir()
    digests.file.write_bytes(content)
    assert digests.sha256_of(weights) == sha256_of(weights)
    digests.save()
    assert Digests(digests.file)._known


def test_folder_that_cannot_be_written_is_no_error(digests, weights):
    digests.file.parent.write_text("a file in its place")
    digests.sha256_of(weights)
    digests.save()


def test_user_without_a_folder_leaves_nothing(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    digests = Digests(Path("~/.local/state/exportgate/digests.json"))
    digests.sha256_of(weights)
    digests.save()
    assert not (tmp_path / "~").exists()


def test_path_that_is_no_utf8_is_remembered(digests, weights, tmp_path, reads):
    folder = tmp_path / os.fsdecode(b"m\xff")
    folder.mkdir()
    file = weights.rename(folder / weights.name)
    digests.sha256_of(file)
    digests.save()
    Digests(digests.file).sha256_of(file)
    assert len(reads) == 1


def test_what_another_process_kept_meanwhile_stays(digests, weights, tmp_path, reads):
    second = tmp_path / "second"
    second.write_bytes(b"b" * LARGE_BYTES)
    other = Digests(digests.file)
    digests.sha256_of(weights)
    other.sha256_of(second)
    digests.save()
    other.save()
    third = Digests(digests.file)
    assert third.sha256_of(weights) != third.sha256_of(second)
    assert len(reads) == 2


def test_verification_of_the_store_reads_every_file(digests, weights, tmp_path, monkeypatch):
    """What a disk changes by itself leaves a file's status as it was: played by a digest that is remembered wrong."""
    monkeypatch.setattr(manifest, "DIGESTS", digests)
    store, document = Store(tmp_path / "store"), {"name": "embedder"}
    key = key_of(document)
    store.build(key, document, lambda work: weights.rename(work / "output" / weights.name) and None)
    stored = store.root / "artifacts" / key / weights.name
    expected = digests.sha256_of(stored)
    stored.write_bytes(b"b" * LARGE_BYTES)
    digests.sha256_of(stored)
    digests._asked[str(stored)] = msgspec.structs.replace(digests._asked[str(stored)], sha256=expected)
    assert store.find(key)
    assert verify_store(store).damage == {key: f"{weights.name} has changed since it was stored"}
