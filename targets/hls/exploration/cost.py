"""What a process costs, read off its program without making its datapath: lanes are counted, not laid side by side.

Search asks this of thousands of ways to unroll a layer; the exact figures of those that are chosen are
`hardware.timing`'s and `hardware.estimate`'s. Cycles differ from theirs by the depths of pipelines only; products
(DSP) and memories (BRAM, LUT RAM) are counted as they are built; LUTs and flip-flops of logic are rough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from targets.hls.expressions import (
    Binary,
    Const,
    Counter,
    Element,
    Expr,
    LeadingBit,
    Load,
    Local,
    Register,
    Select,
    Shift,
    ShiftBy,
    Sum,
)
from targets.hls.hardware import resources
from targets.hls.hardware.estimate import memory_resources
from targets.hls.hardware.pipeline import DELAYS
from targets.hls.hardware.resources import Family, Resources
from targets.hls.program import (
    OUTSIDE_LATENCY,
    Deposit,
    Fetch,
    Lanes,
    Let,
    Memory,
    Nest,
    Process,
    Put,
    Read,
    Repeat,
    Statement,
    Step,
    Store,
    Update,
    When,
    Write,
)

#: Picojoules in a process of about 16 nm. Adders and memories scale from Horowitz's figures for 45 nm (ISSCC 2014: an
#: addition of 32 bits 0.1, a multiplication 3.1, 64 bits out of 8 KB 10) by 0.25; only their proportions matter.
ENERGY_ADD_BIT = 0.25 * 0.1 / 32
ENERGY_PRODUCT_BIT = 0.25 * 3.1 / 32**2
ENERGY_MEMORY_BIT = 0.25 * 10 / 64
#: DRAM: some 20 pJ a bit (Horowitz: 1.3 to 2.6 nJ for 64 bits), whatever the chip is made in.
ENERGY_OUTSIDE_BIT = 20.0
#: What a resource takes in a cycle of 5 ns, at work or not: clock and leakage.
ENERGY_IDLE = {"lut": 0.002, "ff": 0.004, "bram18": 1.5, "uram": 8.0, "dsp": 0.5}


@dataclass(frozen=True)
class Cost:
    """Of an image, in cycles, if it never waits: `cycles` until it can begin with the next, `first` until its first
    word is written. For each input `tails` are the cycles from the last word that is read of it to the end, and
    `shares` how much of it is read before a word is written. `used` is all that it takes; `tables` of that are memories
    of constants, which would take `in_luts` if they were distributed. `energy`: picojoules of its operations and
    accesses."""

    cycles: int
    first: int
    tails: tuple[int, ...]
    shares: tuple[float, ...]
    used: Resources
    tables: Resources
    in_luts: Resources
    energy: float

    @property
    def distributed(self) -> Cost:
        """With the constants in LUTs."""
        return replace(self, used=self.used + self.tables * -1 + self.in_luts, tables=self.in_luts)


def idle_energy(used: Resources) -> float:
    """Picojoules of a cycle, at work or not."""
    return float(sum(each * getattr(used, name) for name, each in ENERGY_IDLE.items()))


def cost_of(process: Process, family: Family = "xc7") -> Cost:
    walk = _Walk(process, family)
    cycles = walk.steps(process.steps, 0, ())
    tables = walk.memories(lambda memory: memory.is_constant)
    in_luts = walk.memories(lambda memory: memory.is_constant, "distributed")
    used = walk.used + tables + walk.memories(lambda memory: not memory.is_constant) + _registers(process)
    first = min(walk.writes, default=cycles)
    tails, shares = [], []
    for channel in process.inputs:
        events = walk.reads.get(channel.name, [])
        tails.append(max(cycles - max((event.last for event in events), default=0), 1))
        shares.append(min(sum(event.until(first) for event in events) / channel.count, 1.0))
    return Cost(cycles, first, tuple(tails), tuple(shares), used, tables, in_luts, walk.energy)


def _registers(process: Process) -> Resources:
    return Resources(ff=sum(state.kind.bits * state.lanes for state in process.registers))


# Values -------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Value:
    """`at`: stage and level where it is first to be had; None where it is always. There is one for each number of
    `lanes`. `terms`, of a constant: what a multiplication by it adds up, in the mean."""

    bits: int
    signed: bool
    at: tuple[int, int] | None
    lanes: Mapping[str, int]
    is_affine: bool = False
    terms: float = 0
    is_product: bool = False
    #: Bits of the address, of what is loaded: words are loaded when they are needed first.
    address: int = 0
    last: int = 0

    @property
    def is_known(self) -> bool:
        """Where hardware is made."""
        return self.at is None and (self.is_affine or self.terms > 0)

    @property
    def count(self) -> int:
        return math.prod(self.lanes.values())


_NO_LANES: dict[str, int] = {}


@dataclass(frozen=True)
class _Reads:
    """Of a channel by a nest: when each of its walks begins, how long one is, and how many words each reads. `last` is
    when the last of all is read."""

    starts: np.ndarray
    length: int
    counts: np.ndarray
    last: int

    def until(self, cycle: int) -> float:
        """Words that are read before a cycle, if a walk's are spread evenly."""
        return float((np.clip((cycle - self.starts) / self.length, 0, 1) * self.counts).sum())


