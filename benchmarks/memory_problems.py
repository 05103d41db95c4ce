"""Memory planning problems in families, of which it is known that they can be solved (all but `network`).

    python benchmarks/memory_problems.py problems/ --count 8
    python benchmarks/memory_plan.py problems/*.csv --time-limit 10

A rectangle of time times capacity is cut into buffers by lines through a part, or into five around a pinwheel, which
no sequence of cuts gives; then some are dropped or live shorter. With nothing dropped there is no slack at all.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from pathlib import Path

from passes.memory import minimalloc
from passes.memory.problem import Buffer, Problem

_Part = tuple[int, int, int, int]  # left, bottom, right, top


def tiling(
    seed: int,
    count: int,
    time: int = 60,
    height: int = 64,
    flat: float = 0.5,
    pinwheels: float = 0.0,
    drop: float = 0.0,
    shrink: float = 0.0,
) -> Problem:
    """About `count` buffers in a rectangle of `time` by `height`, which is the capacity. The others are shares: of cuts
    along time, of cuts that are pinwheels, of buffers that are dropped, of those left that live shorter."""
    rng = random.Random(seed)
    parts = [(0, 0, time, height)]
    for _ in range(20 * count):
        if len(parts) >= count:
            break
        areas = [((right - left) * (top - bottom)) ** 0.7 for left, bottom, right, top in parts]
        part = parts.pop(rng.choices(range(len(parts)), areas)[0])
        parts += _pinwheel(part, rng) if rng.random() < pinwheels else _cut(part, rng, flat)
    buffers = []
    for left, bottom, right, top in parts:
        if rng.random() < drop:
            continue
        lower, upper = left, right
        if rng.random() < shrink and right - left > 1:
            middle = rng.randrange(left + 1, right)
            lower, upper = (left, middle) if rng.random() < 0.5 else (middle, right)
        buffers.append(Buffer(lower, upper, top - bottom))
    rng.shuffle(buffers)
    return Problem.of(buffers, height)


def _cut(part: _Part, rng: random.Random, flat: float) -> list[_Part]:
    left, bottom, right, top = part
    if top - bottom > 1 and (rng.random() < flat or right - left < 2):
        middle = rng.randrange(bottom + 1, top)
        return [(left, bottom, right, middle), (left, middle, right, top)]
    if right - left > 1:
        middle = rng.randrange(left + 1, right)
        return [(left, bottom, middle, top), (middle, bottom, right, top)]
    return [part]


def _pinwheel(part: _Part, rng: random.Random) -> list[_Part]:
    left, bottom, right, top = part
    if right - left < 3 or top - bottom < 3:
        return [part]
    a, b = sorted(rng.sample(range(left + 1, right), 2))
    c, d = sorted(rng.sample(range(bottom + 1, top), 2))
    if rng.random() < 0.5:
        return [(left, bottom, b, c), (b, bottom, right, d), (a, d, right, top), (left, c, a, top), (a, c, b, d)]
    return [(a, bottom, right, c), (left, bottom, a, d), (left, d, b, top), (b, c, right, top), (a, c, b, d)]


def network(seed: int, count: int = 250) -> Problem:
    """Values of a few sizes, most short-lived, as small ones long-lived; the capacity is the largest load, so it may
    be that nothing fits."""
    rng = random.Random(seed)
    sizes = [rng.randint(4, 256) for _ in range(12)]
    buffers = []
    for start in range(count):
        lifetime = 1 + int(rng.expovariate(1 / 4)) if rng.random() < 0.85 else rng.randint(10, count // 2)
        size = max(1, rng.choice(sizes) // (4 if lifetime > 20 else 1))
        buffers.append(Buffer(start, min(start + lifetime + 1, count + 1), size))
    loads = [sum(b.size for b in buffers if b.lower <= now < b.upper) for now in range(count)]
    return Problem.of(buffers, max(loads))


FAMILIES: dict[str, Callable[[int], Problem]] = {
    "cuts-fine": lambda seed: tiling(seed, 150 + seed % 5 * 30, 1024, 1024),
    "cuts-coarse": lambda seed: tiling(seed, 150 + seed % 5 * 30, 80, 1024),
    "cuts-flat": lambda seed: tiling(seed, 200, 80, 1024, flat=0.7),
    "cuts-short": lambda seed: tiling(seed, 250, 300, 1024, flat=0.3),
    "pinwheels-fine": lambda seed: tiling(seed, 200, 1024, 1024, pinwheels=0.5),
    "pinwheels-coarse": lambda seed: tiling(seed, 200, 120, 1024, pinwheels=0.5),
    "drop-3": lambda seed: tiling(seed, 220, 80, 1024, pinwheels=0.2, drop=0.03),
    "drop-10": lambda seed: tiling(seed, 240, 80, 1024, pinwheels=0.2, drop=0.1),
    "shrink-20": lambda seed: tiling(seed, 220, 80, 1024, pinwheels=0.2, shrink=0.2),
    "short-drop-30": lambda seed: tiling(seed, 400, 300, 1024, flat=0.3, drop=0.3),
    "network": network,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=8, help="problems of each family (8)")
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, make in FAMILIES.items():
        for seed in range(options.first_seed, options.first_seed + options.count):
            problem = make(seed)
            ids = [str(number) for number in range(len(problem.buffers))]
            minimalloc.write(options.folder / f"{name}-{seed}.{problem.capacity}.csv", ids, problem)


if __name__ == "__main__":
    main()
