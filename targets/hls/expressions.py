"""Integer expressions of the scheduled program: each knows the exact interval that its values lie in.

The width of a wire, a C variable or a register follows from that interval, so no addition overflows and nothing is
wider than it has to be. Numbers are raw integers; where the binary point stands is known to those who build them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from tensorc.fixed_point import Between


@dataclass(frozen=True)
class Expr(Between):
    """An integer between `low` and `high`, both included."""

    low: int
    high: int

    def __add__(self, other: Expr | int) -> Expr:
        return _binary("add", whole(self), whole(other), lambda a, b: a + b)

    def __sub__(self, other: Expr | int) -> Expr:
        a, b = whole(self), whole(other)
        if isinstance(b, Const):
            return a + -b.value
        return Binary(a.low - b.high, a.high - b.low, "sub", a, b)

    def __mul__(self, other: Expr | int) -> Expr:
        return _binary("mul", whole(self), whole(other), lambda a, b: a * b)

    def __lt__(self, other: Expr | int) -> Expr:
        return _compare("lt", whole(self), whole(other))

    def __le__(self, other: Expr | int) -> Expr:
        return _compare("le", whole(self), whole(other))

    def __ge__(self, other: Expr | int) -> Expr:
        return _compare("le", whole(other), whole(self))

    def equals(self, other: Expr | int) -> Expr:
        return _compare("eq", whole(self), whole(other))

    def __and__(self, other: Expr) -> Expr:
        """Of conditions."""
        a, b = whole(self), whole(other)
        if a == TRUE or b == FALSE:
            return b
        if b == TRUE or a == FALSE:
            return a
        return Binary(0, 1, "and", a, b)

    def __lshift__(self, count: int) -> Expr:
        return self if count == 0 else Shift(self.low << count, self.high << count, self, count)

    def __rshift__(self, count: int) -> Expr:
        """Rounds down."""
        return self if count == 0 else Shift(self.low >> count, self.high >> count, self, -count)


@dataclass(frozen=True)
class Const(Expr):
    """A number."""

    @property
    def value(self) -> int:
        return self.low

    @classmethod
    def of(cls, value: int) -> Const:
        return cls(value, value)


@dataclass(frozen=True)
class Counter(Expr):
    """The counter of a loop around the expression; in `lane` loops it is known when hardware is made."""

    name: str
    is_lane: bool = False

    @classmethod
    def of(cls, name: str, extent: int, is_lane: bool = False) -> Counter:
        return cls(0, extent - 1, name, is_lane)


@dataclass(frozen=True)
class Local(Expr):
    """What a `Let` around it named."""

    name: str


@dataclass(frozen=True)
class Element(Expr):
    """Element `lane` of a word that was read from a channel under the name `word`."""

    word: str
    lane: Expr


@dataclass(frozen=True)
class Load(Expr):
    """Element `lane` of the word at `address` of a memory."""

    memory: str
    address: Expr
    lane: Expr


@dataclass(frozen=True)
class Register(Expr):
    """What element `lane` of a register holds now."""

    name: str
    lane: Expr


@dataclass(frozen=True)
class Binary(Expr):
    """`op` is add, sub, mul, min, max; or a condition: lt, le, eq, and."""

    op: str
    a: Expr
    b: Expr


@dataclass(frozen=True)
class Shift(Expr):
    """To the left by `count` bits; to the right, rounding down, where it is negative."""

    x: Expr
    count: int


@dataclass(frozen=True)
class ShiftBy(Expr):
    """To the right by as many bits as `count` says, rounding down."""

    x: Expr
    count: Expr


@dataclass(frozen=True)
class Select(Expr):
    """`a` where the condition holds, else `b`."""

    condition: Expr
    a: Expr
    b: Expr


@dataclass(frozen=True)
class Sum(Expr):
    """The sum of `body` over all values of a lane counter."""

    counter: Counter
    body: Expr


@dataclass(frozen=True)
class LeadingBit(Expr):
    """The number of the highest bit that is set in a number that is not negative; 0 for 0."""

    x: Expr


TRUE = Const.of(1)
FALSE = Const.of(0)


def whole(value: Expr | int) -> Expr:
    """As an expression; a number where the interval leaves no choice."""
    if isinstance(value, Expr):
        return Const.of(value.low) if value.low == value.high else value
    return Const.of(int(value))


def _corners(a: Expr, b: Expr, apply: Callable[[int, int], int]) -> tuple[int, int]:
    found = [apply(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
    return min(found), max(found)


_NEUTRAL = {"add": 0, "mul": 1}


def _binary(op: str, a: Expr, b: Expr, apply: Callable[[int, int], int]) -> Expr:
    if isinstance(a, Const) and isinstance(b, Const):
        return Const.of(apply(a.value, b.value))
    for one, other in ((a, b), (b, a)):
        if isinstance(one, Const) and one.value == _NEUTRAL.get(op):
            return other
    low, high = _corners(a, b, apply)
    return Const.of(0) if op == "mul" and low == high == 0 else Binary(low, high, op, a, b)


def smaller(a: Expr | int, b: Expr | int) -> Expr:
    a, b = whole(a), whole(b)
    if a.high <= b.low:
        return a
    return b if b.high <= a.low else Binary(min(a.low, b.low), min(a.high, b.high), "min", a, b)


def greater(a: Expr | int, b: Expr | int) -> Expr:
    a, b = whole(a), whole(b)
    if a.low >= b.high:
        return a
    return b if b.low >= a.high else Binary(max(a.low, b.low), max(a.high, b.high), "max", a, b)


def _compare(op: str, a: Expr, b: Expr) -> Expr:
    """What intervals tell already is a constant."""
    always = {"lt": a.high < b.low, "le": a.high <= b.low, "eq": a.low == a.high == b.low == b.high}[op]
    never = {"lt": a.low >= b.high, "le": a.low > b.high, "eq": a.high < b.low or b.high < a.low}[op]
    if always or never:
        return TRUE if always else FALSE
    return Binary(0, 1, op, a, b)


def select(condition: Expr, a: Expr | int, b: Expr | int) -> Expr:
    a, b = whole(a), whole(b)
    if condition == TRUE or a == b:
        return a
    return b if condition == FALSE else Select(min(a.low, b.low), max(a.high, b.high), condition, a, b)


def either(a: Expr, b: Expr) -> Expr:
    """Whether one of two conditions holds."""
    return select(a, TRUE, b)


def clamp(x: Expr, low: int, high: int) -> Expr:
    return smaller(greater(x, low), high)


def within(x: Expr, low: int, high: int) -> Expr:
    """The same number, which is known to lie in low..high, though intervals do not tell."""
    if isinstance(x, (Const, Counter)) or (x.low >= low and x.high <= high):
        return x
    return replace(x, low=max(x.low, low), high=min(x.high, high))


def round_to(x: Expr, fraction: int, wanted: int, low: int, high: int) -> Expr:
    """x, whose numbers have `fraction` bits behind the point, with `wanted` of them: half of the last one is rounded
    up, what does not fit low..high is the nearer of the two (AP_RND, AP_SAT)."""
    drop = fraction - wanted
    shifted = x << -drop if drop <= 0 else (x + (1 << (drop - 1))) >> drop
    return clamp(shifted, low, high)


def total(expressions: Sequence[Expr]) -> Expr:
    """Their sum, as a tree."""
    if not expressions:
        return Const.of(0)
    if len(expressions) == 1:
        return expressions[0]
    half = (len(expressions) + 1) // 2
    return total(expressions[:half]) + total(expressions[half:])


def replaced(x: Expr, names: Mapping[str, Expr]) -> Expr:
    """`x` with the values of `Let`s in place of their names."""
    if isinstance(x, Local) and x.name in names:
        return replaced(names[x.name], names)
    parts = {field.name: getattr(x, field.name) for field in fields(x)}
    changes = {key: replaced(part, names) for key, part in parts.items() if isinstance(part, Expr)}
    return replace(x, **changes) if changes else x  # type: ignore[arg-type]
