"""A fused graph to a CUDA program: a kernel for each distinct workload, a step for each group."""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from typing import Any

from passes.memory import MemoryPlan, Place, Space, plan_memory
from passes.memory.spilling import fit_arena
from targets.built import StepsOf, check_kernels, kernel_facts, lookups, memory_of, memory_rows
from targets.cpu.kernels import lowered_anchors
from targets.cuda import program as layout
from targets.cuda.budget import Keeper
from targets.cuda.codegen import print_kernel
from targets.cuda.compiler import Compiled, Resources, compile_kernel
from targets.cuda.gpu import ALIGNMENT, Gpu
from targets.cuda.kernels import Kernel, lower
from targets.cuda.kernels.tasks import lower_as_tasks
from targets.cuda.occupancy import occupancy
from targets.cuda.program import (
    CODE_SECTION,
    PTX_SECTION,
    SOURCE_SECTION,
    Argument,
    Code,
    CudaProgram,
    Launch,
    Transfer,
)
from targets.cuda.segments import NUMBER_BYTES, segments
from targets.packing import PackedConstants, Packing
from tensorc.ir import Graph, Node
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import nested
from tensorc.options import format_bytes
from tensorc.search.choice import Choice
from tensorc.target import PackedConstant, Program, Progress
from tensorc.workload import workload_key, workload_label


def build(
    graph: Graph, gpu: Gpu, schedules: Mapping[str, Choice], progress: Progress, memory_budget: int | None = None
) -> Program:
    """Raises UnsupportedError, naming all at once, when the graph holds operators without a kernel, and UserError for a
    `memory_budget`, in bytes of the device's memory, that is too small."""
    check_kernels(graph, "cuda", lowered_anchors(), {"if", "loop"})
    lowering = _Lowering(gpu, schedules)
    laid = lowering.lay_out(graph, plan_memory(graph))
    program, kept = laid.program, list[tuple[str, str]]()
    if memory_budget is not None:
        keeper = laid.keeper(memory_budget)
        if laid.plan.arena_bytes > keeper.arena_room:
            plan, filed = fit_arena(graph, keeper.arena_room)
            laid = lowering.lay_out(graph, plan)
            keeper = laid.keeper(memory_budget)
            kept.append(("activations in host memory", format_bytes(sum(value.type.nbytes for value in filed))))
        program = keeper.program()
        kept = [*keeper.summary, *kept]
    compiled, sources = _compile(laid.kernels, gpu, progress)
    codes, sections = _sections(laid.kernels, compiled, sources)
    program = replace(program, kernels=codes)
    manifest = program.to_json() | {
        "kernels": _described(laid, compiled, schedules, gpu),
        "memory": memory_of(laid.plan),
    }
    needed = program.device_bytes([constant.nbytes for constant in laid.constants])
    summary = [
        ("kernels", f"{len(codes)} for {len(program.launches)} launches, {_resources(compiled)}"),
        *memory_rows(laid.plan, laid.constants),
        ("device memory", format_bytes(needed)),
        *kept,
    ]
    return Program(sections, manifest, summary, laid.constants)


@dataclass(frozen=True)
class _Laid:
    """A program without a budget, whose kernels are not compiled yet: `kernels` by their names, `used` the name of each
    group's, and how much is looked up of `tables`, by the numbers of constants of which nothing else is read."""

    plan: MemoryPlan
    program: CudaProgram
    constants: list[PackedConstant]
    kernels: dict[str, Kernel]
    used: dict[Node, str]
    tables: dict[int, int]

    def keeper(self, memory_budget: int) -> Keeper:
        return Keeper(self.program, [constant.nbytes for constant in self.constants], self.tables, memory_budget)


