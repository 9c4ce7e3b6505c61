"""Optimum's exporter and PyTorch's own, side by side on the embedded models: size, error under padding, and latency.

tox run -e exporters                # writes docs/exporters.md

Latency is a ratio of rounds in turn in one process, so that what slows the machine slows both. Errors are of the last
hidden state, or of the logit, against PyTorch in fp32.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fixtures.arrays import Array
from fixtures.build.needs import ModelSize
from fixtures.build.store import Store
from fixtures.build.workers import Limits, build_all
from fixtures.export import recipes
from fixtures.export.variants import VARIANT
from fixtures.gate.subject import read_model
from fixtures.latency.pairs import feeds_of
from fixtures.latency.ratios import median_ratio
from fixtures.models.checkpoints import find_checkpoint
from fixtures.runtimes import hardware
from fixtures.runtimes.onnx_runtime import OnnxRuntime
from fixtures.runtimes.providers import MODEL_FILE
from fixtures.runtimes.session import Feeds
from fixtures.runtimes.torch_runtime import TorchRuntime
from fixtures.scoring.encoded import LONG_FILE, EncodedLongText
from fixtures.scoring.tasks import TASKS
from fixtures.scoring.tokens import plan_tokens

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "exporters.md"
MODELS = ("minilm-l6", "minilm-reranker")
VARIANTS = ("plain", "O1", "O2", "O3", "quantized", "O2-quantized", "O3-quantized")
SHAPES = ((1, 16), (1, 128), (8, 128), (1, 256))
ROUNDS, ROUNDS_S = 200, 4
"""Rounds of each at most, and seconds that a ratio may take."""
BEGIN, END = "<!-- Written by: tox run -e exporters -->", "<!-- end of what tox run -e exporters writes -->"


def padded(long: EncodedLongText) -> dict[str, Feeds]:
    """Return the same tokens with padding right and left: a text of 100 tokens, and one of 40."""
    feeds = feeds_of(long, 2, 100)
    mask = np.ones((2, 100), np.int64)
    mask[1, 40:] = 0
    right = {**feeds, "attention_mask": mask}
    left = {**feeds, "attention_mask": mask[:, ::-1].copy()}
    return {"right": right, "left": left}


def error_of(outputs: Mapping[str, Array], expected: Mapping[str, Array], name: str, mask: Array) -> float:
    """Return the largest difference of what is not padding."""
    difference = np.abs(outputs[name] - expected[name])
    return float(difference[mask.astype(bool)].max() if difference.ndim == 3 else difference.max())


def ratio_of(runtimes: Sequence[OnnxRuntime], feeds: Feeds) -> tuple[float, tuple[float, float]]:
    """Return how many times faster the second is than the first, rounds in turn, and the interval of that."""
    selected = [runtime.select(feeds) for runtime in runtimes]
    seconds: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + ROUNDS_S
    for number in range(-3, ROUNDS):
        for index in (0, 1) if number % 2 else (1, 0):
            start = time.perf_counter()
            runtimes[index].run(selected[index])
            if number >= 0:
                seconds[index].append(time.perf_counter() - start)
        if time.perf_counter() > end:
            break
    return median_ratio(*seconds)


def compare(name: str, store: Store) -> list[str]:
    """Return rows of the table for one model."""
    machine, model = hardware.detect(), read_model(ROOT / "baselines" / name)
    checkpoint, task = find_checkpoint(model), TASKS[model.settings.task]
    root = recipes.prepare(model.name, checkpoint, model.settings.source, task.auto_class)
    tokens = plan_tokens(model, root)
    plans = {
        (exporter, variant): recipes.plan(
            model.name,
            VARIANT[variant],
            root,
            task.export_task,
            machine,
            exporter=exporter,
            traced=task.traced(position_ids=False),
        )
        for exporter in recipes.EXPORTERS
        for variant in VARIANTS
    }
    build_all(
        store, dict.fromkeys([*plans.values(), tokens], ModelSize()), Limits(2, 2**33), lambda built, _: print(built)
    )
    long = EncodedLongText.load(store.run(tokens).folder / LONG_FILE)
    folder = checkpoint.folder if root is checkpoint else store.run(root).folder  # type: ignore[arg-type]
    assert folder is not None
    torch = TorchRuntime(folder, task.auto_class, machine.threads)
    (output,) = task.outputs
    feeds = padded(long)
    expected = {side: torch(batch) for side, batch in feeds.items()}
    rows = []
    for variant in VARIANTS:
        files = {exporter: store.run(plans[exporter, variant]).folder / MODEL_FILE for exporter in recipes.EXPORTERS}
        runtimes = {exporter: OnnxRuntime(file, machine.threads) for exporter, file in files.items()}
        cells = [f"{name} {variant}", " / ".join(f"{file.stat().st_size / 1e6:.1f}" for file in files.values())]
        for side, batch in feeds.items():
            errors = [
                error_of(runtime(batch), expected[side], output, batch["attention_mask"])
                for runtime in runtimes.values()
            ]
            cells.append(" / ".join(f"{error:.1e}" for error in errors))
        for shape in SHAPES:
            ratio, (low, high) = ratio_of(list(runtimes.values()), feeds_of(long, *shape))
            cells.append(f"{ratio:.2f} ({low:.2f} to {high:.2f})")
        rows.append(f"| {' | '.join(cells)} |")
        print(rows[-1], flush=True)
    return rows


def page(rows: Sequence[str]) -> str:
    machine = hardware.detect()
    shapes = [f"{batch}x{length}" for batch, length in SHAPES]
    header = ["variant", "MB", "error, right padding", "error, left padding", *shapes]
    lines = [
        f"Measured on {machine.cpu}, tier {machine.tier}, {machine.threads} threads, {time.strftime('%Y-%m-%d')}. In a "
        "cell Optimum stands before PyTorch; a ratio says how many times faster PyTorch's graph is, with its 95 % "
        "interval.",
        "",
        f"| {' | '.join(header)} |",
        f"| {' | '.join('---' for _ in header)} |",
        *rows,
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="by default a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="exportgate-") as folder:
        store = Store(options.store or Path(folder))
        rows = [row for name in MODELS for row in compare(name, store)]
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{page(rows)}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
