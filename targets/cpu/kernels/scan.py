"""Kernels of groups around running sums and products. A task is what lies behind one index of the axes in front.

The axis is gone along step by step; vectors are along the axes behind it, where there are any.
"""

from __future__ import annotations

import math

from targets.cpu.kernels.group import GroupKernel, Kernel, accumulator, vector_blocks
from targets.cpu.machine import Machine
from targets.cpu.schedules import lanes_of
from tensorc.ir import Graph, Node
from tensorc.ir.dims import static_shape
from tensorc.lowering import tir
from tensorc.lowering.indexing import unravel
from tensorc.lowering.tir import const


def lower_scan(body: Graph, node: Node, machine: Machine) -> Kernel:
    group = GroupKernel(body, machine)
    builder, elements = group.builder, group.elements
    (x,) = node.inputs
    shape, axis = static_shape(x.shape), node.attrs["axis"]
    outer, extent, inner = shape[:axis], shape[axis], shape[axis + 1 :]
    product = node.op == "cumprod"
    wide = accumulator(x.dtype)
    with builder.tasks() as task:
        before = unravel(task, outer)
        for first, width in vector_blocks(builder, math.prod(inner), lanes_of(machine, wide)):
            running = builder.registers(wide, width, "running")
            with builder.vector(width) as lane:
                builder.store(running, const(int(product), wide), lane)
            with builder.serial(extent) as step, builder.vector(width) as lane:
                at = extent - 1 - step if node.attrs["reverse"] else step
                index = [*before, at, *unravel(first + lane, inner)]
                element = builder.keep(tir.cast(elements.evaluate(x, index), wide))
                old = builder.keep(builder.load(running, lane))
                new = builder.keep(old * element if product else old + element)
                builder.store(running, new, lane)
                elements.define(node.output, tir.cast(old if node.attrs["exclusive"] else new, x.dtype))
                group.store_outputs(index)
    return group.finish(math.prod(outer))
