"""Conversions between element types as arithmetic on bits, which every compiler vectorises.

Expressions hold the elements of the types in `STORED` as the plain integers of their bytes. To convert from or to one
of those floats, an expression goes through float32.
"""

from __future__ import annotations

from collections.abc import Callable

from tensorc.ir.types import SMALL_FLOATS, SmallFloat, bits_of, is_float, is_integer
from tensorc.lowering.tir import (
    Expr,
    bitwise_and,
    bitwise_or,
    cast,
    compare,
    const,
    is_nan,
    logical,
    minimum,
    reinterpret,
    select,
    shift_left,
    shift_right,
)

#: Holds an expression that is used more than once (`KernelBuilder.keep`).
Keep = Callable[[Expr], Expr]

_MANTISSA = 23  #: of a float32
_BIAS = 127


def _i(value: int) -> Expr:
    return const(value, "int32")


def _f(value: float) -> Expr:
    return const(value, "float32")


def convert(keep: Keep, x: Expr, source: str, target: str, saturate: bool = True, round_mode: str = "up") -> Expr:
    """`x`, of type `source`, as a `target`; the last two say how a float8 is made (see the op table)."""
    if source == target:
        return x
    x, source = _plain(keep, x, source)
    if target == "bool":
        x = keep(x)
        held = compare("not_equal", x, const(0, source))
        return logical("or", held, is_nan(x)) if is_float(source) else held
    if is_integer(target):
        return _integer(x, source, target)
    if is_float(target) and target != "bfloat16":
        return cast(x, target)
    x = keep(cast(x, "float32"))
    if target == "bfloat16":
        return _to_bfloat16(keep, x)
    if target == "float8_e8m0fnu":
        return _to_power_of_two(keep, x, saturate, round_mode)
    return _to_small(keep, x, SMALL_FLOATS[target], saturate)


def _plain(keep: Keep, x: Expr, source: str) -> tuple[Expr, str]:
    """`x` as a type that the machine knows, which holds all of `source`'s numbers."""
    if source == "bfloat16":
        # Unsigned, or the bits of a constant -inf would not fit; through a slot, since TVM generates no code for the
        # bits of a constant 0, which padding may turn out to be.
        return reinterpret(keep(shift_left(cast(x, "uint32"), 16)), "float32"), "float32"
    if source == "float8_e8m0fnu":
        return _from_power_of_two(keep, x), "float32"
    if source in SMALL_FLOATS:
        return _from_small(keep, x, SMALL_FLOATS[source]), "float32"
    if is_integer(source) and bits_of(source) < 8:
        unused = 32 - bits_of(source)
        bits = cast(x, "int32")
        if source.startswith("uint"):
            return bitwise_and(bits, (1 << bits_of(source)) - 1), "int32"
        return shift_right(shift_left(bits, unused), unused), "int32"
    return x, source


def _integer(x: Expr, source: str, target: str) -> Expr:
    """Numbers that do not fit lose their upper bits. A machine's conversion of a float to few bits has no such promise,
    so it goes through more."""
    bits = bits_of(target)
    if is_float(source) and bits < 64:
        x = cast(x, "int64" if target == "uint32" else "int32")
    return bitwise_and(cast(x, "uint8"), (1 << bits) - 1) if bits < 8 else cast(x, target)


def _to_bfloat16(keep: Keep, x: Expr) -> Expr:
    """The upper half, rounded to nearest even; nan stays one, whatever its upper half was."""
    bits = keep(reinterpret(x, "int32"))
    magnitude = keep(bitwise_and(bits, 0x7FFFFFFF))
    odd = bitwise_and(shift_right(magnitude, 16), 1)
    rounded = shift_right(magnitude + odd + _i(0x7FFF), 16)
    code = select(compare("greater", magnitude, _i(0x7F800000)), _i(0x7FC0), rounded)
    return cast(bitwise_or(code, _sign(bits, 15)), "uint16")


def _sign(bits: Expr, position: int) -> Expr:
    """The sign of a float32's bits as a bit further down."""
    return bitwise_and(shift_right(bits, 31 - position), 1 << position)


