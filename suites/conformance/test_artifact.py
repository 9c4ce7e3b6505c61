"""Can an export be trusted at all: the file is sound, and its inputs and outputs are the task's."""

import numpy as np
import onnx


def test_graph_is_valid_onnx(case):
    """`onnx.checker` accepts the file, external data included."""
    onnx.checker.check_model(case.file)


def test_inputs_are_what_the_tokenizer_makes(case):
    """Every input is one that the tokenizer makes, int64, with free batch and length."""
    for one in case.load().session.get_inputs():
        assert one.name in case.subject.encoded.fields, f"{case}: nothing feeds the input {one.name!r}"
        assert one.type == "tensor(int64)", f"{case}: input {one.name} is {one.type}"
        assert not any(isinstance(axis, int) for axis in one.shape), f"{case}: input {one.name} is fixed to {one.shape}"


def test_output_of_the_task_is_there(case):
    """The output that the task scores is in the graph, in float32."""
    outputs = {one.name: one.type for one in case.load().session.get_outputs()}
    name = case.subject.task.output
    assert name in outputs, f"{case}: no output {name!r} among {sorted(outputs)}: was it exported for another task?"
    assert outputs[name] == "tensor(float)", f"{case}: output {name} is {outputs[name]}"


def test_scores_are_finite_and_differ(scored):
    """No NaN, no infinity, and not one score for everything."""
    finite = np.isfinite(scored.scores).all()
    assert finite, f"{scored}: some scores are not finite"
    assert np.ptp(scored.scores, axis=0).max() > 0, f"{scored}: every probe has the same scores"
