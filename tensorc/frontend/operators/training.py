"""Optimizers' updates (`ai.onnx.preview.training`): plain arithmetic on each tensor by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tensorc.frontend.call import Call
from tensorc.frontend.registry import operator
from tensorc.ir.graph import Value

DOMAIN = "ai.onnx.preview.training"


def _each(call: Call, states: int, update: Callable[..., Sequence[Value]]) -> list[Value]:
    """The outputs of an optimizer whose inputs are a rate, a count, then all tensors, all gradients, and `states` more
    of each. `update(tensor, gradient, *states)` gives a tensor's new value and states."""
    given = call.all_inputs()[2:]
    count, rest = divmod(len(given), 2 + states)
    if rest:
        raise ValueError(f"{len(given)} tensors are not {2 + states} for each that is optimized")
    new = [update(*given[i::count]) for i in range(count)]
    return [one[kind] for kind in range(1 + states) for one in new]


def _scaled(call: Call, number: float, value: Value) -> Value:
    return call("mul", call.like(number, value), value)


def _regularized(call: Call, x: Value, gradient: Value) -> Value:
    return call("add", _scaled(call, call.attr("norm_coefficient", 0.0), x), gradient)


def _count(call: Call) -> Value:
    """The number of updates so far, in the rate's type."""
    return call.cast(call.input(1), call.input(0).dtype)


@operator("Momentum", domain=DOMAIN)
def _momentum(call: Call) -> list[Value]:
    rate, alpha, beta = call.input(0), call.required("alpha"), call.required("beta")
    mode = call.attr("mode", "standard")
    if mode not in ("standard", "nesterov"):
        raise ValueError(f"mode {mode!r} is neither standard nor nesterov")
    count = _count(call)
    first = call("less_equal", count, call.like(0, count))

    def update(x: Value, gradient: Value, speed: Value) -> tuple[Value, Value]:
        gradient = _regularized(call, x, gradient)
        share = call("where", first, call.like(1, x), call.like(beta, x))
        speed = call("add", _scaled(call, alpha, speed), call("mul", share, gradient))
        way = call("add", gradient, _scaled(call, alpha, speed)) if mode == "nesterov" else speed
        return call("sub", x, call("mul", call.cast(rate, x.dtype), way)), speed

    return _each(call, 1, update)


@operator("Adagrad", domain=DOMAIN)
def _adagrad(call: Call) -> list[Value]:
    count = _count(call)
    decay = call("add", call.like(1, count), _scaled(call, call.attr("decay_factor", 0.0), count))
    rate = call("div", call.input(0), decay)

    def update(x: Value, gradient: Value, squares: Value) -> tuple[Value, Value]:
        gradient = _regularized(call, x, gradient)
        squares = call("add", squares, call("mul", gradient, gradient))
        size = call("add", call("sqrt", squares), call.like(call.attr("epsilon", 1e-6), x))
        return call("sub", x, call("div", call("mul", call.cast(rate, x.dtype), gradient), size)), squares

    return _each(call, 1, update)


@operator("Adam", domain=DOMAIN)
def _adam(call: Call) -> list[Value]:
    alpha, beta = call.attr("alpha", 0.9), call.attr("beta", 0.999)
    count, one = _count(call), call.like(1, call.input(0))

    def missing(base: float) -> Value:
        """1 - base^count: what of a running mean has been filled."""
        return call("sub", one, call("pow", call.like(base, count), count))

    corrected = call("div", call("mul", call.input(0), call("sqrt", missing(beta))), missing(alpha))
    rate = call("where", call("greater", count, call.like(0, count)), corrected, call.input(0))

    def update(x: Value, gradient: Value, mean: Value, squares: Value) -> tuple[Value, Value, Value]:
        gradient = _regularized(call, x, gradient)
        mean = call("add", _scaled(call, alpha, mean), _scaled(call, 1 - alpha, gradient))
        square = call("mul", gradient, gradient)
        squares = call("add", _scaled(call, beta, squares), _scaled(call, 1 - beta, square))
        size = call("add", call("sqrt", squares), call.like(call.attr("epsilon", 1e-6), x))
        new = call("sub", x, call("div", call("mul", call.cast(rate, x.dtype), mean), size))
        return _scaled(call, 1 - call.attr("norm_coefficient_post", 0.0), new), mean, squares

    return _each(call, 2, update)
