"""One compilation, from a model to an artifact on disk: what the command line and the Python API share.

It only orders the work of others (frontend, the target's passes and build, artifact) and keeps the clock. Nothing here
prints, but for the IR that was asked for.
"""

from __future__ import annotations

import os
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorc.errors import TensorcWarning, UserError
from tensorc.ir.graph import Graph, Value, clone
from tensorc.options import CompileOptions
from tensorc.pipeline import PassRecord, run_passes
from tensorc.precision import described
from tensorc.runtime import constants
from tensorc.target import Program, Target, find_target

if TYPE_CHECKING:
    from tensorc.frontend.importer import StagedModel
    from tensorc.frontend.reader import Source
    from tensorc.quantization.accuracy import Accuracy
    from tensorc.quantization.assessment import Assessment
    from tensorc.quantization.scheme import Quantization
    from tensorc.search.budget import Budget
    from tensorc.search.choice import Choice
    from tensorc.search.context import TuningContext
    from tensorc.search.database import Database
    from tensorc.search.tasks import Task
    from tensorc.search.tuner import TuningProgress, TuningResult

#: Called with (phase, steps done, steps in all, name of the step at hand); 0 in all where a phase is one step.
Watch = Callable[[str, int, int, str], None]

#: The name under which `print_ir_after` knows the frontend's graph, before any pass.
IMPORT = "import"
#: What a manifest says of a model that was quantized: its scheme, and what that cost where it was measured.
QUANTIZED = "quantized"
ALL = "all"


@dataclass(frozen=True)
class CompileReport:
    """What a compilation made: the file, its manifest, and seconds by phase and by pass."""

    output: Path
    nbytes: int
    manifest: Mapping[str, Any]
    phases: Mapping[str, float]
    passes: Sequence[PassRecord]


def compile_model(
    source: Source,
    options: CompileOptions,
    out: Path | None = None,
    progress: Watch | None = None,
    watch: Callable[[TuningProgress], None] | None = None,
) -> CompileReport:
    """Compile `source` into the artifact `out`, which appears whole or not at all.

    `out` of None is the model's name with the target's suffix (`.tcm`), in the current folder. `watch` is told of
    tuning, if the options ask for it. Raises UserError where the model, the options or the output's place are wrong.
    """
    clock = _Clock(progress)
    target = find_target(options.target)
    if out is not None:
        _check_output(out, source, target)
    if target.is_fixed_point and options.quantize is None:
        options = replace(options, quantize=_default_quantization())
    opened = _open(source, options, clock)
    if out is None:
        out = Path(re.sub(r"[^\w.-]", "_", opened.name) + target.suffix)
        _check_output(out, source, target)
    if any(declared.spans for declared in opened.model.inputs):
        _refuse_budget(opened, options, "it is compiled for several shapes")
        return _write_ahead(opened, options, out, clock)
    with clock.phase("import"):
        why = opened.why_staged()
    if why:
        _refuse_budget(opened, options, why)
        return _write_staged(opened, options, out, why, clock)
    if not opened.target.has_budgets:
        _refuse_budget(opened, options, f"the target {options.target} does not know how")
    if options.tune is not None and options.quantize is not None and options.quantize.max_drop is not None:
        # In float32 and quantized, for what is faster; and what was chosen in the end.
        options = replace(options, tune=options.tune.share(3))
    lowered = _lower(opened, options, clock, assess=True, watch=watch)
    while True:
        if options.tune is not None:
            with clock.phase("tune"):
                _tune(lowered, options, options.tune, 0, watch)
        with clock.phase("schedules"):
            choices = _choose_schedules(lowered.graph, lowered.target, options)
        with clock.phase("build"):
            program = lowered.target.build(lowered.graph, options, choices, clock.steps("build"))
        accuracy = _accuracy(lowered, program, options, clock)
        less = None if accuracy is None or accuracy.is_held else _with_less(lowered, options, clock)
        if less is None:
            break
        lowered = less
    summary = [*program.summary]
    if options.precision != "float32":
        summary.insert(0, ("precision", described(lowered.graph, options.precision)))
    if choices:
        summary.append(("schedules", _origins(choices)))
    quantized: dict[str, Any] = {}
    if lowered.quantized is not None:
        summary.append(("quantized", lowered.quantized.described()))
        quantized = {"scheme": lowered.quantized.scheme}
        if lowered.quantized.widths:
            quantized["bits"] = lowered.quantized.widths.to_json()
    summary += [(record.name.replace("-", " "), record.note) for record in lowered.passes if record.note]
    if accuracy is not None and lowered.assessment is not None:
        summary.append(("accuracy", accuracy.described()))
        quantized["accuracy"] = accuracy.to_json()
        quantized["inputs"] = {name: asdict(found) for name, found in lowered.assessment.inputs().items()}
        lowered.assessment.close()
    manifest = {
        "tensorc": lowered.version,
        "target": options.target,
        "name": lowered.name,
        "inputs": lowered.inputs,
        "outputs": lowered.outputs,
        "precision": options.precision,
        "memory_budget": options.memory_budget,
        "program": program.manifest,
        constants.SECTION: constants.table(program.constants),
        "summary": [list(row) for row in summary],
        **({QUANTIZED: quantized} if quantized else {}),
    }
    sections = {**program.sections, constants.SECTION: constants.chunks(program.constants)}
    alignments = {constants.SECTION: program.alignment}
    return _write(out, manifest, sections, clock, lowered.passes, alignments, lowered.target)


