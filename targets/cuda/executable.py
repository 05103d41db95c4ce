"""Runs a CUDA artifact: constants go to the device when it is loaded, or to memory of the host's that it reaches, where
there is a memory budget; a run replays its recorded launches (`replay`).

Inputs and outputs that lie on the device are read and written there: the launches that have to do with them are told
their addresses when these are others than at the run before. Where those are many, iterations of a loop, the device
copies instead. Numpy's arrays go by memory that the device reaches by itself (staging).

Where data decide what runs (branches, and loops that end on a condition), the host waits for them: `run_async` returns
when the last of that has been decided. It knows those that are its own: branches on one of numpy's inputs.
"""

from __future__ import annotations

import contextlib
import threading
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from targets.cuda.device import Device, KernelCode, Lease, Mark, OutOfMemoryError
from targets.cuda.gpu import ALIGNMENT
from targets.cuda.program import CODE_SECTION, PTX_SECTION, SOURCE_SECTION, CudaProgram, Space
from targets.cuda.replay import Replay
from targets.cuda.roofline import Facts
from tensorc.errors import UserError
from tensorc.ir.dims import static_shape
from tensorc.ir.types import TensorType, numpy_dtype
from tensorc.options import format_bytes, whole_bytes
from tensorc.profiling import Profile
from tensorc.runtime.dlpack import CUDA, CUDA_MANAGED, Borrowed, DeviceArray, borrow
from tensorc.runtime.run import Run
from tensorc.target import Executable, Progress


