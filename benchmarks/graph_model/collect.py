"""Measures what fused groups of many networks cost: the data that the graph-level cost model is trained on.

    python benchmarks/graph_model/collect.py --data groups.jsonl [--bodies 2200] [--seconds 900]

Bodies are the groups of every network of `benchmarks/cost_model/networks.py` and of the onnx package's light models,
their heads without what follows and that alone. And since few networks leave a fusion in doubt (`passes.fusion`), moves
are also put in front of anchors that have none. For each such body `ways` has those that it could be instead.

Each body gets the schedule that the compiler would choose without records. A line of JSON for each has its text, its
key, the networks that it comes from, and its cost: the best time of one call on one thread; the size of its code and
the number of machine instructions in it, which are static, since there is no counter of those executed on the machines
at hand; and the bytes of its activations and its scratch memory. What is in the file already is not measured again,
unless `--repeats` asks for more lines of one body: a time is as true as the machine was quiet.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from cost_models.graph_features import GroupCost, activation_bytes
from passes.fusion import FuseGroups, body_of
from targets.cpu import CpuTarget
from targets.cpu import machine as machines
from targets.cpu.codegen import build_object
from targets.cpu.kernels import head, lower
from targets.cpu.machine import Machine
from targets.cpu.tuning.measurer import CpuMeasurer
from tensorc.frontend.importer import import_model
from tensorc.ir import Graph, Node, TensorType, Value, clone, parse_graph
from tensorc.ir.dims import static_shape
from tensorc.options import CompileOptions
from tensorc.pipeline import run_passes
from tensorc.search.choice import choose
from tensorc.search.context import TuningContext
from tensorc.search.measure import Outcome
from tensorc.search.model import CostModel
from tensorc.search.space import ScheduleJson
from tensorc.search.tasks import Task
from tensorc.workload import workload_key, workload_label, workload_text

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cost_model"))
from collect import SHAPES, sources

#: Shares of the bodies: pieces of groups; what is in doubt, all that networks have among it; groups that are put in
#: front of a normalisation. The rest are groups as they are.
_PIECES, _DOUBTS, _NORMALISED = 0.15, 0.5, 0.06
_IN_FLIGHT = 2


@dataclass
class Sample:
    """One distinct body. `ways` are the keys of the bodies that it could be instead, where fusion is in doubt; `real`
    says that the graph of a network leaves it so."""

    body: Graph
    key: str
    networks: set[str] = field(default_factory=set)
    ways: list[list[str]] = field(default_factory=list)
    real: bool = False


class Samples:
    """Bodies by key; the networks of one body add up."""

    def __init__(self) -> None:
        self.by_key: dict[str, Sample] = {}

    def add(self, body: Graph, networks: set[str]) -> Sample:
        key = workload_key(body)
        sample = self.by_key.setdefault(key, Sample(body, key))
        sample.networks |= networks
        return sample

    def add_doubts(self, body: Graph, networks: set[str], real: bool) -> list[str]:
        """What the fusion of `body`'s nodes doubts of; the keys of all bodies."""
        keys: list[str] = []

        def record(ways: Sequence[Sequence[Graph]]) -> int:
            (fused,), *others = [[self.add(kernel, networks).key for kernel in way] for way in ways]
            sample = self.by_key[fused]
            sample.real |= real
            sample.ways += [way for way in others if way not in sample.ways]
            keys.extend((fused, *(key for way in others for key in way)))
            return 0

        run_passes(clone(body), [FuseGroups(record)])
        return keys


# Bodies ------------------------------------------------------------------------------------------------------


def groups(names: Sequence[str], folders: Sequence[Path]) -> dict[str, Sample]:
    """Every group of the networks."""
    found = Samples()
    for name, model in sources(names, folders):
        graph = import_model(model, SHAPES.get(getattr(model, "stem", ""), {})).graph  # type: ignore[arg-type]
        # Everything is fused: a body with all that is in doubt gives those without by itself.
        passes = [FuseGroups() if isinstance(p, FuseGroups) else p for p in CpuTarget().passes(CompileOptions())]
        run_passes(graph, passes)
        for node in graph.nodes:
            if node.body is not None:
                found.add(node.body, {name})
    return found.by_key


