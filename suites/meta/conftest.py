"""What several files of these tests share because it takes long to make."""

import itertools

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fixtures.export import seeded
from fixtures.faults.table import FAULTS
from fixtures.latency import disturbance
from fixtures.models.checkpoints import find_checkpoint
from fixtures.models.settings import Model, Settings
from suites.meta.house import EMBEDDER, FEW, LOOSE, House


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Try every row of the table of faults, and those that other plugins add."""
    if "row" in metafunc.fixturenames:
        added = itertools.chain.from_iterable(metafunc.config.hook.pytest_exportgate_faults())
        metafunc.parametrize("row", [*FAULTS, *added], ids=lambda fault: fault.name)


@pytest.fixture
def quiet_machine(monkeypatch):
    """Counters of the machine that show no interference."""
    monkeypatch.setattr(disturbance, "_stolen_s", lambda: 0.0)
    monkeypatch.setattr(disturbance, "_quota_s", lambda: 0.0)
    monkeypatch.setattr(disturbance, "_other_processes_s", lambda: 0.0)


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """A house whose embedder is a folder of files, approved, and a place for candidates."""
    folder = tmp_path_factory.mktemp("shop")
    house = House(folder, folder / "store")
    made = folder / "made"
    made.mkdir()
    seeded.make([], made, {"architecture": "bert", "seed": 7, "auto_class": "AutoModel", "labels": 1})
    for name, change in (("first", 0.0), ("near", 1e-4), ("far", 0.5)):
        (folder / name).mkdir()
        for file in made.iterdir():
            if file.name != "model.safetensors":
                (folder / name / file.name).write_bytes(file.read_bytes())
        weights = load_file(made / "model.safetensors")
        random = np.random.default_rng(1)
        shaken = {
            key: one + np.float32(change) * random.standard_normal(one.shape).astype(one.dtype)
            for key, one in weights.items()
        }
        save_file(shaken, folder / name / "model.safetensors", {"format": "pt"})
    text = EMBEDDER.replace("seeded:bert@7", f"path:{folder / 'first'}") + "# a remark that stays\n" + LOOSE
    model = house.add("bert", text) / "model.toml"
    digest = find_checkpoint(models_read(model.parent), pinned=False).digest
    model.write_text(text.replace("max_length", f'digest = "{digest}"\nmax_length', 1))
    done = house.run("--approve", *FEW)
    assert done.returncode == 0, done.text
    return folder, house, digest


def models_read(folder):
    settings = msgspec.toml.decode((folder / "model.toml").read_bytes(), type=Settings)
    return Model(folder.name, folder, settings)
