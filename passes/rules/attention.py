"""Attention that exporters spell out: softmax(q k^T scale + mask) v over [B,H,L,D] -> one operator.

The operator takes [B,L,H,D], which is what the projections make: the transposes that this puts around it undo the
exporter's, and `simplify` drops both. Keys and values repeated over the query heads that share them (grouped-query
attention) are taken unrepeated. Products of rank 3, [B*H,L,D], count as batches of one head.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from passes.rules.matching import private, uniform
from passes.rules.movement import transpose, view
from tensorc.ir.graph import Constant, Node, Value
from tensorc.ir.rewriter import Builder, Rule, producer, scalar
from tensorc.ir.types import TensorType, is_float

_LOWEST_FLOAT16 = -65504.0
_SWAP_HEADS = (0, 2, 1, 3)


@dataclass(frozen=True)
class Scores:
    """scale * (query key^T) + the sum of masks, with query [...,L,D] and key [...,S,D]."""

    query: Value
    key: Value
    scale: float
    masks: tuple[Value, ...] = ()


def recognize_attention(node: Node, build: Builder) -> Value | None:
    weights, guard = _unguarded(node.inputs[0], build)
    softmax = producer(_before_cast(weights, build), "softmax")
    rank = node.output.type.rank
    if softmax is None or rank not in (3, 4) or not is_float(node.output.dtype):
        return None
    if softmax.attrs["axis"] != rank - 1 or not private(softmax.output, build.graph):
        return None
    exponents = _before_cast(softmax.inputs[0], build)
    scores = _scores(exponents, build) if exponents.dtype == node.output.dtype else None
    if scores is None:
        return None
    values = _rows(node.inputs[1], not node.attrs["transpose_b"], build)
    query, key, value = (_lifted(operand, rank, build) for operand in (scores.query, scores.key, values))
    key, value = _unrepeated(key, value, 1, build)
    query, key, value = (transpose(build, operand, _SWAP_HEADS) for operand in (query, key, value))
    key, value = _unrepeated(key, value, 2, build)
    if not _fits(query, key, value):
        return None
    masks = [_lifted(mask, rank, build) if mask.type.rank == 3 else mask for mask in scores.masks]
    while len(masks) > 1:
        masks = [build("add", masks[0], masks[1]), *masks[2:]]
    result = build("attention", query, key, value, *masks, scale=scores.scale)
    if guard is not None:
        result = build("where", _by_query(guard[0], rank, build), guard[1], result)
    return view(build, transpose(build, result, _SWAP_HEADS), node.output.shape)


def _unguarded(value: Value, build: Builder) -> tuple[Value, tuple[Value, Value] | None]:
    """The weights without where(rows, 0, weights), and (rows, 0): rows of which nothing is left weigh nothing."""
    node = producer(value, "where")
    if node is None or not private(value, build.graph):
        return value, None
    rows, zero, weights = node.inputs
    is_whole_rows = rows.shape[-1:] in ((), (1,)) and weights.type == value.type
    return (weights, (rows, zero)) if is_whole_rows and scalar(zero) == 0 else (value, None)


def _before_cast(value: Value, build: Builder) -> Value:
    """Softmax of 16-bit floats may be taken in float32, as the operator does everything."""
    node = producer(value, "cast")
    if node is None or not private(value, build.graph):
        return value
    wide, narrow = sorted((value.dtype, node.inputs[0].dtype), key=lambda dtype: dtype != "float32")
    return node.inputs[0] if wide == "float32" and narrow in ("float16", "bfloat16") else value


def _by_query(rows: Value, rank: int, build: Builder) -> Value:
    """What is said of rows of scores, [...,L,1], of the rows of the operator's result: [B,L,H,1]."""
    shape = ((1,) * rank + rows.shape)[-rank:]
    whole = shape if rank == 4 else (shape[0], 1, *shape[1:])
    return transpose(build, view(build, rows, whole), _SWAP_HEADS)


def _scores(value: Value, build: Builder) -> Scores | None:
    """What the softmax is taken of, read down to the product of queries and keys; nobody else may read a step."""
    node = value.producer
    if node is None or not private(value, build.graph):
        return None
    if node.op == "matmul":
        return _product(node, build)
    if node.op == "mul":
        return _scaled_scores(node, build)
    if node.op == "add":
        return _masked_scores(node, build)
    return _selected_scores(node, build) if node.op == "where" else None


def _product(node: Node, build: Builder) -> Scores:
    query, query_scale = _unscaled(node.inputs[0], build)
    key, key_scale = _unscaled(node.inputs[1], build)
    return Scores(query, _rows(key, bool(node.attrs["transpose_b"]), build), query_scale * key_scale)