def _default_quantization() -> Quantization:
    from tensorc.quantization.scheme import Quantization

    return Quantization("fixed16")


def _refuse_budget(opened: _Opened, options: CompileOptions, why: str) -> None:
    if options.memory_budget is not None:
        raise UserError(f"{opened.name} cannot be held to a memory budget: {why}")


def _write(out: Path, manifest: dict[str, Any], sections: Mapping[str, Iterable[Any]], clock: _Clock,
           passes: Sequence[PassRecord], alignments: Mapping[str, int] | None = None,
           target: Target | None = None) -> CompileReport:  # fmt: skip
    """By the target's own way; without one, as an artifact, which holds a model until it is specialised."""
    with clock.phase("write"):
        from tensorc.runtime.artifact import write_artifact

        if target is not None:
            nbytes = target.write(out, manifest, sections, alignments or {})
        else:
            write_artifact(out, manifest, sections, alignments)
            nbytes = out.stat().st_size
    return CompileReport(out, nbytes, manifest, clock.seconds, passes)


def _write_ahead(opened: _Opened, options: CompileOptions, out: Path, clock: _Clock) -> CompileReport:
    """A program for each choice of sizes, all in one artifact."""
    from tensorc.dynamic.ahead import specialise
    from tensorc.dynamic.artifact import AHEAD

    if options.tune is not None:
        raise UserError("--tune is for a model of one shape: its records serve the others")
    if options.quantize is not None:
        raise UserError("--quantize is for a model of one shape")
    with clock.phase("build"):
        packings: set[Hashable] = set()

        def build(graph: Graph) -> Program:
            return build_graph(graph, opened.target, options, packings)

        ahead = specialise(opened.model, build, clock.steps("build"))
    manifest = {
        **_signature(opened, options),
        "threads": options.threads,
        AHEAD: ahead.programs,
        constants.SECTION: constants.table(ahead.constants),
        "summary": [["specialised", f"ahead, for {len(ahead.programs)} choices of shapes"]],
    }
    sections = {**ahead.sections, constants.SECTION: constants.chunks(ahead.constants)}
    return _write(out, manifest, sections, clock, [])


def _signature(opened: _Opened, options: CompileOptions) -> dict[str, Any]:
    """What the manifest of a model says whose shapes are not all known."""
    return {
        "tensorc": opened.version,
        "target": options.target,
        "name": opened.name,
        "precision": options.precision,
        "inputs": [declared.to_json() for declared in opened.model.inputs],
        "outputs": [declared.to_json() for declared in opened.model.outputs],
    }


