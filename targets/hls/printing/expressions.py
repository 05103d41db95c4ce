"""Expressions and statements in C's syntax; a dialect says what types are called and how channels are used."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

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
    Lanes,
    Let,
    Memory,
    Nest,
    Process,
    Put,
    Read,
    Repeat,
    State,
    Statement,
    Step,
    Store,
    Update,
    When,
    Write,
)

_SIGNS = {"add": "+", "sub": "-", "mul": "*", "lt": "<", "le": "<=", "eq": "==", "and": "&&"}


class Dialect(abc.ABC):
    """What differs between languages that look like C."""

    #: Whether operators widen by themselves; else operands are widened to the result's type first.
    grows: bool

    @abc.abstractmethod
    def type(self, low: int, high: int) -> str:
        """Of a variable that holds all of low..high."""

    @abc.abstractmethod
    def read(self, channel: Channel, word: str) -> str:
        """A statement that takes a word and names it."""

    @abc.abstractmethod
    def begin(self, channel: Channel, word: str) -> str:
        """A statement that makes a word to be filled."""

    @abc.abstractmethod
    def write(self, channel: Channel, word: str) -> str:
        """A statement that gives one."""

    @abc.abstractmethod
    def element(self, word: str, lane: str) -> str:
        """An element of a word."""

    @abc.abstractmethod
    def extreme(self, name: str, low: int, high: int, a: str, b: str) -> str:
        """The `smaller` or the `greater` of two numbers of low..high."""

    def convert(self, low: int, high: int, text: str) -> str:
        return f"{self.type(low, high)}({text})"

    def shifted_left(self, x: Expr, text: str, count: int) -> str:
        """`text`, by `count` bits, as x."""
        return f"{self.convert(x.low, x.high, text)} << {count}"

    def unroll(self) -> list[str]:
        """Lines at the start of the body of a loop over lanes."""
        return []

    def pipeline(self, ii: int) -> list[str]:  # noqa: ARG002  (a dialect may have no use for it)
        """Lines at the start of the body of a pipelined loop."""
        return []

    def iteration(self, nest: Nest, printer: Printer) -> None:  # noqa: B027  (most have nothing to say)
        """Prints what comes before the statements of an iteration."""


class Printer:
    """Lines of code, indented as they nest."""

    def __init__(self, dialect: Dialect, process: Process | None = None):
        self.dialect = dialect
        #: Memories and registers of one lane have no index for it.
        held: list[Memory | State] = [*process.memories, *process.registers] if process is not None else []
        self.scalars = {one.name for one in held if one.lanes == 1}
        self.lines: list[str] = []
        self.depth = 0
        self.sums = 0

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text if text and not text.startswith("#") else text)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        self.line(f"{head} {{" if head else "{")
        self.depth += 1
        yield
        self.depth -= 1
        self.line("}")

    # Steps ----------------------------------------------------------------------------------------------

    def steps(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if isinstance(step, Repeat):
                with self._loop(step.counter):
                    self.steps(step.steps)
            else:
                self._nest(step)

    def _loop(self, counter: Counter) -> AbstractContextManager[None]:
        name = counter.name
        return self.block(f"for (int {name} = 0; {name} < {counter.high + 1}; {name}++)")

    def _nest(self, nest: Nest) -> None:
        def open_loop(number: int) -> None:
            if number == len(nest.loops):
                for pragma in self.dialect.pipeline(nest.ii):
                    self.line(pragma)
                self.dialect.iteration(nest, self)
                self._words(nest.body)
                self.statements(nest.body)
                return
            with self._loop(nest.loops[number]):
                open_loop(number + 1)

        self.line(f"// {nest.name}")
        open_loop(0)

    def _words(self, body: Sequence[Statement]) -> None:
        """Words that are put together in an iteration are there from its start."""
        for word, channel in words_written(body).items():
            self.line(self.dialect.begin(channel, word))

    # Statements -----------------------------------------------------------------------------------------

    def statements(self, statements: Sequence[Statement]) -> None:
        for statement in statements:
            self._statement(statement)

    def _statement(self, statement: Statement) -> None:
        match statement:
            case Let(value=value) if value.low == value.high:
                pass  # its readers have the number
            case Let(name, value):
                self.line(f"const {self._type(value)} {name} = {self.top(value)};")
            case Read(channel, word):
                self.line(self.dialect.read(channel, word))
            case Put(word, lane, value):
                self._assign(self.dialect.element(word, self.top(lane)), value)
            case Write(channels, word):
                for channel in channels:
                    self.line(self.dialect.write(channel, word))
            case Store(memory, address, lane, value):
                self._assign(f"{memory.name}[{self.top(address)}]{self._lane(memory.name, lane)}", value)
            case Update(register, lane, value):
                self._assign(f"{register.name}{self._lane(register.name, lane)}", value)
            case When(condition, body):
                with self.block(f"if ({self.top(condition)})"):
                    self.statements(body)
            case Lanes(counter, body):
                if counter.high == 0:  # its readers have the number
                    self.statements(body)
                else:
                    with self._loop(counter):
                        for pragma in self.dialect.unroll():
                            self.line(pragma)
                        self.statements(body)

    def _assign(self, target: str, value: Expr) -> None:
        self.line(f"{target} = {self.top(value)};")

    # Expressions ----------------------------------------------------------------------------------------

    def _type(self, x: Expr) -> str:
        return self.dialect.type(x.low, x.high)

    def _lane(self, name: str, lane: Expr) -> str:
        return "" if name in self.scalars else f"[{self.top(lane)}]"

    def top(self, x: Expr) -> str:
        """Where nothing around it could bind more tightly."""
        text = self.expression(x)
        return text[1:-1] if isinstance(x, (Binary, Shift, ShiftBy, Select)) and text.startswith("(") else text

    def expression(self, x: Expr) -> str:
        match x:
            case Const():
                return _literal(x.value)
            case Counter() if x.low == x.high:
                return _literal(x.low)
            case Counter() | Local():
                return x.name
            case Element():
                return self.dialect.element(x.word, self.top(x.lane))
            case Load():
                return f"{x.memory}[{self.top(x.address)}]{self._lane(x.memory, x.lane)}"
            case Register():
                return f"{x.name}{self._lane(x.name, x.lane)}"
            case Binary(op=op) if op in ("min", "max"):
                name = "smaller" if op == "min" else "greater"
                low, high = min(x.a.low, x.b.low), max(x.a.high, x.b.high)
                return self.dialect.extreme(name, low, high, self.top(x.a), self.top(x.b))
            case Binary():
                return self._binary(x)
            case Shift(count=count):
                if count < 0:
                    return f"({self.expression(x.x)} >> {-count})"
                return f"({self.dialect.shifted_left(x, self.top(x.x), count)})"
            case ShiftBy():
                return f"({self.expression(x.x)} >> {self.expression(x.count)})"
            case Select():
                a, b = (self.dialect.convert(x.low, x.high, self.top(one)) for one in (x.a, x.b))
                return f"({self.expression(x.condition)} ? {a} : {b})"
            case Sum():
                return self._sum(x)
            case LeadingBit():
                return f"leading_bit({self.top(x.x)})"
        raise TypeError(f"no text for {x}")

    def _binary(self, x: Binary) -> str:
        if x.op == "and":
            return f"({' && '.join(map(self.expression, _terms(x)))})"
        if x.op == "add" and isinstance(x.b, Const) and x.b.value < 0:
            x = Binary(x.low, x.high, "sub", x.a, Const.of(-x.b.value))
        a, b = self.expression(x.a), self.expression(x.b)
        if x.op in ("add", "sub", "mul") and not self.dialect.grows:
            a, b = (self._widened(x, one, text) for one, text in ((x.a, a), (x.b, b)))
        return f"({a} {_SIGNS[x.op]} {b})"

    def _widened(self, x: Expr, operand: Expr, text: str) -> str:
        """An operand, of the result's type where that is wider than its own."""
        arithmetic = isinstance(operand, (Binary, Const, Counter, Local, Register, Shift, Sum))
        same = self._type(operand) == self._type(x)
        return text if arithmetic and same else self.dialect.convert(x.low, x.high, text)

    def _sum(self, x: Sum) -> str:
        """Sums get a variable and a loop in front of the statement that reads them."""
        self.sums += 1
        name = f"sum{self.sums}"
        self.line(f"{self._type(x)} {name} = 0;")
        with self._loop(x.counter):
            for pragma in self.dialect.unroll():
                self.line(pragma)
            self.line(f"{name} += {self.top(x.body)};")
        return name


def _terms(x: Expr) -> list[Expr]:
    """Of conditions that hold together."""
    return [*_terms(x.a), *_terms(x.b)] if isinstance(x, Binary) and x.op == "and" else [x]


def _literal(value: int) -> str:
    return str(value) if -(1 << 31) < value < 1 << 31 else f"{value}LL"


def words_written(body: Sequence[Statement]) -> dict[str, Channel]:
    """The words that statements write, and a channel that each is for."""
    found: dict[str, Channel] = {}
    for statement in body:
        if isinstance(statement, Write):
            found[statement.word] = statement.channels[0]
        elif isinstance(statement, (When, Lanes)):
            found |= words_written(statement.body)
    return found
