"""What does not end by itself is ended: a step, and a run of a graph with a loop without an end."""

import re
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fixtures.build.needs import ModelSize
from fixtures.build.step import Step, step_function
from fixtures.build.store import Store
from fixtures.build.workers import TIME_LIMIT_S, Limits, build_all
from fixtures.runtimes.onnx_runtime import OnnxRuntime, TooSlow
from suites.meta.house import EMBEDDER, LOOSE, House


def add_endless_loop(model):
    """Let the output of a graph wait for a loop that never ends."""
    graph = model.graph
    output = graph.output[0]
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name == output.name:
                node.output[index] = "before_loop"
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["goes_on"]), helper.make_node("Mul", ["value", "value"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, []),
        ],
    )
    graph.initializer.append(helper.make_tensor("always", TensorProto.BOOL, [], [True]))
    graph.initializer.append(helper.make_tensor("start", TensorProto.FLOAT, [], [1.0]))
    graph.node.append(helper.make_node("Loop", ["", "always", "start"], ["never"], body=body))
    graph.node.append(helper.make_node("Add", ["before_loop", "never"], [output.name]))


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    add_endless_loop(model)
    file = tmp_path_factory.mktemp("endless") / "model.onnx"
    onnx.save(model, file)
    return file


def test_run_without_an_end_is_ended_and_not_tried_again(endless):
    runtime = OnnxRuntime(endless, 1)
    runtime.limit_s = 0.5
    feeds = {"x": np.zeros(1, np.float32)}
    with pytest.raises(TooSlow, match=r"^a run took longer than 0.5 s, and was ended; --time-limit allows more$"):
        runtime(feeds)
    runtime.limit_s = 1000
    with pytest.raises(TooSlow):
        runtime(feeds)


def test_run_within_its_time_gives_its_outputs(tmp_path, endless):
    model = onnx.load(endless)
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("Identity", ["x"], ["y"]))
    onnx.save(model, tmp_path / "model.onnx")
    runtime = OnnxRuntime(tmp_path / "model.onnx", 1)
    runtime.limit_s = 100
    assert runtime({"x": np.ones(1, np.float32)}) == {"y": np.ones(1, np.float32)}


@step_function("test_time_limit:sleep")
def sleep(inputs, output, parameters):
    time.sleep(parameters["seconds"])


def test_step_without_an_end_is_ended_and_the_others_go_on(tmp_path):
    store = Store(tmp_path)
    endless_step, quick = (Step(sleep, f"tiny {seconds}", (), {"seconds": seconds}) for seconds in (1000, 0))
    built = []
    failed = build_all(
        store,
        {endless_step: ModelSize(), quick: ModelSize()},
        Limits(2, 2**33, step_s=2),
        lambda step, _: built.append(step.label),
    )
    (error,) = failed.values()
    assert str(error).startswith("tiny 1000: it took longer than 2 s, and was ended; --time-limit allows more (its out")
    assert built == ["tiny 0"]
    assert not list(tmp_path.glob("partial/*"))


def test_ready_made_file_with_an_endless_loop_fails_in_time(tmp_path, shared_store):
    house = House(tmp_path, shared_store)
    house.add("tiny", EMBEDDER + LOOSE)
    house.run("--variant=plain")
    model = onnx.load(house.artifact("plain") / "model.onnx")
    add_endless_loop(model)
    onnx.save(model, tmp_path / "endless.onnx")
    artifact = f"--artifact=tiny:plain={tmp_path / 'endless.onnx'}"
    run = house.run(artifact, "--time-limit=4", suite="suites/accuracy/test_scores.py")
    assert run.returncode == 1, run.text
    assert "took longer than 4 s, and was ended; --time-limit allows more" in run.stdout
    assert house.statuses() == {"plain": "fail"}
    run = house.run(artifact, "--time-limit=4", suite="suites/latency")
    assert run.returncode == 1, run.text
    assert "took longer than 4 s, and was ended; --time-limit allows more" in run.stdout


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon", "1h"])
def test_time_limit_is_a_number_of_seconds(tmp_path, text):
    house = House(tmp_path, tmp_path / "store")
    house.add("tiny", EMBEDDER)
    message = f"--time-limit: '{text}' is no number of seconds, such as {TIME_LIMIT_S}"
    assert re.fullmatch(message, house.usage_error(time_limit=text))
