"""The tuning database: what was added is found, by whatever process, whoever is killed and whatever file is given."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tensorc.errors import UserError
from tensorc.search import database as module
from tensorc.search.database import APPLICATION_ID, SCHEMA_VERSION, Database, ImportSummary, default_path
from tensorc.search.records import FAILURES, Key, Record

KEY = Key("ab" * 16, "cpu-znver5", "0.1.0", 1)
BODY = "graph workload() {}"

on_files = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
schedules = st.dictionaries(texts, st.integers(-(2**70), 2**70) | st.booleans() | texts | st.lists(texts), max_size=3)
times = st.lists(st.floats(0, 1e6, exclude_min=True), min_size=1, max_size=5).map(sorted).map(tuple)
#: Few keys, so that records meet; a body follows from its workload.
keys = st.builds(Key, st.sampled_from(["", "a", "ß\0'"]), texts, st.sampled_from(["1", "2"]), st.integers(1, 2**31 - 1))


@st.composite
def records(draw: st.DrawFn) -> Record:
    key = draw(keys)
    body = f"body of {key.workload}"
    created = draw(st.floats(0, 1e10))
    if draw(st.booleans()):
        return Record(key, draw(schedules), draw(times), body=body, created=created)
    return Record(
        key, draw(schedules), failure=draw(st.sampled_from(FAILURES)), detail=draw(texts), body=body, created=created
    )


def record(number: int, key: Key = KEY, seconds: float = 1.0) -> Record:
    return Record(key, {"kind": "conv", "columns": number}, (seconds, seconds * 2), body=BODY, created=100.0)


def failed(number: int) -> Record:
    return Record(KEY, {"kind": "conv", "columns": number}, failure="crash", detail="signal 11", body=BODY)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tuning.db"


@pytest.fixture(params=["file", "memory"])
def database(request: pytest.FixtureRequest, path: Path) -> Iterator[Database]:
    with Database(path) if request.param == "file" else Database.memory() as opened:
        yield opened


def integrity(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])


# What was added is found ----------------------------------------------------------------------------------------


def test_an_empty_database_knows_nothing(database: Database) -> None:
    assert database.get(KEY, {}) is None
    assert database.best(KEY) is None
    assert list(database.records()) == list(database.similar(KEY)) == []
    assert database.count() == 0
    assert database.foreign(["w"], "cpu", "1").total == 0
    assert database.export(io.StringIO()) == 0


def test_get(database: Database) -> None:
    assert database.add([record(1), failed(2)]) == 2
    found = database.get(KEY, {"columns": 1, "kind": "conv"})
    assert found == record(1)
    assert found is not None
    assert found.created == 100.0
    assert database.get(KEY, failed(2).schedule) == failed(2)
    assert database.get(KEY, {"kind": "conv"}) is None
    assert database.get(replace(KEY, threads=2), record(1).schedule) is None


def test_best_is_the_shortest_median(database: Database) -> None:
    lucky = Record(KEY, {"columns": 9}, (0.1, 9.0, 9.0), body=BODY)
    database.add([record(1, seconds=3.0), failed(2), lucky, record(3, seconds=2.0), record(4, seconds=2.0)])
    assert database.best(KEY) == record(3, seconds=2.0), "the first of equals"
    database.add([record(1, seconds=1.5)])
    assert database.best(KEY) == replace(record(1), seconds=(1.5, 3.0, 6.0)), "merged times decide"


def test_best_of_failures_is_none(database: Database) -> None:
    database.add([failed(1)])
    assert database.best(KEY) is None


def test_a_success_replaces_a_failure_and_not_the_other_way(database: Database) -> None:
    assert database.add([failed(1)]) == 1
    assert database.add([record(1)]) == 1
    assert database.add([failed(1)]) == 0
    assert database.get(KEY, record(1).schedule) == record(1)
    assert database.count() == 1


def test_times_of_two_successes_are_merged(database: Database) -> None:
    database.add([record(1, seconds=1.0), record(1, seconds=1.5)])
    assert database.get(KEY, record(1).schedule) == replace(record(1), seconds=(1.0, 1.5, 2.0, 3.0))
    assert database.add([record(1, seconds=1.0)]) == 0, "met twice, measured once"


def test_a_body_that_came_late_is_kept(database: Database) -> None:
    database.add([replace(record(1), body="")])
    assert list(database.similar(replace(KEY, workload="other"))) == []
    database.add([record(2)])
    assert [found.body for found in database.records(KEY)] == [BODY, BODY]


def test_what_a_candidate_printed_may_be_no_text(database: Database) -> None:
    database.add([replace(failed(1), detail="bad \udc80 byte")])
    found = database.get(KEY, failed(1).schedule)
    assert found is not None
    assert found.detail == "bad \\udc80 byte"


def test_records_by_what_they_are_of(database: Database) -> None:
    others = [
        replace(KEY, workload="w"),
        replace(KEY, target="gpu"),
        replace(KEY, compiler="2"),
        replace(KEY, threads=2),
    ]
    database.add([record(number, key) for key in (KEY, *others) for number in (1, 2)])
    assert len(list(database.records())) == database.count() == 10
    assert list(database.records(KEY)) == [record(1), record(2)]
    assert {found.key for found in database.records(workload=KEY.workload)} == {KEY, *others[1:]}
    assert {found.key for found in database.records(target="gpu")} == {others[1]}
    assert {found.key for found in database.records(compiler="0.1.0", threads=1, target=KEY.target)} == {KEY, others[0]}
    assert list(database.records(workload="unknown")) == []


def test_records_of_many_pages_while_others_are_added(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGE", 7)
    database.add(record(number) for number in range(100))
    seen = []
    for number, found in enumerate(database.records(KEY)):
        seen.append(found.schedule["columns"])
        database.add([record(1000 + number)])
    assert set(range(100)) <= set(seen)
    assert len(seen) == len(set(seen))


def test_similar_gives_other_workloads_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGE", 2)
    alike = [replace(KEY, workload=f"{number}") for number in range(5)]
    unlike = [replace(KEY, workload="6", target="gpu"), replace(KEY, workload="7", compiler="2")]
    unlike += [replace(KEY, workload="8", threads=2)]
    database.add([record(number, key) for key in (KEY, *alike, *unlike) for number in range(3)])
    assert list(database.similar(KEY)) == [(key.workload, BODY) for key in alike]


def test_records_of_another_version_are_kept_and_told(database: Database) -> None:
    old = replace(KEY, compiler="0.0.9")
    database.add([record(1, old, seconds=0.1), record(2, old), record(3)])
    database.add([record(1, replace(KEY, target="gpu")), record(1, replace(KEY, threads=8))])
    database.add([record(1, replace(old, workload="another"))])
    assert database.best(KEY) == record(3)
    assert list(database.records(KEY)) == [record(3)]
    foreign = database.foreign([KEY.workload], KEY.target, KEY.compiler)
    assert (foreign.targets, foreign.compilers, foreign.total) == ({"gpu": 1}, {"0.0.9": 2}, 3)
    assert str(foreign) == "3 tuning records are not used here: 1 of gpu, 2 by 0.0.9"
    assert database.best(old) == record(1, old, seconds=0.1)


@on_files
@given(st.lists(records(), max_size=12))
def test_any_records_come_back(added: list[Record]) -> None:
    expected: dict[tuple[Key, str], Record] = {}
    for one in added:
        place = one.key, one.identity
        expected[place] = expected[place].merged(one) if place in expected else one
    with Database.memory() as first, Database.memory() as second:
        first.add(added)
        assert {(one.key, one.identity): one for one in first.records()} == expected
        for one in expected.values():
            found = first.get(one.key, one.schedule)
            assert found == one
            assert found is not None
            assert found.created == one.created
        for key in {one.key for one in added}:
            good = [one.median for one in expected.values() if one.key == key and one.ok]
            best = first.best(key)
            assert (best.median if best is not None else None) == min(good, default=None)
        lines = io.StringIO()
        assert first.export(lines) == len(expected)
        lines.seek(0)
        assert second.load(lines) == ImportSummary(added=len(expected))
        assert list(second.records()) == list(first.records())


# Files ----------------------------------------------------------------------------------------------------------


def test_only_a_write_makes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "tuning.db"
    with Database(path) as database:
        assert database.best(KEY) is None
        assert database.add([]) == 0
        assert not path.parent.parent.exists()
        database.add([record(1)])
        assert path.exists()
    with Database(path) as database:
        assert list(database.records()) == [record(1)]


def test_a_file_that_comes_later_is_seen(path: Path) -> None:
    with Database(path) as reader, Database(path) as writer:
        assert reader.count() == 0
        writer.add([record(1)])
        assert reader.count() == 1
        writer.add([record(2)])
        assert reader.count() == 2


def test_closing_folds_the_log_into_the_file(path: Path) -> None:
    with Database(path) as database:
        database.add([record(1)])
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert database.count() == 1, "opened again"
    database.close()
    database.close()


def test_odd_names(tmp_path: Path) -> None:
    path = tmp_path / "a?mode=ro&#%41 ü.db"
    with Database(path) as database:
        database.add([record(1)])
        assert database.count() == 1
    assert path.exists()


def test_a_writer_that_was_killed_before_it_made_tables(path: Path) -> None:
    path.touch()
    with Database(path) as database:
        assert database.count() == 0
        assert path.stat().st_size == 0
        database.add([record(1)])
        assert database.count() == 1


def test_default_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_path() == Database().path == tmp_path / "tensorc" / "tuning.db"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_path() == tmp_path / ".local" / "share" / "tensorc" / "tuning.db"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert default_path() == tmp_path / ".local" / "share" / "tensorc" / "tuning.db"


def test_a_failure_met_again_counts_as_the_later_one(database: Database) -> None:
    between = replace(failed(1), failure="timeout", created=50.0)
    assert database.add([failed(1)]) == 1
    assert database.add([replace(failed(1), created=100.0)]) == 0
    assert database.add([between]) == 0
    assert database.get(KEY, between.schedule) == failed(1)


def refused(path: Path, message: str) -> None:
    """Neither reads nor writes touch a file that is not ours."""
    before = path.read_bytes() if path.is_file() else None
    with Database(path) as database:
        for action in (database.count, lambda: database.best(KEY), lambda: database.add([record(1)])):
            with pytest.raises(UserError, match=message) as caught:
                action()
            assert str(path) in str(caught.value)
            assert "\n" not in str(caught.value)
    assert before is None or path.read_bytes() == before


def test_a_file_that_is_no_database(path: Path) -> None:
    path.write_text("model: resnet50\n" * 100)
    refused(path, "is not a tuning database: name another file")


@pytest.mark.parametrize("statement", ["CREATE TABLE songs (name)", "PRAGMA user_version = 1"])
def test_a_database_of_another_program(path: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
    refused(path, "is not a tuning database: name another file")


def test_a_directory(tmp_path: Path) -> None:
    refused(tmp_path, "is a directory, not a tuning database")


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Database(tmp_path / "file" / "tuning.db") as database:
        assert database.count() == 0
        with pytest.raises(UserError, match=r"cannot write .*tuning.db"):
            database.add([record(1)])


@pytest.mark.parametrize(("version", "age"), [(SCHEMA_VERSION + 1, "a newer"), (SCHEMA_VERSION - 1, "an older")])
def test_another_schema(path: Path, version: int, age: str) -> None:
    with Database(path) as database:
        database.add([record(1)])
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    refused(path, f"{age} tensorc .schema {version}, here {SCHEMA_VERSION}.: export it with that one")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "tuning.db"
    with Database(path) as database:
        database.add([record(number, replace(KEY, workload=f"{number % 9}")) for number in range(100)])
    return path.read_bytes()


def failure_of(action: Callable[[], object]) -> str | None:
    try:
        action()
    except UserError as error:
        return str(error)
    return None


@on_files
@given(data=st.data())
def test_a_damaged_file_gives_records_or_a_user_error(tmp_path: Path, sound: bytes, data: st.DataObject) -> None:
    damaged = bytearray(sound)
    start = data.draw(st.integers(0, len(sound) - 1) | st.integers(0, 4096))
    noise = data.draw(st.binary(min_size=1, max_size=64) | st.just(b"\xff" * 20) | st.just(b"\n" * 20))
    damaged[start : start + len(noise)] = noise
    length = data.draw(st.just(len(sound)) | st.integers(0, len(sound)))
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        path = Path(folder) / "tuning.db"
        path.write_bytes(damaged[:length])
        with Database(path) as database:
            actions = (
                lambda: list(database.records()),
                lambda: database.best(replace(KEY, workload="3")),
                lambda: list(database.similar(KEY)),
                lambda: database.foreign(["w"], "cpu", "1"),
                lambda: database.add([record(3), record(3, replace(KEY, workload="3"))]),
            )
            for action in actions:
                message = failure_of(action)
                assert message is None or ("tuning.db" in message and "\n" not in message)


def test_a_row_that_is_no_record(path: Path) -> None:
    with Database(path) as database:
        database.add([record(1)])
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE records SET seconds = '[-1.0]'")
        for action in (lambda: database.best(KEY), lambda: list(database.records()), lambda: database.add([record(1)])):
            with pytest.raises(UserError, match=r"tuning.db is damaged .*: move it away"):
                action()


READ_ONLY = """
import os, sys
from pathlib import Path
from tensorc.errors import UserError
from tensorc.search.database import Database
from tensorc.search.records import Record
folder, line = sys.argv[1:]
if os.geteuid() == 0:  # whom no permission stops
    os.setgid(65534)
    os.setuid(65534)
