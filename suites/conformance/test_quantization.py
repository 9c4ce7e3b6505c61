"""Quantization: what the file really has, read back from the graph, and what each layer lost."""

import onnx

from fixtures.export import restore
from fixtures.gate.session import inapplicable
from fixtures.graphs import quantization
from fixtures.graphs.graph import MADE_BY_QUANTIZERS
from fixtures.graphs.quantization import LARGEST_ERROR_STEPS, quantized_weights
from fixtures.runtimes.hardware import TIER


def test_quantization_is_that_of_the_recipe(case, gate, finding):
    """Weight type, scales per channel and range are the tier's; nothing is quantized where nothing should be."""
    weights, wanted = quantized_weights(case.graph), gate.machine.int8
    if not any(link[0].startswith("quantize") for link in case.variant.recipe):
        assert not weights, f"{case}: {weights[0].layer} is quantized, and the recipe does not say so"
        return
    if case.ready_made and case.operators.keys() & MADE_BY_QUANTIZERS and not weights:
        finding("quantized by other means than ONNX Runtime's quantizer: its scales cannot be read back")
        return
    assert weights, f"{case}: nothing is quantized"
    matrices = [one for one in weights if not one.is_table]
    wrong = [
        f"{one.layer} is {one.dtype}, and not {wanted.weights_dtype}"
        for one in matrices
        if one.dtype != wanted.weights_dtype
    ]
    wrong += [
        f"{one.layer}: reduce_range is {one.reduced_range}"
        for one in matrices
        if one.reduced_range != wanted.reduce_range
    ]
    flat = [one.layer for one in matrices if one.per_channel != wanted.per_channel]
    wrong += [f"per_channel is {not wanted.per_channel} in {len(flat)} weights, such as {flat[0]}"] if flat else []
    if wrong and case.ready_made:
        finding(f"quantized for another tier than {gate.machine.tier}: {wrong[0]}")
    else:
        assert not wrong, f"{case}: {wrong[0]}"
    tables = len(weights) - len(matrices)
    found = f"{len(matrices)} {wanted.weights_dtype} matrices; embedding tables quantized: {tables or 'none'}"
    if restored := restore.describe(case.artifact.folder):
        found += f"; {restored}"
    if wanted.weights_dtype == "QInt8" and TIER[gate.machine.tier].saturates:
        found += f"; signed weights saturate in the 16-bit sums of {gate.machine.tier} (onnxruntime#6004)"
    finding(found)


def test_weights_survive_quantization(case, gate, finding):
    """No weight is further off than rounding explains; the layers that lose most are named."""
    if not any(link[0].startswith("quantize") for link in case.variant.recipe):
        inapplicable("not quantized")
    if case.ready_made:
        inapplicable(
            "the graph that was quantized did not come with it; its weights are compared with the checkpoint's"
        )
    original = onnx.load(gate.artifact(case.step.inputs[0]).folder / case.file.name)
    errors = quantization.round_trip(original, case.graph)
    lost = [one.layer for one in errors if one.steps is None]
    assert not lost, f"{case}: {', '.join(lost)}: no such weight in the graph that was quantized"
    far = [one for one in errors if not one.steps <= LARGEST_ERROR_STEPS]  # NaN is far too
    assert not far, f"{case}: {far[0].layer} is off by {far[0].steps:.2f} steps of its scale: wrong scale or saturated"
    worst = ", ".join(f"{one.layer} {one.relative:.1%}" for one in errors[:3])
    finding(f"layers that lose most, root mean square: {worst}")
