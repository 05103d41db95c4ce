"""What the graph-level cost model is told of a fused group: the structure of its body as numbers, and an estimate of
its cost by plain arithmetic on shapes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields

import numpy as np

from tensorc.ir import OPS, Graph, Kind, Node, Value
from tensorc.ir.cost import flops, work
from tensorc.ir.dims import static_shape
from tensorc.ir.types import numpy_dtype


@dataclass(frozen=True)
class GroupCost:
    """Of one call of a group's kernel on one thread: `seconds`; machine `instructions` and `code_bytes` of its code
    (static: loops count once); `buffer_bytes` of the activations in and out and of its scratch memory."""

    seconds: float
    instructions: float
    code_bytes: float
    buffer_bytes: float


QUANTITIES = tuple(field.name for field in fields(GroupCost))

# The estimate ------------------------------------------------------------------------------------------------

#: Of one core of a server: operations a second in products and elsewhere, bytes a second, seconds to call a kernel.
_PRODUCT_RATE, _PLAIN_RATE, _BANDWIDTH, _CALL = 1e11, 1e10, 1e10, 1e-6
#: Instructions of an anchor's register tiles and of any other operator, and bytes of one.
_ANCHOR_CODE, _NODE_CODE, _INSTRUCTION_BYTES = 600, 60, 7


def estimate(body: Graph) -> GroupCost:
    """What shapes say alone: a roofline, a constant for each operator, and the sizes of values."""
    amount = work(body)
    products = sum(flops(node) for node in body.nodes if _kind(node) is Kind.ANCHOR)
    computing = products / _PRODUCT_RATE + (amount.flops - products) / _PLAIN_RATE
    anchors = sum(_kind(node) is Kind.ANCHOR for node in body.nodes)
    instructions = _NODE_CODE * (1 + len(body.nodes)) + _ANCHOR_CODE * anchors
    return GroupCost(
        seconds=max(computing, amount.nbytes / _BANDWIDTH) + _CALL,
        instructions=instructions,
        code_bytes=instructions * _INSTRUCTION_BYTES,
        buffer_bytes=max(activation_bytes(body), 1),
    )


def activation_bytes(body: Graph) -> int:
    """Bytes of the values that go in and come out; those of the packed weights of products are not among them."""
    weights = [node.inputs[1] for node in body.nodes if node.op in _WEIGHTED]
    values = [value for value in body.inputs if value not in weights]
    return sum(value.type.nbytes for value in (*values, *body.outputs))


# Features ----------------------------------------------------------------------------------------------------

_WEIGHTED = ("conv_blocked", "matmul_packed")
#: Operators that are told apart, by what they cost; the rest counts by its kind.
_HEADS = {
    "conv": ("conv_blocked",),
    "matmul": ("matmul",),
    "matmul_packed": ("matmul_packed",),
    "attention": ("attention",),
    "pool": ("avg_pool", "max_pool"),
    "softmax": ("log_softmax", "softmax"),
    "norm": ("layer_norm", "rms_norm"),
    "reduce": ("reduce_max", "reduce_mean", "reduce_min", "reduce_prod", "reduce_sum"),
}
_COUNTED = {
    "block": ("block",),
    "cast": ("cast",),
    "concat": ("concat",),
    "expand": ("expand",),
    "gather": ("gather", "gather_elements", "gather_nd"),
    "lrn": ("lrn",),
    "pad": ("pad",),
    "slice": ("slice",),
    "transpose": ("transpose",),
    "unblock": ("unblock",),
    "divide": ("div", "reciprocal", "rsqrt", "sqrt"),
    "transcendental": (
        "cos", "elu", "erf", "exp", "gelu", "log", "pow", "sigmoid", "silu", "sin", "softplus", "tanh",
    ),
}  # fmt: skip
_SHAPES = (
    "flops", "product_flops", "bytes", "intensity", "rows", "columns", "depth", "kernel", "stride", "groups",
    "input_pixels", "filter_width", "output", "output_last", "output_rank", "largest_input", "input_last",
    "weight_bytes", "item_bytes", "activation_bytes", "elementwise", "transcendental_elements",
)  # fmt: skip
_MOVING = (
    "moves", "moved_bytes", "moved_share", "moved_stride", "moved_run", "operand_bytes", "operand_share",
    "operand_stride", "operand_run", "operand_reads", "repeated_reads",
)  # fmt: skip
FEATURES = (
    *(f"estimate_{name}" for name in QUANTITIES),
    *(f"head_{name}" for name in _HEADS),
    "depthwise", "plain_input", "nodes", "kind_elementwise", "kind_view", "kind_injective", "inputs", "constants",
    *(f"op_{name}" for name in _COUNTED),
    *_SHAPES,
    *_MOVING,
)  # fmt: skip


def group_features(body: Graph) -> np.ndarray:
    """[features]: counts, shares, and log2 of everything that has a size. Shapes must be static."""
    head = next((node for node in body.nodes if _kind(node) in (Kind.ANCHOR, Kind.REDUCTION)), None)
    kinds = [_kind(node) for node in body.nodes]
    names = [node.op for node in body.nodes]
    row = {f"estimate_{name}": math.log2(value) for name, value in asdict(estimate(body)).items()}
    row |= {f"head_{name}": float(head is not None and head.op in ops) for name, ops in _HEADS.items()}
    row |= {f"op_{name}": float(sum(op in ops for op in names)) for name, ops in _COUNTED.items()}
    row |= {
        "depthwise": float(head is not None and bool(head.attrs.get("depthwise"))),
        "plain_input": float(head is not None and head.op == "conv_blocked" and head.inputs[0].type.rank == 4),
        "nodes": float(len(names)),
        "kind_elementwise": float(kinds.count(Kind.ELEMENTWISE)),
        "kind_view": float(kinds.count(Kind.VIEW)),
        "kind_injective": float(kinds.count(Kind.INJECTIVE)),
        "inputs": float(len(body.inputs)),
        "constants": float(len(body.constants())),
    }
    row |= _shape_features(body, head) | _move_features(body, head)
    return np.array([row[name] for name in FEATURES])


def _shape_features(body: Graph, head: Node | None) -> dict[str, float]:
    amount = work(body)
    output = body.outputs[0]
    inputs = [static_shape(value.shape) for value in body.inputs]
    largest: tuple[int, ...] = max(inputs, key=math.prod, default=())
    rows, columns, depth = _extents(head) if head is not None else (output.type.size, 1, 1)
    window = _window(head)
    elementwise = [node for node in body.nodes if _kind(node) is Kind.ELEMENTWISE]
    slow = [node.output.type.size for node in elementwise if node.op in _COUNTED["transcendental"]]
    products = sum(flops(node) for node in body.nodes if _kind(node) is Kind.ANCHOR)
    weights = sum(node.inputs[1].type.nbytes for node in body.nodes if node.op in _WEIGHTED)
    sizes = {
        "flops": amount.flops,
        "product_flops": products,
        "bytes": amount.nbytes,
        "intensity": amount.flops / max(amount.nbytes, 1),
        "rows": rows,
        "columns": columns,
        "depth": depth,
        "kernel": window[0],
        "stride": window[1],
        "groups": head.attrs.get("groups", 1) if head is not None else 1,
        "input_pixels": math.prod(static_shape(head.inputs[0].shape)[2:4]) if head is not None else 1,
        "filter_width": window[2],
        "output": output.type.size,
        "output_last": static_shape(output.shape)[-1] if output.shape else 1,
        "largest_input": math.prod(largest),
        "input_last": largest[-1] if largest else 1,
        "weight_bytes": weights,
        "item_bytes": numpy_dtype(output.dtype).itemsize,
        "activation_bytes": activation_bytes(body),
        "elementwise": sum(node.output.type.size for node in elementwise),
        "transcendental_elements": sum(slow),
    }
    return {name: _log2(value) for name, value in sizes.items()} | {"output_rank": float(output.type.rank)}


def _extents(head: Node) -> tuple[int, int, int]:
    """The head as a product of matrices: rows by columns of results, each a sum over `depth`."""
    out, first = static_shape(head.output.shape), static_shape(head.inputs[0].shape)
    if head.op == "conv_blocked":
        _, per_group, *kernel, _ = static_shape(head.inputs[1].shape)
        return out[0] * out[2] * out[3], out[1] * out[4], per_group * math.prod(kernel)
    if head.op == "attention":
        return math.prod(out[:-1]), out[-1], static_shape(head.inputs[1].shape)[1]
    if head.op in ("matmul", "matmul_packed"):
        return math.prod(out[:-1]), out[-1], first[-1]
    if head.op in _HEADS["pool"]:
        return math.prod(out), 1, int(math.prod(head.attrs["kernel"]))
    # Reductions: of rows, those that give a row back too.
    axes = head.attrs.get("axes", (head.attrs.get("axis", -1),))
    depth = math.prod(first[axis] for axis in axes) if head.op not in _HEADS["norm"] else math.prod(
        first[head.attrs["axis"] :])  # fmt: skip
    return math.prod(first) // max(depth, 1), 1, depth


def _window(head: Node | None) -> tuple[int, int, int]:
    """Pixels, stride and width of the window of a convolution or a pooling; 1 without one."""
    if head is None or "strides" not in head.attrs:
        return 1, 1, 1
    kernel = static_shape(head.inputs[1].shape)[2:4] if head.op == "conv_blocked" else head.attrs["kernel"]
    return int(math.prod(kernel)), int(max(head.attrs["strides"])), int(kernel[-1])


def _move_features(body: Graph, head: Node | None) -> dict[str, float]:
    """How far apart neighbours of the moved values lie in memory: of all moves, and of those in front of an anchor,
    which reads their elements many times."""
    moves = [node for node in body.nodes if _kind(node) is Kind.INJECTIVE]
    nbytes = sum(node.output.type.nbytes for node in moves)
    total = max(work(body).nbytes, 1)
    front = _in_front(head) if head is not None and _kind(head) is Kind.ANCHOR else []
    chain = [node for node in front if _kind(node) is Kind.INJECTIVE]
    read: list[Value] = []
    if head is not None and front:
        read = [value for value in head.inputs if value.producer is not None]
    operand_bytes = sum(value.type.nbytes for value in read)
    # A product reads a row's elements once for each column, and the other way round.
    rows, columns, _ = _extents(head) if head is not None else (1, 1, 1)
    reads = columns if head is not None and head.inputs[0] in read else rows
    return {
        "moves": float(len(moves)),
        "moved_bytes": _log2(nbytes),
        "moved_share": nbytes / total,
        "moved_stride": _log2(max(map(_stride, moves), default=1)),
        "moved_run": _log2(min(map(_run, moves), default=1)),
        "operand_bytes": _log2(operand_bytes),
        "operand_share": operand_bytes / total,
        "operand_stride": _log2(max(map(_stride, chain), default=1)),
        "operand_run": _log2(min(map(_run, chain), default=1)),
        "operand_reads": _log2(reads) if read else 0.0,
        "repeated_reads": _log2(max((_repeated(node) for node in moves), default=1)),
    }


def _repeated(node: Node) -> int:
    """Elements that a node reads through moves in front of it because each of its results takes several."""
    made = any(value.producer is not None for value in node.inputs)
    return node.output.type.size * int(node.attrs["size"]) if made and node.op == "lrn" else 1


def _in_front(head: Node) -> list[Node]:
    """The nodes that the head's operands are made by, each once."""
    found: dict[Node, None] = {}
    waiting = [value.producer for value in head.inputs]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found[node] = None
            waiting += [value.producer for value in node.inputs]
    return list(found)


def _stride(move: Node) -> int:
    """Elements of a move's input between two neighbours of its result."""
    shape = static_shape(move.inputs[0].shape) if move.inputs else ()
    if move.op == "transpose" and shape:
        return math.prod(shape[move.attrs["perm"][-1] + 1 :])
    if move.op == "slice" and shape:
        return abs(int(move.attrs["steps"][-1]))
    if move.op == "unblock":
        return shape[-1]
    return math.prod(shape[2:]) if move.op == "block" else 1


def _run(move: Node) -> int:
    """Elements of a move's result that lie side by side in its input too."""
    shape = static_shape(move.output.shape)
    if move.op in ("block", "unblock") or not shape:
        return 1
    length = 1
    for axis in reversed(range(len(shape))):
        if move.op == "transpose" and move.attrs["perm"][axis] != axis:
            break
        if move.op == "slice" and abs(move.attrs["steps"][axis]) != 1:
            break
        length *= shape[axis]
        if move.op == "slice" and shape[axis] != move.inputs[0].shape[axis]:
            break
    return length


def _kind(node: Node) -> Kind:
    return OPS[node.op].kind


def _log2(value: float) -> float:
    return math.log2(max(value, 1 / 1024))
