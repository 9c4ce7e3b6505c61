"""What each version of ONNX Runtime reads: writes fixtures/runtimes/onnxruntime_versions.json.

tox run -e onnxruntime-versions

Each version is installed from the package index into a folder of its own, and loads graphs of one node: of every opset,
of every version of ONNX's file format, and it lists the operators of its own domain that it knows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from fixtures.runtimes.onnxruntime_versions import FILE, OWN_DOMAIN

VERSIONS = tuple(f"1.{minor}" for minor in range(15, 33))
NUMPY_1 = tuple(f"1.{minor}" for minor in range(15, 19))
"""Versions that were built for NumPy 1."""
OPSETS, IR_VERSIONS = range(13, 31), range(7, 17)
PROBE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import onnx
import onnxruntime
from onnx import TensorProto, helper

onnxruntime.set_default_logger_severity(4)
candidates = json.loads(sys.argv[2])

def error(opset, ir_version, operator="Identity", domain=""):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    node = helper.make_node(operator, ["x"], ["y"], domain=domain)
    graph = helper.make_graph([node], "one node", values[:1], values[1:])
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=ir_version)
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:
        return str(error)
    return ""

def is_known(operator):
    return "is not a registered function/op" not in error(13, 7, operator, "com.microsoft")

assert not is_known("NoOperatorIsCalledThis")
print(json.dumps({
    "opset": max(opset for opset in candidates["opsets"] if not error(opset, 7)),
    "ir_version": max(version for version in candidates["ir_versions"] if not error(13, version)),
    "operators": [operator for operator in candidates["operators"] if is_known(operator)],
}))
"""


def probe(version: str, folder: Path) -> dict[str, Any]:
    """Install a version into a folder, and return what it reads."""
    numpy = ["numpy<2"] if version in NUMPY_1 else ["numpy"]
    packages = [f"onnxruntime=={version}.*", "onnx<1.20", "protobuf<7", *numpy]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), "--only-binary", ":all:"]
    subprocess.run([*install, *packages], check=True, stderr=subprocess.DEVNULL)
    operators = {row.name for row in get_all_operator_schema() if row.domain == OWN_DOMAIN}
    candidates = {"opsets": list(OPSETS), "ir_versions": list(IR_VERSIONS), "operators": sorted(operators)}
    command = [sys.executable, "-I", "-c", PROBE, str(folder), json.dumps(candidates)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    reads: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return reads


def merged(reads: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the content of FILE: what each version reads, and the first version that knows each operator."""
    first: dict[str, str] = {}
    for version, row in reads.items():
        for operator in row["operators"]:
            first.setdefault(operator, version)
    versions = {name: {key: row[key] for key in ("opset", "ir_version")} for name, row in reads.items()}
    return {"versions": versions, "operators": dict(sorted(first.items()))}


def main(arguments: Sequence[str]) -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(arguments)
    reads = {}
    for version in VERSIONS:
        with tempfile.TemporaryDirectory(prefix="onnxruntime-") as folder:
            reads[version] = probe(version, Path(folder))
        print(version, {key: value for key, value in reads[version].items() if key != "operators"}, flush=True)
    FILE.write_bytes(msgspec.json.format(msgspec.json.encode(merged(reads)), indent=1) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