def pieces(body: Graph) -> Iterator[Graph]:
    """The head with what is in front of it, and what follows."""
    node = head(body)
    if node is None or node is body.nodes[-1]:
        return
    front = _ancestors(node)
    yield body_of([other for other in body.nodes if other in front])[0]
    yield body_of([other for other in body.nodes if other not in front])[0]


def _ancestors(node: Node) -> set[Node]:
    found, waiting = {node}, [node]
    while waiting:
        for value in waiting.pop().inputs:
            if value.producer is not None and value.producer not in found:
                found.add(value.producer)
                waiting.append(value.producer)
    return found


def moved(body: Graph, rng: np.random.Generator) -> Graph | None:
    """`body` whose anchor reads an activation through moves, as graphs of other networks may have it; None where a
    kernel cannot, or does already."""
    body = clone(body)
    anchor = head(body)
    if anchor is None or any(value.producer is not None for value in anchor.inputs):
        return None
    graph = Graph("body")
    bindings: dict[Value, Value] = {}
    for value in body.inputs:
        if value not in anchor.inputs[: _ACTIVATIONS.get(anchor.op, 0)]:
            bindings[value] = graph.add_input(value.name, value.type)
    for value in dict.fromkeys(anchor.inputs[: _ACTIVATIONS.get(anchor.op, 0)]):
        made = _before(graph, value.type, anchor, rng)
        if made is None:
            return None
        bindings[value] = made
    if not graph.nodes:
        return None
    for node in body.nodes:
        inputs = [bindings[v] if v in bindings else graph.add_constant(v.constant) for v in node.inputs]
        bindings[node.output] = graph.add(node.op, inputs, node.attrs)
    graph.outputs = [bindings[value] for value in body.outputs]
    return graph


#: The number of first operands that are activations.
_ACTIVATIONS = {"attention": 3, "conv_blocked": 1, "matmul": 2, "matmul_packed": 1}


def _before(graph: Graph, wanted: TensorType, anchor: Node, rng: np.random.Generator) -> Value | None:
    """A value of type `wanted` that is a moved one."""
    shape = static_shape(wanted.shape)
    if anchor.op == "conv_blocked":
        return _channels(graph, wanted, anchor, rng)
    if anchor.op == "attention":
        perm = (0, 2, 1, 3)
        if rng.random() < 0.5:
            return _transposed(graph, wanted, perm)
        return _sliced(graph, wanted, rng)
    if len(shape) < 2 or min(shape[-2:]) == 1:
        return None
    kind = rng.integers(3)
    if kind == 0 and len(shape) > 2:
        return _transposed(graph, wanted, (*range(len(shape) - 3), len(shape) - 2, len(shape) - 3, len(shape) - 1))
    if kind == 1:
        return _sliced(graph, wanted, rng)
    return _transposed(graph, wanted, (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2))


def _transposed(graph: Graph, wanted: TensorType, perm: tuple[int, ...]) -> Value:
    source = tuple(wanted.shape[perm.index(axis)] for axis in range(len(perm)))
    return graph.add("transpose", [graph.add_input("x", wanted.with_shape(source))], {"perm": perm})


def _sliced(graph: Graph, wanted: TensorType, rng: np.random.Generator) -> Value:
    """One of two or three parts of the last axis, or every other row."""
    shape = static_shape(wanted.shape)
    starts, steps, source = [0] * len(shape), [1] * len(shape), list(shape)
    if rng.random() < 0.75:
        count = int(rng.integers(2, 4))
        source[-1] *= count
        starts[-1] = shape[-1] * int(rng.integers(count))
    else:
        source[-2] *= 2
        steps[-2] = 2
    x = graph.add_input("x", wanted.with_shape(tuple(source)))
    return graph.add("slice", [x], {"starts": tuple(starts), "sizes": shape, "steps": tuple(steps)})


