"""The other tools of docs/detection.md are content with a sound export, see a crude fault, and miss what they must."""

import pytest

from fixtures.export import seeded
from fixtures.export.onnx_export import OPSET, export_onnx
from fixtures.faults.planting import build_faulty_artifact
from fixtures.faults.table import FAULT
from fixtures.models.settings import Settings
from fixtures.runtimes import hardware
from suites.meta.rivals import RIVALS

SETTINGS = Settings(task="embedding", source="seeded:bert@7", max_length=64, pooling="mean", normalize=True)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """(checkpoint, plain export) of a tiny embedder."""
    folder = tmp_path_factory.mktemp("sound")
    for name in ("checkpoint", "plain"):
        (folder / name).mkdir()
    seeded.make([], folder / "checkpoint", {"architecture": "bert", "seed": 7, "auto_class": "AutoModel", "labels": 1})
    export_onnx([folder / "checkpoint"], folder / "plain", {"task": "feature-extraction", "opset": OPSET})
    return folder / "checkpoint", folder / "plain"


@pytest.fixture
def faulty(sound, tmp_path):
    def build(name):
        place = tmp_path / name
        place.mkdir()
        fault = FAULT[name]
        return build_faulty_artifact(fault, "plain", {"plain": sound[1]}, SETTINGS, hardware.detect(None), place)

    return build


@pytest.mark.parametrize("rival", RIVALS, ids=lambda one: one.name)
def test_content_with_a_sound_export(rival, sound):
    checkpoint, plain = sound
    assert rival.judge(checkpoint, plain, plain, SETTINGS, "plain") == ""


@pytest.mark.parametrize("name", ["relu-for-gelu", "last-layer-skipped", "file-truncated"])
@pytest.mark.parametrize("rival", RIVALS, ids=lambda one: one.name)
def test_sees_a_crude_fault(rival, sound, faulty, name):
    checkpoint, plain = sound
    assert rival.judge(checkpoint, plain, faulty(name), SETTINGS, "plain")


@pytest.mark.parametrize("name", ["lowercasing-off", "embedding-row-wrong", "tokenizer-from-another-revision"])
@pytest.mark.parametrize("rival", RIVALS, ids=lambda one: one.name)
def test_misses_what_it_does_not_look_at(rival, sound, faulty, name):
    """Not to their discredit: it is what exportgate is for."""
    checkpoint, plain = sound
    assert rival.judge(checkpoint, plain, faulty(name), SETTINGS, "plain") == ""
