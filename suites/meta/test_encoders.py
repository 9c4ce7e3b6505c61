"""Of an architecture with a decoder the encoder alone is judged, or the folder is refused by name."""

import json

import numpy as np
import onnxruntime
import pytest

from fixtures.export import seeded
from fixtures.export.onnx_export import OPSET, export_onnx
from fixtures.models.encoders import ENCODERS
from fixtures.models.files import checkpoint_digest
from fixtures.models.transformers_files import translation_of
from fixtures.runtimes.optimum_runtime import OptimumRuntime
from fixtures.runtimes.providers import CPU
from fixtures.runtimes.torch_runtime import TorchRuntime

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

EXPORT = {"task": "feature-extraction", "opset": OPSET}
IDS = np.array([[5, 9, 2, 7, 1], [8, 1, 0, 0, 0]])
FEEDS = {"input_ids": IDS, "attention_mask": (IDS > 0).astype(np.int64)}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Return a function: `model_type` -> a seeded checkpoint of its encoder."""
    folders = {}

    def folder(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            seeded.make([], folders[name], {"architecture": name, "seed": 7, "auto_class": "AutoModel", "labels": 1})
        return folders[name]

    return folder


def whole(folder, target):
    """Save a checkpoint with a decoder of random weights around an encoder, as people who train one keep it."""
    config = transformers.T5Config.from_pretrained(folder, is_encoder_decoder=True)
    model = transformers.T5ForConditionalGeneration(config)
    encoder = transformers.T5EncoderModel.from_pretrained(folder)
    model.load_state_dict(encoder.state_dict(), strict=False)
    model.save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json", "spiece.model", "special_tokens_map.json"):
        (target / name).write_bytes((folder / name).read_bytes())
    return target


def real(hidden):
    """Return the rows of tokens, (tokens, d), of (batch, length, d)."""
    return hidden[FEEDS["attention_mask"] == 1]


@pytest.mark.parametrize("name", ENCODERS)
def test_reference_and_export_are_the_encoders(folder_of, tmp_path, name):
    folder = folder_of(name)
    runtime = TorchRuntime(folder, "AutoModel", 1)
    assert type(runtime.model).__name__ == ENCODERS[name]
    expected = runtime(FEEDS)["last_hidden_state"]
    export_onnx([folder], tmp_path, EXPORT)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    assert [tensor.name for tensor in session.get_inputs()] == ["input_ids", "attention_mask"]
    assert [tensor.name for tensor in session.get_outputs()] == ["last_hidden_state"]
    np.testing.assert_allclose(real(session.run(None, FEEDS)[0]), real(expected), atol=1e-5)
    assert not list(tmp_path.glob("*decoder*"))


def test_decoder_beside_the_encoder_changes_nothing(folder_of, tmp_path):
    """Sentence-T5 and GTR are encoders; a T5 that was trained in full has a decoder, which no text goes through."""
    folder, exported = tmp_path / "whole", tmp_path / "exported"
    exported.mkdir()
    whole(folder_of("t5"), folder)
    assert json.loads((folder / "config.json").read_text())["is_encoder_decoder"]
    alone, beside = (TorchRuntime(path, "AutoModel", 1)(FEEDS) for path in (folder_of("t5"), folder))
    np.testing.assert_array_equal(alone["last_hidden_state"], beside["last_hidden_state"])
    export_onnx([folder], exported, EXPORT)
    optimum = OptimumRuntime(exported / "model.onnx", "ORTModelForFeatureExtraction", CPU)
    np.testing.assert_allclose(real(optimum(FEEDS)["last_hidden_state"]), real(alone["last_hidden_state"]), atol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_keys_of_real_checkpoints_are_harmless(tmp_path, name):
    """Those that sentence-t5-base and umt5-small have and no class reads, saved anew by a later Transformers."""
    keys = {"model_type": name, "n_positions": 512, "output_past": True, "scalable_attention": True}
    (tmp_path / "config.json").write_text(json.dumps(keys | {"transformers_version": "99.0.0"}))
    assert translation_of({"config.json": tmp_path / "config.json"}) == {}


def test_fp16_is_exported_in_half_precision(folder_of, tmp_path):
    export_onnx([folder_of("t5")], tmp_path, EXPORT | {"dtype": "fp16"})
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    assert session.run(None, FEEDS)[0].dtype == np.float16


def test_other_encoder_decoders_are_refused_by_name(house, tmp_path):
    config = transformers.BartConfig(
        **{"vocab_size": 50, "d_model": 16, "max_position_embeddings": 64},
        **{f"{part}_{size}": 2 for part in ("encoder", "decoder") for size in ("layers", "attention_heads")},
        **{f"{part}_ffn_dim": 16 for part in ("encoder", "decoder")},
    )
    transformers.BartModel(config).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    digest = checkpoint_digest(tmp_path)
    keys = 'max_length = 32\npooling = "mean"\n'
    house.add("bart", f'task = "embedding"\nsource = "path:{tmp_path}"\ndigest = "sha256:{digest}"\n{keys}')
    message = house.usage_error()
    assert "config.json: is_encoder_decoder: a bart has a decoder" in message
    assert "t5, mt5, umt5" in message
