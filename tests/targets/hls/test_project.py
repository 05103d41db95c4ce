"""A project as the command line makes and verifies it: whole, checked by every means, and clear about what is wrong."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import tensorc
from targets.hls import project
from tensorc.cli.folder import verify_folder
from tensorc.driver import compile_model
from tensorc.errors import UserError
from tensorc.options import CompileOptions
from tensorc.quantization.scheme import Quantization
from tensorc.target import find_target

EXAMPLES = Path(__file__).parents[3] / "examples"
JETS = EXAMPLES / "fpga" / "jets.onnx"


def made(folder, scheme="fixed10", part="xc7z020", objective="resources"):
    """Small, so that synthesis is quick."""
    how = Quantization(scheme, EXAMPLES / "fpga" / "jets_calibration.npz")
    return compile_model(JETS, CompileOptions(target=f"hls:{part}", quantize=how, objective=objective), folder)


@pytest.fixture(scope="module")
def jets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("projects") / "jets"
    made(folder)
    return folder


def test_a_project_has_what_a_user_expects(jets):
    names = {path.relative_to(jets).as_posix() for path in jets.rglob("*") if path.is_file()}
    assert names >= {
        "build_prj.tcl", "firmware/defines.h", "firmware/jets.cpp", "firmware/jets.h", "hls_config.cfg",
        "pareto.json", "pareto.svg",
        "jets_test.cpp", "project.json", "reference/graph.txt", "reference/weights.npz", "report.json", "rtl/jets.v",
        "schedule.json", "tb_data/input_0.dat", "tb_data/output_0.dat",
    }  # fmt: skip
    report = json.loads((jets / "report.json").read_text())["CSynthesisReport"]
    assert report["BestLatency"] > report["IntervalMin"] > 0
    assert report["AvailableDSP"] == 220
    assert np.loadtxt(jets / "tb_data/input_0.dat", dtype=int).shape == (100, 16)
    assert "part=xc7z020clg400-1" in (jets / "hls_config.cfg").read_text()


def test_objectives_differ_and_the_front_holds_the_fastest(jets, tmp_path):
    made(tmp_path / "fast", objective="throughput")
    small, fast = (
        json.loads((folder / "report.json").read_text())["CSynthesisReport"] for folder in (jets, tmp_path / "fast")
    )
    assert fast["IntervalMin"] * 10 < small["IntervalMin"]
    assert small["DSP"] * 10 < fast["DSP"] <= 0.8 * 220
    front = json.loads((jets / "pareto.json").read_text())
    assert min(row["interval"] for row in front) == pytest.approx(fast["IntervalMin"], abs=4)
    assert (jets / "pareto.svg").read_text().startswith("<svg")


@pytest.mark.compiler
def test_the_whole_chain_holds(jets):
    target = find_target("hls:xc7z020")
    told = []
    checks = target.check(jets, JETS, EXAMPLES / "fpga" / "jets_calibration.npz", lambda *step: told.append(step))
    assert [check.name for check in checks if not check.ok] == []
    assert [name for _, _, name in told] == [check.name for check in checks]
    numbers = {check.name: check.numbers for check in checks}
    assert numbers["C simulation"]["images"] == 100 + 128
    assert numbers["Verilog"]["latency"] == numbers["Verilog"]["promised"]["latency"]
    assert numbers["synthesis"]["dsp"] == numbers["synthesis"]["promised"]["dsp"] > 0
    assert numbers["model"]["snr_db"] > 30


@pytest.mark.compiler
def test_what_was_tampered_with_is_found(tmp_path):
    """A wrong weight in the C++, a golden vector that is not one: each is told by the check that should."""
    made(tmp_path / "jets", "fixed6")
    header = next((tmp_path / "jets/firmware/weights").iterdir())
    text = header.read_text()
    first = re.compile(r"-?\d+").search(text, text.index("= {"))
    number = int(first[0])
    header.write_text(f"{text[: first.start()]}{number - 1 if number > 0 else number + 1}{text[first.end() :]}")
    vectors = tmp_path / "jets/tb_data/output_0.dat"
    lines = vectors.read_text().splitlines()
    first, *rest = lines[0].split()
    vectors.write_text("\n".join([" ".join([str(int(first) ^ 1), *rest]), *lines[1:]]) + "\n")
    checks = {check.name: check for check in find_target("hls").check(tmp_path / "jets", None, None, lambda *_: None)}
    assert not checks["golden vectors"].ok
    assert checks["golden vectors"].numbers["wrong"] == 1
    assert checks["C simulation"].numbers["wrong"] > 1
    assert not checks["C simulation"].ok


def test_a_folder_of_others_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("dear")
    with pytest.raises(UserError, match="mine: it is a folder that holds something else than a project"):
        made(tmp_path / "mine")
    assert (tmp_path / "mine/notes.txt").read_text() == "dear"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: it is a file; a project is a folder"):
        made(tmp_path / "file")
    (tmp_path / "old").mkdir()
    (tmp_path / "old/project.json").write_text("{}")
    (tmp_path / "old/stale.txt").write_text("")
    made(tmp_path / "old")
    assert not (tmp_path / "old/stale.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mine", "old"]


def test_a_project_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(28, "No space left on device")

    out = tmp_path / "out"
    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(UserError, match=r"cannot write .*out: No space left"):
        project.write(out, {}, {"a/b.txt": [b"x"]})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("damage", "message"), [
    (lambda folder: (folder / "project.json").unlink(), r"is no project that tensorc wrote: it has no readable"),
    (lambda folder: (folder / "project.json").write_text("{"), r"it has no readable project.json"),
    (lambda folder: (folder / "schedule.json").unlink(), r"is no project of tensorc's: schedule.json"),
    (lambda folder: (folder / "reference/weights.npz").write_bytes(b"no"), r"its reference cannot be read"),
    (lambda folder: (folder / "reference/graph.txt").write_text("graph"), r"its reference cannot be read"),
    (lambda folder: (folder / "tb_data/input_0.dat").unlink(), r"tb_data.input_0.dat"),
])  # fmt: skip
def test_damaged_projects_are_told_in_one_line(tmp_path, jets, damage, message):
    copy = tmp_path / "copy"
    shutil.copytree(jets, copy)
    damage(copy)
    with pytest.raises(UserError, match=message):
        verify_folder(copy, None, None, True)


def test_unknown_parts_are_named():
    with pytest.raises(UserError, match=r"unknown FPGA part 'xc2': choose one of .*XC7Z020"):
        made(Path("never"), part="xc2")


def test_a_project_is_run_as_its_reference(jets):
    """Through Python and the command line's way: as accurate as float32 is, on jets that were held out."""
    with np.load(EXAMPLES / "fpga" / "jets_heldout.npz") as data:
        features, labels = data["features"][:200], data["labels"][:200]
    with tensorc.load(jets) as model:
        (info,) = model.get_outputs()
        assert (info.name, info.shape, info.dtype) == ("probabilities", [1, 5], "float32")
        right = sum(model.run(None, {"features": one})[0].argmax() == label
                    for one, label in zip(features, labels, strict=True))  # fmt: skip
        with pytest.raises(UserError, match="is no artifact: what was written can be copied as it is"):
            model.save("anywhere.tcm")
    assert right / 200 > 0.75
    with pytest.raises(UserError, match="is no project that tensorc wrote"):
        tensorc.load(jets.parent)
