"""Control flow: operators whose regions, graphs of their own, are run a number of times or not at all.

A region reads nothing but its inputs and its constants. All types are static: an iteration gives what it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tensorc.ir import dims
from tensorc.ir.ops.table import REQUIRED, Attrs, Kind, Signature, register
from tensorc.ir.types import TensorType, numpy_dtype

Function = Callable[..., list[np.ndarray]]

_COUNTER = TensorType("int64", ())
_CONDITION = TensorType("bool", ())

#: As many trips as there can be: of a loop that only its condition ends.
ENDLESS = (1 << 63) - 1


def _loop(types: Sequence[TensorType], attrs: Attrs, regions: Sequence[Signature]) -> list[TensorType]:
    ((takes, gives),) = regions
    trips, state, slices = attrs["trips"], attrs["carried"], len(attrs["scanned"])
    carried, scanned, captured = types[:state], types[state : state + slices], types[state + slices :]
    if len(carried) < state or len(scanned) < slices or not 0 <= trips <= ENDLESS:
        raise TypeError(f"{state} carried and {slices} scanned values are more than {len(types)}, or {trips} trips")
    if any(not t.rank or t.shape[0] != trips for t in scanned):
        raise TypeError(f"a loop of {trips} trips does not scan {', '.join(map(str, scanned))}")
    parts = [t.with_shape(t.shape[1:]) for t in scanned]
    if [*takes] != (want := [_COUNTER, *carried, *parts, *captured]):
        raise TypeError(f"the region takes {_listed(takes)}, the loop gives it {_listed(want)}")
    if [*gives[:state]] != [*carried] or len(gives) != state + len(attrs["stacked"]):
        raise TypeError(f"the region gives {_listed(gives)}, the loop carries {_listed(carried)}, then stacks")
    if attrs["conditional"] and (carried[:1] != [_CONDITION] or attrs["stacked"]):
        raise TypeError("a conditional loop first carries its condition, a bool[], and stacks nothing")
    return [*carried, *(t.with_shape((trips, *t.shape)) for t in gives[state:])]


def _loop_numpy(*inputs: np.ndarray, regions: Sequence[Function], signatures: Sequence[Signature], trips: int,
                carried: int, scanned: Sequence[int], stacked: Sequence[int],
                conditional: int) -> tuple[np.ndarray, ...]:  # fmt: skip
    state, slices = list(inputs[:carried]), inputs[carried : carried + len(scanned)]
    captured = inputs[carried + len(scanned) :]
    ((_, gives),) = signatures
    stacks = [np.empty((trips, *dims.static_shape(t.shape)), numpy_dtype(t.dtype)) for t in gives[carried:]]
    number = 0
    while number < trips and (not conditional or state[0]):
        back = trips - 1 - number
        parts = [x[back if backward else number] for x, backward in zip(slices, scanned, strict=True)]
        results = regions[0](np.asarray(number, np.int64), *state, *parts, *captured)
        state = results[:carried]
        for stack, backward, part in zip(stacks, stacked, results[carried:], strict=True):
            stack[back if backward else number] = part
        number += 1
    return *state, *stacks


def _if(types: Sequence[TensorType], _attrs: Attrs, regions: Sequence[Signature]) -> list[TensorType]:
    condition, *captured = types
    (takes, gives), (others, instead) = regions
    if condition != _CONDITION:
        raise TypeError(f"the condition is a bool[], not {condition}")
    if not captured == [*takes] == [*others]:
        raise TypeError(f"the regions take {_listed(takes)} and {_listed(others)}, not {_listed(captured)}")
    if [*gives] != [*instead]:
        raise TypeError(f"one region gives {_listed(gives)}, the other {_listed(instead)}")
    return [*gives]


def _if_numpy(condition: np.ndarray, *captured: np.ndarray, regions: Sequence[Function],
              signatures: Sequence[Signature]) -> tuple[np.ndarray, ...]:  # fmt: skip
    del signatures
    return tuple(regions[0 if condition else 1](*captured))


def _listed(types: Sequence[TensorType]) -> str:
    return f"({', '.join(map(str, types))})"


register(
    "loop", Kind.OPAQUE, (0, None), _loop, _loop_numpy,
    "`trips` runs of its region. Inputs are `carried` values, then those that are scanned along axis 0, then others: "
    "the region takes the number of the iteration, the carried values, a slice of each scanned one, the others, and "
    "gives the carried values for the next iteration, then slices to be stacked. A 1 in `scanned` or `stacked` is for "
    "one that runs backward. `conditional`: no iteration begins when the first carried value is false",
    regions=1, trips=REQUIRED, carried=0, scanned=(), stacked=(), conditional=0,
)  # fmt: skip
register(
    "if", Kind.OPAQUE, (1, None), _if, _if_numpy,
    "what its first region makes of the inputs behind the condition, or its second where the condition is false",
    regions=2,
)  # fmt: skip