with Database(Path(folder) / "tuning.db") as database:
    try:
        print(database.count())
        best = database.best(Record.from_line(line).key)
        print(best and best.schedule["columns"])
        database.add([Record.from_line(line)])
    except UserError as error:
        print(error)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that another user reaches, as those of `tmp_path` are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def as_reader(folder: Path) -> list[str]:
    arguments = [sys.executable, "-c", READ_ONLY, str(folder), record(2).to_line()]
    return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("mode", [0o444, 0o666])
def test_a_read_only_place_is_readable(open_folder: Path, mode: int) -> None:
    path = open_folder / "tuning.db"
    with Database(path) as database:
        database.add([record(1)])
    path.chmod(mode)
    open_folder.chmod(0o555)
    assert as_reader(open_folder) == ["1", "1", f"cannot write {path}: attempt to write a readonly database"]


def test_a_read_only_place_where_somebody_else_writes(open_folder: Path) -> None:
    with Database(open_folder / "tuning.db") as database:
        database.add([record(1)])
        for entry in open_folder.iterdir():
            entry.chmod(0o444)
        open_folder.chmod(0o555)
        assert as_reader(open_folder)[0] == "1"


def test_a_read_only_copy_with_a_log_beside_it(open_folder: Path, path: Path) -> None:
    with Database(path) as database:
        database.add([record(1)])
        for name in ("tuning.db", "tuning.db-wal"):
            shutil.copy(path.with_name(name), open_folder / name)
    for entry in open_folder.iterdir():
        entry.chmod(0o444)
    open_folder.chmod(0o555)
    (message,) = as_reader(open_folder)
    assert message.startswith(f"cannot read {open_folder / 'tuning.db'}: part of it is still in tuning.db-wal")


