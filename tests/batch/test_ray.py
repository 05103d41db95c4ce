"""Jobs on a real Ray runtime of two workers, on this machine, that are killed while they tune."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tensorc.batch import ray as cluster
from tensorc.batch.job import Job
from tensorc.search.budget import Budget
from tensorc.search.database import Database
from tensorc.search.tuner import TuningProgress

pytestmark = [
    pytest.mark.compiler,
    # Ray leaves sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

TRIALS = 16


@pytest.fixture(scope="module", autouse=True)
def _two_workers() -> Iterator[None]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(address="local", num_cpus=2, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def network(path: Path, widths: tuple[int, ...]) -> Path:
    """3x3 convolutions one behind the other; widths of whole vectors make workloads as distinct as they look."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for layer, (before, after) in enumerate(pairwise(widths)):
        filters = rng.standard_normal((after, before, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(filters, f"w{layer}"))
        nodes.append(helper.make_node("Conv", [f"x{layer}", f"w{layer}"], [f"x{layer + 1}"], pads=[1, 1, 1, 1]))
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width, 14, 14])
        for name, width in (("x0", widths[0]), (f"x{len(nodes)}", widths[-1]))
    ]
    graph = helper.make_graph(nodes, path.stem, values[:1], values[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_workers_that_are_killed_are_replaced_and_nothing_is_measured_twice(tmp_path: Path) -> None:
    jobs = [
        Job(network(tmp_path / "lucky.onnx", (16, 32, 48, 64)), threads=1, budget=Budget(trials=TRIALS)),
        Job(network(tmp_path / "killed.onnx", (32, 16, 48, 48)), threads=1, budget=Budget(trials=TRIALS)),
        Job(tmp_path / "missing.onnx", threads=1),
        Job(small := network(tmp_path / "small.onnx", (16, 16)), threads=64),
        Job(small, target="cpu:x86-64-v3", threads=1, budget=Budget(trials=4)),
        Job(network(tmp_path / "doomed.onnx", (64, 16, 64, 32)), threads=1, budget=Budget(trials=TRIALS)),
    ]
    workers: defaultdict[int, list[str]] = defaultdict(list)

    def watch(number: int, progress: TuningProgress, worker: str) -> None:
        assert 0 < progress.trials <= TRIALS
        if worker not in workers[number]:
            workers[number].append(worker)
            if number == 5 or (number == 1 and len(workers[number]) == 1):
                os.kill(int(worker.split("process ")[1]), signal.SIGKILL)

    results = dict(cluster.run_jobs(jobs, tmp_path / "tuning.db", watch))

    assert sorted(results) == list(range(len(jobs)))
    assert [len(workers[number]) for number in (0, 1, 5)] == [1, 2, cluster.MOST_DEATHS]
    for number in (0, 1):
        result = results[number]
        assert (result.error, result.trials) == ("", TRIALS)
        assert result.stopped in ("budget", "nothing left to gain")
        assert result.best_seconds is not None
        trials = [progress.trials for progress in result.history]
        assert trials == sorted(trials)
        assert trials[-1] == TRIALS
    assert results[2].error == f"{jobs[2].model} does not exist"
    assert results[3].error == "no machine of the cluster has 64 cores, the largest has 2"
    assert (results[4].error, results[4].trials) == ("", 4)
    assert results[5].error.startswith(f"{cluster.MOST_DEATHS} workers died of it")
    # Each trial is a candidate of its own: what a dead worker had told was not measured again.
    with Database(tmp_path / "tuning.db") as database:
        assert database.count() == sum(result.trials for result in results.values())
        assert not [record.detail for record in database.records() if not record.ok]
