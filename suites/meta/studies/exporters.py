"""Optimum's exporter and PyTorch's own, side by side: size, error under padding and latency of the embedded models, and
latency of the zoo.

tox run -e exporters                # writes docs/exporters.md

Latency is a ratio of rounds in turn in one process, so that what slows the machine slows both. Errors are of the last
hidden state, or of the logit, against PyTorch in fp32.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fixtures.arrays import Array
from fixtures.build.needs import ModelSize
from fixtures.export import recipes
from fixtures.gate.case import Case, problem_of
from fixtures.gate.command_line import parse
from fixtures.gate.context import make_context
from fixtures.gate.session import Gate
from fixtures.gate.subject import Subject
from fixtures.gate.timing import shape_of
from fixtures.latency.pairs import feeds_of
from fixtures.latency.ratios import median_ratio
from fixtures.runtimes import hardware
from fixtures.runtimes.onnx_runtime import OnnxRuntime
from fixtures.runtimes.session import Feeds
from fixtures.runtimes.torch_runtime import TorchRuntime
from fixtures.scoring.encoded import EncodedLongText

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "exporters.md"
VARIANTS = ("plain", "O1", "O2", "O3", "quantized", "O2-quantized", "O3-quantized")
SHAPES = ((1, 16), (1, 128), (8, 128), (1, 256))
MAKERS = {"optimum": "Optimum", "torch": "PyTorch"}
"""Exporter -> whose it is."""
ZOO_VARIANTS = ("plain", "O2", "quantized", "O2-quantized")
ZOO_SHAPE = (8, 64)
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


def gates_of(baselines: Path, store: Path) -> dict[str, Gate]:
    """Return a gate of the same models for each exporter."""
    values = {"baselines": str(baselines), "store": str(store), "report": str(store / "report")}
    return {
        exporter: Gate(make_context(parse((values | {"exporter": exporter}).get, ci=True)))
        for exporter in recipes.EXPORTERS
    }


@dataclass(frozen=True)
class Pair:
    """A variant of a model.

    Attributes:
        cases: exporter -> the variant as it made it. missing: exporter -> why it made none, in words.
    """

    model: str
    variant: str
    cases: dict[str, Case] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def subject(self) -> Subject:
        return next(iter(self.cases.values())).subject

    def open_all(self) -> list[OnnxRuntime]:
        """Open a session of each exporter's file on all threads."""
        return [OnnxRuntime(case.file, case.context.machine.threads) for case in self.cases.values()]


def pairs_of(gates: Mapping[str, Gate], variants: Sequence[str]) -> list[Pair]:
    """Build some variants of every model with each exporter; print what cannot be made."""
    pairs: dict[tuple[str, str], Pair] = {}
    for exporter, gate in gates.items():
        planned = [gate.case(subject, variant) for subject in gate.load() for variant in variants]
        built = [case for case in planned if not case.unavailable]
        needed = {step: ModelSize() for case in built for step in (case.step, case.subject.plan.tokens)}
        gate.context.build(needed, lambda made, _: print(made, flush=True))
        for case in planned:
            names = case.subject.name, case.variant.name
            pair = pairs.setdefault(names, Pair(*names))
            if reason := case.unavailable or problem_of(case):
                pair.missing[exporter] = reason
                print(f"{case}, {exporter}: {reason}", flush=True)
            else:
                pair.cases[exporter] = case
    return sorted(pairs.values(), key=lambda pair: pair.model)


def compare_embedded(store: Path) -> list[list[str]]:
    """Return the rows of the embedded models: sizes, errors under padding, and latency over shapes."""
    rows = []
    for pair in pairs_of(gates_of(ROOT / "baselines", store), VARIANTS):
        if pair.missing:
            continue
        subject = pair.subject
        torch = TorchRuntime(subject.weights_folder, subject.task.auto_class, subject.context.machine.threads)
        (output,) = subject.task.outputs
        runtimes = pair.open_all()
        sizes = [f"{case.file.stat().st_size / 1e6:.1f}" for case in pair.cases.values()]
        cells = [f"{pair.model} {pair.variant}", " / ".join(sizes)]
        for batch in padded(subject.long).values():
            expected = torch(batch)
            errors = [error_of(runtime(batch), expected, output, batch["attention_mask"]) for runtime in runtimes]
            cells.append(" / ".join(f"{error:.1e}" for error in errors))
        rows.append([*cells, *(in_words(ratio_of(runtimes, feeds_of(subject.long, *shape))) for shape in SHAPES)])
        print(table_row(rows[-1]), flush=True)
    return rows


def compare_zoo(store: Path) -> list[list[str]]:
    """Return the rows of the zoo: how many times faster PyTorch's graph of each variant is, at one shape."""
    rows: dict[str, list[str]] = {}
    for pair in pairs_of(gates_of(ROOT / "baselines" / "zoo", store), ZOO_VARIANTS):
        if pair.missing:
            cell = f"no graph of {' and '.join(MAKERS[exporter] for exporter in pair.missing)}"
        else:
            cell = in_words(ratio_of(pair.open_all(), shape_of(pair.subject, *ZOO_SHAPE)))
        rows.setdefault(pair.model, [pair.model]).append(cell)
        print(f"{pair.model} {pair.variant}: {cell}", flush=True)
    return list(rows.values())


def in_words(measured: tuple[float, tuple[float, float]]) -> str:
    ratio, (low, high) = measured
    return f"{ratio:.2f} ({low:.2f} to {high:.2f})"


def table_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table in Markdown."""
    return [table_row(header), table_row(["---"] * len(header)), *map(table_row, rows)]


def page(embedded: Sequence[Sequence[str]], zoo: Sequence[Sequence[str]]) -> str:
    machine = hardware.detect()
    shapes = [f"{batch}x{length}" for batch, length in SHAPES]
    zoo_shape = "x".join(map(str, ZOO_SHAPE))
    return "\n".join(
        [
            f"Measured on {machine.cpu}, tier {machine.tier}, {machine.threads} threads, {time.strftime('%Y-%m-%d')}. "
            "In a cell Optimum stands before PyTorch; a ratio says how many times faster PyTorch's graph is, with its "
            "95 % interval.",
            "",
            *table(["variant", "MB", "error, right padding", "error, left padding", *shapes], embedded),
            "",
            f"The zoo at {zoo_shape}: models of two layers and 32 numbers a token, where what a graph costs beside its "
            "products weighs most.",
            "",
            *table(["model", *ZOO_VARIANTS], zoo),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="by default a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="exportgate-") as folder:
        store = options.store or Path(folder)
        written = page(compare_embedded(store), compare_zoo(store))
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{written}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
