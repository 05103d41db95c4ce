"""A fixed-point graph as one C file."""

from __future__ import annotations

import tensorc
from passes.memory.portfolio import quick_offsets
from passes.memory.problem import Buffer, Problem
from targets.hls.layers.network import network_of, program_of
from targets.hls.names import own_name
from targets.hls.printing.c99 import Arena, lifetimes, source, stored_bytes
from targets.hls.program import Program as Scheduled
from tensorc.ir.graph import Graph
from tensorc.options import format_bytes
from tensorc.target import Program

#: Bytes that a buffer's place is a multiple of: those of the widest integer.
_ALIGNMENT = 8


def build(graph: Graph) -> Program:
    """Nothing is unrolled: each multiplication is a turn of a loop, which a C compiler vectorises as it likes."""
    program = program_of(network_of(graph), {}, own_name(graph.name))
    arena = planned(program)
    text = source(program, arena, f"made by tensorc {tensorc.__version__}")
    summary = [("layers", str(len(program.processes))), ("working memory", format_bytes(arena.nbytes))]
    return Program({"source": [text.encode()]}, {"name": program.name}, summary, graph=graph)


def planned(program: Scheduled) -> Arena:
    """Arrays that are never needed at one time share their bytes."""
    rows = [(channel, lower, upper) for channel, lower, upper in lifetimes(program)]
    buffers = [Buffer(lower + 1, upper + 1, stored_bytes(channel), _ALIGNMENT) for channel, lower, upper in rows]
    if not buffers:
        return Arena(0, {})
    problem = Problem.of(buffers)
    offsets = quick_offsets(problem)
    places = {channel.name: offset for (channel, *_), offset in zip(rows, offsets, strict=True)}
    return Arena(problem.height(offsets), places)