class _Walk:
    """Adds up what the nests of a process take."""

    def __init__(self, process: Process, family: Family):
        self.levels = process.levels
        self.family = family
        self.process = process
        self.used = Resources()
        self.energy = 0.0
        self.reads: dict[str, list[_Reads]] = {}
        #: Cycles of first words.
        self.writes: list[int] = []
        self.ports: dict[str, int] = {}
        self.stored = {memory.name: memory for memory in process.memories}
        self.bodies: dict[int, _Body] = {}

    def steps(self, steps: Sequence[Step], start: int, around: tuple[tuple[Counter, int], ...]) -> int:
        """Cycles of a walk that begins at `start`; `around` are repetitions, with the cycles of a turn of theirs."""
        at = start
        for step in steps:
            if isinstance(step, Repeat):
                length = self.length(step.steps)
                turns = step.counter.high + 1
                self.steps(step.steps, at, (*around, (step.counter, length)))
                at += turns * length
            else:
                at += self._nest(step, at, around)
        return at - start

    def length(self, steps: Sequence[Step]) -> int:
        total = 0
        for step in steps:
            if isinstance(step, Repeat):
                total += (step.counter.high + 1) * self.length(step.steps)
            else:
                total += self._body(step).depth + step.ii * (step.trip - 1)
        return total

    def _body(self, nest: Nest) -> _Body:
        if id(nest) not in self.bodies:
            self.bodies[id(nest)] = _Body(self, nest)
        return self.bodies[id(nest)]

    def _nest(self, nest: Nest, at: int, around: tuple[tuple[Counter, int], ...]) -> int:
        body = self._body(nest)
        turns = math.prod(counter.high + 1 for counter, _ in around)
        self.used += body.used
        self.energy += body.energy * nest.trip * turns
        for name, ports in body.ports.items():
            self.ports[name] = max(self.ports.get(name, 0), ports)
        strides: list[tuple[Counter, int]] = []
        stride = nest.ii
        for counter in reversed(nest.loops):
            strides.append((counter, stride))
            stride *= counter.high + 1
        walk = [*around, *reversed(strides)]
        length = body.depth + nest.ii * (nest.trip - 1)
        for name, condition in body.reads:
            found = _span(condition, walk, len(around))
            if found is not None:
                starts, counts, _, last = found
                self.reads.setdefault(name, []).append(_Reads(at + starts, length, counts, at + last))
        for condition in body.writes:
            found = _span(condition, walk, len(around))
            if found is not None:
                self.writes.append(at + found[2] + body.depth)
        return length

    def memories(self, chosen: Callable[[Memory], bool], storage: str | None = None) -> Resources:
        """Those that are `chosen`, with the ports that they are read by."""
        used = Resources()
        for memory in self.process.memories:
            if chosen(memory) and not (memory.depth == 1 and memory.is_constant):
                held = memory if storage is None else replace(memory, storage=storage)
                used += memory_resources(held, self.ports.get(memory.name, 0), self.family)
        return used


