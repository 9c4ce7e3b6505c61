"""Which versions of ONNX Runtime read a graph: the measured table, and what it says of graphs."""

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from fixtures.gate.single_values import UsageError, target_ort
from fixtures.runtimes.onnxruntime_versions import OWN_DOMAIN, problems, table
from suites.meta.house import EMBEDDER


def graph_of(opset=18, ir_version=8, operator="Identity", domain=""):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"], domain=domain)], "g", values[:1], values[1:])
    domains = [helper.make_opsetid("", opset), helper.make_opsetid(OWN_DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=ir_version)


def test_table_grows_from_version_to_version():
    rows = list(table().versions.values())
    assert rows == sorted(rows, key=lambda row: (row.opset, row.ir_version))
    assert list(table().versions) == [f"1.{minor}" for minor in range(15, 15 + len(rows))]
    assert table().operators["Attention"] == "1.15"
    assert table().operators["GatherBlockQuantized"] == "1.20"


def test_table_is_what_the_installed_version_does():
    version = ".".join(onnxruntime.__version__.split(".")[:2])
    reads = table().versions[version]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4

    def load(**fields):
        onnxruntime.InferenceSession(graph_of(**fields).SerializeToString(), options, ["CPUExecutionProvider"])

    load(opset=reads.opset)
    load(ir_version=reads.ir_version)
    for fields in ({"opset": reads.opset + 1}, {"ir_version": reads.ir_version + 1}):
        with pytest.raises(Exception, match=r"opset|IR version"):
            load(**fields)
    known = {row.name for row in get_all_operator_schema() if row.domain == OWN_DOMAIN}
    assert table().operators.keys() == known


@pytest.mark.parametrize(
    ("fields", "target", "expected"),
    [
        ({}, "1.15", []),
        ({"opset": 21}, "1.20", []),
        ({"opset": 21}, "1.16", ["opset 21, and 1.16 reads 19 at most: 1.18 is the first that does"]),
        ({"ir_version": 10}, "1.17", ["IR version 10, and 1.17 reads 9 at most: 1.18 is the first that does"]),
        ({"opset": 99}, "1.20", ["opset 99, and 1.20 reads 21 at most: no version up to 1.32 does"]),
        (
            {"operator": "GatherBlockQuantized", "domain": OWN_DOMAIN},
            "1.16",
            ["the operator GatherBlockQuantized, which 1.16 does not know: 1.20 is the first that does"],
        ),
        (
            {"operator": "Homemade", "domain": OWN_DOMAIN},
            "1.32",
            ["the operator Homemade, which 1.32 does not know: no version up to 1.32 does"],
        ),
    ],
)
def test_what_a_version_does_not_read_is_named_with_the_first_that_does(fields, target, expected):
    assert problems(graph_of(**fields), target) == expected


def test_operator_that_a_version_computes_wrongly_is_named():
    """ONNX Script's Attention has its mask as a bias; Optimum's has the mask itself."""
    graph = graph_of(operator="Attention", domain=OWN_DOMAIN)
    assert problems(graph, "1.20") == []
    graph.graph.node[0].input.extend(["weights", "bias", "", "", "mask"])
    assert problems(graph, "1.21") == []
    (line,) = problems(graph, "1.20")
    assert line == (
        "the operator Attention with a mask as a bias, of which 1.20 computes all rows of a batch but the first "
        "wrongly: 1.21 is the first that is right"
    )


def test_target_is_a_version_that_was_measured():
    assert target_ort(None) == ""
    assert target_ort("1.20.1") == target_ort("1.20") == "1.20"
    with pytest.raises(
        UsageError, match=r"--target-ort: '0.9' is none of the versions that are known here: 1.15, 1.16"
    ):
        target_ort("0.9")


def test_gate_asks_whether_the_target_reads_every_file(house):
    house.add("tiny", EMBEDDER)
    suite = "suites/conformance/test_contract.py"
    run = house.run("--variant=plain", "--target-ort=1.20", suite=suite)
    assert run.returncode == 0, run.text
    exported = onnx.load(house.gate()["models"][0]["variants"][0]["path"], load_external_data=False)
    exported.opset_import[0].version = 21
    exported.ir_version = 10
    (folder := house.report / "later").mkdir()
    onnx.save(exported, folder / "model.onnx")
    run = house.run(f"--artifact=tiny:plain={folder / 'model.onnx'}", "--target-ort=1.17", suite=suite)
    assert run.returncode == 1
    text = " ".join(run.text.split())
    assert "onnxruntime 1.17 does not read it: opset 21, and 1.17 reads 20 at most: 1.18 is the first" in text
    assert "--target-ort=1.17" in text, "the command that runs it again"
    run = house.run("--target-ort=0.9", suite=suite)
    assert run.returncode == 4
