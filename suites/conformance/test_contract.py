"""Inputs and outputs are exactly the task's: names, types, axes.

`token_type_ids` are there where the tokenizer makes them; a reranker exported without its head is caught.
"""

import onnx
import pytest

from fixtures.export.ready_made import read_mapping
from fixtures.export.variants import EXPORT_FP16
from fixtures.gate.case import Case
from fixtures.gate.verdicts import Limits, judge
from fixtures.graphs.graph import input_types, output_types
from fixtures.plugin.outcomes import inapplicable, require
from fixtures.plugin.suite_fixtures import NoteFinding
from fixtures.runtimes import onnxruntime_versions
from fixtures.runtimes.session import Feeds, Outputs, Session
from fixtures.scoring import stress
from fixtures.scoring.ceilings import FP16
from fixtures.scoring.stress import StressReference

pytestmark = pytest.mark.check
SAME_RUN = FP16
"""How far two outputs of one run may be from each other: one of them may be rounded to fp16."""


def test_inputs_are_what_the_tokenizer_makes(
    case: Case, onnx_model: onnx.ModelProto, stress_reference: StressReference, finding: NoteFinding
) -> None:
    """Every field that the tokenizer makes and the model takes is an input, int64, with free axes; no other is.

    Of a ready-made file, int32 is remarked on: its callers have to cast.
    """
    inputs = {name: kind for name, kind in input_types(onnx_model).items() if not name.startswith("past_key_values.")}
    missing, unknown = (
        sorted(set(stress_reference.inputs) - inputs.keys()),
        sorted(inputs.keys() - set(stress_reference.inputs)),
    )
    assert not missing, f"{case}: no input {', '.join(missing)}: what PyTorch reads there, the export ignores"
    assert not unknown, f"{case}: nothing feeds the input {', '.join(unknown)}"
    if case.ready_made and (narrow := [name for name, (kind, _) in inputs.items() if kind == "int32"]):
        finding(f"whoever runs it has to cast to int32: {', '.join(narrow)}")
    for name, (kind, axes) in inputs.items():
        assert kind == "int64" or (case.ready_made and kind == "int32"), f"{case}: input {name} is {kind}"
        assert len(axes) == 2, f"{case}: input {name} has {len(axes)} axes, not batch and length"
        assert all(isinstance(axis, str) for axis in axes), f"{case}: input {name} is fixed to {axes}"


def test_outputs_are_those_of_the_task(case: Case, onnx_model: onnx.ModelProto) -> None:
    """The outputs that the task scores, in float32 or in what was exported, batch and length free; no other, but the
    past."""
    outputs = {name: kind for name, kind in output_types(onnx_model).items() if not name.startswith("present.")}
    expected = {case.own_head: ("batch", None)} if case.own_head else case.subject.task.outputs
    if case.ready_made:
        outputs = {name: kind for name, kind in outputs.items() if name in expected}
    assert outputs.keys() == expected.keys(), (
        f"{case}: outputs {sorted(outputs)} instead of {sorted(expected)}: was it exported for another task? "
        f"{case.subject.task.name} is exported with --task {case.subject.task.export_task}"
    )
    exported = {"float16"} if EXPORT_FP16 in case.variant.recipe else {"float"}
    if case.ready_made and case.variant.precision is FP16:
        exported = {"float", "float16"}
    if case.pools:  # sums are too large for 16 bits
        exported |= {"float"}
    for name, (kind, axes) in outputs.items():
        assert kind in exported, f"{case}: output {name} is {kind}"
        assert len(axes) == len(expected[name]), f"{case}: output {name} has axes {axes} instead of {expected[name]}"
        for axis, free in zip(axes, expected[name], strict=True):
            assert isinstance(axis, str) or not free, f"{case}: {free} of output {name} is fixed to {axis}"


def test_target_runtime_reads_it(case: Case, onnx_model: onnx.ModelProto) -> None:
    """The version of ONNX Runtime that --target-ort names knows opset, file format and operators of the graph."""
    target = case.context.options.target_ort
    if not target:
        inapplicable("no target was named: --target-ort 1.20 asks whether that version reads it")
    unread = onnxruntime_versions.problems(onnx_model, target)
    assert not unread, f"{case}: onnxruntime {target} does not read it: {'; '.join(unread)}"


class TokensAlone:
    """A session as if its graph had token embeddings, or logits of tokens, alone.

    Args:
        output: what the graph calls them. name: what the task calls them.
    """

    def __init__(self, session: Session, output: str, name: str) -> None:
        self.inputs = session.inputs
        self._session, self._output, self._name = session, output, name

    def __call__(self, feeds: Feeds) -> Outputs:
        return {self._name: self._session(feeds)[self._output]}


def test_token_embeddings_make_the_vector(case: Case, onnx_model: onnx.ModelProto) -> None:
    """Of a ready-made graph that has a vector of its own, token embeddings, or logits, beside it make that vector when
    pooled."""
    outputs = read_mapping(case.artifact.folder).extra if case.ready_made and case.pools else []
    tables = [name for name, kind in output_types(onnx_model).items() if name in outputs and len(kind.axes) == 3]
    if len(tables) != 1:
        inapplicable("no token embeddings beside a vector of its own")
    encoded, task, scoring = case.subject.encoded, case.subject.task, case.subject.scoring
    feeds = encoded.feeds(stress.short_probes(encoded))
    alone = TokensAlone(case.runtime, tables[0], next(iter(task.outputs)))
    pooled, vectors = task.scores(alone, feeds, scoring), case.score(feeds)
    closeness = task.compare(vectors, pooled, stress.batch_layout(feeds))
    source = f"{SAME_RUN.source}; {case.scored_outputs[0]} beside what {tables[0]} is pooled to, in one run"
    require(judge(case, closeness, Limits("ceiling", {name: SAME_RUN.ceiling[name] for name in task.metrics}, source)))
