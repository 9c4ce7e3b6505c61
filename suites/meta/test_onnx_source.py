"""An ONNX file as the reference: no checkpoint of PyTorch is anywhere."""

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fixtures.graphs.weights import compare, tensors_of
from suites.meta.house import LOOSE, House

MODEL = 'task = "embedding"\nsource = "seeded:bert@7"\nmax_length = 64\npooling = "mean"\nnormalize = true\n' + LOOSE


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A house, and a folder with onnx/model.onnx and onnx/model_quantized.onnx and no weights of PyTorch."""
    folder = tmp_path_factory.mktemp("onnx-source")
    house = House(folder, folder / "store")
    house.add("embedder", MODEL)
    run = house.run("--variant", "plain", "--variant", "quantized", "--export-to", str(folder / "family"))
    assert run.returncode == 0, run.text
    shutil.rmtree(house.baselines / "embedder")
    return house, folder / "family"


def source(folder, digest=""):
    toml = MODEL.replace("seeded:bert@7", f"onnx:{folder}")
    return toml.replace("max_length", f'digest = "{digest}"\nmax_length', 1) if digest else toml


def pinned(house, folder):
    """Write a model.toml for a folder, with the digest that the error names."""
    house.add("family", source(folder))
    digest = house.usage_error().split('digest = "')[1].split('"')[0]
    house.add("family", source(folder, digest))


def test_family_is_judged_against_its_own_file(exported):
    house, folder = exported
    pinned(house, folder)
    suites = "suites/accuracy", "suites/conformance/test_masks.py", "suites/conformance/test_weights.py"
    run = house.run(*suites[1:], suite=suites[0])
    assert run.returncode == 0, run.text
    plain, quantized = house.gate()["models"][0]["variants"]
    assert plain["closeness"]["max_abs_error"] == 0
    assert 0 < quantized["closeness"]["max_abs_error"] < 0.5
    assert quantized["path"] == str(folder / "onnx" / "model_quantized.onnx")
    assert quantized["matched_share"] > 0.95
    assert "scores_hold_under_mask[left-padding]" in quantized["checks"]
    exports = [manifest["recipe"] for manifest, _ in house.artifacts("export_onnx")]
    assert len(exports) == 1, "the family itself was exported"


def test_checkpoint_of_a_folder_without_pytorch_is_its_onnx_file(exported):
    house, folder = exported
    unnamed = folder.with_name("unnamed")
    shutil.copytree(folder, unnamed)
    run = house.run("--checkpoint", str(unnamed))
    assert run.returncode == 0, run.text
    assert f'source = "onnx:{unnamed}"' in run.stdout
    assert [row["variant"] for row in house.gate()["models"][0]["variants"]] == ["plain", "quantized"]


def test_damaged_member_of_a_family_is_named(exported, tmp_path):
    house, folder = exported
    damaged = tmp_path / "family"
    shutil.copytree(folder, damaged)
    file = damaged / "onnx" / "model_quantized.onnx"
    model = onnx.load(file)
    scale = next(
        tensor for tensor in model.graph.initializer if tensor.name.endswith("_scale") and np.prod(tensor.dims) > 1
    )
    values = numpy_helper.to_array(scale).copy()
    values[3] *= 2
    scale.CopyFrom(numpy_helper.from_array(values, scale.name))
    onnx.save(model, file)
    pinned(house, damaged)
    run = house.run(suite="suites/conformance/test_weights.py")
    assert run.returncode == 1
    assert "quantized" in run.stdout
    assert "weights_are_the_checkpoints" in run.stdout


def test_variant_without_a_file_is_unsupported(exported):
    house, folder = exported
    pinned(house, folder)
    run = house.run("--variant", "O2", "--variant", "plain")
    assert run.returncode == 0, run.text
    assert house.statuses()["O2"] == "unsupported"
    reasons = {row["variant"]: row["reason"] for row in house.gate()["models"][0]["variants"]}
    assert "of which nothing is exported" in reasons["O2"]


def without_reference(folder):
    (folder / "onnx" / "model.onnx").unlink()


def without_config(folder):
    (folder / "config.json").unlink()


def without_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)


def with_quantized_reference(folder):
    shutil.copyfile(folder / "onnx" / "model_quantized.onnx", folder / "onnx" / "model.onnx")


def with_an_unknown_operator(folder):
    file = folder / "onnx" / "model.onnx"
    model = onnx.load(file)
    model.graph.node[0].domain, model.graph.node[0].op_type = "com.acme", "Foo"
    model.opset_import.append(onnx.helper.make_opsetid("com.acme", 1))
    onnx.save(model, file)


def test_reference_that_is_not_run_fails_without_a_traceback(exported, tmp_path):
    house, folder = exported
    damaged = tmp_path / "family"
    shutil.copytree(folder, damaged)
    with_an_unknown_operator(damaged)
    pinned(house, damaged)
    run = house.run("--variant", "plain")
    assert run.returncode == 1
    assert "com.acme:Foo(-1) is not a registered function/op" in run.stdout
    assert "Traceback" not in run.stdout
    assert "Context(" not in run.stdout


def with_half_a_graph(folder):
    file = folder / "onnx" / "model.onnx"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_reference, "holds no onnx/model.onnx or model.onnx"),
        (without_config, "holds no config.json"),
        (without_tokenizer, "holds no tokenizer"),
        (with_quantized_reference, "a reference has to be in fp32"),
        (with_half_a_graph, "cannot be read as ONNX"),
    ],
)
def test_folder_that_cannot_be_a_reference_is_refused(exported, tmp_path, damage, message):
    house, folder = exported
    damaged = tmp_path / "family"
    shutil.copytree(folder, damaged)
    damage(damaged)
    house.add("family", source(damaged))
    error = house.usage_error()
    assert message in error
    assert "source" in error or "model.toml" in error


def test_other_digest_is_refused(exported):
    house, folder = exported
    house.add("family", source(folder, "sha256:" + "0" * 64))
    assert "not the pinned" in house.usage_error()


def test_tensors_of_a_graph_are_those_of_its_family(exported):
    _, folder = exported
    plain = onnx.load(folder / "onnx" / "model.onnx")
    tensors = tensors_of(plain)
    assert not compare(tensors, plain).differences
    name = next(name for name in tensors if name.endswith("intermediate.dense.weight"))
    config = json.loads((folder / "config.json").read_text())
    assert tensors[name].shape == (config["intermediate_size"], config["hidden_size"])
    tensors[name] = tensors[name] * 1.01
    assert compare(tensors, plain).differences
