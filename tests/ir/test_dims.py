"""Arithmetic on dimensions, numbers and symbols alike."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorc.ir import dims

SIZES = st.integers(1, 1000)


@given(SIZES, SIZES)
def test_numbers_stay_numbers(a: int, b: int) -> None:
    assert dims.add(a, b) == a + b
    assert dims.sub(a, b) == a - b
    assert dims.mul(a, b) == a * b
    assert dims.floordiv(a, b) == a // b
    assert dims.ceildiv(a, b) == -(-a // b)


@settings(deadline=None)  # the first call imports sympy
@given(SIZES, st.integers(1, 20), st.integers(1, 20))
def test_symbols_give_what_their_numbers_would(n: int, a: int, b: int) -> None:
    expression = dims.ceildiv(dims.add(dims.mul("n", a), b), b)
    assert dims.substitute(expression, {"n": n}) == dims.ceildiv(n * a + b, b)
    assert dims.substitute(dims.floordiv(dims.sub("n", a), b), {"n": n}) == (n - a) // b


def test_equal_expressions_are_equal_text() -> None:
    assert dims.mul(dims.add("n", 1), 2) == dims.add(dims.mul(2, "n"), 2) == "2*n + 2"
    assert dims.sub("n", "n") == 0
    assert dims.floordiv(dims.mul("n", 6), 3) == "2*n"


@pytest.mark.parametrize("name", ["n", "N", "E", "I", "S", "pi", "lambda_", "beta", "x1", "Max_len"])
def test_symbols_may_bear_names_that_sympy_knows(name: str) -> None:
    total = dims.add(name, 1)
    assert dims.symbols_of((total, 3)) == {name}
    assert dims.substitute(total, {name: 4}) == 5


def test_substitution_of_some_symbols() -> None:
    assert dims.substitute("a*b + 1", {"a": 3}) == "3*b + 1"
    assert dims.substitute("a", {"b": 3}) == "a"


def test_shapes() -> None:
    assert dims.product((2, "n", 3)) == "6*n"
    assert dims.product(()) == 1
    assert dims.element_count((2, 3)) == 6
    assert dims.is_static((1, 2))
    assert not dims.is_static((1, "n"))
    with pytest.raises(TypeError, match="'n' is symbolic"):
        dims.static_shape((1, "n"))
    assert dims.format_shape((1, "2*n + 2")) == "[1,2*n+2]"


def test_broadcast() -> None:
    assert dims.broadcast((2, 1, 3), (4, 1)) == (2, 4, 3)
    assert dims.broadcast(("n", 1), ("n", 5), ()) == ("n", 5)
    assert dims.broadcast((0,), (1,)) == (0,)
    with pytest.raises(ValueError, match=r"shapes \[2\], \[3\] do not broadcast"):
        dims.broadcast((2,), (3,))
    with pytest.raises(ValueError, match=r"\[n\], \[m\]"):
        dims.broadcast(("n",), ("m",))
