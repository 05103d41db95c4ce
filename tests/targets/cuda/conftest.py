"""Small models compiled for a GPU, and loaded on the emulator, or on a GPU by the tests that are marked so; and what
all tests of CUDA kernels ask of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tensorc
from targets.cuda.codegen import print_kernel
from targets.cuda.driver import Driver
from tensorc.runtime.dlpack import DeviceArray
from tensorc.runtime.model import Model


@pytest.fixture(autouse=True)
def emulated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORC_CUDA_EMULATE", "0" if request.node.get_closest_marker("gpu") else "1")


class Lent:
    """An array that is not numpy's to those who look at it."""

    def __init__(self, array: np.ndarray, device: tuple[int, int] = (1, 0)):
        self.array, self.device, self.streams = array, device, []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, **asked: Any) -> Any:
        self.streams.append(asked.pop("stream", None))
        return self.array.__dlpack__(**asked)


def aligned(shape: tuple[int, ...], dtype: Any = np.float32, offset: int = 0) -> np.ndarray:
    """An array that begins `offset` bytes after a multiple of 64."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    held = np.zeros(count + 128, np.uint8)
    start = -held.ctypes.data % 64 + offset
    return held[start : start + count].view(dtype).reshape(shape)


class OnEmulator:
    """Its device is the host, so an array that only DLPack speaks of is a device array to it."""

    target = "cuda:sm_90"
    memory = 1, 0

    @staticmethod
    def put(array: np.ndarray, offset: int = 0) -> Lent:
        """An array of the device, which begins so many bytes after a multiple of 64."""
        lent = Lent(aligned(array.shape, array.dtype, offset))
        lent.array[:] = array
        return lent

    @staticmethod
    def fill(place: Lent, array: np.ndarray) -> None:
        place.array[:] = array

    @staticmethod
    def get(place: Lent) -> np.ndarray:
        return place.array.copy()


class OnGpu:
    """The same in a GPU's memory."""

    target = "cuda"
    memory = 2, 0

    def __init__(self) -> None:
        self.driver = Driver()

    def put(self, array: np.ndarray, offset: int = 0) -> DeviceArray:
        lease = self.driver.lend(array.nbytes + offset)

        def read(out: np.ndarray) -> None:
            self.driver.read(lease.address + offset, out)
            self.driver.synchronize()

        made = DeviceArray(lease.address + offset, array.dtype.name, array.shape, self.memory, lease, lambda _: None,
                           read)  # fmt: skip
        self.fill(made, array)
        return made

    def fill(self, place: DeviceArray, array: np.ndarray) -> None:
        self.driver.write(place.address, np.ascontiguousarray(array))
        self.driver.synchronize()

    @staticmethod
    def get(place: DeviceArray) -> np.ndarray:
        return place.numpy()


@pytest.fixture(scope="session")
def emulator() -> OnEmulator:
    return OnEmulator()


@pytest.fixture(scope="session")
def gpu() -> OnGpu:
    return OnGpu()


@pytest.fixture(params=["emulator", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> OnEmulator | OnGpu:
    """What models run on: a test that asks for it runs on the emulator, and where a GPU is, on that too."""
    return request.getfixturevalue(request.param)


def two_layers(path: Path) -> Path:
    """a = relu(x @ w), s = softmax(a) + y: y is read by the last launch only, and a is an output on the way."""
    weights = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Relu", ["p"], ["a"]),
        helper.make_node("Softmax", ["a"], ["n"], axis=1),
        helper.make_node("Add", ["n", "y"], ["s"]),
    ]
    rows = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, n]) for name, n in
            (("x", 6), ("y", 5), ("a", 5), ("s", 5))}  # fmt: skip
    graph = helper.make_graph(nodes, "two", [rows["x"], rows["y"]], [rows["a"], rows["s"]],
                              [numpy_helper.from_array(weights, "w")])  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="session")
def two_layer_artifacts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """By target."""

    @functools.cache
    def compiled(target: str) -> Path:
        folder = tmp_path_factory.mktemp("two")
        out = folder / "two.tcm"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TENSORC_CUDA_EMULATE", "1")
            tensorc.compile(two_layers(folder / "two.onnx"), target=target, out=out).close()
        return out

    return compiled


@pytest.fixture(scope="session")
def two_layer_artifact(two_layer_artifacts: Callable[[str], Path]) -> Path:
    return two_layer_artifacts("cuda:sm_90")


@pytest.fixture
def two(two_layer_artifact: Path) -> Model:
    with tensorc.load(two_layer_artifact) as model:
        yield model


@pytest.fixture(scope="session")
def expected_two() -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    weights = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)

    def compute(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a = np.maximum(x @ weights, 0)
        power = np.exp(a - a.max(1, keepdims=True))
        return a, power / power.sum(1, keepdims=True) + y

    return compute


@pytest.fixture
def well_made() -> Callable[..., bool]:
    """Whether the kernels of a batch are no tasks, a thread each, and have room for all they keep in registers."""

    def ask(batch) -> bool:
        own = all("int end = " not in print_kernel(case.kernel.function, "k") for case in batch.cases)
        return own and all(found.spill_stores == found.spill_loads == 0 for found in batch.resources)

    return ask
