"""Sequential, dataflow, or a mix: which layers run side by side, and on how many cores each (InTAR).

The design has some cores with equally many multipliers. The layers that multiply are cut into contiguous segments. A
segment of one layer is *sequential*: all cores work on it, each on some channels of its output. In a longer one layers
run side by side, each on cores of its own, and pass rows to each other as they are made: a *dataflow* segment, within
which no tensor is stored. Tensors between segments are stored whole, on the chip or beyond it. Cores go from segment to
segment by themselves: each walks its list of stages.

Which segments is found by dynamic programming over cuts: time adds up, and so does block RAM. Times are estimates:
the best plans are built, and the exact cycles of `targets.hls.hardware.timing` decide.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from targets.hls.exploration.cores import with_cores
from targets.hls.exploration.cost import Cost, cost_of
from targets.hls.exploration.outside import cost_outside
from targets.hls.hardware.clock import CLOCK, levels_of
from targets.hls.hardware.estimate import estimate
from targets.hls.hardware.pipeline import Design, designs_of
from targets.hls.hardware.resources import Resources, bram18, memory_kind
from targets.hls.hardware.timing import DeadlockError, Timing, depths, timing_of, with_depths
from targets.hls.layers.layer import Layer, Unroll
from targets.hls.layers.network import Network, process_of, program_of
from targets.hls.layers.outside import Outside
from targets.hls.layers.product import Product
from targets.hls.layers.split import Join, Spread, Take, part_names, parts_of, ways
from targets.hls.parts import Part, rate_of
from targets.hls.plan import Mode, Plan, Stage
from targets.hls.program import OUTSIDE, Channel, Program
from targets.hls.schedule import Schedule, depths_of
from targets.hls.traffic import traffic_of
from tensorc.options import Objective

#: No design has more cores.
_MOST_CORES = 16
#: By how much a program may be slower with FIFOs that are smaller.
_SLACK = 0.03


# Cuts -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Segment:
    """A way to run layers first..last-1: how long it takes, what block RAM it needs for ever, and as `work` while it is
    run, what passes beyond the chip."""

    first: int
    last: int
    cycles: float
    bram18: int
    stages: tuple[Stage, ...] = ()
    beyond: tuple[tuple[str, int], ...] = ()
    work: int = 0


def best_cut(count: int, ways: Callable[[int, int], Sequence[Segment]], cap: int) -> list[Segment] | None:
    """Segments that cover layers 0..count-1 in the least cycles with at most `cap` block RAMs; None where none fit.
    `ways(first, last)` has what a segment can be."""
    #: By block RAMs that are used: the least cycles, and the segments.
    best: list[dict[int, tuple[float, list[Segment]]]] = [{} for _ in range(count + 1)]
    best[0][0] = 0.0, []
    for last in range(1, count + 1):
        found = best[last]
        for first in range(last):
            for segment in ways(first, last):
                for used, (cycles, chosen) in best[first].items():
                    total, time = used + segment.bram18, cycles + segment.cycles
                    if total <= cap and (total not in found or time < found[total][0]):
                        found[total] = time, [*chosen, segment]
        fewest = math.inf
        for used in sorted(found):  # what takes more must be faster
            if found[used][0] < fewest:
                fewest = found[used][0]
            else:
                del found[used]
    return min(best[count].values(), key=lambda found: found[0])[1] if best[count] else None


# Plans ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Built:
    """A plan as a program, with its exact cycles and what it takes."""

    schedule: Schedule
    program: Program
    designs: tuple[Design, ...]
    timing: Timing
    used: Resources

    @property
    def plan(self) -> Plan:
        assert self.schedule.plan is not None
        return self.schedule.plan

    @property
    def bytes_beyond(self) -> int:
        """Written to and read from memory outside the chip for an image."""
        return sum(one.moved for one in traffic_of(self.program))


@dataclass(frozen=True)
class _Option:
    unroll: Unroll
    cost: Cost
    cycles: int
    multipliers: int


class Choice:
    """For a network under caps of DSP blocks and block RAMs, and the other caps of a part; `bandwidth` in bytes a cycle
    is that of each tensor that passes beyond the chip, in each direction. What is not given is the part's. With
    `outside`, weights that would take block RAM lie beyond the chip."""

    def __init__(self, network: Network, part: Part, dsp: int | None = None, bram18: int | None = None,
                 bandwidth: int | None = None, clock: float = CLOCK, outside: bool = False):  # fmt: skip
        self.network = network
        self.part = part
        self.dsp = part.budget.dsp if dsp is None else dsp
        self.cap = part.budget.bram18 if bram18 is None else bram18
        self.bandwidth = part.port if bandwidth is None else bandwidth
        self.clock = clock
        self.outside = outside
        self.options: dict[tuple[str, int], list[_Option]] = {}
        self.layers = [layer for layer in network.layers if self._multiplies(layer)]
        self.number = {layer.name: number for number, layer in enumerate(self.layers)}

    # What layers cost -----------------------------------------------------------------------------------

    def _multiplies(self, layer: Layer) -> bool:
        return isinstance(layer, Product) or any(option.multipliers for option in self._options(layer, 1)[:1])

    def _options(self, layer: Layer, count: int) -> list[_Option]:
        """The ways to unroll one of `count` parts of a layer."""
        key = layer.name, count
        if key not in self.options:
            part = layer if count == 1 else next(p for p in parts_of(layer, count) if isinstance(p, Product))
            held = [one for one in part.choices()
                    if not isinstance(part, Product) or part.multipliers(one) <= self.dsp]  # fmt: skip
            self.options[key] = [self._option(part, unroll, count) for unroll in held]
        return self.options[key]

    def _option(self, layer: Layer, unroll: Unroll, count: int) -> _Option:
        lanes, made = layer.input_lanes(unroll), layer.output_lanes(unroll)
        inputs = [
            Channel(f"in{n}", tensor.kind, width, tensor.words(width))
            for n, (tensor, width) in enumerate(zip(layer.inputs, lanes, strict=True))
        ]
        output = Channel("out", layer.output.kind, made, layer.output.words(made))
        levels = levels_of(self.clock)
        cost = cost_of(replace(process_of(layer, unroll, inputs, [output]), levels=levels), self.part.family)
        if self.outside and isinstance(layer, Product) and not layer.is_lmul and cost.tables.bram18:
            unroll = replace(unroll, constants=OUTSIDE)
            cost, _ = cost_outside(layer, unroll, inputs, output, self.part.family, levels, self.bandwidth)
        # One word a cycle comes out of what joins the parts, and goes into what cuts the input.
        joined = count * output.count if count > 1 else 0
        cut = count * max((channel.count for channel in inputs), default=0) if _is_cut(layer, count) else 0
        return _Option(unroll, cost, max(cost.cycles, joined, cut), _multipliers(layer, unroll, cost))

    def _fastest(self, layer: Layer, count: int, multipliers: int) -> _Option | None:
        """Of a core with so many."""
        held = [option for option in self._options(layer, count) if option.multipliers <= multipliers]
        return min(
            held, key=lambda option: (option.cycles, option.cost.used.bram18, option.cost.used.lut), default=None
        )

    # Segments -------------------------------------------------------------------------------------------

    @cached_property
    def edges(self) -> list[tuple[int, str, int]]:
        """(layer that multiplies, the reader, the number of its input) of all tensors between such layers and what
        reads them; -1 where a tensor comes from outside. What does not multiply belongs to the layer that it reads."""
        made_by: dict[int, int] = {}
        found: list[tuple[int, str, int]] = []
        for layer in self.network.layers:
            sources = [made_by.get(id(tensor.root), -1) for tensor in layer.inputs]
            mine = self.number.get(layer.name, max(sources, default=-1))
            found += [(source, layer.name, number) for number, source in enumerate(sources) if source != mine]
            made_by[id(layer.output)] = mine
            self._home[layer.name] = mine
        return found

    @cached_property
    def _home(self) -> dict[str, int]:
        return {}

    def _stored(
        self, first: int, last: int, chosen: Mapping[str, _Option]
    ) -> Iterator[tuple[tuple[str, int], int, int]]:
        """The readers in a segment of what earlier ones made: block RAMs and bytes of it."""
        known = {layer.name: layer for layer in self.network.layers}
        for source, reader, number in self.edges:
            if not (0 <= source < first <= self._home[reader] < last):
                continue
            layer = known[reader]
            tensor = layer.inputs[number]
            option = chosen.get(reader)
            lanes = layer.input_lanes(option.unroll)[number] if option is not None else 1
            words, bits = tensor.words(lanes), lanes * tensor.kind.bits
            blocks = bram18(bits, words) if memory_kind(bits, words, True) == "block" else 0
            yield (reader, number), blocks, 2 * -(-tensor.size * tensor.kind.bits // 8)

    def _segments(self, first: int, last: int, cores: int, multipliers: int) -> list[Segment]:
        """Of layers first..last-1 on so many cores: those that nothing else is better than."""
        layers = self.layers[first:last]
        if len(layers) > cores:
            return []
        table = [
            {count: option for count in ways(layer) if count <= cores
             if (option := self._fastest(layer, count, multipliers)) is not None}
            for layer in layers
        ]  # fmt: skip
        found: list[Segment] = []
        for limit in sorted({option.cycles for options in table for option in options.values()}):
            counts = [
                next((count for count in sorted(options) if options[count].cycles <= limit), 0) for options in table
            ]
            if all(counts) and sum(counts) <= cores:
                chosen = [options[count] for options, count in zip(table, counts, strict=True)]
                found += self._segment(first, last, chosen, counts)
                if sum(counts) == len(layers):
                    break
        return _best(found)

    def _segment(self, first: int, last: int, chosen: Sequence[_Option], counts: Sequence[int]) -> Iterator[Segment]:
        layers = self.layers[first:last]
        slowest = max(range(len(chosen)), key=lambda n: chosen[n].cycles)
        fill = sum(option.cost.first for n, option in enumerate(chosen) if n != slowest)
        stages = tuple(
            Stage(layer.name, count, option.unroll) for layer, count, option in zip(layers, counts, chosen, strict=True)
        )
        blocks = sum(count * option.cost.tables.bram18 for count, option in zip(counts, chosen, strict=True))
        work = sum(count * option.cost.used.bram18 for count, option in zip(counts, chosen, strict=True)) - blocks
        stored = list(self._stored(first, last, {stage.layer: one for stage, one in zip(stages, chosen, strict=True)}))
        for beyond in itertools.product((False, True), repeat=len(stored)):
            on_chip = sum(mine for (_, mine, _), is_beyond in zip(stored, beyond, strict=True) if not is_beyond)
            passed = sum(size for (_, _, size), is_beyond in zip(stored, beyond, strict=True) if is_beyond)
            names = tuple(reader for (reader, _, _), is_beyond in zip(stored, beyond, strict=True) if is_beyond)
            # Each word is written while the segment before works, and read while this one does.
            busy, each = chosen[slowest].cycles, passed / 2 / self.bandwidth
            # Of plans that take equally long the one with the fewest bytes counts.
            cycles = max(busy, each) + max(each - busy, 0) + fill + 1e-6 * passed
            yield Segment(first, last, cycles, blocks + on_chip, stages, names, work)

    # Plans ----------------------------------------------------------------------------------------------

    def plans(self, mode: Mode, cap: int) -> list[tuple[float, Plan]]:
        """The best of each number of cores, with the cycles that are expected."""
        found: list[tuple[float, Plan]] = []
        every = len(self.layers)
        for cores in range(1, min(self.dsp, _MOST_CORES) + 1):
            options = self._ways(mode, cores)
            best = None
            # Stages use the memories of a core one after the other: what the greatest needs is set aside.
            pairs = itertools.combinations(range(every + 1), 2)
            for work in sorted({segment.work for pair in pairs for segment in options(*pair)}):
                cut = best_cut(every, partial(_within, options, work), cap - work)
                if cut is not None and (best is None or _cycles(cut) < _cycles(best)):
                    best = cut
            if best is not None:
                found.append((_cycles(best), _plan(mode, best)))
        if mode != "sequential":
            found += [(_cycles(cut), _plan(mode, cut)) for cut in self._unequal(cap)]
        return sorted(found, key=lambda pair: pair[0])

    def _ways(self, mode: Mode, cores: int) -> Callable[[int, int], Sequence[Segment]]:
        @functools.cache
        def found(first: int, last: int) -> Sequence[Segment]:
            whole = (first, last) == (0, len(self.layers))
            if (mode == "sequential" and last - first > 1) or (mode == "dataflow" and not whole):
                return []
            return self._segments(first, last, cores, self.dsp // cores)

        return found

    def _unequal(self, cap: int) -> Iterator[list[Segment]]:
        """All layers side by side, with as many multipliers as each needs: the fastest that fits."""
        table = [self._options(layer, 1) for layer in self.layers]
        for limit in sorted({option.cycles for options in table for option in options}):
            chosen = [
                min((option for option in options if option.cycles <= limit),
                    key=lambda option: (option.multipliers, option.cycles), default=None)
                for options in table
            ]  # fmt: skip
            known = [option for option in chosen if option is not None]
            if len(known) == len(chosen) and sum(option.multipliers for option in known) <= self.dsp:
                for segment in self._segment(0, len(known), known, [1] * len(known)):
                    if segment.bram18 + segment.work <= cap:
                        yield [segment]
                        return

    # Programs -------------------------------------------------------------------------------------------

    def built(self, plan: Plan, name: str) -> Built:
        stages, network = plan.stages, plan.arranged(self.network, self.bandwidth)
        #: What layers stand for, once they are split.
        origin = {
            part: layer
            for layer in self.layers
            if layer.name in stages and stages[layer.name].count > 1
            for part in part_names(layer, stages[layer.name].count)
        }
        unrolls = self._unrolls(network, stages, origin)
        cores = plan.cores()
        program = with_cores(program_of(network, unrolls, name, self.clock, self.bandwidth), cores)
        designs = designs_of(program)
        spread = {layer.name for layer in network.layers if isinstance(layer, (Spread, Take))}
        narrow = {c.name for process in program.processes if process.name in spread for c in process.outputs}
        program = with_depths(program, depths(program, designs, 1, narrow, _SLACK))
        schedule = Schedule(name, unrolls, depths_of(program), self.clock, self.bandwidth, cores, plan)
        return Built(schedule, program, designs, timing_of(program, designs), estimate(program, designs, self.part))

    def _unrolls(self, network: Network, stages: Mapping[str, Stage], origin: Mapping[str, Layer]) -> dict[str, Unroll]:
        """Of parts as planned; what stands between them passes their words, and other layers keep pace."""
        found: dict[str, Unroll] = {}
        pace = min((self._cycles(stage) for stage in stages.values()), default=1)
        lanes: dict[int, int] = {}  # that readers take, by the tensor
        for layer in reversed(network.layers):
            whole = origin.get(layer.name)
            stage = stages.get(whole.name if whole is not None else layer.name)
            if isinstance(layer, Join):
                assert stage is not None
                unroll = Unroll(stage.unroll.outputs, stage.unroll.outputs)
            elif (stage is not None and isinstance(layer, Product)) or (whole is None and stage is not None):
                unroll = stage.unroll
            elif isinstance(layer, Outside):
                unroll = layer.choices()[-1]
            elif isinstance(layer, (Spread, Take)):
                taken = lanes[id(layer.output.root)]
                unroll = Unroll(taken, taken)
            else:
                fast = [one for one in layer.choices() if self._option(layer, one, 1).cycles <= pace]
                unroll = (fast or layer.choices()[-1:])[0]
            found[layer.name] = unroll
            for tensor, count in zip(layer.inputs, layer.input_lanes(unroll), strict=True):
                lanes[id(tensor.root)] = count
        return found

    def _cycles(self, stage: Stage) -> int:
        options = self._options(self.layers[self.number[stage.layer]], stage.count)
        return next(option.cycles for option in options if option.unroll == stage.unroll)

    def best(self, mode: Mode, name: str, tries: int = 3, limit: float = math.inf,
             objective: Objective = "latency") -> Built | None:  # fmt: skip
        """The plan of the least cycles for an objective that holds the caps, of those that promise the least latency; a
        mix is as good as the others at least. None where none fits. Plans of which no less than `limit` cycles are
        expected are not built."""
        modes: tuple[Mode, ...] = ("sequential", "dataflow", "mix") if mode == "mix" else (mode,)
        found = [built for one in modes for built in self._fitting(one, name, tries, limit)]
        return min(found, key=lambda built: (cycles_for(objective, built.timing), built.bytes_beyond), default=None)

    def _holds(self, built: Built) -> bool:
        used, budget = built.used, self.part.budget
        within = used.lut <= budget.lut and used.ff <= budget.ff and used.uram <= budget.uram
        is_slow_enough = built.bytes_beyond <= rate_of(self.part, self.clock) * built.timing.interval
        return within and used.dsp <= self.dsp and used.bram18 <= self.cap and is_slow_enough

    def _fitting(self, mode: Mode, name: str, tries: int, limit: float) -> Iterator[Built]:
        """FIFOs take block RAM, too, which plans do not know: where that is too much, they get less."""
        cap = self.cap
        for _ in range(6):
            over: list[int] = []
            for cycles, plan in self.plans(mode, cap)[:tries]:
                if cycles >= limit:
                    break
                try:
                    built = self.built(plan, name)
                except DeadlockError:  # what waits outside the chip is all written before it is read
                    continue
                over.append(max(built.used.bram18 - self.cap, 0))
                if self._holds(built):
                    yield built
            if not over or not min(over):
                return
            cap -= min(over)


def cycles_for(objective: Objective, timing: Timing) -> int:
    """Those that an objective is about."""
    return timing.interval if objective == "throughput" else timing.latency


def _multipliers(layer: Layer, unroll: Unroll, cost: Cost) -> int:
    """What a core needs for a layer: weights that are all known at once would be shifts and additions, in LUTs."""
    if isinstance(layer, Product):
        return layer.multipliers(unroll)
    return cost.used.dsp


def _is_cut(layer: Layer, count: int) -> bool:
    return count > 1 and isinstance(layer, Product) and layer.weights.shape[3] == 1


def _plan(mode: Mode, cut: Sequence[Segment]) -> Plan:
    return Plan(mode, tuple(s.stages for s in cut), frozenset(name for s in cut for name in s.beyond))


def _cycles(cut: Sequence[Segment]) -> float:
    return sum(segment.cycles for segment in cut)


def _within(options: Callable[[int, int], Sequence[Segment]], work: int, first: int, last: int) -> Sequence[Segment]:
    return [segment for segment in options(first, last) if segment.work <= work]


def _best(segments: Sequence[Segment]) -> list[Segment]:
    """Without those that another one is no worse than."""
    kept: list[Segment] = []
    for segment in sorted(segments, key=lambda segment: (segment.cycles, segment.bram18, segment.work)):
        if not any(other.bram18 <= segment.bram18 and other.work <= segment.work for other in kept):
            kept.append(segment)
    return kept
