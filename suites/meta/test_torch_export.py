"""PyTorch's own exporter: its graphs score as PyTorch does under any mask, and are kept apart from Optimum's."""

import importlib.util
import re

import numpy as np
import onnx
import pytest
from safetensors import safe_open

from fixtures.build.step import Step
from fixtures.build.store import Store
from fixtures.export import recipes, torch_export
from fixtures.export.onnx_export import OPSET
from fixtures.export.variants import VARIANT, recipe_limits
from fixtures.graphs.graph import added_operators, input_types, module_of, output_types
from fixtures.models.checkpoints import Checkpoint
from fixtures.models.settings import limit_of
from fixtures.runtimes import hardware
from fixtures.runtimes.onnx_runtime import OnnxRuntime
from fixtures.runtimes.torch_runtime import TorchRuntime
from suites.meta.house import EMBEDDER, LOOSE, House

MACHINE = hardware.detect()
MASKS = {
    "right padding": [[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]],
    "left padding": [[1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1]],
    "holes": [[1, 0, 1, 1, 0, 1], [1, 1, 0, 0, 1, 1]],
}
EMBEDDING = {"auto_class": "AutoModel", "outputs": ["last_hidden_state"], "position_ids": False}


@pytest.fixture(scope="module", params=["bert", "xlm_roberta", "mpnet", "modernbert", "qwen3", "t5", "deberta_v2"])
def tiny(request, shared_store):
    """Return a function: variant -> folder of a tiny embedder's artifact; and the folder of its checkpoint."""
    store = Store(shared_store)
    root = recipes.prepare("tiny", Checkpoint(None, None, "sha256:" + "0" * 64), f"seeded:{request.param}@7")

    def folder(variant):
        return store.run(
            recipes.plan(
                "tiny", VARIANT[variant], root, "feature-extraction", MACHINE, exporter="torch", traced=EMBEDDING
            )
        ).folder

    assert isinstance(root, Step)
    return folder, store.run(root).folder


@pytest.mark.parametrize("variant", ["O2-quantized", "O3-quantized"])
def test_projections_of_fused_attention_are_quantized(tiny, variant):
    folder, _ = tiny
    graph = onnx.load(folder(variant) / "model.onnx").graph
    matrices = {
        tensor.name
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2
    }
    in_fp32 = [node.name for node in graph.node if node.op_type in ("Attention", "MatMul") and matrices & {*node.input}]
    assert in_fp32 == []


@pytest.mark.parametrize("variant", ["plain", "O1", "O2"])
@pytest.mark.parametrize("mask", MASKS)
def test_graph_scores_as_pytorch_under_any_mask(tiny, variant, mask):
    folder, checkpoint = tiny
    feeds = {"input_ids": np.arange(5, 17).reshape(2, 6), "attention_mask": np.array(MASKS[mask])}
    runtime = OnnxRuntime(folder(variant) / "model.onnx", 1)
    feeds |= {"token_type_ids": np.zeros((2, 6), np.int64)} if "token_type_ids" in runtime.inputs else {}
    expected = TorchRuntime(checkpoint, "AutoModel", 1)(feeds)["last_hidden_state"]
    kept = feeds["attention_mask"].astype(bool)
    np.testing.assert_allclose(runtime(feeds)["last_hidden_state"][kept], expected[kept], atol=2e-5)


def test_inputs_and_outputs_are_the_tasks_and_free(tiny):
    folder, _ = tiny
    model = onnx.load(folder("plain") / "model.onnx")
    names = input_types(model).keys()
    assert {"input_ids", "attention_mask"} <= names <= {"input_ids", "attention_mask", "token_type_ids"}
    assert all(kind == "int64" and list(axes) == ["batch", "sequence"] for kind, axes in input_types(model).values())
    ((name, (kind, axes)),) = output_types(model).items()
    assert (name, kind, list(axes[:2])) == ("last_hidden_state", "float", ["batch", "sequence"])


def test_weights_and_nodes_are_named_after_the_checkpoints_modules(tiny):
    folder, checkpoint = tiny
    graph = onnx.load(folder("plain") / "model.onnx").graph
    names = {weight.name for weight in graph.initializer}
    with safe_open(checkpoint / "model.safetensors", "np") as weights:
        tensors = set(weights.keys())
        vectors = {name for name in tensors if len(weights.get_slice(name).get_shape()) == 1 and "pooler" not in name}
    assert vectors <= names, "matrices are transposed, and have names of their own"
    modules = {name.rpartition(".")[0] for name in tensors}
    products = {module_of(node.name) for node in graph.node if node.op_type == "MatMul"} - {""}
    assert len(products & modules) >= 4
    assert all(node.output[0].startswith(node.name) for node in graph.node[:-1])


