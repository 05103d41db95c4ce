"""How far each layer is unrolled: the best program for an objective that a part holds.

Every choice of every layer is costed (`exploration.cost`); one of each layer's is picked. The budget of a part is a
hard cap.
- throughput: the least interval. For an interval T each layer takes the choice of the least share of the part among
  those that are done in T cycles; only where that exceeds a cap, an integer program decides. T is found by bisection.
- latency: an integer program over the times at which layers begin to write and end, bounded by an effort; never worse
  than the choice for throughput.
- resources: the least share of the part, whatever the time.
- energy: the least picojoules of an image, by the proxy of `targets.hls.exploration.cost`, over intervals.
Weights may lie outside the chip, if `outside` says so: a row for what they ask of memory there is one more cap.
What the costs leave out (FIFOs that must be deep, the exact logic of a datapath) is known when a program is made: if it
does not fit then, the search is done again with so much less.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from math import gcd, inf

import numpy as np

from targets.hls.exploration.cost import Cost, cost_of, idle_energy
from targets.hls.exploration.outside import cost_outside
from targets.hls.hardware.clock import CLOCK, LEVELS, levels_of
from targets.hls.hardware.estimate import fifo_resources, memory_resources
from targets.hls.hardware.resources import Family, Resources
from targets.hls.layers.layer import Layer, Unroll
from targets.hls.layers.network import Network, process_of
from targets.hls.layers.product import Product
from targets.hls.layers.tensor import Tensor
from targets.hls.parts import PARTS, Part, rate_of
from targets.hls.program import OUTSIDE, Channel, Kind, Memory, Process
from tensorc.errors import UserError
from tensorc.options import Objective

NAMES = tuple(field.name for field in fields(Resources))
_TITLES = {"lut": "LUTs", "ff": "flip-flops", "bram18": "BRAM18", "uram": "URAMs", "dsp": "DSPs"}
#: Points of a front.
_POINTS = 24
#: Nodes that the integer program for the latency may look at.
_NODES = 200
_GAP = 0.01
#: The share of the latency that is given for smaller layers.
_GIVEN = 0.002


@dataclass(frozen=True)
class Option:
    """A way to unroll a layer, and what it costs, channels around it included. `asked`: bytes a cycle of memory outside
    the chip, while it works."""

    unroll: Unroll
    cost: Cost
    used: Resources
    inputs: tuple[int, ...]
    output: int
    asked: float = 0.0

    @cached_property
    def vector(self) -> tuple[float, ...]:
        return (*(getattr(self.used, name) for name in NAMES), self.asked)


@dataclass(frozen=True)
class Found:
    """A design by its costs: cycles between images and of the first one, the shares of the part, picojoules."""

    unrolls: Mapping[str, Unroll]
    interval: int
    latency: int
    used: Resources
    energy: float


@dataclass(frozen=True)
class Point:
    """Of a front: nothing found is as good in everything and better in something."""

    interval: int
    latency: int
    used: Resources


# Options ------------------------------------------------------------------------------------------------


def options_of(layer: Layer, family: Family, cap: Resources, levels: int = LEVELS, port: int = 0) -> list[Option]:
    """Those that could be best for something; one that takes more than the cap alone is none, and what is unrolled
    further than such a one is not looked at. With a `port` of so many bytes weights may lie outside the chip."""
    found: list[Option] = []
    beyond: list[Unroll] = []
    for unroll in sorted(layer.choices(), key=lambda unroll: (unroll.size, unroll.outputs, unroll.places)):
        if any(_is_further(unroll, too) for too in beyond):
            continue
        option = _option(layer, unroll, family, levels)
        if _exceeds(replace(option.used, bram18=0), cap):
            beyond.append(unroll)
        found.append(option)
        if option.cost.tables.bram18:
            moved = option.cost.distributed
            used = option.used + option.cost.tables * -1 + moved.tables
            found.append(replace(option, unroll=replace(unroll, constants="distributed"), cost=moved, used=used))
        if port and isinstance(layer, Product) and not layer.is_lmul:
            found.append(_outside(layer, option, replace(unroll, constants=OUTSIDE), family, levels, port))
    return _best([option for option in found if not _exceeds(option.used, cap)]) or found[:1]


def _is_further(unroll: Unroll, other: Unroll) -> bool:
    return (unroll.outputs >= other.outputs and unroll.inputs >= other.inputs
            and unroll.places % other.places == 0)  # fmt: skip


def _option(layer: Layer, unroll: Unroll, family: Family, levels: int) -> Option:
    process = replace(_process(layer, unroll), levels=levels)
    cost = cost_of(process, family)
    used = cost.used
    for channel in process.inputs:
        used += fifo_resources(channel, family)
    # What a gearbox takes whose wider side this is.
    for channel in (*process.inputs, *process.outputs):
        used += Resources(lut=channel.bits, ff=channel.bits) if channel.lanes > 1 else Resources()
    return Option(unroll, cost, used, layer.input_lanes(unroll), layer.output_lanes(unroll))


def _outside(layer: Product, within: Option, unroll: Unroll, family: Family, levels: int, port: int) -> Option:
    """The same with weights that come from outside the chip."""
    inputs, output = _channels(layer, unroll)
    cost, asked = cost_outside(layer, unroll, inputs, output, family, levels, port)
    used = within.used + within.cost.used * -1 + cost.used
    return replace(within, unroll=unroll, cost=cost, used=used, asked=asked)


def _process(layer: Layer, unroll: Unroll) -> Process:
    """With channels of its own."""
    inputs, output = _channels(layer, unroll)
    return process_of(layer, unroll, inputs, [output])


def _channels(layer: Layer, unroll: Unroll) -> tuple[list[Channel], Channel]:
    lanes = layer.input_lanes(unroll)
    inputs = [_channel(f"in{n}", *pair) for n, pair in enumerate(zip(layer.inputs, lanes, strict=True))]
    return inputs, _channel("out", layer.output, layer.output_lanes(unroll))


def _channel(name: str, tensor: Tensor, lanes: int) -> Channel:
    return Channel(name, tensor.kind, lanes, tensor.words(lanes))


def _exceeds(used: Resources, cap: Resources) -> bool:
    return any(getattr(used, name) > getattr(cap, name) for name in NAMES)


def _best(options: list[Option]) -> list[Option]:
    """Without those that another one is no worse than in everything."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda option: (option.cost.cycles, sum(option.vector))):
        if not any(all(a <= b for a, b in zip(other.vector, option.vector, strict=True)) for other in kept):
            kept.append(option)
    return kept


