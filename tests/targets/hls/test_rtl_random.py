"""Verilog of random bodies of nests against what the statements mean, executed one by one in Python."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import pytest

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
    clamp,
    either,
    greater,
    select,
    smaller,
    within,
)
from targets.hls.hardware.datapath import datapath_of
from targets.hls.hardware.pipeline import designs_of, least_ii
from targets.hls.hardware.timing import timing_of
from targets.hls.program import (
    Channel,
    Kind,
    Lanes,
    Let,
    Memory,
    Nest,
    Port,
    Process,
    Program,
    Put,
    Read,
    Repeat,
    State,
    Store,
    Update,
    When,
    Write,
)
from targets.hls.simulation import rtl

# What statements mean -----------------------------------------------------------------------------------

_BINARY = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "min": min, "max": max,
    "lt": lambda a, b: int(a < b), "le": lambda a, b: int(a <= b), "eq": lambda a, b: int(a == b),
    "and": lambda a, b: a & b,
}  # fmt: skip


class Interpreter:
    def __init__(self, process: Process, queues: Mapping[str, list[list[int]]]):
        self.process = process
        self.queues = queues
        self.memories = {m.name: [[0] * m.lanes for _ in range(m.depth)] if m.data is None else m.data.tolist()
                         for m in process.memories}  # fmt: skip
        self.registers = {s.name: [0] * s.lanes for s in process.registers}

    def run(self, steps, counters):
        for step in steps:
            if isinstance(step, Repeat):
                for number in range(step.counter.high + 1):
                    self.run(step.steps, {**counters, step.counter.name: number})
            else:
                for numbers in np.ndindex(*(counter.high + 1 for counter in step.loops)):
                    names = {c.name: int(n) for c, n in zip(step.loops, numbers, strict=True)}
                    self.words: dict[str, dict[int, int]] = {}
                    self.statements(step.body, {**counters, **names})

    def statements(self, statements, names):
        for statement in statements:
            match statement:
                case Let(name, value):
                    names[name] = self.value(value, names)
                case Read(channel, word):
                    self.words[word] = dict(enumerate(self.queues[channel.name].pop(0)))
                case Put(word, lane, value):
                    self.words.setdefault(word, {})[self.value(lane, names)] = self.value(value, names)
                case Write(channels, word):
                    for channel in channels:
                        self.queues[channel.name].append([self.words[word][n] for n in range(channel.lanes)])
                case Store(memory, address, lane, value):
                    at, number = self.value(address, names), self.value(lane, names)
                    self.memories[memory.name][at][number] = self.value(value, names)
                case Update(register, lane, value):
                    self.registers[register.name][self.value(lane, names)] = self.value(value, names)
                case When(condition, body):
                    if self.value(condition, names):
                        self.statements(body, dict(names))
                case Lanes(counter, body):
                    for number in range(counter.high + 1):
                        self.statements(body, {**names, counter.name: number})

    def value(self, x: Expr, names) -> int:
        found = self._value(x, names)
        assert x.low <= found <= x.high, x
        return found

    def _value(self, x: Expr, names) -> int:
        match x:
            case Const():
                return x.low
            case Counter() | Local():
                return names[x.name]
            case Element():
                return self.words[x.word][self.value(x.lane, names)]
            case Load():
                return self.memories[x.memory][self.value(x.address, names)][self.value(x.lane, names)]
            case Register():
                return self.registers[x.name][self.value(x.lane, names)]
            case Binary():
                return _BINARY[x.op](self.value(x.a, names), self.value(x.b, names))
            case Shift():
                value = self.value(x.x, names)
                return value << x.count if x.count > 0 else value >> -x.count
            case ShiftBy():
                return self.value(x.x, names) >> self.value(x.count, names)
            case Select():
                return self.value(x.a if self.value(x.condition, names) else x.b, names)
            case Sum():
                return sum(self.value(x.body, {**names, x.counter.name: n}) for n in range(x.counter.high + 1))
            case LeadingBit():
                return max(self.value(x.x, names).bit_length() - 1, 0)
        raise TypeError(x)


# Random bodies ------------------------------------------------------------------------------------------

LANE = Counter.of("lane", 2, is_lane=True)


class Draw:
    """Expressions over counters, words, loads and registers; `known` are those that can be read."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.known: list[Expr] = []

    def kind(self) -> Kind:
        low = self.random.choice([0, 0, -1, -3, -8, -100])
        return Kind(low, self.random.choice([1, 5, 7, 8, 200, 3000])).full

    def wrapped(self, x: Expr, kind: Kind) -> Expr:
        return clamp(x, kind.low, kind.high)

    def small(self, x: Expr) -> Expr:
        return clamp(x, -5000, 5000) if x.bits > 24 else x

    def expression(self, depth: int = 4) -> Expr:
        pick = self.random
        if depth == 0 or pick.random() < 0.1:
            return pick.choice(self.known) if pick.random() < 0.8 else Const.of(pick.randint(-20, 20))
        a, b = self.small(self.expression(depth - 1)), self.small(self.expression(depth - 1))
        match pick.randrange(13):
            case 0 | 1:
                return a + b
            case 2:
                return a - b
            case 3:
                return a * b
            case 4:
                return a * pick.choice([-7, -4, 3, 5, 8, 11, 93])
            case 5:
                return smaller(a, b)
            case 6:
                return greater(a, b)
            case 7:
                return a << pick.randint(0, 4)
            case 8:
                return a >> pick.randint(0, 9)
            case 9:
                return select(self.condition(depth - 1), a, b)
            case 10:
                count = clamp(b, 0, pick.choice([1, 5, 12]))
                return ShiftBy(min(a.low, 0), max(a.high, 0), a, count)
            case 11:
                x = greater(a, 0)
                return LeadingBit(0, max(x.high.bit_length() - 1, 0), x)
        part = Counter.of("part", 3, is_lane=True)
        term = a + part * b
        return Sum(3 * term.low, 3 * term.high, part, term)

    def condition(self, depth: int = 2) -> Expr:
        a, b = self.small(self.expression(depth)), self.small(self.expression(depth))
        simple = self.random.choice([a < b, a <= b, a.equals(b), b >= a])
        if depth and self.random.random() < 0.5:
            other = self.condition(depth - 1)
            return simple & other if self.random.random() < 0.5 else either(simple, other)
        return simple


