"""`tensorc profile`: real models, compiled and timed. Times are checked for their sums, never for their size."""

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import targets.cpu.profile
from tensorc.cli import main
from tensorc.profiling import Ceilings, Level
from tensorc.runtime.artifact import Artifact, write_artifact

pytestmark = pytest.mark.compiler

IMAGE = 16 * 12 * 12
#: Two convolutions of the same shape are one kernel; 16 channels are whole blocks on every machine.
CONVOLUTION = 2 * IMAGE * 16 * 9


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """conv, relu, conv, relu, softmax over 16 channels; a name that HTML would take for its own."""
    folder = tmp_path_factory.mktemp("profile")
    rng = np.random.default_rng(0)
    window = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], **window),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], **window),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Softmax", ["r1"], ["y"], axis=3),
    ]
    weights = [numpy_helper.from_array(rng.standard_normal((16, 16, 3, 3)).astype(np.float32), f"w{i}") for i in (0, 1)]
    rows = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 16, 12, 12]) for name in "xy"]
    model = helper.make_model(
        helper.make_graph(nodes, "small", rows[:1], rows[1:], weights),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip
    (folder / "small.onnx").write_bytes(model.SerializeToString())
    out = folder / "a<b>&c.tcm"
    assert main(["compile", str(folder / "small.onnx"), "-o", str(out)]) == 0
    return out


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """Ceilings that stand still, and what was asked for them: what measures them has tests of its own."""
    calls = []

    def fixed(threads, again):
        calls.append((threads, again))
        return Ceilings(threads, 1e11, [Level("L1", 1e5, 1e11), Level("memory", float("inf"), 1e10)], 0.0)

    monkeypatch.setattr(targets.cpu.profile, "ceilings", fixed)
    return calls


def profiled(tensorc_, model, *words):
    done = tensorc_("profile", model, "--seconds", 0.05, "--json", *words)
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_the_report_is_the_contract(tensorc_, compiled):
    report = profiled(tensorc_, compiled, "--threads", 1)
    assert report.keys() == {
        "model", "target", "report", "threads", "runs", "whole_seconds", "kernel_seconds", "overhead_seconds",
        "attainable_seconds", "ceilings", "kernels", "steps", "other_load",
    }  # fmt: skip
    for row in report["kernels"]:
        assert row.keys() == {
            "kernel", "labels", "calls", "seconds", "share", "flops", "bytes", "flops_per_second", "bytes_per_second",
            "attainable_seconds", "attained", "bound", "schedule", "origin", "predicted_seconds", "predicted_ratio",
            "predicted_deviation", "resources",
        }  # fmt: skip
    assert (report["threads"], report["target"]) == (1, "cpu")
    assert report["runs"] >= 3


def test_all_time_is_somewhere(tensorc_, compiled):
    report = profiled(tensorc_, compiled)
    rows = report["kernels"]
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert sum(row["seconds"] for row in rows) == pytest.approx(report["kernel_seconds"])
    assert sum(step["seconds"] for step in report["steps"]) == pytest.approx(report["kernel_seconds"])
    assert [row["seconds"] for row in rows] == sorted((row["seconds"] for row in rows), reverse=True)
    assert report["overhead_seconds"] > 0
    steps = Artifact.open(compiled).manifest["program"]["steps"]
    assert [step["label"] for step in report["steps"]] == [step["label"] for step in steps]


def test_a_kernel_of_two_calls_does_the_work_of_both(tensorc_, compiled):
    report = profiled(tensorc_, compiled)
    (row,) = [row for row in report["kernels"] if "conv" in row["kernel"]]
    assert row["calls"] == len(row["labels"]) == 2
    assert row["flops"] == 2 * (CONVOLUTION + IMAGE)
    assert row["bytes"] == 2 * 4 * (IMAGE + 16 * 16 * 9 + IMAGE)
    assert row["flops_per_second"] == pytest.approx(row["flops"] / row["seconds"])
    assert row["attainable_seconds"] == pytest.approx(row["flops"] / 1e11)
    assert row["attained"] == pytest.approx(row["attainable_seconds"] / row["seconds"])
    assert row["bound"] == "compute"
    assert row["origin"] in ("record", "prediction", "default")
    assert row["schedule"]


def test_threads_and_ceilings_are_as_asked(tensorc_, compiled, asked):
    assert profiled(tensorc_, compiled, "--threads", 2)["threads"] == 2
    profiled(tensorc_, compiled, "--threads", 1, "--measure-ceilings")
    assert asked == [(2, False), (1, True)]


def test_the_table_lists_the_top_and_adds_up_the_rest(tensorc_, compiled):
    count = len(profiled(tensorc_, compiled)["kernels"])
    assert count > 1
    text = tensorc_("profile", compiled, "--seconds", 0.05, "--top", 1).out
    assert f"{count - 1} others" in text
    assert len(re.findall(r"^\s*k\d+_", text, re.MULTILINE)) == 1
    assert "others" not in tensorc_("profile", compiled, "--seconds", 0.05).out
    for word in ("whole run", "attainable", "100 GFLOP/s", "L1 100 (97.7 KiB), memory 10"):
        assert word in text


def test_ceilings_from_a_busy_machine_are_doubted(tensorc_, compiled, monkeypatch):
    words = "profile", compiled, "--seconds", 0.05
    assert "busy machine" not in tensorc_(*words).out
    low = Ceilings(2, 1e9, [Level("memory", float("inf"), 1e9)], other_load=1.0)
    monkeypatch.setattr(targets.cpu.profile, "ceilings", lambda *_, **__: low)
    assert "busy machine" in tensorc_(*words).out


class Page(HTMLParser):
    """Tags that were opened and not closed, and whatever refers to another file."""

    def __init__(self, text):
        super().__init__()
        self.open, self.references, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag != "meta":
            self.open.append(tag)
        self.references += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_data(self, data):
        self.text += data


def test_the_page_is_whole_and_needs_nothing_beside_it(tensorc_, compiled, tmp_path):
    out = tmp_path / "page.html"
    report = profiled(tensorc_, compiled, "--report", out)
    assert report["report"] == str(out)
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert page.references == []
    assert not re.search(r"https?:|@import|url\(|<script", text)
    assert "a<b>&c.tcm" in page.text, "the name is shown, not taken for a tag"
    for row in report["kernels"]:
        assert row["kernel"] in page.text
    for step in report["steps"]:
        assert step["label"] in page.text
    drawing = ElementTree.fromstring(re.search(r"<svg.*?</svg>", text, re.DOTALL)[0])
    points = [circle for circle in drawing.iter("circle") if circle.find("title") is not None]
    assert len(points) == sum(row["flops"] > 0 for row in report["kernels"])
    _, _, width, height = map(float, drawing.get("viewBox").split())
    for point in points:
        assert 0 < float(point.get("cx")) < width
        assert 0 < float(point.get("cy")) < height


def test_a_page_that_cannot_be_written_leaves_nothing(tensorc_, compiled, tmp_path):
    done = tensorc_("profile", compiled, "--seconds", 0.05, "--json", "--report", tmp_path / "absent" / "page.html")
    assert "page.html" in done.complaint()
    assert not (tmp_path / "absent").exists()


def rewritten(compiled, out, change):
    artifact = Artifact.open(compiled)
    manifest = json.loads(json.dumps(artifact.manifest))
    change(manifest["program"])
    write_artifact(out, manifest, {name: [artifact.section(name)] for name in artifact.names})
    return out


def test_a_prediction_stands_beside_what_was_measured(tensorc_, compiled, tmp_path):
    def predict(program):
        for row in program["kernels"].values():
            row |= {"predicted_seconds": 1.0, "origin": "prediction"}

    report = profiled(tensorc_, rewritten(compiled, tmp_path / "told.tcm", predict))
    for row in report["kernels"]:
        assert (row["origin"], row["predicted_seconds"]) == ("prediction", row["calls"])
        assert row["predicted_ratio"] == pytest.approx(row["calls"] / row["seconds"])


@pytest.mark.parametrize("lost", ["kernels", "flops", "origin"])
def test_an_older_artifact_has_to_be_compiled_again(tensorc_, compiled, tmp_path, lost):
    def age(program):
        for row in (program, *program["kernels"].values()):
            row.pop(lost, None)

    complaint = tensorc_("profile", rewritten(compiled, tmp_path / "old.tcm", age)).complaint()
    assert "compile the model again" in complaint


def test_a_target_that_does_not_time_its_kernels_says_so(tensorc_, artifact):
    assert "does not time its kernels" in tensorc_("profile", artifact).complaint()


def test_a_model_that_is_not_compiled_is_refused(tensorc_, mlp):
    assert "mlp.onnx is not a tensorc artifact" in tensorc_("profile", mlp).complaint()