class _Lowering:
    """Makes programs of a graph, whose kernels are lowered once each: by workload, and whether they run apart, as
    tasks, which move an element at a time."""

    def __init__(self, gpu: Gpu, schedules: Mapping[str, Choice]):
        self._gpu = gpu
        self._schedules = schedules
        self._kernels: dict[tuple[str, bool], tuple[str, Kernel]] = {}

    def lay_out(self, graph: Graph, plan: MemoryPlan) -> _Laid:
        groups = [node for part in nested(graph) for node in part.nodes
                  if node.body is not None and not _is_transfer(node, plan)]  # fmt: skip
        apart = _apart(groups, plan)
        used = {node: self._kernel(node, node in apart) for node in groups}
        kernels = dict(used.values())
        constants = PackedConstants()
        steps = _Steps(used, plan, constants)
        steps.add(graph)
        _, numbers = segments(steps.steps)
        program = CudaProgram(
            architecture=self._gpu.name,
            kernels={},
            steps=tuple(steps.steps),
            inputs=tuple(value.type for value in graph.inputs),
            outputs=tuple(value.type for value in graph.outputs),
            arena_bytes=plan.arena_bytes,
            scratch_bytes=max((kernel.scratch_bytes for kernel in kernels.values()), default=0),
            counter_bytes=max((4 * kernel.counters for kernel in kernels.values()), default=0),
            number_bytes=NUMBER_BYTES * numbers,
            host_bytes=plan.file_bytes,
        )
        names = {node: name for node, (name, _) in used.items()}
        return _Laid(plan, program, constants.packed, kernels, names, steps.tables())

    def _kernel(self, node: Node, is_apart: bool) -> tuple[str, Kernel]:
        """With its name."""
        assert node.body is not None
        key = workload_key(node.body), is_apart
        if key not in self._kernels:
            name = f"k{len(self._kernels)}_" + workload_label(node.body).replace("+", "_")[:48]
            choice = self._schedules.get(key[0])
            # What rules choose is left to them: where a kernel cannot have it, they know another.
            measured = choice.schedule if choice is not None and choice.origin != "default" else None
            made = lower_as_tasks(node.body) if is_apart else lower(node.body, self._gpu, measured)
            self._kernels[key] = name, made
        return self._kernels[key]


def _is_transfer(node: Node, plan: MemoryPlan) -> bool:
    return Space.FILE in {plan.places[value].space for value in (*node.inputs, *node.outputs)}


def _apart(groups: Sequence[Node], plan: MemoryPlan) -> set[Node]:
    """Groups that read or write what does not begin where 16 bytes can be moved at once: parts of other values, and
    what a loop's pointers show in some iteration."""
    astray: set[int] = set()  # pointers

    def is_aligned(place: Place) -> bool:
        return place.offset % ALIGNMENT == 0 and not (place.space is Space.POINTER and place.index in astray)

    for loop in plan.loops.values():  # those around others come first
        for carried in loop.carried:
            if not all(map(is_aligned, carried.slots)):
                astray |= {carried.read, carried.write}
            if not is_aligned(carried.start):
                astray.add(carried.read)
        astray |= {part.pointer for part in loop.slices if part.stride % ALIGNMENT or not is_aligned(part.start)}
    return {
        node for node in groups if not all(is_aligned(plan.places[value]) for value in (*node.inputs, *node.outputs))
    }


def _compile(kernels: Mapping[str, Kernel], gpu: Gpu, progress: Progress) -> tuple[dict[str, Compiled], dict[str, str]]:
    """Each by itself, on all cores: NVRTC works without Python's lock."""
    sources: dict[str, str] = {}
    compiled: dict[str, Compiled] = {}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        running = {}
        try:
            for name, kernel in kernels.items():
                sources[name] = print_kernel(kernel.function, name)
                running[pool.submit(compile_kernel, sources[name], name, gpu)] = name
            for count, done in enumerate(as_completed(running), start=1):
                compiled[running[done]] = done.result()
                progress(count, len(kernels), running[done])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return compiled, sources


def _sections(
    kernels: Mapping[str, Kernel], compiled: Mapping[str, Compiled], sources: Mapping[str, str]
) -> tuple[dict[str, Code], dict[str, list[bytes]]]:
    """Machine code begins at multiples of 64 bytes, as drivers read it."""
    held = {CODE_SECTION: bytearray(), PTX_SECTION: bytearray(), SOURCE_SECTION: bytearray()}

    def put(section: str, data: bytes) -> tuple[int, int]:
        place = len(held[section]), len(data)
        held[section] += data + bytes(-len(data) % 64 if section == CODE_SECTION else 0)
        return place

    codes = {
        name: Code(kernel.blocks, kernel.threads, kernel.shared_bytes, put(CODE_SECTION, compiled[name].cubin),
                   put(PTX_SECTION, compiled[name].ptx), put(SOURCE_SECTION, sources[name].encode()))
        for name, kernel in kernels.items()
    }  # fmt: skip
    for section in (PTX_SECTION, SOURCE_SECTION):
        held[section] = bytearray(zlib.compress(held[section], 6))
    return codes, {section: [bytes(data)] for section, data in held.items()}


