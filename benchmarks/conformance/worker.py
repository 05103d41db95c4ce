"""The process that runs ONNX's backend tests on one engine, one after the other: see onnx_conformance.py.

JSON lines, as `tensorc.search.worker` has it: {"test": NAME} is answered by {"status", "detail", "ran"}. A status is
passed, failed (a wrong result or an error that is no plain refusal) or unsupported; `ran` says how: "native", "host"
(some operators by numpy) or "fallback" (some by ONNX Runtime). What kills the process is the caller's to count.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import sys
import tempfile
import unittest
import warnings
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep

MOST_WORDS = 300


class OnnxRuntimeRep(BackendRep):
    """Feeds what ONNX Runtime's Python interface takes only as OrtValues, and reads what it cannot give as numpy."""

    def __init__(self, model: onnx.ModelProto):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self._runtime = onnxruntime
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def run(self, inputs: Any, **_: Any) -> list[Any]:
        infos = self._session.get_inputs()
        # Some tests give numpy's scalars, which are no arrays to ONNX Runtime.
        given = (np.asarray(value) if isinstance(value, np.generic) else value for value in inputs)
        feed = {info.name: value for info, value in zip(infos, given, strict=False)}
        outputs = [info.type.removeprefix("tensor(").removesuffix(")") for info in self._session.get_outputs()]
        exotic = any(value.dtype.name in _EXOTIC for value in feed.values() if isinstance(value, np.ndarray))
        if not exotic and _BY_NAME.keys().isdisjoint(outputs):
            return list(self._session.run(None, feed))
        values = {name: self._ort_value(value) for name, value in feed.items()}
        return [_read(value) for value in self._session.run_with_ort_values(None, values)]

    def _ort_value(self, array: Any) -> Any:
        make = self._runtime.OrtValue
        if array.dtype.name not in _EXOTIC:
            return make.ortvalue_from_numpy(np.asarray(array, order="C"))
        code, _, bits = _EXOTIC[array.dtype.name]
        if bits >= 8:
            return make.ortvalue_from_numpy_with_onnx_type(_stored(array), code)
        made = make.ortvalue_from_shape_and_type(list(array.shape), code)
        stored = _stored(array)
        ctypes.memmove(made.data_ptr(), stored.ctypes.data, stored.nbytes)
        return made


#: What numpy has no type of its own for -> ONNX's number of it, ONNX Runtime's name, and bits.
_EXOTIC = {
    "bfloat16": (onnx.TensorProto.BFLOAT16, "bfloat16", 16),
    "float8_e4m3fn": (onnx.TensorProto.FLOAT8E4M3FN, "float8e4m3fn", 8),
    "float8_e4m3fnuz": (onnx.TensorProto.FLOAT8E4M3FNUZ, "float8e4m3fnuz", 8),
    "float8_e5m2": (onnx.TensorProto.FLOAT8E5M2, "float8e5m2", 8),
    "float8_e5m2fnuz": (onnx.TensorProto.FLOAT8E5M2FNUZ, "float8e5m2fnuz", 8),
    "float8_e8m0fnu": (onnx.TensorProto.FLOAT8E8M0, "float8e8m0", 8),
    "float4_e2m1fn": (onnx.TensorProto.FLOAT4E2M1, "float4e2m1", 4),
    "int4": (onnx.TensorProto.INT4, "int4", 4),
    "uint4": (onnx.TensorProto.UINT4, "uint4", 4),
    "int2": (onnx.TensorProto.INT2, "int2", 2),
    "uint2": (onnx.TensorProto.UINT2, "uint2", 2),
}
_BY_NAME = {name: (dtype, bits) for dtype, (_, name, bits) in _EXOTIC.items()}


def _stored(array: np.ndarray) -> np.ndarray:
    """The bytes as ONNX Runtime keeps them: several small numbers in one byte, the first in its lowest bits."""
    _, _, bits = _EXOTIC[array.dtype.name]
    if bits >= 8:
        return np.ascontiguousarray(array).view(f"uint{bits}")
    each = 8 // bits
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8) & (1 << bits) - 1
    flat = np.append(flat, np.zeros(-flat.size % each, np.uint8)).reshape(-1, each)
    return np.bitwise_or.reduce(flat << np.arange(0, 8, bits, dtype=np.uint8), axis=1)