def _channels(graph: Graph, wanted: TensorType, conv: Node, rng: np.random.Generator) -> Value | None:
    """The plain channels of a blocked value, in half of the cases shuffled; for filters of one pixel."""
    weights, groups = static_shape(conv.inputs[1].shape), conv.attrs["groups"]
    if wanted.rank != 5 or weights[2:4] != (1, 1) or conv.attrs["depthwise"]:
        return None
    n, blocks, height, width, block = static_shape(wanted.shape)
    channels = weights[1] * groups
    if channels != blocks * block:
        return None
    x = graph.add_input("x", wanted)
    plain = graph.add("unblock", [x], {"channels": channels})
    count = int(rng.choice([2, 3, 4, 8]))
    if rng.random() < 0.5 or channels % count:
        return plain
    split = graph.add("reshape", [plain], {"shape": (n, count, channels // count, height, width)})
    turned = graph.add("transpose", [split], {"perm": (0, 2, 1, 3, 4)})
    return graph.add("reshape", [turned], {"shape": (n, channels, height, width)})


def normalised(body: Graph, rng: np.random.Generator) -> Graph | None:
    """What a network would make of the body's result that normalised across channels next: the one operator that reads
    every moved element several times, and only three networks have it. None where the result is not blocked."""
    wanted = body.outputs[0].type
    if wanted.rank != 5:
        return None
    graph = Graph("body")
    _, blocks, *_, block = static_shape(wanted.shape)
    plain = graph.add("unblock", [graph.add_input("x", wanted)], {"channels": blocks * block})
    graph.outputs = [graph.add("lrn", [plain], {"size": int(rng.choice([3, 5, 7]))})]
    return graph


def plan(found: dict[str, Sample], count: int, seed: int) -> list[Sample]:
    """About `count` bodies: all that networks doubt of, and of the rest so many of each kind of head."""
    rng = np.random.default_rng(seed)
    keys = [str(key) for key in rng.permutation(sorted(found))]
    every, chosen = Samples(), dict[str, None]()
    for key in keys:
        chosen.update(dict.fromkeys(every.add_doubts(found[key].body, found[key].networks, real=True)))
    turns = _in_turns(keys, found)
    for key in turns:
        if len(chosen) >= count * _DOUBTS:
            break
        body = moved(found[key].body, rng)
        if body is not None:
            chosen.update(dict.fromkeys(every.add_doubts(body, found[key].networks, real=False)))
    for body, key in [(normalised(found[key].body, rng), key) for key in turns[: int(count * _NORMALISED)]]:
        if body is not None:
            chosen.update(dict.fromkeys(every.add_doubts(body, found[key].networks, real=False)))
    doubts = len(chosen)
    for key in turns[::-1]:
        if len(chosen) >= doubts + count * _PIECES:
            break
        for piece in pieces(found[key].body):
            chosen.setdefault(every.add(piece, found[key].networks).key)
    for key in turns:
        if len(chosen) >= count:
            break
        chosen.setdefault(every.add(found[key].body, found[key].networks).key)
    for key in found.keys() & every.by_key.keys():
        every.by_key[key].networks |= found[key].networks
    return [every.by_key[str(key)] for key in rng.permutation(list(chosen))]


def _in_turns(keys: Sequence[str], found: dict[str, Sample]) -> list[str]:
    """The keys with those of rare kinds spread among the first: the n-th of its kind comes before the n + 1-th of any,
    but that the commonest kind has three at a time."""
    ranks: dict[str, int] = defaultdict(int)
    places = {}
    for key in keys:
        node = head(found[key].body)
        kind = node.op if node is not None else found[key].body.nodes[0].op if found[key].body.nodes else "copy"
        ranks[kind] += 1
        places[key] = ranks[kind] // (3 if kind == "conv_blocked" else 1)
    return sorted(keys, key=places.__getitem__)


# Costs -------------------------------------------------------------------------------------------------------


def schedule_of(body: Graph, context: TuningContext, model: CostModel | None) -> ScheduleJson:
    """What the compiler chooses without records."""
    space = context.space(body)
    if space is None:
        return {}
    task = Task(context.key(body), body, space, workload_label(body))
    return choose([task], context, None, model)[task.key.workload].schedule


def code_of(body: Graph, machine: Machine, schedule: ScheduleJson) -> tuple[int, int, int]:
    """Instructions, bytes of code, bytes of scratch memory."""
    kernel = lower(body, machine, schedule or None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.o")
        build_object({"kernel": kernel.function}, machine, path)
        sections = _output("objdump", "-h", str(path))
        code = _output("objdump", "-d", "--no-show-raw-insn", str(path))
    sizes = re.findall(r"^\s*\d+ \.text\S*\s+([0-9a-f]+)", sections, re.MULTILINE)
    instructions = re.findall(r"^\s+[0-9a-f]+:\t", code, re.MULTILINE)
    return len(instructions), sum(int(size, 16) for size in sizes), kernel.scratch_bytes


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@click.command()
@click.argument("names", nargs=-1)
@click.option("--data", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option("--models", "folders", multiple=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--bodies", "count", default=2200, show_default=True)
@click.option("--seconds", default=math.inf, help="Stop after so long.")
@click.option("--repeats", default=1, show_default=True, help="Lines for each body: a later run adds those missing.")
@click.option("--seed", default=0, show_default=True)
def main(names: tuple[str, ...], data: Path, folders: tuple[Path, ...], count: int, seconds: float, repeats: int,
         seed: int) -> None:  # fmt: skip
    started = time.monotonic()
    known = map(json.loads, data.read_text().splitlines() if data.exists() else ())
    done = Counter(row["key"] for row in known if not row["failure"])
    samples = plan(groups(names, folders), count, seed)
    print(f"{len(samples)} bodies, {len(done)} measured before, {time.monotonic() - started:.0f} s", file=sys.stderr)
    machine = machines.detect()
    context = CpuTarget().tuning(CompileOptions(threads=1))
    model = context.pretrained()
    columns = (BarColumn(), TextColumn("{task.completed}/{task.total} {task.description}"), TimeRemainingColumn())
    waiting: list[tuple[Sample, ScheduleJson, tuple[int, int, int], Future[list[Outcome]]]] = []
    failures = 0

    def finish() -> int:
        """1 if the oldest one failed."""
        sample, schedule, (instructions, code_bytes, scratch), future = waiting.pop(0)
        (outcome,) = future.result()
        row = {
            "key": sample.key,
            "networks": sorted(sample.networks),
            "ways": sample.ways,
            "real": sample.real,
            "schedule": schedule,
            "failure": f"{outcome.failure} {outcome.detail}".strip(),
            "scratch_bytes": scratch,
            "body": workload_text(sample.body),
        }
        if outcome.ok:
            nbytes = activation_bytes(sample.body) + scratch
            row["cost"] = asdict(GroupCost(outcome.best, instructions, code_bytes, nbytes))
        file.write(json.dumps(row) + "\n")
        file.flush()
        return int(not outcome.ok)

    with CpuMeasurer(machine, 1) as measurer, Progress(*columns) as bar, data.open("a") as file:
        shown = bar.add_task("", total=len(samples))
        for sample in samples:
            bar.advance(shown)
            if done[sample.key] >= repeats:
                continue
            bar.update(shown, description=f"{failures} failed, {workload_label(sample.body)[:40]}")
            body = parse_graph(workload_text(sample.body))
            schedule = schedule_of(body, context, model)
            future = measurer.submit(body, [schedule])
            waiting.append((sample, schedule, code_of(body, machine, schedule), future))
            while len(waiting) >= _IN_FLIGHT:
                failures += finish()
            if time.monotonic() - started > seconds:
                break
        while waiting:
            failures += finish()
    print(f"{failures} failed, {time.monotonic() - started:.0f} s, in {data}", file=sys.stderr)


if __name__ == "__main__":
    main()
