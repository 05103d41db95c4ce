"""The search itself: how soon chance, the analytic estimate, an untrained and the pretrained cost model lead it to good
schedules.

    python benchmarks/search.py                                         a network that training has never seen
    python benchmarks/search.py model.onnx --trials 500 --seeds 0,1,2,3,4 --json out.json --plot out.svg

All strategies search the same spaces with the same seeds, each from an empty database, by the same workers. What a
search believes it has found is the least of many noisy times, and flatters whoever tried more. So it is not believed:
when all is over, every schedule that was the best known of its workload at some time in some run is measured again, all
those of one workload in turns, and the curves are made of these times. They begin with the schedules that rules pick,
which stand for workloads that a run has not come to yet, and go on as they end where a run stops early because nothing
is left to gain. All are relative to the best known: for each workload, the fastest of the schedules measured again.

Give no model whose workloads the pretrained cost model was trained on (those of the light models of the onnx package
and of cost_model/networks.py): it would be asked what it was told. The network that is taken without one has sizes
that do not occur there.
"""

from __future__ import annotations

import importlib.util
import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import onnx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from cost_models.controls import AnalyticModel, RandomModel
from targets.cpu.features import BASELINE, FEATURES
from targets.cpu.tuning.context import CpuTuning
from targets.cpu.tuning.measurer import CpuMeasurer
from tensorc.driver import tuning_tasks
from tensorc.errors import UserError
from tensorc.options import CompileOptions
from tensorc.search.budget import Budget
from tensorc.search.database import Database
from tensorc.search.measure import Measurer
from tensorc.search.model import CostModel
from tensorc.search.space import Values
from tensorc.search.tasks import Task
from tensorc.search.tuner import Tuner

sys.path.insert(0, str(Path(__file__).parent / "cost_model"))
from networks import Net

STRATEGIES: dict[str, Callable[[CpuTuning, int], CostModel | None]] = {
    "random": lambda _, seed: RandomModel(seed),
    "analytic": lambda *_: AnalyticModel(FEATURES.index(BASELINE)),
    "untrained": lambda context, seed: context.untrained(seed),
    "pretrained": lambda context, seed: context.pretrained(seed),
}
#: A run has arrived when it is within this factor of the best known.
ARRIVED = 1.05
#: Shares of the trials at which the table shows the curves.
SHARES = (0.1, 0.25, 0.5, 1.0)
#: When schedules are measured again: seconds of rounds for each workload's, enough for the most rounds that there are,
#: and how often all that is done. A schedule that a busy machine made look hopeless once gets its times from the rest.
_AGAIN, _PASSES = 20.0, 3


@dataclass(frozen=True)
class Point:
    """A run after a batch: the model's seconds as the search believes, and the best schedule it knows of each task."""

    trials: int
    seconds: float
    believed: float
    best: tuple[Values, ...]


@dataclass
class Run:
    """One search; `ratios` are the points' times measured again, relative to the best known."""

    strategy: str
    seed: int
    points: list[Point]
    failures: int
    seconds: float
    stopped: str
    ratios: list[float] = field(default_factory=list)

    def after(self, trials: float) -> float:
        """The ratio after so many trials."""
        return [ratio for point, ratio in zip(self.points, self.ratios, strict=True) if point.trials <= trials][-1]

    @property
    def arrival(self) -> Point | None:
        """The first point that is near to the best known."""
        pairs = zip(self.points, self.ratios, strict=True)
        return next((point for point, ratio in pairs if ratio <= ARRIVED), None)


def held_out() -> onnx.ModelProto:
    """Convolutions and products of sizes that no network of the training data has."""
    net = Net("held_out")
    x = net.conv(net.input(1, 3, 168, 168), 40, 5, 2)
    x = net.conv(x, 72, 3, 2)
    x = net.add(x, net.conv(net.depthwise(net.conv(x, 136), 5), 72, act=""))
    x = net.conv(net.conv(x, 136, 3, 2), 136, 3)
    x = net.conv(net.conv(x, 344, 3, 2), 520)
    x = net.transpose(net.reshape(x, 1, 520, 11 * 11), 0, 2, 1)
    return net.model(net.add(x, net.dense(net.dense(x, 1112, "gelu"), 520)))


