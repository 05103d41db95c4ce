"""Models of several stages or free shapes, as artifacts: the model itself, to be specialised where it runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorc.dynamic.executable import AheadExecutable, DynamicExecutable
from tensorc.dynamic.kinds import Kind, kind_from_json
from tensorc.errors import UserError
from tensorc.ir.graph import Graph
from tensorc.options import CompileOptions, format_shape, parse_shape
from tensorc.runtime.constants import SECTION, ConstantStore, views
from tensorc.target import Executable, find_target

#: The manifest's key of programs for several shapes.
AHEAD = "programs"
#: The manifest's key of what is needed to specialise the model, and the artifact's sections.
KEY = "specialise"
MODEL_SECTION, WEIGHTS_SECTION = "model", "initializers"


def described(options: CompileOptions, extents: Mapping[str, Sequence[int]], why: str) -> dict[str, Any]:
    """What the manifest says. `why` is the reason that it is not one program."""
    return {
        "why": why,
        "needs": "tensorc with the target's compiler, on the machine that runs the model",
        "shapes": {name: format_shape(shape) for name, shape in options.shapes.items()},
        "threads": options.threads,
        "numerics": options.numerics,
        "precision": options.precision,
        "fallback": options.fallback,
        "database": None if options.database is None else str(options.database),
        "initializers": {name: list(extent) for name, extent in extents.items()},
    }


def load_ahead(manifest: Mapping[str, Any], sections: Mapping[str, memoryview], threads: int) -> Executable:
    """The executable of an artifact whose manifest has programs for several shapes; 0 threads as in `load_dynamic`."""
    constants = views(sections[SECTION], manifest[SECTION])
    target = find_target(manifest["target"])
    threads = threads or manifest["threads"] or target.default_threads()
    programs: dict[tuple[Kind, ...], Callable[[], Executable]] = {}
    for row in manifest[AHEAD]:
        kinds = tuple(kind_from_json(kind) for kind in row["kinds"])
        own = {name: sections[section] for name, section in row["sections"].items()}
        used = [constants[number] for number in row["constants"]]
        programs[kinds] = functools.partial(target.load, row["program"], own, used, threads)
    return AheadExecutable(programs, manifest["inputs"], threads)


def load_dynamic(manifest: Mapping[str, Any], sections: Mapping[str, memoryview], threads: int) -> Executable:
    """The executable of an artifact that `described` describes; 0 threads for those that it was compiled for."""
    from tensorc.frontend.importer import reopen
    from tensorc.frontend.reader import unpack
    from tensorc.frontend.wire import Extent

    how = manifest[KEY]
    target = find_target(manifest["target"])
    options = CompileOptions(
        target=manifest["target"],
        shapes={name: parse_shape(shape) for name, shape in how["shapes"].items()},
        threads=threads or how["threads"] or target.default_threads(),
        numerics=how["numerics"],
        precision=how["precision"],
        fallback=how["fallback"],
        database=None if how["database"] is None else Path(how["database"]),
    )
    extents = {name: Extent(*extent) for name, extent in how["initializers"].items()}
    model = unpack(manifest["name"], bytes(sections[MODEL_SECTION]), sections[WEIGHTS_SECTION], extents)
    opened = reopen(model, options.shapes, options.fallback == "onnxruntime")

    def start(kinds: Sequence[Kind]) -> Any:
        names = [declared.name for declared in opened.inputs]
        return opened.start(dict(zip(names, kinds, strict=True)))

    declared = [(row.name, row.dtype) for row in opened.inputs]
    # Whoever loads such a model waits for the compiler's imports now rather than in the first run.
    target.prepare()
    return DynamicExecutable(declared, start, Builder(options).build, options.threads)


class Builder:
    """Compiles the stages of one model and loads them, in memory, where they share packed weights."""

    def __init__(self, options: CompileOptions):
        self.options = options
        self.store = ConstantStore()
        self.packings: set[Hashable] = set()

    def build(self, graph: Graph) -> Executable:
        from tensorc.driver import build_graph

        target = find_target(self.options.target)
        program = build_graph(graph, target, self.options, self.packings)
        try:
            return target.load_built(program, self.store, self.options.threads)
        except MemoryError as error:
            raise UserError(f"no memory for another specialisation: {error}") from error
