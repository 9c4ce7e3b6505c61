"""The artifact works wherever its folder goes.

Tried are a symlink, the hub's cache, a read-only copy, a path with spaces and other scripts, and external data.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

from fixtures.gate.case import Case
from fixtures.plugin.outcomes import inapplicable
from fixtures.runtimes import opening
from fixtures.scoring import stress

pytestmark = pytest.mark.check


def copied(source: Path, where: Path) -> Path:
    shutil.copytree(source, where / "copy")
    return where / "copy"


def symlinked(source: Path, where: Path) -> Path:
    (where / "link").symlink_to(source, target_is_directory=True)
    return where / "link"


def in_hub_cache(source: Path, where: Path) -> Path:
    """As the hub's client stores it: every file of the snapshot is a link to a blob."""
    (where / "blobs").mkdir()
    (where / "snapshots").mkdir()
    for number, file in enumerate(sorted(path for path in source.iterdir() if path.is_file())):
        shutil.copyfile(file, where / "blobs" / str(number))
        (where / "snapshots" / file.name).symlink_to(Path("..", "blobs", str(number)))
    return where / "snapshots"


def read_only(source: Path, where: Path) -> Path:
    folder = copied(source, where)
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    return folder


def named_in_words(source: Path, where: Path) -> Path:
    return copied(source, where).rename(where / "модель и 模型 è")


def external_data(source: Path, where: Path) -> Path:
    """All weights in a file beside the graph, as for models over 2 GB."""
    if not (source / "model.onnx").exists():
        inapplicable("it is no ONNX graph")
    folder = where / "external"
    folder.mkdir()
    model, file = onnx.load(source / "model.onnx"), folder / "model.onnx"
    onnx.save_model(model, file, save_as_external_data=True, location="model.onnx_data")
    return folder


def external_data_moved(source: Path, where: Path) -> Path:
    return copied(external_data(source, where), where)


def external_data_in_hub_cache(source: Path, where: Path) -> Path:
    return in_hub_cache(external_data(source, where), where)


PLACES: Mapping[str, Callable[[Path, Path], Path]] = {
    "symlinked": symlinked,
    "hub-cache": in_hub_cache,
    "copied-read-only": read_only,
    "copied-with-spaces-and-non-ascii": named_in_words,
    "copied-external-data": external_data_moved,
    "hub-cache-external-data": external_data_in_hub_cache,
}
"""Place -> function of the artifact's folder and of an empty one, which returns where in the latter the artifact is."""


@pytest.mark.parametrize("place", PLACES)
def test_works_in_another_place(case: Case, place: str) -> None:
    """The artifact yields the same bits when it is loaded from another place."""
    feeds = case.subject.encoded.feeds(stress.short_probes(case.subject.encoded))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = PLACES[place](case.artifact.folder, Path(folder)) / case.file.name
        runtime = opening.open_session(file, case.context.machine.threads, case.provider)
        scores = case.subject.task.scores(runtime, feeds, case.subject.scoring)
    assert np.array_equal(scores, case.score(feeds)), f"{case}: other scores when it is {place}"
