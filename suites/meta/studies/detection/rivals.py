"""What other tools say of the same artifact, each used as its makers show it."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fixtures.arrays import Floats
from fixtures.export.variants import VARIANT
from fixtures.models.settings import Settings
from fixtures.runtimes.onnx_runtime import OnnxRuntime
from fixtures.runtimes.providers import MODEL_FILE
from fixtures.runtimes.session import Feeds
from fixtures.runtimes.torch_runtime import TorchRuntime
from fixtures.scoring.tasks import TASKS, Scoring, score_batch

SENTENCES = (
    "The ferry leaves the harbour at six in the morning.",
    "She has kept bees on the roof for eleven years now.",
    "A new battery takes the van about three hundred miles.",
    "The library closes early on Fridays during the summer.",
    "He paid the fine online and kept a copy of the receipt.",
    "Our train was late, so we missed the second half of it.",
    "The recipe asks for two cups of flour and some butter.",
    "Nobody had told the new doctor where the keys were kept.",
)
"""Of about one length, as people take them when they compare two models by hand."""


@dataclass(frozen=True)
class Comparison:
    """What a tool is asked about.

    Attributes:
        checkpoint, sound, faulty: folders.
        settings, variant: of the sound artifact, which was handed in as the faulty one is.
    """

    checkpoint: Path
    sound: Path
    faulty: Path
    settings: Settings
    variant: str

    @property
    def pairs(self) -> bool:
        return TASKS[self.settings.task].probes == "pairs"


@dataclass(frozen=True)
class Rival:
    """One row of RIVALS.

    Attributes:
        needs, misses: in words, for the table in docs/detection.md.
        judge: what it is asked about -> the first line of its complaint; empty where it is content.
    """

    name: str
    needs: str
    misses: str
    judge: Callable[[Comparison], str]


def _complaint(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {(lines or [''])[0]}"


@functools.cache
def _torch_model(checkpoint: Path, auto_class: str) -> Any:
    import transformers

    return getattr(transformers, auto_class).from_pretrained(checkpoint).eval()


def validate_with_optimum(comparison: Comparison) -> str:
    """Run `optimum.exporters.onnx`'s own validation, with its own dummy batch and tolerance.

    Its batch is random, and here the same each time: whether it holds a wrong row is no chance of the run.
    """
    import torch
    from optimum.exporters.onnx.convert import validate_model_outputs
    from optimum.exporters.tasks import TasksManager

    task = TASKS[comparison.settings.task]
    model = _torch_model(comparison.checkpoint, task.auto_class)
    config = TasksManager.get_exporter_config_constructor(
        model=model, exporter="onnx", task=task.export_task, library_name="transformers"
    )(model.config)
    file = comparison.faulty / MODEL_FILE
    with torch.random.fork_rng():
        torch.manual_seed(1)
        try:
            validate_model_outputs(config, model, file, list(config.outputs), use_subprocess=False)
        except Exception as error:  # its errors, and whatever ONNX Runtime raises
            return _complaint(error)
    return ""


@functools.cache
def _encode_sentences(checkpoint: Path, pairs: bool) -> Feeds:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    columns = (list(SENTENCES), list(reversed(SENTENCES))) if pairs else (list(SENTENCES),)
    feeds = dict(tokenizer(*columns, padding=True, truncation=True, return_tensors="np"))
    return {name: np.asarray(values, np.int64) for name, values in feeds.items()}


@functools.cache
def _torch_scores(checkpoint: Path, task_name: str, pooling: str, normalize: bool) -> Floats:
    task = TASKS[task_name]
    feeds = _encode_sentences(checkpoint, task.probes == "pairs")
    runtime = TorchRuntime(checkpoint, task.auto_class, threads=1)
    return score_batch(runtime, feeds, Scoring(task_name, pooling, normalize))


def compare_allclose(comparison: Comparison) -> str:
    """Compare eight sentences' scores with PyTorch's by `np.allclose`, at the ceiling of the variant's class."""
    scoring = Scoring.of(comparison.settings, {})
    expected = _torch_scores(comparison.checkpoint, scoring.task, scoring.pooling, scoring.normalize)
    feeds = _encode_sentences(comparison.checkpoint, comparison.pairs)
    atol = VARIANT[comparison.variant].precision.ceiling[TASKS[scoring.task].error_row]
    try:
        scores = score_batch(OnnxRuntime(comparison.faulty / MODEL_FILE, threads=1), feeds, scoring)
        close = np.allclose(expected, scores, rtol=0, atol=atol)
    except Exception as error:  # whatever a file that cannot be run raises
        return _complaint(error)
    return "" if close else f"not close: {np.abs(expected - scores).max():.2g} > {atol:g}"


def compare_with_polygraphy(comparison: Comparison) -> str:
    """Run both files in ONNX Runtime on Polygraphy's random data and compare them at its default tolerances."""
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.common import TensorMetadata
    from polygraphy.comparator import Comparator, CompareFunc, DataLoader
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.CRITICAL
    shapes = TensorMetadata()
    for name in _encode_sentences(comparison.checkpoint, comparison.pairs):
        shapes.add(name, np.int64, (2, 16))
    # Its default range of integers, 0 to 1, is right for masks and token types.
    loader = DataLoader(seed=1, input_metadata=shapes, val_range={"": (0, 1), "input_ids": (5, 500)})
    runners = [
        OnnxrtRunner(SessionFromOnnx(str(folder / MODEL_FILE)), name=name)
        for name, folder in (("sound", comparison.sound), ("faulty", comparison.faulty))
    ]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = Comparator.run(runners, data_loader=loader)
            matched = bool(Comparator.compare_accuracy(results, compare_func=CompareFunc.simple()))
    except (Exception, SystemExit) as error:  # it ends the process where a file cannot be run
        return _complaint(error)
    return "" if matched else "outputs do not match"


RIVALS: tuple[Rival, ...] = (
    Rival(
        "Optimum's validation",
        "PyTorch, the checkpoint; runs only after an export, not for optimized or quantized files; what it finds is "
        "logged, and the exit status stays 0",
        "tokenizers; rows of tokens that its one batch of random ids under a random mask does not hold; what a graph "
        "does behind the outputs that it knows; int8, every file of which it calls wrong",
        validate_with_optimum,
    ),
    Rival(
        "allclose",
        "PyTorch, the checkpoint, sentences, a tolerance that fits the precision, and post-processing written again",
        "whatever is below a loose tolerance, int8 above all; what its sentences do not show; the shipped tokenizer",
        compare_allclose,
    ),
    Rival(
        "Polygraphy",
        "a sound file of the same recipe; shapes, and the range of legal token ids",
        "rows of tokens that its one random batch does not hold; long and padded inputs; outputs that only one file "
        "has, such as a pooled one; tokenizers; whatever is wrong in both files",
        compare_with_polygraphy,
    ),
)


def ask_rivals(comparison: Comparison) -> dict[str, str]:
    """Return tool -> its complaint, empty where it is content."""
    return {rival.name: rival.judge(comparison) for rival in RIVALS}
