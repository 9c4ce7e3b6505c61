"""The store that machines share, against an S3 server on this machine: rclone's."""

import io
import json
import re
import tarfile

import pytest

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
        Remote(url).send(KEY, "manifest.json", built.folder)
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
        (outside, "cannot be unpacked: OutsideDestinationError"),
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
        build_all(Store(tmp_path / "there", url), {step: 0}, Limits(1, 2**33), lambda step, _: steps_built.append(step))
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
