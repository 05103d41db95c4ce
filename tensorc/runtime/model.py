"""A compiled model, run in the manner of an ONNX Runtime session.

This is all that a program needs which only runs models, so it imports neither a compiler nor ONNX. Inputs are
checked here, once and for every target; the target's executable then gets contiguous arrays of the right types: numpy's
or, where it can read the memory of another library's array, that array as it lies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from tensorc.errors import UserError
from tensorc.ir.types import numpy_dtype
from tensorc.runtime.artifact import Artifact, replaced_file
from tensorc.runtime.constants import SECTION, views
from tensorc.runtime.dlpack import CPU, CUDA_HOST, Borrowed, device_of, on_host
from tensorc.runtime.run import Run
from tensorc.target import Executable, Target, find_target, writer_of

#: ONNX spells these element types otherwise than numpy.
_ONNX_NAMES = {"float32": "float", "float64": "double"}


@dataclass(frozen=True)
class TensorInfo:
    """An input or output: its name, numpy's name of its element type, its shape.

    A free axis is its name, or None, or the sizes that it may have, as "1..8"; None is a shape of free rank. `form` is
    "tensor", "sequence" (of such tensors) or "optional".
    """

    name: str
    dtype: str
    shape: list[int | str | None] | None
    form: str = "tensor"

    @property
    def type(self) -> str:
        """The type as ONNX Runtime writes it, such as ``tensor(float)``."""
        tensor = f"tensor({_ONNX_NAMES.get(self.dtype, self.dtype)})"
        return {"tensor": tensor, "sequence": f"seq({tensor})", "optional": f"optional({tensor})"}[self.form]

    @property
    def is_static(self) -> bool:
        """Whether it is a tensor of one shape."""
        return self.form == "tensor" and self.shape is not None and all(isinstance(dim, int) for dim in self.shape)

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor may have this shape."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(map(_is_size, shape, self.shape))


def _is_size(size: int, wanted: int | str | None) -> bool:
    if isinstance(wanted, int):
        return size == wanted
    least, dots, most = (wanted or "").partition("..")
    return not dots or int(least) <= size <= int(most)


#: Reads an array of another library where it lies, if the target can.
_Borrow = Callable[[Any, tuple[int, int]], Borrowed | None]


class _Slot:
    """What one input or output must be, in the form that is quickest to compare."""

    def __init__(self, info: TensorInfo, kind: str):
        self.label = f"{kind} {info.name!r}"
        self.name = info.name
        self.form = info.form
        self.dtype = numpy_dtype(info.dtype)
        self.info = info
        #: None where axes are free.
        self.shape = tuple(info.shape) if info.shape is not None and info.is_static else None

    def accept(self, value: Any, borrowing: _Borrow) -> Any:
        if self.form == "tensor":
            return self._tensor(value, borrowing)
        if value is None and self.form == "optional":
            return None
        if isinstance(value, (list, tuple)):
            return [self._typed(item) for item in value]
        if self.form == "sequence":
            raise UserError(f"{self.label} must be a list of arrays, not one {type(value).__name__}")
        return self._typed(value)

    def accept_buffer(self, value: Any, borrowing: _Borrow) -> Any:
        """To be written to."""
        is_numpy = isinstance(value, np.ndarray)
        if not is_numpy and not hasattr(value, "__dlpack__"):
            raise UserError(f"{self.label} cannot be written to an object of type {type(value).__name__}")
        if self.form != "tensor":
            raise UserError(f"{self.label} is no tensor, so it has no buffer")
        found = self._tensor(value, borrowing)
        if isinstance(found, Borrowed):
            is_fit = found.is_contiguous and found.is_writable
        else:  # numpy's own, or a view of it; a copy has memory of its own
            is_fit = (found is value or not (is_numpy or found.flags.owndata)) and found.flags.writeable
        if not is_fit:
            raise UserError(f"{self.label} needs a buffer that is C-contiguous and may be written to")
        return found

    def _tensor(self, value: Any, borrowing: _Borrow) -> Any:
        device = device_of(value)
        if device is None:
            return self._shaped(self._typed(value))
        try:
            found = borrowing(value, device)
            if found is None and device[0] not in (CPU, CUDA_HOST):
                raise UserError("it does not lie where this model runs: it must be in the host's memory")
            array = found or on_host(value, device)
        except UserError as error:
            raise UserError(f"{self.label}: {error}") from error
        self._check_type(numpy_dtype(array.dtype) if isinstance(array, Borrowed) else array.dtype)
        return self._shaped(array)

    def _shaped(self, array: Any) -> Any:
        if array.shape != self.shape and not self.info.admits(array.shape):
            raise UserError(f"{self.label} has shape {list(array.shape)}; it must be {self.info.shape}")
        return array

    def _typed(self, value: Any) -> np.ndarray:
        array = np.asarray(value, order="C")
        if self.dtype == object and array.dtype.kind in "US":
            return array.astype(object)
        self._check_type(array.dtype)
        return array

    def _check_type(self, dtype: np.dtype) -> None:
        if dtype != self.dtype:
            raise UserError(f"{self.label} has element type {_dtype_name(dtype)}; it must be {self.dtype}")


def _dtype_name(dtype: np.dtype) -> str:
    return str(dtype) if dtype.isnative else f"{dtype.name} with bytes swapped"


class Model:
    """A loaded model. `run` may be called from several threads at once; use it as a context manager, or `close` it."""

    def __init__(self, artifact: Artifact | None, executable: Executable, manifest: dict[str, Any] | None = None):
        """`manifest` is that of what is no artifact."""
        assert artifact is not None or manifest is not None
        self.manifest: dict[str, Any] = artifact.manifest if artifact is not None else manifest or {}
        self._artifact = artifact
        self._executable: Executable | None = executable
        self._inputs = [TensorInfo(**row) for row in self.manifest["inputs"]]
        self._outputs = [TensorInfo(**row) for row in self.manifest["outputs"]]
        self._slots = [_Slot(info, "input") for info in self._inputs]
        self._buffers = [_Slot(info, "output") for info in self._outputs]
        self._output_index = {info.name: index for index, info in enumerate(self._outputs)}

    def run(self, output_names: Sequence[str] | None, feed: Mapping[str, Any]) -> list[Any]:
        """The named outputs, all of them for None, given every input by name.

        A sequence is a list of arrays, an optional that holds nothing is None. Arrays of other libraries are taken by
        DLPack: one that lies on the device that the model runs on is read there.

        Raises UserError where a name, an element type or a shape is not the model's.
        """
        outputs = self.executable.run(self.bind(feed))
        if not output_names:
            return outputs
        self._check_outputs(output_names)
        return [outputs[self._output_index[name]] for name in output_names]

    def run_async(
        self, feed: Mapping[str, Any], outputs: Mapping[str, Any] | None = None, stream: int | None = None
    ) -> Run:
        """Begin a run, whose outputs stay where the model runs.

        `outputs` has buffers of the caller's, by name, of the types and shapes that `get_outputs` says: what they had
        is overwritten, and none may overlap another or an input. Other outputs are new arrays; buffers that are used
        again save that. Inputs must not change until the run has read them: until `wait`, or until the work that
        `stream` was given up to now is done.

        `stream` is a handle of a CUDA stream, such as `torch.cuda.current_stream().cuda_stream`: the run takes its turn
        there. Without one it goes on a stream of the model's own, which arrays of other libraries have wait until they
        are written; `wait` before buffers are read, or before inputs are written again. On a target that runs on the
        CPU, the run is done when this returns; on a GPU, a model with branches or loops that data decide about has made
        its last decision. `Run.again` makes another from and to the same memory, in less time.

        Raises UserError as `run` does.
        """
        self._check_outputs(outputs or {})
        executable = self.executable

        def lent(value: Any, device: tuple[int, int]) -> Borrowed | None:
            return executable.borrow(value, device, stream)

        inputs = self._bound(feed, lent)
        buffers = [(outputs or {}).get(slot.name) for slot in self._buffers]
        places = [
            None if buffer is None else slot.accept_buffer(buffer, lent)
            for slot, buffer in zip(self._buffers, buffers, strict=True)
        ]
        run = executable.run_async(inputs, places, stream)
        run.outputs = [made if buffer is None else buffer for made, buffer in zip(run.outputs, buffers, strict=True)]
        return run

    def bind(self, feed: Mapping[str, Any]) -> list[Any]:
        """The arrays of `feed` in the order of the inputs, checked; copied only if they are not contiguous."""
        executable = self.executable
        return self._bound(feed, lambda value, device: executable.borrow(value, device, None))

    def _bound(self, feed: Mapping[str, Any], lent: _Borrow) -> list[Any]:
        if len(feed) != len(self._slots) or any(slot.name not in feed for slot in self._slots):
            raise UserError(self._name_fault(feed))
        return [slot.accept(feed[slot.name], lent) for slot in self._slots]

    def _check_outputs(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._output_index:
                raise UserError(f"no output is named {name!r}; outputs: {', '.join(self._output_index)}")

    def _name_fault(self, feed: Mapping[str, np.ndarray]) -> str:
        names = [slot.name for slot in self._slots]
        legal = f"inputs: {', '.join(names) or 'none'}"
        unknown = [name for name in feed if name not in names]
        if unknown:
            return f"no input is named {unknown[0]!r}; {legal}"
        return f"input {next(name for name in names if name not in feed)!r} is missing; {legal}"

    def get_inputs(self) -> list[TensorInfo]:
        return list(self._inputs)

    def get_outputs(self) -> list[TensorInfo]:
        return list(self._outputs)

    @property
    def executable(self) -> Executable:
        """The target's own handle, for what only that target can do, such as timing steps."""
        if self._executable is None:
            raise UserError(f"model {self.manifest['name']!r} is closed")
        return self._executable

    @property
    def threads(self) -> int:
        """Threads that one run uses on the host. Executables that run elsewhere have no such attribute."""
        return int(getattr(self.executable, "threads", 1))

    @property
    def summary(self) -> list[tuple[str, str]]:
        """Rows (label, value) that tell a person what was built."""
        return [(label, value) for label, value in self.manifest["summary"]]

    def save(self, path: str | Path) -> None:
        """Write the artifact to `path`, whole or not at all; it may be the file that the model was loaded from."""
        if self._artifact is None:
            raise UserError(f"{self.manifest['name']!r} is no artifact: what was written can be copied as it is")
        with replaced_file(Path(path)) as file:
            file.write(self._artifact.data)

    def close(self) -> None:
        """Stop the threads and let go of the memory. Closing twice is harmless."""
        if self._executable is not None:
            self._executable.close()
            self._executable = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(path: str | Path, threads: int = 0) -> Model:
    """Load an artifact, or what another target wrote, and make it runnable here. `threads` of 0 leaves the number to
    the target.

    Raises UserError for a file that is not a sound artifact, a target that is not installed, or a machine that
    lacks what the code was built for.
    """
    if threads < 0:
        raise UserError(f"threads is {threads}; it must be 0, for the default, or more")
    if Path(path).suffix != Target.suffix and (writer := writer_of(Path(path))) is not None:
        manifest = writer.manifest(Path(path))
        return Model(None, writer.open(Path(path)), manifest)
    artifact = Artifact.open(path)
    sections = {name: artifact.section(name) for name in artifact.names}
    if "specialise" in artifact.manifest or "programs" in artifact.manifest:
        from tensorc.dynamic.artifact import load_ahead, load_dynamic

        load_ = load_ahead if "programs" in artifact.manifest else load_dynamic
        return Model(artifact, load_(artifact.manifest, sections, threads))
    target = find_target(artifact.manifest["target"])
    constants = views(sections.get(SECTION, memoryview(b"")), artifact.manifest.get(SECTION, []))
    model = Model(artifact, target.load(artifact.manifest["program"], sections, constants, threads))
    if artifact.manifest.get("memory_budget"):
        artifact.release()
    return model
