"""Layer norm, RMS norm and softmax that exporters spell out.

The kernel of a norm is recognised alone, with a scale of ones; the scale and the bias behind it are taken up by rules
of their own. So a norm without parameters is one too.
"""

from __future__ import annotations

from dataclasses import dataclass

from passes.rules.matching import enclosed, private, repeats
from passes.rules.movement import view
from tensorc.ir.dims import Shape, is_static
from tensorc.ir.graph import Constant, Graph, Node, Value
from tensorc.ir.rewriter import Builder, Rule, producer, scalar
from tensorc.ir.types import TensorType, is_float


@dataclass(frozen=True)
class _InverseRoot:
    """1 / sqrt(mean(base * base) + epsilon), over the axes from `axis` on."""

    base: Value
    square: Node
    axis: int
    epsilon: float


def _inverse_root(value: Value, graph: Graph) -> _InverseRoot | None:
    """`value` as the inverse root of a mean of squares whose steps nobody else reads."""
    steps: list[Node] = []
    for op in ("rsqrt", "add", "reduce_mean", "mul"):
        node = producer(value, op)
        # The inverse root itself may have several readers: its caller knows them.
        if node is None or (steps and not private(value, graph)):
            return None
        steps.append(node)
        value = node.inputs[0]
    _, add, mean, square = steps
    base, epsilon, axis = square.inputs[0], scalar(add.inputs[1]), _trailing_axis(mean)
    if square.inputs[1] is not base or epsilon is None or axis is None or add.output.type != mean.output.type:
        return None
    if not is_float(base.dtype) or not is_static(base.shape[axis:]):
        return None
    return _InverseRoot(base, square, axis, epsilon)


def _trailing_axis(reduction: Node) -> int | None:
    """The first reduced axis, when they are the last ones and stay with extent 1."""
    axes: list[int] = sorted(reduction.attrs["axes"])
    rank = reduction.inputs[0].type.rank
    if not axes or not reduction.attrs["keepdims"] or axes != list(range(axes[0], rank)):
        return None
    return axes[0]


def _centred(value: Value, axis: int) -> tuple[Value, Value] | None:
    """(x, mean of x) when `value` is x - mean of x over the axes from `axis` on."""
    sub = producer(value, "sub")
    mean = producer(sub.inputs[1], "reduce_mean") if sub is not None else None
    if sub is None or mean is None or mean.inputs[0] is not sub.inputs[0] or _trailing_axis(mean) != axis:
        return None
    return mean.inputs[0], mean.output


def recognize_norm(node: Node, build: Builder) -> Value | None:
    """d / sqrt(mean(d^2) + epsilon) -> rms_norm of d, or layer_norm of x where d is x - mean(x)."""
    for base, inverse in (node.inputs, node.inputs[::-1]):
        found = _inverse_root(inverse, build.graph)
        if found is None or found.base is not base or not private(inverse, build.graph):
            continue
        ones = build.constant(Constant.full(TensorType(base.dtype, base.shape[found.axis :]), 1))
        centred = _centred(base, found.axis)
        if centred is not None and enclosed(base, build.graph, found.square, node) and private(centred[1], build.graph):
            return build("layer_norm", centred[0], ones, axis=found.axis, epsilon=found.epsilon)
        return build("rms_norm", base, ones, axis=found.axis, epsilon=found.epsilon)
    return None


def recognize_folded_layer_norm(node: Node, build: Builder) -> Value | None:
    """x * s + (bias - mean(x) * s) with s = scale / sqrt(variance + epsilon), TensorFlow's form -> layer_norm."""
    for scaled, offset in (node.inputs, node.inputs[::-1]):
        mul, sub = producer(scaled, "mul"), producer(offset, "sub")
        shift = producer(sub.inputs[1], "mul") if sub is not None else None
        if mul is None or sub is None or shift is None:
            continue
        for x, factor in (mul.inputs, mul.inputs[::-1]):
            if factor not in shift.inputs:
                continue
            inside = (scaled, offset, shift.output)
            if all(private(value, build.graph) for value in inside) and enclosed(factor, build.graph, mul, shift):
                return _folded_layer_norm(x, factor, sub.inputs[0], shift, node, build)
    return None


