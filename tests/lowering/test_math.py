"""The transcendental functions, compiled, against float64: errors in units in the last place, and special values."""

from __future__ import annotations

import ctypes
import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from targets.cpu.codegen import build_object
from targets.cpu.machine import NAMED, Machine, detect
from tensorc.lowering.math import Math
from tensorc.lowering.tir import KernelBuilder
from tensorc.toolchain import find_compiler

pytestmark = pytest.mark.compiler

ARITY = {"cos": 1, "erf": 1, "exp": 1, "expm1": 1, "log": 1, "log1p": 1, "pow": 2, "sigmoid": 1, "sin": 1, "tanh": 1}
REFERENCE: dict[str, Callable[..., np.ndarray]] = {
    "cos": np.cos, "erf": np.vectorize(math.erf, otypes=[np.float64]), "exp": np.exp, "expm1": np.expm1, "log": np.log,
    "log1p": np.log1p, "pow": np.power, "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "sin": np.sin, "tanh": np.tanh,
}  # fmt: skip
LANES = 16
Call = Callable[..., np.ndarray]

#: With fused multiply-adds and without.
MACHINES: list[Machine] = list({machine.mcpu: machine for machine in (detect(), NAMED["x86-64-v2"])}.values())


@pytest.fixture(scope="module", params=MACHINES, ids=lambda machine: machine.mcpu)
def call(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Call:
    """call(name, *arrays): the function on float32."""
    folder: Path = tmp_path_factory.mktemp("math")
    functions = {}
    for name, arity in ARITY.items():
        builder = KernelBuilder()
        inputs = [builder.parameter(f"in{i}", "float32", 1 << 20) for i in range(arity)]
        out = builder.parameter("out", "float32", 1 << 20)
        with builder.tasks() as task, builder.vector(LANES) as lane:
            at = task * LANES + lane
            builder.store(out, getattr(Math(builder.keep), name)(*(builder.load(x, at) for x in inputs)), at)
        functions[name] = builder.function(name)
    build_object(functions, request.param, folder / "math.o")
    library = folder / f"{request.param.mcpu}.so"
    subprocess.run([*find_compiler(), "-shared", "-o", library, folder / "math.o", "-lm"], check=True)
    functions_of = ctypes.CDLL(str(library))

    def run(name: str, *arrays: np.ndarray) -> np.ndarray:
        count = len(arrays[0])
        padded = [np.pad(np.asarray(x, np.float32), (0, -count % LANES)) for x in arrays]
        out = np.empty_like(padded[0])
        functions_of[name](*(ctypes.c_void_p(a.ctypes.data) for a in (*padded, out)), 0, len(out) // LANES)
        return out[:count]

    return run


def ulps(got: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The distance of float32 `got` from float64 `true`, in steps between float32 numbers at `true`."""
    step = np.spacing(np.abs(true).astype(np.float32)).astype(np.float64)
    return np.abs(got - true) / step


def steps(low: float, high: float) -> np.ndarray:
    return np.linspace(low, high, 200_001).astype(np.float32)


def scales(low: float, high: float) -> np.ndarray:
    """Both signs, every order of magnitude alike."""
    x = np.geomspace(low, high, 100_001).astype(np.float32)
    return np.concatenate([x, -x])


#: Function, arguments, and the largest error over them: what the docstring of the module says.
ERRORS = [
    ("exp", steps(-87.33, 88.72), 1.0),
    ("exp", scales(1e-30, 1), 1.0),
    ("expm1", steps(-30, 0), 1.0),
    ("expm1", -np.abs(scales(1e-30, 1)), 1.0),
    ("log", np.abs(scales(1.2e-38, 3.4e38)), 0.8),
    ("log", steps(0.5, 2), 0.8),
    ("log", np.abs(scales(1.5e-45, 1.1e-38)), 0.8),
    ("log1p", steps(0, 1), 2.5),
    ("log1p", np.abs(scales(1e-30, 1)), 2.5),
    ("tanh", steps(-10, 10), 2.5),
    ("tanh", scales(1e-30, 100), 2.5),
    ("erf", steps(-5, 5), 8),
    ("erf", scales(1e-30, 10), 8),
    ("sigmoid", steps(-87.33, 30), 2.5),
    ("sin", steps(-10, 10), 1.5),
    ("sin", scales(1e-30, 1.6e6), 1.5),
    ("cos", steps(-10, 10), 1.5),
    ("cos", scales(1e-30, 1.6e6), 1.5),
]


@pytest.mark.parametrize(("name", "x", "most"), ERRORS, ids=[f"{n}-{x.min():g}-{x.max():g}" for n, x, _ in ERRORS])
def test_errors(call, name, x, most):
    errors = ulps(call(name, x), REFERENCE[name](x.astype(np.float64)))
    assert errors.max() <= most, f"{errors.max()} at {x[errors.argmax()]!r}"


@pytest.mark.parametrize(("base", "exponent"), [(10, 3), (1000, 10), (2, 100), (1e30, 1)])
def test_errors_of_pow(call, base, exponent):
    rng = np.random.default_rng(0)
    x = np.exp(rng.uniform(-np.log(base), np.log(base), 200_000)).astype(np.float32)
    y = rng.uniform(-exponent, exponent, x.size).astype(np.float32)
    errors = ulps(call("pow", x, y), np.power(x.astype(np.float64), y.astype(np.float64)))
    assert errors.max() <= 0.51, f"{errors.max()} at {x[errors.argmax()]!r}, {y[errors.argmax()]!r}"


SPECIAL = np.array(
    [np.nan, np.inf, -np.inf, 0, -0.0, 1e-45, -1e-45, 1.1754944e-38, -1.1754944e-38, 3.4e38, -3.4e38, 1, -1, 88.8,
     -104],
    np.float32,
)  # fmt: skip


@pytest.mark.parametrize("name", [name for name, arity in ARITY.items() if arity == 1])
def test_special_values(call, name):
    """nan, infinities, zeros with their signs, subnormals, what overflows."""
    x = SPECIAL
    if name == "expm1":
        x = x[~(x > 0)]
    if name == "log1p":
        x = np.array([np.nan, 0, 1e-45, 1.1754944e-38, 1], np.float32)
    with np.errstate(all="ignore"):
        true = REFERENCE[name](x.astype(np.float64)).astype(np.float32)
    got = call(name, x)
    np.testing.assert_allclose(got, true, rtol=1e-6, atol=1.2e-38)
    if name in ("erf", "tanh"):
        np.testing.assert_array_equal(np.signbit(got), np.signbit(true))


def test_sin_and_cos_of_large_numbers(call):
    """Digits are lost near their zeros, no more than that."""
    x = np.append(scales(1e6, 3.4e38), np.float32([2**30, -(2**30), 4041630782, 3.4e38, 1.6367e38, -np.pi * 2**100]))
    for name in ("sin", "cos"):
        assert np.abs(call(name, x) - REFERENCE[name](x.astype(np.float64))).max() < 1.5e-7


def test_borders_of_exp(call):
    """The last number, infinity, and below the smallest normal number nothing."""
    x = np.array([88.72283, 88.72284, 1e30, -87.33654, -87.34, -103, -1e30], np.float32)
    got = call("exp", x)
    np.testing.assert_allclose(got[[0, 3]], np.exp(x[[0, 3]].astype(np.float64)), rtol=1e-6)
    assert got[[1, 2, 4, 5, 6]].tolist() == [np.inf, np.inf, 0, 0, 0]


def test_bounded_results(call):
    for name in ("tanh", "erf"):
        got = call(name, steps(-20, 20))
        assert np.abs(got).max() == 1
    for name in ("sin", "cos"):
        assert np.abs(call(name, scales(1e-3, 3.4e38))).max() <= 1


def test_special_values_of_pow(call):
    bases = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1, -1, 2, -2, 0.5, -0.5, 1e-45, -1e-45, 3.4e38, -3.4e38], np.float32)  # fmt: skip  # noqa: E501
    exponents = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1, -1, 2, -2, 3, -3, 0.5, -0.5, 2.5, 1e10, -1e10, 16777217])
    x, y = (m.reshape(-1).astype(np.float32) for m in np.meshgrid(bases, exponents))
    with np.errstate(all="ignore"):
        true = np.power(x.astype(np.float64), y.astype(np.float64)).astype(np.float32)
    got = call("pow", x, y)
    np.testing.assert_allclose(got, true, rtol=1e-6, atol=1e-44, err_msg=str(np.stack([x, y, got, true])))
    known = ~np.isnan(true)
    np.testing.assert_array_equal(np.signbit(got)[known], np.signbit(true)[known])


def test_integral_powers_are_exact(call):
    x, y = (m.reshape(-1).astype(np.float32) for m in np.meshgrid(np.arange(-12, 13), np.arange(0, 6)))
    np.testing.assert_array_equal(call("pow", x, y), np.power(x.astype(np.float64), y))