def _read(value: Any) -> Any:
    if not value.is_tensor():
        return value.numpy() if value.has_value() else None
    name = value.data_type().removeprefix("tensor(").removesuffix(")")
    if name not in _BY_NAME:
        return value.numpy()
    dtype, bits = _BY_NAME[name]
    shape = value.shape()
    count = int(np.prod(shape))
    raw = np.frombuffer(ctypes.string_at(value.data_ptr(), -(-count * bits // 8)), np.uint8)
    if bits < 8:
        raw = (raw[:, None] >> np.arange(0, 8, bits, dtype=np.uint8) & (1 << bits) - 1).reshape(-1)[:count]
    return raw.view(np.dtype(getattr(ml_dtypes, dtype))).reshape(shape)


class OnnxRuntimeBackend(Backend):  # type: ignore[misc]
    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **_: Any) -> OnnxRuntimeRep:  # noqa: ARG003
        return OnnxRuntimeRep(model)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"


class Tensorc:
    """tensorc's backend, with the options of this run in place of a device; keeps what the model last prepared says of
    itself."""

    def __init__(self, **options: Any):
        import tensorc
        from tensorc.backend import TensorcBackend, TensorcRep

        self.rep: Any = None
        outer = self

        class Engine(TensorcBackend):
            @classmethod
            def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> Any:  # noqa: ARG003
                outer.rep = TensorcRep(tensorc.compile(model, **options, **kwargs))
                return outer.rep

        self.backend = Engine

    def ran(self) -> str:
        ran = getattr(self.rep.model.executable, "ran", set()) - {"program"}
        return "fallback" if "onnx_runtime" in ran else "host" if ran else "native"


def engine(
    name: str, target: str, fallback: bool
) -> tuple[type[Backend], Callable[[], str], tuple[type[Exception], ...]]:
    """The backend, how the last model ran on it, and the errors by which it refuses one."""
    if name == "onnxruntime":
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        refusals = (state.NotImplemented, state.InvalidGraph, state.Fail, state.InvalidArgument)
        return OnnxRuntimeBackend, lambda: "native", refusals
    from tensorc.errors import UnsupportedError

    tensorc = Tensorc(target=target, fallback="onnxruntime" if fallback else "error")
    return tensorc.backend, tensorc.ran, (UnsupportedError,)


def tests_of(backend: type[Backend]) -> dict[str, Callable[[], None]]:
    """ONNX's own tests, by name, for a processor."""
    import onnx.backend.test.runner as runner

    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in runner.Runner(backend).test_cases.values():
            for name in dir(case):
                if name.endswith("_cpu"):
                    found[name.removesuffix("_cpu")] = getattr(case(name), name)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("engine")
    parser.add_argument("--target")
    parser.add_argument("--fallback", action="store_true")
    given = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever an engine prints

    def answer(row: dict[str, Any]) -> None:
        answers.write(json.dumps(row) + "\n")

    backend, ran, refusals = engine(given.engine, given.target, given.fallback)
    with tempfile.TemporaryDirectory(prefix="tensorc-") as home:
        # ONNX's runner writes the data of whole models there.
        os.environ["ONNX_HOME"] = home
        os.environ.pop("ONNX_MODELS", None)
        tests = tests_of(backend)
        warnings.simplefilter("ignore")
        answer({"ready": True})
        for line in sys.stdin:
            test = tests[json.loads(line)["test"]]
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    test()
                answer({"status": "passed", "detail": "", "ran": ran()})
            except unittest.SkipTest as error:
                answer({"status": "failed", "detail": f"skipped: {error}", "ran": ""})
            except refusals as error:
                answer({"status": "unsupported", "detail": _words(error), "ran": ""})
            except Exception as error:  # whatever an engine raises is its result
                answer({"status": "failed", "detail": _words(error), "ran": ""})


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:MOST_WORDS]


if __name__ == "__main__":
    main()