def _write_staged(opened: _Opened, options: CompileOptions, out: Path, why: str, clock: _Clock) -> CompileReport:
    """A model that is specialised where it runs."""
    from tensorc.dynamic.artifact import KEY, MODEL_SECTION, WEIGHTS_SECTION, described
    from tensorc.frontend.reader import pack

    if options.tune is not None:
        raise UserError(f"{opened.name} is no single program, so there is nothing to tune before it runs: {why}")
    if options.quantize is not None:
        raise UserError(f"{opened.name} is no single program, which --quantize asks for: {why}")
    packed = pack(opened.model.model)
    manifest = {
        **_signature(opened, options),
        KEY: described(options, packed.extents, why),
        "summary": [["specialised", f"where it runs, because {why}"]],
    }
    return _write(out, manifest, {MODEL_SECTION: [packed.message], WEIGHTS_SECTION: packed.chunks}, clock, [])


def build_graph(graph: Graph, target: Target, options: CompileOptions, packings: set[Hashable]) -> Program:
    """A program of a graph as the frontend gives it; `packings` as in `search.choice`."""
    run_passes(graph, target.passes(options))
    return target.build(graph, options, _choose_schedules(graph, target, options, packings), lambda *_: None)


def tune_model(
    source: Source,
    options: CompileOptions,
    budget: Budget,
    *,
    seed: int = 0,
    progress: Watch | None = None,
    watch: Callable[[TuningProgress], None] | None = None,
) -> TuningResult:
    """Search for better schedules of the model's kernels until the budget ends or nothing is left to gain.

    What is measured goes into the database of `options` at once, where later compilations find it. `watch` is told
    after every batch. Raises UserError when the model or the options are wrong, or the target cannot be tuned here.
    """
    clock = _Clock(progress)
    lowered = _lower(_open(source, options, clock), options, clock)
    with clock.phase("tune"):
        return _tune(lowered, options, budget, seed, watch)


def tuning_tasks(
    source: Source, options: CompileOptions, progress: Watch | None = None
) -> tuple[list[Task], TuningContext]:
    """The workloads of a model that leave something to choose, and how the target tunes them; for a search that is
    not run here. Raises UserError as `tune_model` does."""
    clock = _Clock(progress)
    lowered = _lower(_open(source, options, clock), options, clock)
    return _tasks(lowered.graph, lowered.target, options)


@dataclass(frozen=True)
class _Lowered:
    """A model as a graph of fused groups, with its signature as the caller knows it."""

    target: Target
    graph: Graph
    name: str
    version: str
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    passes: Sequence[PassRecord]
    quantized: Quantization | None
    #: Of a quantized model whose accuracy is measured; with the graph as the frontend gave it.
    assessment: Assessment | None = None
    imported: Graph | None = None


@dataclass(frozen=True)
class _Opened:
    """A model that was read, and the target that it is for."""

    target: Target
    model: StagedModel
    name: str
    version: str

    def why_staged(self) -> str:
        """Why it is not one program; "" if it is."""
        free = [declared.name for declared in self.model.inputs if not declared.is_static]
        if free:
            return f"input {free[0]!r} has no fixed shape"
        first = self.model.first
        return "" if first.is_whole else first.why()


def _open(source: Source, options: CompileOptions, clock: _Clock) -> _Opened:
    with clock.phase("start"):  # the time that importing onnx and the target's compiler takes belongs to the sum
        import tensorc
        from tensorc.frontend.importer import open_model

        target = find_target(options.target)
        if options.precision not in target.precisions:
            legal = ", ".join(target.precisions)
            raise UserError(f"the target {options.target} has no precision {options.precision}; legal: {legal}")
        if options.objective is not None and not target.has_objectives:
            raise UserError(f"the target {options.target} makes no hardware: it has no objective {options.objective}")
        if options.clock is not None and not target.has_objectives:
            raise UserError(f"the target {options.target} makes no hardware: it has no clock")
        if options.quantize is not None and target.is_fixed_point != (options.quantize.fixed is not None):
            legal = "fixed8, fixed16, ..." if target.is_fixed_point else "int8, int8-dynamic, and formats of weights"
            raise UserError(f"the target {options.target} has no --quantize {options.quantize.scheme}; legal: {legal}")
        passes = target.passes(options)
    _check_pass_names(options.print_ir_after, [step.name for step in passes])
    with clock.phase("import"):
        model = open_model(source, options.shapes, options.fallback == "onnxruntime")
    proto = model.model.proto
    name = Path(source).stem if isinstance(source, (str, os.PathLike)) else proto.graph.name or "main"
    return _Opened(target, model, name, tensorc.__version__)


