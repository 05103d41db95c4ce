"""Recurrent layers: the inputs of all time steps are multiplied at once, what is left of a step is a loop's region."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from tensorc.frontend.call import Call, shape_of
from tensorc.frontend.regions import RegionBuilder
from tensorc.frontend.registry import operator
from tensorc.ir.graph import Constant, Value
from tensorc.ir.types import TensorType

Function = Callable[[RegionBuilder, Value], Value]

#: Activation -> its IR operator, and the defaults of the attributes that alpha and beta are.
_OPERATORS: dict[str, tuple[str, dict[str, float]]] = {
    "relu": ("relu", {}),
    "tanh": ("tanh", {}),
    "sigmoid": ("sigmoid", {}),
    "leakyrelu": ("leaky_relu", {"alpha": 0.01}),
    "hardsigmoid": ("hard_sigmoid", {"alpha": 0.2, "beta": 0.5}),
    "elu": ("elu", {"alpha": 1.0}),
    "softplus": ("softplus", {}),
}


def _affine(body: RegionBuilder, x: Value, alpha: float, beta: float) -> Value:
    return body("add", body("mul", x, body.like(alpha, x)), body.like(beta, x))


def _scaled_tanh(body: RegionBuilder, x: Value, alpha: float, beta: float) -> Value:
    return body("mul", body("tanh", body("mul", x, body.like(beta, x))), body.like(alpha, x))


def _thresholded_relu(body: RegionBuilder, x: Value, alpha: float) -> Value:
    return body("where", body("less", x, body.like(alpha, x)), body.like(0, x), x)


def _softsign(body: RegionBuilder, x: Value) -> Value:
    return body("div", x, body("add", body("abs", x), body.like(1, x)))


#: Those that several operators make, with the defaults of alpha and beta.
_COMPOSED: dict[str, tuple[Callable[..., Value], tuple[float, ...]]] = {
    "affine": (_affine, (1.0, 0.0)),
    "scaledtanh": (_scaled_tanh, (1.0, 1.0)),
    "thresholdedrelu": (_thresholded_relu, (1.0,)),
    "softsign": (_softsign, ()),
}


def _activation(name: str, alphas: Iterator[float], betas: Iterator[float]) -> Function:
    """Takes from `alphas` and `betas` what the function needs."""
    key = name.lower()
    if key in _OPERATORS:
        op, defaults = _OPERATORS[key]
        given = {k: next(alphas if k == "alpha" else betas, default) for k, default in defaults.items()}
        return lambda body, x: body(op, x, **given)
    if key not in _COMPOSED:
        raise ValueError(f"{name!r} is no activation of a recurrent layer")
    function, numbers = _COMPOSED[key]
    taken = [next(source, default) for source, default in zip((alphas, betas), numbers, strict=False)]
    return lambda body, x: function(body, x, *taken)


def _activations(call: Call, defaults: Sequence[str], directions: int) -> list[list[Function]]:
    """Of each direction, clipping included: of what goes into a gate, as ONNX Runtime reads the standard, not of an
    LSTM's cell on its way out."""
    names = call.attr("activations")
    names = [name.decode() for name in names] if names else [*defaults] * directions
    if len(names) != len(defaults) * directions:
        raise ValueError(f"{len(defaults)} activations are needed for each of {directions} directions, not {names}")
    alphas, betas = iter(call.attr("activation_alpha", ())), iter(call.attr("activation_beta", ()))
    limit = call.attr("clip")
    functions = [_activation(name, alphas, betas) for name in names]
    if limit is not None:
        functions = [f if i % len(defaults) == 2 else _after_clip(f, abs(limit)) for i, f in enumerate(functions)]
    return [functions[i : i + len(defaults)] for i in range(0, len(functions), len(defaults))]


def _after_clip(function: Function, limit: float) -> Function:
    return lambda body, x: function(body, body("clip", x, min=-limit, max=limit))


@dataclass(frozen=True)
class _Direction:
    """The parameters of one direction: weights [gates * hidden, input or hidden], each initial state [batch, hidden].
    `bias` is what is added to the recurrent product rather than to the input's."""

    w: Value
    r: Value
    input_bias: Value | None
    bias: Value | None
    peepholes: Value | None
    state: list[Value]
    functions: list[Function]
    backward: bool


