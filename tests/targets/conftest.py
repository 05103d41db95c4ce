"""Kernels put to the test: built, run inside guarded memory, compared with float64.

A kernel's buffers lie between pages that no access survives: against the end of their pages when all tasks run in one
call, against the beginning when they run one by one in random order, so that both an element too many and one too few
end the process. That process is a child of the test's; what it leaves is compared here, the bytes around each result
as well. Inputs are read-only to it.
"""

from __future__ import annotations

import ast
import ctypes
import faulthandler
import mmap
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from passes.legalize import is_mixed_product
from targets.cpu.codegen import build_object
from targets.cpu.kernels import Kernel, lower
from targets.cpu.machine import NAMED, Machine, detect, missing_features
from targets.cuda import gpu as gpus
from targets.cuda.codegen import print_kernel
from targets.cuda.compiler import Resources, compile_kernel
from targets.cuda.emulator import compile_for_host
from targets.cuda.gpu import Gpu
from targets.cuda.kernels import Kernel as CudaKernel
from targets.cuda.kernels import lower as lower_for_cuda
from tensorc.ir import Graph, TensorType, Value, evaluate, parse_graph, print_graph, verify
from tensorc.ir.types import DTYPES, STORED, is_float, numpy_dtype
from tensorc.toolchain import find_compiler

#: Hundreds of examples of each property, other ones in every run: for hunting, see test_cpu_kernels_random.
settings.register_profile(
    "campaign", max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)  # fmt: skip

_LIBC = ctypes.CDLL(None, use_errno=True)
#: What memory holds before: nan to every float type, then a large number. An element not written shows in one of them.
_FILLS = (0xFF, 0x5C)
_SECONDS = 60

#: Everything at once: both directions, a loop in a loop and in a branch, results that are the model's own.
_NESTED_LOOPS = """
graph @main(%x: f32[5,3,4], %h: f32[4], %c: bool[], %n: i64[]) {
  %w = constant [1.5, -0.5, 0.25, 2.0] : f32[4]
  %last, %sums, %back = loop(%h, %x, %x, %w, %c) {trips=5, carried=1, scanned=(0, 1), stacked=(0, 1)} {
    graph @outer(%i: i64[], %s: f32[4], %rows: f32[3,4], %other: f32[3,4], %w: f32[4], %c: bool[]) {
      %e, %steps = loop(%s, %rows, %w) {trips=3, carried=1, scanned=(1,), stacked=(0,)} {
        graph @inner(%j: i64[], %t: f32[4], %row: f32[4], %v: f32[4]) {
          %u = mul(%row, %v) : f32[4]
          %a = add(%t, %u) : f32[4]
          %b = tanh(%a) : f32[4]
          return %b, %a
        }
      } : f32[4], f32[3,4]
      %f = if(%c, %e, %i) {
        graph @yes(%p: f32[4], %i: i64[]) {
          %k = cast(%i) {to='float32'} : f32[]
          %q = add(%p, %k) : f32[4]
          return %q
        }
        graph @no(%p: f32[4], %i: i64[]) { return %p }
      } : f32[4]
      %sum = reduce_sum(%steps) {axes=(0,), keepdims=0} : f32[4]
      %both = add(%other, %f) : f32[3,4]
      return %f, %sum, %both
    }
  } : f32[4], f32[5,4], f32[5,3,4]
  %zero = constant 0 : i64[]
  %start = less(%zero, %n) : bool[]
  %go, %grown = loop(%start, %last, %n) {trips=9223372036854775807, carried=2, conditional=1} {
    graph @while(%i: i64[], %go: bool[], %s: f32[4], %n: i64[]) {
      %one = constant 1 : i64[]
      %next = add(%i, %one) : i64[]
      %more = less(%next, %n) : bool[]
      %t = add(%s, %s) : f32[4]
      return %more, %t
    }
  } : bool[], f32[4]
  %same = loop(%h) {trips=0, carried=1} {
    graph @never(%i: i64[], %s: f32[4]) {
      %t = neg(%s) : f32[4]
      return %t
    }
  } : f32[4]
  return %last, %sums, %back, %grown, %go, %same
}
"""


@pytest.fixture(scope="session")
def nested_loops() -> str:
    """A graph @main(%x: f32[5,3,4], %h: f32[4], %c: bool[], %n: i64[]), where %c chooses a branch of each iteration and
    %n ends a loop."""
    return _NESTED_LOOPS


def type_of(text: str) -> TensorType:
    """`f32[2,3]` as a type."""
    short, _, extents = text.rstrip("]").partition("[")
    return TensorType(DTYPES[short], tuple(int(extent) for extent in extents.split(",") if extent))