def random_program(seed: int) -> Program:
    """A nest fills a memory, another one computes with it, registers, a table and a second channel."""
    draw = Draw(seed)
    pick = draw.random
    zero = Const.of(0)
    turns, rows, columns = pick.randint(1, 3), pick.randint(1, 3), pick.randint(1, 4)
    turn, row, column = Counter.of("turn", turns), Counter.of("row", rows), Counter.of("column", columns)
    first, second = draw.kind(), draw.kind()
    x = Channel("x", first, 2, turns * rows * columns)
    y = Channel("y", second, 1, turns * rows)
    memory = Memory("kept", first, 2, rows * columns)
    content = np.random.default_rng(seed).integers(-50, 200, (16, 1))
    table = Memory("table", Kind(-50, 199), 1, 16, content)
    held = State("held", draw.kind(), 2)
    state = State("state", draw.kind(), 1)

    fill = Nest("fill", (row, column), (
        Read(x, "word_in"),
        Update(state, zero, draw.wrapped(column + row, state.kind)),
        Lanes(LANE, (
            Store(memory, row * columns + column, LANE, Element(first.low, first.high, "word_in", LANE)),
            Update(held, LANE, draw.wrapped(Element(first.low, first.high, "word_in", LANE), held.kind)),
        )),
    ))  # fmt: skip

    def load(lane: int) -> Expr:
        return Load(first.low, first.high, memory.name, row * columns + column, Const.of(lane))

    other = Element(second.low, second.high, "other", zero)
    now = [Register(held.kind.low, held.kind.high, held.name, Const.of(n)) for n in range(2)]
    draw.known = [load(0), load(1), row, column, turn, *now,
                  Register(state.kind.low, state.kind.high, state.name, zero)]  # fmt: skip
    body: list = [Read(y, "other")] if columns == 1 else []
    if columns == 1:
        draw.known.append(other)
    for number in range(pick.randint(1, 3)):
        let = Let(f"let{number}", within(draw.small(draw.expression()), -(1 << 40), 1 << 40))
        body.append(let)
        draw.known.append(let.local)
    draw.known.append(Load(-50, 199, table.name, clamp(draw.expression(2), 0, 15), zero))
    body.append(When(draw.condition(), (Update(state, zero, draw.wrapped(draw.expression(), state.kind)),)))
    body.append(Lanes(LANE, (Update(held, LANE, draw.wrapped(draw.expression(2) + LANE, held.kind)),)))
    results = [draw.expression() for _ in range(2)]
    out = Kind(min(r.low for r in results), max(r.high for r in results)).full
    last = column.equals(columns - 1)
    z = Channel("z", out, 2, turns * rows)
    body += [Put("result", Const.of(n), result) for n, result in enumerate(results)]
    body.append(When(last, (Write((z,), "result"),)))
    if columns > 1:
        body.insert(0, When(column.equals(0), (Read(y, "other"),)))
    steps = (Repeat(turn, (fill, Nest("compute", (row, column), tuple(body)))),) if turns > 1 else (
        fill, Nest("compute", (row, column), tuple(body)))  # fmt: skip
    if turns == 1:
        steps = tuple(_without_turn(step) for step in steps)

    def process(ii: int) -> Process:
        def slower(step):
            if isinstance(step, Repeat):
                return Repeat(step.counter, tuple(map(slower, step.steps)))
            return Nest(step.name, step.loops, step.body, ii if step.name == "compute" else 1)

        return Process(
            "layer", "a random layer", tuple(map(slower, steps)), (x, y), (z,), (memory, table), (held, state)
        )

    trial = process(1)
    *_, compute = trial.nests()
    from targets.hls.hardware.datapath import Loop

    loops = {c.name: Loop(c.name, c.high + 1) for c in (turn, row, column)}
    chosen = process(least_ii(datapath_of(trial, loops, compute.body)))

    def port(channel: Channel) -> Port:
        size = channel.count * channel.lanes
        return Port(channel.name, channel, (size,), np.arange(size))

    return Program("random_layer", (chosen,), (x, y, z), (port(x), port(y)), (port(z),))


def _without_turn(step: Nest) -> Nest:
    return Nest(step.name, step.loops, (Let("turn", Const.of(0)), *step.body), step.ii)


@pytest.mark.compiler
@pytest.mark.parametrize("seed", range(24))
def test_random_bodies(seed):
    program = random_program(seed)
    rng = np.random.default_rng(seed)
    images = 2
    inputs = [
        rng.integers(p.channel.kind.low, p.channel.kind.high + 1, (images, p.channel.count * p.channel.lanes))
        for p in program.inputs
    ]
    (process,) = program.processes
    queues = {p.channel.name: array.reshape(-1, p.channel.lanes).tolist()
              for p, array in zip(program.inputs, inputs, strict=True)}  # fmt: skip
    queues["z"] = []
    interpreter = Interpreter(process, queues)
    # Registers keep what they held.
    wanted = []
    for _ in range(images):
        interpreter.run(process.steps, {})
    wanted = np.array(queues["z"]).reshape(images, -1)
    designs = designs_of(program)
    run = rtl.simulate(program, inputs, designs, hesitant=seed % 2 == 1)
    np.testing.assert_array_equal(run.outputs[0], wanted)
    if seed % 2 == 0:
        assert run.ends == timing_of(program, designs, images=images).ends