_SPACES: Mapping[Space, layout.Space] = {
    Space.ARENA: "arena", Space.INPUT: "input", Space.OUTPUT: "output", Space.POINTER: "pointer",
}  # fmt: skip


class _Steps(StepsOf[Argument, Launch | Transfer]):
    def __init__(self, used: Mapping[Node, tuple[str, Kernel]], plan: MemoryPlan, constants: PackedConstants):
        super().__init__(plan, constants)
        self._used = used
        #: Constants by their numbers: of how many rows a run looks up the bytes, and what is read otherwise.
        self._rows: Counter[int] = Counter()
        self._whole: set[int] = set()

    def group(self, node: Node, calls: int) -> None:
        assert node.body is not None
        if node not in self._used:
            self.steps.append(self._transfer(node))
            return
        name, kernel = self._used[node]
        arguments = self.arguments(node, kernel.packings)
        self._note_reads(node, kernel, arguments, calls)
        if kernel.scratch_bytes:
            arguments.append(Argument("scratch"))
        if kernel.counters:
            arguments.append(Argument("counters"))
        label = f"{workload_label(node.body)} -> {node.outputs[0].name}"
        self.steps.append(Launch(name, tuple(arguments), label, calls))

    def _transfer(self, node: Node) -> Transfer:
        (source,), target = node.inputs, node.output
        out = self.plan.places[target].space is Space.FILE
        away, held = (target, source) if out else (source, target)
        label = f"{held.name} {'to' if out else 'from'} the host"
        memory = self.address(self.plan.places[held])
        return Transfer(label, memory, self.plan.places[away].offset, held.type.nbytes, out)

    def _note_reads(self, node: Node, kernel: Kernel, arguments: Sequence[Argument], calls: int) -> None:
        assert node.body is not None
        looked_up = dict(lookups(node.body))
        for number, (value, argument) in enumerate(zip(node.inputs, arguments, strict=False)):
            if argument.space != "constant":
                continue
            if number in looked_up and number not in kernel.packings:
                row = value.type.nbytes // static_shape(value.shape)[0]
                self._rows[argument.index] += calls * looked_up[number] * row
            else:
                self._whole.add(argument.index)

    def tables(self) -> dict[int, int]:
        """How many bytes are looked up in a run of constants of which nothing else is read, and not the most."""
        constants = self.constants.packed
        return {
            number: nbytes for number, nbytes in self._rows.items()
            if number not in self._whole and 2 * nbytes <= constants[number].nbytes
        }  # fmt: skip

    def address(self, place: Place, packing: Packing | None = None) -> Argument:
        if place.space is Space.WEIGHTS:
            number = self.constants.number(self.plan.constants[place.index], packing)
            return Argument("constant", number, place.offset)
        return Argument(_SPACES[place.space], place.index, place.offset)


def _described(
    laid: _Laid, compiled: Mapping[str, Compiled], schedules: Mapping[str, Choice], gpu: Gpu
) -> dict[str, Any]:
    """What people and profiles want to know of each kernel."""
    rows = {}
    for node, name in laid.used.items():
        if name not in rows:
            assert node.body is not None
            kernel = laid.kernels[name]
            choice = schedules.get(workload_key(node.body)) if kernel.schedule else None
            rows[name] = {
                **kernel_facts(node.body, kernel.schedule, choice),
                "dtype": node.body.inputs[0].dtype if node.body.inputs else node.outputs[0].dtype,
                "resources": _taken(kernel, compiled[name].resources, gpu),
            }
    return rows


def _taken(kernel: Kernel, resources: Resources, gpu: Gpu) -> dict[str, Any]:
    """Of a multiprocessor; shared memory is all of a block's."""
    shared = resources.shared + kernel.shared_bytes
    found = occupancy(gpu, kernel.threads, resources.registers, shared)
    sizes = {"blocks": kernel.blocks, "threads": kernel.threads, "shared": shared}
    return {**asdict(resources), **sizes, "occupancy": found.to_json()}


def _resources(compiled: Mapping[str, Compiled]) -> str:
    found = [kernel.resources for kernel in compiled.values()]
    spilled = sum(1 for resources in found if resources.spill_stores)
    most = max((resources.registers for resources in found), default=0)
    return f"{most} registers at most, " + (f"{spilled} spill" if spilled else "none spills")
