"""A link, two variants, a task and a fault that a team adds from its own repository, without a fork.

    PYTHONPATH="$PWD/docs/examples" tox run -e gate -- -p our_rows --baselines ../our-models

docs/extending.md explains it part by part. Everything here is importable by name, since worker processes import it too.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.transformers.onnx_model import OnnxModel

from fixtures.arrays import Floats
from fixtures.build.step import Parameters, step_function
from fixtures.export.onnx_export import copy_configuration
from fixtures.export.recipes import Link
from fixtures.export.variants import EXPORT, O1, QUANTIZE, Variant
from fixtures.faults.fault import Fault, Site
from fixtures.faults.graph_edits import add_constant, edit_graph, find_node
from fixtures.runtimes.hardware import Machine
from fixtures.runtimes.providers import MODEL_FILE
from fixtures.runtimes.session import Feeds, Runtime
from fixtures.scoring.ceilings import EXACT, INT8
from fixtures.scoring.closeness import compare_classes
from fixtures.scoring.tasks import Scoring, Task
from fixtures.scoring.update import CLASSES


@step_function("our_rows:stamp")
def stamp(inputs: list[Path], output: Path, parameters: Parameters) -> None:
    """Write the release into the graph, where the serving side reads it.

    Args:
        inputs: the graph.
        parameters: `release`.
    """
    model = onnx.load(inputs[0] / MODEL_FILE)
    onnx.helper.set_model_props(model, {"release": parameters["release"]})
    onnx.save(model, output / MODEL_FILE)
    copy_configuration(inputs[0], output)


def stamp_parameters(arguments: Sequence[str], task: str, machine: Machine) -> Parameters:
    """Return the parameters of `stamp` for a recipe that says ("stamp", release)."""
    return {"release": arguments[0]}


def pytest_exportgate_links() -> Sequence[Link]:
    """What our release process does with every graph."""
    return [Link("stamp", stamp, tools=("onnx",), parameters=stamp_parameters)]


def pytest_exportgate_variants() -> Sequence[Variant]:
    """Our release, and O1 before int8: what ONNX Runtime would fold at every load is folded once."""
    return [
        Variant("stamped", (EXPORT, ("stamp", "2026.11")), EXACT),
        Variant("O1-quantized", (EXPORT, O1, QUANTIZE), INT8),
    ]


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
            compare=compare_classes,
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
