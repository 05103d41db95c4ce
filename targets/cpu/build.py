"""A fused graph to a CPU program: a kernel for each distinct workload, a step for each group, one shared object."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np

from passes.memory import ALIGNMENT, MemoryPlan, Place, Space, plan_memory
from targets.cpu.codegen import build_object
from targets.cpu.kernels import Kernel, Packing, lower, lowered_anchors
from targets.cpu.link import link, print_steps
from targets.cpu.machine import Machine, available_cores
from targets.cpu.program import (
    ARENA,
    CODE_SECTION,
    FIRST_INPUT,
    SCRATCH,
    WEIGHTS,
    WEIGHTS_SECTION,
    Argument,
    Branch,
    Carried,
    Control,
    CpuProgram,
    Loop,
    Repeat,
    Slice,
    Step,
)
from tensorc.errors import UnsupportedError
from tensorc.ir import OPS, Graph, Kind, Node, Value
from tensorc.ir.cost import work
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import nested
from tensorc.ir.types import numpy_dtype
from tensorc.lowering.indexing import lowered_ops
from tensorc.search.choice import Choice
from tensorc.target import Program, Progress
from tensorc.workload import workload_key, workload_label

#: Steps that touch fewer elements than this are done by the calling thread: waking others would take longer.
_SERIAL_WORK = 20_000


def build(graph: Graph, machine: Machine, threads: int, schedules: Mapping[str, Choice], progress: Progress) -> Program:
    """Raises UnsupportedError, naming all at once, when the graph holds operators without a kernel."""
    _check_supported(graph)
    plan = plan_memory(graph)
    groups = [node for part in nested(graph) for node in part.nodes if node.body is not None]
    kernels = _kernels(groups, machine, schedules)
    weights = _Weights()
    steps = _Steps(graph, {node: kernels[_key(node)] for node in groups}, plan, weights).steps
    program = CpuProgram(
        steps=tuple(steps),
        inputs=tuple(value.type for value in graph.inputs),
        outputs=tuple(value.type for value in graph.outputs),
        arena_bytes=plan.arena_bytes,
        scratch_bytes=max((kernel.scratch_bytes for _, kernel in kernels.values()), default=0),
        features=tuple(sorted(machine.features)),
        threads=threads,
        pointers=plan.pointers,
    )
    functions = {name: kernel.function for name, kernel in kernels.values()}
    manifest = program.to_json() | {
        "machine": machine.name,
        "kernels": _described(groups, kernels, schedules),
    }
    summary = [
        ("kernels", f"{len(functions)} for {len(steps)} steps"),
        ("activation memory", f"{_mib(plan.arena_bytes)} planned, {_mib(plan.unplanned_bytes)} without a plan"),
        ("weights", _mib(weights.nbytes)),
    ]
    code = _code(functions, program, machine, progress)
    return Program({CODE_SECTION: [code], WEIGHTS_SECTION: weights.chunks()}, manifest, summary)


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:.1f} MiB"


def _check_supported(graph: Graph) -> None:
    known = lowered_ops() | lowered_anchors() | {"group", "if", "loop"}
    missing: Counter[str] = Counter()
    for node in (node for part in nested(graph) for node in part.nodes):
        for inner in node.body.nodes if node.body is not None else [node]:
            kind = OPS[inner.op].kind
            if inner.op not in known and kind is not Kind.REDUCTION and kind is not Kind.VIEW:
                missing[inner.op] += 1
    if missing:
        listed = ", ".join(f"{op} ({count})" for op, count in sorted(missing.items()))
        raise UnsupportedError(f"the cpu target has no kernel for: {listed}")


def _key(node: Node) -> str:
    assert node.body is not None
    return workload_key(node.body)


def _kernels(groups: list[Node], machine: Machine, schedules: Mapping[str, Choice]) -> dict[str, tuple[str, Kernel]]:
    """Workload key -> name and kernel, in the order of first use."""
    kernels: dict[str, tuple[str, Kernel]] = {}
    for node in groups:
        assert node.body is not None
        key = _key(node)
        if key not in kernels:
            name = f"k{len(kernels)}_" + workload_label(node.body).replace("+", "_")[:48]
            choice = schedules.get(key)
            kernels[key] = name, lower(node.body, machine, choice.schedule if choice else None)
    return kernels


def _described(groups: list[Node], kernels: Mapping[str, tuple[str, Kernel]],
               schedules: Mapping[str, Choice]) -> dict[str, Any]:  # fmt: skip
    """What people and profiles want to know of each kernel."""
    rows = {}
    for node in groups:
        name, kernel = kernels[_key(node)]
        if name not in rows:
            assert node.body is not None
            amount = work(node.body)
            choice = schedules.get(_key(node))
            rows[name] = {
                "schedule": kernel.schedule,
                "origin": choice.origin if choice else "default" if kernel.schedule else "only",
                "predicted_seconds": choice.predicted_seconds if choice else None,
                "predicted_deviation": choice.deviation if choice else None,
                "flops": amount.flops,
                "bytes": amount.nbytes,
            }
    return rows


class _Weights:
    """The weights section: every constant that is read, as its readers read it, loaded and written one at a time."""

    def __init__(self) -> None:
        self._offsets: dict[tuple[Value, str], int] = {}
        self._parts: list[tuple[Value, Packing | None]] = []
        self.nbytes = 0

    def offset(self, value: Value, packing: Packing | None) -> int:
        """Where the bytes of `value`, packed so, lie: at a multiple of `ALIGNMENT`."""
        key = value, packing.name if packing else ""
        if key not in self._offsets:
            self._offsets[key] = self.nbytes
            self._parts.append((value, packing))
            elements = math.prod(packing.shape) if packing else value.type.size
            nbytes = elements * numpy_dtype(value.dtype).itemsize
            self.nbytes += -(-nbytes // ALIGNMENT) * ALIGNMENT
        return self._offsets[key]

    def chunks(self) -> Iterator[Any]:
        for value, packing in self._parts:
            assert value.constant is not None
            data = value.constant.numpy()
            if packing is not None:
                data = packing.apply(data)
                assert data.shape == packing.shape, f"{packing.name} gave {data.shape}, not {packing.shape}"
            yield np.ascontiguousarray(data).reshape(-1).view(np.uint8)
            if rest := -data.nbytes % ALIGNMENT:
                yield bytes(rest)


class _Steps:
    """The steps of a graph in order, those of regions where their node stands."""

    def __init__(self, graph: Graph, kernels: Mapping[Node, tuple[str, Kernel]], plan: MemoryPlan, weights: _Weights):
        self.kernels = kernels
        self.plan = plan
        self.weights = weights
        outputs = FIRST_INPUT + len(graph.inputs)
        self.first = {
            Space.ARENA: ARENA,
            Space.INPUT: FIRST_INPUT,
            Space.OUTPUT: outputs,
            Space.POINTER: outputs + len(graph.outputs),
        }
        self.steps: list[Step | Control] = []
        self._add(graph, 1)

    def _add(self, graph: Graph, calls: int) -> None:
        for node in graph.nodes:
            if node.body is not None:
                self.steps.append(self._step(node, *self.kernels[node], calls))
            elif node.op == "loop":
                self._loop(node, calls)
            elif node.op == "if":
                self._if(node, calls)

    def _step(self, node: Node, name: str, kernel: Kernel, calls: int) -> Step:
        assert node.body is not None
        packings = [kernel.packings.get(number) for number in range(len(node.inputs))] + [None] * len(node.outputs)
        values = (*node.inputs, *node.outputs)
        arguments = [self._argument(value, packing) for value, packing in zip(values, packings, strict=True)]
        if kernel.scratch_bytes:
            arguments.append(Argument(SCRATCH))
        serial = kernel.tasks == 1 or _work(node.body) < _SERIAL_WORK
        label = f"{workload_label(node.body)} -> {node.outputs[0].name}"
        return Step(name, tuple(arguments), kernel.tasks, label, serial, calls)

    def _argument(self, value: Value, packing: Packing | None = None) -> Argument:
        place = self.plan.places[value]
        if place.space is Space.WEIGHTS and packing is not None and value.constant is None:
            raise UnsupportedError(f"%{value.name} is a view of a constant, which a kernel wants packed")
        if place.space is not Space.WEIGHTS and packing is not None:
            raise UnsupportedError(f"%{value.name} is computed, and a kernel wants it packed")
        return self._address(place, packing)

    def _address(self, place: Place, packing: Packing | None = None) -> Argument:
        if place.space is Space.WEIGHTS:
            return Argument(WEIGHTS, self.weights.offset(self.plan.constants[place.index], packing) + place.offset)
        return Argument(self.first[place.space] + place.index, place.offset)

    def _loop(self, node: Node, calls: int) -> None:
        plan, address, pointers = self.plan.loops[node], self._address, self.first[Space.POINTER]
        carried = tuple(
            Carried(pointers + value.read, pointers + value.write, address(value.start),
                    (address(value.slots[0]), address(value.slots[1])), address(value.result), value.nbytes)
            for value in plan.carried
        )  # fmt: skip
        slices = tuple(Slice(pointers + part.pointer, address(part.start), part.stride) for part in plan.slices)
        conditional, trips = node.attrs["conditional"], node.attrs["trips"]
        begin, label = len(self.steps), _label(node)
        self.steps.append(Branch(label, begin))  # until it is known where the loop ends
        self._add(node.regions[0], calls if conditional else calls * trips)
        self.steps[begin] = Loop(
            label, trips, len(self.steps), address(plan.counter),
            Argument(carried[0].read) if conditional else None, carried, slices,
        )  # fmt: skip
        self.steps.append(Repeat(f"end of {label}", begin))

    def _if(self, node: Node, calls: int) -> None:
        begin, label = len(self.steps), _label(node)
        self.steps.append(Branch(label, begin))
        self._add(node.regions[0], calls)
        middle = len(self.steps)
        self.steps.append(Branch(f"end of {label}", middle))
        self._add(node.regions[1], calls)
        self.steps[begin] = Branch(label, middle + 1, self._argument(node.inputs[0]))
        self.steps[middle] = Branch(f"end of {label}", len(self.steps))


def _label(node: Node) -> str:
    return f"{node.op} -> {', '.join(value.name for value in node.outputs)}"


def _work(body: Graph) -> int:
    """Elements read and written, those of weights once for each row that meets them."""
    elements = sum(v.type.size for v in (*body.inputs, *body.outputs))
    for node in body.nodes:
        if node.op in ("conv_blocked", "matmul_packed"):
            weight = node.inputs[1].type
            elements += node.output.type.size * math.prod(static_shape(weight.shape)[1:-1]) // 16
    return elements


def _code(functions: dict[str, Any], program: CpuProgram, machine: Machine, progress: Progress) -> bytes:
    """Every kernel is compiled by itself, on all cores: LLVM works without Python's lock."""
    with tempfile.TemporaryDirectory(prefix="tensorc-") as folder:
        objects = {name: Path(folder, f"{name}.o") for name in functions}
        with ThreadPoolExecutor(available_cores()) as pool:
            running = {pool.submit(build_object, {n: f}, machine, objects[n]): n for n, f in functions.items()}
            try:
                for count, done in enumerate(as_completed(running), start=1):
                    done.result()
                    progress(count, len(functions), running[done])
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        progress(len(functions), len(functions), "linking")
        library = Path(folder, "model.so")
        link(list(objects.values()), print_steps(program), library)
        return library.read_bytes()
