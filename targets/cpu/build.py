"""A fused graph to a CPU program: a kernel for each distinct workload, a step for each group, one shared object."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passes.memory import MemoryPlan, Place, Space, plan_memory
from passes.memory.spilling import fit_arena
from targets.built import StepsOf, check_kernels, kernel_facts, lookups, memory_of, memory_rows
from targets.cpu import budget
from targets.cpu.codegen import build_object
from targets.cpu.kernels import Kernel, lower, lowered_anchors
from targets.cpu.link import link, print_steps
from targets.cpu.machine import Machine, available_cores
from targets.cpu.program import (
    ARENA,
    BLOCK,
    CODE_SECTION,
    FIRST_INPUT,
    SCRATCH,
    Argument,
    CpuProgram,
    Step,
    Transfer,
)
from targets.packing import PackedConstants, Packing
from tensorc.ir import Graph, Node
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import nested
from tensorc.ir.ops.nn import multiplies_bytes
from tensorc.options import format_bytes
from tensorc.search.choice import Choice
from tensorc.target import PackedConstant, Program, Progress
from tensorc.workload import workload_key, workload_label

#: Steps that touch fewer elements than this are done by the calling thread: waking others would take longer.
_SERIAL_WORK = 20_000


def build(
    graph: Graph, machine: Machine, threads: int, schedules: Mapping[str, Choice], progress: Progress,
    memory_budget: int | None = None,
) -> Program:  # fmt: skip
    """Raises UnsupportedError, naming all at once, when the graph holds operators without a kernel, and UserError for a
    `memory_budget`, in bytes, that is too small."""
    check_kernels(graph, "cpu", lowered_anchors(), {"if", "loop"})
    groups = [node for part in nested(graph) for node in part.nodes if node.body is not None]
    kernels = _kernels(groups, machine, schedules)
    plan = plan_memory(graph)
    laid = _lay_out(graph, plan, kernels, machine, threads)
    kept: list[tuple[str, str]] = []
    if memory_budget is not None:
        keeper = budget.Keeper(laid.program, laid.constants, laid.reads, len(kernels), memory_budget)
        if plan.arena_bytes > keeper.arena_room:
            plan, filed = fit_arena(graph, keeper.arena_room)
            laid = _lay_out(graph, plan, kernels, machine, threads)
            keeper = budget.Keeper(laid.program, laid.constants, laid.reads, len(kernels), memory_budget)
            kept.append(("activations in a file", format_bytes(sum(value.type.nbytes for value in filed))))
        program = keeper.program()
        kept = [*keeper.summary, *kept]
    else:
        program = laid.program
    constants = laid.constants
    functions = {name: kernel.function for name, kernel in kernels.values()}
    manifest = program.to_json() | {
        "machine": machine.name,
        "kernels": _described(groups, kernels, schedules),
        "memory": memory_of(plan),
    }
    summary = [
        ("kernels", f"{len(functions)} for {len(program.steps)} steps"),
        *memory_rows(plan, constants),
        *kept,
    ]
    code = _code(functions, program, machine, progress)
    alignment = 1 if memory_budget is None else BLOCK
    return Program({CODE_SECTION: [code]}, manifest, summary, constants, alignment)


@dataclass(frozen=True)
class _Laid:
    """A program without a budget, and how its steps read its constants."""

    program: CpuProgram
    constants: list[PackedConstant]
    reads: Mapping[int, budget.Reads]


def _lay_out(
    graph: Graph, plan: MemoryPlan, kernels: Mapping[str, tuple[str, Kernel]], machine: Machine, threads: int
) -> _Laid:
    constants = PackedConstants()
    steps = _Steps(graph, kernels, plan, constants)
    program = CpuProgram(
        steps=tuple(steps.steps),
        inputs=tuple(value.type for value in graph.inputs),
        outputs=tuple(value.type for value in graph.outputs),
        arena_bytes=plan.arena_bytes,
        scratch_bytes=max((kernel.scratch_bytes for _, kernel in kernels.values()), default=0),
        features=tuple(sorted(machine.features)),
        threads=threads,
        pointers=plan.pointers,
        constants=len(constants.packed),
        file_bytes=plan.file_bytes,
    )
    return _Laid(program, constants.packed, steps.reads)


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
            rows[name] = {
                **kernel_facts(node.body, kernel.schedule, schedules.get(_key(node))),
                "of_bytes": any(map(_is_of_bytes, node.body.nodes)),
            }
    return rows


def _is_of_bytes(node: Node) -> bool:
    """Whether it multiplies bytes as such: depthwise convolutions convert them."""
    if node.op not in ("conv_blocked", "matmul_packed") or node.attrs.get("depthwise"):
        return False
    return multiplies_bytes(node.inputs[0].type, node.inputs[1].type)


class _Steps(StepsOf[Argument, Step | Transfer]):
    def __init__(
        self, graph: Graph, kernels: Mapping[str, tuple[str, Kernel]], plan: MemoryPlan, constants: PackedConstants
    ):
        outputs = FIRST_INPUT + len(graph.inputs)
        self.first = {
            Space.ARENA: ARENA,
            Space.INPUT: FIRST_INPUT,
            Space.OUTPUT: outputs,
            Space.POINTER: outputs + len(graph.outputs),
        }
        super().__init__(plan, constants, self.first[Space.POINTER])
        self.kernels = kernels
        #: By the number of the step.
        self.reads: dict[int, budget.Reads] = {}
        self.add(graph)

    def group(self, node: Node, calls: int) -> None:
        assert node.body is not None
        if Space.FILE in {self.plan.places[value].space for value in (*node.inputs, *node.outputs)}:
            self.steps.append(self._transfer(node))
            return
        name, kernel = self.kernels[_key(node)]
        step = self._step(node, name, kernel, calls)
        spaces = {
            number: step.arguments[number].space for number, value in enumerate(node.inputs)
            if self.plan.places[value].space is Space.WEIGHTS
        }  # fmt: skip
        self.reads[len(self.steps)] = budget.Reads(
            {spaces[number]: rows for number, rows in lookups(node.body) if number in spaces},
            {spaces[number]: parts for number, parts in kernel.parts.items() if number in spaces},
        )
        self.steps.append(step)

    def _step(self, node: Node, name: str, kernel: Kernel, calls: int) -> Step:
        assert node.body is not None
        arguments = self.arguments(node, kernel.packings)
        if kernel.scratch_bytes:
            arguments.append(Argument(SCRATCH))
        serial = kernel.tasks == 1 or _work(node.body) < _SERIAL_WORK
        label = f"{workload_label(node.body)} -> {node.outputs[0].name}"
        return Step(name, tuple(arguments), kernel.tasks, label, serial, calls)

    def _transfer(self, node: Node) -> Transfer:
        (source,), target = node.inputs, node.output
        places = self.plan.places
        out = places[target].space is Space.FILE
        filed, held = (target, source) if out else (source, target)
        label = f"{held.name} {'to' if out else 'from'} a file"
        return Transfer(label, self.address(places[held]), places[filed].offset, held.type.nbytes, out)

    def address(self, place: Place, packing: Packing | None = None) -> Argument:
        if place.space is Space.WEIGHTS:
            number = self.constants.number(self.plan.constants[place.index], packing)
            return Argument(self.first[Space.POINTER] + self.plan.pointers + number, place.offset)
        return Argument(self.first[place.space] + place.index, place.offset)


def _work(body: Graph) -> int:
    """Elements read and written, those of weights once for each row that meets them."""
    elements = sum(v.type.size for v in (*body.inputs, *body.outputs))
    for node in body.nodes:
        if node.op in ("conv_blocked", "matmul_packed"):
            weight = node.inputs[1].type
            elements += node.output.type.size * math.prod(static_shape(weight.shape)[1:-1]) // 16
        elif node.op == "matmul_coded":
            elements += node.output.type.size * static_shape(node.inputs[0].shape)[-1] // 16
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
