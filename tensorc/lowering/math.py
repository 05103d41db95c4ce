"""Transcendental functions as arithmetic on float32 that every compiler vectorises.

LLVM would call the C library once for each lane. Each function here is branch-free, total (nan in, nan out; the
right infinities) and within a few units in the last place of the true value on float32; the tests measure that
against float64. Sources: exp, log, sin and cos follow the range reductions of Cephes (Moshier); erf and tanh are
rational minimax fits on a clamped interval, in the form that Eigen and XLA use.
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
    maximum,
    minimum,
    reinterpret,
    select,
    shift_left,
    shift_right,
)


def _f(value: float) -> Expr:
    return const(value, "float32")


def _polynomial(x: Expr, coefficients: list[float]) -> Expr:
    """Horner's scheme, highest power first."""
    result = _f(coefficients[0])
    for c in coefficients[1:]:
        result = result * x + _f(c)
    return result


class Math:
    """The functions; `keep` holds intermediate results that are used twice (see `KernelBuilder.keep`)."""

    def __init__(self, keep: Callable[[Expr], Expr]):
        self._keep = keep

    def exp(self, x: Expr) -> Expr:
        # x = n ln2 + r with |r| <= ln2/2; e^x = 2^n e^r, 2^n by writing the exponent field.
        # Clamped so that n stays within the exponent: below -87.3 the result is the smallest normal, then 0.
        x = self._keep(x)
        clamped = self._keep(maximum(minimum(x, _f(88.72283)), _f(-87.33654)))
        n = self._keep(intrinsic("floor", clamped * _f(math.log2(math.e)) + _f(0.5)))
        r = self._keep(clamped - n * _f(0.693359375) - n * _f(-2.12194440e-4))
        tail = _polynomial(r, [1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2,
                               1.6666665459e-1, 5.0000001201e-1])  # fmt: skip
        power = r * r * tail + r + _f(1.0)
        # Two factors of 2^(n/2): n = 128 itself would not fit the field.
        half = self._keep(shift_right(cast(n, "int32"), 1))
        rest = cast(n, "int32") - half
        scaled = power * self._two_to(half) * self._two_to(rest)
        finite = select(compare("greater", x, _f(88.72283)), _f(math.inf), scaled)
        return select(is_nan(x), x, select(compare("less", x, _f(-87.33654)), _f(0.0), finite))

    @staticmethod
    def _two_to(n: Expr) -> Expr:
        return reinterpret(shift_left(n + const(127, "int32"), 23), "float32")

    def log(self, x: Expr) -> Expr:
        # x = m 2^e with m in [sqrt(1/2), sqrt 2); log x = e ln2 + log m. Subnormals count as zero.
        x = self._keep(x)
        bits = self._keep(reinterpret(x, "int32"))
        raw = self._keep(reinterpret(bitwise_or(bitwise_and(bits, 0x007FFFFF), 0x3F000000), "float32"))
        small = compare("less", raw, _f(0.70710678118))
        exponent = cast(shift_right(bits, 23) - const(126, "int32"), "float32")
        e = self._keep(exponent - select(small, _f(1.0), _f(0.0)))
        m = self._keep(raw + select(small, raw, _f(0.0)) - _f(1.0))
        z = self._keep(m * m)
        tail = _polynomial(m, [7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
                               -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1])  # fmt: skip
        value = m + (m * z * tail + e * _f(-2.12194440e-4) - _f(0.5) * z) + e * _f(0.693359375)
        value = select(compare("equal", x, _f(math.inf)), x, value)
        value = select(compare("less", x, _f(1.17549435e-38)), _f(-math.inf), value)
        return select(compare("less", x, _f(0.0)), _f(math.nan), select(is_nan(x), x, value))

    def tanh(self, x: Expr) -> Expr:
        x = self._keep(x)
        c = self._keep(maximum(minimum(x, _f(7.90531110763549805)), _f(-7.90531110763549805)))
        s = self._keep(c * c)
        top = c * _polynomial(s, [-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11,
                                  5.12229709037114e-08, 1.48572235717979e-05, 6.37261928875436e-04,
                                  4.89352455891786e-03])  # fmt: skip
        bottom = _polynomial(
            s, [1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03]
        )
        small = compare("less", intrinsic("abs", x), _f(0.0004))
        return select(small, x, select(is_nan(x), x, top / bottom))

    def erf(self, x: Expr) -> Expr:
        x = self._keep(x)
        c = self._keep(maximum(minimum(x, _f(4.0)), _f(-4.0)))
        s = self._keep(c * c)
        top = c * _polynomial(s, [-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06,
                                  -5.69250639462346e-05, -7.34990630326855e-04, -2.95459980854025e-03,
                                  -1.60960333262415e-02])  # fmt: skip
        bottom = _polynomial(s, [-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03,
                                 -7.37332916720468e-03, -1.42647390514189e-02])  # fmt: skip
        return select(is_nan(x), x, top / bottom)

    def sigmoid(self, x: Expr) -> Expr:
        # 1 / (1 + e^-x): exp overflows to infinity for very negative x, and the quotient is then 0, as it should be.
        return _f(1.0) / (_f(1.0) + self.exp(_f(0.0) - x))

    def _sincos(self, x: Expr, quarter_turns: int) -> Expr:
        # Cody and Waite's reduction to [-pi/4, pi/4] in three parts of pi/2; good for |x| up to some thousands.
        x = self._keep(x)
        n = self._keep(intrinsic("floor", x * _f(2 / math.pi) + _f(0.5)))
        r = self._keep(x - n * _f(1.5703125) - n * _f(4.837512969970703125e-4) - n * _f(7.549789948768648e-8))
        quadrant = self._keep(cast(n, "int32") + const(quarter_turns, "int32"))
        s = self._keep(r * r)
        sine = r + r * s * _polynomial(s, [-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1])
        cosine = s * s * _polynomial(s, [2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2])
        cosine = cosine - _f(0.5) * s + _f(1.0)
        odd = compare("equal", bitwise_and(quadrant, 1), const(1, "int32"))
        negative = compare("equal", bitwise_and(quadrant, 2), const(2, "int32"))
        value = self._keep(select(odd, cosine, sine))
        return select(negative, _f(0.0) - value, value)

    def sin(self, x: Expr) -> Expr:
        return self._sincos(x, 0)

    def cos(self, x: Expr) -> Expr:
        return self._sincos(x, 1)

    def pow(self, x: Expr, y: Expr) -> Expr:
        """|x|^y with the sign that an integral odd y gives; nan for a negative x and a y that is not integral."""
        x, y = self._keep(x), self._keep(y)
        magnitude = self.exp(y * self.log(intrinsic("abs", x)))
        whole = compare("equal", intrinsic("floor", y), y)
        half = self._keep(y * _f(0.5))
        odd = compare("less", intrinsic("floor", half), half)
        signed = select(odd, _f(0.0) - magnitude, magnitude)
        negative = select(whole, signed, _f(math.nan))
        value = select(compare("less", x, _f(0.0)), negative, magnitude)
        return select(compare("equal", y, _f(0.0)), _f(1.0), value)

    def in_float32(self, function: str, *arguments: Expr) -> Expr:
        """Apply by name, computing in float32 and giving back the argument's type."""
        dtype = dtype_of(arguments[0])
        return cast(getattr(self, function)(*(cast(a, "float32") for a in arguments)), dtype)
