"""What other tools say of the same artifact, each used as its makers show it."""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fixtures.export.variants import VARIANT
from fixtures.models.settings import Settings
from fixtures.runtimes.onnx_runtime import OnnxRuntime
from fixtures.runtimes.providers import MODEL_FILE
from fixtures.runtimes.torch_runtime import TorchRuntime
from fixtures.scoring.tasks import TASKS, Scoring

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
class Rival:
    """One row of RIVALS.

    Attributes:
        needs, misses: in words, for the table in docs/detection.md.
        judge: (checkpoint, sound artifact, faulty artifact, settings, variant) -> its first words; empty if content.
    """

    name: str
    needs: str
    misses: str
    judge: Callable[[Path, Path, Path, Settings, str], str]


def _complaint(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {(lines or [''])[0]}"


@functools.cache
def _torch_model(checkpoint: Path, auto_class: str):
    import transformers

    return getattr(transformers, auto_class).from_pretrained(checkpoint).eval()


def optimum_validation(checkpoint: Path, clean: Path, faulty: Path, settings: Settings, variant: str) -> str:
    """`optimum.exporters.onnx`'s own validation, with its own dummy batch and tolerance."""
    from optimum.exporters.onnx.convert import validate_model_outputs
    from optimum.exporters.tasks import TasksManager

    task = TASKS[settings.task]
    model = _torch_model(checkpoint, task.auto_class)
    config = TasksManager.get_exporter_config_constructor(
        model=model, exporter="onnx", task=task.export_task, library_name="transformers"
    )(model.config)
    try:
        validate_model_outputs(config, model, faulty / MODEL_FILE, list(config.outputs), use_subprocess=False)
    except Exception as error:  # its errors, and whatever ONNX Runtime raises
        return _complaint(error)
    return ""


@functools.cache
def _sentences(checkpoint: Path, pairs: bool):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    rows = (list(SENTENCES), list(reversed(SENTENCES))) if pairs else (list(SENTENCES),)
    feeds = dict(tokenizer(*rows, padding=True, truncation=True, return_tensors="np"))
    return {name: np.asarray(values, np.int64) for name, values in feeds.items()}


@functools.cache
def _expected(checkpoint: Path, task: str, pooling: str, normalize: bool):
    row = TASKS[task]
    feeds = _sentences(checkpoint, row.probes == "pairs")
    runtime = TorchRuntime(checkpoint, row.auto_class, threads=1)
    return row.scores(runtime, feeds, Scoring(task, pooling, normalize))


def allclose(checkpoint: Path, clean: Path, faulty: Path, settings: Settings, variant: str) -> str:
    """`np.allclose` of eight sentences' scores with PyTorch's, at the ceiling of the variant's class."""
    task = TASKS[settings.task]
    expected = _expected(checkpoint, settings.task, settings.pooling or "", settings.normalize)
    feeds = _sentences(checkpoint, task.probes == "pairs")
    atol = VARIANT[variant].precision.ceiling[task.metrics[0]]
    try:
        runtime = OnnxRuntime(faulty / MODEL_FILE, threads=1)
        scores = task.scores(runtime, feeds, Scoring.of(settings, {}))
        close = np.allclose(expected, scores, rtol=0, atol=atol)
    except Exception as error:  # whatever a file that cannot be run raises
        return _complaint(error)
    return "" if close else f"not close: {np.abs(expected - scores).max():.2g} > {atol:g}"


def polygraphy(checkpoint: Path, clean: Path, faulty: Path, settings: Settings, variant: str) -> str:
    """Polygraphy's comparator: both files in ONNX Runtime on its own random data, with its default tolerances."""
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.common import TensorMetadata
    from polygraphy.comparator import Comparator, CompareFunc, DataLoader
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.CRITICAL
    shapes = TensorMetadata()
    for name in _sentences(checkpoint, TASKS[settings.task].probes == "pairs"):
        shapes.add(name, np.int64, (2, 16))
    # Its default range of integers, 0 to 1, is right for masks and token types.
    loader = DataLoader(seed=1, input_metadata=shapes, val_range={"": (0, 1), "input_ids": (5, 500)})
    runners = [
        OnnxrtRunner(SessionFromOnnx(str(folder / MODEL_FILE)), name=name)
        for name, folder in (("sound", clean), ("faulty", faulty))
    ]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = Comparator.run(runners, data_loader=loader)
            matched = bool(Comparator.compare_accuracy(results, compare_func=CompareFunc.simple()))
    except (Exception, SystemExit) as error:  # it ends the process where a file cannot be run
        return _complaint(error if isinstance(error, Exception) else RuntimeError(str(error)))
    return "" if matched else "outputs do not match"


RIVALS: tuple[Rival, ...] = (
    Rival(
        "Optimum's validation",
        "PyTorch, the checkpoint; runs only after an export, not for optimized or quantized files; what it finds is "
        "logged, and the exit status stays 0",
        "tokenizers; rows of tokens that its one batch of random ids under a random mask does not hold; what a graph "
        "does behind the outputs that it knows; int8, every file of which it calls wrong",
        optimum_validation,
    ),
    Rival(
        "allclose",
        "PyTorch, the checkpoint, sentences, a tolerance that fits the precision, and post-processing written again",
        "whatever is below a loose tolerance, int8 above all; what its sentences do not show; the shipped tokenizer",
        allclose,
    ),
    Rival(
        "Polygraphy",
        "a sound file of the same recipe; shapes, and the range of legal token ids",
        "rows of tokens that its one random batch does not hold; long and padded inputs; outputs that only one file "
        "has, such as a pooled one; tokenizers; whatever is wrong in both files",
        polygraphy,
    ),
)
