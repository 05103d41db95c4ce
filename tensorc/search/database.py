"""The tuning database: what was ever measured, in one SQLite file that any number of runs share.

A measurement costs a build and a run, so it is made once: `get` and `records` spare a later run its trials, `best`
spares it the search, and `similar` lends a new workload what was learned of others. Several processes and threads
may read and write at once. A writer that is killed loses nothing that `add` returned from and leaves no part of what
it did not; only a power cut can take back the last moments, since nothing is forced to disk. The file must lie on a
disk of this machine, because the write-ahead log is shared through memory: between machines, records travel as JSON
lines (`export`, `load`).

A body is kept once for each key, since the key already stands for it.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO, TypeVar

from tensorc.environment import data_folder
from tensorc.errors import UserError
from tensorc.runtime.artifact import replaced_file
from tensorc.search.records import Key, Record, identity_of
from tensorc.search.space import ScheduleJson

SCHEMA_VERSION = 1
#: "tune" in ASCII: marks an SQLite file as ours.
APPLICATION_ID = 0x74756E65

_MEMORY = Path(":memory:")
#: Seconds to wait for other writers, each of which holds the file for milliseconds.
_PATIENCE = 60.0
#: Records read, or loaded, at a time: no reader holds back others for longer than that takes.
_PAGE = 500
_MOST_WARNINGS = 100

#: `median` is in seconds, null for failures; `seconds` is a JSON list.
_SCHEMA = (
    """CREATE TABLE keys (
        id INTEGER PRIMARY KEY, workload TEXT NOT NULL, target TEXT NOT NULL, compiler TEXT NOT NULL,
        threads INTEGER NOT NULL, body TEXT NOT NULL, UNIQUE (workload, target, compiler, threads))""",
    """CREATE TABLE records (
        id INTEGER PRIMARY KEY, key INTEGER NOT NULL REFERENCES keys (id), schedule TEXT NOT NULL,
        seconds TEXT NOT NULL, median REAL, failure TEXT NOT NULL, detail TEXT NOT NULL, created REAL NOT NULL,
        UNIQUE (key, schedule))""",
    "CREATE INDEX fastest ON records (key, median) WHERE median IS NOT NULL",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_OF_KEY = "workload = ? AND target = ? AND compiler = ? AND threads = ?"
_COLUMNS = "schedule, seconds, failure, detail, body, created"
_JOINED = f"SELECT {_COLUMNS} FROM keys JOIN records ON records.key = keys.id"

T = TypeVar("T")
_Row = tuple[Any, ...]


@dataclass(frozen=True)
class ImportSummary:
    """How many records `load` met: those that told something new, those that did not, and the lines that hold none.

    `warnings` name the lines by number; a file that is no export at all gets its first hundred only.
    """

    added: int = 0
    known: int = 0
    skipped: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Foreign:
    """Records of some workloads that do not count, being of other machines or of other versions of the compiler."""

    targets: Mapping[str, int]
    compilers: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(sum(counts.values()) for counts in (self.targets, self.compilers))

    def __str__(self) -> str:
        """One line, fit for a warning."""
        reasons = [f"{count} of {name}" for name, count in self.targets.items()]
        reasons += [f"{count} by {version}" for version, count in self.compilers.items()]
        return f"{self.total} tuning records are not used here: {', '.join(reasons) or 'none'}"


def default_path() -> Path:
    """`tuning.db` in the user's data folder."""
    return data_folder() / "tuning.db"


