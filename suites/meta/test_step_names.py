"""Names of step functions: they are part of every store key, and do not follow from where a function lies."""

from pathlib import Path

import msgspec
import onnxruntime
import pytest

from fixtures.build import step
from fixtures.build.step import STEP_NAMES, Step, key_of, step_function
from fixtures.diagnosis import integers
from fixtures.export import quantize, recipes
from fixtures.export.variants import VARIANT
from fixtures.models.checkpoints import Checkpoint
from fixtures.models.settings import Model, Settings
from fixtures.runtimes import emulation, hardware
from fixtures.scoring import scores, stress, tokens
from fixtures.scoring.tasks import TASKS

MACHINE = hardware.Machine("x86_64", "avx2", "avx2", "cpu", 2, 2, 2**34, ("CPUExecutionProvider",))
FOLDER = Path("/nowhere")
CHECKPOINTS = {
    "embedder": Checkpoint(None, None, "sha256:" + "0" * 64),
    "reranker": Checkpoint(FOLDER, FOLDER, "sha256:" + "2" * 64),
    "decoder": Checkpoint(FOLDER, None, "sha256:" + "1" * 64),
    "m3": Checkpoint(None, None, "sha256:" + "0" * 64),
}
SETTINGS = {
    "embedder": {
        "task": "embedding", "source": "seeded:bert@7", "max_length": 64, "pooling": "mean", "normalize": True,
    },
    "reranker": {"task": "rerank", "source": "path:x", "max_length": 512},
    "decoder": {
        "task": "decoder-rerank", "source": "path:x", "max_length": 512, "template": "{query}{passage}",
        "tokenizer": {"padding_side": "left"},
    },
    "m3": {"task": "bge-m3", "source": "seeded:xlm_roberta@12", "max_length": 64},
}  # fmt: skip
GOLDEN = {
    "embedder checkpoint": "773f04e2355daafce68895426f6b81aa",
    "embedder tokens": "125ad76602b677c0312ebeb6147972b6",
    "embedder reference": "ca15819d31fce4fb1b0633348f1b6abd",
    "embedder answers": "6c8d4eb810b20060595f66a38020b1ad",
    "embedder optimum": "cff9c24f22ce3806ea4ab23fb92bd188",
    "embedder plain": "39dc5673f677e62bf5c63b60f39b6903",
    "embedder O2": "7c7cd4902d950ee18d46ebb790c3a8b2",
    "embedder quantized": "ddb28b5b1b6bb4ded95f15f157e36aa8",
    "embedder quantized scores": "1bc5de7c98c6e94d4efbadbb4f74c3ba",
    "embedder O2-quantized": "cc8174d5a524f781dbec025dca02ba4d",
    "embedder static-quantized": "385fa863592543b21117dd372c36e9d2",
    "embedder static-quantized-restored": "badf42d75cf3117673a8a26ddee6f81b",
    "embedder openvino-static": "5ee6523da18a49600372a1a1aa6f4b36",
    "embedder exact": "4b7864f11705412083a19b30b567e73f",
    "embedder investigation": "a414d2a2b94c5e691632e62f9a6752e9",
    "embedder emulator": "c19f2e54d86a75e8d1e69073e16f8c0b",
    "embedder emulated scores": "3caea5e251b78cb92db90e193b7e3872",
    "reranker checkpoint": "61cf93b38f574855f663bb46bed9d569",
    "reranker O4": "e1a0853b81cfbb242fc8a3da072661b8",
    "decoder tokens": "217da53b3ff0821c80767384cb8395d4",
    "m3 plain": "75fd6417dd0298c154f5d6bf41f9f4e4",
}
"""Model and step -> its key when every tool has version 1, as it was while the machinery was one folder."""


def keys_of(name: str) -> dict[str, str]:
    """Return the keys of everything that is built for a model."""
    settings, checkpoint = msgspec.convert(SETTINGS[name], Settings), CHECKPOINTS[name]
    model, task = Model(name, FOLDER, settings), TASKS[settings.task]
    root = recipes.prepare(name, checkpoint, settings.source, task.auto_class, settings.labels)
    tokenised = tokens.plan_tokens(model, checkpoint if checkpoint.folder else root)
    steps = {
        "tokens": tokenised,
        "reference": scores.plan_reference(model, root, tokenised),
        "answers": stress.plan_stress_reference(model, root, tokenised),
        "emulator": emulation.plan(emulation.PROCESSORS["arm64"], "1.32.0"),
    }
    if isinstance(root, Step):
        steps["checkpoint"] = root
    goal = {"limits": {"max_abs_error": 0.1}}
    for variant in VARIANT.values():
        artifact = recipes.plan(
            name, variant, root, task.export_task, MACHINE, recipes.OWN_EXPORTS.get(task.name), tokenised, goal
        )
        steps[variant.name] = artifact
        steps[f"{variant.name} scores"] = scores.plan_scores(
            model, "CPUExecutionProvider", artifact, tokenised, MACHINE
        )
    steps["optimum"] = stress.plan_optimum_scores(model, "CPUExecutionProvider", steps["plain"], tokenised)
    steps["emulated scores"] = scores.plan_scores(
        model, "CPUExecutionProvider", steps["plain"], tokenised, emulation.machine(MACHINE, "arm64"), steps["emulator"]
    )
    steps["exact"] = Step(quantize.exact_integers, "", (steps["quantized"],), {}, ("onnx",))
    steps["investigation"] = Step(
        integers.investigate, "", (steps["quantized"], tokenised), {"emulated": "", "processor": ["cpu", "avx2"]},
        ("onnxruntime",), by_content=True, revision=2,
    )  # fmt: skip
    return {f"{name} {label}": key_of(planned.document) for label, planned in steps.items()}


def test_keys_are_those_of_a_store_that_was_filled_before(monkeypatch):
    """A key that moves rebuilds everybody's store: only a step's own outcome may move it, by its revision."""
    monkeypatch.setattr(onnxruntime, "get_build_info", lambda: "build")
    for module in (step, stress):
        monkeypatch.setattr(module, "version_of", lambda name: f"{name} 1")
    keys = {key: value for name in SETTINGS for key, value in keys_of(name).items()}
    assert {key: keys[key] for key in GOLDEN} == GOLDEN


def test_two_step_functions_never_share_a_name():
    name = next(iter(STEP_NAMES.values()))
    with pytest.raises(ValueError, match=f"two step functions are called '{name}'"):
        step_function(name)(lambda inputs, output, parameters: None)


def test_function_without_a_name_is_no_step():
    """Its key would be that of no store."""
    with pytest.raises(ValueError, match="nameless is no step function: register it with step_function"):
        Step(nameless, "label", ()).document  # noqa: B018


def nameless(inputs, output, parameters):
    """Never runs."""
