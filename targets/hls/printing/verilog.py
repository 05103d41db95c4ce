"""Verilog of our own static schedule: a module for each process, FIFOs between them, streams at the outside.

A process is a walk of counters through its nests (`*_issue` says that an iteration begins), a pipeline for each nest in
which a value of stage s that is needed in stage u goes through registers (`name_atU`), and bits `*_v1`, `*_v2`, ...
that say in which stages there is an iteration. The stages are those of `hardware.pipeline`. Processes run for ever,
image after image.

A memory outside the chip is a port of the top module: `*_read` asks for the word at `*_at`, which is to be in `*_out`
`OUTSIDE_LATENCY` cycles later; `*_write` puts `*_in` to `*_to`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from targets.hls.hardware.datapath import Access, Affine, Cell, Loop, Op, Stored, reachable
from targets.hls.hardware.pipeline import Design, Pipeline, Place, designs_of, updates_of
from targets.hls.hardware.resources import memory_kind
from targets.hls.hardware.sharing import Multiplier, Operand, shared_multipliers, wider_first
from targets.hls.names import RESERVED
from targets.hls.program import Channel, Memory, Process, Program, port_of
from tensorc.fixed_point import bits_for

FIFO = """\
// Words wait here, `DEPTH` of them at most; the first one shows. `reserve` takes room for a word that is on its way.
module fifo #(parameter WIDTH = 8, DEPTH = 2, COUNT = 2, PLACE = 1, BLOCK = 0) (
    input wire clk, input wire rst,
    output wire room, input wire reserve, input wire write, input wire [WIDTH-1:0] in,
    output wire valid, input wire read, output wire [WIDTH-1:0] out
);
    reg [COUNT-1:0] space, count;
    reg [PLACE-1:0] head, tail;
    wire [PLACE-1:0] next = head == DEPTH - 1 ? 0 : head + 1'd1;
    assign room = space != 0;
    assign valid = count != 0;
    always @(posedge clk)
        if (rst) begin
            space <= DEPTH;
            count <= 0;
            head <= 0;
            tail <= 0;
        end else begin
            space <= space - reserve + read;
            count <= count + write - read;
            if (write) tail <= tail == DEPTH - 1 ? 0 : tail + 1'd1;
            if (read) head <= next;
        end
    generate if (BLOCK) begin : block
        // What is read a cycle ahead, and what is written in that cycle.
        (* ram_style = "block" *) reg [WIDTH-1:0] words [0:DEPTH-1];
        reg [WIDTH-1:0] ahead, fresh;
        reg is_fresh;
        wire [PLACE-1:0] place = read ? next : head;
        always @(posedge clk) begin
            if (write) words[tail] <= in;
            ahead <= words[place];
        end
        always @(posedge clk) begin
            fresh <= in;
            is_fresh <= write && tail == place;
        end
        assign out = is_fresh ? fresh : ahead;
    end else begin : distributed
        (* ram_style = "distributed" *) reg [WIDTH-1:0] words [0:DEPTH-1];
        always @(posedge clk) if (write) words[tail] <= in;
        assign out = words[head];
    end endgenerate
