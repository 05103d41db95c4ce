"""The tangent, the hyperbolic functions and all inverses of them, of float32.

They are computed in float64 and rounded once: half a unit in the last place, and a little (0.51 at most,
`pytest tests/lowering/test_trigonometry.py`), where they are few enough in models that this costs nothing that counts.
Branch-free and total as those of `tensorc.lowering.math`. The tangent is that of sin and cos there, of an angle
that is reduced as theirs is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tensorc.lowering.math import Math
from tensorc.lowering.tir import (
    Expr,
    bitwise_and,
    cast,
    compare,
    const,
    intrinsic,
    is_nan,
    select,
)


def _d(value: float) -> Expr:
    return const(value, "float64")


def _polynomial(x: Expr, coefficients: list[float]) -> Expr:
    """Horner's scheme, lowest power first."""
    result = _d(coefficients[-1])
    for c in coefficients[-2::-1]:
        result = result * x + _d(c)
    return result


class Trigonometry:
    """The functions, by the names that operators have in the IR; `keep` as `Math` has it."""

    def __init__(self, keep: Callable[[Expr], Expr]):
        self._keep = keep
        self._math = Math(keep)

    def tan(self, x: Expr) -> Expr:
        x = self._keep(x)
        turned, r = self._math.quarter_turns(x)
        s = self._keep(r * r)
        sine = self._keep(r * _polynomial(s, [(-1) ** k / math.factorial(2 * k + 1) for k in range(7)]))
        cosine = self._keep(_polynomial(s, [(-1) ** k / math.factorial(2 * k) for k in range(8)]))
        odd = compare("equal", bitwise_and(turned, 1), const(1, "int32"))
        over, under = self._keep(select(odd, cosine, sine)), self._keep(select(odd, _d(-1) * sine, cosine))
        value = self._keep(cast(over / under, "float32"))
        finite = compare("less", intrinsic("abs", x), const(math.inf, "float32"))
        return select(finite, value, const(math.nan, "float32"))

    def sinh(self, x: Expr) -> Expr:
        x, size = self._size(x)
        square = self._keep(size * size)
        near = self._keep(size * _polynomial(square, [1 / math.factorial(2 * k + 1) for k in range(5)]))
        half = self._keep(self._math.exp64(size) * _d(0.5))
        far = self._keep(half - _d(0.25) / half)
        return self._odd(x, select(compare("less", size, _d(0.5)), near, far))

    def cosh(self, x: Expr) -> Expr:
        x, size = self._size(x)
        half = self._keep(self._math.exp64(size) * _d(0.5))
        return select(is_nan(x), x, self._keep(cast(half + _d(0.25) / half, "float32")))

    def asinh(self, x: Expr) -> Expr:
        x, size = self._size(x)
        square = self._keep(size * size)
        near = self._keep(size * _polynomial(square, [1, -1 / 6, 3 / 40, -15 / 336]))
        far = self._keep(self._math.log64(size + intrinsic("sqrt", square + _d(1))))
        return self._odd(x, select(compare("less", size, _d(0.0625)), near, far))

    def acosh(self, x: Expr) -> Expr:
        wide = self._keep(cast(x, "float64"))
        inside = compare("greater_equal", wide, _d(1))
        root = intrinsic("sqrt", (wide - _d(1)) * (wide + _d(1)))
        value = self._keep(cast(self._math.log64(wide + root), "float32"))
        return select(inside, value, const(math.nan, "float32"))

    def atanh(self, x: Expr) -> Expr:
        x, size = self._size(x)
        near = self._keep(size * _polynomial(self._keep(size * size), [1, 1 / 3, 1 / 5, 1 / 7]))
        far = self._keep(_d(0.5) * self._math.log64((_d(1) + size) / (_d(1) - size)))
        value = self._keep(select(compare("less", size, _d(0.0625)), near, far))
        return self._odd(x, select(compare("less_equal", size, _d(1)), value, _d(math.nan)))

    def atan(self, x: Expr) -> Expr:
        x, size = self._size(x)
        return self._odd(x, self._arc(size))

    def asin(self, x: Expr) -> Expr:
        x, size = self._size(x)
        return self._odd(x, self._arc(size / intrinsic("sqrt", (_d(1) - size) * (_d(1) + size))))

    def acos(self, x: Expr) -> Expr:
        wide = self._keep(cast(x, "float64"))
        return cast(_d(2) * self._arc(intrinsic("sqrt", (_d(1) - wide) / (_d(1) + wide))), "float32")

    def _size(self, x: Expr) -> tuple[Expr, Expr]:
        """x, and its magnitude in float64."""
        x = self._keep(x)
        return x, self._keep(cast(intrinsic("abs", x), "float64"))

    def _odd(self, x: Expr, value: Expr) -> Expr:
        """An odd function of x from its value at |x|.

        The sign comes last: of a select behind it LLVM (22, for AVX-512) makes one masked vpternlog of wrong bits.
        """
        value = self._keep(select(is_nan(x), _d(math.nan), self._keep(value)))
        return self._math.with_sign_of(x, self._keep(cast(value, "float32")))

    def _arc(self, t: Expr) -> Expr:
        """The arc of a tangent t >= 0, infinite ones and nan too: turned by an eighth or two into a series' range."""
        t = self._keep(t)
        steep, middle = compare("greater", t, _d(1 + math.sqrt(2))), compare("greater", t, _d(math.sqrt(2) - 1))
        turned = self._keep(select(middle, self._keep((t - _d(1)) / (t + _d(1))), t))
        u = self._keep(select(steep, self._keep(_d(-1) / t), turned))
        offset = self._keep(select(middle, _d(math.pi / 4), _d(0)))
        series = u * _polynomial(self._keep(u * u), [(-1) ** k / (2 * k + 1) for k in range(12)])
        return self._keep(series + select(steep, _d(math.pi / 2), offset))
