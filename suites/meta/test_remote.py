"""The store that machines share, against an S3 server on this machine: rclone's."""

import errno
import hashlib
import io
import json
import os
import re
import tarfile

import pytest

from fixtures.build import disk, remote
from fixtures.build.needs import ModelSize
from fixtures.build.remote import SECRET, Remote, Unreachable
from fixtures.build.step import Step, step_function
from fixtures.build.store import Event, Store, StoreError
from fixtures.build.worker import Built
from fixtures.build.workers import Limits, build_all
from suites.meta.house import EMBEDDER, FEW, LOOSE, House

KEY, OTHER = "0" * 32, "1" * 32


def write(text):
    def make(work):
        (work / "output" / "model.onnx").write_text(text)
        (work / "output" / "below").mkdir()
        (work / "output" / "below" / "more.json").write_text("{}")

    return make


def never(work):
    pytest.fail("exported twice")


def test_artifact_is_made_once_for_all_machines(bucket, tmp_path):
    files, url = bucket
    first = Store(tmp_path / "here", url).build(KEY, {"recipe": 1}, write("one"))
    assert [file.name for file in files.rglob("*") if file.is_file()] == [f"{KEY}.tar"]
    second_machine = Store(tmp_path / "there", url)
    second = second_machine.build(KEY, {"recipe": 1}, never)
    assert (second.digest, second.graph) == (first.digest, first.graph)
    assert (second.folder / "below" / "more.json").read_text() == "{}"
    assert Store(tmp_path / "there").find(KEY) == second
    assert second_machine.find(OTHER) is None
    assert second_machine.notices == []
    assert not list((tmp_path / "there" / "partial").iterdir())


def test_large_artifact_is_sent_in_parts(bucket, tmp_path):
    """More than the parts of a multipart upload, which is what s3fs makes of it."""
    _, url = bucket
    content = bytes(range(256)) * 500_000

    def make(work):
        (work / "output" / "model.onnx").write_bytes(content)

    Store(tmp_path / "here", url).build(KEY, {}, make)
    artifact = Store(tmp_path / "there", url).find(KEY)
    assert artifact is not None
    assert (artifact.folder / "model.onnx").read_bytes() == content


def test_upload_that_breaks_off_leaves_nothing(bucket, tmp_path, monkeypatch):
    files, url = bucket
    built = Store(tmp_path / "here").build(KEY, {}, write("one"))

    def breaks(self, *arguments, **options):
        raise ConnectionError("the network is gone")

    monkeypatch.setattr(tarfile.TarFile, "add", breaks)
    with pytest.raises(Unreachable, match=r"does not take 0+\.tar: ConnectionError: the network is gone"):
        Remote(url).send(KEY, built.folder)
    assert not [file for file in files.rglob("*") if file.is_file()]
    shared = Store(tmp_path / "other", url)
    assert (shared.build(KEY, {}, write("one")).folder / "model.onnx").exists()
    assert str(shared.notices[0]).endswith("the network is gone; it stays on this machine")


def objects(bucket):
    return next(file for file in bucket[0].rglob("*.tar"))


def forged(content, change):
    """Return an object with one of its files changed."""
    output = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(content)) as before, tarfile.open(fileobj=output, mode="w") as after:
        for member in before:
            file = before.extractfile(member)
            assert file is not None
            text = change(member.name, file.read())
            member.size = len(text)
            after.addfile(member, io.BytesIO(text))
    return output.getvalue()


def other_weights(name, text):
    return b"six" if name == "model.onnx" else text


def outside(content):
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        entry = tarfile.TarInfo("../outside")
        archive.addfile(entry, io.BytesIO())
    return output.getvalue()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[: len(content) // 3], "cannot be unpacked|manifest cannot be read"),
        (lambda content: b"", "cannot be unpacked"),
        (lambda content: b"no archive at all" * 99, "cannot be unpacked"),
        (lambda content: forged(content, other_weights), "model.onnx has changed since it was stored"),
        (outside, r"has \.\./outside, which is no path within a folder"),
    ],
    ids=["half", "empty", "something else", "other weights", "outside"],
)
def test_damaged_or_forged_object_is_refused_and_made_anew(bucket, tmp_path, damage, reason):
    _, url = bucket
    sound = Store(tmp_path / "here", url).build(KEY, {}, write("one"))
    file = objects(bucket)
    file.write_bytes(damage(file.read_bytes()))
    second_machine = Store(tmp_path / "there", url)
    built = second_machine.build(KEY, {}, write("one"))
    assert built.digest == sound.digest
    assert re.search(f"has artifact {KEY}, and it was refused: .*({reason})", str(second_machine.notices[0]))
    assert not (tmp_path / "outside").exists()
    assert Store(tmp_path / "third", url).build(KEY, {}, never).digest == sound.digest, "the sound artifact was sent"