endmodule
"""


def files(program: Program, designs: Sequence[Design] | None = None) -> Iterator[tuple[str, str]]:
    """The sources, by name; memories' contents are files for $readmemh. The top module bears the program's name."""
    designs = designs or designs_of(program)
    modules = [FIFO, *("\n".join(_Module(design).lines()) + "\n" for design in designs)]
    yield f"{program.name}.v", "\n".join([*modules, "\n".join(_top(program)) + "\n"])
    for design in designs:
        for memory in design.process.memories:
            if memory.is_constant:
                yield f"{design.process.name}_{memory.name}.hex", _contents(memory)


def _held(process: Process) -> list[str]:
    held = [memory.name for memory in process.memories if not memory.is_outside]
    return held + [state.name for state in process.registers]


def storage(memory: Memory) -> str:
    """What a memory is made of, as the value of its attribute `ram_style`."""
    if memory.storage == "distributed" and memory.is_constant:
        return "registers"  # yosys's name for a ROM in LUTs
    return memory.storage or memory_kind(memory.bits, memory.depth, not memory.is_constant)


def fifo_storage(channel: Channel) -> str:
    return memory_kind(channel.bits, channel.depth, True)


def memory_signals(memory: Memory) -> Iterator[tuple[str, str, int]]:
    """Of the port of a memory outside the chip: name, direction and bits of each signal, as the design has them."""
    address = bits_for(0, memory.depth - 1)
    yield from (("read", "output", 1), ("at", "output", address), ("out", "input", memory.bits))
    if not memory.is_constant:
        yield from (("write", "output", 1), ("to", "output", address), ("in", "output", memory.bits))


def word_of(numbers: Sequence[int], bits: int) -> int:
    """Lane 0 in the lowest bits."""
    word = 0
    for lane, number in enumerate(numbers):
        word |= (int(number) & (1 << bits) - 1) << (lane * bits)
    return word


def _contents(memory: Memory) -> str:
    assert memory.data is not None
    rows: np.ndarray = memory.data.reshape(memory.depth, memory.lanes)
    digits = -(-memory.bits // 4)
    return "".join(f"{word_of(row, memory.kind.bits):0{digits}x}\n" for row in rows.tolist())


def _range(bits: int) -> str:
    return f"[{bits - 1}:0] " if bits > 1 else ""


def _signed_range(op: Op | Operand) -> str:
    return f"signed [{op.bits - 1}:0] " if op.signed else _range(op.bits)


def _literal(value: int, signed: bool) -> str:
    bits = bits_for(min(value, -1), max(value, 0)) + 1 if signed else bits_for(0, value)
    return f"{'-' if value < 0 else ''}{bits}'{'s' if signed else ''}d{abs(value)}"


#: Of a process: synthesis lists what leads from each to each, which takes forever for those of a core.
_MOST_STATES = 8
_SIGNS = {"add": "+", "sub": "-", "mul": "*", "lt": "<", "le": "<=", "eq": "==", "and": "&&", "or": "||"}


class _Module:
    """The module of a process."""

    def __init__(self, design: Design):
        self.design = design
        self.process = design.process
        self.names: set[str] = {"clk", "rst", "state", "pause", *RESERVED}
        #: Of memories and the registers of the program.
        self.held = {memory.name: self.unique(port_of(self.process, memory)) for memory in self.process.outside}
        self.held |= {name: self.unique(name) for name in _held(self.process)}
        #: What each form that is affine in counters is called.
        self.forms: dict[Affine, str] = {}
        self.names |= {loop.name for place in design.places for loop in (*place.loops, *place.around)}
        self.names |= {self.cell(Cell(state, lane)) for state in self.process.registers for lane in range(state.lanes)}
        for place in design.places:
            for op in place.pipeline.path.ops:
                if isinstance(op.detail, Affine) and op.detail not in self.forms:
                    self.forms[op.detail] = self.unique(f"{place.name}_{op.hint or 'affine'}")
        self.multipliers = [(self.unique("product"), one) for one in shared_multipliers(design)]
        #: The multiplier that makes a product.
        self.made_by = {op: name for name, multiplier in self.multipliers for _, op in multiplier.users}
        self.pipelines = [_Stages(self, place) for place in design.places]

    def unique(self, hint: str) -> str:
        name, number = hint, 1
        while name in self.names:
            number += 1
            name = f"{hint}_n{number}"
        self.names.add(name)
        return name

    def lines(self) -> Iterator[str]:
        yield f"// {self.process.title}"
        yield f"module {self.process.name} ("
        yield "    input wire clk, input wire rst,"
        ports = [
            f"    input wire {c.name}_valid, input wire {_range(c.bits)}{c.name}_word, output wire {c.name}_read"
            for c in self.process.inputs
        ] + [
            f"    input wire {c.name}_room, output wire {c.name}_reserve, output wire {c.name}_write, "
            f"output wire {_range(c.bits)}{c.name}_given"
            for c in self.process.outputs
        ]
        ports += [
            f"    {way} wire {_range(bits)}{self.held[memory.name]}_{signal}"
            for memory in self.process.outside
            for signal, way, bits in memory_signals(memory)
        ]
        yield ",\n".join(ports)
        yield ");"
        for line in self._body():
            yield f"    {line}" if line else ""
        yield "endmodule"

    def _body(self) -> Iterator[str]:
        yield from self._walk()
        yield from self._registers()
        for memory in self.process.memories:
            yield from self._memory_words(memory)
        for name, multiplier in self.multipliers:
            yield f"reg {_signed_range(multiplier.result)}{name};"
        for stages in self.pipelines:
            yield ""
            yield f"// {stages.place.nest.name}: {stages.place.nest.trip} iterations, one each {stages.pipeline.ii} "\
                f"cycles, {stages.pipeline.depth} stages"  # fmt: skip
            yield from stages.lines()
        for memory in self.process.memories:
            yield from self._memory(memory)
        for name, multiplier in self.multipliers:
            yield from self._multiplier(name, multiplier)
        yield from self._updates()
        yield ""
        yield from self._channels()

    # Walk -----------------------------------------------------------------------------------------------

    def _walk(self) -> Iterator[str]:
        places = self.design.places
        yield "// The walk: which nest it is at, and how many cycles until its next iteration may begin."
        states = bits_for(0, len(places) - 1)
        several = len(places) > 1
        if several:
            yield f"localparam {', '.join(f'{place.name.upper()} = {place.number}' for place in places)};"
            kept = '(* fsm_encoding = "none" *) ' if len(places) > _MOST_STATES else ""
            yield f"{kept}reg {_range(states)}state;"
        pauses = max(max(place.pipeline.depth, place.nest.ii) for place in places) - 1
        if pauses:
            yield f"reg {_range(bits_for(0, pauses))}pause;"
        loops = [loop for place in places for loop in place.loops] + list(self.design.repeats)
        for loop in loops:
            if loop.extent > 1:
                yield f"reg {_range(loop.bits)}{loop.name};"
                yield f"wire {loop.name}_last = {loop.name} == {loop.extent - 1};"
        for place in places:
            yield f"wire {place.name}_issue;"
            yield f"wire {place.name}_last = {_all(f'{loop.name}_last' for loop in place.loops if loop.extent > 1)};"
        yield "always @(posedge clk)"
        yield "    if (rst) begin"
        reset = [loop.name for loop in loops if loop.extent > 1]
        for name in [*["state"] * several, *["pause"] * bool(pauses), *reset]:
            yield f"        {name} <= 0;"
        yield "    end else begin"
        if pauses:
            yield "        if (pause != 0) pause <= pause - 1'd1;"
        for place in places:
            yield f"        if ({place.name}_issue) begin"
            if pauses:
                between, behind = place.nest.ii - 1, place.pipeline.depth - 1
                chosen = str(behind) if behind == between else f"{place.name}_last ? {behind} : {between}"
                yield f"            pause <= {chosen};"
            yield from _indented(self._carry([*reversed(place.loops), *place.steps]), 3)
            if several:
                target = places[(place.number + 1) % len(places)].name.upper()
                for loop, back in reversed(list(zip(place.steps, place.back, strict=True))):
                    if loop.extent > 1:
                        target = f"{loop.name}_last ? {target} : {places[back].name.upper()}"
                yield f"            if ({place.name}_last) state <= {target};"
            yield "        end"
        yield "    end"
        yield from self._forms()

    def _carry(self, chain: Sequence[Loop]) -> Iterator[str]:
        """Counters from the innermost on: each moves when those within it are at their ends."""
        moving = [loop for loop in chain if loop.extent > 1]
        for depth, loop in enumerate(moving):
            condition = f"if ({_all(f'{inner.name}_last' for inner in moving[:depth])}) " if depth else ""
            yield f"{condition}{loop.name} <= {loop.name}_last ? {loop.bits}'d0 : {loop.name} + 1'd1;"

    def _forms(self) -> Iterator[str]:
        """Registers that hold sums of counters times factors: they move with the counters."""
        for form, name in self.forms.items():
            low, high = form.interval
            bits = bits_for(low, high)
            factors = dict(form.terms)
            text = " + ".join(f"{by} {loop.name}" for loop, by in form.terms)
            yield f"// {text} + {form.constant}"
            yield f"reg {'signed ' if low < 0 else ''}{_range(bits)}{name};"
            yield f"always @(posedge clk)"  # noqa: F541
            yield f"    if (rst) {name} <= {_literal(form.constant, low < 0)};"
            for place in self.design.places:
                chain = [loop for loop in (*reversed(place.loops), *place.steps) if loop.extent > 1]
                moved = _moves(chain, factors, bits)
                if moved != _small(0, bits):
                    yield f"    else if ({place.name}_issue) {name} <= {name} + ({moved});"

    # Registers and memories -----------------------------------------------------------------------------

    def cell(self, cell: Cell) -> str:
        name = self.held[cell.state.name]
        return f"{name}_{cell.lane}" if cell.state.lanes > 1 else name

    def _registers(self) -> Iterator[str]:
        for state in self.process.registers:
            names = ", ".join(self.cell(Cell(state, lane)) for lane in range(state.lanes))
            yield f"reg {'signed ' if state.kind.signed else ''}{_range(state.kind.bits)}{names};"

    def _updates(self) -> Iterator[str]:
        updates = updates_of(self.design)
        if updates:
            yield ""
            yield "// Registers"
        for cell, writers in updates.items():
            lines = []
            for place, updated, stage in writers:
                stages = self.pipelines[place.number]
                when = stages.when(updated.condition, stage)
                lines.append(f"if ({when}) {self.cell(cell)} <= {stages.plain(updated.value, stage)};")
            yield "always @(posedge clk)"
            for number, line in enumerate(lines):
                yield f"    {'else ' if number else ''}{line}"

    def _multiplier(self, name: str, multiplier: Multiplier) -> Iterator[str]:
        """Its operands are those of the nest that has an iteration in the stage where they are needed."""
        yield ""
        yield f"// {name}: " + ", ".join(place.nest.name for place, _ in multiplier.users)
        for side, operand in enumerate((multiplier.a, multiplier.b)):
            chosen = []
            for place, op in multiplier.users:
                stages = self.pipelines[place.number]
                stage = stages.pipeline.taken(op)
                chosen.append((stages.valid(stage), stages.operand(wider_first(op)[side], stage, operand.signed)))
            yield f"wire {_signed_range(operand)}{name}_{'ab'[side]} = {_mux(chosen)};"
        signed = multiplier.a.signed or multiplier.b.signed

        def text(side: str, operand: Operand) -> str:
            return f"{name}_{side}" if operand.signed == signed else f"$signed({{1'b0, {name}_{side}}})"

        yield f"always @(posedge clk) {name} <= {text('a', multiplier.a)} * {text('b', multiplier.b)};"

    def memory_port(self, access: Access) -> str:
        return f"{self.held[access.memory.name]}_out{access.port or ''}"

    def _ports(self, memory: Memory) -> dict[int, list[tuple[_Stages, Op]]]:
        """The loads through each port of a memory."""
        ports: dict[int, list[tuple[_Stages, Op]]] = {}
        for stages in self.pipelines:
            for op in stages.pipeline.path.ops:
                if isinstance(op.detail, Access) and op.detail.memory is memory:
                    ports.setdefault(op.detail.port, []).append((stages, op))
        return ports

    def _memory_words(self, memory: Memory) -> Iterator[str]:
        ports = self._ports(memory)
        if not ports or memory.is_outside:
            return
        held = self.held[memory.name]
        yield f'(* ram_style = "{storage(memory)}" *)'
        yield f"reg {_range(memory.bits)}{held} [0:{memory.depth - 1}];"
        if memory.is_constant:
            yield f'initial $readmemh("{self.process.name}_{memory.name}.hex", {held});'
        for port in ports:
            yield f"reg {_range(memory.bits)}{self.memory_port(Access(memory, port))};"

    def _memory(self, memory: Memory) -> Iterator[str]:
        ports = self._ports(memory)
        if memory.is_outside:
            yield from self._outside(memory, ports.get(0, []))
            return
        if not ports:
            return
        yield ""
        yield f"// {memory.name}: {memory.depth} words of {memory.bits} bits"
        bits = bits_for(0, memory.depth - 1)
        stores = self._stored(memory)
        if stores:
            yield from self._stores(memory, bits, stores)
        for port, loads in ports.items():
            name = self.memory_port(Access(memory, port))
            chosen = [
                (f"{stages.valid(stages.pipeline.taken(op))}", stages.plain(op.args[0], stages.pipeline.taken(op)))
                for stages, op in loads
            ]
            yield f"wire {_range(bits)}{name}_at = {_mux(chosen)};"
            yield f"always @(posedge clk) {name} <= {self.held[memory.name]}[{name}_at];"

    def _stored(self, memory: Memory) -> list[tuple[_Stages, Stored, int]]:
        """What is written to a memory, and in which stage."""
        return [
            (stages, stored, stage)
            for stages in self.pipelines
            for stored, stage in zip(stages.pipeline.path.stores, stages.pipeline.store_stages, strict=True)
            if stored.memory is memory
        ]

    def _outside(self, memory: Memory, loads: Sequence[tuple[_Stages, Op]]) -> Iterator[str]:
        """What the port of a memory outside the chip says."""
        name, stores = self.held[memory.name], self._stored(memory)
        yield ""
        yield f"// {memory.name}: {memory.depth} words of {memory.bits} bits, outside the chip"
        asked = [
            (stages.valid(stages.pipeline.taken(op)), stages.plain(op.args[0], stages.pipeline.taken(op)))
            for stages, op in loads
        ]
        yield f"assign {name}_read = {' || '.join(when for when, _ in asked) or 0};"
        yield f"assign {name}_at = {_mux(asked) if asked else 0};"
        if memory.is_constant:
            return
        whens = [stages.when(stored.condition, stage) for stages, stored, stage in stores]
        places = [stages.plain(stored.address, stage) for stages, stored, stage in stores]
        lanes = range(memory.lanes)
        words = [
            stages.word([stored.lanes[lane] for lane in lanes], memory.kind.bits, stage)
            for stages, stored, stage in stores
        ]
        yield f"assign {name}_write = {' || '.join(whens) or 0};"
        yield f"assign {name}_to = {_mux(list(zip(whens, places, strict=True))) if stores else 0};"
        yield f"assign {name}_in = {_mux(list(zip(whens, words, strict=True))) if stores else 0};"

    def _stores(self, memory: Memory, bits: int, stores: Sequence[tuple[_Stages, Stored, int]]) -> Iterator[str]:
        held = self.held[memory.name]
        whens = [stages.when(stored.condition, stage) for stages, stored, stage in stores]
        place = _mux([
            (when, stages.plain(stored.address, stage))
            for when, (stages, stored, stage) in zip(whens, stores, strict=True)
        ])  # fmt: skip
        yield f"wire {_range(bits)}{held}_to = {place};"
        width = memory.kind.bits
        words = [
            stages.word([stored.lanes.get(lane) for lane in range(memory.lanes)], width, stage)
            for stages, stored, stage in stores
        ]
        yield f"wire {_range(memory.bits)}{held}_in = {_mux(list(zip(whens, words, strict=True)))};"
        if all(len(stored.lanes) == memory.lanes for _, stored, _ in stores):
            yield f"always @(posedge clk) if ({' || '.join(whens)}) {held}[{held}_to] <= {held}_in;"
            return
        yield "always @(posedge clk) begin"
        for lane in range(memory.lanes):
            when = [when for when, (_, stored, _) in zip(whens, stores, strict=True) if lane in stored.lanes]
            part = f"[{lane * width} +: {width}]"
            if when:
                yield (f"    if ({' || '.join(when)}) {held}[{held}_to]{part} <= {held}_in{part};")
        yield "end"

    # Channels -------------------------------------------------------------------------------------------

    def _channels(self) -> Iterator[str]:
        for stages in self.pipelines:
            yield f"assign {stages.place.name}_issue = {stages.may_issue(len(self.pipelines) > 1)};"
        for channel in self.process.inputs:
            takes = [
                _all([f"{stages.place.name}_issue", *stages.conditions([condition])])
                for stages in self.pipelines
                for read, condition in stages.pipeline.path.reads.items()
                if read == channel
            ]
            yield f"assign {channel.name}_read = {' || '.join(takes) or 0};"
        for channel in self.process.outputs:
            reserves, writes, words = [], [], []
            for stages in self.pipelines:
                path = stages.pipeline.path
                for written, stage in zip(path.writes, stages.pipeline.write_stages, strict=True):
                    if channel in written.channels:
                        reserves.append(_all([f"{stages.place.name}_issue", *stages.conditions([written.condition])]))
                        writes.append(stages.when(written.condition, stage))
                        words.append((stages.valid(stage), stages.word(written.lanes, channel.kind.bits, stage)))
            yield f"assign {channel.name}_reserve = {' || '.join(reserves) or 0};"
            yield f"assign {channel.name}_write = {' || '.join(writes) or 0};"
            yield f"assign {channel.name}_given = {_mux(words) if words else 0};"


class _Stages:
    """The pipeline of a nest."""

    def __init__(self, module: _Module, place: Place):
        self.module = module
        self.place = place
        self.pipeline: Pipeline = place.pipeline
        self.last = self.pipeline.last_stages()
        self.names = {op: self._name(op) for op in self.pipeline.path.ops}

    def _name(self, op: Op) -> str:
        detail = op.detail
        if isinstance(detail, Loop):
            return detail.name
        if isinstance(detail, Affine):
            return self.module.forms[detail]
        if isinstance(detail, Channel):
            return f"{detail.name}_word"
        if isinstance(detail, Access):
            return self.module.memory_port(detail)
        if isinstance(detail, Cell):
            return self.module.cell(detail)
        if op.is_const:
            return ""
        return self.module.unique(f"{self.place.name}_{re.sub(r'[^A-Za-z0-9_]', '_', op.hint or op.kind)}")

    # What others ask for --------------------------------------------------------------------------------

    def valid(self, stage: int) -> str:
        return f"{self.place.name}_v{stage}" if stage else f"{self.place.name}_issue"

    def conditions(self, ops: Sequence[Op], stage: int = 0) -> list[str]:
        return [self.plain(op, stage) for op in ops if not (op.is_const and op.low)]

    def when(self, condition: Op, stage: int) -> str:
        return _all([self.valid(stage), *self.conditions([condition], stage)])

    def plain(self, op: Op, stage: int) -> str:
        """An operation's result in a stage."""
        if op.is_const:
            return _literal(op.low, op.signed)
        at = self.pipeline.stages[op]
        assert at is None or at <= stage, f"{op} is not there in stage {stage}"
        return self.names[op] if at is None or at == stage else f"{self._delayed(op)}_at{stage}"

    def _delayed(self, op: Op) -> str:
        """Several nests have registers for one counter, port or cell."""
        name = self.names[op]
        return name if name.startswith(f"{self.place.name}_") else f"{self.place.name}_{name}"

    def word(self, lanes: Sequence[Op | None], bits: int, stage: int) -> str:
        """Lanes of `bits` bits, the first in the lowest."""
        parts = [f"{bits}'d0" if op is None else self._exactly(op, bits, stage) for op in reversed(lanes)]
        return parts[0] if len(parts) == 1 else f"{{{', '.join(parts)}}}"

    def _exactly(self, op: Op, bits: int, stage: int) -> str:
        if op.is_const:
            return f"{bits}'d{op.low & (1 << bits) - 1}"
        text = self.plain(op, stage)
        if op.bits == bits:
            return text
        if op.bits > bits:
            return f"{text}[{bits - 1}:0]"
        fill = f"{text}[{op.bits - 1}]" if op.signed and op.bits > 1 else text if op.signed else "1'b0"
        return f"{{{{{bits - op.bits}{{{fill}}}}}, {text}}}"

    def may_issue(self, several: bool) -> str:
        place, path = self.place, self.pipeline.path
        terms = [f"state == {place.name.upper()}"] if several else []
        if max(max(p.pipeline.depth, p.nest.ii) for p in self.module.design.places) > 1:
            terms.append("pause == 0")
        waits = [(condition, [f"{channel.name}_valid"]) for channel, condition in path.reads.items()]
        waits += [(w.condition, [f"{channel.name}_room" for channel in w.channels]) for w in path.writes]
        for condition, ready in waits:
            if condition.is_const and not condition.low:
                continue
            unless = [] if condition.is_const else [f"!{self.plain(condition, 0)}"]
            terms.append(f"({' || '.join([*unless, _all(ready)])})" if unless else _all(ready))
        return _all(terms)

    # Text -----------------------------------------------------------------------------------------------

    def lines(self) -> Iterator[str]:
        deepest = self.pipeline.depth - 1
        if deepest:
            valid = [f"{self.place.name}_v{stage}" for stage in range(1, deepest + 1)]
            yield f"reg {', '.join(valid)};"
            yield "always @(posedge clk)"
            yield f"    if (rst) {{{', '.join(valid)}}} <= 0;"
            yield f"    else {{{', '.join(valid)}}} <= {{{', '.join([f'{self.place.name}_issue', *valid[:-1]])}}};"
        path, stages = self.pipeline.path, self.pipeline.stages
        flow = reachable(path.flow())
        for stage in range(deepest + 1):
            made = [op for op in path.ops if stages[op] == stage and (op in self.last or op in flow)]
            lines = [line for op in made for line in self._operation(op, stage)]
            kept = [
                (op, self.plain(op, stage), self.plain(op, stage + 1))
                for op in path.ops
                if (at := stages[op]) is not None and at <= stage < self.last.get(op, -1)
            ]
            if lines or kept:
                yield f"// stage {stage}"
            yield from lines
            for op, _, after in kept:
                yield f"reg {_signed_range(op)}{after};"
            if kept:
                yield "always @(posedge clk) begin"
                for _, before, after in kept:
                    yield f"    {after} <= {before};"
                yield "end"

    def _operation(self, op: Op, stage: int) -> Iterator[str]:
        if op.kind in ("const", "counter", "affine", "word", "load", "register"):
            return
        name, declared = self.names[op], _signed_range(op)
        if op in self.module.made_by:
            yield f"wire {declared}{name} = {self.module.made_by[op]};"
        elif op.kind == "mul":
            yield f"reg {declared}{name};"
            yield f"always @(posedge clk) {name} <= {self._expression(op, stage - 1)};"
        else:
            yield f"wire {declared}{name} = {self._expression(op, stage)};"

    def _expression(self, op: Op, stage: int) -> str:
        kind, args, detail = op.kind, op.args, op.detail
        if kind == "lane":
            assert isinstance(detail, int)
            (word,) = args
            source = word.detail
            whole = source.memory if isinstance(source, Access) else source
            assert isinstance(whole, (Memory, Channel))
            return self.plain(word, stage) + (f"[{detail * whole.kind.bits} +: {op.bits}]" if whole.bits > 1 else "")
        if kind == "shift":
            assert isinstance(detail, int)
            return f"{self.plain(args[0], stage)} {'<<<' if detail > 0 else '>>>'} {abs(detail)}"
        if kind == "shift_by":
            return f"{self.plain(args[0], stage)} >>> {self.plain(args[1], stage)}"
        if kind == "narrow":
            return self.plain(args[0], stage)
        if kind == "not":
            return f"!{self.plain(args[0], stage)}"
        if kind in ("and", "or"):
            return f" {_SIGNS[kind]} ".join(self.plain(arg, stage) for arg in args)
        if kind == "leading":
            return self._leading(args[0], stage)
        if kind == "select":
            condition, *chosen = args
            a, b = self._operands(chosen, stage, op.signed)
            return f"{self.plain(condition, stage)} ? {a} : {b}"
        a, b = self._operands(args, stage, False)
        if kind in ("min", "max"):
            return f"{a} {'<' if kind == 'min' else '>'} {b} ? {a} : {b}"
        return f"{a} {_SIGNS[kind]} {b}"

    def _operands(self, args: Sequence[Op], stage: int, signed: bool) -> list[str]:
        """With signs as soon as one has a sign: Verilog takes all for unsigned if one is."""
        signed = signed or any(arg.signed for arg in args)
        return [self.operand(arg, stage, signed) for arg in args]

    def operand(self, op: Op, stage: int, signed: bool) -> str:
        if op.is_const:
            return _literal(op.low, signed)
        text = self.plain(op, stage)
        return f"$signed({{1'b0, {text}}})" if signed and not op.signed else text

    def _leading(self, x: Op, stage: int) -> str:
        text = self.plain(x, stage)
        found = "0"
        for bit in range(1, x.bits):
            found = f"{text}[{bit}] ? {bit} : {found}"
        return found


