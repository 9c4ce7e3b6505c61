"""A plugin of pytest runs within tests: the disk of temporary files is full."""

import errno
import os
import tempfile


def refuse(suffix: str | None = None, prefix: str | None = None, dir: str | None = None) -> str:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{tempfile.gettempdir()}/{prefix}")


vars(tempfile)["mkdtemp"] = refuse