class Database:
    """Records in the file at `path`, which is made by the first write; without a path, at `default_path()`.

    Threads may share one object; a process that was forked makes its own. Every method raises UserError, naming the
    file, where it cannot be read or written, is damaged, or is another program's or another version's.
    """

    def __init__(self, path: Path | None = None):
        self.path = default_path() if path is None else path
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None

    @classmethod
    def memory(cls) -> Self:
        """A database that lives as long as the object."""
        return cls(_MEMORY)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; later calls open it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    # Records --------------------------------------------------------------------------------------------

    def add(self, records: Iterable[Record]) -> int:
        """Keep `records`, all or none of them, merged with what is known (`Record.merged`).

        Returns how many told something new. They are safe once this returns.
        """
        batch = list(records)
        if not batch:
            return 0

        def write(connection: sqlite3.Connection) -> int:
            with _transaction(connection):
                return self._checked(lambda: sum([_store(connection, record) for record in batch]))

        return self._write(write)

    def get(self, key: Key, schedule: ScheduleJson) -> Record | None:
        """What is known of one candidate."""
        return self._one(key, f"{_JOINED} WHERE {_OF_KEY} AND schedule = ?", (*_parts(key), identity_of(schedule)))

    def best(self, key: Key) -> Record | None:
        """The candidate with the shortest median, the first measured of equals; None where none succeeded."""
        return self._one(key, f"{_JOINED} WHERE {_OF_KEY} AND median IS NOT NULL ORDER BY median LIMIT 1", _parts(key))

    def records(self, key: Key | None = None, *, workload: str | None = None, target: str | None = None,
                compiler: str | None = None, threads: int | None = None) -> Iterator[Record]:  # fmt: skip
        """Records of one key, or those that agree with all that is given, ordered by key and schedule.

        They are read a page at a time: what is written meanwhile may or may not be among them.
        """
        wanted = _parts(key) if key is not None else (workload, target, compiler, threads)
        for number, found in self._keys(wanted):
            after = ""
            while page := self._page(number, after):
                for row in page:
                    yield self._record(found, row)
                after = page[-1][0]

    def similar(self, key: Key) -> Iterator[tuple[str, str]]:
        """Other workloads measured on the same target by the same compiler and number of threads, each with its body.

        What makes one of them alike is the caller's to say. `records(replace(key, workload=...))` gives its records.
        """
        query = (
            "SELECT workload, body FROM keys WHERE target = ? AND compiler = ? AND threads = ? "
            "AND workload > ? AND workload != ? AND body != '' ORDER BY workload LIMIT ?"
        )
        after = ""
        while page := self._rows(query, (key.target, key.compiler, key.threads, after, key.workload, _PAGE)):
            yield from ((workload, body) for workload, body in page)
            after = page[-1][0]

    def count(self) -> int:
        rows = self._rows("SELECT COUNT(*) FROM records")
        return int(rows[0][0]) if rows else 0

    def foreign(self, workloads: Iterable[str], target: str, compiler: str) -> Foreign:
        """Records of `workloads` that a run of these never meets, so that it can say so once."""
        query = (
            "SELECT target, compiler, COUNT(*) FROM records JOIN keys ON keys.id = records.key "
            "WHERE workload IN (SELECT value FROM json_each(?)) GROUP BY 1, 2 ORDER BY 1, 2"
        )
        targets, compilers = Counter[str](), Counter[str]()
        for row_target, row_compiler, count in self._rows(query, (json.dumps(list(workloads)),)):
            if row_target != target:
                targets[row_target] += count
            elif row_compiler != compiler:
                compilers[row_compiler] += count
        return Foreign(targets, compilers)

    # Exchange -------------------------------------------------------------------------------------------

    def export(self, destination: str | Path | TextIO) -> int:
        """Write all records as JSON lines, in an order that does not depend on when they came; how many there were.

        A file appears whole or not at all.
        """
        if isinstance(destination, str | Path):
            with replaced_file(Path(destination)) as file:
                return sum(file.write(f"{record.to_line()}\n".encode()) > 0 for record in self.records())
        return sum(destination.write(f"{record.to_line()}\n") > 0 for record in self.records())

    def load(self, source: str | Path | Iterable[str]) -> ImportSummary:
        """Add the records of a file or stream of JSON lines. A line that holds none is skipped with a warning."""
        if not isinstance(source, str | Path):
            return self._load(source)
        try:
            with Path(source).open("rb") as file:
                return self._load(file)
        except OSError as error:
            raise UserError(f"cannot read {source}: {error.strerror}") from error

    def _load(self, lines: Iterable[str | bytes]) -> ImportSummary:
        added = known = skipped = 0
        warnings = []
        numbered = iter(enumerate(lines, 1))
        while page := list(islice(numbered, _PAGE)):
            records = []
            for number, line in page:
                if not line.strip():
                    continue
                try:
                    records.append(Record.from_line(line))
                except UserError as error:
                    skipped += 1
                    if skipped <= _MOST_WARNINGS:
                        warnings.append(f"line {number}: {error}")
            news = self.add(records)
            added, known = added + news, known + len(records) - news
        if skipped > _MOST_WARNINGS:
            warnings.append(f"and {skipped - _MOST_WARNINGS} more lines that hold no tuning record")
        return ImportSummary(added, known, skipped, tuple(warnings))

    # Queries --------------------------------------------------------------------------------------------

    def _keys(self, wanted: tuple[str | int | None, ...]) -> list[tuple[int, Key]]:
        columns = ("workload", "target", "compiler", "threads")
        given = [(name, value) for name, value in zip(columns, wanted, strict=True) if value is not None]
        condition = " AND ".join(f"{name} = ?" for name, _ in given) or "1"
        rows = self._rows(
            f"SELECT id, {', '.join(columns)} FROM keys WHERE {condition} ORDER BY {', '.join(columns)}",
            tuple(value for _, value in given),
        )
        return [(row[0], self._checked(partial(Key, *row[1:]))) for row in rows]

    def _page(self, key: int, after: str) -> list[_Row]:
        query = f"{_JOINED} WHERE keys.id = ? AND schedule > ? ORDER BY schedule LIMIT ?"
        return self._rows(query, (key, after, _PAGE))

    def _one(self, key: Key, query: str, arguments: _Row) -> Record | None:
        rows = self._rows(query, arguments)
        return self._record(key, rows[0]) if rows else None

    def _record(self, key: Key, row: _Row) -> Record:
        return self._checked(partial(_record_of, key, row))

    def _rows(self, query: str, arguments: _Row = ()) -> list[_Row]:
        """All rows; none where there is no file yet."""

        def read(connection: sqlite3.Connection | None) -> list[_Row]:
            return [] if connection is None else connection.execute(query, arguments).fetchall()

        return self._patiently("read", lambda: read(self._opened(write=False)))

    def _write(self, action: Callable[[sqlite3.Connection], T]) -> T:
        def write() -> T:
            connection = self._opened(write=True)
            assert connection is not None
            return action(connection)

        return self._patiently("write", write)

    def _checked(self, make: Callable[[], T]) -> T:
        """What `make` gives; where it cannot be made of what the file holds, the file is damaged."""
        try:
            return make()
        except (TypeError, ValueError) as error:
            raise self._damaged(error) from error

    # The file -------------------------------------------------------------------------------------------

    def _patiently(self, verb: str, action: Callable[[], T]) -> T:
        """`action`, again while other processes are in its way (SQLite itself does not wait in every such case)."""
        deadline = time.monotonic() + _PATIENCE
        with self._lock:
            while True:
                try:
                    return action()
                except sqlite3.DatabaseError as error:
                    busy = _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
                    if not busy or time.monotonic() >= deadline:
                        raise self._explained(verb, error) from error
                    time.sleep(0.01)
                except (UnicodeDecodeError, MemoryError) as error:
                    # What SQLite's messages quote of a damaged file may be no text, and the sizes it finds there huge.
                    raise self._damaged(error) from error

    def _explained(self, verb: str, error: sqlite3.DatabaseError) -> UserError:
        match _code(error):
            case sqlite3.SQLITE_NOTADB:
                return self._not_ours()
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return UserError(f"cannot {verb} {self.path}: another process has kept it locked for {_PATIENCE:g} s")
            case (
                sqlite3.SQLITE_READONLY
                | sqlite3.SQLITE_CANTOPEN
                | sqlite3.SQLITE_PERM
                | sqlite3.SQLITE_FULL
                | sqlite3.SQLITE_IOERR
            ):
                return UserError(f"cannot {verb} {self.path}: {error}")
            case _:
                return self._damaged(error)

    def _damaged(self, error: Exception) -> UserError:
        reason = " ".join(str(error).split())[:200] or "out of memory"
        return UserError(f"{self.path} is damaged ({reason}): move it away, then load an export of it if there is one")

    def _not_ours(self) -> UserError:
        return UserError(f"{self.path} is not a tuning database: name another file")

    def _opened(self, *, write: bool) -> sqlite3.Connection | None:
        """The connection to a file that has tables; None where there is no such file yet and `write` is false."""
        if self._connection is not None:
            return self._connection
        connection = self._connected(write)
        if connection is None:
            return None
        try:
            ready = self._prepared(connection, write)
        except sqlite3.DatabaseError as error:
            if _code(error) not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN) or not self.path.exists():
                raise
            connection = self._frozen()
            ready = self._prepared(connection, write=False)
        if not (ready or write):
            connection.close()
            return None
        self._connection = connection
        return connection

    def _connected(self, write: bool) -> sqlite3.Connection | None:
        if self.path == _MEMORY:
            return _connect(":memory:")
        try:
            if not write and not self.path.exists():
                return None
            if self.path.is_dir():
                raise UserError(f"{self.path} is a directory, not a tuning database: name a file")
            if write:
                self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot {'write' if write else 'read'} {self.path}: {error.strerror}") from error
        return _connect(f"{self.path.absolute().as_uri()}?mode={'rwc' if write else 'rw'}")

    def _frozen(self) -> sqlite3.Connection:
        """A connection to a file in a place where nothing can be written, not even the log that readers share."""
        log = self.path.with_name(f"{self.path.name}-wal")
        if log.exists() and log.stat().st_size:
            raise UserError(
                f"cannot read {self.path}: part of it is still in {log.name}, which takes a writable folder to join; "
                "copy both files to one"
            )
        return _connect(f"{self.path.absolute().as_uri()}?mode=ro&immutable=1")

    def _prepared(self, connection: sqlite3.Connection, write: bool) -> bool:
        """Whether the file has tables, which are made for a writer; `connection` is closed where this raises."""
        try:
            # A killed process loses nothing even so; only a power cut may.
            connection.execute("PRAGMA synchronous = NORMAL")
            ready = self._is_ready(connection)
            if write and not ready:
                self._make_tables(connection)
            return ready or write
        except BaseException:
            connection.close()
            raise

    def _is_ready(self, connection: sqlite3.Connection) -> bool:
        """Whether the tables are there: a writer may have been killed before it made them."""
        with _transaction(connection, "DEFERRED"):
            tables, version, application = (
                connection.execute(query).fetchone()[0]
                for query in ("SELECT COUNT(*) FROM sqlite_master", "PRAGMA user_version", "PRAGMA application_id")
            )
        if not tables and version == 0 and application in (0, APPLICATION_ID):
            return False
        if application != APPLICATION_ID:
            raise self._not_ours()
        if version != SCHEMA_VERSION:
            age = "a newer" if version > SCHEMA_VERSION else "an older"
            raise UserError(
                f"{self.path} is a tuning database of {age} tensorc (schema {version}, here {SCHEMA_VERSION}): "
                "export it with that one and load it into a new file"
            )
        return True

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL").fetchone()
        with _transaction(connection):
            if connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0] == 0:
                for statement in _SCHEMA:
                    connection.execute(statement)