# Search -------------------------------------------------------------------------------------------------


class Search:
    """Over the options of a network's layers, for a part; weights may lie `outside` the chip."""

    def __init__(self, network: Network, part: Part, clock: float = CLOCK, outside: bool = False):
        self.network = network
        self.part = part
        self.outside = outside
        self.layers = network.layers
        self.budget = part.budget
        self.clock = clock
        #: Bytes that memory outside gives in a cycle.
        self.rate = rate_of(part, clock)
        port = part.port if outside else 0
        self.options = [options_of(layer, part.family, self.budget, levels_of(clock), port) for layer in self.layers]
        self._shares: dict[Resources, float] = {}
        number = {id(layer.output): n for n, layer in enumerate(self.layers)}
        #: For each layer's inputs the layers that make them; None for what comes from outside.
        self.makers = [[number.get(id(tensor.root)) for tensor in layer.inputs] for layer in self.layers]
        self.ends = [n for _, tensor in network.outputs if (n := number.get(id(tensor.root))) is not None]

    def best(self, objective: Objective, less: Resources | None = None) -> Found:
        """`less` is kept free of the part's budget. Raises UserError where nothing fits."""
        cap = self._cap(less)
        smallest = self._pick(inf, cap)
        if smallest is None:
            raise NoRoomError(self, less)
        if objective == "resources":
            return self.found(smallest)
        fastest = self._fastest(cap, smallest)
        if objective == "throughput":
            return self.found(fastest)
        if objective == "energy":
            return min((self.found(pick) for pick in self._energetic(cap, fastest)), key=lambda found: found.energy)
        quick = [self.found(pick) for pick in (fastest, *self._quickest(cap))]
        return min(quick, key=lambda found: (found.latency, found.interval))

    def quick(self, less: Resources | None = None) -> list[Found]:
        """Designs that may be of the least latency; costs do not know it to the cycle."""
        cap = self._cap(less)
        smallest = self._pick(inf, cap)
        if smallest is None:
            raise NoRoomError(self, less)
        found: list[Found] = []
        for pick in (*self._quickest(cap), self._fastest(cap, smallest)):
            one = self.found(pick)
            if all(one.unrolls != other.unrolls for other in found):
                found.append(one)
        return found

    def within(self, latency: float, less: Resources | None = None) -> list[Found]:
        """Designs of no greater latency than that, as far as costs know it, the smallest first."""
        cap = self._cap(less)
        smallest = self._pick(inf, cap)
        if smallest is None:
            raise UserError(obstacle(self, less))
        picks = (*self._along(cap, self._fastest(cap, smallest), smallest), *self._quickest(cap))
        found = {str(one.unrolls): one for one in map(self.found, picks) if one.latency <= latency}
        return sorted(found.values(), key=lambda one: self.share(one.used))

    def front(self, less: Resources | None = None) -> list[Point]:
        """Intervals against what they take, the fastest first."""
        cap = self._cap(less)
        smallest = self._pick(inf, cap)
        if smallest is None:
            return []
        points: list[Point] = []
        for pick in self._along(cap, self._fastest(cap, smallest), smallest):
            found = self.found(pick)
            if not points or found.interval > points[-1].interval:
                points.append(Point(found.interval, found.latency, found.used))
        share = [self.share(point.used) for point in points]
        return [point for n, point in enumerate(points) if all(other > share[n] for other in share[:n])]

    def _cap(self, less: Resources | None) -> Resources:
        if less is None:
            return self.budget
        return Resources(**{name: max(getattr(self.budget, name) - getattr(less, name), 0) for name in NAMES})

    def share(self, used: Resources) -> float:
        """The sum of the shares of a part's resources."""
        if used not in self._shares:
            shares = (getattr(used, name) / max(getattr(self.budget, name), 1) for name in NAMES)
            self._shares[used] = float(sum(shares))
        return self._shares[used]

    def weight(self, option: Option) -> float:
        """The same of an option, with what it asks of memory outside."""
        return self.share(option.used) + option.asked / self.rate

    # Picks ----------------------------------------------------------------------------------------------

    def found(self, pick: Sequence[Option]) -> Found:
        used = sum((option.used for option in pick), Resources())
        interval = max([*(option.cost.cycles for option in pick), *self._gears(pick)])
        energy = sum(option.cost.energy for option in pick) + interval * idle_energy(used)
        unrolls = {layer.name: option.unroll for layer, option in zip(self.layers, pick, strict=True)}
        return Found(unrolls, interval, self.latency(pick), used, energy)

    def _gears(self, pick: Sequence[Option]) -> Iterator[int]:
        """Cycles of gearboxes between layers."""
        for layer, makers, option in zip(self.layers, self.makers, pick, strict=True):
            for tensor, maker, lanes in zip(layer.inputs, makers, option.inputs, strict=True):
                if maker is not None:
                    yield _gear(tensor, pick[maker].output, lanes)

    def latency(self, pick: Sequence[Option]) -> int:
        """Estimated: a layer begins to write when it has read what it needs, and ends when it has worked through all
        of its own and what is left behind its last input."""
        firsts: list[float] = []
        ends: list[float] = []
        for makers, option in zip(self.makers, pick, strict=True):
            cost = option.cost
            start = max((firsts[maker] for maker in makers if maker is not None), default=0.0)
            first, end = start + cost.first, 0.0
            for maker, tail, share in zip(makers, cost.tails, cost.shares, strict=True):
                if maker is not None:
                    first = max(first, firsts[maker] + share * (ends[maker] - firsts[maker]))
                    end = max(end, ends[maker] + tail)
            end = max(end, first + cost.cycles - cost.first)
            firsts.append(first)
            ends.append(end)
        return int(max((ends[n] for n in self.ends), default=0))

    def _pick(self, interval: float, cap: Resources) -> list[Option] | None:
        """Of the least share that is done in `interval` cycles; None if there is none below the cap."""
        rows = [[option for option in options if option.cost.cycles <= interval] for options in self.options]
        if not all(rows):
            return None
        pick = [min(row, key=lambda option: (self.weight(option), option.cost.cycles)) for row in rows]
        if self._fits(pick, cap) and all(gear <= interval for gear in self._gears(pick)):
            return pick
        return _Program(self, rows, cap, interval).cheapest()

    def _fits(self, pick: Sequence[Option], cap: Resources) -> bool:
        asked = sum(option.asked for option in pick)
        return asked <= self.rate and not _exceeds(sum((option.used for option in pick), Resources()), cap)

    def _fastest(self, cap: Resources, smallest: list[Option]) -> list[Option]:
        cycles = sorted({option.cost.cycles for options in self.options for option in options})
        least = max(min(option.cost.cycles for option in options) for options in self.options)
        cycles = [count for count in cycles if count >= least]
        low, high, best = 0, len(cycles) - 1, smallest
        while low < high:
            middle = (low + high) // 2
            pick = self._pick(cycles[middle], cap)
            if pick is None:
                low = middle + 1
            else:
                high, best = middle, pick
        return best

    def _along(self, cap: Resources, fastest: list[Option], smallest: list[Option]) -> Iterator[list[Option]]:
        least, most = self.found(fastest).interval, self.found(smallest).interval
        yield fastest
        for number in range(1, _POINTS):
            pick = self._pick(least * (most / least) ** (number / _POINTS), cap) if most > least else None
            if pick is not None:
                yield pick
        yield smallest

    def _energetic(self, cap: Resources, fastest: list[Option]) -> Iterator[list[Option]]:
        """Of the least energy for an interval, for several intervals: the faster, the less is lost at rest."""
        yield fastest
        interval = float(self.found(fastest).interval)
        for _ in range(_POINTS):
            rows = [[option for option in options if option.cost.cycles <= interval] for options in self.options]

            def energy(option: Option, interval: float = interval) -> float:
                return option.cost.energy + interval * idle_energy(option.used)

            pick = [min(row, key=energy) for row in rows]
            if self._fits(pick, cap):
                yield pick
            interval *= 1.25

    def _quickest(self, cap: Resources) -> list[list[Option]]:
        pick = _Program(self, self.options, cap, inf).quickest()
        return [self._relaxed(pick), pick] if pick is not None else []

    def _relaxed(self, pick: list[Option]) -> list[Option]:
        """With less of everything where the latency does not suffer: layers beside the critical path."""
        limit = self.latency(pick) * (1 + _GIVEN)
        pick = list(pick)
        for n in sorted(range(len(pick)), key=lambda n: -self.weight(pick[n])):
            for option in sorted(self.options[n], key=self.weight):
                if self.weight(option) >= self.weight(pick[n]):
                    break
                fits = all(a <= b for a, b in zip(option.vector, pick[n].vector, strict=True))
                if fits and self.latency([*pick[:n], option, *pick[n + 1 :]]) <= limit:
                    pick[n] = option
                    break
        return pick


