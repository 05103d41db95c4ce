"""Sequences and optional values: chains that begin and end with tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import helper

from benchmarks.fuzzing.graphs import COMMON, TYPES, Graph, UnfitError, Value
from benchmarks.fuzzing.operators.registry import place

_PLAIN = tuple(t for t in TYPES if t != "bfloat16")


class _Row:
    """A sequence under construction, and what its elements are."""

    def __init__(self, g: Graph, name: str, dtype: str, rank: int):
        self.g = g
        self.dtype, self.rank = dtype, rank
        self.items: list[Value] = []
        count = g.number(1, 3)
        if name == "SplitToSequence" or (name != "SequenceEmpty" and g.chance(0.2)):
            self._split()
        elif name == "SequenceEmpty" or (name != "SequenceConstruct" and g.chance(0.2)):
            code = helper.np_dtype_to_tensor_dtype(g.data(dtype, ()).dtype)
            (self.value,) = g.inner("SequenceEmpty", [], dtype=code)
        else:
            self.items = [self._item() for _ in range(count)]
            (self.value,) = g.inner("SequenceConstruct", self.items)

    def _item(self) -> Value:
        return self.g.like(self.dtype, self.g.dims(self.rank, self.rank, 200))

    def _split(self) -> None:
        g = self.g
        x = g.any((self.dtype,), 1, 3)
        axis = g.axis(x.rank)
        size = x.shape[axis]
        how = g.pick(("ones", "equal", "sizes"))
        keep = g.pick((None, 0, 1)) if how == "ones" else None
        if not size:
            raise UnfitError
        if how == "ones":
            sizes, split = [1] * size, None
        elif how == "equal":
            step = g.number(1, size)
            sizes = [step] * (size // step) + ([size % step] if size % step else [])
            split = g.given(np.asarray(step, g.pick((np.int64, np.int32))))
        else:
            cuts = sorted(g.number(0, size) for _ in range(g.number(0, 3)))
            sizes = [b - a for a, b in zip([0, *cuts], [*cuts, size], strict=True)]
            split = g.given(sizes)
        if len(sizes) > 12:
            raise UnfitError
        (self.value,) = g.inner("SplitToSequence", [x, split], axis=axis, keepdims=keep)
        self.rank = x.rank - (keep == 0)
        for part in sizes:
            shape = list(x.shape)
            shape[axis] = part
            if keep == 0:
                del shape[axis % x.rank]
            self.items.append(Value("", x.dtype, tuple(shape), x.loose, x.tame))

    def _place(self, high: int) -> tuple[int, Value]:
        """A position, from the front or the back, as its input."""
        count = len(self.items)
        at = self.g.number(0, high)
        given = at - count if at < count and self.g.chance(0.3) else at
        return at, self.g.given(np.asarray(given, self.g.pick((np.int64, np.int32))), self.g.chance(0.6))

    def insert(self) -> None:
        item = self._item()
        at, where = (len(self.items), None) if self.g.chance(0.4) else self._place(len(self.items))
        (self.value,) = self.g.inner("SequenceInsert", [self.value, item, where])
        self.items.insert(at, item)

    def erase(self) -> None:
        at, where = (len(self.items) - 1, None) if self.g.chance(0.4) else self._place(len(self.items) - 1)
        (self.value,) = self.g.inner("SequenceErase", [self.value, where])
        del self.items[at]

    def map(self) -> None:
        """By a body of one node, that may read another tensor."""
        g = self.g
        more = [g.like(self.dtype, ())] if g.chance(0.4) else []
        body = g.body([(self.dtype, (1,) * self.rank, 0.0), *((v.dtype, v.shape, v.loose) for v in more)])
        if more:
            choice = body.new("bool", (), constant=True)
            body.node("Where", [choice, *body.parameters], exact=True)
        else:
            body.node("Identity", body.parameters, exact=True)
        made = g.close(body, [body.values[-1]])
        for value in (*made.input[:1], *made.output):
            value.type.tensor_type.ClearField("shape")
        (self.value,) = g.inner("SequenceMap", [self.value, *more], body=made)
        # Which one it chose does not matter to what is asked.
        self.items = [Value("", v.dtype, v.shape, max([v.loose, *(m.loose for m in more)]), tame=False)
                      for v in self.items]  # fmt: skip

    def at(self) -> None:
        at, where = self._place(len(self.items) - 1)
        item = self.items[at]
        self.g.declare("SequenceAt", [self.value, where], [(item.dtype, item.shape, item.loose)])

    def length(self) -> None:
        self.g.declare("SequenceLength", [self.value], [("int64", (), 0.0)])

    def concat(self) -> None:
        if not self.items:
            raise UnfitError
        new = self.g.chance(0.3)
        rank = self.rank + new
        if not rank:
            raise UnfitError
        axis = self.g.number(0, rank - 1)
        shapes = {v.shape if new else (*v.shape[:axis], *v.shape[axis + 1 :]) for v in self.items}
        if len(shapes) > 1:
            raise UnfitError
        (rest,) = shapes
        if new:
            shape = (*rest[:axis], len(self.items), *rest[axis:])
        else:
            shape = (*rest[:axis], sum(v.shape[axis] for v in self.items), *rest[axis:])
        worst = max(v.loose for v in self.items)
        given = axis if self.g.chance(0.6) else axis - rank
        self.g.declare("ConcatFromSequence", [self.value], [(self.dtype, shape, worst)], axis=given,
                       new_axis=int(new) if new or self.g.chance(0.2) else None)  # fmt: skip


@place("SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SequenceAt", "SequenceLength",
       "SplitToSequence", "ConcatFromSequence", "SequenceMap")  # fmt: skip
def _sequence(g: Graph, name: str) -> None:
    row = _Row(g, name, g.dtype(COMMON if g.chance(0.7) else _PLAIN), g.number(0, 3))
    steps: Sequence[str] = [g.pick(("insert", "erase", "map")) for _ in range(g.number(0, 3))]
    own = {"SequenceInsert": "insert", "SequenceErase": "erase", "SequenceMap": "map"}
    for step in [*steps, *([own[name]] if name in own else [])]:
        if step == "erase" and not row.items:
            continue
        if step == "map" and g.opset < 17:
            raise UnfitError
        getattr(row, step)()
    if (
        not row.items
        or name == "SequenceLength"
        or (name not in ("SequenceAt", "ConcatFromSequence") and g.chance(0.2))
    ):
        row.length()
    elif name == "ConcatFromSequence" or (name != "SequenceAt" and g.chance(0.3)):
        row.concat()
    else:
        row.at()


@place("Optional", "OptionalHasElement", "OptionalGetElement")
def _optional(g: Graph, name: str) -> None:
    x = g.any(_PLAIN)
    kind = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(g.data(x.dtype, ()).dtype), x.shape)
    # To the reference evaluator, an empty one has an element.
    if name == "OptionalHasElement" and g.opset <= 26 and g.chance(0.4):
        (value,) = g.inner("Optional", [], type=kind)
        g.declare("OptionalHasElement", [value], [("bool", (), 0.0)])
        return
    value = x
    if g.opset < 18 or name == "Optional" or g.chance(0.5):
        (value,) = g.inner("Optional", [x])
    if name == "OptionalHasElement":
        g.declare("OptionalHasElement", [value], [("bool", (), 0.0)])
    else:
        g.declare("OptionalGetElement", [value], [(x.dtype, x.shape, x.loose)])