def _lower(opened: _Opened, options: CompileOptions, clock: _Clock, assess: bool = False,
           watch: Callable[[TuningProgress], None] | None = None) -> _Lowered:  # fmt: skip
    """With `assess`, samples that there are for it tell what quantization costs; `watch` is told of tuning."""
    with clock.phase("import"):
        imported = opened.model.static()
    graph = imported.graph
    graph.labels = (imported.input_names, imported.output_names)
    # The signature is taken now: passes may change the graph's values, never what the caller passes and gets.
    inputs = [_described(value, label) for value, label in zip(graph.inputs, imported.input_names, strict=True)]
    outputs = [_described(value, label) for value, label in zip(graph.outputs, imported.output_names, strict=True)]

    def print_ir(after: str, graph: Graph) -> None:
        if options.print_ir_after & {after, ALL}:
            print(f"# after {after}\n{graph}", file=sys.stderr)

    print_ir(IMPORT, graph)
    assessment, original = None, None
    if options.quantize is not None:
        how, assessment = _quantization(graph, inputs, opened.target, options, clock, assess, watch)
        options = replace(options, quantize=how)
        original = clone(graph) if assessment is not None else None
    with clock.phase("passes"):
        records = run_passes(graph, opened.target.passes(options), print_ir)
    return _Lowered(opened.target, graph, opened.name, opened.version, inputs, outputs, records, options.quantize,
                    assessment, original)  # fmt: skip


def _quantization(
    graph: Graph,
    inputs: list[dict[str, Any]],
    target: Target,
    options: CompileOptions,
    clock: _Clock,
    assess: bool,
    watch: Callable[[TuningProgress], None] | None,
) -> tuple[Quantization, Assessment | None]:
    """With the ranges that were found, and without the layers that are left out."""
    from tensorc.quantization.assessment import Assessment, evaluation_samples
    from tensorc.quantization.calibration import calibrated, calibration_samples, compensating
    from tensorc.quantization.whole import WholeAssessment

    how = options.quantize
    assert how is not None
    with clock.phase("calibrate"):
        calibration = calibration_samples(how, inputs)
        evaluation = evaluation_samples(how, inputs, calibration) if assess else None
        if how.is_static:
            how = calibrated(graph, calibration, inputs, target, options, clock.steps("calibrate"))
        elif calibration is not None:
            names = [row["name"] for row in inputs]
            how = compensating(graph, calibration, names, target, options, clock.steps("calibrate"))
    if evaluation is None:
        return how, None
    with clock.phase("assess"):
        options = replace(options, quantize=how)

        def choose(graph: Graph) -> Mapping[str, Choice]:
            if options.tune is not None:
                _tune_graph(graph, target, options, options.tune, 0, watch)
            return _choose_schedules(graph, target, options)

        kind = WholeAssessment if how.fixed is not None else Assessment
        assessment = kind(graph, inputs, target, options, evaluation, choose, clock.steps("assess"))
        return assessment.run(), assessment


def _accuracy(lowered: _Lowered, program: Program, options: CompileOptions, clock: _Clock) -> Accuracy | None:
    """Of the program as it was built; a program that is held to a budget reads its weights from an artifact, so it is
    its layers that are measured."""
    if lowered.assessment is None:
        return None
    with clock.phase("evaluate"):
        if options.memory_budget is not None:
            return lowered.assessment.accuracy(None)
        built = lowered.target.load_built(program, constants.ConstantStore(), options.threads)
        try:
            return lowered.assessment.accuracy(built)
        finally:
            built.close()


def _with_less(lowered: _Lowered, options: CompileOptions, clock: _Clock) -> _Lowered | None:
    """With one layer less that is quantized; None where none is left."""
    assert lowered.assessment is not None
    assert lowered.imported is not None
    with clock.phase("assess"):
        how = lowered.assessment.give_up()
    if how is None:
        return None
    graph = clone(lowered.imported)
    with clock.phase("passes"):
        records = run_passes(graph, lowered.target.passes(replace(options, quantize=how)))
    return replace(lowered, graph=graph, passes=records, quantized=how)


