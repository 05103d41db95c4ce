"""Ways in which a model file may be damaged, by name.

A kind is a function of a random generator and a `Draft`, a sound model that it may spoil: it changes the model, or the
files beside it, or gives the bytes of the model itself. It gives None where the model has nothing that it could damage.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from benchmarks.damaged.sound import SOUND


@dataclass
class Draft:
    """What a kind of damage works on; all of it may be changed."""

    proto: onnx.ModelProto
    files: dict[str, bytes]

    @property
    def graph(self) -> onnx.GraphProto:
        return self.proto.graph


@dataclass(frozen=True)
class Damaged:
    """A damaged model file, and the files that lie beside it."""

    kind: str
    origin: str
    data: bytes
    files: dict[str, bytes]


T = TypeVar("T")
Rng = np.random.Generator
#: True: the draft is damaged. Bytes: the file itself. None: there is nothing to damage here.
Kind = Callable[[Rng, Draft], "bytes | bool | None"]

KINDS: dict[str, Kind] = {}


def kind(function: Kind) -> Kind:
    KINDS[function.__name__.replace("_", " ")] = function
    return function


def damaged_models(count: int, seed: int = 0) -> Iterator[Damaged]:
    """`count` files: all kinds in turn, on models drawn by chance. File `n` is the same for every count."""
    names = list(KINDS)
    for number in range(count):
        name = names[number % len(names)]
        rng = np.random.default_rng([seed, number, zlib.crc32(name.encode())])
        while True:
            origin = str(rng.choice(list(SOUND)))
            sound = SOUND[origin]()
            draft = Draft(sound.proto, dict(sound.files))
            result = KINDS[name](rng, draft)
            if result is not None:
                break
        data = result if isinstance(result, bytes) else draft.proto.SerializeToString()
        yield Damaged(name, origin, data, draft.files)


# What there is to damage ------------------------------------------------------------------------------------


def _pick(rng: Rng, items: Sequence[T]) -> T | None:
    return items[int(rng.integers(len(items)))] if len(items) else None


def _nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """All nodes, those of sub-graphs too."""
    found = []
    for node in graph.node:
        found.append(node)
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                found += _nodes(inner)
    return found


def _weights(draft: Draft, raw: bool = False) -> list[TensorProto]:
    return [t for t in draft.graph.initializer if not raw or t.HasField("raw_data")]


def _sizes(draft: Draft) -> list[TensorProto]:
    """Constants that say how large something is, or how often it is done."""
    return [tensor for tensor in draft.graph.initializer if tensor.data_type == TensorProto.INT64]


def _shapes(draft: Draft) -> list[onnx.TensorShapeProto]:
    return [v.type.tensor_type.shape for v in draft.graph.input if v.type.tensor_type.shape.dim]


def _attributes(draft: Draft) -> list[AttributeProto]:
    return [attribute for node in _nodes(draft.graph) for attribute in node.attribute]


_HUGE = (2**31 - 1, 2**31, 2**32 + 1, 2**40, 2**62, 2**63 - 1)


# Damage to the bytes ----------------------------------------------------------------------------------------


@kind
def one_bit(rng: Rng, draft: Draft) -> bytes:
    return _flipped(rng, draft, 1)


@kind
def many_bits(rng: Rng, draft: Draft) -> bytes:
    return _flipped(rng, draft, int(rng.integers(2, 30)))


def _flipped(rng: Rng, draft: Draft, bits: int) -> bytes:
    data = np.frombuffer(draft.proto.SerializeToString(), np.uint8).copy()
    for place in rng.integers(8 * data.size, size=bits):
        data[place // 8] ^= 1 << (place % 8)
    return data.tobytes()


@kind
def truncated(rng: Rng, draft: Draft) -> bytes:
    whole = draft.proto.SerializeToString()
    return whole[: int(rng.integers(len(whole)))]


@kind
def bytes_overwritten(rng: Rng, draft: Draft) -> bytes:
    data = bytearray(draft.proto.SerializeToString())
    start = int(rng.integers(len(data)))
    size = min(int(rng.integers(1, 64)), len(data) - start)
    data[start : start + size] = rng.bytes(size) if rng.integers(2) else bytes([int(rng.choice([0, 255]))]) * size
    return bytes(data)


@kind
def bytes_missing(rng: Rng, draft: Draft) -> bytes:
    data = draft.proto.SerializeToString()
    start = int(rng.integers(len(data)))
    return data[:start] + data[start + int(rng.integers(1, 64)) :]


@kind
def joined_to_another(rng: Rng, draft: Draft) -> bytes:
    """protobuf merges messages that follow each other."""
    other = SOUND[str(rng.choice(list(SOUND)))]().proto
    return draft.proto.SerializeToString() + other.SerializeToString()


@kind
def names_not_utf8(rng: Rng, draft: Draft) -> bytes | None:
    data = draft.proto.SerializeToString()
    node = _pick(rng, draft.graph.node)
    words = [node.op_type, node.name, *node.input, *node.output] if node else []
    word = _pick(rng, [w for w in words if w])
    if word is None:
        return None
    bad = bytes(rng.choice([0x80, 0xC0, 0xFE, 0xFF], len(word)).tolist())
    return data.replace(word.encode(), bad)


@kind
def names_of_odd_letters(rng: Rng, draft: Draft) -> bytes:
    data = draft.proto.SerializeToString()
    name = draft.graph.input[0].name.encode()
    # As long as before, so that the file stays a message.
    head, letter = b"\x0a" + bytes([len(name)]), rng.choice([b"\n", b"\0", b"\x1b", b"/"])
    return data.replace(head + name, head + letter * len(name))


@kind
def deep_messages(rng: Rng, draft: Draft) -> bytes:
    """Types of sequences of sequences, and so on."""
    inner = b""
    for _ in range(int(rng.choice([90, 110, 5_000, 20_000]))):
        inner = _message(4, _message(1, inner))  # TypeProto.sequence_type, Sequence.elem_type
    value = _message(1, b"deep") + _message(2, inner)
    return draft.proto.SerializeToString() + _message(7, _message(11, value))


def _message(number: int, content: bytes) -> bytes:
    size, head = len(content), bytearray([number << 3 | 2])
    while size >= 128:
        head.append(size & 127 | 128)
        size >>= 7
    return bytes([*head, size]) + content


# Damage to the graph ----------------------------------------------------------------------------------------


@kind
def node_removed(rng: Rng, draft: Draft) -> bool:
    del draft.graph.node[int(rng.integers(len(draft.graph.node)))]
    return True


@kind
def node_twice(rng: Rng, draft: Draft) -> bool:
    nodes = draft.graph.node
    nodes.insert(int(rng.integers(len(nodes) + 1)), nodes[int(rng.integers(len(nodes)))])
    return True


@kind
def cycle(rng: Rng, draft: Draft) -> bool | None:
    nodes = [node for node in draft.graph.node if node.input]
    first = int(rng.integers(len(nodes)))
    later = int(rng.integers(first, len(nodes)))
    nodes[first].input[int(rng.integers(len(nodes[first].input)))] = nodes[later].output[0]
    return True


@kind
def order_reversed(rng: Rng, draft: Draft) -> bool | None:
    nodes = list(draft.graph.node)
    if len(nodes) < 2:
        return None
    rng.shuffle(nodes)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes[::-1]]
    del draft.graph.node[:]
    draft.graph.node.extend(copies)
    return True


@kind
def unknown_input(rng: Rng, draft: Draft) -> bool | None:
    node = _pick(rng, [node for node in _nodes(draft.graph) if node.input])
    if node is None:
        return None
    node.input[int(rng.integers(len(node.input)))] = str(rng.choice(["nothing", "", " ", "x" * 100_000]))
    return True


@kind
def input_missing(rng: Rng, draft: Draft) -> bool | None:
    node = _pick(rng, [node for node in _nodes(draft.graph) if node.input])
    if node is None:
        return None
    del node.input[int(rng.integers(len(node.input))) :]
    return True


@kind
def too_many_inputs(rng: Rng, draft: Draft) -> bool:
    node = _nodes(draft.graph)[0]
    node.input.extend([draft.graph.input[0].name] * int(rng.choice([1, 5, 1_000])))
    return True


@kind
def name_missing(rng: Rng, draft: Draft) -> bool:
    graph = draft.graph
    match int(rng.integers(5)):
        case 0:
            graph.input[0].ClearField("name")
        case 1:
            graph.output[0].ClearField("name")
        case 2 if graph.initializer:
            graph.initializer[int(rng.integers(len(graph.initializer)))].ClearField("name")
        case 3:
            graph.node[int(rng.integers(len(graph.node)))].output[0] = ""
        case _:
            graph.node[int(rng.integers(len(graph.node)))].ClearField("op_type")
    return True


@kind
def name_twice(rng: Rng, draft: Draft) -> bool:
    graph = draft.graph
    match int(rng.integers(4)):
        case 0:
            graph.input.append(graph.input[0])
        case 1:
            graph.output.append(graph.output[0])
        case 2 if graph.initializer:
            graph.initializer.append(graph.initializer[0])
        case _:
            graph.node[-1].output[0] = graph.input[0].name
    return True


@kind
def unknown_operator(rng: Rng, draft: Draft) -> bool:
    node = _nodes(draft.graph)[int(rng.integers(len(_nodes(draft.graph))))]
    if rng.integers(2):
        node.op_type = str(rng.choice(["", "NoSuchOperator", "relu", "Relu\n"]))
    else:
        node.domain = str(rng.choice(["com.acme", "ai.onnx.ml", "local", " "]))
    return True


@kind
def another_operator(rng: Rng, draft: Draft) -> bool:
    """One that exists, but takes other inputs."""
    schemas = sorted({schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""})
    nodes = _nodes(draft.graph)
    nodes[int(rng.integers(len(nodes)))].op_type = str(rng.choice(schemas))
    return True


@kind
def no_such_output(rng: Rng, draft: Draft) -> bool:
    if rng.integers(2):
        draft.graph.output[0].name = "nothing"
    else:
        del draft.graph.output[:]
    return True


@kind
def deep_subgraphs(rng: Rng, draft: Draft) -> bytes:
    """If in If: protobuf gives up at a depth of 100 messages, three of which are one level."""
    inner = leaf = _leaf().SerializeToString()
    doubled = bool(rng.integers(2))
    for _ in range(int(rng.choice([10, 30, 60, 1000]))):
        other = inner if doubled and len(inner) < 5_000 else leaf
        branches = [_message(1, name) + _message(6, graph) + b"\xa0\x01\x05"  # name, g, type
                    for name, graph in ((b"then_branch", inner), (b"else_branch", other))]  # fmt: skip
        node = _message(1, b"c") + _message(2, b"o") + _message(4, b"If") + b"".join(_message(5, b) for b in branches)
        inner = _message(1, node) + _message(2, b"g") + _message(12, _value("o").SerializeToString())
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    inputs = b"".join(_message(11, value.SerializeToString()) for value in (_value("x"), condition))
    opset = draft.proto.opset_import[0].SerializeToString()
    return b"\x08\x09" + _message(8, opset) + _message(7, inner + inputs)


def _value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])


def _leaf() -> onnx.GraphProto:
    return helper.make_graph([helper.make_node("Neg", ["x"], ["o"])], "g", [], [_value("o")])


@kind
def recursive_function(rng: Rng, draft: Draft) -> bool | None:
    if not draft.proto.functions:
        return None
    first, second = draft.proto.functions[0], draft.proto.functions[-1]
    match int(rng.integers(5)):
        case 0:  # each calls the other
            first.node[0].op_type, first.node[0].domain = second.name, second.domain
            first.opset_import.add(domain=second.domain, version=1)
            del first.node[0].input[1:]
        case 1:
            draft.proto.functions.append(first)
        case 2:
            del first.node[:]
        case 3:
            del first.opset_import[:]
        case _:
            first.output[0] = "nothing"
    return True


@kind
def no_graph(rng: Rng, draft: Draft) -> bool:
    match int(rng.integers(3)):
        case 0:
            draft.proto.ClearField("graph")
        case 1:
            del draft.graph.node[:]
        case _:
            del draft.graph.input[:]
    return True


@kind
def absurd_opset(rng: Rng, draft: Draft) -> bool:
    match int(rng.integers(4)):
        case 0:
            draft.proto.opset_import[0].version = int(rng.choice([0, -1, -(2**63), 1, 6, 999, 2**40]))
        case 1:
            del draft.proto.opset_import[:]
        case 2:
            draft.proto.opset_import.add(version=int(rng.choice([1, 99])))
        case _:
            draft.proto.ir_version = int(rng.choice([0, -5, 2**40]))
    return True


# Damage to types and shapes ---------------------------------------------------------------------------------


@kind
def another_element_type(rng: Rng, draft: Draft) -> bool:
    code = int(rng.choice([-1, 0, 1, 2, 7, 8, 9, 10, 11, 14, 16, 17, 22, 99, 2**31 - 1]))
    tensors = _weights(draft)
    if tensors and rng.integers(2):
        tensors[int(rng.integers(len(tensors)))].data_type = code
    else:
        inputs = [value for value in draft.graph.input if value.type.HasField("tensor_type")]
        inputs[int(rng.integers(len(inputs)))].type.tensor_type.elem_type = code
    return True


@kind
def no_tensor(rng: Rng, draft: Draft) -> bool:
    value = draft.graph.input[0]
    value.ClearField("type")
    if rng.integers(2):
        value.type.sequence_type.elem_type.tensor_type.elem_type = 1
    return True


@kind
def huge_input(rng: Rng, draft: Draft) -> bool | None:
    shape = _pick(rng, _shapes(draft))
    if shape is None:
        return None
    shape.dim[int(rng.integers(len(shape.dim)))].dim_value = int(rng.choice(_HUGE))
    return True


@kind
def input_past_64_bits(rng: Rng, draft: Draft) -> bool | None:
    shape = _pick(rng, _shapes(draft))
    if shape is None:
        return None
    for dim in shape.dim:
        dim.dim_value = int(rng.choice([2**21, 2**32, 2**62]))
    return True


@kind
def negative_size(rng: Rng, draft: Draft) -> bool:
    tensors = _weights(draft)
    if tensors and rng.integers(2):
        tensor = tensors[int(rng.integers(len(tensors)))]
        tensor.dims[:] = [-1, *tensor.dims[1:]]
    else:
        shape = _shapes(draft)[0]
        shape.dim[-1].dim_value = int(rng.choice([-1, -(2**63)]))
    return True


@kind
def odd_dimension(rng: Rng, draft: Draft) -> bool:
    dim = _shapes(draft)[0].dim[0]
    dim.dim_param = str(rng.choice(["", "n", "n+", "__import__('os')", "-1", "é", "9" * 50]))
    return True


@kind
def another_rank(rng: Rng, draft: Draft) -> bool:
    tensors = _weights(draft)
    if tensors and rng.integers(2):
        tensor = tensors[int(rng.integers(len(tensors)))]
        whole = int(np.prod(tensor.dims))
        tensor.dims[:] = {0: [whole], 1: [1, 1, whole, 1, 1, 1], 2: [1] * 100 + [whole]}[int(rng.integers(3))]
    else:
        shape = _shapes(draft)[0]
        for _ in range(int(rng.choice([1, 2, 100]))):
            shape.dim.add(dim_value=1)
    return True


@kind
def another_size(rng: Rng, draft: Draft) -> bool:
    shape = _pick(rng, _shapes(draft))
    assert shape is not None
    dim = shape.dim[int(rng.integers(len(shape.dim)))]
    dim.dim_value = int(rng.choice([0, 1, dim.dim_value + 1, 2 * dim.dim_value, 997, 100_003]))
    return True


# Damage to attributes ---------------------------------------------------------------------------------------


@kind
def attribute_of_another_type(rng: Rng, draft: Draft) -> bool | None:
    attribute = _pick(rng, _attributes(draft))
    if attribute is None:
        return None
    values: list[object] = [1, -1.5, "word", b"\xff\xfe", [1, 2], [0.5], ["a", "b"], [1] * 10_000, _leaf(),
                            numpy_helper.from_array(np.ones(3, np.float32), "t")]  # fmt: skip
    attribute.CopyFrom(helper.make_attribute(attribute.name, values[int(rng.integers(len(values)))]))
    return True


@kind
def attribute_that_lies(rng: Rng, draft: Draft) -> bool | None:
    """The type says one thing, what is there another."""
    attribute = _pick(rng, _attributes(draft))
    if attribute is None:
        return None
    attribute.type = int(rng.choice([t for t in range(15) if t != attribute.type]))
    return True


@kind
def attribute_missing(rng: Rng, draft: Draft) -> bool | None:
    node = _pick(rng, [node for node in _nodes(draft.graph) if node.attribute])
    if node is None:
        return None
    del node.attribute[int(rng.integers(len(node.attribute)))]
    return True


@kind
def attribute_out_of_range(rng: Rng, draft: Draft) -> bool | None:
    attribute = _pick(rng, [a for a in _attributes(draft) if a.type in (AttributeProto.INT, AttributeProto.INTS)])
    if attribute is None:
        return None
    value = int(rng.choice([*_HUGE, 0, -1, -(2**63), 100, 10_000]))
    if attribute.type == AttributeProto.INT:
        attribute.i = value
    elif attribute.ints and rng.integers(3):
        attribute.ints[int(rng.integers(len(attribute.ints)))] = value
    else:
        attribute.ints[:] = [value] * int(rng.choice([0, len(attribute.ints), 100]))
    return True


@kind
def unknown_attribute(rng: Rng, draft: Draft) -> bool:
    node = _nodes(draft.graph)[int(rng.integers(len(_nodes(draft.graph))))]
    name = str(rng.choice(["", "axis", "no_such_attribute", "to", "axes"]))
    node.attribute.append(helper.make_attribute(name, int(rng.choice([3, 2**40]))))
    return True


# Damage to weights ------------------------------------------------------------------------------------------


@kind
def data_of_another_length(rng: Rng, draft: Draft) -> bool | None:
    tensor = _pick(rng, _weights(draft, raw=True))
    if tensor is None:
        return None
    raw = tensor.raw_data
    tensor.raw_data = (
        raw[: int(rng.integers(len(raw)))] if rng.integers(2) else raw + rng.bytes(int(rng.integers(1, 9)))
    )
    return True


@kind
def data_absent(rng: Rng, draft: Draft) -> bool | None:
    tensor = _pick(rng, _weights(draft, raw=True))
    if tensor is None:
        return None
    tensor.ClearField("raw_data")
    if rng.integers(2):
        tensor.float_data.extend([1.0] * int(rng.integers(1, 5)))
    return True


@kind
def huge_weight(rng: Rng, draft: Draft) -> bool | None:
    """Its type says so; the data are as they were."""
    tensor = _pick(rng, _weights(draft))
    if tensor is None:
        return None
    if tensor.dims and rng.integers(2):
        tensor.dims[int(rng.integers(len(tensor.dims)))] = int(rng.choice(_HUGE))
    else:
        tensor.dims[:] = [2**32, 2**32]
    if rng.integers(2):
        tensor.ClearField("raw_data")
    return True


@kind
def huge_sizes(rng: Rng, draft: Draft) -> bool | None:
    """Constants that say how large something is to be."""
    tensor = _pick(rng, _sizes(draft))
    if tensor is None:
        return None
    array = numpy_helper.to_array(tensor).copy()
    value = int(rng.choice([*_HUGE, 2**20, 2**28, 2**30]))
    if array.ndim and rng.integers(2):
        array.reshape(-1)[int(rng.integers(array.size))] = value
    else:
        array[...] = value
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return True


@kind
def odd_sizes(rng: Rng, draft: Draft) -> bool | None:
    tensor = _pick(rng, _sizes(draft))
    if tensor is None:
        return None
    array = numpy_helper.to_array(tensor)
    if rng.integers(3):
        array = np.where(rng.integers(2, size=array.shape) > 0, rng.choice([-(2**63), -7, -2, -1, 0, 1, 9]), array)
        changed = np.asarray(array, np.int64)
    else:
        changed = np.resize(array, [(0,), (1,), (7,), (2, 3), (1, 1, 1)][int(rng.integers(5))]).astype(np.int64)
    tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    return True


@kind
def odd_numbers(rng: Rng, draft: Draft) -> bool | None:
    """nan, infinities and the greatest numbers where others were."""
    tensor = _pick(rng, [t for t in _weights(draft, raw=True) if t.data_type == TensorProto.FLOAT])
    if tensor is None:
        return None
    array = np.full_like(numpy_helper.to_array(tensor), rng.choice([np.nan, np.inf, -np.inf, 3e38, 1e9, 0, 1e-45]))
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return True


@kind
def external_file(rng: Rng, draft: Draft) -> bool | None:
    tensor = _pick(rng, [t for t in _weights(draft) if t.external_data])
    if tensor is None:
        return None
    entries = {entry.key: entry for entry in tensor.external_data}
    match int(rng.integers(6)):
        case 0:
            entries["location"].value = str(rng.choice(
                ["../weights.bin", "/etc/passwd", "", ".", "weights.bin/", "none.bin", "a\0b", "x" * 5000, "/dev/zero"]
            ))  # fmt: skip
        case 1:
            entries["offset"].value = str(rng.choice(["-1", "1e3", "", "9" * 30, str(2**63), "4", "0x10"]))
        case 2:
            entries["length"].value = str(rng.choice(["-1", "0", "3", "9" * 30, "9" * 5000, "many"]))
        case 3:
            del draft.files["weights.bin"]
        case 4:
            draft.files["weights.bin"] = draft.files["weights.bin"][:-1]
        case _:
            tensor.dims[0] = 2**40
    return True
