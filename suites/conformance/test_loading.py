"""The file loads where people load it, and says what it is."""

import numpy as np
import onnx
import pytest

from fixtures.arrays import Array
from fixtures.export.onnx_export import NEWEST_IR, OPSET
from fixtures.gate.case import Case
from fixtures.graphs.graph import opsets
from fixtures.plugin.outcomes import inapplicable
from fixtures.plugin.suite_fixtures import NoteFinding
from fixtures.runtimes.profiler import executed_nodes, fallback_nodes
from fixtures.runtimes.providers import CUDA
from fixtures.scoring import stress

pytestmark = pytest.mark.check


def test_builds(case: Case) -> None:
    """Optimum and ONNX Runtime can make this variant of this architecture."""
    assert case.file.is_file()


def test_graph_is_valid_onnx(case: Case) -> None:
    """`onnx.checker` accepts the file, external data included."""
    if case.file.suffix != ".onnx":
        inapplicable("it is no ONNX graph")
    onnx.checker.check_model(case.file)


def test_versions_are_those_of_the_recipe(case: Case, onnx_model: onnx.ModelProto, finding: NoteFinding) -> None:
    """The opset is the recipe's, and the IR version one that the oldest supported ONNX Runtime reads."""
    opset, ir = opsets(onnx_model)[""], onnx_model.ir_version
    if case.ready_made:
        finding(f"opset {opset}, IR version {ir}; exportgate exports opset {OPSET}")
        return
    assert opset == OPSET, f"{case}: opset {opset}, and the recipe says {OPSET}"
    assert ir <= NEWEST_IR, f"{case}: IR version {ir}; ONNX Runtime 1.20 reads {NEWEST_IR} at most"


def test_raw_onnxruntime_and_optimum_agree(case: Case, optimum: Array) -> None:
    """Plain `InferenceSession` runs the file, and yields what Optimum's own class yields."""
    feeds = case.subject.encoded.feeds(stress.short_probes(case.subject.encoded))
    scores = case.score(feeds)
    difference = np.abs(scores - optimum).max()
    allowed = 1e-4 * max(1, np.abs(optimum).max())
    assert difference <= allowed, f"{case}: raw ONNX Runtime and Optimum differ by {difference:.3g}"


def test_no_node_leaves_the_gpu(case: Case, finding: NoteFinding) -> None:
    """ONNX Runtime's profiler saw every node that computes floats on the GPU; one without a kernel runs elsewhere."""
    if case.provider != CUDA:
        inapplicable("it is not for a GPU")
    feeds = case.subject.encoded.feeds(stress.short_probes(case.subject.encoded))
    nodes = executed_nodes(case.file, case.provider, feeds)
    fallback = fallback_nodes(nodes, case.provider)
    assert not fallback, f"{case}: {len(fallback)} of {len(nodes)} nodes ran elsewhere, such as {fallback[0]}"
    finding(f"{sum(node.provider == case.provider for node in nodes)} of {len(nodes)} nodes on the GPU")
