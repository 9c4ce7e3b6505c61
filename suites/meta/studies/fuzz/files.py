"""The files of an example: a valid set, of which some have become something else."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from enum import Enum, auto
from pathlib import Path

from hypothesis import strategies as st


class NoFile(Enum):
    """What lies in the place of a file."""

    MISSING = auto()
    FOLDER = auto()
    DANGLING_LINK = auto()
    CIRCULAR_LINK = auto()


Content = bytes | NoFile
Changes = Mapping[str, Content]
"""Path of each file that is another one now -> its content."""


class ValidFiles:
    """A folder of valid files, in which an example replaces some.

    Args:
        folder: it is made anew.
        files: path in the folder -> content.
        kept: readers change nothing, so that only what the example before has changed is written again.
    """

    def __init__(self, folder: Path, files: Mapping[str, bytes], *, kept: bool = True) -> None:
        self.folder, self.files, self.kept = folder, dict(files), kept
        self._changed: set[str] = set()
        self.restore()

    def restore(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        for name, content in self.files.items():
            self._write(name, content)

    def change(self, changes: Changes) -> None:
        """Lay the valid files, and those that an example has in their place or beside them."""
        if not self.kept:
            self.restore()
        for name in self._changed - changes.keys() if self.kept else ():
            self._write(name, self.files.get(name, NoFile.MISSING))
        for name, content in changes.items():
            self._write(name, content)
        self._changed = set(changes)

    def _write(self, name: str, content: Content) -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_symlink() or file.is_file():
            file.unlink()
        elif file.is_dir():
            shutil.rmtree(file)
        match content:
            case bytes():
                file.write_bytes(content)
            case NoFile.FOLDER:
                file.mkdir()
            case NoFile.DANGLING_LINK:
                file.symlink_to("no such file")
            case NoFile.CIRCULAR_LINK:
                file.symlink_to(file.name)


def no_files() -> st.SearchStrategy[NoFile]:
    return st.sampled_from(NoFile)


def one_of_files(strategies: Mapping[str, st.SearchStrategy[Content]]) -> st.SearchStrategy[dict[str, Content]]:
    """Return a strategy of examples that change one file: by its own strategy, or to what is no file."""
    return st.one_of([change_of(name, st.one_of(strategy, no_files())) for name, strategy in strategies.items()])


def change_of(name: str, contents: st.SearchStrategy[Content]) -> st.SearchStrategy[dict[str, Content]]:
    """Return a strategy of examples that change this file."""
    return contents.map(lambda content: {name: content})


def files_in(folder: Path) -> dict[str, bytes]:
    """Return path -> content of every file in a folder."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()
    }
