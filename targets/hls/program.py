"""The scheduled program: what is printed as HLS C++, as C and as Verilog, and what cycles and resources are read off.

A program is a set of processes that run side by side and pass words to each other through channels (FIFOs). A process
walks its steps in order: a `Nest` is a perfect loop nest, flattened and pipelined, which starts an iteration every `ii`
cycles; a `Repeat` walks its steps again and again. Nests do not overlap: the next begins when all effects of the last
are to be seen.

Hardware can be read off it because of these rules:
- An iteration reads at most one word of a channel and writes at most one, under conditions on counters only.
- All loads of a memory in an iteration have one address, unless it has more ports.
- What is stored is loaded by later nests.
- A memory outside the chip is read or written a whole word at a time, one at most in an iteration (`Fetch`, `Deposit`),
  and no more often than its pace; words come, and are to be had, `OUTSIDE_LATENCY` cycles later.
- An iteration is started when its input channels have words and its output channels have room for what it will write,
  words on their way counted. After that nothing stalls, so what it does is a fixed number of cycles away.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from targets.hls.expressions import Const, Counter, Expr, Local, whole
from targets.hls.hardware.clock import CLOCK, LEVELS
from tensorc.fixed_point import Between

#: No array is cut into more parts, and no loop unrolled further.
MOST_PARTS = 4096
#: `Memory.storage` of what lies outside the chip.
OUTSIDE = "outside"
#: Cycles from the address of a word outside the chip to the word, and from a word to its being there: what a program
#: counts with, and memories must keep. It is what Vitis takes for granted of an `m_axi` port.
OUTSIDE_LATENCY = 64


@dataclass(frozen=True)
class Kind(Between):
    """Integers from `low` to `high`; as fixed-point numbers they have `fraction` bits behind the point."""

    low: int
    high: int
    fraction: int = 0

    @property
    def full(self) -> Kind:
        """All that its bits can hold."""
        return Kind(-(1 << self.bits - 1) if self.signed else 0, (1 << self.bits - self.signed) - 1, self.fraction)


@dataclass(frozen=True)
class Channel:
    """A FIFO of words of `lanes` elements; `depth` words fit. `count` words pass it in a run. Whoever decides how deep
    it is to be stays below `most`, if that is given."""

    name: str
    kind: Kind
    lanes: int
    count: int
    depth: int = 2
    most: int = 0

    @property
    def bits(self) -> int:
        return self.kind.bits * self.lanes


@dataclass(frozen=True, eq=False)
class Memory:
    """`depth` words of `lanes` elements. With `given` contents [depth, lanes] it is only read; they may be a function,
    called when somebody asks for `data`. `storage` says what it is made of: "block", "distributed" or "ultra"; "" for
    what fits best. One that is "outside" the chip is reached by a port of the design, at most once in `pace` cycles."""

    name: str
    kind: Kind
    lanes: int
    depth: int
    given: np.ndarray | Callable[[], np.ndarray] | None = None
    storage: str = ""
    pace: int = 1

    @property
    def is_constant(self) -> bool:
        return self.given is not None

    @property
    def is_outside(self) -> bool:
        return self.storage == OUTSIDE

    @property
    def nbytes(self) -> int:
        """Outside the chip, where an element takes whole bytes, a power of two of them."""
        return self.depth * self.lanes * element_bytes(self.kind)

    @functools.cached_property
    def data(self) -> np.ndarray | None:
        return self.given() if callable(self.given) else self.given

    @property
    def bits(self) -> int:
        return self.kind.bits * self.lanes


def element_bytes(kind: Kind) -> int:
    """Of an element outside the chip."""
    return next(nbytes for nbytes in (1, 2, 4, 8) if kind.bits <= 8 * nbytes)


@dataclass(frozen=True)
class State:
    """A register of `lanes` elements that lives from iteration to iteration."""

    name: str
    kind: Kind
    lanes: int


@dataclass(frozen=True)
class Let:
    """A name for a value, in the statements behind it."""

    name: str
    value: Expr

    @property
    def local(self) -> Expr:
        """What reads it."""
        known = whole(self.value)
        return known if isinstance(known, Const) else Local(self.value.low, self.value.high, self.name)


@dataclass(frozen=True)
class Read:
    """A word of `channel` under the name `word`."""

    channel: Channel
    word: str


@dataclass(frozen=True)
class Fetch:
    """The word at an address of a memory outside the chip, under the name `word`."""

    memory: Memory
    address: Expr
    word: str


@dataclass(frozen=True)
class Put:
    """Element `lane` of the word that will be written under the name `word`."""

    word: str
    lane: Expr
    value: Expr


@dataclass(frozen=True)
class Write:
    """The word that was put together, to `channels`, all of which get the same."""

    channels: tuple[Channel, ...]
    word: str


@dataclass(frozen=True)
class Deposit:
    """The word that was put together, to an address of a memory outside the chip."""

    memory: Memory
    address: Expr
    word: str


@dataclass(frozen=True)
class Store:
    memory: Memory
    address: Expr
    lane: Expr
    value: Expr


@dataclass(frozen=True)
class Update:
    """The register has another value from here on."""

    register: State
    lane: Expr
    value: Expr


@dataclass(frozen=True)
class When:
    condition: Expr
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Lanes:
    """Statements for each value of a lane counter, side by side."""

    counter: Counter
    body: tuple[Statement, ...]


Statement = Let | Read | Fetch | Put | Write | Deposit | Store | Update | When | Lanes


@dataclass(frozen=True)
class Nest:
    """Loops from the outermost on. `ii` cycles lie between iterations at least."""

    name: str
    loops: tuple[Counter, ...]
    body: tuple[Statement, ...]
    ii: int = 1

    @property
    def trip(self) -> int:
        count = 1
        for counter in self.loops:
            count *= counter.high + 1
        return count


@dataclass(frozen=True)
class Repeat:
    counter: Counter
    steps: tuple[Step, ...]


Step = Nest | Repeat


@dataclass(frozen=True)
class Process:
    """`title` is the layer, for people. Memories and registers are its own.

    A core has been put together from `stages`, processes that it walks one after the other. Of its pipelines a stage
    has `levels` of logic.
    """

    name: str
    title: str
    steps: tuple[Step, ...]
    inputs: tuple[Channel, ...]
    outputs: tuple[Channel, ...]
    memories: tuple[Memory, ...] = ()
    registers: tuple[State, ...] = ()
    stages: tuple[Process, ...] = ()
    levels: int = LEVELS

    @property
    def outside(self) -> tuple[Memory, ...]:
        """Its memories outside the chip."""
        return tuple(memory for memory in self.memories if memory.is_outside)

    @property
    def own(self) -> tuple[Channel, ...]:
        """Channels in which it finds what it wrote itself."""
        return tuple(channel for channel in self.inputs if channel in self.outputs)

    def nests(self) -> Iterator[Nest]:
        yield from _nests(self.steps)


def _nests(steps: Sequence[Step]) -> Iterator[Nest]:
    for step in steps:
        if isinstance(step, Nest):
            yield step
        else:
            yield from _nests(step.steps)


@dataclass(frozen=True, eq=False)
class Port:
    """A tensor that comes from outside or goes there, by a channel: number i of those that pass is element `order[i]`,
    in row-major order, of the tensor of `shape` in the model."""

    name: str
    channel: Channel
    shape: tuple[int, ...]
    order: np.ndarray


@dataclass(frozen=True)
class Program:
    """`channels` are all those between processes and of the ports; `clock` is in nanoseconds."""

    name: str
    processes: tuple[Process, ...]
    channels: tuple[Channel, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    notes: dict[str, str] = field(default_factory=dict)
    clock: float = CLOCK

    @property
    def outside(self) -> tuple[tuple[str, Process, Memory], ...]:
        """The memories outside the chip, each with the name of the port by which its process reaches it."""
        return tuple((port_of(p, memory), p, memory) for p in self.processes for memory in p.outside)


def port_of(process: Process, memory: Memory) -> str:
    """What the port of a memory outside the chip is called."""
    return f"{process.name}_{memory.name}"
