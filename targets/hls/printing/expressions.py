"""Expressions and statements in C's syntax; a dialect says what types are called and how channels are used."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

from targets.hls.expressions import (
    TRUE,
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

#: How tightly texts bind: whatever binds less tightly than what is around it stands in parentheses.
_CHOICE, _OR, _AND, _COMPARISON, _SHIFT, _SUM, _PRODUCT, _SIGNED, _WHOLE = range(9)
_SIGNS = {
    "add": ("+", _SUM), "sub": ("-", _SUM), "mul": ("*", _PRODUCT),
    "lt": ("<", _COMPARISON), "le": ("<=", _COMPARISON), "eq": ("==", _COMPARISON),
}  # fmt: skip


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
    def begin(self, holder: Channel | Memory, word: str) -> str:
        """A statement that makes a word to be filled, of those that a channel or a memory holds."""

    @abc.abstractmethod
    def write(self, channel: Channel, word: str) -> str:
        """A statement that gives one."""

    @abc.abstractmethod
    def element(self, word: str, lane: str) -> str:
        """An element of a word."""

    @abc.abstractmethod
    def extreme(self, name: str, low: int, high: int, a: str, b: str) -> str:
        """The `smaller` or the `greater` of two numbers of low..high."""

    def fetch(self, memory: Memory, address: str, word: str) -> str:  # noqa: ARG002
        """A statement that names a word of a memory outside the chip. Raises TypeError where there are no chips."""
        raise TypeError(f"{memory.name} lies outside a chip, of which this language knows nothing")

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
        #: Memories whose numbers become the dialect's where they are loaded.
        self.converted: set[str] = set()
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
            if isinstance(step, Repeat) and step.counter.high == 0:
                self.steps(step.steps)
            elif isinstance(step, Repeat):
                self._apart()
                with self._loop(step.counter):
                    self.steps(step.steps)
            else:
                self._nest(step)

    def _loop(self, counter: Counter) -> AbstractContextManager[None]:
        name = counter.name
        return self.block(f"for (int {name} = 0; {name} < {counter.high + 1}; {name}++)")

    def _apart(self) -> None:
        """An empty line, but for the first of a block."""
        if self.lines and not self.lines[-1].endswith("{"):
            self.line("")

    def _nest(self, nest: Nest) -> None:
        self._apart()
        pace = f", one every {nest.ii} cycles" if nest.ii > 1 else ""
        self.line(f"// {nest.name}" + (f": {nest.trip} iterations{pace}" if nest.trip > 1 else ""))
        loops = [counter for counter in nest.loops if counter.high]
        with ExitStack() as stack:
            for counter in loops:
                stack.enter_context(self._loop(counter))
            if loops:
                for pragma in self.dialect.pipeline(nest.ii):
                    self.line(pragma)
            elif any(isinstance(statement, (Let, Read, Fetch, Lanes)) for statement in nest.body):
                stack.enter_context(self.block(""))
            self.dialect.iteration(nest, self)
            self._words(nest.body)
            self.statements(nest.body)

    def _words(self, body: Sequence[Statement]) -> None:
        """Words that are put together in an iteration are there from its start."""
        for word, holder in words_written(body).items():
            self.line(self.dialect.begin(holder, word))

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
            case Fetch(memory, address, word):
                self.line(self.dialect.fetch(memory, self.top(address), word))
            case Deposit(memory, address, word):
                self.line(f"{memory.name}[{self.top(address)}] = {word};")
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
        return self._text(x)[0]

    def _within(self, x: Expr, least: int) -> str:
        """As an operand of what binds so tightly."""
        text, binds = self._text(x)
        return f"({text})" if binds < least else text

    def _text(self, x: Expr) -> tuple[str, int]:
        """And how tightly it binds."""
        match x:
            case Const():
                return _literal(x.value), _WHOLE if x.value >= 0 else _SIGNED
            case Counter() if x.low == x.high:
                return _literal(x.low), _WHOLE
            case Counter() | Local():
                return x.name, _WHOLE
            case Element():
                return self.dialect.element(x.word, self.top(x.lane)), _WHOLE
            case Load():
                text = f"{x.memory}[{self.top(x.address)}]{self._lane(x.memory, x.lane)}"
                return self.dialect.convert(x.low, x.high, text) if x.memory in self.converted else text, _WHOLE
            case Register():
                return f"{x.name}{self._lane(x.name, x.lane)}", _WHOLE
            case Binary(op=op) if op in ("min", "max"):
                name = "smaller" if op == "min" else "greater"
                low, high = min(x.a.low, x.b.low), max(x.a.high, x.b.high)
                return self.dialect.extreme(name, low, high, self.top(x.a), self.top(x.b)), _WHOLE
            case Binary(op="and"):
                return " && ".join(self._within(term, _COMPARISON) for term in _terms(x)), _AND
            case Binary():
                return self._binary(x)
            case Shift(count=count):
                if count < 0:
                    return f"{self._within(x.x, _SIGNED)} >> {-count}", _SHIFT
                return self.dialect.shifted_left(x, self.top(x.x), count), _SHIFT
            case ShiftBy():
                return f"{self._within(x.x, _SIGNED)} >> {self._within(x.count, _SIGNED)}", _SHIFT
            case Select() if x.a == TRUE and (x.low, x.high) == (0, 1):
                return f"{self._within(x.condition, _COMPARISON)} || {self._within(x.b, _COMPARISON)}", _OR
            case Select():
                a, b = (self.dialect.convert(x.low, x.high, self.top(one)) for one in (x.a, x.b))
                return f"{self._within(x.condition, _AND)} ? {a} : {b}", _CHOICE
            case Sum():
                return self._sum(x), _WHOLE
            case LeadingBit():
                return f"leading_bit({self.top(x.x)})", _WHOLE
        raise TypeError(f"no text for {x}")

    def _binary(self, x: Binary) -> tuple[str, int]:
        if x.op == "add" and isinstance(x.b, Const) and x.b.value < 0:
            x = Binary(x.low, x.high, "sub", x.a, Const.of(-x.b.value))
        sign, binds = _SIGNS[x.op]
        # In the order of the tree: another one could leave a type's range in between.
        a, b = (self._operand(x, one, least) for one, least in ((x.a, binds), (x.b, binds + 1)))
        return f"{a} {sign} {b}", binds

    def _operand(self, x: Binary, operand: Expr, least: int) -> str:
        """Of the result's type where that is wider than its own, and operators do not widen by themselves."""
        if self.dialect.grows or x.op not in ("add", "sub", "mul"):
            return self._within(operand, least)
        arithmetic = isinstance(operand, (Binary, Const, Counter, Local, Register, Shift, Sum))
        if arithmetic and self._type(operand) == self._type(x):
            return self._within(operand, least)
        return self.dialect.convert(x.low, x.high, self.top(operand))

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


def words_written(body: Sequence[Statement]) -> dict[str, Channel | Memory]:
    """The words that statements write, and a channel or a memory that each is for."""
    found: dict[str, Channel | Memory] = {}
    for statement in body:
        if isinstance(statement, Write):
            found[statement.word] = statement.channels[0]
        elif isinstance(statement, Deposit):
            found[statement.word] = statement.memory
        elif isinstance(statement, (When, Lanes)):
            found |= words_written(statement.body)
    return found