def _gear(tensor: Tensor, made: int, wanted: int) -> int:
    """Cycles of the gearboxes between words of `made` and of `wanted` numbers: a narrow word a cycle."""
    return 0 if made == wanted else tensor.words(gcd(made, wanted))


class _Program:
    """An integer program: one of each row of options, below a cap; `rate` is what memory outside gives, if it is not
    what the search has."""

    def __init__(self, search: Search, rows: Sequence[Sequence[Option]], cap: Resources, interval: float,
                 rate: float = 0.0):  # fmt: skip
        self.search = search
        self.rows = rows
        self.cap = cap
        self.rate = rate or search.rate
        self.interval = interval
        self.first = np.cumsum([0, *(len(row) for row in rows)])
        self.count = int(self.first[-1])
        self.options = [option for row in rows for option in row]

    def cheapest(self) -> list[Option] | None:
        matrix, low, high = self._constraints(self.count)
        cost = np.array([self.search.weight(option) for option in self.options])
        # That there is one is what counts, unless it is to be the smallest of all.
        return self._solved(cost, matrix, low, high, {"mip_rel_gap": 0.0 if self.interval == inf else _GAP})

    def quickest(self) -> list[Option] | None:
        """Variables behind the choices: when each layer writes first, and ends; then the end of all."""
        layers = len(self.rows)
        size = self.count + 2 * layers + 1
        matrix, low, high = self._constraints(size)
        scale = 1.0 / max(option.cost.cycles for option in self.options)
        rows: list[np.ndarray] = []

        def column(name: str, n: int) -> int:
            return self.count + (n if name == "first" else layers + n)

        def after(what: int, *before: tuple[int, float], n: int | None = None, each: Sequence[float] = ()) -> None:
            """what >= the sum of others, and of what the choice of layer n costs."""
            row = np.zeros(size)
            row[what] += 1
            for other, factor in before:
                row[other] -= factor
            if n is not None:
                row[self.first[n] : self.first[n + 1]] -= np.array(each) * scale
            rows.append(row)

        for n, (makers, options) in enumerate(zip(self.search.makers, self.rows, strict=True)):
            costs = [option.cost for option in options]
            first, end = column("first", n), column("end", n)
            inner = [maker for maker in makers if maker is not None]
            for start in [(column("first", maker), 1.0) for maker in inner] or [(first, 0.0)]:
                after(first, start, n=n, each=[cost.first for cost in costs])
            after(end, (first, 1.0), n=n, each=[cost.cycles - cost.first for cost in costs])
            for number, maker in enumerate(makers):
                if maker is not None:
                    share = min(cost.shares[number] for cost in costs)
                    after(first, (column("first", maker), 1 - share), (column("end", maker), share))
                    after(end, (column("end", maker), 1.0), n=n, each=[cost.tails[number] for cost in costs])
        for n in self.search.ends:
            after(size - 1, (column("end", n), 1.0))
        cost = np.zeros(size)
        cost[-1] = 1.0
        matrix = np.vstack([matrix, *rows])
        low, high = np.concatenate([low, np.zeros(len(rows))]), np.concatenate([high, np.full(len(rows), inf)])
        return self._solved(cost, matrix, low, high, {"node_limit": _NODES, "mip_rel_gap": _GAP})

    def _constraints(self, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One choice a layer; what all take is below the cap; no gearbox is too slow."""
        rows, low, high = [], [], []
        for first, last in zip(self.first[:-1], self.first[1:], strict=True):
            row = np.zeros(size)
            row[first:last] = 1
            rows.append(row)
            low.append(1.0)
            high.append(1.0)
        for place, cap in enumerate([*(getattr(self.cap, name) for name in NAMES), self.rate]):
            row = np.zeros(size)
            row[: self.count] = [option.vector[place] / max(cap, 1) for option in self.options]
            rows.append(row)
            low.append(0.0)
            high.append(1.0 if cap else 0.0)
        for row in self._slow_gears(size):
            rows.append(row)
            low.append(0.0)
            high.append(1.0)
        return np.array(rows), np.array(low), np.array(high)

    def _slow_gears(self, size: int) -> Iterator[np.ndarray]:
        search = self.search
        for n, (layer, makers) in enumerate(zip(search.layers, search.makers, strict=True)):
            for number, (tensor, maker) in enumerate(zip(layer.inputs, makers, strict=True)):
                if maker is None:
                    continue
                for made in sorted({option.output for option in self.rows[maker]}):
                    for wanted in sorted({option.inputs[number] for option in self.rows[n]}):
                        if _gear(tensor, made, wanted) > self.interval:
                            row = np.zeros(size)
                            row[self.first[maker] : self.first[maker + 1]] = [
                                option.output == made for option in self.rows[maker]
                            ]
                            row[self.first[n] : self.first[n + 1]] = [
                                option.inputs[number] == wanted for option in self.rows[n]
                            ]
                            yield row

    def _solved(self, cost: np.ndarray, matrix: np.ndarray, low: np.ndarray, high: np.ndarray,
                effort: Mapping[str, float]) -> list[Option] | None:  # fmt: skip
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array

        size = len(cost)
        whole = np.zeros(size)
        whole[: self.count] = 1
        upper = np.full(size, inf)
        upper[: self.count] = 1
        result = milp(
            cost, integrality=whole, bounds=Bounds(np.zeros(size), upper),
            constraints=LinearConstraint(csr_array(matrix), low, high), options={"disp": False, **effort},
        )  # fmt: skip
        if result.x is None:
            return None
        chosen = [int(np.argmax(result.x[a:b])) for a, b in zip(self.first[:-1], self.first[1:], strict=True)]
        return [row[number] for row, number in zip(self.rows, chosen, strict=True)]


# Where nothing fits -------------------------------------------------------------------------------------


class NoRoomError(UserError):
    """A network has no place on a part. Why, and what would hold it, is found when somebody asks."""

    def __init__(self, search: Search, less: Resources | None = None):
        super().__init__(search, less)
        self.search = search
        self.less = less

    def __str__(self) -> str:
        return obstacle(self.search, self.less)


def obstacle(search: Search, less: Resources | None = None) -> str:
    """Why a network has no place on a part, and what would hold it."""
    part, cap = search.part, search._cap(less)
    reason = f"{part.name} cannot hold this network{_lack(search, cap)}"
    larger = next((other for other in PARTS if other is not part and fits(search, other)), None)
    if larger is not None:
        return f"{reason}; the smallest part that would hold it is {larger.name}"
    bits = _fewer_bits(search, cap) if not search.outside else None
    if bits is not None:
        return f"{reason}; no part that is known would hold it, weights of {bits} bits would fit"
    return f"{reason}; no part that is known would hold it"


def _lack(search: Search, cap: Resources) -> str:
    """What there is too little of."""
    needs = _least(search.options)
    short = [name for name in NAMES if getattr(needs, name) > getattr(cap, name)]
    hasty = _Program(search, search.options, cap, inf, inf).cheapest() if search.outside and not short else None
    asked, given = (rate / search.clock for rate in (sum(option.asked for option in hasty or ()), search.rate))
    if asked > given:
        return f": weights would come from outside the chip at {asked:.2g} GB/s, and {given:.2g} is what it gives"
    name = max(short or NAMES, key=lambda name: getattr(needs, name) / max(getattr(cap, name), 1))
    least = [min(getattr(option.used, name) for option in options) for options in search.options]
    most = int(np.argmax(least))
    at_least = f"it needs at least {getattr(needs, name):,} {_TITLES[name]} of {getattr(cap, name):,}"
    at_least += f", {least[most]:,} of them for {search.layers[most].title}"
    return f"{', wherever its weights lie' if search.outside else ''}: {at_least}"


def _least(options: Sequence[Sequence[Option]]) -> Resources:
    """Of each resource what is needed if nothing else counts."""
    return Resources(
        **{name: sum(min(getattr(option.used, name) for option in row) for row in options) for name in NAMES}
    )


def fits(search: Search, part: Part) -> bool:
    """Whether another part would hold the network, as small as it can be made."""
    smallest = []
    for layer, options in zip(search.layers, search.options, strict=True):
        few = {min(options, key=lambda option: (getattr(option.used, name), search.share(option.used))).unroll
               for name in NAMES}  # fmt: skip
        few |= {layer.choices()[0], replace(layer.choices()[0], constants="distributed")}
        within = {replace(unroll, constants="") if unroll.constants == OUTSIDE else unroll for unroll in few}
        levels = levels_of(search.clock)
        smallest.append([_option(layer, unroll, part.family, levels) for unroll in sorted(within, key=str)])
        if search.outside and isinstance(layer, Product) and not layer.is_lmul:
            smallest[-1] += [
                _outside(layer, option, replace(option.unroll, constants=OUTSIDE), part.family, levels, part.port)
                for option in smallest[-1] if not option.unroll.constants
            ]  # fmt: skip
    return _Program(search, smallest, part.budget, inf, rate_of(part, search.clock)).cheapest() is not None


def _fewer_bits(search: Search, cap: Resources) -> int | None:
    """The most bits of weights for which the memories of constants would find room in block RAM."""
    memories: list[Memory] = []
    other = 0
    for layer, options in zip(search.layers, search.options, strict=True):
        option = min(options, key=lambda option: option.used.bram18)
        tables = [memory for memory in _process(layer, option.unroll).memories if memory.is_constant]
        memories += (replace(memory, storage="") for memory in tables)
        other += option.used.bram18 - option.cost.tables.bram18
    widest = max((memory.kind.bits for memory in memories), default=1)
    for bits in range(widest - 1, 1, -1):
        narrow = Kind(0, (1 << bits) - 1)
        blocks = sum(
            memory_resources(
                replace(memory, kind=narrow) if memory.kind.bits > bits else memory, 1, search.part.family
            ).bram18
            for memory in memories
        )
        if blocks + other <= cap.bram18:
            return bits
    return None