def _to_small(keep: Keep, x: Expr, form: SmallFloat, saturate: bool) -> Expr:
    bits = keep(reinterpret(x, "int32"))
    magnitude = keep(bitwise_and(bits, 0x7FFFFFFF))
    shift = _MANTISSA - form.mantissa
    odd = bitwise_and(shift_right(magnitude, shift), 1)
    normal = shift_right(magnitude + odd + _i((1 << shift - 1) - 1), shift) - _i((_BIAS - form.bias) << form.mantissa)
    # Numbers below the format's smallest normal one: the adder rounds them when it aligns them with a large number
    # whose last place is the format's.
    smallest = _BIAS + 1 - form.bias
    aligned = keep(reinterpret(magnitude, "float32") + _f(2.0 ** (smallest + shift - _BIAS)))
    subnormal = reinterpret(aligned, "int32") - _i((smallest + shift) << _MANTISSA)
    code = keep(select(compare("less", magnitude, _i(smallest << _MANTISSA)), subnormal, normal))
    invalid = compare("greater", magnitude, _i(0x7F800000))
    sign = _sign(bits, form.bits - 1)
    if saturate or (form.infinity is None and form.nan is None and not form.unsigned_zero):
        code = keep(minimum(code, _i(form.largest)))
        beyond: Expr = False
    else:
        beyond = compare("greater", code, _i(form.largest))
    if form.unsigned_zero:
        nan = _i(1 << form.bits - 1)
        zero = compare("equal", code, _i(0))
        signed = select(zero, _i(0), bitwise_or(code, sign))
        return cast(select(logical("or", invalid, beyond), nan, signed), "uint8")
    if form.infinity is not None:
        code = select(beyond, _i(form.infinity), code)
    elif form.nan is not None:
        code = select(beyond, _i(form.nan), code)
    code = select(invalid, _i(form.nan or 0), code)
    return cast(bitwise_or(code, sign), "uint8")


def _from_small(keep: Keep, x: Expr, form: SmallFloat) -> Expr:
    bits = keep(cast(x, "int32"))
    top = form.bits - 1
    code = keep(bitwise_and(bits, (1 << top) - 1))
    shift = _MANTISSA - form.mantissa
    normal = reinterpret(shift_left(code, shift) + _i((_BIAS - form.bias) << _MANTISSA), "float32")
    step = 2.0 ** (1 - form.bias - form.mantissa)
    size = keep(select(compare("less", code, _i(1 << form.mantissa)), cast(code, "float32") * _f(step), normal))
    sign = shift_left(bitwise_and(bits, 1 << top), 31 - top)
    value = reinterpret(bitwise_or(reinterpret(size, "int32"), sign), "float32")
    if form.unsigned_zero:
        low = bitwise_and(bits, (1 << form.bits) - 1)
        return select(compare("equal", low, _i(1 << top)), _f(float("nan")), value)
    if form.nan is None:
        return value
    value = keep(value)
    invalid = compare("greater", code, _i(form.largest))
    special = _f(float("nan"))
    if form.infinity is not None:
        infinite = compare("equal", code, _i(form.infinity))
        signed = reinterpret(bitwise_or(_i(0x7F800000), sign), "float32")
        special = select(infinite, signed, special)
    return select(invalid, special, value)


def _to_power_of_two(keep: Keep, x: Expr, saturate: bool, round_mode: str) -> Expr:
    bits = keep(reinterpret(x, "int32"))
    exponent = keep(bitwise_and(shift_right(bits, _MANTISSA), 0xFF))
    fraction = keep(bitwise_and(bits, (1 << _MANTISSA) - 1))
    half = 1 << _MANTISSA - 1
    up = exponent
    if round_mode == "up":
        up = exponent + select(compare("greater", fraction, _i(0)), _i(1), _i(0))
    elif round_mode == "nearest":
        least = select(compare("greater", exponent, _i(0)), _i(half), _i(half + 1))
        up = exponent + select(compare("greater_equal", fraction, least), _i(1), _i(0))
    limit = select(compare("equal", exponent, _i(0xFF)), _i(0xFF), _i(0xFE if saturate else 0xFF))
    return cast(minimum(up, limit), "uint8")


def _from_power_of_two(keep: Keep, x: Expr) -> Expr:
    """2^(code - 127), of which the first is a subnormal float32."""
    code = keep(cast(x, "int32"))
    power = select(compare("equal", code, _i(0)), _i(1 << _MANTISSA - 1), shift_left(code, _MANTISSA))
    nan = compare("equal", code, _i(0xFF))
    return reinterpret(select(nan, _i(0x7FC00000), power), "float32")
