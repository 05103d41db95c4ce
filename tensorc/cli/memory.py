"""`tensorc inspect --memory`: where activations lie, how near that is to the least possible, and who is at the peak."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorc.cli.console import print_table
from tensorc.errors import UserError
from tensorc.options import format_bytes

#: Blocks at the peak that a person is shown; JSON has all blocks.
_MOST_ROWS = 20
#: Names are written into blocks at least this large, as shares of the picture.
_NAMED_WIDTH, _NAMED_HEIGHT = 0.06, 0.03


@dataclass(frozen=True)
class Block:
    """Bytes [offset, offset + size) that the value `name` has at steps lower <= t < upper."""

    name: str
    lower: int
    upper: int
    size: int
    offset: int


@dataclass(frozen=True)
class Memory:
    """The plan of an arena of `peak` bytes; none for this order of steps is smaller than `bound`."""

    peak: int
    bound: int
    blocks: tuple[Block, ...]

    @classmethod
    def of(cls, manifest: Mapping[str, Any], path: Path) -> Memory:
        """Raises UserError where the artifact has no such plan."""
        program = manifest.get("program") or {}
        found = program.get("memory")
        if not found:
            raise UserError(f"{path} has no memory plan: it is specialised where it runs, or its target makes none")
        return cls(found["peak"], found["bound"], tuple(Block(*row) for row in found["blocks"]))

    @property
    def gap(self) -> float:
        """How much larger than the bound the arena is, as a share of it."""
        return self.peak / self.bound - 1 if self.bound else 0.0

    @property
    def fullest(self) -> int:
        """The first step at which the most bytes are in use."""
        changes: dict[int, int] = {}
        for block in self.blocks:
            changes[block.lower] = changes.get(block.lower, 0) + block.size
            changes[block.upper] = changes.get(block.upper, 0) - block.size
        best, at, used = 0, 0, 0
        for step in sorted(changes):
            used += changes[step]
            if used > best:
                best, at = used, step
        return at

    def live(self, step: int) -> list[Block]:
        """The blocks in use at a step, largest first."""
        found = [block for block in self.blocks if block.lower <= step < block.upper]
        return sorted(found, key=lambda block: (-block.size, block.offset))

    def to_json(self) -> dict[str, Any]:
        return {
            "peak_bytes": self.peak,
            "lower_bound_bytes": self.bound,
            "gap": self.gap,
            "peak_step": self.fullest,
            "live_at_peak": [block.name for block in self.live(self.fullest)],
            "blocks": [vars(block) for block in self.blocks],
        }


def print_memory(memory: Memory, title: str) -> None:
    step = memory.fullest
    rows = [
        ("peak", format_bytes(memory.peak)),
        ("lower bound", f"{format_bytes(memory.bound)}: the arena is {100 * memory.gap:.1f} % above it"),
        ("blocks", str(len(memory.blocks))),
        ("fullest at", f"step {step}"),
    ]
    print_table(title, (), rows)
    live = memory.live(step)
    table = [
        (block.name, format_bytes(block.size), f"{block.offset:,}", f"{block.lower} to {block.upper - 1}")
        for block in live[:_MOST_ROWS]
    ]
    if len(live) > _MOST_ROWS:
        table.append((f"{len(live) - _MOST_ROWS} more", "", "", ""))
    print_table(f"In use at step {step}", ("value", "size", "at byte", "steps"), table)


def draw_memory(memory: Memory, path: Path, title: str) -> None:
    """Steps across, bytes up; a block is as wide as it lives. Raises UserError where the file cannot be written."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7), layout="constrained")
    axes = figure.subplots()
    steps = max((block.upper for block in memory.blocks), default=1)
    colours = colormaps["tab20"]
    for number, block in enumerate(memory.blocks):
        width, height = block.upper - block.lower, block.size / 2**20
        axes.bar(block.lower, height, width, block.offset / 2**20, align="edge", color=colours(number % 20),
                 edgecolor="white", linewidth=0.4)  # fmt: skip
        if width >= _NAMED_WIDTH * steps and block.size >= _NAMED_HEIGHT * memory.peak:
            axes.text(block.lower + width / 2, (block.offset + block.size / 2) / 2**20, block.name[-40:],
                      ha="center", va="center", fontsize=6, clip_on=True)  # fmt: skip
    axes.axhline(memory.bound / 2**20, color="black", linestyle="--", linewidth=1, label="lower bound")
    axes.set(xlabel="step", ylabel="MiB", xlim=(0, steps), title=title)
    axes.legend(loc="upper right", fontsize="small")
    try:
        figure.savefig(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