class CudaExecutable(Executable):
    """A loaded model on `device`, which it closes in the end. Runs from several threads take turns."""

    def __init__(self, manifest: Mapping[str, Any], sections: Mapping[str, memoryview],
                 constants: Sequence[memoryview], device: Device):  # fmt: skip
        """Raises UserError where the device is too old for the model, or has too little memory."""
        self.program = CudaProgram.from_json(manifest)
        self._kernels = manifest["kernels"]
        self._device: Device | None = device
        self._lock = threading.Lock()
        #: The last run on a stream of the caller's, and what runs that may still go on have borrowed, in their order.
        self._last: tuple[int | None, Mark] | None = None
        self._held: deque[tuple[Mark, object]] = deque()
        with contextlib.ExitStack() as stack:
            stack.callback(device.close)
            self._check_architecture(device)
            free = device.free_bytes
            try:
                self._prepare(sections, constants, device)
            except OutOfMemoryError as error:
                needed = self.program.device_bytes([constant.nbytes for constant in constants])
                left = whole_bytes(error.free if free is None else free, up=False)
                raise UserError(
                    f"the model needs {format_bytes(needed)} of the GPU's memory: {error}; compiled with "
                    f"--memory-budget {left} or less, it streams weights from the host's memory"
                ) from error
            stack.pop_all()

    def _check_architecture(self, device: Device) -> None:
        built = int(self.program.architecture.removeprefix("sm_"))
        if device.capability is not None and device.capability < built:
            raise UserError(
                f"the model was compiled for {self.program.architecture}, and this GPU is an older "
                f"sm_{device.capability}: compile it for cuda:sm_{device.capability}"
            )

    def _prepare(self, sections: Mapping[str, memoryview], constants: Sequence[memoryview], device: Device) -> None:
        program = self.program
        self._bases: dict[tuple[Space, int], int] = {
            ("arena", 0): device.allocate(program.arena_bytes),
            ("scratch", 0): device.allocate(program.scratch_bytes),
            ("counters", 0): device.allocate(program.counter_bytes),
        }
        device.clear(self._bases["counters", 0], program.counter_bytes)
        if program.host_bytes:
            self._bases["window", 0] = device.allocate(program.window_bytes)
            self._host = device.reachable(program.host_bytes)
            self._bases["host", 0] = self._host.ctypes.data
        for number, constant in enumerate(constants):
            data = np.frombuffer(constant, np.uint8)
            home = program.homes.get(number)
            if home is not None:
                self._host[home : home + data.size] = data
                continue
            address = self._bases["constant", number] = device.allocate(data.size)
            device.write(address, data)
        #: Memory of the model's own for what comes from numpy's arrays and goes to them.
        self._own_inputs = [_Own(device, type) for type in program.inputs]
        self._own_outputs = [_Own(device, type) for type in program.outputs]
        for number, own in enumerate(self._own_inputs):
            self._bases["input", number] = own.address
        for number, own in enumerate(self._own_outputs):
            self._bases["output", number] = own.address
        self._replay = Replay(device, program, _load(program, sections, device), self._bases)
        device.synchronize()

    def _bind(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Have the next run read and write there."""
        self._bases.update({("input", number): address for number, address in enumerate(inputs)})
        self._bases.update({("output", number): address for number, address in enumerate(outputs)})

    def run(self, inputs: Sequence[Any]) -> list[np.ndarray]:
        outputs = [np.empty(static_shape(type.shape), numpy_dtype(type.dtype)) for type in self.program.outputs]
        with self._lock, self._opened().entered():
            device = self._begin(None)
            self._bind(self._place(device, inputs, None), [own.address for own in self._own_outputs])
            self._replay.run(_flags(inputs))
            for own in self._own_outputs:
                device.read(own.address, own.staging)
            device.synchronize()
            for own, out in zip(self._own_outputs, outputs, strict=True):
                _bytes(out)[:] = own.staging
        return outputs

    def run_async(self, inputs: Sequence[Any], outputs: Sequence[Any], stream: int | None) -> Run:
        _check_apart(inputs, outputs)
        types = self.program.outputs
        with self._lock:
            device = self._opened()
            made = [device.lend(type.nbytes) if out is None else out for out, type in zip(outputs, types, strict=True)]
        places = [
            own.address if isinstance(out, np.ndarray) else _aligned(out, f"the buffer for output {number}")
            for number, (out, own) in enumerate(zip(made, self._own_outputs, strict=True))
        ]
        addresses = [
            own.address if ("output", number) in self._replay.fixed else place
            for number, (place, own) in enumerate(zip(places, self._own_outputs, strict=True))
        ]
        rows = zip(places, addresses, self._own_outputs, strict=True)
        copied = [(place, own) for place, address, own in rows if place != address]
        on_host = [(out, own) for out, own in zip(made, self._own_outputs, strict=True) if isinstance(out, np.ndarray)]
        borrowed = inputs, made
        marks: list[Mark] = []

        def begin() -> Callable[[], None]:
            with self._lock, self._opened().entered():
                device = self._begin(stream)
                self._bind(self._place(device, inputs, stream), addresses)
                self._replay.run(_flags(inputs), stream)
                for place, own in copied:
                    device.copy(place, own.address, own.staging.nbytes, stream)
                for out, own in on_host:
                    device.read(own.address, _bytes(out), stream)
                mark = device.mark(stream)
                self._last = stream, mark
                self._held.append((mark, borrowed))
                marks[:] = [mark]
            return mark.wait

        given = [_lent(device, lease, type, marks) if isinstance(lease, Lease) else lease
                 for lease, type in zip(made, types, strict=True)]  # fmt: skip
        return Run(given, begin)

    def profile(
        self, inputs: Sequence[Any], seconds: float, measure_ceilings: bool, progress: Progress  # noqa: ARG002
    ) -> Profile:  # fmt: skip
        """The GPU says itself what it can do at best: nothing is measured for that."""
        from targets.cuda.profile import profile

        return profile(self, self._kernels, inputs, seconds, progress)

    def run_timed(self, inputs: Sequence[Any]) -> tuple[None, np.ndarray]:
        """Seconds of each launch's calls; the outputs are left where they are."""
        with self._lock:
            device = self._begin(None)
            self._bind(self._place(device, inputs, None), [own.address for own in self._own_outputs])
            return None, self._replay.time()

    def facts(self) -> Facts:
        """Of the GPU."""
        with self._lock:
            return self._opened().facts()

    def borrow(self, array: Any, device: tuple[int, int], stream: int | None) -> Borrowed | None:
        kind, number = device
        if kind == CUDA_MANAGED:
            kind = CUDA
        with self._lock:
            mine = self._opened()
            if (kind, number) != mine.memory:
                if kind == CUDA == mine.memory[0]:
                    raise UserError(f"it lies on GPU {number}, and the model on GPU {mine.memory[1]}")
                return None
            lent = borrow(array, device, mine.stream if stream is None else stream)
        if not lent.is_contiguous:
            raise UserError("it is not contiguous in C order on the GPU: give a contiguous copy")
        return lent

    def _opened(self) -> Device:
        if self._device is None:
            raise UserError("the model is closed")
        return self._device

    def _begin(self, stream: int | None) -> Device:
        """What the stream is asked for from now on comes after all other runs: they have their memory in common."""
        device = self._opened()
        if self._last is not None and self._last[0] != stream:
            self._last[1].hold(device.stream if stream is None else stream)
        while self._held and self._held[0][0].is_past:
            self._held.popleft()
        return device

    def _place(self, device: Device, inputs: Sequence[Any], stream: int | None) -> list[int]:
        """Where the inputs are on the device; those that were not come there."""
        addresses = []
        for number, (given, own) in enumerate(zip(inputs, self._own_inputs, strict=True)):
            stays = ("input", number) in self._replay.fixed
            if isinstance(given, Borrowed) and given.address % ALIGNMENT == 0 and not stays:
                addresses.append(given.address)
                continue
            if isinstance(given, Borrowed):
                device.copy(own.address, given.address, given.nbytes, stream)
            else:
                if own.staged is not None:
                    own.staged.wait()
                own.staging[:] = _bytes(given)
                device.write(own.address, own.staging, stream)
                own.staged = device.mark(stream)
            addresses.append(own.address)
        return addresses

    def close(self) -> None:
        """Waits for runs that go on."""
        with self._lock:
            device, self._device = self._device, None
            if device is not None:
                try:
                    for mark, _ in self._held:
                        mark.wait()
                finally:  # after a kernel that failed, too
                    self._held.clear()
                    device.close()


class _Own:
    """An input's or output's memory on the device and in the host, and what was asked for that reads the latter."""

    def __init__(self, device: Device, type: TensorType):
        self.address = device.allocate(type.nbytes)
        self.staging = device.staging(type.nbytes)
        self.staged: Mark | None = None


def _flags(inputs: Sequence[Any]) -> dict[int, bool]:
    """The inputs of one bool that are the host's, by their numbers."""
    return {
        number: bool(given) for number, given in enumerate(inputs)
        if isinstance(given, np.ndarray) and given.dtype == bool and given.size == 1
    }  # fmt: skip


def _bytes(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)


def _aligned(memory: Borrowed | Lease, label: str) -> int:
    if memory.address % ALIGNMENT:
        raise UserError(f"{label} does not begin at a multiple of {ALIGNMENT} bytes")
    return memory.address


def _check_apart(inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    read = [given for given in inputs if isinstance(given, Borrowed)]
    written = [given for given in outputs if isinstance(given, Borrowed)]
    for number, out in enumerate(written):
        for other in (*read, *written[:number]):
            if out.address < other.address + other.nbytes and other.address < out.address + out.nbytes:
                raise UserError("the buffer for an output overlaps an input, or the buffer for another output")


def _lent(device: Device, lease: Lease, type: TensorType, marks: Sequence[Mark]) -> DeviceArray:
    """`marks` has the one behind the last run that writes it."""

    def before(stream: int) -> None:
        marks[0].hold(stream)

    def read(out: np.ndarray) -> None:
        marks[0].wait()
        lease.read(out)

    return DeviceArray(lease.address, type.dtype, static_shape(type.shape), device.memory, lease, before, read)


def _load(program: CudaProgram, sections: Mapping[str, memoryview], device: Device) -> dict[str, object]:
    code = sections[CODE_SECTION]
    ptx, source = (zlib.decompress(sections[name]) for name in (PTX_SECTION, SOURCE_SECTION))

    def part(data: bytes | memoryview, place: tuple[int, int]) -> bytes:
        return bytes(data[place[0] : place[0] + place[1]])

    return {
        name: device.load(name, KernelCode(
            part(code, kernel.cubin), part(ptx, kernel.ptx), part(source, kernel.source).decode(), kernel.shared_bytes
        ))
        for name, kernel in program.kernels.items()
    }  # fmt: skip
