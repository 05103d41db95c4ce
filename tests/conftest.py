"""What every test shares."""

from __future__ import annotations

import os
from typing import Any

import pytest

#: Of tests that were left out here, for want of a GPU.
_LEFT_OUT = pytest.StashKey[int]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are left out where no GPU is, which the summary says."""
    wanting = [item for item in items if item.get_closest_marker("gpu")]
    if not wanting or _finds_gpu():
        return
    items[:] = [item for item in items if item not in wanting]
    config.stash[_LEFT_OUT] = len(wanting)
    config.hook.pytest_deselected(items=wanting)


def _finds_gpu() -> bool:
    from targets.cuda.driver import capability

    return capability() is not None


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist, each of which has collected all tests, tells the process that reports."""
    told = getattr(session.config, "workeroutput", None)
    if told is not None:
        told["left_out"] = session.config.stash.get(_LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    told = getattr(node, "workeroutput", {}).get("left_out", 0)  # nothing by one that crashed
    node.config.stash[_LEFT_OUT] = max(told, node.config.stash.get(_LEFT_OUT, 0))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    count = config.stash.get(_LEFT_OUT, 0)
    if count:
        tests, need = ("test", "it needs") if count == 1 else ("tests", "they need")
        terminalreporter.write_line(f"{count} {tests} left out: {need} a GPU")


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory):
    """Tests, and the processes that they start, neither read nor write what the user has tuned, measured or built."""
    before = {name: os.environ.get(name) for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME")}
    os.environ.update({name: str(tmp_path_factory.mktemp(name.lower())) for name in before})
    yield
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