# Searching -----------------------------------------------------------------------------------------------


def search(strategy: str, seed: int, tasks: Sequence[Task], context: CpuTuning, measurer: Measurer, trials: int,
           tell: Callable[[int], None]) -> Run:  # fmt: skip
    """One run, from nothing; `tell` is called with the trials so far."""
    model = STRATEGIES[strategy](context, seed)
    if model is None:
        raise UserError("no pretrained cost model is installed")
    own = [replace(task, measured={}) for task in tasks]
    points = [Point(0, 0.0, math.inf, best(own))]

    def watch(progress: Any) -> None:
        points.append(Point(progress.trials, progress.seconds, progress.model_seconds, best(own)))
        tell(progress.trials)

    with Database.memory() as database:
        budget = Budget(trials=trials)
        tuner = Tuner(own, context, database, model, measurer, budget=budget, seed=seed, watch=watch)
        result = tuner.run()
    if result.stopped == "interrupted":
        raise KeyboardInterrupt
    return Run(strategy, seed, points, tuner.failures, result.seconds, result.stopped)


def best(tasks: Sequence[Task]) -> tuple[Values, ...]:
    """The best known schedules, the rules' own where none is."""
    known = [task.best and task.space.values(task.best.schedule) for task in tasks]
    return tuple(values or task.space.default_values() for task, values in zip(tasks, known, strict=True))


def measure_again(tasks: Sequence[Task], runs: Sequence[Run], context: CpuTuning) -> list[dict[Values, float]]:
    """For each task the medians, in seconds, of all schedules that any run took for the best."""
    chosen = [list(dict.fromkeys(point.best[n] for run in runs for point in run.points)) for n in range(len(tasks))]
    times: list[dict[Values, list[float]]] = [{v: [] for v in values} for values in chosen]
    with CpuMeasurer(context.target, context.threads, budget=_AGAIN) as measurer:
        for _ in range(_PASSES):
            batches = [measurer.submit(t.body, t.schedules(values)) for t, values in zip(tasks, chosen, strict=True)]
            for values, batch, found in zip(chosen, batches, times, strict=True):
                for v, outcome in zip(values, batch.result(), strict=True):
                    found[v] += outcome.seconds
    return [{v: statistics.median(seconds or [math.inf]) for v, seconds in found.items()} for found in times]


def compare(name: str, tasks: Sequence[Task], context: CpuTuning, seeds: Sequence[int], trials: int,
            bar: Progress) -> dict[str, Any]:  # fmt: skip
    """Run every strategy with every seed, and judge them together."""
    runs: list[Run] = []
    shown = bar.add_task(name, total=len(STRATEGIES) * len(seeds) * trials)
    with context.measurer() as measurer:
        # Workers start and workloads' data is made before the first run, which would pay for all.
        for task in tasks:
            measurer.submit(task.body, [task.space.default]).result()
        for turn, seed in enumerate(seeds):
            # Nobody is always first, and the machine's slow hours are shared.
            order = [list(STRATEGIES)[(turn + n) % len(STRATEGIES)] for n in range(len(STRATEGIES))]
            for strategy in order:
                bar.update(shown, description=f"{name}: {strategy}, seed {seed}", refresh=True)
                done = len(runs) * trials

                def tell(so_far: int, done: int = done) -> None:
                    bar.update(shown, completed=done + so_far, refresh=True)

                runs.append(search(strategy, seed, tasks, context, measurer, trials, tell))
                tell(trials)
    bar.update(shown, description=f"{name}: measuring the best again", refresh=True)
    again = measure_again(tasks, runs, context)
    known = sum(task.count * min(times.values()) for task, times in zip(tasks, again, strict=True))
    for run in runs:
        run.ratios = [
            sum(task.count * times[v] for task, times, v in zip(tasks, again, point.best, strict=True)) / known
            for point in run.points
        ]
    bar.remove_task(shown)
    return {
        "model": name,
        "tasks": [
            {"workload": task.key.workload, "label": task.label, "count": task.count, "candidates": task.space.size(),
             "rules_seconds": times[task.space.default_values()], "best_seconds": min(times.values())}
            for task, times in zip(tasks, again, strict=True)
        ],
        "best_known_seconds": known,
        "runs": runs,
    }  # fmt: skip