@pytest.mark.parametrize("variant", ["plain", "O2", "O3"])
def test_shapes_of_weights_are_not_stated_beside_them(tiny, variant):
    """ONNX Runtime's quantizer up to 1.27 ends where it transposes a weight of which another shape is stated."""
    folder, _ = tiny
    graph = onnx.load(folder(variant) / "model.onnx").graph
    assert not {value.name for value in graph.value_info} & {weight.name for weight in graph.initializer}


@pytest.mark.parametrize("variant", ["quantized", "O2-quantized"])
def test_no_step_changes_what_it_reads(shared_store, variant):
    store = Store(shared_store)
    root = recipes.prepare("tiny", Checkpoint(None, None, "sha256:" + "0" * 64), "seeded:bert@7")
    step = recipes.plan(
        "tiny", VARIANT[variant], root, "feature-extraction", MACHINE, exporter="torch", traced=EMBEDDING
    )
    assert [words for needed in step.lineage() for words in store.run(needed).touched] == []


def test_attention_is_fused_with_the_mask_as_a_bias(shared_store):
    store = Store(shared_store)
    root = recipes.prepare("tiny", Checkpoint(None, None, "sha256:" + "0" * 64), "seeded:bert@7")
    step = recipes.plan("tiny", VARIANT["O2"], root, "feature-extraction", MACHINE, exporter="torch", traced=EMBEDDING)
    model = onnx.load(store.run(step).folder / "model.onnx")
    fused = added_operators(model)
    attentions = [node for node in model.graph.node if node.op_type == "Attention"]
    assert len(attentions) == fused["com.microsoft.Attention"] == 2
    assert all(not node.input[3] and node.input[5] for node in attentions), "no lengths, and a bias"
    assert fused["com.microsoft.SkipLayerNormalization"] == 4


def test_graph_that_cannot_be_loaded_is_no_artifact(tmp_path, shared_store):
    """ONNX Script 0.7 gives a product of GPT-2 three axes where it takes two."""
    house = House(tmp_path, shared_store)
    house.add("tiny", EMBEDDER.replace("bert@7", "gpt2@7").replace("mean", "last") + LOOSE)
    run = house.run("--exporter=torch", "--variant=O2", "--variant=plain")
    assert run.returncode == 0, run.text
    assert house.statuses() == {"plain": "unbaselined", "O2": "unsupported"}
    assert "ONNX Script's fusions do not know this architecture" in run.stdout.replace("\n  ", " ")


@pytest.mark.parametrize("level", ["O1", "O2", "O3"])
def test_large_weights_lie_in_a_file_of_their_own(shared_store, tmp_path, monkeypatch, level):
    monkeypatch.setattr(torch_export, "LARGEST_INLINE_BYTES", 10_000)
    root = recipes.prepare("tiny", Checkpoint(None, None, "sha256:" + "0" * 64), "seeded:bert@7")
    assert isinstance(root, Step)
    plain, optimized = tmp_path / "plain", tmp_path / "optimized"
    plain.mkdir()
    optimized.mkdir()
    parameters = {"task": "feature-extraction", "opset": OPSET, **EMBEDDING}
    torch_export.export_torch([Store(shared_store).run(root).folder], plain, parameters)
    torch_export.fuse([plain], optimized, {"level": level})
    feeds = {"input_ids": np.arange(5, 17).reshape(2, 6), "attention_mask": np.ones((2, 6), np.int64)}
    feeds |= {"token_type_ids": np.zeros((2, 6), np.int64)}
    hidden = []
    for folder in (plain, optimized):
        assert (folder / "model.onnx_data").stat().st_size > 10_000
        hidden.append(OnnxRuntime(folder / "model.onnx", 1)(feeds)["last_hidden_state"])
    np.testing.assert_allclose(hidden[1], hidden[0], atol=0.01 if level == "O3" else 2e-5)


def test_optimum_is_no_exporter_beside_transformers_5(monkeypatch):
    assert recipes.is_installed(recipes.EXPORTERS["optimum"])
    monkeypatch.setattr(recipes, "version_of", lambda name: "5.24.0")
    assert not recipes.is_installed(recipes.EXPORTERS["optimum"])
    assert recipes.default_exporter() == "torch"


def test_exporters_have_keys_and_baselines_of_their_own(tmp_path, shared_store):
    house = House(tmp_path, shared_store)
    house.add("tiny", EMBEDDER + LOOSE)
    digests = {}
    for exporter in ("optimum", "torch"):
        run = house.run("--exporter", exporter, "--variant", "plain", "--variant", "quantized", "--approve")
        assert run.returncode == 0, run.text
        machine = house.gate()["machine"]
        assert machine["baseline"] == {"optimum": MACHINE.baseline, "torch": f"torch-{MACHINE.baseline}"}[exporter]
        digests[exporter] = {row["variant"]: row["digest"] for row in house.gate()["models"][0]["variants"]}
        run = house.run("--exporter", exporter, "--variant", "plain", "--variant", "quantized")
        assert run.returncode == 0, run.text
        assert house.statuses() == {"plain": "pass", "quantized": "pass"}
    assert not set(digests["optimum"].values()) & set(digests["torch"].values())
    assert (house.baselines / "tiny" / f"torch-{MACHINE.baseline}.json").is_file()


