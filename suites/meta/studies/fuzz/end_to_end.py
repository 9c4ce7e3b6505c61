"""Whole runs of pytest over what was approved and is another now."""

from __future__ import annotations

from pathlib import Path

from suites.meta.house import EMBEDDER, House
from suites.meta.studies.fuzz.campaign import Attempt
from suites.meta.studies.fuzz.files import Changes, ValidFiles, files_in, one_of_files
from suites.meta.studies.fuzz.mutations import json_files, safetensors_files

PLAIN = ("--variant", "plain")
LIMIT_S = 300
"""Seconds of a run that has its artifacts in the store."""


class RunRefused(Exception):
    """A run ended with a usage error."""


def prepare_runs(folder: Path, _: Path) -> Attempt:
    """A file of an approved baseline is another: a usage error, or a verdict that still knows what was approved."""
    house = House(folder, folder / "store")
    model = house.add("m", EMBEDDER)
    run = house.run("--approve", *PLAIN)
    assert run.returncode == 0, run.text
    valid = ValidFiles(model, files_in(model))

    def read(example: Changes) -> None:
        valid.change(example)
        run = house.run(*PLAIN)
        assert "Traceback" not in run.text, run.text[-3000:]
        assert run.returncode in (0, 1, 4), run.text[-3000:]
        if run.returncode == 4:
            raise RunRefused(run.text)
        assert house.statuses()["plain"] != "unbaselined", "it counts as not approved"

    strategies = {
        name: json_files(content) if name.endswith(".json") else safetensors_files(content)
        for name, content in valid.files.items()
        if name != "model.toml"
    }
    return Attempt(one_of_files(strategies), read, (RunRefused,), (str(model),), LIMIT_S)
