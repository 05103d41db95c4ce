"""The benchmark of memory planners: plans and reports as promised, bad files in one line."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import memory_plan
from benchmarks.memory_problems import tiling
from passes.memory import check, minimalloc
from passes.memory.portfolio import solve

HEAD = "id,lower,upper,size\n"
BAD = {
    "name.csv": (HEAD, "must give the capacity"),
    "name.x.csv": (HEAD, "must give the capacity"),
    "a.5.csv": ("id,lower,upper\n", "must name the columns"),
    "b.5.csv": ("id,lower,upper,size,colour\n", "must name the columns"),
    "c.5.csv": (HEAD + "0,1,2\n", "line 2: 3 fields for 4 columns"),
    "d.5.csv": (HEAD + "0,0,1,1\n1,1,2,x\n", "line 3: the size 'x' is not a whole number"),
    "e.5.csv": (HEAD + "0,2,2,1\n", "line 2: a buffer's lifetime"),
    "f.5.csv": (HEAD + "0,1,2,-4\n", "must be 1 or more"),
    "g.5.csv": (HEAD + f"0,1,2,{10**30}\n", "too large"),
    "h.5.csv": ("", "must name the columns"),
    "i.5.csv": ("\udcff", "cannot read"),
}


@pytest.mark.parametrize("name", [*BAD, "absent.5.csv"])
def test_bad_files_are_named_in_one_line(tmp_path, capsys, name):
    text, message = BAD.get(name, ("", "cannot read"))
    if name in BAD:
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert memory_plan.main([str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert name in err
    assert message in err


def test_the_benchmark_writes_plans_and_a_report(tmp_path, capsys):
    problem = tiling(0, 40)
    fits, tight = tmp_path / "fits.64.csv", tmp_path / "tight.63.csv"
    for path in (fits, tight):
        minimalloc.write(path, [str(i) for i in range(40)], problem)
    arguments = ["--json", str(tmp_path / "out.json"), "--plans", str(tmp_path / "plans")]
    assert memory_plan.main([str(fits), *arguments]) == 0
    with (tmp_path / "plans" / "fits.64.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert check.faults(problem, [int(row["offset"]) for row in rows]) == []
    (row,) = json.loads((tmp_path / "out.json").read_text())["plans"]
    assert (row["status"], row["height"], row["lower_bound"], row["gap"]) == ("solved", 64, 64, 0)
    assert memory_plan.main([str(fits), str(tight), *arguments]) == 1
    assert "infeasible" in capsys.readouterr().out


def test_a_wrong_plan_never_reaches_the_table(tmp_path, monkeypatch):
    path = tmp_path / "fits.64.csv"
    minimalloc.write(path, [str(i) for i in range(40)], tiling(0, 40))
    right = solve(tiling(0, 40))
    wrong = replace(right, offsets=(0,) * 40)
    monkeypatch.setattr("benchmarks.memory_plan.SOLVERS", {"portfolio": lambda *_: wrong})
    monkeypatch.setattr("benchmarks.memory_plan._options", lambda _: _options(path))
    with pytest.raises(AssertionError, match="not valid: buffers"):
        memory_plan.main([])


def _options(path: Path):
    return type(
        "O", (), {"files": [path], "solver": "portfolio", "plans": None, "json": None, "time_limit": 1, "seed": 0}
    )
