"""A worker process that may die: JSON lines in, JSON lines out, a limit on the time of each answer.

Candidates are compiled and run in such processes. One that crashes, hangs or is killed is reported, and the next
request starts a new one. When it is ready to be asked, a worker says so by a first line, `{"ready": true}`. It ends
when its standard input does, so that it does not outlive whoever started it.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import IO, Any

#: Idle threads of these libraries spin, which takes time from what is measured; a worker has one core anyway.
SINGLE_THREADED = dict.fromkeys(
    ("MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TVM_NUM_THREADS"), "1"
)
#: Seconds to import everything, on a busy machine with a cold disk.
_START_LIMIT = 120.0
#: Seconds from the end of a process's output to its own.
_END_LIMIT = 5.0
_MOST_WORDS = 300


class WorkerError(Exception):
    """The worker gave no answer. `failure` is "crash" or "timeout"."""

    def __init__(self, failure: str, detail: str):
        super().__init__(detail)
        self.failure = failure
        self.detail = detail


class Worker:
    """Runs `command` when first asked, and again after it has died; one request at a time, from any thread.

    `cpus` are the processors that it may use, all of its parent's if empty; `start_limit` is the seconds until it must
    be ready.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None,
                 cpus: Collection[int] = (), start_limit: float = _START_LIMIT):  # fmt: skip
        self.command = list(command)
        self.start_limit = start_limit
        self.environment = {**os.environ, **SINGLE_THREADED, **(environment or {})}
        self.cpus = frozenset(cpus)
        self._asking = threading.Lock()
        #: Held while the fields below are changed, never while waiting.
        self._state = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._paused_at: float | None = None
        self._paused_before = 0.0
        self._closed = False
        self._errors: IO[bytes] | None = None
        self._buffer = b""

    def call(self, request: Mapping[str, Any], limit: float) -> Any:
        """The answer to `request`, within `limit` seconds, pauses not counted.

        Raises WorkerError when there is none, RuntimeError when the worker cannot even be started.
        """
        with self._asking:
            process = self._running()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
            except (BrokenPipeError, ConnectionResetError):
                pass  # it is dead, as reading will show
            return self._answer(process, limit)

    def pause(self) -> None:
        """Stop the process where it is until `resume`.

        What it started goes on, a linker's tenth of a second: were the caller killed during the pause, nobody would
        be left to wake it up.
        """
        with self._state:
            if self._paused_at is None:
                self._paused_at = time.monotonic()
                self._signal(signal.SIGSTOP, os.kill)

    def resume(self) -> None:
        with self._state:
            if self._paused_at is not None:
                self._paused_before += time.monotonic() - self._paused_at
                self._paused_at = None
                self._signal(signal.SIGCONT, os.kill)

    def close(self) -> None:
        """Kill the process. Who waits for an answer gets a WorkerError; who asks later, a RuntimeError."""
        with self._state:
            self._closed = True
            self._signal(signal.SIGKILL, os.killpg)
        with self._asking:
            self._stop()

    # ------------------------------------------------------------------------------------------------------

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._stop()
        self._buffer = b""
        with self._state:
            if self._closed:
                raise RuntimeError("the worker is closed")
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `_stop`)
            process = self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=self.environment,
                # A group of its own, to be killed as one; and Ctrl-C is the parent's to deal with.
                start_new_session=True,
            )
            if self.cpus:
                os.sched_setaffinity(process.pid, self.cpus)
            if self._paused_at is not None:
                self._signal(signal.SIGSTOP, os.kill)
        try:
            ready = self._answer(process, self.start_limit)
        except WorkerError as error:
            raise RuntimeError(f"the worker {' '.join(self.command)} did not start: {error}") from error
        if ready != {"ready": True}:
            self._stop()
            raise RuntimeError(f"the worker {' '.join(self.command)} began with {ready!r:.100}")
        return process

    def _answer(self, process: subprocess.Popen[bytes], limit: float) -> Any:
        line = self._line(process, limit)
        if line:
            try:
                return json.loads(line)
            except ValueError:
                self._stop()
                raise WorkerError("crash", f"answered {line!r:.100}") from None
        if line is None:
            self._stop()
            raise WorkerError("timeout", f"no answer within {limit:g} s")
        _await_end(process)
        words = self._last_words()
        self._stop()
        reason = _reason(process.returncode)
        raise WorkerError("crash", f"{reason}: {words}" if words else reason)

    def _line(self, process: subprocess.Popen[bytes], limit: float) -> bytes | None:
        """One line; b"" at the end of the stream, None when time is up."""
        assert process.stdout is not None
        begun, paused = time.monotonic(), self._paused()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = limit + self._paused() - paused - (time.monotonic() - begun)
                if left <= 0:
                    return None
                if selector.select(left):
                    chunk = os.read(process.stdout.fileno(), 1 << 16)
                    if not chunk:
                        return b""
                    self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _paused(self) -> float:
        """Seconds of pauses so far."""
        with self._state:
            return self._paused_before + (0 if self._paused_at is None else time.monotonic() - self._paused_at)

    def _signal(self, number: signal.Signals, send: Callable[[int, int], None]) -> None:
        """To the process (`os.kill`) or all of its group (`os.killpg`); to be called with `_state` held."""
        process = self._process
        if process is not None and process.returncode is None:  # not yet waited for: the number is still its own
            send(process.pid, number)

    def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        with self._state:
            self._signal(signal.SIGKILL, os.killpg)
            self._process = None
        process.wait()
        for stream in (process.stdin, process.stdout, self._errors):
            if stream is not None:
                # What could not be written any more goes with it.
                try:
                    stream.close()
                except BrokenPipeError:
                    continue

    def _last_words(self) -> str:
        """The last line on standard error."""
        assert self._errors is not None
        end = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(end - 4096, 0))
        lines = self._errors.read().decode(errors="replace").split("\n")
        return next((line.strip()[:_MOST_WORDS] for line in reversed(lines) if line.strip()), "")


def _await_end(process: subprocess.Popen[bytes]) -> None:
    """Wait for it to end, not for long, without taking note: its number stays its group's until that is killed."""
    deadline = time.monotonic() + _END_LIMIT
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
            return
        time.sleep(0.001)


def _reason(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
