"""Transcendental functions as arithmetic on float32 that every compiler vectorises.

LLVM would call the C library once for each lane. Each function here is branch-free and total: nan in, nan out; the
right infinities. The largest errors, in units in the last place of the true value (`pytest tests/lowering/test_math.py`
asserts them, with fused multiply-adds and without; measured 2026-11-21 on x86-64-v4 and x86-64-v2):

| function | error | where |
|---|---|---|
| exp | 1.0 | results below the smallest normal number are 0: subnormal arithmetic is slow, and masks are full of them |
| expm1 | 0.9 | x <= 0, which is all that is asked |
| log | 0.8 | subnormals included |
| log1p | 2.3 | 0 <= x <= 1 |
| tanh | 2.5 | |
| sigmoid | 2.4 | x >= -87.3; 0 below -88.8 |
| erf | 5.5 | 7.5 without fused multiply-adds |
| sin, cos | 1.5 | up to 1.6e6; an absolute error of 1.5e-7 beyond |
| pow | 0.501 | computed in float64 |

Sources: exp, log, sin and cos follow the range reductions of Cephes (Moshier); erf is a rational minimax fit on a
clamped interval, in the form that Eigen and XLA use.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tensorc.lowering.tir import (
    Expr,
    bitwise_and,
    bitwise_or,
    cast,
    compare,
    const,
    dtype_of,
    intrinsic,
    is_nan,
    logical,
    maximum,
    minimum,
    reinterpret,
    select,
    shift_left,
    shift_right,
)


def _f(value: float) -> Expr:
    return const(value, "float32")


def _d(value: float) -> Expr:
    return const(value, "float64")


def _polynomial(x: Expr, coefficients: list[float], dtype: str = "float32") -> Expr:
    """Horner's scheme, highest power first."""
    result = const(coefficients[0], dtype)
    for c in coefficients[1:]:
        result = result * x + const(c, dtype)
    return result


#: 2/pi in pieces of 27 bits: with the 24 of a float32 the products fit float64, and all of them see its last bit.
_TWO_OVER_PI = [
    (0x145F306DC9C882A53F84EAFA3EA69BB81B6C52B327887208 >> (162 - 27 * k) & (1 << 27) - 1) * 2.0 ** (-27 * (k + 1))
    for k in range(7)
]