def test_limits_of_optimums_recipes_excuse_no_graph_of_pytorch(tmp_path, shared_store):
    """O2 of Optimum is wrong under left padding, and known to be; that of PyTorch's exporter holds."""
    house = House(tmp_path, shared_store)
    house.add("tiny", EMBEDDER + LOOSE)
    for exporter, status in (("optimum", "limit"), ("torch", "pass")):
        run = house.run(f"--exporter={exporter}", "--variant=O2", suite="suites/conformance/test_masks.py")
        assert run.returncode in (0, 5), run.text
        (variant,) = house.gate()["models"][0]["variants"]
        assert variant["checks"]["scores_hold_under_mask[left-padding]"]["status"] == status


def test_variant_that_it_cannot_make_says_why(tmp_path, shared_store):
    house = House(tmp_path, shared_store)
    house.add("tiny", EMBEDDER + LOOSE)
    run = house.run("--exporter=torch", "--variant=O2-raw-mask", "--variant=plain")
    assert run.returncode == 0, run.text
    assert house.statuses() == {"plain": "unbaselined", "O2-raw-mask": "unsupported"}
    reasons = {row["variant"]: row["reason"] for row in house.gate()["models"][0]["variants"]}
    assert "gives fused attention the whole mask anyway" in reasons["O2-raw-mask"]


@pytest.mark.parametrize(
    "variant", ["static-quantized", "quantized-restored", "O2-quantized-restored", "int4-restored"]
)
def test_its_graphs_are_quantized_in_every_way(tmp_path, shared_store, variant):
    """Weights are compared with those of the graph before, and with the checkpoint's."""
    house = House(tmp_path, shared_store)
    loose = "]\nmax_abs_error = 1\nmin_cosine = -1\nmax_similarity_change = 2\ntopk_overlap = 0\n"
    house.add("tiny", f'{EMBEDDER}{LOOSE}[ceilings."int8, static"{loose}[ceilings."int8, restored"{loose}')
    run = house.run("--exporter=torch", f"--variant={variant}")
    assert run.returncode == 0, run.text
    for suite in ("suites/conformance/test_quantization.py", "suites/conformance/test_weights.py"):
        run = house.run("--exporter=torch", f"--variant={variant}", suite=suite)
        assert run.returncode == 0, run.text


def test_unknown_exporter_is_a_usage_error(house):
    house.add("tiny", EMBEDDER)
    assert house.usage_error(exporter="tensorflow") == "--exporter: 'tensorflow' is none of optimum, torch"


def test_first_that_is_installed_is_the_default(house, monkeypatch):
    house.add("tiny", EMBEDDER)
    assert house.start().context.exporter.name == "optimum"
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "optimum" in name else find_spec(name))
    gate = house.start()
    assert gate.context.exporter.name == "torch"
    assert gate.context.versions["onnxscript"]
    message = "--exporter: optimum needs optimum.onnxruntime, which is not installed here"
    assert re.fullmatch(message, house.usage_error(exporter="optimum"))


def test_failure_is_reproduced_in_the_environment_that_it_was_seen_in(house):
    house.add("tiny", EMBEDDER + "[ceilings.fp32]\nmax_abs_error = 1e-12\n")
    for running, named in (("gate-transformers5", "gate-transformers5"), ("meta", "gate")):
        run = house.run("--variant", "plain", variables={"TOX_ENV_NAME": running})
        assert run.returncode == 1, run.text
        assert f"reproduce: tox run -e {named} -- " in run.stdout


def test_fusions_that_the_installed_runtime_computes_wrongly_are_a_known_limit(tmp_path, monkeypatch):
    """Of several limits of a check, that one is told which it failed by."""
    monkeypatch.setattr("fixtures.export.torch_export.version_of", lambda name: "1.20.1")
    with pytest.raises(NotImplementedError, match=r"this is 1\.20\.1") as raised:
        torch_export.fuse([tmp_path], tmp_path, {"level": "O2"})
    limits = recipe_limits(VARIANT["O2"], "torch")
    limit = limit_of("builds", "O2", limits, str(raised.value))
    assert limit is not None
    assert limit.error in str(raised.value)
    other = limit_of("builds", "O2", limits, "ONNX Script's fusions make a graph that cannot be loaded")
    assert other is not None
    assert other != limit
