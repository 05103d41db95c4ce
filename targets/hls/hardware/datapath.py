"""What an iteration of a nest computes, as a graph of scalar operations: lanes side by side, conditions as selections.

The body is executed once with names in the place of numbers. Equal operations are one; multiplications by constants
are shifts and additions; what is affine in the counters of loops is one operation, which hardware has as a register
that moves along with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
from targets.hls.program import (
    Channel,
    Deposit,
    Fetch,
    Lanes,
    Let,
    Memory,
    Process,
    Put,
    Read,
    State,
    Statement,
    Store,
    Update,
    When,
    Write,
)
from tensorc.fixed_point import Between, bits_for


@dataclass(frozen=True, eq=False)
class Loop:
    """A counter in hardware, by the name of its register; `extent` turns."""

    name: str
    extent: int

    @property
    def bits(self) -> int:
        return bits_for(0, self.extent - 1)


@dataclass(frozen=True)
class Affine:
    """constant + the sum of loops' counters times factors, none of which is 0."""

    constant: int
    terms: tuple[tuple[Loop, int], ...] = ()

    def plus(self, other: Affine, factor: int = 1) -> Affine:
        factors = dict(self.terms)
        for loop, by in other.terms:
            factors[loop] = factors.get(loop, 0) + by * factor
        terms = sorted(((loop, by) for loop, by in factors.items() if by), key=lambda term: term[0].name)
        return Affine(self.constant + other.constant * factor, tuple(terms))

    def times(self, factor: int) -> Affine:
        return Affine(0).plus(self, factor)

    @property
    def interval(self) -> tuple[int, int]:
        ends = [(min(by * (loop.extent - 1), 0), max(by * (loop.extent - 1), 0)) for loop, by in self.terms]
        return self.constant + sum(low for low, _ in ends), self.constant + sum(high for _, high in ends)


@dataclass(eq=False)
class Op(Between):
    """A scalar between `low` and `high`, or a word of lanes.

    Kinds and their `detail`: const; counter (a loop); affine; word (a channel: what it shows at issue);
    load (a memory and a port: args are the address); lane (a number: of the word that is the argument);
    register (a state and a lane: what it held before the iteration); add, sub, mul, min, max, lt, le, eq, and, or,
    not, select, leading; shift (by how many bits, to the left), shift_by; narrow (in fewer bits).
    """

    kind: str
    args: tuple[Op, ...]
    low: int
    high: int
    detail: object = None
    hint: str = ""

    @property
    def is_const(self) -> bool:
        return self.kind == "const"


@dataclass(frozen=True)
class Access:
    """A port of a memory: the number of those that read it in an iteration."""

    memory: Memory
    port: int


@dataclass(frozen=True)
class Cell:
    """A lane of a register."""

    state: State
    lane: int


@dataclass(frozen=True)
class Stored:
    """Values for some lanes of the word at an address, if the condition holds."""

    memory: Memory
    address: Op
    condition: Op
    lanes: Mapping[int, Op]


@dataclass(frozen=True)
class Written:
    """A word that goes to several channels, if the condition holds."""

    channels: tuple[Channel, ...]
    condition: Op
    lanes: tuple[Op, ...]


@dataclass(frozen=True)
class Updated:
    """A cell's next value, if the condition holds."""

    cell: Cell
    condition: Op
    value: Op


@dataclass
class Datapath:
    """`ops` in an order in which arguments come first. `reads`: the channels whose word is taken, and when."""

    ops: list[Op] = field(default_factory=list)
    reads: dict[Channel, Op] = field(default_factory=dict)
    writes: list[Written] = field(default_factory=list)
    stores: list[Stored] = field(default_factory=list)
    updates: list[Updated] = field(default_factory=list)

    def flow(self) -> list[Op]:
        """The conditions that decide whether an iteration can be issued."""
        return [*self.reads.values(), *(written.condition for written in self.writes)]


def datapath_of(process: Process, loops: Mapping[str, Loop], body: Sequence[Statement]) -> Datapath:
    """Of an iteration whose counters are `loops`. Raises ValueError for what the rules of a program forbid."""
    return _Execution(process, loops).run(body)


_COMMUTES = frozenset({"add", "mul", "min", "max", "eq", "and", "or"})