def test_a_read_only_place_with_no_file(open_folder: Path) -> None:
    open_folder.chmod(0o555)
    path = open_folder / "tuning.db"
    assert as_reader(open_folder) == ["0", "None", f"cannot write {path}: unable to open database file"]


def test_a_file_that_stays_locked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    with Database(path) as database:
        database.add([record(1)])
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with Database(path) as writer, pytest.raises(UserError, match=r"has kept it locked for 0\.2 s"):
                writer.add([record(2)])
            assert database.count() == 1, "readers do not wait"
        assert database.add([record(2)]) == 1


# Many at once ---------------------------------------------------------------------------------------------------


def test_threads_share_a_database(database: Database) -> None:
    def work(worker: int) -> None:
        for number in range(20):
            database.add([record(100 * worker + number), record(-1, seconds=1.0 + worker)])
            assert database.best(KEY) is not None

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert database.count() == 161
    shared = database.get(KEY, record(-1).schedule)
    assert shared is not None
    assert set(shared.seconds) == {1.0 + worker for worker in range(8)} | {2.0 + 2 * worker for worker in range(8)}


#: Adds batches of three, the last of them shared by all writers, and tells of each once `add` returned.
WRITER = """
import sys
from pathlib import Path
from tensorc.search.database import Database
from tensorc.search.records import Key, Record
path, writer, batches = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
key = Key("w", "cpu", "1", 1)
print("ready", flush=True)
sys.stdin.readline()
with Database(path) as database:
    for batch in range(batches):
        ours = {"writer": writer, "batch": batch}
        own = [Record(key, {**ours, "part": part}, (1.0,), body="b" * 3000) for part in (0, 1)]
        database.add([*own, Record(key, {"batch": batch}, (1.0 + writer,))])
        print(batch, flush=True)
"""