class Math:
    """The functions; `keep` holds intermediate results that are used twice (see `KernelBuilder.keep`)."""

    def __init__(self, keep: Callable[[Expr], Expr]):
        self._keep = keep

    def exp(self, x: Expr) -> Expr:
        # Clamped so that n stays within the exponent: below -87.3 the result is the smallest normal, then 0.
        x = self._keep(x)
        n, tail = self._exp_parts(maximum(minimum(x, _f(88.72283)), _f(-87.33654)))
        # Two factors of 2^(n/2): n = 128 itself would not fit the field.
        half = self._keep(shift_right(n, 1))
        scaled = (tail + _f(1.0)) * self._two_to(half) * self._two_to(n - half)
        finite = select(compare("greater", x, _f(88.72283)), _f(math.inf), scaled)
        return select(is_nan(x), x, select(compare("less", x, _f(-87.33654)), _f(0.0), finite))

    def expm1(self, x: Expr) -> Expr:
        """e^x - 1 for x <= 0, exact near 0 too."""
        x = self._keep(x)
        n, tail = self._exp_parts(maximum(x, _f(-20.0)))
        power = self._keep(self._two_to(n))
        return select(is_nan(x), x, power * tail + (power - _f(1.0)))

    def _exp_parts(self, x: Expr) -> tuple[Expr, Expr]:
        """(n, e^r - 1): x = n ln2 + r with |r| <= ln2/2, so that e^x = 2^n e^r."""
        x = self._keep(x)
        n = self._keep(intrinsic("floor", x * _f(math.log2(math.e)) + _f(0.5)))
        r = self._keep(x - n * _f(0.693359375) - n * _f(-2.12194440e-4))
        tail = _polynomial(r, [1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2,
                               1.6666665459e-1, 5.0000001201e-1])  # fmt: skip
        return self._keep(cast(n, "int32")), self._keep(r * r * tail + r)

    @staticmethod
    def _two_to(n: Expr) -> Expr:
        return reinterpret(shift_left(n + const(127, "int32"), 23), "float32")

    def log(self, x: Expr) -> Expr:
        # x = m 2^e with m in [sqrt(1/2), sqrt 2); log x = e ln2 + log m. Subnormals are made normal first.
        x = self._keep(x)
        subnormal = compare("less", x, _f(1.17549435e-38))
        bits = self._keep(reinterpret(select(subnormal, x * _f(2.0**23), x), "int32"))
        raw = self._keep(reinterpret(bitwise_or(bitwise_and(bits, 0x007FFFFF), 0x3F000000), "float32"))
        small = compare("less", raw, _f(0.70710678118))
        bias = select(subnormal, const(126 + 23, "int32"), const(126, "int32"))
        exponent = cast(shift_right(bits, 23) - bias, "float32")
        e = self._keep(exponent - select(small, _f(1.0), _f(0.0)))
        m = self._keep(raw + select(small, raw, _f(0.0)) - _f(1.0))
        z = self._keep(m * m)
        tail = _polynomial(m, [7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
                               -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1])  # fmt: skip
        value = m + (m * z * tail + e * _f(-2.12194440e-4) - _f(0.5) * z) + e * _f(0.693359375)
        value = select(compare("equal", x, _f(math.inf)), x, value)
        value = select(compare("equal", x, _f(0.0)), _f(-math.inf), value)
        return select(compare("less", x, _f(0.0)), _f(math.nan), select(is_nan(x), x, value))

    def log1p(self, x: Expr) -> Expr:
        """log(1 + x) for 0 <= x <= 1: the rounding of 1 + x is undone by a factor (Kahan)."""
        x = self._keep(x)
        one_more = self._keep(x + _f(1.0))
        exact = compare("equal", one_more, _f(1.0))
        rounded = select(exact, _f(1.0), one_more - _f(1.0))
        return select(exact, x, self.log(one_more) * (x / rounded))

    def tanh(self, x: Expr) -> Expr:
        """-t / (t + 2) with t = e^(-2|x|) - 1, and the sign of x."""
        x = self._keep(x)
        t = self._keep(self.expm1(_f(-2.0) * intrinsic("abs", x)))
        return self.with_sign_of(x, t / (t + _f(2.0)))

    @staticmethod
    def with_sign_of(x: Expr, value: Expr) -> Expr:
        sign = bitwise_and(reinterpret(x, "int32"), -0x80000000)
        return reinterpret(bitwise_or(bitwise_and(reinterpret(value, "int32"), 0x7FFFFFFF), sign), "float32")

    def erf(self, x: Expr) -> Expr:
        x = self._keep(x)
        c = self._keep(maximum(minimum(x, _f(4.0)), _f(-4.0)))
        s = self._keep(c * c)
        top = c * _polynomial(s, [-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06,
                                  -5.69250639462346e-05, -7.34990630326855e-04, -2.95459980854025e-03,
                                  -1.60960333262415e-02])  # fmt: skip
        bottom = _polynomial(s, [-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03,
                                 -7.37332916720468e-03, -1.42647390514189e-02])  # fmt: skip
        return select(is_nan(x), x, maximum(minimum(top / bottom, _f(1.0)), _f(-1.0)))

    def sigmoid(self, x: Expr) -> Expr:
        # 1 / (1 + e^-x): exp overflows to infinity for very negative x, and the quotient is then 0, as it should be.
        return _f(1.0) / (_f(1.0) + self.exp(_f(0.0) - x))

    def _sincos(self, x: Expr, quarter_turns: int) -> Expr:
        x = self._keep(x)
        turned, r = self.quarter_turns(x)
        r = self._keep(cast(r, "float32"))
        quadrant = self._keep(turned + const(quarter_turns, "int32"))
        s = self._keep(r * r)
        sine = r + r * s * _polynomial(s, [-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1])
        cosine = s * s * _polynomial(s, [2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2])
        cosine = cosine - _f(0.5) * s + _f(1.0)
        odd = compare("equal", bitwise_and(quadrant, 1), const(1, "int32"))
        negative = compare("equal", bitwise_and(quadrant, 2), const(2, "int32"))
        value = self._keep(select(odd, cosine, sine))
        value = select(negative, _f(0.0) - value, value)
        return select(compare("less", intrinsic("abs", x), _f(math.inf)), value, _f(math.nan))

    def quarter_turns(self, x: Expr) -> tuple[Expr, Expr]:
        """How often a quarter turn goes into the angle x, an int32 that may be off by multiples of 4, and the float64
        in [-pi/4, pi/4] that is left. Both are 0 for infinities and nan."""
        size = self._keep(intrinsic("abs", x))
        small = self._keep(compare("less", size, _f(2.0**30)))
        # Cody and Waite's reduction, with pi/2 in two parts, the first so short that its multiples are exact.
        near = self._keep(cast(select(small, x, _f(0.0)), "float64"))
        n = self._keep(intrinsic("floor", near * _d(2 / math.pi) + _d(0.5)))
        rest = near - n * _d(1.57079632673412561417e00) - n * _d(6.07710050650619224932e-11)
        # Payne and Hanek's: products with pieces of 2/pi are exact, and so is what is left of each modulo 4.
        finite = compare("less", size, _f(math.inf))
        far = self._keep(cast(select(logical("and", finite, compare("greater_equal", size, _f(2.0**30))), x, _f(0.0)),
                              "float64"))  # fmt: skip
        turns = _d(0.0)
        for piece in _TWO_OVER_PI:
            product = self._keep(far * _d(piece))
            turns = self._keep(turns + (product - _d(4.0) * intrinsic("floor", product * _d(0.25))))
        m = self._keep(intrinsic("floor", turns + _d(0.5)))
        turned = cast(self._keep(select(small, n, m)), "int32")
        return turned, self._keep(select(small, rest, (turns - m) * _d(math.pi / 2)))

    def sin(self, x: Expr) -> Expr:
        return self._sincos(x, 0)

    def cos(self, x: Expr) -> Expr:
        return self._sincos(x, 1)

    def pow(self, x: Expr, y: Expr) -> Expr:
        """As C has it. In float64 inside: an error of the logarithm counts y log x times in the result."""
        x, y = self._keep(x), self._keep(y)
        size = self._keep(intrinsic("abs", x))
        power = self._keep(cast(self.exp64(cast(y, "float64") * self.log64(cast(size, "float64"))), "float32"))
        magnitude = select(compare("equal", size, _f(1.0)), _f(1.0), power)
        whole = compare("equal", intrinsic("floor", y), y)
        half = self._keep(y * _f(0.5))
        odd = logical("and", whole, compare("less", intrinsic("floor", half), half))
        value = self._keep(select(odd, self.with_sign_of(x, magnitude), magnitude))
        # Only finite negative bases need a whole exponent.
        rooted = logical("and", compare("less", x, _f(0.0)), compare("less", size, _f(math.inf)))
        impossible = logical("and", rooted, compare("less", intrinsic("floor", y), y))
        value = select(logical("or", impossible, logical("or", is_nan(x), is_nan(y))), _f(math.nan), value)
        return select(logical("or", compare("equal", y, _f(0.0)), compare("equal", x, _f(1.0))), _f(1.0), value)

    def log64(self, x: Expr) -> Expr:
        """The logarithm of a float64, 0 or normal, to some 40 bits: 2 artanh((m - 1) / (m + 1)) + e ln2."""
        x = self._keep(x)
        bits = self._keep(reinterpret(x, "int64"))
        raw = self._keep(reinterpret(bitwise_or(bitwise_and(bits, (1 << 52) - 1), 1023 << 52), "float64"))
        large = compare("greater", raw, _d(math.sqrt(2)))
        m = self._keep(select(large, raw * _d(0.5), raw))
        exponent = shift_right(bits, 52) - select(large, const(1022, "int64"), const(1023, "int64"))
        s = self._keep((m - _d(1.0)) / (m + _d(1.0)))
        square = self._keep(s * s)
        series = _polynomial(square, [2 / k for k in (13, 11, 9, 7, 5, 3, 1)], "float64")
        value = s * series + cast(cast(exponent, "int32"), "float64") * _d(math.log(2))
        value = select(compare("equal", x, _d(0.0)), _d(-math.inf), value)
        return select(compare("equal", x, _d(math.inf)), _d(math.inf), value)

    def exp64(self, x: Expr) -> Expr:
        """e^x of a float64 to some 40 bits; that of 200 or -200 beyond them, where float32 has infinity or 0."""
        x = self._keep(maximum(minimum(x, _d(200.0)), _d(-200.0)))
        n = self._keep(intrinsic("floor", x * _d(math.log2(math.e)) + _d(0.5)))
        r = self._keep(x - n * _d(math.log(2)))
        series = _polynomial(r, [1 / math.factorial(k) for k in range(10, -1, -1)], "float64")
        power = shift_left(cast(cast(n, "int32"), "int64") + const(1023, "int64"), 52)
        return series * reinterpret(power, "float64")

    def in_float32(self, function: str, *arguments: Expr) -> Expr:
        """Apply by name, computing in float32 and giving back the argument's type."""
        dtype = dtype_of(arguments[0])
        return cast(getattr(self, function)(*(cast(a, "float32") for a in arguments)), dtype)
