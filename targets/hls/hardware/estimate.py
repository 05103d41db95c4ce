"""What a program's Verilog takes of a part: DSP blocks and block RAMs exactly, LUTs and flip-flops roughly. Memories
outside the chip take nothing of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from targets.hls.hardware.datapath import Access, Op
from targets.hls.hardware.pipeline import Design, Pipeline
from targets.hls.hardware.resources import (
    Family,
    Resources,
    adder,
    bram18,
    bram18_rom,
    comparator,
    delay,
    dsp_of_product,
    lutram,
    multiplexer,
    product,
    register,
    rom_luts,
    uram,
)
from targets.hls.hardware.sharing import shared_multipliers
from targets.hls.parts import Part
from targets.hls.printing.verilog import fifo_storage, storage
from targets.hls.program import Channel, Memory, Program
from tensorc.fixed_point import bits_for


def estimate(program: Program, designs: Sequence[Design], part: Part) -> Resources:
    """Of the whole program: its processes and the FIFOs between and behind them."""
    total = Resources()
    for design in designs:
        total += resources_of(design, part.family)
    outside = {port.channel.name for port in program.inputs}
    for channel in program.channels:
        if channel.name not in outside:
            total += fifo_resources(channel, part.family)
    return total


def resources_of(design: Design, family: Family) -> Resources:
    """Of a process."""
    total = Resources()
    shared = shared_multipliers(design)
    for multiplier in shared:
        operands = multiplexer(multiplier.a.bits + multiplier.b.bits, len(multiplier.users))
        total += replace(operands, dsp=multiplier.dsp(family))
    apart = {op for multiplier in shared for _, op in multiplier.users}
    for place in design.places:
        for loop in place.loops:
            total += register(loop.bits) + adder(loop.bits) + comparator(loop.bits)
        total += _of_pipeline(place.pipeline, family, apart)
    for loop in design.repeats:
        total += register(loop.bits) + adder(loop.bits)
    for state in design.process.registers:
        total += register(state.kind.bits * state.lanes)
    for held in design.process.memories:
        total += memory_resources(held, _ports(design, held), family)
    return total


def memory_resources(held: Memory, ports: int, family: Family) -> Resources:
    """`ports` words are read at once. A port of a memory that is written has a copy of its own."""
    kind, width, depth, writable = storage(held), held.bits, held.depth, not held.is_constant
    if not ports or held.is_outside:
        return Resources()
    if kind == "block" and not writable:
        return Resources(bram18=bram18_rom(width, depth, ports))
    amounts = {
        "block": Resources(bram18=bram18(width, depth, writable)),
        "ultra": Resources(uram=uram(width, depth), ff=width),
        "distributed": Resources(lut=lutram(width, depth, family), ff=width),
        "registers": Resources(ff=width * (depth + 1)) if writable else Resources(lut=rom_luts(width, depth), ff=width),
    }
    return amounts[kind] * ports


def fifo_resources(channel: Channel, family: Family) -> Resources:
    """The memory, two counters and two addresses."""
    counters, addresses = bits_for(0, channel.depth), bits_for(0, channel.depth - 1)
    control = Resources(lut=3 * counters + 3 * addresses, ff=2 * counters + 2 * addresses)
    kind = fifo_storage(channel)
    if kind == "block":
        return control + Resources(bram18=bram18(channel.bits, channel.depth), lut=channel.bits, ff=channel.bits)
    if kind == "distributed":
        return control + Resources(lut=lutram(channel.bits, channel.depth, family))
    return control + Resources(ff=channel.bits * channel.depth)


def _ports(design: Design, held: Memory) -> int:
    return len({
        op.detail.port
        for place in design.places
        for op in place.pipeline.path.ops
        if isinstance(op.detail, Access) and op.detail.memory is held
    })  # fmt: skip


def _of_pipeline(pipeline: Pipeline, family: Family, apart: Collection[Op]) -> Resources:
    """Without the operations that are counted `apart`."""
    total = register(pipeline.depth - 1)
    last = pipeline.last_stages()
    for op in pipeline.path.ops:
        if op not in apart:
            total += _of_operation(op, family)
        stage = pipeline.stages[op]
        if stage is not None and last.get(op, stage) > stage:
            total += delay(op.bits, last[op] - stage)
    return total


def _of_operation(op: Op, family: Family) -> Resources:
    bits = op.bits
    width = max((arg.bits for arg in op.args if not arg.is_const), default=0)
    is_known = any(arg.is_const for arg in op.args)
    match op.kind:
        case "mul":
            a, b = op.args
            dsp = dsp_of_product(a.bits, a.signed, b.bits, b.signed, family, bits)
            return replace(product(a.bits, a.signed, b.bits, b.signed, family), dsp=dsp)
        case "add" | "sub":  # a DSP48E1 adds to its product, for yosys
            is_inside = family == "xc7" and any(arg.kind == "mul" for arg in op.args)
            return Resources() if is_inside else adder(bits - max(_zeros(arg) for arg in op.args))
        case "affine":
            return adder(bits) + register(bits)
        case "lt" | "le" | "eq":
            return _comparator(width, is_known)
        case "min" | "max":  # with a constant, what is computed before or behind shares the LUTs
            return _comparator(width, is_known) + (Resources(lut=bits // 2) if is_known else multiplexer(bits, 2))
        case "select":  # a word or nothing goes into the LUTs of what reads it
            return Resources() if is_known else multiplexer(bits, 2)
        case "and" | "or":
            return Resources(lut=1)
        case "shift_by":
            return multiplexer(width, 4) * (op.args[1].bits // 2 + 1)
        case "leading":
            return Resources(lut=width)
    return Resources()


def _zeros(op: Op) -> int:
    """Low bits that are always 0."""
    return max(op.detail, 0) if op.kind == "shift" and isinstance(op.detail, int) else 0


def _comparator(bits: int, with_constant: bool) -> Resources:
    return Resources(lut=-(-bits // 5)) if with_constant else comparator(bits)
