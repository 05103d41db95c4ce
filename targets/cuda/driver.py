"""An NVIDIA GPU through its driver: memory, kernels, and launches recorded as one CUDA graph."""

from __future__ import annotations

import ctypes
import functools
import os
import threading
import weakref
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np

from targets.cuda.device import Await, Call, Copy, Device, KernelCode, Lease, Mark, OutOfMemoryError, Work
from targets.cuda.roofline import Facts
from tensorc.environment import visible_gpus
from tensorc.errors import UserError
from tensorc.options import format_bytes
from tensorc.runtime.dlpack import CUDA, array_at

_INSTALL = "pip install 'tensorc[cuda]'"
#: CUDA_ERROR_OUT_OF_MEMORY, CUDA_ERROR_NO_DEVICE, CUDA_ERROR_NOT_READY.
_NO_MEMORY, _NO_DEVICE, _NOT_READY = 2, 100, 600
#: CUDA_ERROR_INVALID_IMAGE, CUDA_ERROR_NO_BINARY_FOR_GPU: machine code is for another GPU.
_FOREIGN = (200, 209)
#: Of CUDA 13, whose machine code is in artifacts: 1000 times the major version and 10 times the minor one.
_OLDEST_DRIVER = 13000
#: cuStreamCreate: that does not wait for the legacy default stream. cuEventCreate: without times.
_NON_BLOCKING, _NO_TIMING = 1, 2


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
        _, version = driver.cuDriverGetVersion()
    except RuntimeError as error:  # the library is not there
        raise UserError(f"no NVIDIA driver was found here ({error})") from error
    if int(status) == _NO_DEVICE:
        chosen = visible_gpus()
        hint = "" if chosen is None else f": CUDA_VISIBLE_DEVICES is {chosen!r}"
        raise UserError(f"the NVIDIA driver finds no GPU{hint}")
    if int(status):
        raise UserError(f"the NVIDIA driver does not start: {status.name}")
    if version < _OLDEST_DRIVER:
        raise UserError(f"the NVIDIA driver is for CUDA {_version(version)}: CUDA {_version(_OLDEST_DRIVER)} or later "
                        "is needed")  # fmt: skip
    return driver


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _asked(name: str, *arguments: Any) -> Any:
    """What a function of the driver gives. Raises RuntimeError."""
    error, *found = getattr(_cuda(), name)(*arguments)
    if int(error):
        raise RuntimeError(f"{name} failed: {error.name}")
    return found[0] if len(found) == 1 else found


def capability() -> int | None:
    """Ten times the compute capability of the first GPU, as in sm_90; None where there is none."""
    try:
        _cuda()
    except UserError:
        return None
    return _capability(_asked("cuDeviceGet", 0))


