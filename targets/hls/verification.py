"""`tensorc verify DIR` on a project: is what lies there right, and does it take what was promised?

No vendor tool is asked. Everything is held against the fixed-point graph of the project's `reference/`: the golden
vectors, the C++ as g++ compiles it, the same with channels that have an end, and the Verilog of the same schedule,
whose cycles and resources must be those of the report.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from targets.hls import project, schedule
from targets.hls.hardware import timing
from targets.hls.hardware.pipeline import designs_of
from targets.hls.layers.network import network_of
from targets.hls.parts import find_part
from targets.hls.printing import verilog
from targets.hls.program import Port, Program
from targets.hls.report import Promise
from targets.hls.simulation import csim, fibers, pragmas, rtl
from targets.hls.simulation.synthesis import synthesize
from targets.hls.vectors import Vectors, raw_of, read_rows, reference
from tensorc.errors import UserError
from tensorc.ir.graph import Graph
from tensorc.quantization.accuracy import Noise
from tensorc.quantization.data import Samples
from tensorc.target import PROJECT, Check, Progress

#: Cycles that are simulated at most, and images.
_CYCLES = 400_000
_IMAGES = 10
#: Decibels that outputs may be noisier than when the model was compiled.
_SLACK = 10.0


@dataclass(frozen=True)
class _Project:
    folder: Path
    manifest: Mapping[str, Any]
    graph: Graph
    program: Program
    vectors: Vectors
    report: Mapping[str, Any]


def check(folder: Path, model: Path | None, samples: Path | None, progress: Progress) -> list[Check]:
    """The whole chain. `samples` are verified besides the project's own vectors, and with `model` its outputs are
    compared with ONNX Runtime's. Raises UserError where a tool is missing or the folder is damaged."""
    opened = _open(folder)
    steps: list[tuple[str, Callable[[], tuple[bool, str, dict[str, Any]]]]] = [
        ("golden vectors", lambda: _golden(opened)),
        ("pragmas", lambda: _pragmas(opened)),
        ("C simulation", lambda: _c_simulation(opened, samples)),
        ("channels", lambda: _channels(opened)),
        ("Verilog", lambda: _verilog(opened)),
        ("synthesis", lambda: _synthesis(opened)),
    ]
    if model is not None:
        steps.append(("model", lambda: _model(opened, model, samples)))
    checks = []
    for number, (name, step) in enumerate(steps):
        progress(number, len(steps), name)
        start = time.perf_counter()
        ok, text, numbers = step()
        checks.append(Check(name, ok, text, time.perf_counter() - start, numbers))
    return checks


def _open(folder: Path) -> _Project:
    manifest = project.read_json(folder, PROJECT)
    graph = project.read_graph(folder)
    program = schedule.read(project.read_json(folder, project.SCHEDULE)).program(network_of(graph))

    def rows(kind: str, ports: Sequence[Port]) -> list[np.ndarray]:
        return [read_rows(folder / "tb_data" / f"{kind}_{number}.dat") for number in range(len(ports))]

    vectors = Vectors(rows("input", program.inputs), rows("output", program.outputs))
    return _Project(folder, manifest, graph, program, vectors, project.read_json(folder, project.REPORT))


