"""Cuts the weights out of a serialized model before protobuf sees it.

Protobuf copies every byte it parses, and keeps a tensor's `raw_data` in a form that is copied again at each access.
So the file is scanned here first, on the wire level: the raw data of each initializer stays where it is in the
mapped file, and protobuf parses what remains, which is small. Only the three nested messages on the way to those
bytes are known here (ModelProto.graph, GraphProto.initializer, TensorProto); everything else is passed on unread.
The wire format is specified at https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

#: Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER = 5
_TENSOR_NAME = 8
_TENSOR_RAW_DATA = 9

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

#: Raw data below this many bytes stays in the message: shapes and scalars cost nothing there.
_SMALL = 256


#: The bytes that protobuf takes for a message.
MOST_MESSAGE = 2**31 - 1


class WireError(ValueError):
    """The bytes are no protobuf message."""


class TooLargeError(ValueError):
    """What is not cut out is more than protobuf takes; the message says how much."""


class Extent(NamedTuple):
    """Where a tensor's raw bytes lie in the scanned data."""

    offset: int
    length: int


class _Field(NamedTuple):
    number: int
    wire_type: int
    start: int
    """Where the field's tag begins."""
    content: int
    """Where its content begins, behind the tag and the length."""
    end: int


def cut_weights(data: memoryview) -> tuple[bytes, dict[str, Extent]]:
    """A serialized ModelProto without its large raw data, and where in `data` those are, by initializer name."""
    extents: dict[str, Extent] = {}
    pieces: list[bytes | memoryview] = []
    for field in _fields(data, 0, len(data)):
        if field.number == _MODEL_GRAPH and field.wire_type == _BYTES:
            pieces.append(_message(field.number, _cut_graph(data, field, extents)))
        else:
            pieces.append(data[field.start : field.end])
    return _joined(pieces), extents


def _cut_graph(data: memoryview, graph: _Field, extents: dict[str, Extent]) -> bytes:
    pieces: list[bytes | memoryview] = []
    for field in _fields(data, graph.content, graph.end):
        tensor = field.number == _GRAPH_INITIALIZER and field.wire_type == _BYTES
        if tensor and field.end - field.content >= _SMALL:
            pieces.append(_message(field.number, _cut_tensor(data, field, extents)))
        else:
            pieces.append(data[field.start : field.end])
    return _joined(pieces)


def _joined(pieces: list[bytes | memoryview]) -> bytes:
    size = sum(map(len, pieces))
    if size > MOST_MESSAGE:  # before the memory for it is asked for
        raise TooLargeError(f"it has {size} bytes beside its weights' raw data")
    return b"".join(pieces)


def _cut_tensor(data: memoryview, tensor: _Field, extents: dict[str, Extent]) -> bytes | memoryview:
    pieces: list[bytes | memoryview] = []
    name, raw = "", None
    for field in _fields(data, tensor.content, tensor.end):
        if field.number == _TENSOR_RAW_DATA and field.wire_type == _BYTES:
            raw = Extent(field.content, field.end - field.content)
            continue
        if field.number == _TENSOR_NAME and field.wire_type == _BYTES:
            name = bytes(data[field.content : field.end]).decode("utf-8", "replace")
        pieces.append(data[field.start : field.end])
    if raw is None or not name or name in extents:
        return data[tensor.content : tensor.end]
    extents[name] = raw
    return b"".join(pieces)


def _fields(data: memoryview, start: int, end: int) -> Iterator[_Field]:
    position = start
    while position < end:
        tag, content = _read_varint(data, position, end)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise WireError(f"no field number at byte {position}")
        if wire_type == _VARINT:
            _, stop = _read_varint(data, content, end)
        elif wire_type == _FIXED64:
            stop = content + 8
        elif wire_type == _FIXED32:
            stop = content + 4
        elif wire_type == _BYTES:
            length, content = _read_varint(data, content, end)
            stop = content + length
        else:
            raise WireError(f"wire type {wire_type} at byte {position}")
        if stop > end:
            raise WireError(f"the field at byte {position} ends {stop - end} bytes behind its message")
        yield _Field(number, wire_type, position, content, stop)
        position = stop


def _read_varint(data: memoryview, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise WireError(f"the message ends inside a number at byte {position}")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise WireError(f"a number of more than 10 bytes before byte {position}")


def _message(number: int, content: bytes | memoryview) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
