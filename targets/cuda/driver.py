"""An NVIDIA GPU through its driver: memory, kernels, and launches recorded as one CUDA graph."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from targets.cuda.device import Call, Device, KernelCode
from tensorc.errors import UserError

_INSTALL = "pip install 'tensorc[cuda]'"
#: CUDA_ERROR_OUT_OF_MEMORY and CUDA_ERROR_NO_BINARY_FOR_GPU.
_NO_MEMORY, _NO_BINARY = 2, 209


@functools.cache
def _cuda() -> Any:
    """The driver's functions, initialised. Raises UserError."""
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise UserError(
            f"running on a GPU needs cuda-bindings, which is not to be had ({error}): {_INSTALL}"
        ) from error
    try:
        (status,) = driver.cuInit(0)
    except RuntimeError as error:  # the library is not there
        raise UserError(f"no NVIDIA driver was found here ({error})") from error
    if int(status):
        raise UserError(f"the NVIDIA driver does not start: {status.name}")
    return driver


def capability() -> int | None:
    """Ten times the compute capability of the first GPU, as in sm_90; None where there is none."""
    try:
        driver = _cuda()
    except UserError:
        return None
    error, device = driver.cuDeviceGet(0)
    if int(error):
        return None
    names = driver.CUdevice_attribute
    _, major = driver.cuDeviceGetAttribute(names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
    _, minor = driver.cuDeviceGetAttribute(names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
    return 10 * int(major) + int(minor)


class Driver(Device):
    """The first GPU that CUDA_VISIBLE_DEVICES leaves, and a stream of its own on it."""

    def __init__(self) -> None:
        """Raises UserError where there is no GPU."""
        self._driver = _cuda()
        self._device = self._asked("cuDeviceGet", 0)
        self._context = self._asked("cuDevicePrimaryCtxRetain", self._device)
        self._enter()
        self._stream = self._asked("cuStreamCreate", 1)  # that does not wait for the default stream
        self._memory: set[int] = set()
        self._modules: list[Any] = []
        self._graphs: list[Any] = []

    def _asked(self, name: str, *arguments: Any) -> Any:
        """What a function of the driver gives. Raises UserError where memory is short, RuntimeError otherwise."""
        error, *found = getattr(self._driver, name)(*arguments)
        if int(error) == _NO_MEMORY:
            raise UserError(f"the GPU has no memory left ({name})")
        if int(error):
            raise RuntimeError(f"{name} failed: {error.name}")
        return found[0] if len(found) == 1 else found

    def _enter(self) -> None:
        """A context is a thread's: each that comes enters it."""
        self._asked("cuCtxSetCurrent", self._context)

    def allocate(self, nbytes: int) -> int:
        self._enter()
        address = int(self._asked("cuMemAlloc", nbytes))
        self._memory.add(address)
        return address

    def free(self, address: int) -> None:
        self._enter()
        self._memory.remove(address)
        self._asked("cuMemFree", address)

    def write(self, address: int, data: np.ndarray) -> None:
        self._enter()
        data = np.ascontiguousarray(data)
        self._asked("cuMemcpyHtoDAsync", address, data.ctypes.data, data.nbytes, self._stream)

    def read(self, address: int, out: np.ndarray) -> None:
        self._enter()
        self._asked("cuMemcpyDtoHAsync", out.ctypes.data, address, out.nbytes, self._stream)
        self._asked("cuStreamSynchronize", self._stream)

    def clear(self, address: int, nbytes: int) -> None:
        self._enter()
        if nbytes:
            self._asked("cuMemsetD8Async", address, 0, nbytes, self._stream)

    def load(self, name: str, code: KernelCode) -> object:
        """Machine code if it is for this GPU, else PTX, which the driver compiles."""
        self._enter()
        error, module = self._driver.cuModuleLoadData(code.cubin)
        if int(error) == _NO_BINARY:
            module = self._asked("cuModuleLoadData", code.ptx)
        elif int(error):
            raise RuntimeError(f"cuModuleLoadData of {name} failed: {error.name}")
        self._modules.append(module)
        function = self._asked("cuModuleGetFunction", module, name.encode())
        if code.shared_bytes > 48 << 10:
            attribute = self._driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            self._asked("cuFuncSetAttribute", function, attribute, code.shared_bytes)
        return function

    def record(self, calls: Sequence[Call]) -> object:
        self._enter()
        modes = self._driver.CUstreamCaptureMode
        self._asked("cuStreamBeginCapture", self._stream, modes.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        for call in calls:
            values = call.arguments, (ctypes.c_void_p,) * len(call.arguments)
            self._asked("cuLaunchKernel", call.kernel, call.blocks, 1, 1, call.threads, 1, 1, call.shared_bytes,
                        self._stream, values, 0)  # fmt: skip
        graph = self._asked("cuStreamEndCapture", self._stream)
        recording = self._asked("cuGraphInstantiate", graph, 0)
        self._asked("cuGraphDestroy", graph)
        self._graphs.append(recording)
        return recording

    def replay(self, recording: object) -> None:
        self._enter()
        self._asked("cuGraphLaunch", recording, self._stream)

    def close(self) -> None:
        self._enter()
        self._asked("cuStreamSynchronize", self._stream)
        for graph in self._graphs:
            self._asked("cuGraphExecDestroy", graph)
        for module in self._modules:
            self._asked("cuModuleUnload", module)
        for address in self._memory:
            self._asked("cuMemFree", address)
        self._asked("cuStreamDestroy", self._stream)
        self._asked("cuDevicePrimaryCtxRelease", self._device)
