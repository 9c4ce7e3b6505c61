"""A variant, a task and a fault that a team adds from its own repository, without a fork.

    PYTHONPATH=docs/examples tox run -e gate -- -p our_rows --baselines ../our-models

Everything here is importable by name, since worker processes import it too.
"""

from collections.abc import Sequence

import numpy as np
from onnxruntime.transformers.onnx_model import OnnxModel

from fixtures.arrays import Floats
from fixtures.export.variants import EXPORT, O1, QUANTIZE, Variant
from fixtures.faults.fault import Fault, Site
from fixtures.faults.graph_edits import add_constant, edit_graph, find_node
from fixtures.runtimes.session import Feeds, Runtime
from fixtures.scoring import closeness
from fixtures.scoring.ceilings import INT8
from fixtures.scoring.tasks import Scoring, Task
from fixtures.scoring.update import CLASSES


def pytest_exportgate_variants() -> Sequence[Variant]:
    """O1 before int8: what ONNX Runtime would fold at every load is folded once."""
    return [Variant("O1-quantized", (EXPORT, O1, QUANTIZE), INT8)]


def scaled_labels(runtime: Runtime, feeds: Feeds, scoring: Scoring) -> Floats:
    """Return the logits as this team deploys them, (batch, labels) float32: at a temperature of 2."""
    return np.asarray(runtime(feeds)["logits"] / 2, np.float32)


def pytest_exportgate_tasks() -> Sequence[Task]:
    """A classifier whose logits are scaled."""
    return [
        Task(
            name="scaled-classification",
            probes="texts",
            auto_class="AutoModelForSequenceClassification",
            export_task="text-classification",
            outputs={"logits": ("batch", None)},
            scores=scaled_labels,
            compare=closeness.compare_classes,
            metrics=("max_logit_error", "argmax_agreement", "max_probability_change"),
            update=CLASSES,
        )
    ]


def lose_first_bias(graph: OnnxModel, site: Site) -> None:
    """Add zeros where the first query's bias was."""
    node = find_node(graph, r"layer\.0/attention/self/query/Add$")
    index = next(index for index, name in enumerate(node.input) if graph.get_initializer(name) is not None)
    node.input[index] = add_constant(graph, 0.0)


def pytest_exportgate_faults() -> Sequence[Fault]:
    """What an in-house converter once did."""
    return [
        Fault(
            name="our-first-bias-lost",
            defect="the bias of the first layer's query is zero",
            stands_for="a converter that skipped tensors of one dimension",
            cause="layer.0|bias|query",
            checks=("scores_stay_within_ceiling", "weights_are_the_checkpoints", "scores_hold_under_mask"),
            plant=edit_graph(lose_first_bias),
            architectures=("bert",),
        )
    ]