def _folded_layer_norm(x: Value, factor: Value, bias: Value, shift: Node, node: Node, build: Builder) -> Value | None:
    scaling = producer(factor, "mul")
    if scaling is None or x.type != node.output.type:
        return None
    inverse, scale = scaling.inputs
    found = _inverse_root(inverse, build.graph)
    centred = _centred(found.base, found.axis) if found is not None else None
    if found is None or centred is None or centred[0] is not x or centred[1] not in shift.inputs:
        return None
    if not private(inverse, build.graph) or not enclosed(found.base, build.graph, found.square):
        return None
    if not enclosed(centred[1], build.graph, shift, found.base.producer):
        return None
    parameters = [_parameter(value, x.shape[found.axis :], build) for value in (scale, bias)]
    if parameters[0] is None or parameters[1] is None:
        return None
    return build("layer_norm", x, parameters[0], parameters[1], axis=found.axis, epsilon=found.epsilon)


def _parameter(value: Value, shape: Shape, build: Builder) -> Value | None:
    """`value` as a parameter of `shape`, where broadcasting reads it as one."""
    leading = len(value.shape) - len(shape)
    if leading < 0 or value.shape[leading:] != shape or any(dim != 1 for dim in value.shape[:leading]):
        return None
    return view(build, value, shape)


def take_up_scale(node: Node, build: Builder) -> Value | None:
    """norm(x, ones) * scale -> norm(x, scale)."""
    for x, factor in (node.inputs, node.inputs[::-1]):
        norm = producer(x, "layer_norm", "rms_norm")
        if norm is None or len(norm.inputs) != 2 or not repeats(norm.inputs[1], 1) or not private(x, build.graph):
            continue
        scale = _parameter(factor, norm.inputs[1].shape, build)
        if scale is not None and x.type == node.output.type:
            return build(norm.op, norm.inputs[0], scale, **norm.attrs)
    return None


def take_up_bias(node: Node, build: Builder) -> Value | None:
    """layer_norm(x, scale) + bias -> layer_norm(x, scale, bias)."""
    for x, summand in (node.inputs, node.inputs[::-1]):
        norm = producer(x, "layer_norm")
        if norm is None or len(norm.inputs) != 2 or not private(x, build.graph):
            continue
        bias = _parameter(summand, norm.inputs[1].shape, build)
        if bias is not None and x.type == node.output.type:
            return build("layer_norm", *norm.inputs, bias, **norm.attrs)
    return None


def recognize_softmax(node: Node, build: Builder) -> Value | None:
    """exp(x - max(x)) / sum of the same -> softmax(x); so without the maximum, which changes nothing but overflow."""
    exp, divisor = producer(node.inputs[0], "exp"), node.inputs[1]
    total = producer(divisor, "reduce_sum")
    if exp is None or total is None or total.inputs[0] is not exp.output or not private(divisor, build.graph):
        return None
    axes = total.attrs["axes"]
    if len(axes) != 1 or not total.attrs["keepdims"] or not enclosed(exp.output, build.graph, node, total):
        return None
    return build("softmax", _unshifted(exp.inputs[0], axes), axis=axes[0])


def _unshifted(value: Value, axes: tuple[int, ...]) -> Value:
    """x when `value` is x - max(x) along `axes`, else `value`."""
    sub = producer(value, "sub")
    top = producer(sub.inputs[1], "reduce_max") if sub is not None else None
    if sub is None or top is None or top.inputs[0] is not sub.inputs[0]:
        return value
    same = tuple(top.attrs["axes"]) == tuple(axes) and top.attrs["keepdims"]
    return sub.inputs[0] if same else value


RULES: dict[str, list[Rule]] = {
    "mul": [recognize_norm, take_up_scale],
    "add": [recognize_folded_layer_norm, take_up_bias],
    "div": [recognize_softmax],
}