def _span(
    condition: Expr | None, walk: Sequence[tuple[Counter, int]], outer: int
) -> tuple[np.ndarray, np.ndarray, int, int] | None:
    """When a condition on counters holds: for each turn of the `outer` first ones, the cycle of the turn and in how
    many iterations of it; then the cycles of the first and the last iteration of all. None if it never does."""
    used = _counters(condition) if condition is not None else set[str]()
    bound = [place for place, (counter, _) in enumerate(walk) if place < outer or counter.name in used]
    free = math.prod(walk[place][0].high + 1 for place in range(outer, len(walk)) if place not in bound)
    spare = sum(walk[place][0].high * walk[place][1] for place in range(len(walk)) if place not in bound)
    extents = [walk[place][0].high + 1 for place in bound]
    grid = np.indices(extents).reshape(len(bound), math.prod(extents))
    holds = np.ones(grid.shape[1], bool)
    if condition is not None:
        values = {walk[place][0].name: row for place, row in zip(bound, grid, strict=True)}
        holds = np.broadcast_to(_evaluated(condition, values), holds.shape).astype(bool)
    found = np.flatnonzero(holds)
    if not len(found):
        return None
    cycles = np.array([walk[place][1] for place in bound], np.int64)
    turns = math.prod(extents[:outer])
    starts = cycles[:outer] @ grid[:outer].reshape(outer, turns, -1)[:, :, 0] if outer else np.zeros(1, np.int64)
    counts = holds.reshape(turns, -1).sum(axis=1) * free
    # Lexicographic order is the order of time.
    return starts, counts, int(cycles @ grid[:, found[0]]), int(cycles @ grid[:, found[-1]]) + spare


def _counters(x: Expr) -> set[str]:
    match x:
        case Counter(name=name):
            return {name}
        case Binary(a=a, b=b):
            return _counters(a) | _counters(b)
        case Shift(x=inner):
            return _counters(inner)
        case Select(condition=condition, a=a, b=b):
            return _counters(condition) | _counters(a) | _counters(b)
    return set()


def _evaluated(x: Expr, counters: Mapping[str, np.ndarray]) -> np.ndarray | np.int64:
    match x:
        case Counter(name=name):
            return counters[name]
        case Binary(op=op, a=a, b=b):
            return _MEANING[op](_evaluated(a, counters), _evaluated(b, counters))
        case Shift(x=inner, count=count):
            value = _evaluated(inner, counters)
            return value << count if count > 0 else value >> -count
        case Select(condition=condition, a=a, b=b):
            return np.where(_evaluated(condition, counters), _evaluated(a, counters), _evaluated(b, counters))
    return np.int64(x.low)


_MEANING = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "min": np.minimum, "max": np.maximum, "lt": np.less,
    "le": np.less_equal, "eq": np.equal, "and": np.logical_and,
}  # fmt: skip


# Bodies -------------------------------------------------------------------------------------------------


@dataclass
class _Scope:
    names: dict[str, _Value]
    exprs: dict[str, Expr] = field(default_factory=dict)
    lanes: dict[str, int] = field(default_factory=dict)
    condition: Expr | None = None
    when: _Value | None = None

    def within(self) -> _Scope:
        return _Scope(dict(self.names), dict(self.exprs), dict(self.lanes), self.condition, self.when)


