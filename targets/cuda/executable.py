"""Runs a CUDA artifact: constants go to the device when it is loaded, a run is one replay of its recorded launches."""

from __future__ import annotations

import contextlib
import threading
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from targets.cuda.device import Call, Device, KernelCode
from targets.cuda.program import CODE_SECTION, PTX_SECTION, SOURCE_SECTION, Argument, CudaProgram
from tensorc.errors import UserError
from tensorc.ir.dims import static_shape
from tensorc.ir.types import numpy_dtype
from tensorc.target import Executable


class CudaExecutable(Executable):
    """A loaded model on `device`, which it closes in the end. Runs from several threads take turns."""

    def __init__(self, manifest: Mapping[str, Any], sections: Mapping[str, memoryview],
                 constants: Sequence[memoryview], device: Device):  # fmt: skip
        self.program = CudaProgram.from_json(manifest)
        self.device: Device | None = device
        self._lock = threading.Lock()
        with contextlib.ExitStack() as stack:
            stack.callback(device.close)
            self._recording = self._prepare(sections, constants, device)
            stack.pop_all()

    def _prepare(self, sections: Mapping[str, memoryview], constants: Sequence[memoryview], device: Device) -> object:
        program = self.program
        self._inputs = [device.allocate(max(type.nbytes, 1)) for type in program.inputs]
        self._outputs = [device.allocate(max(type.nbytes, 1)) for type in program.outputs]
        bases = {
            ("arena", 0): device.allocate(max(program.arena_bytes, 1)),
            ("scratch", 0): device.allocate(max(program.scratch_bytes, 1)),
            ("counters", 0): device.allocate(max(program.counter_bytes, 1)),
            **{("input", number): address for number, address in enumerate(self._inputs)},
            **{("output", number): address for number, address in enumerate(self._outputs)},
        }
        device.clear(bases["counters", 0], program.counter_bytes)
        for number, constant in enumerate(constants):
            address = bases["constant", number] = device.allocate(max(constant.nbytes, 1))
            device.write(address, np.frombuffer(constant, np.uint8))
        kernels = _load(program, sections, device)

        def address_of(argument: Argument) -> int:
            return bases[argument.space, argument.index] + argument.offset

        calls = []
        for launch in program.launches:
            code = program.kernels[launch.kernel]
            addresses = tuple(map(address_of, launch.arguments))
            calls.append(
                Call(launch.label, kernels[launch.kernel], code.blocks, code.threads, code.shared_bytes, addresses)
            )
        return device.record(calls)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        outputs = [np.empty(static_shape(type.shape), numpy_dtype(type.dtype)) for type in self.program.outputs]
        with self._lock:
            device = self.device
            if device is None:
                raise UserError("the model is closed")
            for address, data in zip(self._inputs, inputs, strict=True):
                device.write(address, data)
            device.replay(self._recording)
            for address, out in zip(self._outputs, outputs, strict=True):
                device.read(address, out)
        return outputs

    def close(self) -> None:
        with self._lock:
            device, self.device = self.device, None
        if device is not None:
            device.close()


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