def _tune(lowered: _Lowered, options: CompileOptions, budget: Budget, seed: int,
          watch: Callable[[TuningProgress], None] | None) -> TuningResult:  # fmt: skip
    return _tune_graph(lowered.graph, lowered.target, options, budget, seed, watch)


def _tune_graph(graph: Graph, target: Target, options: CompileOptions, budget: Budget, seed: int,
                watch: Callable[[TuningProgress], None] | None) -> TuningResult:  # fmt: skip
    from tensorc.search.database import Database
    from tensorc.search.tuner import tune

    tasks, context = _tasks(graph, target, options)
    with Database(options.database) as database:
        _warn_of_foreign(database, tasks, context)
        return tune(tasks, context, database, budget, seed=seed, watch=watch)


def _tasks(graph: Graph, target: Target, options: CompileOptions) -> tuple[list[Task], TuningContext]:
    from tensorc.search.tasks import tasks_of

    context = target.tuning(options)
    if context is None:
        raise UserError(f"the target {options.target} leaves nothing to tune")
    return tasks_of(graph, context), context


def _warn_of_foreign(database: Database, tasks: Sequence[Task], context: TuningContext) -> None:
    """Where nothing else is known of a workload."""
    lacking = [task.key.workload for task in tasks if database.best(task.key) is None]
    foreign = database.foreign(lacking, context.machine, context.compiler)
    if foreign.total:
        warnings.warn(f"{database.path}: {foreign}; tune again to replace them", TensorcWarning, stacklevel=2)


def _choose_schedules(graph: Graph, target: Target, options: CompileOptions,
                      packings: set[Hashable] | None = None) -> dict[str, Choice]:  # fmt: skip
    """By workload key, from the database or by the target's pretrained model."""
    context = target.tuning(options)
    if context is None:
        return {}
    from tensorc.search.choice import choose
    from tensorc.search.database import Database
    from tensorc.search.tasks import tasks_of

    tasks = tasks_of(graph, context)
    try:
        database = Database(options.database)
    except UserError:  # there is no home, so no database of the user's own
        return choose(tasks, context, None, context.pretrained(), packings)
    with database:
        _warn_of_foreign(database, tasks, context)
        return choose(tasks, context, database, context.pretrained(), packings)


def _origins(choices: Mapping[str, Choice]) -> str:
    """How many schedules came from where."""
    counts = Counter(choice.origin for choice in choices.values())
    words = {"record": "from tuning records", "prediction": "predicted", "default": "by rule"}
    return ", ".join(f"{counts[origin]} {text}" for origin, text in words.items() if counts[origin])


def _described(value: Value, label: str) -> dict[str, Any]:
    return {"name": label, "dtype": value.dtype, "shape": list(value.shape)}


def _check_pass_names(asked: frozenset[str], names: Sequence[str]) -> None:
    legal = [IMPORT, *names, ALL]
    for name in sorted(asked.difference(legal)):
        raise UserError(f"no pass {name!r} to print the IR after; this target has: {', '.join(legal)}")


def _check_output(out: Path, source: Source, target: Target) -> None:
    """Find out before the work, not after it, that the result has no place to go."""
    folder = out.parent
    if not folder.is_dir():
        raise UserError(f"cannot write {out}: {folder} is not a folder")
    if obstacle := target.obstacle(out):
        raise UserError(f"cannot write {out}: {obstacle}")
    if not os.access(folder, os.W_OK):
        raise UserError(f"cannot write {out}: no permission to write in {folder}")
    if isinstance(source, (str, os.PathLike)) and out.is_file() and Path(source).exists() and out.samefile(source):
        raise UserError(f"cannot write {out}: it is the model itself")


class _Clock:
    """Seconds by phase, and the caller's progress told of each."""

    def __init__(self, watch: Watch | None):
        self.watch = watch
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        if self.watch is not None:
            self.watch(name, 0, 0, "")
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def steps(self, phase: str) -> Callable[[int, int, str], None]:
        def step(done: int, total: int, name: str) -> None:
            if self.watch is not None:
                self.watch(phase, done, total, name)

        return step
