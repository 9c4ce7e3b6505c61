"""Pickled weights that name more than tensors: nothing runs, and the file and the name are told."""

import os

import pytest

from fixtures.export import seeded
from fixtures.export.onnx_export import export_onnx
from fixtures.models.pickles import PickleRefused, refusals_explained, refused_name
from fixtures.runtimes.torch_runtime import load_fp32

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint with pickled weights alone."""
    folder = tmp_path_factory.mktemp("pickled")
    seeded.make([], folder, {"architecture": "bert", "seed": 0, "auto_class": "AutoModel", "labels": 1})
    weights = load_fp32("AutoModel", folder).state_dict()
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


@pytest.fixture
def hostile(checkpoint, tmp_path):
    """The checkpoint with a pickle that makes a file when it is loaded; the file."""
    trace = tmp_path / "ran"

    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(trace),)

    file = checkpoint / "pytorch_model.bin"
    sound = file.read_bytes()
    torch.save(torch.load(file, weights_only=True) | {"more": Hostile()}, file)
    yield trace
    file.write_bytes(sound)


def test_pickle_of_tensors_is_loaded(checkpoint, tmp_path):
    assert refused_name(checkpoint / "pytorch_model.bin") == ""
    assert load_fp32("AutoModel", checkpoint)
    export_onnx([checkpoint], tmp_path, {"task": "feature-extraction", "opset": 18})
    assert (tmp_path / "model.onnx").is_file()


REFUSED = (
    r"^pytorch_model.bin is a pickle that names \w+.mkdir, which would run when it is loaded: nothing of it was "
    r"loaded; ask for the weights as .safetensors$"
)


def test_pickle_that_would_run_is_refused_by_its_name(checkpoint, hostile, tmp_path):
    with pytest.raises(PickleRefused, match=REFUSED):
        load_fp32("AutoModel", checkpoint)
    with pytest.raises(PickleRefused, match=REFUSED):
        export_onnx([checkpoint], tmp_path, {"task": "feature-extraction", "opset": 18})
    assert not hostile.exists()


def test_other_errors_stay_as_they_are(checkpoint, tmp_path):
    with pytest.raises(OSError, match=r"^no such disk$"), refusals_explained(checkpoint):
        raise OSError("no such disk")
    (tmp_path / "pytorch_model.bin").write_bytes(b"no pickle")
    with pytest.raises(OSError, match=r"^no such disk$"), refusals_explained(tmp_path):
        raise OSError("no such disk")