@dataclass(frozen=True)
class _Step:
    """What a cell makes its next state of. `gates` are the input's part of the gates, [batch, gates * hidden]."""

    body: RegionBuilder
    direction: _Direction
    gates: Value
    hidden: int

    def recur(self, h: Value, first: int, count: int) -> Value:
        """`h` times the recurrence weights of `count` gates from `first` on."""
        weights = self.body.slice(self.direction.r, 0, first * self.hidden, count * self.hidden)
        return self.body("matmul", h, weights, transpose_b=1)

    def part(self, gates: Value, number: int, count: int = 1) -> Value:
        """`count` gates of [batch, ...], or of a vector."""
        return self.body.slice(gates, len(gates.shape) - 1, number * self.hidden, count * self.hidden)


#: Of a step and the state, the next state; its first part is what the layer gives.
Cell = Callable[[_Step, list[Value]], list[Value]]


@operator("RNN")
def _rnn(call: Call) -> Sequence[Value]:
    return _layer(call, 1, ["Tanh"], _rnn_cell)


def _rnn_cell(step: _Step, state: list[Value]) -> list[Value]:
    (function,) = step.direction.functions
    return [function(step.body, step.body("add", step.recur(state[0], 0, 1), step.gates))]


@operator("GRU")
def _gru(call: Call) -> Sequence[Value]:
    linear_first = bool(call.attr("linear_before_reset", 0))
    return _layer(call, 3, ["Sigmoid", "Tanh"], _linear_gru_cell if linear_first else _gru_cell, apart=linear_first)


def _gru_cell(step: _Step, state: list[Value]) -> list[Value]:
    (h,), body, (f, g) = state, step.body, step.direction.functions
    gates = body("add", step.recur(h, 0, 2), step.part(step.gates, 0, 2))
    z, r = (f(body, step.part(gates, number)) for number in range(2))
    return [_mixed(body, z, h, g(body, body("add", step.recur(body("mul", r, h), 2, 1), step.part(step.gates, 2))))]


def _linear_gru_cell(step: _Step, state: list[Value]) -> list[Value]:
    """The reset gate works on the recurrent product, not on the state that goes into it."""
    (h,), body, (f, g) = state, step.body, step.direction.functions
    product = step.recur(h, 0, 3)
    if step.direction.bias is not None:
        product = body("add", product, step.direction.bias)
    z, r = (f(body, body("add", step.part(step.gates, i), step.part(product, i))) for i in range(2))
    return [_mixed(body, z, h, g(body, body("add", step.part(step.gates, 2), body("mul", r, step.part(product, 2)))))]


def _mixed(body: RegionBuilder, z: Value, h: Value, new: Value) -> Value:
    return body("add", body("mul", body("sub", body.like(1, z), z), new), body("mul", z, h))


@operator("LSTM")
def _lstm(call: Call) -> Sequence[Value]:
    cell = partial(_lstm_cell, coupled=bool(call.attr("input_forget", 0)))
    return _layer(call, 4, ["Sigmoid", "Tanh", "Tanh"], cell, states=2)


def _lstm_cell(step: _Step, state: list[Value], coupled: bool) -> list[Value]:
    """ONNX has the gates in the order input, output, forget, cell, and peepholes for the first three."""
    (h, c), body, (f, g, activate) = state, step.body, step.direction.functions
    gates = body("add", step.recur(h, 0, 4), step.gates)

    def gate(number: int, cell: Value) -> Value:
        x = step.part(gates, number)
        if step.direction.peepholes is not None:
            x = body("add", x, body("mul", cell, step.part(step.direction.peepholes, number)))
        return f(body, x)

    entering = gate(0, c)
    forget = body("sub", body.like(1, entering), entering) if coupled else gate(2, c)
    new = body("add", body("mul", forget, c), body("mul", entering, g(body, step.part(gates, 3))))
    return [body("mul", gate(1, new), activate(body, new)), new]


