"""The other tools of docs/detection.md are content with a sound export, see a crude fault, and miss what they must."""

import pytest

from fixtures.export import seeded
from fixtures.export.onnx_export import OPSET, export_onnx
from fixtures.faults.planting import build_faulty_artifact
from fixtures.faults.table import FAULT
from fixtures.models.settings import Settings
from fixtures.runtimes import hardware
from suites.meta.studies.detection.rivals import RIVALS, Comparison

SETTINGS = Settings(task="embedding", source="seeded:bert@7", max_length=64, pooling="mean", normalize=True)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """What the tools are asked about the plain export of a tiny embedder."""
    folder = tmp_path_factory.mktemp("sound")
    checkpoint, plain = folder / "checkpoint", folder / "plain"
    checkpoint.mkdir()
    plain.mkdir()
    seeded.make([], checkpoint, {"architecture": "bert", "seed": 7, "auto_class": "AutoModel", "labels": 1})
    export_onnx([checkpoint], plain, {"task": "feature-extraction", "opset": OPSET})
    return Comparison(checkpoint, plain, plain, SETTINGS, "plain")


@pytest.fixture
def faulty(sound, tmp_path):
    """Return a function: name of a fault -> what the tools are asked about it."""

    def plant(name):
        machine = hardware.detect(None)
        folder = build_faulty_artifact(FAULT[name], "plain", {"plain": sound.sound}, SETTINGS, machine, tmp_path)
        return Comparison(sound.checkpoint, sound.sound, folder, SETTINGS, "plain")

    return plant


@pytest.mark.parametrize("rival", RIVALS, ids=lambda rival: rival.name)
def test_content_with_a_sound_export(rival, sound):
    assert rival.judge(sound) == ""


@pytest.mark.parametrize("name", ["relu-for-gelu", "last-layer-skipped", "file-truncated"])
@pytest.mark.parametrize("rival", RIVALS, ids=lambda rival: rival.name)
def test_sees_a_crude_fault(rival, faulty, name):
    assert rival.judge(faulty(name))


@pytest.mark.parametrize("name", ["lowercasing-off", "embedding-row-wrong", "tokenizer-from-another-revision"])
@pytest.mark.parametrize("rival", RIVALS, ids=lambda rival: rival.name)
def test_misses_what_it_does_not_look_at(rival, faulty, name):
    """Not to their discredit: it is what exportgate is for."""
    assert rival.judge(faulty(name)) == ""
