"""Attention: keys and values are kept once on the chip, and each sweep over them serves several queries (Edge-MoE).

Beside keys and values, which grow with the number of positions, there is a row of scores for each query of a sweep:
nothing grows with the square. Exponentials are never of positive numbers: a row's greatest score is found as scores are
made, and the sum that weights are divided by is made together with the sums that it divides. A sweep takes one word of
a key or of a value a cycle, however many queries it serves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from targets.hls.expressions import (
    Const,
    Counter,
    Element,
    Expr,
    Load,
    Register,
    Sum,
    clamp,
    greater,
    select,
    whole,
    within,
)
from targets.hls.layers.curves import Weights, halved, inverse, shifted
from targets.hls.layers.layer import Epilogue, Group, HeadLayer, Unroll, divisors
from targets.hls.layers.tensor import Tensor
from targets.hls.layers.windows import used_loops
from targets.hls.program import (
    Channel,
    Kind,
    Lanes,
    Let,
    Memory,
    Nest,
    Process,
    Read,
    Repeat,
    State,
    Statement,
    Step,
    Store,
    Update,
    When,
)
from tensorc.errors import UnsupportedError
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Node
from tensorc.ir.ops.curves import weight_bits
from tensorc.ir.ops.fixed import fixed_limits
from tensorc.ir.ops.fixed_rows import attention_scale, softmax_reciprocal


@dataclass(frozen=True)
class Mask:
    """What is added to scores: a number for each key, and `less` than that where a query may not look at a key: number
    i looks at keys up to i + `ahead`, where that is not None."""

    keys: np.ndarray
    ahead: int | None = None
    less: int = 0

    @classmethod
    def of(cls, raw: np.ndarray) -> Mask | None:
        """Of numbers [queries, keys]; None for a mask that is none of these."""
        if (raw == raw[:1]).all():
            return cls(np.asarray(raw[0]))
        further = np.arange(raw.shape[1]) - np.arange(raw.shape[0])[:, None]
        hidden = raw == raw.min()
        ahead = int(further[~hidden].max(initial=-raw.size))
        is_causal = (hidden == (further > ahead)).all() and (raw[~hidden] == 0).all()
        return cls(np.zeros(raw.shape[1], np.int64), ahead, -int(raw.min())) if is_causal else None


#: No more queries are served at once.
_MOST_SLOTS = 64


def key_rows_read(queries: int, keys: int, slots: int) -> int:
    """Rows of keys that each head of attention reads: a sweep over all keys serves `slots` queries, which are loaded
    before it begins. (Were each loaded when the sweep comes by its own key, as in Edge-MoE, the last sweep would end
    later: (queries + slots - 1) / slots sweeps, rounded up.)"""
    return -(-queries // slots) * keys


class Attention(HeadLayer):
    """`outputs` queries are served by a sweep; words are `inputs` numbers of a row of queries, keys or values."""

    def __init__(self, name: str, group: Group, head: Node, inputs: tuple[Tensor, ...], output: Tensor):
        super().__init__(name, group, head, inputs, output)
        self.batch, self.queries, self.heads, self.depth = static_shape(head.inputs[0].shape)
        _, self.keys, self.shared, self.width = static_shape(head.inputs[2].shape)
        self.mask = self._mask()
        self.title = f"{output.name}: attention of {self.heads} heads, {self.queries} queries to {self.keys} keys"

    def _mask(self) -> Mask | None:
        if len(self.head.inputs) == 3:
            return None
        value = self.head.inputs[3]
        numbers = self.group.constant(value)
        if numbers is None:
            raise UnsupportedError(f"{self.output.name}: attention with a mask that is computed has no hardware")
        raw = np.rint(numbers * 2.0 ** self.head.attrs["scores"]).astype(np.int64)
        shape = (self.batch, self.heads, self.queries, self.keys)
        rows = np.broadcast_to(raw, shape).reshape(-1, self.queries, self.keys)
        mask = Mask.of(rows[0]) if (rows == rows[:1]).all() else None
        if mask is None:
            raise UnsupportedError(f"{self.output.name}: attention has hardware for masks of keys and for causal ones; "
                                   f"others take memory that grows with the square of positions")  # fmt: skip
        return mask

    def choices(self) -> list[Unroll]:
        slots = {n for n in divisors(self.queries) if n <= _MOST_SLOTS}
        slots |= {1 << n for n in range(_MOST_SLOTS.bit_length()) if 1 << n <= self.queries}
        return [Unroll(p, n) for p in sorted(slots) for n in divisors(math.gcd(self.depth, self.width))]

    def input_lanes(self, unroll: Unroll) -> tuple[int, ...]:
        return (unroll.inputs,) * len(self.inputs)

    def output_lanes(self, unroll: Unroll) -> int:
        return unroll.inputs

    def process(self, unroll: Unroll, inputs: Sequence[Channel], outputs: Sequence[Channel]) -> Process:
        return _Sweeps(self, unroll, inputs, outputs).process()


class _Sweeps:
    """Memories and nests for a choice of slots and lanes."""

    def __init__(self, layer: Attention, unroll: Unroll, inputs: Sequence[Channel], outputs: Sequence[Channel]):
        self.layer = layer
        self.slots, self.lanes = unroll.outputs, unroll.inputs
        self.channels, self.outputs = tuple(inputs), tuple(outputs)
        self.attrs = layer.head.attrs
        q, k, v = (channel.kind for channel in inputs[:3])
        self.value_kind = v
        self.key_words, self.value_words = layer.depth // self.lanes, layer.width // self.lanes
        self.lane = Counter.of("lane", self.lanes, is_lane=True)
        self.slot = Counter.of("slot", self.slots, is_lane=True)
        self.batch, self.block = Counter.of("batch", layer.batch), Counter.of("block", -(-layer.queries // self.slots))
        self.shared, self.member = Counter.of("shared", layer.shared), Counter.of("member", layer.heads // layer.shared)
        self.which = self.shared * (self.member.high + 1) + self.member

        rows, heads = layer.keys * layer.shared, layer.heads
        self.asked = [Memory(f"queries{n}", q, self.lanes, heads * self.key_words) for n in range(self.slots)]
        self.key_memory = Memory("keys", k, self.lanes, rows * self.key_words)
        self.value_memory = Memory("values", v, self.lanes, rows * self.value_words)

        product = _load(self.asked[0], Const.of(0), Const.of(0)) * _load(self.key_memory, Const.of(0), Const.of(0))
        self.product = State("product", Kind(product.low * layer.depth, product.high * layer.depth), self.slots)
        self.mask = layer.mask
        self.mask_memory = None
        if self.mask is not None and self.mask.keys.any():
            keys = self.mask.keys
            kind = Kind(int(keys.min()), int(keys.max()))
            self.mask_memory = Memory("mask", kind, 1, layer.keys, keys.reshape(-1, 1))
        self.key = Counter.of("key", layer.keys)
        score = self._score()
        self.best = State("best", Kind(score.low, score.high), self.slots)
        self.scores = Memory("scores", self.best.kind, self.slots, layer.keys)
        self.bits = weight_bits(layer.keys, self.attrs["bits"] + 1)
        self.weights = Weights(self.attrs["scores"], self.bits, score.high - score.low)
        self.total = State("total", Kind(0, layer.keys << self.bits), self.slots)
        most = layer.keys << self.bits
        self.sum = State("sum", Kind(min(most * v.low, 0), max(most * v.high, 0)), self.slots * self.lanes)
        self.totals = Memory("totals", self.total.kind, self.slots, heads)
        self.sums = Memory("sums", self.sum.kind, self.slots * self.lanes, heads * self.value_words)

    def process(self) -> Process:
        epilogue = Epilogue(self.layer.group, self.layer.head.output, self.layer.output)
        give, tables = self._give(epilogue)
        for_head: tuple[Step, ...] = (self._compare(), self._weigh())
        for counter in (self.member, self.shared):
            for_head = (Repeat(counter, for_head),) if counter.high else for_head
        step: tuple[Step, ...] = (*self._keep(), Repeat(self.block, (self._ask(), *for_head, give)))
        if self.batch.high:
            step = (Repeat(self.batch, step),)
        masks = (self.mask_memory,) if self.mask_memory is not None else ()
        memories = (*self.asked, *masks, self.key_memory, self.value_memory, self.scores, self.totals, self.sums,
                    self.weights.table, *tables, *epilogue.memories)  # fmt: skip
        registers = (self.product, self.best, self.total, self.sum)
        layer = self.layer
        return Process(layer.name, layer.title, step, self.channels, self.outputs, memories, registers)

    def _keep(self) -> tuple[Nest, ...]:
        """Keys and values come side by side where they have equally many words, as it is when one tensor makes both."""

        def kept(memory: Memory, channel: Channel, word: Counter) -> tuple[Statement, ...]:
            name = f"{memory.name}_in"
            element = Element(channel.kind.low, channel.kind.high, name, self.lane)
            return Read(channel, name), Lanes(self.lane, (Store(memory, whole(word), self.lane, element),))

        pairs = list(zip((self.key_memory, self.value_memory), self.channels[1:3], strict=True))
        if self.key_words == self.value_words:
            word = Counter.of("number", self.key_memory.depth)
            return (Nest("keep", (word,), tuple(s for pair in pairs for s in kept(*pair, word))),)
        words = [Counter.of("number", memory.depth) for memory, _ in pairs]
        return tuple(
            Nest(f"keep_{pair[0].name}", (word,), kept(*pair, word)) for pair, word in zip(pairs, words, strict=True)
        )

    def _ask(self) -> Nest:
        """The queries that the next sweeps serve, one behind the other."""
        slot, word = Counter.of("slot", self.slots), Counter.of("number", self.asked[0].depth)
        kind = self.channels[0].kind
        element = Element(kind.low, kind.high, "word_in", self.lane)
        body: list[Statement] = [Read(self.channels[0], "word_in")]
        for number, memory in enumerate(self.asked):
            body += _when(slot.equals(number), Lanes(self.lane, (Store(memory, whole(word), self.lane, element),)))
        return Nest("ask", used_loops((slot, word)), _when(self._exists(slot), *body))

    def _exists(self, slot: Expr) -> Expr:
        return self.block * self.slots + slot < self.layer.queries

    def _compare(self) -> Nest:
        """A sweep over the keys: scores, and the greatest of each query."""
        key, chunk = self.key, Counter.of("chunk", self.key_words)
        key_at = Let("key_at", (key * self.layer.shared + self.shared) * self.key_words + chunk)
        query_at = Let("query_at", self.which * self.key_words + chunk)
        body: list[Statement] = [key_at, query_at]
        for number, memory in enumerate(self.asked):
            slot = Const.of(number)
            lane = self.lane if self.lanes > 1 else Const.of(0)
            product = _load(memory, query_at.local, lane) * _load(self.key_memory, key_at.local, lane)
            if self.lanes > 1:
                product = Sum(product.low * self.lanes, product.high * self.lanes, self.lane, product)
            body.append(_added(self.product, slot, chunk.equals(0), product))
        score = Let("score", self._score())
        before = select(key.equals(0), self.best.kind.low, _now(self.best, self.slot))
        last = Lanes(self.slot, (
            score, Store(self.scores, whole(key), self.slot, score.local),
            Update(self.best, self.slot, greater(before, score.local)),
        ))  # fmt: skip
        body += _when(chunk.equals(chunk.high), last)
        return Nest("compare", used_loops((key, chunk)), tuple(body))

    def _score(self) -> Expr:
        """Of a slot's query with the key of the sweep."""
        factor, places = attention_scale(self.attrs["scale"])
        q, k, _ = self.attrs["fractions"]
        score = halved(_now(self.product, self.slot) * factor, q + k + places - self.attrs["scores"])
        if self.mask_memory is not None:
            score = score + _load(self.mask_memory, self.key, Const.of(0))
        if self.mask is not None and self.mask.ahead is not None:
            query = self.block * self.slots + self.slot
            score = score - select(self.key <= query + self.mask.ahead, 0, self.mask.less)
        return score

    def _weigh(self) -> Nest:
        """For each word of values a sweep over the scores: the sum of weights, and that of weighted values."""
        chunk, key = Counter.of("chunk", self.value_words), self.key
        value_at = Let("value_at", (key * self.layer.shared + self.shared) * self.value_words + chunk)
        distance = _now(self.best, self.slot) - _load(self.scores, key, self.slot)
        weight = Let("weight", self.weights.of(within(distance, 0, self.best.kind.high - self.best.kind.low)))
        place = self.slot * self.lanes + self.lane
        first, last = key.equals(0), key.equals(key.high)
        value = _load(self.value_memory, value_at.local, self.lane)
        add = Lanes(self.slot, (
            weight, _added(self.total, self.slot, first, weight.local),
            Lanes(self.lane, (_added(self.sum, place, first, weight.local * value),)),
        ))  # fmt: skip
        keep = Lanes(self.slot, (
            Store(self.totals, self.which, self.slot, _now(self.total, self.slot)),
            Lanes(self.lane, (Store(self.sums, self.which * self.value_words + chunk, place, _now(self.sum, place)),)),
        ))  # fmt: skip
        return Nest("weigh", used_loops((chunk, key)), (value_at, add, *_when(last, keep)))

    def _give(self, epilogue: Epilogue) -> tuple[Nest, tuple[Memory, ...]]:
        """Sums by the reciprocals of their weights' sums: the only division, once for each result."""
        attrs, layer = self.attrs, self.layer
        slot, head, chunk = (Counter.of("slot", self.slots), Counter.of("head", layer.heads),
                             Counter.of("chunk", self.value_words))  # fmt: skip
        total = _of_slot(slot, [_load(self.totals, head, Const.of(n)) for n in range(self.slots)])
        divisor = Let("divisor", within(total, 1 << self.bits, self.total.kind.high))
        reciprocal = softmax_reciprocal(attrs["bits"])
        found = inverse(reciprocal, divisor)
        at = head * self.value_words + chunk
        sums = [_load(self.sums, at, self.lane + n * self.lanes) for n in range(self.slots)]
        v = self.value_kind
        bounds = min(v.low << self.bits + 1, 0), max(v.high << self.bits + 1, 0)
        normal = within(shifted(_of_slot(slot, sums), found.power - self.bits), *bounds)
        share = halved(normal * found.y, reciprocal.fraction + self.bits + attrs["fractions"][2] - attrs["result"])
        result = clamp(share, *fixed_limits(attrs["width"], attrs["signed"]))
        query = self.batch * layer.queries + self.block * self.slots + slot
        written = epilogue.statements(
            self.lanes, result, chunk, query * layer.heads + head, self.channels[3:], self.outputs
        )
        body = _when(self._exists(slot), divisor, *found.lets, *written)
        return Nest("divide", used_loops((slot, head, chunk)), body), found.memories


def _load(memory: Memory, address: Expr, lane: Expr) -> Expr:
    return Load(memory.kind.low, memory.kind.high, memory.name, whole(address), lane)


def _now(state: State, lane: Expr) -> Expr:
    return Register(state.kind.low, state.kind.high, state.name, lane)


def _added(state: State, lane: Expr, first: Expr, term: Expr) -> Update:
    kind = state.kind
    return Update(state, lane, within(select(first, 0, _now(state, lane)) + term, kind.low, kind.high))


def _of_slot(slot: Expr, each: Sequence[Expr]) -> Expr:
    """The one of `each` that is the slot's."""
    found = each[-1]
    for number in range(len(each) - 2, -1, -1):
        found = select(slot.equals(number), each[number], found)
    return found


def _when(condition: Expr, *body: Statement) -> tuple[Statement, ...]:
    return body if isinstance(condition, Const) and condition.value else (When(condition, body),)
