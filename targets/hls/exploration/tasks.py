"""Networks of several tasks: what single tasks need behind what they have in common is computed by one unit, as far as
the objective does not lose by it (Edge-MoE's unified unit).

The unit is a core that walks the products of all tasks, of whatever sizes, one behind the other; its multipliers are
those of the most demanding one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from targets.hls.exploration.cores import with_cores
from targets.hls.hardware.estimate import estimate
from targets.hls.hardware.pipeline import Design, designs_of
from targets.hls.hardware.resources import Resources
from targets.hls.hardware.timing import Timing, depths, timing_of, with_depths
from targets.hls.layers.computed_product import ComputedProduct
from targets.hls.layers.experts import Experts
from targets.hls.layers.network import Network
from targets.hls.layers.product import Product
from targets.hls.parts import Part
from targets.hls.program import Program
from tensorc.options import Objective

_PRODUCTS = (Product, Experts, ComputedProduct)


def of_single_tasks(network: Network) -> list[str]:
    """Products that some of the outputs need and others do not, in the order in which numbers reach them."""
    makers = {id(layer.output): layer for layer in network.layers}
    needed: dict[str, int] = {}
    for _, tensor in network.outputs:
        waiting, seen = [tensor.root], set()
        while waiting:
            layer = makers.get(id(waiting.pop()))
            if layer is not None and layer.name not in seen:
                seen.add(layer.name)
                waiting += [tensor.root for tensor in layer.inputs]
        for name in seen:
            needed[name] = needed.get(name, 0) + 1
    return [
        layer.name for layer in network.layers
        if isinstance(layer, _PRODUCTS) and 0 < needed.get(layer.name, 0) < len(network.outputs)
    ]  # fmt: skip


def candidates(network: Network) -> Iterator[dict[str, tuple[str, ...]]]:
    """Ways to share, the one with most first: all products of a network, or those of single tasks."""
    single = of_single_tasks(network)
    if len(single) < 2:
        return
    taken = {layer.name for layer in network.layers}
    name = next(name for name in ("unit", *(f"unit_{n}" for n in range(len(taken)))) if name not in taken)
    products = [layer.name for layer in network.layers if isinstance(layer, _PRODUCTS)]
    if len(products) > len(single):
        yield {name: tuple(products)}
    yield {name: tuple(single)}


@dataclass(frozen=True)
class Shared:
    """`cores` as `with_cores` takes them; `program` has them, and `designs`, `timing` and `used` are its."""

    cores: Mapping[str, tuple[str, ...]]
    program: Program
    designs: tuple[Design, ...]
    timing: Timing
    used: Resources


def shared(network: Network, program: Program, timing: Timing, used: Resources, part: Part, objective: Objective,
           share: Callable[[Resources], float], max_latency: int | None) -> Shared | None:  # fmt: skip
    """The smallest, by its share of the part, of a program and those with a unit that are no worse in what the
    objective counts, and within the latency; None if that is the program itself."""
    best = None
    for cores in candidates(network):
        made = with_cores(program, cores)
        designs = designs_of(made)
        made = with_depths(made, depths(made, designs))
        one = Shared(cores, made, designs, timing_of(made, designs), estimate(made, designs, part))
        least = share(best.used if best is not None else used)
        is_soon = max_latency is None or one.timing.latency <= max_latency
        if share(one.used) < least and is_soon and _is_no_worse(one.timing, timing, objective):
            best = one
    return best


def _is_no_worse(timing: Timing, before: Timing, objective: Objective) -> bool:
    if objective == "latency":
        return timing.latency <= before.latency
    if objective == "throughput":
        return timing.interval <= before.interval
    return objective == "resources"
