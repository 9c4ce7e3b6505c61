"""Quantization: what the file really has, read back from the graph, and what each layer lost."""

from collections.abc import Sequence

import onnx
import pytest

from fixtures.export import recipes, restore
from fixtures.gate.case import Case
from fixtures.gate.measured import Measured
from fixtures.gate.session import Gate
from fixtures.graphs import quantization
from fixtures.graphs.graph import MADE_BY_QUANTIZERS
from fixtures.graphs.integer_formats import quantized_weights
from fixtures.graphs.quantization import LARGEST_ERROR_STEPS, Blocks, QuantizedWeight
from fixtures.graphs.quantization_kind import describe
from fixtures.plugin.outcomes import inapplicable
from fixtures.plugin.suite_fixtures import NoteFinding
from fixtures.runtimes.hardware import TIER, Int8
from fixtures.scoring.ceilings import INT8

pytestmark = pytest.mark.check


def test_quantization_is_that_of_the_recipe(
    case: Case,
    onnx_model: onnx.ModelProto,
    operators: dict[str, int],
    gate: Gate,
    measured: Measured,
    finding: NoteFinding,
) -> None:
    """Weight type, scales and range are the tier's, or blocks the recipe's; nothing else is quantized."""
    weights, int8 = quantized_weights(onnx_model, case.file.parent), gate.machine.int8
    if not case.variant.quantizes:
        assert not weights, f"{case}: {weights[0].layer} is quantized, and the recipe does not say so"
        return
    if case.ready_made and operators.keys() & MADE_BY_QUANTIZERS and not weights:
        finding("quantized in a way that is not known here: its scales cannot be read back")
        return
    assert weights, f"{case}: nothing is quantized"
    measured.quantization = describe(weights, onnx_model)
    if case.variant.weights_alone:
        _check_blocks(case, weights, finding)
        return
    problems = _problems_of(weights, int8)
    if case.ready_made:
        finding(measured.quantization)
        if problems and case.precision is INT8:
            finding(f"quantized otherwise than for the tier {gate.machine.tier}: {problems[0]}")
        return
    assert not problems, f"{case}: {problems[0]}"
    matrices = [weight for weight in weights if weight.is_matrix]
    tables = sum(weight.is_table for weight in weights)
    summary = f"{len(matrices)} {int8.weights_dtype} matrices; embedding tables quantized: {tables or 'none'}"
    if restored := restore.describe(case.artifact.folder):
        summary += f"; {restored}"
    if int8.weights_dtype == "QInt8" and TIER[gate.machine.tier].saturates:
        summary += f"; signed weights saturate in the 16-bit sums of {gate.machine.tier} (onnxruntime#6004)"
    finding(summary)


def _problems_of(weights: Sequence[QuantizedWeight], int8: Int8) -> list[str]:
    """Return in what matrices differ from a tier's parameters, in words."""
    matrices = [weight for weight in weights if weight.is_matrix]
    problems = [f"{weight.layer} is {weight.blocks}" for weight in matrices if weight.blocks]
    problems += [
        f"{weight.layer} is {weight.dtype}, and not {int8.weights_dtype}"
        for weight in matrices
        if weight.dtype != int8.weights_dtype
    ]
    problems += [
        f"{weight.layer}: reduce_range is {weight.reduced_range}"
        for weight in matrices
        if weight.reduced_range != int8.reduce_range
    ]
    if layers := [weight.layer for weight in matrices if weight.per_channel != int8.per_channel]:
        problems.append(f"per_channel is {not int8.per_channel} in {len(layers)} weights, such as {layers[0]}")
    return problems


def _check_blocks(case: Case, weights: Sequence[QuantizedWeight], finding: NoteFinding) -> None:
    """Bits and accuracy level, which a variant is named after, are the recipe's; blocks too in an export of our own."""
    stated = Blocks(**recipes.WEIGHT_PARAMETERS[case.variant.recipe[-1][1]])
    named = (stated.bits, stated.accuracy_level)
    other = [weight for weight in weights if weight.is_matrix and weight.blocks != stated]
    problems = [f"{weight.layer} has {weight.blocks or 'no blocks'}, and the recipe says {stated}" for weight in other]
    unnamed = [
        problem
        for problem, weight in zip(problems, other, strict=True)
        if weight.blocks is None or (weight.blocks.bits, weight.blocks.accuracy_level) != named
    ]
    if problems and case.ready_made and not unnamed:
        finding(f"not quantized as this suite would: {problems[0]}")
        return
    assert not problems, f"{case}: {[*unnamed, *problems][0]}"
    finding("; ".join(filter(None, [f"{len(weights)} matrices: {stated}", restore.describe(case.artifact.folder)])))


def test_weights_survive_quantization(case: Case, onnx_model: onnx.ModelProto, finding: NoteFinding) -> None:
    """No weight is further off than rounding explains; the layers that lose most are named."""
    if not case.variant.quantizes:
        inapplicable("not quantized")
    if case.ready_made:
        inapplicable(
            "the graph that was quantized did not come with it; its weights are compared with the checkpoint's"
        )
    file = case.context.artifact(case.step.input_steps[0]).folder / case.file.name
    original = onnx.load(file, load_external_data=False)
    errors = quantization.round_trip(original, quantized_weights(onnx_model, case.file.parent), file.parent)
    lost = [error.layer for error in errors if error.steps is None]
    assert not lost, f"{case}: {', '.join(lost)}: no such weight in the graph that was quantized"
    steps = {error.layer: error.steps for error in errors if error.steps is not None}
    far = [layer for layer, size in steps.items() if not size <= LARGEST_ERROR_STEPS]  # NaN is far too
    assert not far, f"{case}: {far[0]} is off by {steps[far[0]]:.2f} steps of its scale: wrong scale or saturated"
    worst = ", ".join(f"{error.layer} {error.relative:.1%}" for error in errors[:3])
    finding(f"layers that lose most, root mean square: {worst}")
