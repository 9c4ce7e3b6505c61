"""The artifact works wherever its folder goes."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from fixtures.gate.case import Case
from fixtures.plugin.outcomes import inapplicable
from fixtures.runtimes import opening
from fixtures.scoring import stress

pytestmark = pytest.mark.check


def copied(source, where):
    shutil.copytree(source, where / "copy")
    return where / "copy"


def symlinked(source, where):
    (where / "link").symlink_to(source, target_is_directory=True)
    return where / "link"


def in_hub_cache(source, where):
    """As the hub's client stores it: every file of the snapshot is a link to a blob."""
    (where / "blobs").mkdir()
    (where / "snapshots").mkdir()
    for number, file in enumerate(sorted(one for one in source.iterdir() if one.is_file())):
        shutil.copyfile(file, where / "blobs" / str(number))
        (where / "snapshots" / file.name).symlink_to(Path("..", "blobs", str(number)))
    return where / "snapshots"


def read_only(source, where):
    folder = copied(source, where)
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    return folder


def named_in_words(source, where):
    return copied(source, where).rename(where / "модель и 模型 è")


def external_data(source, where):
    """All weights in a file beside the graph, as for models over 2 GB."""
    if not (source / "model.onnx").exists():
        inapplicable("it is no ONNX graph")
    folder = where / "external"
    folder.mkdir()
    onnx.save_model(
        onnx.load(source / "model.onnx"), folder / "model.onnx", save_as_external_data=True,
        location="model.onnx_data",
    )  # fmt: skip
    return folder


def external_data_moved(source, where):
    return copied(external_data(source, where), where)


def external_data_in_hub_cache(source, where):
    return in_hub_cache(external_data(source, where), where)


PLACES = {
    "symlinked": symlinked,
    "hub-cache": in_hub_cache,
    "copied-read-only": read_only,
    "copied-with-spaces-and-non-ascii": named_in_words,
    "copied-external-data": external_data_moved,
    "hub-cache-external-data": external_data_in_hub_cache,
}


@pytest.mark.parametrize("place", PLACES)
def test_works_in_another_place(case: Case, place: str) -> None:
    """Loaded from there, it yields the same bits."""
    feeds = case.subject.encoded.feeds(stress.short_probes(case.subject.encoded))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        there = PLACES[place](case.artifact.folder, Path(folder)) / case.file.name
        runtime = opening.open_session(there, case.context.machine.threads, case.provider)
        scores = case.subject.task.scores(runtime, feeds, case.subject.scoring)
    assert np.array_equal(scores, case.score(feeds)), f"{case}: other scores when it is {place}"