# Showing -------------------------------------------------------------------------------------------------


def summary(runs: Sequence[Run], trials: int) -> dict[str, dict[str, Any]]:
    """By strategy: medians of when the runs arrived (infinite: never), geometric means of their ratios."""
    rows = {}
    for strategy in STRATEGIES:
        own = [run for run in runs if run.strategy == strategy]
        arrivals = [run.arrival for run in own]
        rows[strategy] = {
            "trials": statistics.mean(run.points[-1].trials for run in own),
            "seconds": statistics.mean(run.seconds for run in own),
            "trials_to_arrive": statistics.median(point.trials if point else math.inf for point in arrivals),
            "seconds_to_arrive": statistics.median(point.seconds if point else math.inf for point in arrivals),
            "ratios": {share: statistics.geometric_mean(run.after(share * trials) for run in own) for share in SHARES},
            "last_ratios": sorted(run.ratios[-1] for run in own),
        }
    return rows


def show(result: dict[str, Any], trials: int, out: Console) -> None:
    runs = result["runs"]
    out.print(f"{result['model']}: {len(result['tasks'])} workloads, {result['best_known_seconds'] * 1e3:.3g} ms by the"
              f" best known schedules, {runs[0].ratios[0]:.3f} times that by rules", highlight=False)  # fmt: skip
    shown = Table(caption="time relative to the best known, geometric mean over seeds")
    shown.add_column("cost model", no_wrap=True)
    near = f"{100 * (ARRIVED - 1):.0f} %"
    headers = ("trials", "s", f"trials to {near}", f"s to {near}", *(f"at {share:.0%}" for share in SHARES))
    for header in (*headers, "best seed", "worst seed"):
        shown.add_column(header, justify="right", no_wrap=True)
    for strategy, row in summary(runs, trials).items():
        arrived = [row["trials_to_arrive"], row["seconds_to_arrive"]]
        shown.add_row(
            strategy, f"{row['trials']:.0f}", f"{row['seconds']:.0f}",
            *(f"{value:.0f}" if math.isfinite(value) else "never" for value in arrived),
            *(f"{ratio:.3f}" for ratio in (*row["ratios"].values(), row["last_ratios"][0], row["last_ratios"][-1])),
        )  # fmt: skip
    out.print(shown)