def packed(*members):
    """Return an object of members: a name, or a TarInfo; its content, if it has one."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        for member, content in members:
            entry = tarfile.TarInfo(member) if isinstance(member, str) else member
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return output.getvalue()


def typed(name, kind, target=""):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def headed(name, **headers):
    entry = tarfile.TarInfo(name)
    entry.pax_headers = headers
    return entry


def claiming(name, size):
    """Return the header of a member that claims a size, and what the object has of it."""
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry.tobuf() + b"x" * 512


def listing(name, text, **entry):
    """Return an object whose manifest lists a file, and the file."""
    entry = {"sha256": hashlib.sha256(text).hexdigest(), "bytes": len(text)} | entry
    manifest = {"key": KEY, "digest": "sha256:0", "files": {name: entry}, "recipe": {}}
    return packed(("manifest.json", json.dumps(manifest).encode()), ("model.onnx", text))


def chained(count):
    """Return headers each of which is about the next one."""
    return b"".join(typed("pax", tarfile.XHDTYPE).tobuf() for _ in range(count))


SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(2**43)}
HOSTILE = {
    "larger than the object": (lambda: claiming("model.onnx", 2**33), "has model.onnx of 8589934592 bytes, more than"),
    "negative": (lambda: claiming("model.onnx", -(2**20)), "cannot be unpacked|has model.onnx of"),
    "sparse, by pax": (
        lambda: packed((headed("model.onnx", **SPARSE), b"1\n0\n1\n".ljust(512, b"\0") + b"x")),
        "which is no regular file",
    ),
    "sparse, by GNU": (lambda: packed((typed("model.onnx", tarfile.GNUTYPE_SPARSE), b"")), "which is no regular file"),
    "map of a sparse file": (
        lambda: packed((headed("model.onnx", **SPARSE), b"99999999\n" + b"0\n" * 10**6)),
        "has headers of more than 131072 bytes for one member",
    ),
    "header": (lambda: packed((headed("model.onnx", comment="x" * 2**20), b"")), "has headers of more than 131072"),
    "global header": (
        lambda: typed("g", tarfile.XGLTYPE).create_pax_global_header({"comment": "x" * 2**20}),
        "has headers of more than 131072",
    ),
    "long name": (lambda: packed(("x" * 2**20, b"")), "has headers of more than 131072 bytes"),
    "headers of headers": (lambda: chained(2000), "has headers of more than|cannot be unpacked: RecursionError"),
    "many members": (lambda: packed(*((f"file{number}", b"") for number in range(9))), "has more than 8 members"),
    "twice": (lambda: packed(("model.onnx", b"one"), ("model.onnx", b"two")), "has model.onnx twice"),
    "below a file": (lambda: packed(("model.onnx", b"one"), ("model.onnx/more", b"")), "cannot be unpacked"),
    "path": (lambda: packed(("a/" * 40 + "b", b"")), "has a path of 81 characters and 41 parts: a/a/"),
    "long path": (lambda: packed(("a" * 2000, b"")), "has a path of 2000 characters and 1 parts: aaa"),
    "absolute": (lambda: packed(("/tmp/model.onnx", b"")), "has /tmp/model.onnx, which is no path within a folder"),
    "not normal": (lambda: packed(("a/./b", b"")), r"has a/\./b, which is no path within a folder"),
    "control": (lambda: packed(("\u202e/../b", b"")), r"has \\u202e/\.\./b, which is no path"),
    "symbolic link": (lambda: packed((typed("a", tarfile.SYMTYPE, "/etc"), b"")), "has a, which is no regular file"),
    "hard link": (lambda: packed(("b", b""), (typed("a", tarfile.LNKTYPE, "b"), b"")), "has a, which is no regular"),
    "pipe": (lambda: packed((typed("a", tarfile.FIFOTYPE), b"")), "has a, which is no regular file"),
    "device": (lambda: packed((typed("a", tarfile.CHRTYPE), b"")), "has a, which is no regular file"),
    "folder": (lambda: packed((typed("a", tarfile.DIRTYPE), b"")), "has a, which is no regular file"),
    "not listed": (lambda: listing("other", b"one"), "has model.onnx of 3 bytes, which its manifest does not list"),
    "other size": (
        lambda: listing("model.onnx", b"one", bytes=2),
        "has model.onnx of 3 bytes, which its manifest lists with 2",
    ),
    "other digest": (lambda: listing("model.onnx", b"one"), "its manifest has another digest than its files"),
    "no manifest": (lambda: packed(("model.onnx", b"one")), "its manifest cannot be read"),
    "empty manifest": (lambda: packed(("manifest.json", b"")), "is no artifact: its manifest cannot be read"),
    "deep manifest": (
        lambda: packed(("manifest.json", b'{"recipe": ' + b'{"a":' * 10**5)),
        "is no artifact: its manifest cannot be read",
    ),
    "large manifest": (lambda: packed(("manifest.json", b" " * (2**25 + 1))), "has manifest.json of 33554433 bytes"),
    "large signature": (
        lambda: packed((".signature", b"x" * 1001)),
        "has .signature of 1001 bytes, more than the 1000",
    ),
}
"""What is wrong -> a function that returns an object, and why it is refused."""


def extractions(monkeypatch):
    """Return a list that gets the name and the size of every member that is unpacked."""
    unpacked: list[tuple[str, int]] = []
    extract = tarfile.TarFile.extract

    def note(archive, member, *arguments, **options):
        unpacked.append((member.name, member.size))
        extract(archive, member, *arguments, **options)

    monkeypatch.setattr(tarfile.TarFile, "extract", note)
    return unpacked


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_object_is_refused_before_it_is_unpacked_and_the_run_goes_on(bucket, tmp_path, monkeypatch, name):
    content, reason = HOSTILE[name]
    monkeypatch.setattr(remote, "MEMBERS", 8)
    files, url = bucket
    (files / "place").mkdir()
    (files / "place" / f"{KEY}.tar").write_bytes(content())
    unpacked = extractions(monkeypatch)
    store = Store(tmp_path / "here", url)
    assert (store.build(KEY, {}, write("one")).folder / "model.onnx").read_text() == "one"
    (notice,) = store.notices
    assert notice.event is Event.REFUSED
    assert re.search(reason, notice.reason)
    assert sum(size for file, size in unpacked if file != "manifest.json") < 1000
    assert not list(store.root.glob("partial/*"))
    assert Store(tmp_path / "there", url).build(KEY, {}, never), "the sound artifact was sent in its place"


@pytest.mark.parametrize("signature", [b"\xff" * 64, "\u00e4".encode() * 32, b""])
def test_signature_of_any_form_is_no_error(bucket, tmp_path, monkeypatch, signature):
    monkeypatch.setenv(SECRET, "between us")
    files, url = bucket
    (files / "place").mkdir()
    (files / "place" / f"{KEY}.tar").write_bytes(packed((".signature", signature), ("manifest.json", b"{}")))
    store = Store(tmp_path / "here", url)
    assert store.find(KEY) is None
    assert "is not signed with the secret" in store.notices[0].reason


def test_nothing_is_unpacked_behind_a_manifest_that_is_not_signed(bucket, tmp_path, monkeypatch):
    _, url = bucket
    Store(tmp_path / "forger", url).build(KEY, {}, write("forged"))
    monkeypatch.setenv(SECRET, "between us")
    unpacked = extractions(monkeypatch)
    assert Store(tmp_path / "there", url).find(KEY) is None
    assert [file for file, _ in unpacked] == ["manifest.json"]


def test_object_that_the_disk_has_no_room_for_is_refused(bucket, tmp_path, monkeypatch):
    _, url = bucket
    Store(tmp_path / "here", url).build(KEY, {}, write("x" * 10**6))
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 10**5)
    store = Store(tmp_path / "there", url)
    assert store.find(KEY) is None
    assert re.search(
        "has model.onnx of 1000000 bytes, more than the .* that the object's own size, the disk", str(store.notices[0])
    )


def test_disk_that_fills_while_an_object_is_unpacked_is_no_fault_of_the_url(bucket, tmp_path, monkeypatch):
    _, url = bucket
    Store(tmp_path / "here", url).build(KEY, {}, write("one"))

    def full(*call, **how):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tarfile.TarFile, "extract", full)
    with pytest.raises(StoreError, match=r"cannot take artifact 0+: No space left on device"):
        Store(tmp_path / "there", url).find(KEY)


def test_object_of_another_key_is_refused(bucket, tmp_path):
    _, url = bucket
    Store(tmp_path / "here", url).build(KEY, {}, write("one"))
    file = objects(bucket)
    file.rename(file.with_name(f"{OTHER}.tar"))
    second_machine = Store(tmp_path / "there", url)
    assert second_machine.find(OTHER) is None
    assert f"it is artifact {KEY}" in second_machine.notices[0].reason


def test_shared_secret_refuses_what_was_made_up_whole(bucket, tmp_path, monkeypatch):
    """Whoever may write to the bucket can make weights and the manifest fit; the signature they cannot."""
    _, url = bucket
    Store(tmp_path / "forger", url).build(KEY, {}, write("forged"))
    monkeypatch.setenv(SECRET, "between us")
    second_machine = Store(tmp_path / "there", url)
    assert second_machine.find(KEY) is None
    assert "is not signed with the secret in EXPORTGATE_STORE_SECRET" in second_machine.notices[0].reason
    second_machine.build(KEY, {}, write("one"))
    assert (Store(tmp_path / "third", url).build(KEY, {}, never).folder / "model.onnx").read_text() == "one"
    file = objects(bucket)
    change = {"model.onnx": b"six", "manifest.json": json.dumps({"key": KEY}).encode()}
    file.write_bytes(forged(file.read_bytes(), lambda name, text: change.get(name, text)))
    assert Store(tmp_path / "fourth", url).find(KEY) is None


@step_function("test_remote:write_model")
def write_model(inputs, output, parameters):
    (output / "model.onnx").write_text("one")


def test_notice_of_a_worker_process_is_told_with_the_step(bucket, tmp_path):
    _, url = bucket
    step = Step(write_model, "a model", ())
    first = Store(tmp_path / "here", url)
    first.run(step)
    objects(bucket).write_bytes(b"no archive")
    steps_built: list[Built] = []
    assert (
        build_all(
            Store(tmp_path / "there", url),
            {step: ModelSize()},
            Limits(1, 2**33),
            lambda step, _: steps_built.append(step),
        )
        == {}
    )
    (built,) = steps_built
    (notice,) = built.notices
    assert (built.label, notice.event, notice.url, notice.key) == ("a model", Event.REFUSED, url, first.key(step))
    assert str(built) == f"a model; {url} has artifact {notice.key}, and it was refused: {notice.reason}"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "cannot be read: PermissionError"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1", "cannot be read: EndpointConnectionError"),
    ],
)
def test_place_that_does_not_answer_is_an_error_that_names_it(bucket, tmp_path, monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match=f"{bucket[1]} {message}.*; check the URL, the network and the credentials"):
        Store(tmp_path / "here", bucket[1]).check()


def test_unknown_protocol_is_an_error_that_names_it(tmp_path):
    with pytest.raises(StoreError, match="ftpx://place: Protocol not known: ftpx; check the URL"):
        Store(tmp_path, "ftpx://place")


def test_gate_on_a_second_machine_exports_nothing(bucket, tmp_path, monkeypatch):
    """Two machines are two cache folders; the second one is without PyTorch's work, and finds all of it there."""
    house = House(tmp_path, bucket[1])
    house.add("tiny", EMBEDDER + LOOSE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "first"))
    run = house.run(*FEW)
    assert run.returncode == 0, run.text
    assert f"store: {bucket[1]}, and {tmp_path / 'first' / 'exportgate'} on this machine" in run.text
    sent = {file: file.stat().st_mtime_ns for file in bucket[0].rglob("*.tar")}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "second"))
    run = house.run(*FEW)
    assert run.returncode == 0, run.text
    assert {file: file.stat().st_mtime_ns for file in bucket[0].rglob("*.tar")} == sent
    logs = "".join(file.read_text() for file in (tmp_path / "second").rglob("*.log"))
    assert "building" not in logs
