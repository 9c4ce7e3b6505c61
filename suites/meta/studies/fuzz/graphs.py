"""A small ONNX graph of every kind of part that is read here, and what its protobuf may have become."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from suites.meta.studies.fuzz.mutations import MOST_EDITS, NO_FILES, byte_files

WIDTH = 8
CONSTANTS = {"yes": True, "last": [2]}
DATA_FILE = "weights.bin"
ODD_NUMBERS = (0, 1, -1, 2, 7, 127, 2**31 - 1, -(2**31), 2**40, 2**63 - 1, -(2**63), 1000)
ODD_TEXTS = (
    *("", "a", "input_ids", "attention_mask", "last_hidden_state", "logits", "../secret", "/etc/passwd", "secret"),
    *("model.onnx", "config.json", "..\\x", "C:\\x", "a\x00b", "x" * 5000, "Loop2", "Identity", "com.microsoft", "é"),
    *("location", "offset", "length", "-1", "99999999999999999999", DATA_FILE),
)


def graph(vocabulary: int) -> tuple[onnx.ModelProto, bytes]:
    """Return an embedder that reads a table at the token ids, with a graph inside a node, and its external data.

    Args:
        vocabulary: rows of the table.
    """
    random = np.random.default_rng(0)
    table = random.standard_normal((vocabulary, WIDTH)).astype(np.float32)
    weight = numpy_helper.from_array(random.standard_normal((WIDTH, WIDTH)).astype(np.float32), "dense.weight")
    external = TensorProto(
        name="embeddings.word_embeddings.weight", data_type=TensorProto.FLOAT, dims=table.shape,
        data_location=TensorProto.EXTERNAL,
    )  # fmt: skip
    for key, value in (("location", DATA_FILE), ("offset", "0"), ("length", str(table.nbytes))):
        external.external_data.add(key=key, value=value)
    branch = helper.make_graph(
        [helper.make_node("Identity", ["dense"], ["branched"], name="/branch/Identity")], "branch", [],
        [helper.make_tensor_value_info("branched", TensorProto.FLOAT, None)],
    )  # fmt: skip
    nodes = [
        helper.make_node("Gather", [external.name, "input_ids"], ["embedded"], name="/embeddings/Gather"),
        helper.make_node("MatMul", ["embedded", "dense.weight"], ["dense"], name="/dense/MatMul"),
        helper.make_node("If", ["yes"], ["chosen"], name="/If", then_branch=branch, else_branch=branch),
        helper.make_node("Cast", ["attention_mask"], ["mask"], name="/Cast", to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"], name="/Unsqueeze"),
        helper.make_node("Mul", ["chosen", "column"], ["last_hidden_state"], name="/Mul"),
    ]
    axes = ["batch", "length"]
    built = helper.make_graph(
        nodes, "embedder",
        [helper.make_tensor_value_info(name, TensorProto.INT64, axes) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*axes, WIDTH])],
        [external, weight, *(numpy_helper.from_array(np.array(value), name) for name, value in CONSTANTS.items())],
    )  # fmt: skip
    model = helper.make_model(built, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, table.tobytes()


def messages_in(message: Message) -> Iterator[Message]:
    """Yield a message and all messages inside it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                yield from messages_in(part)


@st.composite
def onnx_messages(draw: st.DrawFn, model: onnx.ModelProto) -> bytes:
    """Draw what a model may have become by its fields: numbers, texts, parts that are gone, twice there or swapped."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    for _ in range(draw(st.integers(1, MOST_EDITS))):
        messages = list(messages_in(copied))
        message = messages[draw(st.integers(0, len(messages) - 1))]
        fields = sorted(message.DESCRIPTOR.fields, key=lambda field: field.number)
        _edit(draw, message, fields[draw(st.integers(0, len(fields) - 1))])
    return bytes(copied.SerializeToString())


def _edit(draw: st.DrawFn, message: Any, field: FieldDescriptor) -> None:
    kind = draw(st.sampled_from(("change", "change", "clear", "repeat")))
    if kind == "clear":
        message.ClearField(field.name)
        return
    value = getattr(message, field.name)
    if field.message_type is not None:
        if field.is_repeated and len(value) and kind == "repeat":
            value.add().CopyFrom(value[draw(st.integers(0, len(value) - 1))])
        elif field.is_repeated and len(value):
            del value[draw(st.integers(0, len(value) - 1))]
        elif field.is_repeated:
            value.add()
        else:
            value.SetInParent()
        return
    scalar = _scalar(draw, field)
    if not field.is_repeated:
        setattr(message, field.name, scalar)
    elif len(value) and kind == "change":
        value[draw(st.integers(0, len(value) - 1))] = scalar
    else:
        value.append(scalar)


def _scalar(draw: st.DrawFn, field: FieldDescriptor) -> Any:
    if field.type in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64):
        number = draw(st.sampled_from(ODD_NUMBERS))
        bits = 31 if field.type == FieldDescriptor.TYPE_INT32 else 63
        return (
            abs(number) % 2**bits
            if field.type == FieldDescriptor.TYPE_UINT64
            else max(-(2**bits), min(number, 2**bits - 1))
        )
    if field.type == FieldDescriptor.TYPE_ENUM:
        return draw(st.sampled_from([value.number for value in field.enum_type.values]))
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return draw(st.sampled_from((0.0, -1.0, float("nan"), float("inf"), 1e30)))
    text = draw(st.sampled_from(ODD_TEXTS))
    return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text


def onnx_files(model: onnx.ModelProto) -> st.SearchStrategy[bytes]:
    """Return a strategy of what an ONNX file may have become: by its fields, and its bytes."""
    return st.one_of(*[onnx_messages(model)] * 4, byte_files(model.SerializeToString()), st.sampled_from(NO_FILES))