def as_json(result: dict[str, Any], trials: int) -> dict[str, Any]:
    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    def run_row(run: Run) -> dict[str, Any]:
        history = [
            {"trials": p.trials, "seconds": p.seconds, "believed_seconds": finite(p.believed), "ratio": finite(ratio)}
            for p, ratio in zip(run.points, run.ratios, strict=True)
        ]
        return {
            "strategy": run.strategy, "seed": run.seed, "trials": run.points[-1].trials, "failures": run.failures,
            "seconds": run.seconds, "stopped": run.stopped, "history": history,
        }  # fmt: skip

    rows = summary(result["runs"], trials)
    for row in rows.values():
        row.update({key: finite(row[key]) for key in ("trials_to_arrive", "seconds_to_arrive")})
    return result | {"summary": rows, "runs": [run_row(run) for run in result["runs"]]}


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Each run thin, a strategy's geometric mean over seeds thick; a row for each model."""
    import matplotlib

    matplotlib.use("Agg")  # no window, so no display is needed
    from matplotlib import pyplot

    figure, rows = pyplot.subplots(len(results), 2, figsize=(11, 4 * len(results)), squeeze=False, sharey="row")
    for result, axes in zip(results, rows, strict=True):
        for axis, unit in zip(axes, ("trials", "seconds"), strict=True):
            end = max(getattr(run.points[-1], unit) for run in result["runs"])
            for number, strategy in enumerate(STRATEGIES):
                curves = [
                    ([getattr(point, unit) for point in run.points], run.ratios)
                    for run in result["runs"] if run.strategy == strategy
                ]  # fmt: skip
                for xs, ys in curves:
                    axis.step([*xs, end], [*ys, ys[-1]], where="post", color=f"C{number}", alpha=0.3, linewidth=0.7)
                places = sorted({end, *(x for xs, _ in curves for x in xs)})
                means = [
                    statistics.geometric_mean([y for x, y in zip(*curve, strict=True) if x <= place][-1]
                                              for curve in curves)
                    for place in places
                ]  # fmt: skip
                axis.step(places, means, where="post", color=f"C{number}", linewidth=2, label=strategy)
            axis.axhline(ARRIVED, color="grey", linewidth=0.7, linestyle=":")
            axis.set_xlabel(unit)
            axis.set_title(result["model"])
            axis.grid(alpha=0.3)
        axes[0].set_ylabel("time relative to the best known")
        axes[1].legend()
    figure.tight_layout()
    figure.savefig(path)


def parse_seeds(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not numbers separated by commas, such as 0,1,2") from error
    if min(seeds) < 0:
        raise click.BadParameter("seeds are not negative")
    return seeds


def in_a_folder(_context: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    """Found out before the hour of work, not after it."""
    if path is not None and not path.parent.is_dir():
        raise click.BadParameter(f"{path.parent} is not a folder")
    return path


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL.onnx]...", type=click.Path(exists=True, dir_okay=False,
                path_type=Path))  # fmt: skip
@click.option("--trials", default=200, show_default=True, type=click.IntRange(1), help="Of each run.")
@click.option("--seeds", default="0,1,2", show_default=True, callback=parse_seeds, help="A run with each.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1))
@click.option("--json", "output", type=click.Path(dir_okay=False, path_type=Path), callback=in_a_folder,
              help="Write all curves there.")  # fmt: skip
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), callback=in_a_folder,
              help="Draw the curves there, as .svg, .png or .pdf.")  # fmt: skip
def main(
    models: Sequence[Path], trials: int, seeds: tuple[int, ...], threads: int, output: Path | None, plot: Path | None
) -> None:
    """Compare cost models by the searches that they lead; print a table."""
    if plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise click.ClickException("--plot needs matplotlib: pip install 'tensorc[plot]'")
    console = Console(stderr=True)
    columns = (BarColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn(), TimeRemainingColumn())
    results = []
    # Refreshed after each batch only: a thread that draws would do so on the processor that is timed on.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal,
                  auto_refresh=False) as bar:  # fmt: skip
        try:
            for source in models or (held_out(),):
                name = source.stem if isinstance(source, Path) else source.graph.name
                tasks, context = tuning_tasks(source, CompileOptions(threads=threads))
                if not tasks:
                    raise UserError(f"{name} leaves nothing to tune")
                results.append(compare(name, tasks, context, seeds, trials, bar))
        except UserError as error:
            raise click.ClickException(str(error)) from error
    out = Console(width=None if sys.stdout.isatty() else 120)
    for result in results:
        show(result, trials, out)
    if output is not None:
        settings = {"trials": trials, "seeds": seeds, "threads": threads, "machine": context.machine,
                    "compiler": context.compiler}  # fmt: skip
        rows = [as_json(result, trials) for result in results]
        output.write_text(json.dumps({"settings": settings, "models": rows}, indent=1, allow_nan=False) + "\n")
    if plot is not None:
        draw(results, plot)


if __name__ == "__main__":
    main()
