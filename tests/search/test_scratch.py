"""Folders of owners that were killed are removed; those of owners that live are not."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tensorc.search.scratch import ScratchFolder


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def aged(folder: str | Path) -> Path:
    os.utime(folder, (0, 0))
    return Path(folder)


def test_a_killed_owners_folder_goes():
    code = "from tensorc.search.scratch import ScratchFolder; print(ScratchFolder('x-').name, flush=True); input()"
    owner = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    folder = aged(owner.stdout.readline().strip())
    (folder / "data").write_text("much")
    aged(folder)
    ScratchFolder("x-").cleanup()
    assert folder.exists(), "its owner lives"
    owner.kill()
    owner.communicate()
    ScratchFolder("y-").cleanup()
    assert folder.exists(), "of another kind"
    ScratchFolder("x-").cleanup()
    assert not folder.exists()


def test_young_folders_and_folders_without_a_lock_stay(tmp_path):
    young, strange = tmp_path / "x-young", aged(tempfile.mkdtemp(prefix="x-"))
    young.mkdir()
    (young / "owner").touch()
    mine = ScratchFolder("x-")
    assert young.exists()
    assert strange.exists()
    mine.cleanup()
    mine.cleanup()
    assert not Path(mine.name).exists()