def _capability(device: Any) -> int:
    names = _cuda().CUdevice_attribute
    major = _asked("cuDeviceGetAttribute", names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
    minor = _asked("cuDeviceGetAttribute", names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
    return 10 * int(major) + int(minor)


class _Context:
    """The GPU's primary context, which other libraries use too: entered by a thread for some calls, and left as it was
    found."""

    def __init__(self) -> None:
        self._inside = threading.local()
        self.device = _asked("cuDeviceGet", 0)
        self.handle = _asked("cuDevicePrimaryCtxRetain", self.device)
        self._process = os.getpid()
        weakref.finalize(self, _release, self._process, self.device)

    def __enter__(self) -> None:
        depth = getattr(self._inside, "depth", 0)
        if not depth:
            if os.getpid() != self._process:
                raise UserError("a process that forked cannot use the GPU of its parent: load the model in the child")
            _asked("cuCtxPushCurrent", self.handle)
        self._inside.depth = depth + 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside.depth -= 1
        if not self._inside.depth:
            _asked("cuCtxPopCurrent")


def _quietly(name: str, *arguments: Any) -> None:
    """For what is let go of, when there is nobody to tell."""
    getattr(_cuda(), name)(*arguments)


def _release(process: int, device: Any) -> None:
    if os.getpid() == process:
        _quietly("cuDevicePrimaryCtxRelease", device)


def _let_go(context: _Context, name: str, *arguments: Any) -> None:
    if os.getpid() == context._process:
        with context:
            _quietly(name, *arguments)


class _Lease(Lease):
    def __init__(self, context: _Context, nbytes: int):
        self.address = _allocate(nbytes)
        self._context = context
        weakref.finalize(self, _let_go, context, "cuMemFree", self.address)

    def read(self, out: np.ndarray) -> None:
        if out.nbytes:
            with self._context:
                _asked("cuMemcpyDtoH", out.ctypes.data, self.address, out.nbytes)


class _Event(Mark):
    def __init__(self, context: _Context, stream: int):
        self._context = context
        self._handle = _asked("cuEventCreate", _NO_TIMING)
        weakref.finalize(self, _let_go, context, "cuEventDestroy", self._handle)
        _asked("cuEventRecord", self._handle, stream)

    @property
    def is_past(self) -> bool:
        with self._context:
            (error,) = _cuda().cuEventQuery(self._handle)
        if int(error) not in (0, _NOT_READY):
            raise RuntimeError(f"the GPU failed: {error.name}")
        return int(error) == 0

    def wait(self) -> None:
        with self._context:
            _asked("cuEventSynchronize", self._handle)

    def hold(self, stream: int) -> None:
        with self._context:
            _asked("cuStreamWaitEvent", stream, self._handle, 0)


def _allocate(nbytes: int) -> int:
    """Raises OutOfMemoryError."""
    error, address = _cuda().cuMemAlloc(max(nbytes, 1))
    if int(error) == _NO_MEMORY:
        raise OutOfMemoryError(nbytes, *_asked("cuMemGetInfo"))
    if int(error):
        raise RuntimeError(f"cuMemAlloc failed: {error.name}")
    return int(address)


@dataclass
class _Recording:
    """A graph, what was made of it to be launched, and the nodes of its calls with what they were given, by their
    numbers."""

    graph: Any
    executable: Any
    nodes: dict[int, Any] = field(default_factory=dict)
    parameters: dict[int, Any] = field(default_factory=dict)


class Driver(Device):
    """The first GPU that CUDA_VISIBLE_DEVICES leaves, and a stream of its own on it."""

    memory = CUDA, 0

    def __init__(self) -> None:
        """Raises UserError where there is no GPU."""
        _cuda()
        self._context = _Context()
        with self._context:
            self._stream = _asked("cuStreamCreate", _NON_BLOCKING)
        self.stream = int(self._stream)
        self._memory: set[int] = set()
        self._staging: set[int] = set()
        #: What the driver may still read.
        self._written: deque[tuple[Mark, np.ndarray]] = deque()
        self._modules: list[Any] = []
        self._recordings: list[_Recording] = []

    def _on(self, stream: int | None) -> int:
        return self.stream if stream is None else stream

    @property
    def capability(self) -> int:
        return _capability(self._context.device)

    def entered(self) -> AbstractContextManager[None]:
        return self._context

    def allocate(self, nbytes: int) -> int:
        with self._context:
            address = _allocate(nbytes)
        self._memory.add(address)
        return address

    def lend(self, nbytes: int) -> Lease:
        with self._context:
            return _Lease(self._context, nbytes)

    def staging(self, nbytes: int) -> np.ndarray:
        """Pinned; ordinary memory, which the driver copies once more, where there is no more of that."""
        pinned = self._pinned(nbytes)
        return np.empty(nbytes, np.uint8) if pinned is None else pinned

    def reachable(self, nbytes: int) -> np.ndarray:
        """Pinned, which with unified addresses is mapped where it lies."""
        pinned = self._pinned(nbytes)
        if pinned is None:
            raise UserError(f"the host has no {format_bytes(nbytes)} left that can be pinned for the GPU")
        return pinned

    def _pinned(self, nbytes: int) -> np.ndarray | None:
        with self._context:
            error, address = _cuda().cuMemHostAlloc(max(nbytes, 1), 0)
        if int(error):
            return None
        self._staging.add(int(address))
        return array_at(int(address), "uint8", (nbytes,), None)

    @property
    def free_bytes(self) -> int:
        with self._context:
            free, _ = _asked("cuMemGetInfo")
        return int(free)

    def free(self, address: int) -> None:
        self._memory.remove(address)
        with self._context:
            _asked("cuMemFree", address)

    def write(self, address: int, data: np.ndarray, stream: int | None = None) -> None:
        """Memory that is not pinned need not have been read when the driver returns: it is held."""
        if not data.nbytes:
            return
        with self._context:
            _asked("cuMemcpyHtoDAsync", address, data.ctypes.data, data.nbytes, self._on(stream))
            if data.ctypes.data in self._staging:
                return
            while self._written and self._written[0][0].is_past:
                self._written.popleft()
            self._written.append((_Event(self._context, self._on(stream)), data))

    def read(self, address: int, out: np.ndarray, stream: int | None = None) -> None:
        if out.nbytes:
            with self._context:
                _asked("cuMemcpyDtoHAsync", out.ctypes.data, address, out.nbytes, self._on(stream))

    def copy(self, address: int, source: int, nbytes: int, stream: int | None = None) -> None:
        if nbytes:
            with self._context:
                _asked("cuMemcpyDtoDAsync", address, source, nbytes, self._on(stream))

    def clear(self, address: int, nbytes: int, stream: int | None = None) -> None:
        if nbytes:
            with self._context:
                _asked("cuMemsetD8Async", address, 0, nbytes, self._on(stream))

    def load(self, name: str, code: KernelCode) -> object:
        """Machine code if it is for this GPU, else PTX, which the driver compiles."""
        with self._context:
            error, module = _cuda().cuModuleLoadData(code.cubin)
            if int(error) in _FOREIGN:
                error, module = _cuda().cuModuleLoadData(code.ptx + b"\0")
                if int(error):
                    found = _asked("cuDriverGetVersion")
                    raise UserError(
                        f"the driver, for CUDA {_version(found)}, does not compile the model's PTX for this GPU "
                        f"({error.name}): update it, or compile the model for cuda:sm_{self.capability}"
                    )
            if int(error):
                raise RuntimeError(f"cuModuleLoadData of {name} failed: {error.name}")
            self._modules.append(module)
            function = _asked("cuModuleGetFunction", module, name.encode())
            if code.shared_bytes:  # with the static part it may be more than blocks have without being asked for
                attribute = _cuda().CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                _asked("cuFuncSetAttribute", function, attribute, code.shared_bytes)
            return function

    def record(self, work: Sequence[Work]) -> _Recording:
        """A chain: each launch waits for the one before. Copies beside are a chain of their own, and wait for the
        launch that they stand behind."""
        with self._context:
            graph = _asked("cuGraphCreate", 0)
            recording = _Recording(graph, None)
            self._recordings.append(recording)
            last: list[Any] = []  # what the next node of the first chain waits for
            beside: list[Any] = []
            for number, step in enumerate(work):
                match step:
                    case Call():
                        parameters = self._parameters(step)
                        node = _asked("cuGraphAddKernelNode", graph, last, len(last), parameters)
                        recording.nodes[number], recording.parameters[number] = node, parameters
                        last = [node]
                    case Copy(beside=True):
                        beside.append(self._add_copy(graph, step, dict.fromkeys([*last, *beside[-1:]])))
                    case Copy():
                        last = [self._add_copy(graph, step, last)]
                    case Await():
                        last = list(dict.fromkeys([*last, *beside[: step.count][-1:]]))
            recording.executable = _asked("cuGraphInstantiate", graph, 0)
        return recording

    def _add_copy(self, graph: Any, copy: Copy, before: Collection[Any]) -> Any:
        kinds = _cuda().CUmemorytype
        found = _cuda().CUDA_MEMCPY3D()
        found.WidthInBytes, found.Height, found.Depth = copy.nbytes, 1, 1
        if copy.out:
            found.srcMemoryType, found.srcDevice = kinds.CU_MEMORYTYPE_DEVICE, copy.address
            found.dstMemoryType, found.dstHost = kinds.CU_MEMORYTYPE_HOST, copy.host
        else:
            found.srcMemoryType, found.srcHost = kinds.CU_MEMORYTYPE_HOST, copy.host
            found.dstMemoryType, found.dstDevice = kinds.CU_MEMORYTYPE_DEVICE, copy.address
        return _asked("cuGraphAddMemcpyNode", graph, list(before), len(before), found, self._context.handle)

    def _parameters(self, call: Call) -> Any:
        found = _cuda().CUDA_KERNEL_NODE_PARAMS()
        found.func = call.kernel
        found.gridDimX, found.gridDimY, found.gridDimZ = call.blocks, 1, 1
        found.blockDimX, found.blockDimY, found.blockDimZ = call.threads, 1, 1
        found.sharedMemBytes = call.shared_bytes
        found.kernelParams = _pointers(call.arguments)
        return found

    def rebind(self, recording: _Recording, number: int, arguments: tuple[int, ...]) -> None:
        parameters = recording.parameters[number]
        parameters.kernelParams = _pointers(arguments)
        with self._context:
            _asked("cuGraphExecKernelNodeSetParams", recording.executable, recording.nodes[number], parameters)

    def replay(self, recording: _Recording, stream: int | None = None) -> None:
        with self._context:
            _asked("cuGraphLaunch", recording.executable, self._on(stream))

    def time(self, work: Sequence[Work]) -> list[float]:
        """By events before and after each, on the device's own stream."""
        count = sum(isinstance(step, Call) for step in work)
        with self._context:
            events = [_asked("cuEventCreate", 0) for _ in range(2 * count)]
            pairs = list(zip(events[::2], events[1::2], strict=True))
            try:
                left = iter(pairs)
                for step in work:
                    if isinstance(step, Copy):
                        way = "cuMemcpyDtoHAsync" if step.out else "cuMemcpyHtoDAsync"
                        ends = (step.host, step.address) if step.out else (step.address, step.host)
                        _asked(way, *ends, step.nbytes, self._stream)
                    elif isinstance(step, Call):
                        begin, end = next(left)
                        _asked("cuEventRecord", begin, self._stream)
                        _asked("cuLaunchKernel", step.kernel, step.blocks, 1, 1, step.threads, 1, 1, step.shared_bytes,
                               self._stream, _pointers(step.arguments), 0)  # fmt: skip
                        _asked("cuEventRecord", end, self._stream)
                _asked("cuStreamSynchronize", self._stream)
                return [1e-3 * float(_asked("cuEventElapsedTime", begin, end)) for begin, end in pairs]
            finally:
                for event in events:
                    _quietly("cuEventDestroy", event)

    def facts(self) -> Facts:
        names = _cuda().CUdevice_attribute

        def attribute(name: str) -> int:
            return int(_asked("cuDeviceGetAttribute", getattr(names, f"CU_DEVICE_ATTRIBUTE_{name}"),
                              self._context.device))  # fmt: skip

        name = _asked("cuDeviceGetName", 256, self._context.device)
        # Clocks in kHz; memory moves data twice in a clock, over a bus whose width is in bits.
        bandwidth = 2 * 1e3 * attribute("MEMORY_CLOCK_RATE") * attribute("GLOBAL_MEMORY_BUS_WIDTH") / 8
        return Facts(name.split(b"\0")[0].decode(), self.capability, attribute("MULTIPROCESSOR_COUNT"),
                     1e3 * attribute("CLOCK_RATE"), bandwidth)  # fmt: skip

    def mark(self, stream: int | None = None) -> Mark:
        with self._context:
            return _Event(self._context, self._on(stream))

    def synchronize(self, stream: int | None = None) -> None:
        with self._context:
            _asked("cuStreamSynchronize", self._on(stream))

    def close(self) -> None:
        """Whatever failed before: all is let go of."""
        with self._context:
            _quietly("cuStreamSynchronize", self._stream)
            self._written.clear()
            for recording in self._recordings:
                if recording.executable is not None:
                    _quietly("cuGraphExecDestroy", recording.executable)
                _quietly("cuGraphDestroy", recording.graph)
            for module in self._modules:
                _quietly("cuModuleUnload", module)
            for address in self._memory:
                _quietly("cuMemFree", address)
            for address in self._staging:
                _quietly("cuMemFreeHost", address)
            _quietly("cuStreamDestroy", self._stream)


def _pointers(addresses: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    """Arguments as cuda-bindings takes them: values, and their types."""
    return addresses, (ctypes.c_void_p,) * len(addresses)