def body_of(expression: str, **types: str) -> Graph:
    """A group's body from an expression over its inputs: `relu(add(x, y))` with x="f32[2,3]", y="f32[3]".

    Attributes are keywords, `(a := f(x))` names what is used again, a number is a scalar of the type before it,
    `full("f32[2,3]", 1.5)` a constant of that type, and `and_` the operator that Python has no name for.
    """
    graph = Graph("body")
    known = {name: graph.add_input(name, type_of(text)) for name, text in types.items()}

    def build(part: ast.expr, like: str) -> Value:
        match part:
            case ast.NamedExpr():
                known[part.target.id] = build(part.value, like)
                return known[part.target.id]
            case ast.Name():
                return known[part.id]
            case ast.Call(func=ast.Name(id="full"), args=[ast.Constant(text), value]):
                type = type_of(text)
                scalar = np.asarray(ast.literal_eval(value), numpy_dtype(type.dtype))
                return graph.constant(np.broadcast_to(scalar, type.shape))
            case ast.Call():
                operands: list[Value] = []
                for argument in part.args:
                    operands.append(build(argument, operands[-1].dtype if operands else "float32"))
                attrs = {keyword.arg: ast.literal_eval(keyword.value) for keyword in part.keywords}
                return graph.add(part.func.id.rstrip("_"), operands, attrs)
            case _:
                return graph.constant(ast.literal_eval(part), like)

    graph.outputs = [build(ast.parse(expression, mode="eval").body, "float32")]
    verify(graph)
    return graph


def random_array(type: TensorType, rng: np.random.Generator) -> np.ndarray:
    dtype = numpy_dtype(type.dtype)
    if is_float(type.dtype):
        return rng.standard_normal(type.shape).astype(dtype)
    if type.dtype == "bool":
        return rng.integers(0, 2, type.shape).astype(bool)
    return rng.integers(0 if type.dtype.startswith("u") else -9, 10, type.shape).astype(dtype)


