"""Measurement bundles: candidates built here, timed where there is no compiler, or behind a batch queue.

BUNDLE/measure.py       times everything in it: needs Python and numpy only
BUNDLE/manifest.json    what the jobs measure
BUNDLE/jobs/0000/       jobs (`targets.cpu.tuning.jobs`); each has candidates of one workload
BUNDLE/data/KEY/        the data of a workload
BUNDLE/results.jsonl    appears there: a line for each job that was timed
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from targets.cpu.machine import Machine, available_cores
from targets.cpu.tuning.measure import core_cpus
from targets.cpu.tuning.pool import BuilderPool
from tensorc.errors import UserError
from tensorc.search.bundle import BundleResults, BundleTask
from tensorc.search.measure import Outcome
from tensorc.search.records import Key, Record
from tensorc.workload import workload_text

VERSION = 1

T = TypeVar("T")
#: So many candidates of a workload are timed in turns.
_BATCH = 16
_MEASURE = Path(__file__).with_name("measure.py")


def export_bundle(folder: Path, tasks: Iterable[BundleTask], machine: Machine,
                  progress: Callable[[int, int], None] | None = None) -> None:  # fmt: skip
    """Build everything for `machine` and write the bundle to `folder`, which must not exist or be empty.

    `progress` is called with candidates done and in all. Raises UserError if `folder` is in use or there is no C
    compiler.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder: name another for the bundle")
    folder.mkdir(parents=True, exist_ok=True)
    groups = list(batches(tasks))
    done, total = 0, sum(len(task.schedules) for task in groups)
    manifest: dict[str, Any] = {"version": VERSION, "jobs": {}}
    pool = BuilderPool(machine, [{cpu} for cpu in core_cpus()[: available_cores()]])
    try:
        for number, task in enumerate(groups):
            name, schedules = f"{number:04}", list(task.schedules)
            data = folder / "data" / task.key.workload
            failures = pool.build(task.body, schedules, task.key.threads, folder / "jobs" / name, data)
            manifest["jobs"][name] = {
                "key": vars(task.key),
                "body": workload_text(task.body),
                "schedules": schedules,
                # In order; null where the candidate is in the job.
                "failures": [None if failure is None else [failure.failure, failure.detail] for failure in failures],
            }
            done += len(schedules)
            if progress is not None:
                progress(done, total)
    finally:
        pool.close()
    shutil.copyfile(_MEASURE, folder / "measure.py")
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def batches(tasks: Iterable[BundleTask]) -> Iterator[BundleTask]:
    """So many candidates at once as are timed in turns."""
    for task in tasks:
        for start in range(0, len(task.schedules), _BATCH):
            yield BundleTask(task.key, task.body, task.schedules[start : start + _BATCH])


def import_results(folder: Path, results: Path | None = None) -> BundleResults:
    """What was measured of the bundle in `folder`; `results` is a results.jsonl that lies elsewhere.

    Raises UserError, naming file and line, for what is no bundle or no answer to it.
    """
    manifest_path = folder / "manifest.json"
    results = results or folder / "results.jsonl"
    jobs = _checked(f"{manifest_path} is not the manifest of a bundle", lambda: _manifest_jobs(manifest_path))
    answers: dict[str, dict[str, Any]] = {}
    text = _checked(f"{folder} was not measured", lambda: results.read_text(encoding="utf-8"))
    whole, _, _ = text.rpartition("\n")  # without what a run that was killed was about to write
    for number, line in enumerate(whole.splitlines(), start=1):
        row = _checked(f"{results}:{number}: not JSON", partial(json.loads, line))
        name = _checked(f"{results}:{number}: not an answer", partial(_job_of, row))
        if name not in jobs:
            raise UserError(f"{results}:{number}: {folder} has no job {name!r}; it has {len(jobs)}")
        answers[name] = row
    records: list[Record] = []
    unmeasured = 0
    for name, job in jobs.items():
        timed = sum(failure is None for failure in job["failures"])
        if timed and name not in answers:
            unmeasured += 1
            continue
        told = f"{results}: not an answer to job {name}"
        records += _checked(told, partial(_records, job, answers.get(name, {})))
    return BundleResults(records, unmeasured)


def _manifest_jobs(path: Path) -> dict[str, Any]:
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if manifest["version"] != VERSION:
        raise ValueError(f"it is of version {manifest['version']}, not {VERSION}")
    jobs: dict[str, Any] = manifest["jobs"]
    return jobs


def _job_of(row: Any) -> str:
    return str(row["job"])


def _records(job: dict[str, Any], answer: dict[str, Any]) -> list[Record]:
    records = []
    key, created = Key(**job["key"]), float(answer.get("created", 0.0))
    rows = iter(answer.get("outcomes", []))
    for schedule, failure in zip(job["schedules"], job["failures"], strict=True):
        if failure is None:
            row = next(rows, None)
            if row is None:
                raise ValueError("it has too few outcomes")
            seconds = tuple(sorted(float(second) for second in row.get("seconds", ())))
            outcome = Outcome(schedule, seconds, row.get("failure", ""), row.get("detail", ""))
        else:
            outcome = Outcome(schedule, (), *failure)
        records.append(outcome.record(key, job["body"], created))
    if next(rows, None) is not None:
        raise ValueError("it has too many outcomes")
    return records


def _checked(what: str, read: Callable[[], T]) -> T:
    """What `read` gives. Raises UserError that begins with `what` where it cannot."""
    try:
        return read()
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{what}: {error or type(error).__name__}") from error