def _scaled_scores(node: Node, build: Builder) -> Scores | None:
    number = scalar(node.inputs[1])
    inner = _scores(node.inputs[0], build) if number is not None else None
    if number is None or inner is None or inner.masks or node.inputs[0].type != node.output.type:
        return None
    return replace(inner, scale=inner.scale * number)


def _masked_scores(node: Node, build: Builder) -> Scores | None:
    for operand, mask in (node.inputs, node.inputs[::-1]):
        inner = _scores(operand, build) if operand.type == node.output.type else None
        if inner is not None:
            return inner if uniform(mask) == 0 else replace(inner, masks=(*inner.masks, mask))
    return None


def _selected_scores(node: Node, build: Builder) -> Scores | None:
    """where(c, scores, -huge) is scores + where(c, 0, -huge): the sum is -huge, rounded, whatever the score."""
    condition, *branches = node.inputs
    zero = build.constant(Constant.full(TensorType(node.output.dtype, ()), 0))
    for index, operand in enumerate(branches):
        other = branches[1 - index]
        inner = _scores(operand, build) if operand.type == node.output.type and _is_huge(other) else None
        if inner is not None:
            mask = build("where", condition, zero, other) if index == 0 else build("where", condition, other, zero)
            return replace(inner, masks=(*inner.masks, mask))
    return None


def _is_huge(value: Value) -> bool:
    """Whether adding a score to this number gives it back: a masked row then stays uniform, too."""
    number = scalar(value)
    return number is not None and number <= (_LOWEST_FLOAT16 if value.dtype == "float16" else -1e9)


def _unscaled(value: Value, build: Builder) -> tuple[Value, float]:
    """`value` without a number that multiplies it, and that number; through the moves behind the product."""
    node = producer(value, "mul", "transpose", "reshape")
    if node is None or not private(value, build.graph):
        return value, 1.0
    if node.op == "mul":
        number = scalar(node.inputs[1])
        return (node.inputs[0], number) if number is not None and node.inputs[0].type == value.type else (value, 1.0)
    source, number = _unscaled(node.inputs[0], build)
    return (value, 1.0) if source is node.inputs[0] else (build(node.op, source, **node.attrs), number)


def _rows(matrices: Value, as_they_are: bool, build: Builder) -> Value:
    """The second operand of a product as [..., positions, depth]."""
    rank = matrices.type.rank
    return matrices if as_they_are else transpose(build, matrices, (*range(rank - 2), rank - 1, rank - 2))


def _lifted(value: Value, rank: int, build: Builder) -> Value:
    """A value of a product of rank 3 as one head: [B,L,D] -> [B,1,L,D]."""
    return value if rank == 4 else view(build, value, (value.shape[0], 1, *value.shape[1:]))


def _unrepeated(key: Value, value: Value, axis: int, build: Builder) -> tuple[Value, Value]:
    """Both before each head along `axis` was repeated, if both were, equally often."""
    once, also = _before_repeat(key, axis), _before_repeat(value, axis)
    if once is None or also is None or once.shape[axis] != also.shape[axis]:
        return key, value
    shapes = [(*x.shape[:axis], once.shape[axis], *x.shape[axis + 1 :]) for x in (key, value)]
    return view(build, once, shapes[0]), view(build, also, shapes[1])


def _before_repeat(value: Value, axis: int) -> Value | None:
    """[..., heads, 1, ...] when `value` is that expanded to [..., heads, times, ...] and flattened."""
    reshape = producer(value, "reshape")
    expand = producer(reshape.inputs[0], "expand") if reshape is not None else None
    if expand is None:
        return None
    shape, wide = value.shape, expand.output.shape
    if (*wide[:axis], *wide[axis + 2 :]) != (*shape[:axis], *shape[axis + 1 :]):
        return None
    source = expand.inputs[0]
    return source if source.shape == (*wide[: axis + 1], 1, *wide[axis + 2 :]) else None


def _fits(query: Value, key: Value, value: Value) -> bool:
    """Whether the operator takes these: one batch for all, heads that share evenly, no operand of rank below 4."""
    if not query.type.rank == key.type.rank == value.type.rank == 4:
        return False
    heads, shared = query.shape[2], key.shape[2]
    even = isinstance(heads, int) and isinstance(shared, int) and heads % shared == 0
    return even and query.shape[0] == key.shape[0] and key.shape[:3] == value.shape[:3]


RULES: dict[str, list[Rule]] = {"matmul": [recognize_attention]}
