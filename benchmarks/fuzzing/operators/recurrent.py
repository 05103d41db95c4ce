"""Recurrent layers, with every choice of optional inputs, directions and outputs."""

from __future__ import annotations

from benchmarks.fuzzing.graphs import Graph, UnfitError, Value
from benchmarks.fuzzing.operators.registry import place, types

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_ACTIVATIONS = {"RNN": 1, "GRU": 2, "LSTM": 3}
#: Those that stay small however long the layer runs, and take no numbers.
_FUNCTIONS = ("Tanh", "Sigmoid", "Softsign", "HardSigmoid")


@place(*_GATES)
def _recurrent(g: Graph, name: str) -> None:
    if g.special:
        raise UnfitError  # ONNX Runtime's activations make numbers of nan
    dtype = "float32" if g.chance(0.5) else g.dtype(types(g, name))
    trips, batch, size, hidden = g.number(1, 6), g.number(1, 4), g.number(1, 9), g.pick((1, 2, 3, 5, 8, 17))
    if g.empty:
        trips, batch = g.pick(((0, 2), (3, 0), (2, 2)))
    direction = g.pick((None, "forward", "reverse", "bidirectional"))
    directions = 2 if direction == "bidirectional" else 1
    turned = g.opset >= 14 and g.chance(0.15)
    # What else there is, the reference evaluator passes over; ONNX Runtime has neither other types nor that layout.
    full = dtype == "float32" and not turned and g.opset <= 26
    state = (batch, directions, hidden) if turned else (directions, batch, hidden)
    rows = _GATES[name] * hidden

    def maybe(*shape: int) -> Value | None:
        return g.new(dtype, shape, -0.8, 0.8) if g.chance(0.5) else None

    inputs: list[Value | None] = [
        g.like(dtype, (batch, trips, size) if turned else (trips, batch, size)),
        g.new(dtype, (directions, rows, size), -0.8, 0.8),
        g.new(dtype, (directions, rows, hidden), -0.8, 0.8),
        maybe(directions, 2 * rows),
        g.given(g.data("int32", (batch,), 1 if trips else 0, trips), g.chance(0.5)) if full and g.chance(0.3) else None,
        maybe(*state),
    ]
    outputs = [True, g.chance(0.6)]
    if name == "LSTM":
        inputs += [maybe(*state), maybe(directions, 3 * hidden)]
        outputs.append(g.chance(0.6))
    attributes: dict[str, object] = {}
    if name == "GRU":
        attributes["linear_before_reset"] = g.pick((None, 0, 1))
    if name == "LSTM" and full:
        attributes["input_forget"] = g.pick((None, None, 0, 1))
    if full and g.chance(0.3):
        attributes["activations"] = [g.pick(_FUNCTIONS) for _ in range(_ACTIVATIONS[name] * directions)]
    if full and g.chance(0.2):
        attributes["clip"] = float(g.pick((0.3, 1.0, 5.0)))
    if not trips:
        outputs[1:] = [False] * (len(outputs) - 1)  # a last state of none: the initial one, or 0
    if any(outputs[1:]) and g.chance(0.2):
        outputs[0] = False
    g.node(name, inputs, outputs, hidden_size=hidden, direction=direction, layout=1 if turned else None, **attributes)