class _Body:
    """What an iteration of a nest computes: operations in their stages, lanes as how often there is each."""

    def __init__(self, walk: _Walk, nest: Nest):
        self.walk = walk
        self.taken = [0, 0, 0, 0, 0]
        self.energy = 0.0
        self.reads: list[tuple[str, Expr | None]] = []
        self.writes: list[Expr | None] = []
        self.addresses: dict[str, dict[object, int]] = {}
        self.states: dict[str, _Value] = {}
        self.puts: dict[str, list[_Value]] = {}
        self.made: list[_Value] = []
        self.known: dict[int, tuple[Expr, _Value]] = {}
        self.end = 0
        for counter in nest.loops:
            self._take(Resources(lut=2 * counter.bits, ff=counter.bits))
        self._statements(nest.body, _Scope({}))
        for value in self.made:
            if value.at is not None and value.last > value.at[0]:
                cycles = value.last - value.at[0]
                if value.address:
                    self._take(resources.delay(value.address, cycles))
                else:
                    self._take(resources.delay(value.bits, cycles), value.count)

    @property
    def depth(self) -> int:
        return 1 + self.end

    @property
    def ports(self) -> dict[str, int]:
        return {name: sum(addresses.values()) for name, addresses in self.addresses.items()}

    @property
    def used(self) -> Resources:
        return Resources(*self.taken)

    def _take(self, each: Resources, count: int = 1) -> None:
        taken = self.taken
        taken[0] += each.lut * count
        taken[1] += each.ff * count
        taken[4] += each.dsp * count

    # Statements -----------------------------------------------------------------------------------------

    def _statements(self, statements: Sequence[Statement], scope: _Scope) -> None:
        for statement in statements:
            self._statement(statement, scope)

    def _statement(self, statement: Statement, scope: _Scope) -> None:
        match statement:
            case Let(name, value):
                scope.names[name] = self.value(value, scope)
                scope.exprs[name] = value
            case Read(channel, word):
                self.reads.append((channel.name, scope.condition))
                scope.names[word] = self._new(channel.bits, False, (0, 0), _NO_LANES)
                self.energy += ENERGY_MEMORY_BIT * channel.bits / 8
            case Fetch(memory, address, word):
                stage = self.value(address, scope).at
                at = ((stage[0] if stage is not None else 0) + OUTSIDE_LATENCY, 0)
                scope.names[word] = self._new(memory.bits, False, at, _NO_LANES)
                self.energy += ENERGY_OUTSIDE_BIT * memory.bits
            case Deposit(memory, _, word):
                self._effect(self.puts.get(word, []), scope, OUTSIDE_LATENCY - 1)
                self.energy += ENERGY_OUTSIDE_BIT * memory.bits
            case Put(word, _, value):
                self.puts.setdefault(word, []).append(self.value(value, scope))
            case Write(channels, word):
                self.writes.append(scope.condition)
                self._effect(self.puts.get(word, []), scope)
                self.energy += ENERGY_MEMORY_BIT * channels[0].bits * len(channels) / 8 if channels else 0.0
            case Store(memory, address, _, value):
                self._effect([self.value(address, scope), self.value(value, scope)], scope)
                self.energy += ENERGY_MEMORY_BIT * memory.kind.bits * math.prod(scope.lanes.values())
            case Update(register, _, value):
                new = self.value(value, scope)
                self._effect([new], scope)
                self.states[register.name] = new
            case When(chosen, body):
                inner = scope.within()
                condition = _inlined(chosen, scope.exprs)
                inner.when = self.value(condition, scope)
                inner.condition = condition if scope.condition is None else scope.condition & condition
                self._statements(body, inner)
            case Lanes(counter, body):
                inner = scope.within()
                inner.lanes[counter.name] = counter.high + 1
                self._statements(body, inner)
                for name, found in inner.names.items():
                    scope.names.setdefault(name, found)

    def _effect(self, values: Sequence[_Value], scope: _Scope, landing: int = 0) -> None:
        """`landing`: cycles until it is to be seen."""
        every = [*values, *([scope.when] if scope.when is not None else [])]
        stage = max((value.at[0] for value in every if value.at is not None), default=0)
        for value in every:
            value.last = max(value.last, stage)
        self.end = max(self.end, stage + landing)

    # Expressions ----------------------------------------------------------------------------------------

    def _new(self, bits: int, signed: bool, at: tuple[int, int] | None, lanes: Mapping[str, int],
             is_affine: bool = False, terms: float = 0) -> _Value:  # fmt: skip
        value = _Value(bits, signed, at, lanes, is_affine, terms)
        self.made.append(value)
        return value

    def value(self, x: Expr, scope: _Scope) -> _Value:
        key = id(x)
        if key in self.known and not isinstance(x, Local | Register):
            return self.known[key][1]
        found = self._value(x, scope)
        self.known[key] = x, found
        return found

    def _value(self, x: Expr, scope: _Scope) -> _Value:
        bits, signed = x.bits, x.signed
        match x:
            case Const():
                return _Value(bits, signed, None, _NO_LANES, is_affine=True, terms=_digits(x.value))
            case Counter(name=name):
                if name in scope.lanes:
                    return _Value(bits, signed, None, {name: scope.lanes[name]}, is_affine=True, terms=1)
                return _Value(bits, signed, (0, 0), _NO_LANES, is_affine=True)
            case Local(name=name):
                return scope.names[name]
            case Element(word=word, lane=lane):
                held = scope.names.get(word)
                return self._new(bits, signed, held.at if held is not None else (0, 0), self.value(lane, scope).lanes)
            case Register(name=name, lane=lane):
                if name in self.states:
                    return self.states[name]
                return _Value(bits, signed, None, self.value(lane, scope).lanes)
            case Load():
                return self._load(x, scope)
            case Binary():
                return self._binary(x, scope)
            case Shift(x=inner):
                moved = self.value(inner, scope)
                return _Value(bits, signed, moved.at, moved.lanes, moved.is_affine, moved.terms)
            case ShiftBy(x=inner, count=count):
                args = [self.value(inner, scope), self.value(count, scope)]
                return self._op("shift_by", args, x, resources.multiplexer(bits, 4) * args[1].bits)
            case Select(condition=condition, a=a, b=b):
                args = [self.value(condition, scope), self.value(a, scope), self.value(b, scope)]
                # A word or nothing goes into the LUTs of what reads it.
                is_known = any(arg.is_known for arg in args)
                return self._op("select", args, x, Resources() if is_known else resources.multiplexer(bits, 2))
            case Sum(counter=counter, body=body):
                return self._sum(x, counter, body, scope)
            case LeadingBit(x=inner):
                value = self.value(inner, scope)
                return self._op("leading", [value], x, Resources(lut=2 * value.bits))
        raise TypeError(f"no cost of {x}")

    def _op(self, kind: str, args: Sequence[_Value], x: Expr, each: Resources, energy: float | None = None) -> _Value:
        """An operation in the stage where its operands are there, and in the next one if that is full."""
        lanes = dict[str, int]()
        for arg in args:
            lanes |= arg.lanes
        count = math.prod(lanes.values())
        at = self._placed(kind, args)
        registered = kind in ("mul", "load")
        for arg in args:
            if arg.at is not None:
                arg.last = max(arg.last, at[0] - registered)
        self._take(each, count)
        self.energy += (ENERGY_ADD_BIT * x.bits if energy is None else energy) * count
        return self._new(x.bits, x.signed, at, lanes)

    def _placed(self, kind: str, args: Sequence[_Value]) -> tuple[int, int]:
        operands = [arg.at for arg in args if arg.at is not None]
        stage, level = max(operands, default=(0, 0))
        level += DELAYS.get(kind, 0)
        if level > self.walk.levels:
            stage, level = stage + 1, DELAYS.get(kind, 0)
        return (stage + 1, 0) if kind in ("mul", "load") else (stage, level)

    def _load(self, x: Load, scope: _Scope) -> _Value:
        memory = self.walk.stored[x.memory]
        lane = self.value(x.lane, scope)
        if memory.is_constant and memory.depth == 1:
            return _Value(x.bits, x.signed, None, lane.lanes, terms=_mean_digits(memory))
        address = self.value(x.address, scope)
        ports = self.addresses.setdefault(memory.name, {})
        form = _inlined(x.address, scope.exprs)
        if form not in ports:
            ports[form] = address.count
            self.energy += ENERGY_MEMORY_BIT * memory.bits * address.count
        at = self._placed("load", [address])
        address.last = max(address.last, at[0] - 1)
        value = self._new(x.bits, x.signed, at, {**address.lanes, **lane.lanes})
        value.address = address.bits * address.count
        return value

    def _binary(self, x: Binary, scope: _Scope) -> _Value:
        a, b = self.value(x.a, scope), self.value(x.b, scope)
        if a.is_affine and b.is_affine and x.op in ("add", "sub", "mul"):
            if a.at is None and b.at is None:
                return _Value(x.bits, x.signed, None, {**a.lanes, **b.lanes}, is_affine=True, terms=1)
            self._take(Resources(lut=x.bits, ff=x.bits), math.prod({**a.lanes, **b.lanes}.values()))
            return self._new(x.bits, x.signed, (0, 0), {**a.lanes, **b.lanes}, is_affine=True)
        if x.op == "mul":
            return self._product(x, a, b)
        return self._op(x.op, [a, b], x, self._logic(x, a, b))

    def _logic(self, x: Binary, a: _Value, b: _Value) -> Resources:
        width = max([arg.bits for arg in (a, b) if not arg.is_known], default=0)
        match x.op:
            case "add" | "sub":
                is_inside = self.walk.family == "xc7" and (a.is_product or b.is_product)
                return Resources() if is_inside else resources.adder(x.bits)
            case "and":
                return Resources(lut=1)
        compared = Resources(lut=-(-width // 5)) if a.is_known or b.is_known else resources.comparator(width)
        return compared + resources.multiplexer(x.bits, 2) if x.op in ("min", "max") else compared

    def _product(self, x: Binary, a: _Value, b: _Value) -> _Value:
        for one, other in ((a, b), (b, a)):
            if one.at is None and one.terms:
                # By a constant: shifted summands.
                adders = max(one.terms - 1, 0.0)
                count = math.prod({**a.lanes, **b.lanes}.values())
                self._take(Resources(lut=round(adders * (x.bits - 1) * count)))
                self.energy += ENERGY_ADD_BIT * adders * x.bits * count
                value = self._new(x.bits, x.signed, other.at, {**a.lanes, **b.lanes})
                for _ in range(math.ceil(math.log2(max(one.terms, 1)))):
                    value.at = self._placed("add", [value])
                return value
        each = resources.product(a.bits, a.signed, b.bits, b.signed, self.walk.family)
        value = self._op("mul", [a, b], x, each, ENERGY_PRODUCT_BIT * a.bits * b.bits)
        value.is_product = each.dsp > 0
        return value

    def _sum(self, x: Sum, counter: Counter, body: Expr, scope: _Scope) -> _Value:
        inner = scope.within()
        terms = counter.high + 1
        inner.lanes[counter.name] = terms
        value = self.value(body, inner)
        lanes = {name: extent for name, extent in value.lanes.items() if name != counter.name}
        count, bits, at = math.prod(lanes.values()), value.bits, value.at
        left = terms
        while left > 1:
            bits += 1
            adders = left // 2
            left -= adders
            before, at = at, self._placed("add", [_Value(bits, True, at, lanes)])
            if not (value.is_product and left == terms - adders and self.walk.family == "xc7"):
                self._take(Resources(lut=bits), adders * count)
            self.energy += ENERGY_ADD_BIT * bits * adders * count
            if before is not None and at[0] > before[0]:
                self._take(Resources(ff=bits - 1), 2 * adders * count)
        return self._new(x.bits, x.signed, at, lanes)


def _inlined(x: Expr, exprs: Mapping[str, Expr]) -> Expr:
    """Names in conditions replaced by what they stand for."""
    match x:
        case Local(name=name) if name in exprs:
            return _inlined(exprs[name], exprs)
        case Binary(op=op, a=a, b=b):
            return Binary(x.low, x.high, op, _inlined(a, exprs), _inlined(b, exprs))
    return x


def _digits(number: int) -> int:
    """Digits that are not 0, no two neighbours among them, of 1, 0 and -1."""
    return bin(abs(number) ^ (3 * abs(number))).count("1")


def _mean_digits(memory: Memory) -> float:
    data = memory.data
    assert data is not None
    numbers, counts = np.unique(data, return_counts=True)
    digits = [_digits(int(number)) for number in numbers]
    return max(float(np.average(digits, weights=counts)), 1e-9)
