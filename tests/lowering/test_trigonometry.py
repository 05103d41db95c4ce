"""The trigonometric functions, compiled, against float64: errors in units in the last place, and special values."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from targets.cpu.codegen import build_object
from targets.cpu.machine import NAMED, Machine, detect
from tensorc.ir import OPS
from tensorc.ir.ops.trigonometry import TRIGONOMETRIC
from tensorc.lowering.tir import KernelBuilder
from tensorc.lowering.trigonometry import Trigonometry
from tensorc.toolchain import find_compiler

pytestmark = pytest.mark.compiler

LANES = 16
Call = Callable[[str, np.ndarray], np.ndarray]
MACHINES: list[Machine] = list({machine.mcpu: machine for machine in (detect(), NAMED["x86-64-v2"])}.values())


@pytest.fixture(scope="module", params=MACHINES, ids=lambda machine: machine.mcpu)
def call(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Call:
    """call(name, array): the function on float32."""
    folder: Path = tmp_path_factory.mktemp("trigonometry")
    functions = {}
    for name in sorted(TRIGONOMETRIC):
        builder = KernelBuilder()
        x, out = (builder.parameter(hint, "float32", 1 << 20) for hint in ("x", "out"))
        with builder.tasks() as task, builder.vector(LANES) as lane:
            at = task * LANES + lane
            builder.store(out, getattr(Trigonometry(builder.keep), name)(builder.load(x, at)), at)
        functions[name] = builder.function(name)
    build_object(functions, request.param, folder / "functions.o")
    library = folder / f"{request.param.mcpu}.so"
    subprocess.run([*find_compiler(), "-shared", "-o", library, folder / "functions.o", "-lm"], check=True)
    built = ctypes.CDLL(str(library))

    def run(name: str, array: np.ndarray) -> np.ndarray:
        padded = np.pad(np.asarray(array, np.float32), (0, -len(array) % LANES))
        out = np.empty_like(padded)
        built[name](*(ctypes.c_void_p(a.ctypes.data) for a in (padded, out)), 0, len(out) // LANES)
        return out[: len(array)]

    return run


def true(name: str, x: np.ndarray) -> np.ndarray:
    return OPS[name].evaluate([x.astype(np.float64)], {})[0]


def both(low: float, high: float) -> np.ndarray:
    """Both signs, every order of magnitude alike."""
    x = np.geomspace(low, high, 50_001).astype(np.float32)
    return np.concatenate([x, -x])


def steps(low: float, high: float) -> np.ndarray:
    return np.linspace(low, high, 100_001).astype(np.float32)


ERRORS = [
    *((name, x) for name in ("atan", "asinh") for x in (both(1e-30, 3e38), steps(-10, 10))),
    *((name, x) for name in ("asin", "acos", "atanh") for x in (both(1e-30, 0.999), steps(-1, 1)[1:-1])),
    ("acosh", steps(1, 10)[1:]),
    ("acosh", 1 + np.geomspace(1e-6, 3e38, 50_001)),
    *((name, x) for name in ("cosh", "sinh") for x in (both(1e-30, 89), steps(-10, 10))),
    ("tan", steps(-10, 10)),
    ("tan", both(1e-30, 1e6)),
]


@pytest.mark.parametrize(("name", "x"), ERRORS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(ERRORS)])
def test_errors(call, name, x):
    x = np.asarray(x, np.float32)
    wanted, got = true(name, x), call(name, x)
    errors = np.abs(got - wanted) / np.spacing(np.abs(wanted).astype(np.float32)).astype(np.float64)
    assert errors.max() <= 0.51, f"{errors.max()} at {x[errors.argmax()]!r}"


@pytest.mark.parametrize("name", sorted(TRIGONOMETRIC))
def test_special_values(call, name):
    x = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1, -1, 1.5, -1.5, 1e-45, -1e-45, 1.1754944e-38, 3.4e38, -3.4e38,
                  90, -90, 2, 0.5], np.float32)  # fmt: skip
    with np.errstate(all="ignore"):
        wanted = true(name, x).astype(np.float32)
    got = call(name, x)
    np.testing.assert_allclose(got, wanted, rtol=2e-7, atol=1e-45)
    known = ~np.isnan(wanted)
    np.testing.assert_array_equal(np.signbit(got)[known], np.signbit(wanted)[known])