def _all(terms: Sequence[str] | Iterator[str]) -> str:
    return " && ".join(terms) or "1'b1"


def _indented(lines: Iterator[str], depth: int) -> Iterator[str]:
    for line in lines:
        yield "    " * depth + line


def _mux(chosen: Sequence[tuple[str, str]]) -> str:
    """The value of the first condition that holds; of the last one if none does."""
    text = chosen[-1][1]
    for condition, value in reversed(chosen[:-1]):
        text = f"{condition} ? {value} : {text}"
    return text


def _small(value: int, bits: int) -> str:
    return f"{'-' if value < 0 else ''}{bits}'d{abs(value)}"


def _moves(chain: Sequence[Loop], factors: dict[Loop, int], bits: int) -> str:
    """By how much a sum of counters times factors moves when those of `chain` do, the innermost first."""
    back = 0
    moves = []
    for loop in chain:
        by = factors.get(loop, 0)
        moves.append((loop, by + back))
        back -= by * (loop.extent - 1)
    text = _small(back, bits)
    for loop, by in reversed(moves):
        move = _small(by, bits)
        text = move if text == move else f"{loop.name}_last ? {text} : {move}"
    return text


# The whole ----------------------------------------------------------------------------------------------


def _top(program: Program) -> Iterator[str]:
    inputs = [port.channel.name for port in program.inputs]
    outputs = [port.channel.name for port in program.outputs]
    bits = {channel.name: channel.bits for channel in program.channels}
    yield f"// {program.name}: lane 0 of a word is in its lowest bits."
    yield f"module {program.name} ("
    ports = ["    input wire clk, input wire rst"]
    ports += [
        f"    input wire {name}_tvalid, output wire {name}_tready, input wire {_range(bits[name])}{name}_tdata"
        for name in inputs
    ]
    ports += [
        f"    output wire {name}_tvalid, input wire {name}_tready, output wire {_range(bits[name])}{name}_tdata"
        for name in outputs
    ]
    ports += [
        f"    {way} wire {_range(bits)}{name}_{signal}"
        for name, _, memory in program.outside
        for signal, way, bits in memory_signals(memory)
    ]
    yield ",\n".join(ports)
    yield ");"
    for channel in program.channels:
        if channel.name not in inputs:
            yield from fifo(channel)
    for name in outputs:
        yield f"    assign {name}_tvalid = {name}_valid, {name}_read = {name}_valid && {name}_tready;"
        yield f"    assign {name}_tdata = {name}_shown;"
    for process in program.processes:
        yield from _instance(process, set(inputs))
    yield "endmodule"


