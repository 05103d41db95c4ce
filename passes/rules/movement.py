"""Moves of elements: views and transposes merge, and what moves nothing goes."""

from __future__ import annotations

from collections.abc import Sequence

from tensorc.ir.dims import Dim
from tensorc.ir.graph import Node, Value
from tensorc.ir.ops import OPS
from tensorc.ir.rewriter import Builder, Rule, producer, scalar

#: Operators whose operands broadcast, so that one may stand there unexpanded.
BROADCASTING = (
    "add", "sub", "mul", "div", "pow", "max", "min", "mod", "and", "or", "xor", "equal", "less", "less_equal",
    "greater", "greater_equal", "where",
)  # fmt: skip


def moves_nothing(shape: Sequence[Dim], perm: Sequence[int]) -> bool:
    """Whether a transposition moves only axes of extent 1: then it is a view."""
    order = [axis for axis in perm if shape[axis] != 1]
    return order == sorted(order)


def compose(first: Sequence[int], then: Sequence[int]) -> tuple[int, ...]:
    """The one permutation that does `first`, `then` the other."""
    return tuple(first[axis] for axis in then)


def view(build: Builder, x: Value, shape: Sequence[Dim]) -> Value:
    return x if x.shape == tuple(shape) else build("reshape", x, shape=tuple(shape))


def transpose(build: Builder, x: Value, perm: Sequence[int]) -> Value:
    """x transposed, through a transposition that made x and as a view where that is all it takes."""
    inner = producer(x, "transpose")
    if inner is not None:
        x, perm = inner.inputs[0], compose(inner.attrs["perm"], perm)
    if moves_nothing(x.shape, perm):
        return view(build, x, tuple(x.shape[axis] for axis in perm))
    return build("transpose", x, perm=tuple(perm))


def merge_transposes(node: Node, build: Builder) -> Value | None:
    x, perm = node.inputs[0], node.attrs["perm"]
    if producer(x, "transpose") is None and not moves_nothing(x.shape, perm):
        return None
    return transpose(build, x, perm)


def merge_reshapes(node: Node, build: Builder) -> Value | None:
    x = node.inputs[0]
    if x.type == node.output.type:
        return x
    inner = producer(x, "reshape")
    return view(build, inner.inputs[0], node.output.shape) if inner is not None else None


def simplify_expand(node: Node, build: Builder) -> Value | None:
    """An expansion that only adds axes of extent 1 is a view; two are one."""
    x, shape = node.inputs[0], node.output.shape
    if [dim for dim in x.shape if dim != 1] == [dim for dim in shape if dim != 1]:
        return view(build, x, shape)
    inner = producer(x, "expand")
    return build("expand", inner.inputs[0], shape=shape) if inner is not None else None


def drop_expanded_operand(node: Node, build: Builder) -> Value | None:
    """f(expand(x), y) -> f(x, y) where broadcasting does the same."""
    for index, operand in enumerate(node.inputs):
        expand = producer(operand, "expand")
        if expand is None:
            continue
        inputs = [*node.inputs[:index], expand.inputs[0], *node.inputs[index + 1 :]]
        types = [value.type for value in inputs]
        if node.op == "matmul" and (types[index].rank < 2 or types[index].shape[-2:] != operand.shape[-2:]):
            continue
        if list(OPS[node.op].infer(types, node.attrs)) == [node.output.type]:
            return build(node.op, *inputs, **node.attrs)
    return None


def simplify_slice(node: Node, build: Builder) -> Value | None:
    """A slice of everything goes; a slice of a slice is one; a slice of one part of a concat is a slice of that."""
    x = node.inputs[0]
    starts, sizes, steps = node.attrs["starts"], node.attrs["sizes"], node.attrs["steps"]
    if x.type == node.output.type and all(start == 0 for start in starts) and all(step == 1 for step in steps):
        return x
    inner = producer(x, "slice")
    if inner is not None:
        before, stride = inner.attrs["starts"], inner.attrs["steps"]
        return build(
            "slice", inner.inputs[0], sizes=sizes,
            starts=tuple(b + t * s for b, t, s in zip(before, stride, starts, strict=True)),
            steps=tuple(t * s for t, s in zip(stride, steps, strict=True)),
        )  # fmt: skip
    return _slice_one_part(node, build)


def _slice_one_part(node: Node, build: Builder) -> Value | None:
    concat = producer(node.inputs[0], "concat")
    if concat is None:
        return None
    axis = concat.attrs["axis"]
    start, size, step = (node.attrs[key][axis] for key in ("starts", "sizes", "steps"))
    if not isinstance(size, int) or size == 0:
        return None
    low, high = sorted((start, start + (size - 1) * step))
    offset = 0
    for part in concat.inputs:
        extent = part.shape[axis]
        if not isinstance(extent, int):
            return None
        if offset <= low and high < offset + extent:
            starts = node.attrs["starts"]
            moved = (*starts[:axis], start - offset, *starts[axis + 1 :])
            return build("slice", part, **{**node.attrs, "starts": moved})
        offset += extent
    return None


def simplify_concat(node: Node, build: Builder) -> Value | None:
    """A concat of one goes; one of concats along the same axis is flat."""
    if len(node.inputs) == 1:
        return node.inputs[0]
    parts: list[Value] = []
    for part in node.inputs:
        inner = producer(part, "concat")
        same = inner is not None and inner.attrs["axis"] == node.attrs["axis"] and len(part.users) == 1
        parts.extend(inner.inputs if inner is not None and same else (part,))
    return build("concat", *parts, **node.attrs) if len(parts) != len(node.inputs) else None


def drop_empty_pad(node: Node, _: Builder) -> Value | None:
    return None if any((*node.attrs["before"], *node.attrs["after"])) else node.inputs[0]


def slice_known_index(node: Node, build: Builder) -> Value | None:
    """A gather of one known index -> a slice."""
    x, indices = node.inputs
    axis, index = node.attrs["axis"], scalar(indices)
    if index is None or indices.type.size != 1 or x.constant is not None:
        return None
    start = int(index)
    extent = x.shape[axis]
    if start < 0:
        if not isinstance(extent, int):
            return None
        start += extent
    one = tuple(1 if a == axis else dim for a, dim in enumerate(x.shape))
    starts = tuple(start if a == axis else 0 for a in range(len(x.shape)))
    return view(build, build("slice", x, starts=starts, sizes=one, steps=(1,) * len(one)), node.output.shape)


def drop_reduced_units(node: Node, build: Builder) -> Value | None:
    """A reduction over axes of extent 1 is a view."""
    x, axes = node.inputs[0], node.attrs["axes"]
    real = tuple(axis for axis in axes if x.shape[axis] != 1)
    if not real:
        return view(build, x, node.output.shape)
    if len(real) == len(axes) or not node.attrs["keepdims"]:
        return None
    return build(node.op, x, axes=real, keepdims=1)


RULES: dict[str, list[Rule]] = {
    "transpose": [merge_transposes],
    "reshape": [merge_reshapes],
    "expand": [simplify_expand],
    "slice": [simplify_slice],
    "concat": [simplify_concat],
    "pad": [drop_empty_pad],
    "gather": [slice_known_index],
    "matmul": [drop_expanded_operand],
    **{op: [drop_expanded_operand] for op in BROADCASTING},
    **{f"reduce_{kind}": [drop_reduced_units] for kind in ("sum", "mean", "max", "min", "prod")},
}
