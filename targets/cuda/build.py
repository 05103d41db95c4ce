"""A fused graph to a CUDA program: a kernel for each distinct workload, a step for each group."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from typing import Any

from passes.memory import MemoryPlan, Place, Space, plan_memory
from targets.built import StepsOf, check_kernels, kernel_facts, memory_of, memory_rows
from targets.cpu.kernels import lowered_anchors
from targets.cuda import program as layout
from targets.cuda.codegen import print_kernel
from targets.cuda.compiler import Compiled, Resources, compile_kernel
from targets.cuda.gpu import ALIGNMENT, Gpu
from targets.cuda.kernels import Kernel, lower
from targets.cuda.kernels.tasks import lower_as_tasks
from targets.cuda.occupancy import occupancy
from targets.cuda.program import CODE_SECTION, PTX_SECTION, SOURCE_SECTION, Argument, Code, CudaProgram, Launch
from targets.packing import PackedConstants, Packing
from tensorc.ir import Graph, Node
from tensorc.ir.graph import nested
from tensorc.search.choice import Choice
from tensorc.target import Program, Progress
from tensorc.workload import workload_key, workload_label


def build(graph: Graph, gpu: Gpu, schedules: Mapping[str, Choice], progress: Progress) -> Program:
    """Raises UnsupportedError, naming all at once, when the graph holds operators without a kernel."""
    check_kernels(graph, "cuda", lowered_anchors(), {"if", "loop"})
    groups = [node for part in nested(graph) for node in part.nodes if node.body is not None]
    plan = plan_memory(graph)
    apart = _apart(groups, plan)
    kernels = _kernels(groups, gpu, schedules, apart)
    compiled, sources = _compile(dict(kernels.values()), gpu, progress)
    constants = PackedConstants()
    steps = _Steps(kernels, apart, plan, constants)
    steps.add(graph)
    codes, sections = _sections(dict(kernels.values()), compiled, sources)
    program = CudaProgram(
        architecture=gpu.name,
        kernels=codes,
        steps=tuple(steps.steps),
        inputs=tuple(value.type for value in graph.inputs),
        outputs=tuple(value.type for value in graph.outputs),
        arena_bytes=plan.arena_bytes,
        scratch_bytes=max((kernel.scratch_bytes for _, kernel in kernels.values()), default=0),
        counter_bytes=max((4 * kernel.counters for _, kernel in kernels.values()), default=0),
    )
    described = _described(groups, apart, kernels, compiled, schedules, gpu)
    manifest = program.to_json() | {
        "kernels": described,
        "memory": memory_of(plan),
    }
    summary = [
        ("kernels", f"{len(codes)} for {len(program.launches)} launches, {_resources(compiled)}"),
        *memory_rows(plan, constants.packed),
    ]
    return Program(sections, manifest, summary, constants.packed)


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


def _key(node: Node, is_apart: bool) -> tuple[str, bool]:
    assert node.body is not None
    return workload_key(node.body), is_apart


def _kernels(
    groups: Sequence[Node], gpu: Gpu, schedules: Mapping[str, Choice], apart: Set[Node]
) -> dict[tuple[str, bool], tuple[str, Kernel]]:
    """By workload, the name and the kernel, in the order of first use. Groups that are `apart` run as tasks, which move
    an element at a time."""
    kernels: dict[tuple[str, bool], tuple[str, Kernel]] = {}
    for node in groups:
        assert node.body is not None
        key = _key(node, node in apart)
        if key not in kernels:
            name = f"k{len(kernels)}_" + workload_label(node.body).replace("+", "_")[:48]
            if node in apart:
                kernels[key] = name, lower_as_tasks(node.body)
                continue
            choice = schedules.get(key[0])
            # What rules choose is left to them: where a kernel cannot have it, they know another.
            measured = choice if choice is not None and choice.origin != "default" else None
            kernels[key] = name, lower(node.body, gpu, measured.schedule if measured else None)
    return kernels


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


class _Steps(StepsOf[Argument, Launch]):
    def __init__(self, kernels: Mapping[tuple[str, bool], tuple[str, Kernel]], apart: Set[Node], plan: MemoryPlan,
                 constants: PackedConstants):  # fmt: skip
        super().__init__(plan, constants)
        self.kernels = kernels
        self.apart = apart

    def group(self, node: Node, calls: int) -> None:
        assert node.body is not None
        name, kernel = self.kernels[_key(node, node in self.apart)]
        arguments = self.arguments(node, kernel.packings)
        if kernel.scratch_bytes:
            arguments.append(Argument("scratch"))
        if kernel.counters:
            arguments.append(Argument("counters"))
        label = f"{workload_label(node.body)} -> {node.outputs[0].name}"
        self.steps.append(Launch(name, tuple(arguments), label, calls))

    def address(self, place: Place, packing: Packing | None = None) -> Argument:
        if place.space is Space.WEIGHTS:
            number = self.constants.number(self.plan.constants[place.index], packing)
            return Argument("constant", number, place.offset)
        return Argument(_SPACES[place.space], place.index, place.offset)


def _described(
    groups: Sequence[Node], apart: Set[Node], kernels: Mapping[tuple[str, bool], tuple[str, Kernel]],
    compiled: Mapping[str, Compiled], schedules: Mapping[str, Choice], gpu: Gpu,
) -> dict[str, Any]:  # fmt: skip
    """What people and profiles want to know of each kernel."""
    rows = {}
    for node in groups:
        name, kernel = kernels[_key(node, node in apart)]
        if name not in rows:
            assert node.body is not None
            choice = schedules.get(_key(node, False)[0]) if kernel.schedule else None
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