class _Builder:
    """Makes operations, each once, and none where constants decide."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.numbers: dict[Op, int] = {}
        self.made: dict[tuple[object, ...], Op] = {}
        #: Of those that are affine in counters.
        self.affine: dict[Op, Affine] = {}

    def _make(self, kind: str, args: tuple[Op, ...], low: int, high: int, detail: object = None, hint: str = "") -> Op:
        if kind in _COMMUTES:
            args = tuple(sorted(args, key=self.numbers.__getitem__))
        key = (kind, args, low, high, detail)
        if key not in self.made:
            self.made[key] = op = Op(kind, args, low, high, detail, hint)
            self.numbers[op] = len(self.ops)
            self.ops.append(op)
        return self.made[key]

    def const(self, value: int) -> Op:
        op = self._make("const", (), value, value)
        self.affine.setdefault(op, Affine(value))
        return op

    def of_affine(self, form: Affine) -> Op:
        if not form.terms:
            return self.const(form.constant)
        low, high = form.interval
        if len(form.terms) == 1 and form.constant == 0:
            ((loop, by),) = form.terms
            op = self._make("counter", (), 0, loop.extent - 1, loop, loop.name)
            self.affine.setdefault(op, Affine(0, ((loop, 1),)))
            if by == 1:
                return op
            if by > 0 and by & by - 1 == 0:
                op = self._make("shift", (op,), low, high, by.bit_length() - 1)
                self.affine.setdefault(op, form)
                return op
        op = self._make("affine", (), low, high, form)
        self.affine.setdefault(op, form)
        return op

    def add(self, a: Op, b: Op) -> Op:
        if a in self.affine and b in self.affine:
            return self.of_affine(self.affine[a].plus(self.affine[b]))
        if a.is_const and a.low == 0:
            return b
        if b.is_const and b.low == 0:
            return a
        return self._make("add", (a, b), a.low + b.low, a.high + b.high)

    def sub(self, a: Op, b: Op) -> Op:
        if a in self.affine and b in self.affine:
            return self.of_affine(self.affine[a].plus(self.affine[b], -1))
        if b.is_const:
            return self.add(a, self.const(-b.low))
        return self._make("sub", (a, b), a.low - b.high, a.high - b.low)

    def mul(self, a: Op, b: Op) -> Op:
        if a.is_const:
            a, b = b, a
        if b.is_const:
            return self._times(a, b.low)
        ends = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
        if a is b:
            ends = [0 if a.low <= 0 <= a.high else min(ends), a.low * a.low, a.high * a.high]
        return self._make("mul", (a, b), min(ends), max(ends))

    def _times(self, x: Op, factor: int) -> Op:
        """By the digits -1, 0 and 1 of the factor, of which no two neighbours are not 0."""
        if x in self.affine:
            return self.of_affine(self.affine[x].times(factor))
        plus: list[Op] = []
        minus: list[Op] = []
        rest, place = abs(factor), 0
        while rest:
            if rest & 1:
                digit = 2 - (rest & 3)
                (plus if (digit > 0) == (factor > 0) else minus).append(self.shift(x, place))
                rest -= digit
            rest >>= 1
            place += 1
        if not minus:
            return self.total(plus)
        return self.sub(self.total(plus), self.total(minus))

    def total(self, terms: Sequence[Op]) -> Op:
        """Their sum, as a tree."""
        if not terms:
            return self.const(0)
        if len(terms) == 1:
            return terms[0]
        half = (len(terms) + 1) // 2
        return self.add(self.total(terms[:half]), self.total(terms[half:]))

    def shift(self, x: Op, count: int) -> Op:
        """To the left; to the right, rounding down, where `count` is negative."""
        if count == 0:
            return x
        if x in self.affine and count > 0:
            return self.of_affine(self.affine[x].times(1 << count))
        if x.is_const:
            return self.const(x.low >> -count)
        low, high = (x.low << count, x.high << count) if count > 0 else (x.low >> -count, x.high >> -count)
        return self.const(low) if low == high else self._make("shift", (x,), low, high, count)

    def shift_by(self, x: Op, count: Op) -> Op:
        if count.is_const:
            return self.shift(x, -count.low)
        ends = [v >> n for v in (x.low, x.high) for n in (count.low, count.high)]
        return self._make("shift_by", (x, count), min(ends), max(ends))

    def extreme(self, kind: str, a: Op, b: Op) -> Op:
        if kind == "min":
            if a.high <= b.low or b.high <= a.low:
                return a if a.high <= b.low else b
            return self._make(kind, (a, b), min(a.low, b.low), min(a.high, b.high))
        if a.low >= b.high or b.low >= a.high:
            return a if a.low >= b.high else b
        return self._make(kind, (a, b), max(a.low, b.low), max(a.high, b.high))

    def compare(self, kind: str, a: Op, b: Op) -> Op:
        always = {"lt": a.high < b.low, "le": a.high <= b.low, "eq": a.low == a.high == b.low == b.high}[kind]
        never = {"lt": a.low >= b.high, "le": a.low > b.high, "eq": a.high < b.low or b.high < a.low}[kind]
        if always or never or a is b:
            return self.const(int(always or (a is b and kind != "lt")))
        return self._make(kind, (a, b), 0, 1)

    def both(self, a: Op, b: Op) -> Op:
        for one, other in ((a, b), (b, a)):
            if one.is_const:
                return other if one.low else one
        return a if a is b else self._make("and", (a, b), 0, 1)

    def either(self, a: Op, b: Op) -> Op:
        for one, other in ((a, b), (b, a)):
            if one.is_const:
                return one if one.low else other
        return a if a is b else self._make("or", (a, b), 0, 1)

    def negation(self, a: Op) -> Op:
        if a.is_const:
            return self.const(1 - a.low)
        return a.args[0] if a.kind == "not" else self._make("not", (a,), 0, 1)

    def select(self, condition: Op, a: Op, b: Op) -> Op:
        if condition.is_const or a is b:
            return a if a is b or condition.low else b
        if all(x.low >= 0 and x.high <= 1 for x in (a, b)):  # conditions
            if a.is_const:
                return self.either(condition, b) if a.low else self.both(self.negation(condition), b)
            if b.is_const:
                return self.either(self.negation(condition), a) if b.low else self.both(condition, a)
        return self._make("select", (condition, a, b), min(a.low, b.low), max(a.high, b.high))

    def leading(self, x: Op) -> Op:
        if x.is_const:
            return self.const(max(x.low.bit_length() - 1, 0))
        return self._make("leading", (x,), max(x.low.bit_length() - 1, 0), max(x.high.bit_length() - 1, 0))


class _Execution(_Builder):
    def __init__(self, process: Process, loops: Mapping[str, Loop]):
        super().__init__()
        self.loops = loops
        self.memories = {memory.name: memory for memory in process.memories}
        self.states = {state.name: state for state in process.registers}
        self.words: dict[str, Op] = {}
        self.puts: dict[str, dict[int, Op]] = {}
        self.cells: dict[Cell, Op] = {}
        self.ports: dict[str, list[Op]] = {}
        self.path = Datapath(self.ops)

    def run(self, body: Sequence[Statement]) -> Datapath:
        self._statements(body, {}, self.const(1))
        for cell, value in self.cells.items():
            self._updated(cell, value)
        path = self.path
        for condition in path.flow():
            _check_flow(condition)
        used = reachable(
            [*path.flow(), *(x for w in path.writes for x in w.lanes),
             *(x for s in path.stores for x in (s.address, s.condition, *s.lanes.values())),
             *(x for u in path.updates for x in (u.condition, u.value))]
        )  # fmt: skip
        path.ops = [op for op in self.ops if op in used]
        return path

    def _updated(self, cell: Cell, value: Op) -> None:
        """What the cell keeps under a condition is not written."""
        old = self._old(cell)
        condition = self.const(1)
        while value.kind == "select" and old in value.args[1:]:
            chosen, a, b = value.args
            condition = self.both(condition, chosen if b is old else self.negation(chosen))
            value = a if b is old else b
        if value is not old:
            self.path.updates.append(Updated(cell, condition, value))

    # Statements -----------------------------------------------------------------------------------------

    def _statements(self, statements: Sequence[Statement], names: dict[str, Op], condition: Op) -> None:
        for statement in statements:
            self._statement(statement, names, condition)

    def _statement(self, statement: Statement, names: dict[str, Op], condition: Op) -> None:
        match statement:
            case Let(name, value):
                names[name] = self.value(value, names)
                names[name].hint = names[name].hint or name
            case Read(channel, word):
                before = self.path.reads.get(channel)
                self.path.reads[channel] = condition if before is None else self.either(before, condition)
                self.words[word] = self._make("word", (), 0, (1 << channel.bits) - 1, channel, word)
            case Fetch(memory, address, word):
                self.words[word] = self._fetched(memory, self.value(address, names))
            case Put(word, lane, value):
                lanes = self.puts.setdefault(word, {})
                number, new = self._number(lane, names), self.value(value, names)
                lanes[number] = self.select(condition, new, lanes[number]) if number in lanes else new
            case Write(channels, word) if channels:
                self._write(Written(channels, condition, tuple(self._put(word, channels[0].lanes).values())))
            case Deposit(memory, address, word):
                lanes = self._put(word, memory.lanes)
                self.path.stores.append(Stored(memory, self.value(address, names), condition, lanes))
            case Store(memory, address, lane, value):
                self._store(memory, self.value(address, names), self._number(lane, names), self.value(value, names),
                            condition)  # fmt: skip
            case Update(register, lane, value):
                cell = Cell(register, self._number(lane, names))
                new = self.value(value, names)
                self.cells[cell] = self.select(condition, new, self._cell(cell))
            case When(chosen, body):
                self._statements(body, dict(names), self.both(condition, self.value(chosen, names)))
            case Lanes(counter, body):
                for number in range(counter.high + 1):
                    self._statements(body, {**names, counter.name: self.const(number)}, condition)

    def _put(self, word: str, lanes: int) -> dict[int, Op]:
        """What a word was put together of."""
        found = self.puts[word]
        return {number: found.get(number, self.const(0)) for number in range(lanes)}

    def _write(self, new: Written) -> None:
        """Words that are written to the same channels under several conditions are one that is selected."""
        for number, old in enumerate(self.path.writes):
            if old.channels == new.channels:
                lanes = tuple(self.select(new.condition, a, b) for a, b in zip(new.lanes, old.lanes, strict=True))
                self.path.writes[number] = Written(old.channels, self.either(old.condition, new.condition), lanes)
                return
            if set(old.channels) & set(new.channels):
                raise ValueError(f"{new.channels[0].name} gets words that others get only in part")
        self.path.writes.append(new)

    def _store(self, memory: Memory, address: Op, lane: int, value: Op, condition: Op) -> None:
        for number, old in enumerate(self.path.stores):
            if (old.memory, old.address, old.condition) == (memory, address, condition):
                self.path.stores[number] = Stored(memory, address, condition, {**old.lanes, lane: value})
                return
        self.path.stores.append(Stored(memory, address, condition, {lane: value}))

    # Expressions ----------------------------------------------------------------------------------------

    def _number(self, lane: Expr, names: Mapping[str, Op]) -> int:
        op = self.value(lane, names)
        if not op.is_const:
            raise ValueError(f"the lane {lane} is not known when hardware is made")
        return op.low

    def value(self, x: Expr, names: Mapping[str, Op]) -> Op:
        return self._narrowed(self._value(x, names), x.low, x.high)

    def _narrowed(self, op: Op, low: int, high: int) -> Op:
        """The same, where an expression knows more of its interval than follows from its operands."""
        low, high = max(low, op.low), min(high, op.high)
        if (low, high) == (op.low, op.high) or low > high or op in self.affine:
            return op
        if op.kind == "register":
            return self._make("narrow", (op,), low, high, None, op.hint)
        return self._make(op.kind, op.args, low, high, op.detail, op.hint)

    def _value(self, x: Expr, names: Mapping[str, Op]) -> Op:
        match x:
            case Const():
                return self.const(x.value)
            case Counter(name=name) | Local(name=name):
                return names[name] if name in names else self._counter(self.loops[name])
            case Element(word=word, lane=lane):
                return self._lane(self.words[word], self._number(lane, names))
            case Load():
                return self._load(x, names)
            case Register(name=name, lane=lane):
                return self._cell(Cell(self.states[name], self._number(lane, names)))
            case Binary():
                return self._binary(x, self.value(x.a, names), self.value(x.b, names))
            case Shift():
                return self.shift(self.value(x.x, names), x.count)
            case ShiftBy():
                return self.shift_by(self.value(x.x, names), self.value(x.count, names))
            case Select():
                condition = self.value(x.condition, names)
                return self.select(condition, self.value(x.a, names), self.value(x.b, names))
            case Sum(counter=counter, body=body):
                numbers = range(counter.high + 1)
                return self.total([self.value(body, {**names, counter.name: self.const(n)}) for n in numbers])
            case LeadingBit():
                return self.leading(self.value(x.x, names))
        raise TypeError(f"no hardware for {x}")

    def _binary(self, x: Binary, a: Op, b: Op) -> Op:
        match x.op:
            case "add":
                return self.add(a, b)
            case "sub":
                return self.sub(a, b)
            case "mul":
                return self.mul(a, b)
            case "min" | "max":
                return self.extreme(x.op, a, b)
            case "and":
                return self.both(a, b)
        return self.compare(x.op, a, b)

    def _counter(self, loop: Loop) -> Op:
        return self.of_affine(Affine(0, ((loop, 1),) if loop.extent > 1 else ()))

    def _load(self, x: Load, names: Mapping[str, Op]) -> Op:
        memory, lane = self.memories[x.memory], self._number(x.lane, names)
        address = self.value(x.address, names)
        if memory.is_constant and (address.is_const or memory.depth == 1):
            assert memory.data is not None
            return self.const(int(memory.data.reshape(memory.depth, -1)[address.low if address.is_const else 0, lane]))
        return self._lane(self._fetched(memory, address), lane)

    def _fetched(self, memory: Memory, address: Op) -> Op:
        """A word."""
        ports = self.ports.setdefault(memory.name, [])
        if address not in ports:
            ports.append(address)
        if memory.is_outside and len(ports) > 1:
            raise ValueError(f"{memory.name} is read at several addresses in an iteration, and lies outside the chip")
        access = Access(memory, ports.index(address))
        return self._make("load", (address,), 0, (1 << memory.bits) - 1, access, memory.name)

    def _lane(self, word: Op, lane: int) -> Op:
        source = word.detail.memory if isinstance(word.detail, Access) else word.detail
        assert isinstance(source, (Memory, Channel))
        kind = source.kind
        return self._make("lane", (word,), kind.low, kind.high, lane, f"{word.hint}_{lane}")

    def _old(self, cell: Cell) -> Op:
        kind = cell.state.kind
        return self._make("register", (), kind.low, kind.high, cell, cell.state.name)

    def _cell(self, cell: Cell) -> Op:
        return self.cells[cell] if cell in self.cells else self._old(cell)


def _check_flow(condition: Op) -> None:
    if any(op.kind in ("word", "load", "register") for op in reachable([condition])):
        raise ValueError("whether a channel is read or written may only depend on counters")


def reachable(roots: Sequence[Op]) -> set[Op]:
    found: set[Op] = set()
    waiting = list(roots)
    while waiting:
        op = waiting.pop()
        if op not in found:
            found.add(op)
            waiting += op.args
    return found


def evaluated(op: Op, counters: Mapping[Loop, np.ndarray]) -> np.ndarray:
    """The values of an operation on counters, for arrays of what they hold."""
    args = [evaluated(arg, counters) for arg in op.args]
    match op.kind:
        case "const":
            return np.int64(op.low)  # type: ignore[return-value]
        case "counter":
            return counters[op.detail]  # type: ignore[index]
        case "affine":
            assert isinstance(op.detail, Affine)
            return op.detail.constant + sum(counters[loop] * by for loop, by in op.detail.terms)  # type: ignore[return-value]
        case "shift":
            assert isinstance(op.detail, int)
            return args[0] << op.detail if op.detail > 0 else args[0] >> -op.detail
        case "select":
            return np.where(args[0], args[1], args[2])
        case "not":
            return 1 - args[0]
    return np.asarray(_MEANING[op.kind](*args), np.int64)


_MEANING = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "min": np.minimum, "max": np.maximum, "lt": np.less,
    "le": np.less_equal, "eq": np.equal, "and": np.bitwise_and, "or": np.bitwise_or, "shift_by": np.right_shift,
}  # fmt: skip