def start_writer(path: Path, writer: int, batches: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(writer), str(batches)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_two_processes_write_at_once(path: Path) -> None:
    writers = [start_writer(path, number, 150) for number in (0, 1)]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    with Database(path) as reader:
        while any(writer.poll() is None for writer in writers):
            assert sum(1 for _ in reader.records()) <= reader.count()
        for writer in writers:
            writer.communicate()
            assert writer.returncode == 0
        found = {one.identity: one.seconds for one in reader.records()}
    assert len(found) == 2 * 150 * 2 + 150
    assert all(found[json.dumps({"batch": batch}, separators=(",", ":"))] == (1.0, 2.0) for batch in range(150))
    assert integrity(path) == "ok"


def test_a_killed_writer_loses_nothing_it_told_of(path: Path) -> None:
    rng = random.Random(0)
    told: set[tuple[int, int]] = set()
    writers = [start_writer(path, number, 100_000) for number in range(20)]
    for number, writer in enumerate(writers):
        # The first are killed about when they make the tables, with the next one already at work.
        for other in writers[number : number + 2]:
            if other.stdin is not None and not other.stdin.closed:
                other.stdin.write("go\n")
                other.stdin.close()
        time.sleep(rng.uniform(0, 0.15))
        writer.kill()
        assert writer.stdout is not None
        with writer.stdout:
            told.update((number, int(line)) for line in writer.stdout.read().splitlines())
        assert writer.wait() == -9
        assert integrity(path) == "ok" if path.exists() else not told
    with Database(path) as database:
        schedules = [one.schedule for one in database.records()]
    found = {(schedule.get("writer"), schedule["batch"], schedule.get("part")) for schedule in schedules}
    assert len({number for number, _ in told}) >= 5, "killed too early to mean anything"
    own = {(number, batch) for number, batch, part in found if number is not None}
    assert told <= own
    assert {(*one, part) for one in own for part in (0, 1)} <= found, "a batch is there whole"
    assert {(None, batch, None) for _, batch in own} <= found
    # What was not told of is at most the batch under way.
    assert len(own - told) <= 20


# JSON lines -----------------------------------------------------------------------------------------------------


def test_export_and_load_files(database: Database, tmp_path: Path) -> None:
    everything = [record(1), failed(2), record(3, replace(KEY, compiler="0.0.9"))]
    database.add(everything)
    exported = tmp_path / "records.jsonl"
    assert database.export(exported) == 3
    assert [json.loads(line)["key"]["compiler"] for line in exported.read_text().splitlines()] == ["0.0.9"] + [
        "0.1.0"
    ] * 2
    with Database.memory() as other:
        other.add([record(3), failed(1)])
        assert other.load(str(exported)) == ImportSummary(added=3)
        assert other.load(exported) == ImportSummary(known=3)
        assert other.get(KEY, record(1).schedule) == record(1)
        assert other.count() == 4
        again = io.StringIO()
        assert other.export(again) == 4
    assert database.load(again.getvalue().splitlines()) == ImportSummary(added=1, known=3)


def test_an_export_does_not_depend_on_the_order_of_records(tmp_path: Path) -> None:
    everything = [record(number, replace(KEY, threads=threads)) for number in range(20) for threads in (1, 2)]
    for name in ("a", "b"):
        random.Random(name).shuffle(everything)
        with Database.memory() as database:
            database.add(everything)
            database.export(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_broken_lines_are_told_and_skipped(database: Database, tmp_path: Path) -> None:
    lines = [
        record(1).to_line().encode(),
        b"",
        b"\xff\x00 garbage",
        b'{"key": 1}',
        record(2).to_line().encode()[:50],
        record(2).to_line().replace("[1.0,", "[NaN,").encode(),
        record(2).to_line().encode() + b"\r",
        record(2).to_line().encode(),
    ]
    (tmp_path / "lines").write_bytes(b"\n".join(lines))
    summary = database.load(tmp_path / "lines")
    assert (summary.added, summary.known, summary.skipped) == (2, 1, 4)
    assert [warning.partition(": not a tuning record: ")[0] for warning in summary.warnings] == [
        "line 3", "line 4", "line 5", "line 6"
    ]  # fmt: skip
    assert list(database.records()) == [record(1), record(2)]


def test_warnings_are_bounded(path: Path) -> None:
    with Database(path) as database:
        summary = database.load(["garbage\n"] * 1234)
    assert (summary.skipped, len(summary.warnings)) == (1234, 101)
    assert summary.warnings[0] == "line 1: not a tuning record: not JSON"
    assert summary.warnings[-1] == "and 1134 more lines that hold no tuning record"
    assert not path.exists()


@on_files
@given(st.lists(st.binary(max_size=30) | records().map(lambda one: one.to_line().encode())))
def test_any_file_can_be_loaded(tmp_path: Path, lines: list[bytes]) -> None:
    (tmp_path / "lines").write_bytes(b"\n".join(lines))
    with Database.memory() as database:
        summary = database.load(tmp_path / "lines")
        assert summary.skipped == len(summary.warnings)
        assert database.count() <= summary.added
        assert sum(line.startswith(b'{"key"') for line in lines) <= summary.added + summary.known


def test_files_that_cannot_be_exchanged(database: Database, tmp_path: Path) -> None:
    database.add([record(1)])
    with pytest.raises(UserError, match=r"cannot read .*missing"):
        database.load(tmp_path / "missing")
    with pytest.raises(UserError, match="cannot read"):
        database.load(tmp_path)
    with pytest.raises(UserError, match="cannot write"):
        database.export(tmp_path)


def test_the_file_is_marked_as_ours(path: Path) -> None:
    with Database(path) as database:
        database.add([record(1)])
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