def _expected(opened: _Project, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What the reference makes of images."""
    images = [
        reference(opened.graph, opened.program, [rows[image] for rows in inputs]) for image in range(len(inputs[0]))
    ]
    return [np.stack(rows) for rows in zip(*images, strict=True)]


def _golden(opened: _Project) -> tuple[bool, str, dict[str, Any]]:
    vectors = opened.vectors
    wrong = _wrong(_expected(opened, vectors.inputs), vectors.outputs)
    return not wrong, f"{vectors.count} images, {wrong or 'none'} not what the reference gives", {
        "images": vectors.count, "wrong": wrong,
    }  # fmt: skip


def _wrong(got: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> int:
    """Images any number of which differs."""
    differs = [(a.reshape(len(a), -1) != b.reshape(len(b), -1)).any(axis=1) for a, b in zip(got, wanted, strict=True)]
    return int(np.logical_or.reduce(differs).sum())


def _pragmas(opened: _Project) -> tuple[bool, str, dict[str, Any]]:
    """What Vitis HLS would refuse or not do."""
    findings = list(map(str, pragmas.lint_project(opened.folder)))
    return not findings, findings[0] if findings else "nothing to complain of", {"findings": findings}


def _c_simulation(opened: _Project, samples: Path | None) -> tuple[bool, str, dict[str, Any]]:
    """The project's own sources and test bench."""
    with csim.compiled(opened.folder) as simulation:
        done = simulation.check(opened.folder / "tb_data")
        images, wrong = done.images, done.mismatches
        if samples is not None:
            given = _raw(opened, _feeds(opened, samples))
            wrong += _wrong(simulation.run(given), _expected(opened, given))
            images += len(given[0])
    return wrong == 0, f"{images} images, {wrong or 'none'} wrong", {"images": images, "wrong": wrong}


def _channels(opened: _Project) -> tuple[bool, str, dict[str, Any]]:
    """The same with channels that are as deep as the project says."""
    some = [rows[:_IMAGES] for rows in opened.vectors.inputs]
    with fibers.compiled(opened.program) as simulation:
        outcome = simulation.run(some)
    if outcome.deadlock:
        return False, outcome.deadlock, {"deadlock": outcome.deadlock}
    wrong = _wrong(outcome.outputs, [rows[:_IMAGES] for rows in opened.vectors.outputs])
    words = sum(channel.depth for channel in opened.program.channels)
    return wrong == 0, f"no deadlock with {words} words in {len(opened.program.channels)} channels", {
        "channels": len(opened.program.channels), "words": words, "wrong": wrong,
    }  # fmt: skip


def _verilog(opened: _Project) -> tuple[bool, str, dict[str, Any]]:
    """Bit for bit, and in as many cycles as were promised."""
    promised = Promise.of(opened.report)
    program = opened.program
    designs = designs_of(program)
    for name, text in verilog.files(program, designs):
        if (opened.folder / "rtl" / name).read_text() != text:
            raise UserError(f"{opened.folder / 'rtl' / name} is not what the project's schedule makes")
    count = max(2, min(_IMAGES, _CYCLES // max(promised.interval, 1)))
    run = rtl.simulate(program, [rows[:count] for rows in opened.vectors.inputs], designs, quiet=2 * promised.latency)
    wrong = _wrong(run.outputs, [rows[:count] for rows in opened.vectors.outputs])
    # The promise is of the first images; that of later ones may grow, when a FIFO is full at last.
    ends = run.ends[: max(timing.IMAGES, 2)]
    interval = ends[-1] - ends[-2]
    foretold = timing.timing_of(program, designs, images=count).ends
    ok = wrong == 0 and (run.latency, interval) == (promised.latency, promised.interval) and run.ends == foretold
    text = (f"{count} images, {wrong or 'none'} wrong; {run.latency:,} cycles, {interval:,} between images "
            f"(promised {promised.latency:,} and {promised.interval:,})")  # fmt: skip
    return ok, text, {"images": count, "wrong": wrong, "latency": run.latency, "interval": interval,
                      "promised": {"latency": promised.latency, "interval": promised.interval}}  # fmt: skip


def _synthesis(opened: _Project) -> tuple[bool, str, dict[str, Any]]:
    part = find_part(opened.report["part"])
    found = synthesize(opened.folder / "rtl", opened.program.name, part.family).used
    promised = Promise.of(opened.report)
    ok = (found.dsp, found.bram18) == (promised.dsp, promised.bram18)
    text = (f"{found.dsp} DSP, {found.bram18} BRAM18 (promised {promised.dsp} and {promised.bram18}); "
            f"{found.lut:,} LUT, {found.ff:,} FF")  # fmt: skip
    return ok, text, {"dsp": found.dsp, "bram18": found.bram18, "lut": found.lut, "ff": found.ff,
                      "promised": {"dsp": promised.dsp, "bram18": promised.bram18}}  # fmt: skip


def _feeds(opened: _Project, samples: Path) -> list[dict[str, np.ndarray]]:
    return list(Samples.read(samples, opened.manifest["inputs"]).feeds)


def _raw(opened: _Project, feeds: Sequence[Mapping[str, np.ndarray]]) -> list[np.ndarray]:
    return [np.stack([raw_of(port, feed[port.name]) for feed in feeds]) for port in opened.program.inputs]


def _model(opened: _Project, model: Path, samples: Path | None) -> tuple[bool, str, dict[str, Any]]:
    """How much noisier than ONNX Runtime's floats its numbers are: no more than when they were measured."""
    from tensorc.verification import reference_outputs

    if samples is not None:
        feeds = _feeds(opened, samples)
    else:
        dtypes = {row["name"]: row["dtype"] for row in opened.manifest["inputs"]}
        feeds = [
            {port.name: (rows[image] * 2.0**-port.channel.kind.fraction).reshape(port.shape).astype(dtypes[port.name])
             for port, rows in zip(opened.program.inputs, opened.vectors.inputs, strict=True)}
            for image in range(opened.vectors.count)
        ]  # fmt: skip
    wanted = reference_outputs(model, *feeds)
    got = _expected(opened, _raw(opened, feeds))
    noise = Noise()
    for port, rows in zip(opened.program.outputs, got, strict=True):
        for row, exact in zip(rows, wanted, strict=True):
            noise.add(row * 2.0**-port.channel.kind.fraction, np.asarray(exact[port.name], np.float64))
    measured = opened.manifest.get("quantized", {}).get("accuracy", {}).get("outputs", {}).get("snr_db")
    ok = samples is None or measured is None or noise.decibels >= measured - _SLACK
    return ok, f"{noise.decibels:.1f} dB of {len(feeds)} images against ONNX Runtime", {"snr_db": noise.decibels}
