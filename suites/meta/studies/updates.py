"""Measures what changes of weights do to the metrics of an update: the figures behind `scoring.update.DEFAULTS`.

tox run -e updates               # noise on each matrix of the embedded models, and updates that mean no change
tox run -e updates -- --seeds 3 --model minilm-l6 --only 'layer.[05].'

A limit is worth something if it lies between the two: noise of half a standard deviation on any one weight matrix is
to be red, and rounding weights, or an adapter merged in fewer bits, is not.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fixtures.arrays import Array
from fixtures.build.needs import ModelSize
from fixtures.gate.command_line import ROOT, parse
from fixtures.gate.context import make_context
from fixtures.gate.session import Gate
from fixtures.gate.subject import Subject
from fixtures.runtimes.torch_runtime import TorchRuntime
from fixtures.scoring.closeness import METRICS, broken
from fixtures.scoring.scores import score

if TYPE_CHECKING:
    import torch

HARMFUL, BENIGN = 0.5, 0.01
"""Noise in standard deviations of a matrix."""
ROUNDINGS = ("bfloat16", "float16")
Weights = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True)
class Change:
    """A change of weights.

    Attributes:
        name: in words. harmful: whether it has to be red.
        apply: (weights, whose values it changes in place).
    """

    name: str
    harmful: bool
    apply: Callable[[Weights], None]


class Model:
    """An embedded model in PyTorch, whose weights can be changed."""

    def __init__(self, subject: Subject, threads: int) -> None:
        self.subject = subject
        self.runtime = TorchRuntime(subject.weights_folder, subject.task.auto_class, threads)
        parameters = dict(self.runtime.model.named_parameters())
        self.weights: Weights = {name: value.data for name, value in parameters.items() if "pooler" not in name}

    @property
    def matrices(self) -> list[str]:
        return [name for name, value in self.weights.items() if value.ndim == 2 and min(value.shape) > 1]

    def scores(self) -> Array:
        """Return what a baseline keeps of the scores."""
        return self.subject.task.stored_scores(score(self.runtime, self.subject.encoded, self.subject.scoring))

    def measure(self, change: Change) -> dict[str, float]:
        """Return the metrics of an update by this change; the weights are as they were afterwards."""
        kept = {name: value.clone() for name, value in self.weights.items()}
        change.apply(self.weights)
        update = self.subject.task.update.measure(self.subject.kept_reference, self.scores(), self.subject.layout)
        for name, value in kept.items():
            self.weights[name].copy_(value)
        return update.metrics


def noise(names: list[str], share: float, seed: int) -> Callable[[Weights], None]:
    """Return a change: Gaussian noise on some weights, in shares of their standard deviation."""
    import torch

    def apply(weights: Weights) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name in names:
            value = weights[name]
            value += share * value.std() * torch.randn(value.shape, generator=generator)

    return apply


def rounded(dtype: str) -> Callable[[Weights], None]:
    """Return a change: weights that were saved in fewer bits."""
    import torch

    def apply(weights: Weights) -> None:
        for value in weights.values():
            value.copy_(value.to(getattr(torch, dtype)))

    return apply


def merged_in(base: Weights, dtype: str) -> Callable[[Weights], None]:
    """Return a change: an adapter that was merged once more, into its base and in fewer bits."""
    import torch

    def apply(weights: Weights) -> None:
        for name, value in weights.items():
            if (original := base.get(name.removeprefix("bert."))) is not None:
                fewer = getattr(torch, dtype)
                value.copy_(original.to(fewer) + (value - original).to(fewer))

    return apply


def changes_of(model: Model, base: Weights | None, seeds: int, only: str) -> Iterator[Change]:
    """Yield what is tried of a model.

    Args:
        base: the weights that its adapter was merged into, if it has one.
        only: regular expression in the names of matrices.
    """
    names = [name for name in model.matrices if re.search(only, name)]
    for dtype in ROUNDINGS:
        yield Change(f"all weights in {dtype}", False, rounded(dtype))
        if base:
            yield Change(f"adapter merged in {dtype}", False, merged_in(base, dtype))
    for seed in range(seeds):
        yield Change(f"noise {BENIGN:.0%} on all matrices, seed {seed}", False, noise(model.matrices, BENIGN, seed))
        for name in names:
            yield Change(f"noise {HARMFUL:.0%} on {name}, seed {seed}", True, noise([name], HARMFUL, seed))


def extremes(rows: list[tuple[Change, dict[str, float]]], metric: str) -> tuple[float, float]:
    """Return the worst value of a benign change, and the best of a harmful one."""
    is_smaller_better = METRICS[metric].bound == "max"
    benign = [metrics[metric] for change, metrics in rows if not change.harmful]
    harmful = [metrics[metric] for change, metrics in rows if change.harmful]
    return (max(benign), min(harmful)) if is_smaller_better else (min(benign), max(harmful))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--model", default="minilm-reranker,minilm-l6", help="with commas between")
    parser.add_argument("--only", default="", help="noise on the matrices whose names hold this regular expression")
    parser.add_argument("--store", help="as the gate's")
    options = parser.parse_args()
    given = {"report": str(ROOT / "build" / "updates"), "store": options.store}
    context = make_context(parse(given.get, ci=False))
    subjects = Gate(context).load()
    steps = [step for subject in subjects for step in (subject.plan.tokens, subject.plan.reference)]
    context.build(dict.fromkeys(steps, ModelSize()), print)
    models = {subject.name: Model(subject, context.machine.threads) for subject in subjects}
    base = models["minilm-l6"].weights
    for name in options.model.split(","):
        model = models[name]
        limits, adapted = model.subject.update_limits, model.subject.model.settings.adapter
        rows = []
        for change in changes_of(model, base if adapted else None, options.seeds, options.only):
            metrics = model.measure(change)
            rows.append((change, metrics))
            values = ", ".join(f"{metric} {value:.4g}" for metric, value in metrics.items())
            red = ", ".join(broken(metrics, limits)) or "nothing"
            print(f"{name}: {change.name}: {values}; red: {red}", flush=True)
        for metric in limits:
            benign, harmful = extremes(rows, metric)
            print(
                f"{name}: {metric}: worst benign {benign:.4g}, mildest harmful {harmful:.4g}, limit {limits[metric]:g}"
            )
        for harmful in (True, False):
            of_kind = [metrics for change, metrics in rows if change.harmful == harmful]
            count = sum(bool(broken(metrics, limits)) for metrics in of_kind)
            print(f"{name}: {count} of {len(of_kind)} {'harmful' if harmful else 'benign'} changes are red")


if __name__ == "__main__":
    main()