def _connect(address: str) -> sqlite3.Connection:
    return sqlite3.connect(address, uri=True, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)


@contextmanager
def _transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _code(error: sqlite3.DatabaseError) -> int:
    """SQLite's primary error code; 0 for what Python's module found by itself, such as text that is not UTF-8."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _parts(key: Key) -> tuple[str, str, str, int]:
    return key.workload, key.target, key.compiler, key.threads


def _record_of(key: Key, row: _Row) -> Record:
    schedule, seconds, failure, detail, body, created = row
    return Record(key, json.loads(schedule), tuple(json.loads(seconds)), failure, detail, body, created)


def _store(connection: sqlite3.Connection, record: Record) -> bool:
    """Insert a record or merge it into the one of the same candidate; whether it told anything new."""
    parts = _parts(record.key)
    found = connection.execute(f"SELECT id, body FROM keys WHERE {_OF_KEY}", parts).fetchone()
    if found is None:
        number = connection.execute(
            "INSERT INTO keys (workload, target, compiler, threads, body) VALUES (?, ?, ?, ?, ?)", (*parts, record.body)
        ).lastrowid
    else:
        number, body = found
        if record.body and not body:
            connection.execute("UPDATE keys SET body = ? WHERE id = ?", (record.body, number))
    row = connection.execute(f"{_JOINED} WHERE keys.id = ? AND schedule = ?", (number, record.identity)).fetchone()
    known = None
    if row is not None:
        known = _record_of(record.key, row)
        record = known.merged(record)
        if record == known and record.created == known.created:
            return False
    # What a candidate printed before it crashed may be no text at all.
    detail = record.detail.encode("utf-8", "backslashreplace").decode()
    times = json.dumps(record.seconds), record.median if record.ok else None
    connection.execute(
        "INSERT INTO records (key, schedule, seconds, median, failure, detail, created) VALUES (?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (key, schedule) DO UPDATE SET seconds = excluded.seconds, median = excluded.median, "
        "failure = excluded.failure, detail = excluded.detail, created = excluded.created",
        (number, record.identity, *times, record.failure, detail, record.created),
    )
    return record != known
