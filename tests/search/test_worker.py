"""Worker processes: whatever becomes of one, its caller learns why and can ask the next."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tensorc.search.worker import Worker, WorkerError

SCRIPT = """
import json, os, signal, subprocess, sys, time
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    match request:
        case {"die": number}:
            print("first words", file=sys.stderr)
            print("last words", file=sys.stderr, flush=True)
            os.kill(os.getpid(), number)
        case {"exit": code}:
            sys.exit(code)
        case {"sleep": seconds}:
            time.sleep(seconds)
        case {"say": text}:
            print(text, flush=True)
            continue
        case {"close_output": True}:
            os.close(1)
            time.sleep(100)
        case {"start": command}:
            request = subprocess.Popen(command).pid
        case {"cpus": _}:
            request = sorted(os.sched_getaffinity(0))
        case {"environment": name}:
            request = os.environ.get(name)
        case {"pid": _}:
            request = os.getpid()
    print(json.dumps(request), flush=True)
"""

Opener = Callable[..., Worker]


@pytest.fixture
def opened() -> Iterator[Opener]:
    workers: list[Worker] = []

    def open_(script: str = SCRIPT, **options: object) -> Worker:
        workers.append(Worker([sys.executable, "-I", "-c", script], **options))  # type: ignore[arg-type]
        return workers[-1]

    yield open_
    for worker in workers:
        worker.close()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_requests_are_answered_in_order_by_one_process(opened: Opener) -> None:
    worker = opened()
    pid = worker.call({"pid": 1}, 20)
    assert [worker.call({"n": n, "text": "ä\n" * n}, 20) for n in range(5)] == [
        {"n": n, "text": "ä\n" * n} for n in range(5)
    ]
    assert worker.call({"pid": 1}, 20) == pid


def test_long_answers_come_whole(opened: Opener) -> None:
    assert opened().call({"text": "x" * 60_000}, 20) == {"text": "x" * 60_000}


@pytest.mark.parametrize(
    ("request_", "failure", "detail"),
    [
        ({"die": 11}, "crash", "killed by SIGSEGV: last words"),
        ({"die": 9}, "crash", "killed by SIGKILL: last words"),
        ({"exit": 3}, "crash", "ended with exit code 3"),
        ({"sleep": 100}, "timeout", "no answer within 0.5 s"),
        ({"say": "no JSON"}, "crash", "answered b'no JSON'"),
    ],
)
def test_a_death_is_explained_and_the_next_request_answered(
    opened: Opener, request_: dict[str, object], failure: str, detail: str
) -> None:
    worker = opened()
    first = worker.call({"pid": 1}, 20)
    with pytest.raises(WorkerError) as caught:
        worker.call(request_, 0.5 if failure == "timeout" else 20)
    assert (caught.value.failure, caught.value.detail) == (failure, detail)
    assert worker.call({"pid": 1}, 20) != first
    assert eventually(lambda: not is_running(first))


def test_one_that_died_between_requests_is_replaced(opened: Opener) -> None:
    worker = opened()
    pid = worker.call({"pid": 1}, 20)
    os.kill(pid, 9)
    assert eventually(lambda: not is_running(pid))
    assert worker.call({"pid": 1}, 20) != pid


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import nothing_of_that_name", "did not start: .*No module named 'nothing_of_that_name'"),
        ("print('{}', flush=True)\nimport time\ntime.sleep(100)", "began with {}"),
    ],
)
def test_one_that_cannot_start_is_no_candidates_fault(opened: Opener, script: str, message: str) -> None:
    worker = opened(script)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=message):
            worker.call({}, 20)


def test_what_it_started_goes_with_it(opened: Opener) -> None:
    worker = opened()
    child = worker.call({"start": ["sleep", "100"]}, 20)
    assert is_running(child)
    worker.close()
    assert eventually(lambda: not is_running(child))


def test_pauses_do_not_count(opened: Opener) -> None:
    worker = opened()
    worker.call({}, 20)
    with ThreadPoolExecutor(1) as pool:
        worker.pause()
        worker.pause()  # once is enough
        answer = pool.submit(worker.call, {"n": 1}, 1.0)
        time.sleep(1.5)
        assert not answer.done()
        worker.resume()
        assert answer.result(20) == {"n": 1}
    worker.resume()


def test_what_it_started_ends_by_itself_though_nobody_ends_the_pause(opened: Opener) -> None:
    worker = opened()
    child = worker.call({"start": ["sleep", "0.2"]}, 20)
    worker.pause()
    assert eventually(lambda: not is_running(child))


def test_one_started_during_a_pause_waits(opened: Opener) -> None:
    worker = opened()
    worker.pause()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(worker.call, {"n": 1}, 20)
        time.sleep(0.3)
        assert not answer.done()
        worker.resume()
        assert answer.result(20) == {"n": 1}


def test_closing_ends_a_call_under_way(opened: Opener) -> None:
    worker = opened()
    pid = worker.call({"pid": 1}, 20)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(worker.call, {"sleep": 100}, 100)
        time.sleep(0.1)
        worker.close()
        with pytest.raises((WorkerError, RuntimeError)):
            answer.result(20)
    assert not is_running(pid)
    with pytest.raises(RuntimeError, match="closed"):
        worker.call({}, 1)
    worker.close()


def test_a_process_that_closes_its_output_but_does_not_end(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tensorc.search.worker._END_LIMIT", 0.1)
    with pytest.raises(WorkerError, match="killed by SIGKILL"):
        opened().call({"close_output": True}, 20)


def test_requests_from_many_threads(opened: Opener) -> None:
    worker = opened()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda n: worker.call({"n": n}, 20)["n"], range(50))) == list(range(50))


def test_it_stays_on_its_processors_and_alone(opened: Opener) -> None:
    cpu = max(os.sched_getaffinity(0))
    worker = opened(cpus=[cpu], environment={"OF_MINE": "1"})
    assert worker.call({"cpus": 1}, 20) == [cpu]
    assert [worker.call({"environment": name}, 20) for name in ("OF_MINE", "OPENBLAS_NUM_THREADS")] == ["1", "1"]


def test_it_does_not_outlive_whoever_started_it() -> None:
    source = f"""
import sys, time
from tensorc.search.worker import Worker
worker = Worker([sys.executable, "-I", "-c", {SCRIPT!r}])
print(worker.call({{"pid": 1}}, 20), flush=True)
time.sleep(100)
"""
    parent = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert is_running(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert eventually(lambda: not is_running(pid))


def test_the_parents_other_threads_may_pause_while_it_starts(opened: Opener) -> None:
    worker = opened()
    stop = threading.Event()

    def meddle() -> None:
        while not stop.is_set():
            worker.pause()
            worker.resume()

    thread = threading.Thread(target=meddle)
    thread.start()
    try:
        for _ in range(5):
            with pytest.raises(WorkerError, match="SIGKILL"):
                worker.call({"die": 9}, 20)
        assert worker.call({"n": 2}, 20) == {"n": 2}
    finally:
        stop.set()
        thread.join()