def expected(graph: Graph, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of `graph` with the floats that kernels compute in replaced by float64, unless it looks at bits."""
    if any(node.op == "bitcast" for node in graph.nodes):
        return evaluate(graph, arrays)
    text = re.sub(r"\b(f16|f32)(?=\[)", "f64", print_graph(graph))
    for node in filter(is_mixed_product, graph.nodes):
        text = text.replace(f"%{node.inputs[1].name}: bf16[", f"%{node.inputs[1].name}: f64[")
    wide = parse_graph(re.sub(r"'(float16|float32)'", "'float64'", text))
    return evaluate(
        wide, {value.name: arrays[value.name].astype(numpy_dtype(value.dtype)) for value in wide.inputs}
    )  # fmt: skip


class _Guarded:
    """`nbytes` of memory that a child shares, between pages without access; `placed` at the end of its own or not."""

    def __init__(self, nbytes: int, at_end: bool, fill: int, alignment: int):
        page = mmap.PAGESIZE
        self.nbytes = nbytes
        self.inner = max(-(-nbytes // page), 1) * page
        self.map = mmap.mmap(-1, self.inner + 2 * page)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        self.offset = page + ((self.inner - nbytes) // alignment * alignment if at_end else 0)
        self.bytes = np.frombuffer(self.map, np.uint8)
        self.bytes[:] = fill
        self.fill = fill
        self._protect(self.base, page, 0)
        self._protect(self.base + page + self.inner, page, 0)

    @staticmethod
    def _protect(address: int, nbytes: int, access: int) -> None:
        if _LIBC.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(nbytes), access):
            raise OSError(ctypes.get_errno(), "mprotect")

    @property
    def address(self) -> int:
        return self.base + self.offset

    @property
    def data(self) -> np.ndarray:
        return self.bytes[self.offset : self.offset + self.nbytes]

    def read_only(self) -> None:
        self._protect(self.base + mmap.PAGESIZE, self.inner, mmap.PROT_READ)

    def around_untouched(self) -> bool:
        page = mmap.PAGESIZE
        before = self.bytes[page : self.offset]
        after = self.bytes[self.offset + self.nbytes : page + self.inner]
        return bool((before == self.fill).all() and (after == self.fill).all())


@dataclass(frozen=True)
class _Case:
    label: str
    graph: Graph
    kernel: Kernel | CudaKernel
    arrays: Mapping[str, np.ndarray]
    tolerance: float

    @property
    def alignment(self) -> int:
        """GPUs' kernels move 16 bytes at once; inputs of a CPU's come from anybody's memory."""
        return 16 if isinstance(self.kernel, CudaKernel) else 1

    def memory(self, at_end: bool, fill: int) -> tuple[list[_Guarded], list[_Guarded], list[_Guarded]]:
        """Inputs, outputs, scratch."""
        inputs = []
        for number, value in enumerate(self.graph.inputs):
            array = self.arrays[value.name]
            packing = self.kernel.packings.get(number)
            if packing is not None:
                array = packing.apply(array)
                assert array.shape == packing.shape, self.label
            array = np.ascontiguousarray(array)
            inputs.append(_Guarded(array.nbytes, at_end, fill, self.alignment))
            inputs[-1].data[:] = array.reshape(-1).view(np.uint8)
            inputs[-1].read_only()
        outputs = [_Guarded(value.type.nbytes, at_end, fill, self.alignment) for value in self.graph.outputs]
        scratch = [_Guarded(n, at_end, fill, self.alignment) for n in [self.kernel.scratch_bytes] if n]
        return inputs, outputs, scratch

    def compare(self, outputs: list[_Guarded]) -> None:
        for value, memory, wanted in zip(self.graph.outputs, outputs, expected(self.graph, self.arrays), strict=True):
            got = memory.data.copy().view(numpy_dtype(value.dtype)).reshape(value.shape)
            if value.dtype == "bool":
                assert memory.data.max(initial=0) <= 1, f"{self.label}: a boolean that is neither 0 nor 1"
            assert wanted.shape == got.shape, self.label
            if not is_float(value.dtype):
                # Equal nan is equal; numpy does not know the nan of the types that are not its own.
                got, wanted = (a.astype(np.float64) if value.dtype in STORED else a for a in (got, wanted))
                np.testing.assert_array_equal(got, wanted, err_msg=self.label)
                continue
            finite = np.abs(wanted[np.isfinite(wanted)])
            allowed = self.tolerance * max(finite.max(initial=0), 1e-30)
            with np.errstate(over="ignore"):  # casting a number beyond the type's range: infinity, as it should be
                limit = wanted.astype(numpy_dtype(value.dtype)).astype(np.float64)
            np.testing.assert_allclose(got.astype(np.float64), limit, 0, allowed, err_msg=self.label)


class Batch:
    """Kernels built into one shared object; calling it adds one."""

    def __init__(self, machine: Machine, folder: Path):
        self.machine = machine
        self.folder = folder
        self.cases: list[_Case] = []

    def __call__(self, expression: str | Graph, data: Mapping[str, object] | None = None, tolerance: float = 2e-6,
                 schedule: Mapping[str, object] | None = None, **types: str) -> Kernel:  # fmt: skip
        """Check the kernel of `expression` on random inputs, those that `data` names excepted. `tolerance` is relative
        to the largest element of a result."""
        graph = expression if isinstance(expression, Graph) else body_of(expression, **types)
        label = f"{self.machine.name}: {expression} {types} {schedule or ''}"
        rng = np.random.default_rng(len(self.cases))
        arrays = {value.name: random_array(value.type, rng) for value in graph.inputs}
        for name, given in (data or {}).items():
            like = arrays[name]
            arrays[name] = np.broadcast_to(np.asarray(given).astype(like.dtype), like.shape)
        kernel = self._lower(graph, schedule)
        self.cases.append(_Case(label, graph, kernel, arrays, tolerance))
        return kernel

    def _lower(self, graph: Graph, schedule: Mapping[str, object] | None) -> Kernel:
        kernel = lower(graph, self.machine, schedule)
        assert kernel.tasks >= 1
        return kernel

    def run(self, compare: bool = True) -> None:
        """Raise AssertionError for the first kernel that crashes, writes outside its outputs or gives other results."""
        library = self._build()
        for at_end, fill in zip((True, False), _FILLS, strict=True):
            memory = [case.memory(at_end, fill) for case in self.cases]
            current = mmap.mmap(-1, 4)
            child = os.fork()
            if child == 0:
                self._run_in_child(library, memory, current, one_by_one=not at_end)
            _, status = os.waitpid(child, 0)
            case = self.cases[int.from_bytes(current[:4], "little")]
            if status:
                how = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"status {status}"
                raise AssertionError(f"{case.label} ended with {how}\n{case.graph}")
            for case, (_, outputs, scratch) in zip(self.cases, memory, strict=True):
                assert all(m.around_untouched() for m in (*outputs, *scratch)), f"{case.label} wrote outside"
                if compare:
                    case.compare(outputs)

    def _build(self) -> ctypes.CDLL:
        functions = {f"k{number}": case.kernel.function for number, case in enumerate(self.cases)}
        built = self.folder / "kernels.o"
        build_object(functions, self.machine, built)
        # A name of its own: the loader takes a path that it has opened before for what was there then.
        library = Path(tempfile.mkstemp(".so", dir=self.folder)[1])
        subprocess.run([*find_compiler(), "-shared", "-o", library, built, "-lm"], check=True)
        return ctypes.CDLL(str(library))

    def _run_in_child(self, library: ctypes.CDLL, memory: list, current: mmap.mmap, one_by_one: bool) -> None:
        try:
            faulthandler.disable()
            for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL):
                signal.signal(number, signal.SIG_DFL)  # TVM's handler prints its own stack
            signal.alarm(_SECONDS)
            rng = np.random.default_rng(0)
            for number, (case, buffers) in enumerate(zip(self.cases, memory, strict=True)):
                current[:4] = number.to_bytes(4, "little")
                addresses = [m.address for kind in buffers for m in kind]
                self._call(library[f"k{number}"], case.kernel, addresses, rng if one_by_one else None)
            os._exit(0)
        finally:
            os._exit(1)

    def _call(self, function: Any, kernel: Kernel, addresses: list[int], rng: np.random.Generator | None) -> None:
        """All tasks in one call or, with `rng`, one by one."""
        ranges = [(0, kernel.tasks)]
        if rng is not None:
            ranges = [(task, task + 1) for task in rng.permutation(kernel.tasks).tolist()]
        for begin, end in ranges:
            function(*map(ctypes.c_void_p, addresses), begin, end)


