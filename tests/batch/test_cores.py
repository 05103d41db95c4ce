"""Cores are one process's at a time, and free again when it ends, however it ends."""

import os
import subprocess
import sys
import tempfile

import pytest

from tensorc.batch.cores import claimed
from tensorc.errors import UserError

HOLDER = """
import sys
from tensorc.batch.cores import claimed
with claimed([int(sys.argv[1])], 1) as mine:
    print(*mine, flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def _own_locks(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_a_core_is_taken_until_its_holder_dies():
    cores = sorted(os.sched_getaffinity(0))
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(cores[0])], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert holder.stdout.readline().split() == [str(cores[0])]
    with pytest.raises(UserError, match=rf"no {len(cores)} of {len(cores)} cores were free within 0.2 s"):
        claimed(cores, len(cores), patience=0.2).__enter__()
    assert os.sched_getaffinity(0) == set(cores)
    holder.kill()
    holder.communicate()
    with claimed(cores, 1) as mine:
        assert mine == os.sched_getaffinity(0) == {cores[0]}
    assert os.sched_getaffinity(0) == set(cores)


def test_more_cores_than_there_are():
    with pytest.raises(UserError, match="there are 1 cores to measure on, not 2"):
        claimed([0], 2).__enter__()