def fifo(channel: Channel) -> Iterator[str]:
    """The wires of a channel, and the FIFO that they lead to."""
    name, width = channel.name, channel.bits
    yield f"    wire {name}_room, {name}_reserve, {name}_write, {name}_valid, {name}_read;"
    yield f"    wire {_range(width)}{name}_given, {name}_shown;"
    parameters = {
        "WIDTH": width, "DEPTH": channel.depth, "COUNT": bits_for(0, channel.depth),
        "PLACE": bits_for(0, channel.depth - 1), "BLOCK": int(fifo_storage(channel) == "block"),
    }  # fmt: skip
    yield f"    fifo #({', '.join(f'.{key}({value})' for key, value in parameters.items())}) {name}_fifo ("
    yield f"        .clk(clk), .rst(rst), .room({name}_room), .reserve({name}_reserve), .write({name}_write),"
    yield f"        .in({name}_given), .valid({name}_valid), .read({name}_read), .out({name}_shown)"
    yield "    );"


def _instance(process: Process, outside: set[str]) -> Iterator[str]:
    yield f"    {process.name} {process.name}_layer ("
    ports = ["        .clk(clk), .rst(rst)"]
    for channel in process.inputs:
        name = channel.name
        valid, word, read = (
            (f"{name}_tvalid", f"{name}_tdata", f"{name}_tready") if name in outside
            else (f"{name}_valid", f"{name}_shown", f"{name}_read")
        )  # fmt: skip
        ports.append(f"        .{name}_valid({valid}), .{name}_word({word}), .{name}_read({read})")
    for channel in process.outputs:
        name = channel.name
        ports.append(
            f"        .{name}_room({name}_room), .{name}_reserve({name}_reserve), .{name}_write({name}_write), "
            f".{name}_given({name}_given)"
        )
    for memory in process.outside:
        name = port_of(process, memory)
        ports.append("        " + ", ".join(f".{name}_{one}({name}_{one})" for one, _, _ in memory_signals(memory)))
    yield ",\n".join(ports)
    yield "    );"