def _layer(call: Call, gates: int, activations: Sequence[str], cell: Cell, states: int = 1,
           apart: bool = False) -> list[Value]:  # fmt: skip
    """All directions of a layer of `gates` gates whose cells have `states` parts of state. `apart` keeps the bias of
    the recurrent product from that of the input's."""
    x, turned = call.input(0), bool(call.attr("layout", 0))
    if turned:
        x = call("transpose", x, perm=(1, 0, 2))
    trips, batch, size = shape_of(x)
    rows = call.reshape(x, (trips * batch, size))
    hidden = shape_of(call.input(2))[-1]
    directions = _directions(call, gates * hidden, (batch, hidden), activations, states, apart)
    results = []
    for direction in directions:
        product = call("matmul", rows, direction.w, transpose_b=1)
        if direction.input_bias is not None:
            product = call("add", product, direction.input_bias)
        scanned = call.reshape(product, (trips, batch, gates * hidden))
        results.append(_direction_loop(call, direction, scanned, cell, hidden))
    last = [[call.reshape(result[i], (1, batch, hidden)) for result in results] for i in range(states)]
    parts = [call("concat", *values, axis=0) for values in last]
    if turned:
        parts = [call("transpose", part, perm=(1, 0, 2)) for part in parts]
    if not call.wanted(0):
        return [parts[0], *parts]
    stacks = [call.reshape(result[states], (trips, 1, batch, hidden)) for result in results]
    y = call("concat", *stacks, axis=1)
    return [call("transpose", y, perm=(2, 0, 1, 3)) if turned else y, *parts]


def _directions(call: Call, width: int, state: tuple[int, int], activations: Sequence[str], states: int,
                apart: bool) -> list[_Direction]:  # fmt: skip
    """`width` is that of all gates, `state` the shape of a part of the state."""
    name = call.attr("direction", "forward")
    backward = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}.get(name)
    if backward is None or len(backward) != shape_of(call.input(1))[0]:
        raise ValueError(f"its direction is {name!r}, its weights are {call.input(1).type}")
    functions = _activations(call, activations, len(backward))
    start = [call.optional(5 + i) for i in range(states)]
    if call.attr("layout", 0):
        start = [v and call("transpose", v, perm=(1, 0, 2)) for v in start]
    zero = call.constant(Constant.full(TensorType(call.input(0).dtype, state), 0))

    def part(value: Value, number: int) -> Value:
        shape = shape_of(value)
        starts, rest = (number, *(0,) * (len(shape) - 1)), shape[1:]
        one = call("slice", value, starts=starts, sizes=(1, *rest), steps=(1,) * len(shape))
        return call.reshape(one, rest)

    found = []
    for number, back in enumerate(backward):
        bias, peepholes = call.optional(3), call.optional(7) if states == 2 else None
        of_input = of_state = None
        if bias is not None:
            both = call.reshape(part(bias, number), (2, width))
            of_input, of_state = part(both, 0), part(both, 1)
            if not apart:
                of_input, of_state = call("add", of_input, of_state), None
        found.append(_Direction(
            part(call.input(1), number), part(call.input(2), number), of_input, of_state,
            peepholes and part(peepholes, number), [part(v, number) if v is not None else zero for v in start],
            functions[number], back,
        ))  # fmt: skip
    return found


def _direction_loop(call: Call, direction: _Direction, gates: Value, cell: Cell, hidden: int) -> list[Value]:
    """The last state, and all hidden states if they are wanted; `gates` is [time, batch, gates * hidden]."""
    trips, batch, width = shape_of(gates)
    types = [value.type for value in direction.state]
    body = RegionBuilder("cell", [TensorType("int64", ()), *types, gates.type.with_shape((batch, width))])
    state = body.inputs[1:-1]
    new = cell(_Step(body, direction, body.inputs[-1], hidden), state)
    given = new[0]
    lengths = call.optional(4)
    if lengths is not None and not (lengths.constant and (lengths.constant.numpy() >= trips).all()):
        # Both ways: a sequence begins where the time comes to lie inside it, or ends where it no longer does.
        time = body.inputs[0]
        if direction.backward:
            time = body("sub", body.constant(trips - 1, "int64"), time)
        inside = body("less", time, call.reshape(call.cast(lengths, "int64"), (batch, 1)))
        given = body("where", inside, given, body.like(0, given))
        new = [body("where", inside, after, before) for after, before in zip(new, state, strict=True)]
    stacked = [given] if call.wanted(0) else []
    return call.control(
        "loop", [*direction.state, gates], [body.finish([*new, *stacked])], trips=trips, carried=len(state),
        scanned=(int(direction.backward),), stacked=(int(direction.backward),) * len(stacked),
    )  # fmt: skip