@dataclass(frozen=True)
class Kernels:
    """The kernels of one machine. `block` is the number of channels in a block of its layouts."""

    machine: Machine
    folder: Path

    @property
    def block(self) -> int:
        return self.machine.vector_bits // 32

    @contextmanager
    def batch(self) -> Iterator[Batch]:
        """What is added within is built, run and compared at the end."""
        batch = self.new_batch()
        yield batch
        batch.run()

    def new_batch(self) -> Batch:
        return Batch(self.machine, self.folder)

    def check(self, *args: object, **kwargs: object) -> None:
        """A batch of one."""
        with self.batch() as batch:
            batch(*args, **kwargs)

    @staticmethod
    def body(expression: str, **types: str) -> Graph:
        return body_of(expression, **types)

    def lower(self, expression: str, **types: str) -> Kernel:
        return lower(body_of(expression, **types), self.machine)


#: This machine, and narrower ones whose code runs on it too: other registers, other blocks, other instructions.
MACHINES = [detect(), *(m for name in ("x86-64-v3", "x86-64-v2") if not missing_features((m := NAMED[name]).features))]


@pytest.fixture(scope="session", params=MACHINES, ids=lambda machine: machine.mcpu)
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    return Kernels(request.param, tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    """The kernels of this machine only."""
    return Kernels(detect(), tmp_path_factory.mktemp("kernels"))


# CUDA ------------------------------------------------------------------------------------------------------


class CudaBatch(Batch):
    """The same for CUDA kernels: their own text, compiled by g++, each thread of a block in its turn; and compiled by
    NVRTC for a GPU, whose report is `resources`, by the number of the case. What threads read before it is written is
    nan; so is scratch memory."""

    machine: Gpu
    resources: list[Resources]

    def _lower(self, graph: Graph, schedule: Mapping[str, object] | None) -> CudaKernel:
        return lower_for_cuda(graph, self.machine, schedule)

    def _build(self) -> dict[str, Any]:
        self.resources = []
        built = {}
        for number, case in enumerate(self.cases):
            name = f"k{number}"
            source = print_kernel(case.kernel.function, name)
            self.resources.append(compile_kernel(source, name, self.machine).resources)
            built[name] = compile_for_host(name, source)
        return built

    def _call(self, function: Any, kernel: CudaKernel, addresses: list[int], rng: np.random.Generator | None) -> None:
        del rng  # the blocks go in one order
        counters = (ctypes.c_int32 * max(kernel.counters, 1))()
        if kernel.counters:
            addresses = [*addresses, ctypes.addressof(counters)]
        arguments = (ctypes.c_void_p * len(addresses))(*addresses)
        error = function(kernel.blocks, kernel.threads, kernel.shared_bytes, ctypes.addressof(arguments))
        if error:
            raise RuntimeError(error.decode())
        if any(counters):
            raise RuntimeError(f"counters are left at {list(counters)}")


@dataclass(frozen=True)
class CudaKernels(Kernels):
    machine: Gpu

    @property
    def block(self) -> int:
        return 8

    def new_batch(self) -> CudaBatch:
        return CudaBatch(self.machine, self.folder)


@pytest.fixture(scope="session")
def cuda(tmp_path_factory: pytest.TempPathFactory) -> CudaKernels:
    """The CUDA kernels of one architecture, emulated."""
    return CudaKernels(gpus.NAMED["sm_90"], tmp_path_factory.mktemp("cuda"))
