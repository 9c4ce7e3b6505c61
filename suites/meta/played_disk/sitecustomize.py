"""Plays a disk that cannot be written, in every Python process that has this folder in PYTHONPATH.

PLAYED_DISK names a folder and the error of whatever would be written below it, as in `ENOSPC:/data/store/partial`.
Tests run as root, whom permissions do not bind. What is written in C++ or Rust is not kept from the disk.
"""

import errno
import os
import sys
from pathlib import Path
from typing import Any

ERROR, _, FOLDER = os.environ.get("PLAYED_DISK", "").partition(":")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"os.mkdir": 1, "os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.utime": 1, "os.link": 2, "os.symlink": 2}
"""Audit event of a change of a folder -> how many of its arguments are paths."""


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        paths = arguments[:1] if arguments[2] & WRITING else ()
    elif event == "os.mkdir" and Path(os.fsdecode(arguments[0])).exists():
        paths = ()  # a folder that is there is said to be there, by a disk of any kind
    else:
        paths = arguments[: CHANGES.get(event, 0)]
    for path in paths:
        if isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(f"{FOLDER}/"):
            code = getattr(errno, ERROR)
            raise OSError(code, os.strerror(code), os.fsdecode(path))


if FOLDER:
    sys.addaudithook(refuse)
