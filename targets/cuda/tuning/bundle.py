"""Measurement bundles for a GPU elsewhere: candidates built here, timed there by `measure.py`, which needs Python,
numpy and cuda-bindings only. Its manifest and its answers are those of the CPU's bundles."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from targets.cpu.tuning.bundle import VERSION, batches
from targets.cuda.gpu import Gpu
from targets.cuda.tuning.jobs import build_job
from tensorc.errors import UserError
from tensorc.search.bundle import BundleTask
from tensorc.workload import workload_text

_MEASURE = Path(__file__).with_name("measure.py")


def export_bundle(folder: Path, tasks: Iterable[BundleTask], gpu: Gpu,
                  progress: Callable[[int, int], None] | None = None) -> None:  # fmt: skip
    """Build everything for `gpu` and write the bundle to `folder`, which must not exist or be empty.

    `progress` is called with candidates done and in all. Raises UserError if `folder` is in use or there is no NVRTC.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder: name another for the bundle")
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(batches(tasks))
    done, total = 0, sum(len(task.schedules) for task in rows)
    manifest: dict[str, Any] = {"version": VERSION, "jobs": {}}

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    for number, task in enumerate(rows):
        name, schedules = f"{number:04}", list(task.schedules)
        data = folder / "data" / task.key.workload
        failures = build_job(task.body, schedules, gpu, folder / "jobs" / name, data, step)
        manifest["jobs"][name] = {
            "key": vars(task.key),
            "body": workload_text(task.body),
            "schedules": schedules,
            "failures": [None if failure is None else [failure.failure, failure.detail] for failure in failures],
        }
    shutil.copyfile(_MEASURE, folder / "measure.py")
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
