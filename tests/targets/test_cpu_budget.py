"""Memory budgets, kept: what processes have resident is read from outside, and they compute what they compute without.

The models are small, but for their weights or activations: beside Python's own memory those are what counts.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tensorc
from tensorc.cli import main
from tensorc.errors import UserError
from tensorc.runtime.model import Model

MIB = 1 << 20
pytestmark = pytest.mark.compiler

#: Runs the artifact as often as it is told; prints when it is done, and goes on when it is told.
RUNNER = """
import json, os, sys, threading
import numpy as np
import tensorc

path, inputs, output, how = sys.argv[1:]
feed = dict(np.load(inputs))
model = tensorc.load(path, threads=2)

def right():
    got = model.run(None, feed)[0]
    return bool(np.array_equal(got, first))

def forked():
    pid = os.fork()
    if pid == 0:
        os._exit(0 if all(np.array_equal(model.run(None, other)[0], second) for _ in range(5)) else 1)
    return pid

# Other inputs, so that what one process leaves is wrong for another.
other = {name: array[::-1].copy() for name, array in feed.items()}
second = model.run(None, other)[0] if how == "fork" else None
first = model.run(None, feed)[0]
results = [right() for _ in range(3)]
if how == "threads":
    clients = [threading.Thread(target=lambda: results.extend(right() for _ in range(4))) for _ in range(4)]
    for client in clients: client.start()
    for client in clients: client.join()
if how == "fork":
    # Before a run, and in the midst of one.
    children = [forked() for _ in range(2)]
    busy = threading.Thread(target=lambda: results.extend(right() for _ in range(20)))
    busy.start()
    children += [forked() for _ in range(2)]
    results += [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 for child in children]
    busy.join()
np.save(output, first)
print(json.dumps(results), flush=True)
sys.stdin.read()
"""


def write(path: Path, nodes: Sequence[onnx.NodeProto], inputs: dict[str, tuple[int, Sequence[int]]],
          outputs: dict[str, Sequence[int]], weights: dict[str, np.ndarray]) -> Path:  # fmt: skip
    graph = helper.make_graph(
        nodes, path.stem,
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def matrix(seed: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((width, width), np.float32) / np.float32(width**0.5)


def write_chain(path: Path, depth: int = 12, width: int = 1024) -> Path:
    """x of 8 rows times as many matrices, 4 MiB each."""
    nodes, weights = [], {}
    for i in range(depth):
        weights[f"w{i}"] = matrix(i, width)
        nodes.append(helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]))
    shape = [8, width]
    return write(path, nodes, {"x0": (TensorProto.FLOAT, shape)}, {f"x{depth}": shape}, weights)


def write_hourglass(path: Path, depth: int = 8, rows: int = 1024, width: int = 512) -> Path:
    """Values of 2 MiB that wait, all at one time."""
    nodes, weights = [], {}
    for i in range(depth):
        weights[f"w{i}"] = matrix(i, width)
        nodes += [helper.make_node("MatMul", [f"y{i}", f"w{i}"], [f"m{i}"]),
                  helper.make_node("Tanh", [f"m{i}"], [f"y{i + 1}"])]  # fmt: skip
    last = f"y{depth}"
    for i in reversed(range(1, depth)):
        weights[f"v{i}"] = matrix(100 + i, width)
        nodes += [helper.make_node("MatMul", [last, f"v{i}"], [f"n{i}"]),
                  helper.make_node("Add", [f"n{i}", f"y{i}"], [f"z{i}"])]  # fmt: skip
        last = f"z{i}"
    shape = [rows, width]
    return write(path, nodes, {"y0": (TensorProto.FLOAT, shape)}, {last: shape}, weights)


def write_embedding(path: Path, rows: int = 16384, width: int = 1024) -> Path:
    """A table of 64 MiB, of which 64 rows are read, and some matrices."""
    nodes = [helper.make_node("Gather", ["table", "ids"], ["x0"])]
    weights = {"table": np.random.default_rng(0).standard_normal((rows, width), np.float32)}
    for i in range(4):
        weights[f"w{i}"] = matrix(i, width)
        nodes.append(helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]))
    return write(path, nodes, {"ids": (TensorProto.INT64, [64])}, {"x4": [64, width]}, weights)


def write_loop(path: Path, width: int = 1024) -> Path:
    """A loop of three trips over two matrices, between chains."""
    body = helper.make_graph(
        [helper.make_node("MatMul", ["a", "u0"], ["b"]), helper.make_node("Tanh", ["b"], ["c"]),
         helper.make_node("MatMul", ["c", "u1"], ["d"]), helper.make_node("Identity", ["on"], ["go"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []),
         helper.make_tensor_value_info("on", TensorProto.BOOL, []),
         helper.make_tensor_value_info("a", TensorProto.FLOAT, [8, width])],
        [helper.make_tensor_value_info("go", TensorProto.BOOL, []),
         helper.make_tensor_value_info("d", TensorProto.FLOAT, [8, width])],
    )  # fmt: skip
    nodes, weights = [], {"trips": np.array(3), "true": np.array(True)}
    for i in (0, 1, 2, 4, 5, 6):
        weights[f"w{i}"] = matrix(i, width)
        nodes.append(helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]))
    weights |= {f"u{i}": matrix(10 + i, width) for i in range(2)}
    nodes.insert(3, helper.make_node("Loop", ["trips", "true", "x3"], ["x4"], body=body))
    return write(path, nodes, {"x0": (TensorProto.FLOAT, [8, width])}, {"x7": [8, width]}, weights)


def write_wide(path: Path, width: int = 16384) -> Path:
    """One matrix of 40 MiB."""
    weight = np.random.default_rng(0).standard_normal((640, width), np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return write(path, nodes, {"x": (TensorProto.FLOAT, [8, 640])}, {"y": [8, width]}, {"w": weight})


MODELS: dict[str, Callable[[Path], Path]] = {
    "chain": write_chain, "hourglass": write_hourglass, "embedding": write_embedding, "loop": write_loop,
    "wide": write_wide,
}  # fmt: skip
FEEDS = {
    "chain": {"x0": np.random.default_rng(1).standard_normal((8, 1024)).astype(np.float32)},
    "hourglass": {"y0": np.random.default_rng(1).standard_normal((1024, 512)).astype(np.float32)},
    "embedding": {"ids": np.random.default_rng(1).integers(0, 16384, 64)},
    "wide": {"x": np.random.default_rng(1).standard_normal((8, 640)).astype(np.float32)},
    "loop": {"x0": np.random.default_rng(1).standard_normal((8, 1024)).astype(np.float32)},
}


class Case:
    """A model, and its artifacts as they are asked for."""

    def __init__(self, name: str, folder: Path):
        self.name = name
        self.path = MODELS[name](folder / f"{name}.onnx")
        self.folder = folder
        self.inputs = folder / "inputs.npz"
        np.savez(self.inputs, **FEEDS[name])
        self.plain = self.compile(None)
        with tensorc.load(self.plain) as model:
            (self.want,) = model.run(None, FEEDS[name])
        with pytest.raises(UserError, match=r"smallest feasible one is [0-9]+MiB") as caught:
            self.compile(MIB)
        self.refusal = str(caught.value)
        self.least = int(re.findall(r"([0-9]+)MiB", self.refusal)[-1]) * MIB

    def compile(self, budget: int | None) -> Path:
        out = self.folder / f"{budget}.tcm"
        if not out.exists():
            tensorc.compile(self.path, threads=2, out=out, memory_budget=budget).close()
        return out

    def peak(self, artifact: Path, how: str = "alone") -> int:
        """The most that a process has resident which runs it, each time with the right result."""
        out = self.folder / "output.npy"
        command = [sys.executable, "-c", RUNNER, str(artifact), str(self.inputs), str(out), how]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            status = Path(f"/proc/{process.pid}/status").read_text() if line else ""
            process.communicate()
        assert process.returncode == 0
        assert all(json.loads(line))
        assert np.array_equal(np.load(out), self.want)
        return 1024 * int(status.split("VmHWM:")[1].split()[0])


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    known: dict[str, Case] = {}

    def get(name: str) -> Case:
        if name not in known:
            known[name] = Case(name, tmp_path_factory.mktemp(name))
        return known[name]

    return get


@pytest.mark.parametrize("name", MODELS)
def test_the_least_budget_holds(case: Callable[[str], Case], name: str) -> None:
    subject = case(name)
    assert subject.peak(subject.compile(subject.least)) <= subject.least < subject.peak(subject.plain)


@pytest.mark.parametrize("name", MODELS)
def test_a_budget_below_the_least_is_refused(case: Callable[[str], Case], name: str) -> None:
    subject = case(name)
    with pytest.raises(UserError, match=re.escape(re.sub("of [0-9.]+", "of {}", subject.refusal).split("{}")[1])):
        subject.compile(subject.least - 3 * MIB)


@pytest.mark.parametrize("more", [5, 16])
def test_budgets_in_between_hold(case: Callable[[str], Case], more: int) -> None:
    subject = case("chain")
    budget = subject.least + more * MIB
    peak = subject.peak(subject.compile(budget))
    assert budget - 16 * MIB < peak <= budget, "what there is, is used"


def test_an_ample_budget_streams_nothing(case: Callable[[str], Case]) -> None:
    subject = case("chain")
    with tensorc.load(subject.compile(400 * MIB)) as model:
        assert model.manifest["program"]["stream"]["changes"] == []
        assert np.array_equal(model.run(None, FEEDS["chain"])[0], subject.want)


@pytest.mark.parametrize(("name", "how"), [("chain", "threads"), ("embedding", "threads"), ("hourglass", "threads")])
def test_runs_at_once_are_right_and_within_the_budget(case: Callable[[str], Case], name: str, how: str) -> None:
    """But for the outputs of the other threads."""
    subject = case(name)
    assert subject.peak(subject.compile(subject.least), how) <= subject.least + 8 * subject.want.nbytes


@pytest.mark.parametrize("name", ["chain", "hourglass"])
def test_forked_processes_run(case: Callable[[str], Case], name: str) -> None:
    subject = case(name)
    subject.peak(subject.compile(subject.least), "fork")


def test_values_wait_in_a_file(case: Callable[[str], Case]) -> None:
    subject = case("hourglass")
    with tensorc.load(subject.compile(subject.least)) as model:
        program = model.manifest["program"]
        assert program["file_bytes"] > 0
        ways = [step["out"] for step in program["steps"] if step.get("control") == "transfer"]
        assert 0 < sum(ways) <= len(ways) / 2
        assert "activations in a file" in dict(model.summary)


def test_a_table_is_read_in_slices(case: Callable[[str], Case]) -> None:
    subject = case("embedding")
    with tensorc.load(subject.compile(subject.least)) as model:
        (sliced,) = [step for step in model.manifest["program"]["steps"] if step["slice"]]
        assert sliced["table"][1] >= 30
        for _ in range(2):
            assert np.array_equal(model.run(None, FEEDS["embedding"])[0], subject.want)


def test_a_large_matrix_is_read_part_by_part(case: Callable[[str], Case]) -> None:
    subject = case("wide")
    assert subject.least < subject.peak(subject.plain) - 15 * MIB
    with tensorc.load(subject.compile(subject.least)) as model:
        steps = model.manifest["program"]["steps"]
        assert len(steps) >= 5
        assert [step["calls"] for step in steps] == [1] + [0] * (len(steps) - 1)
        assert [step["first"] for step in steps] == list(np.cumsum([0, *(step["tasks"] for step in steps[:-1])]))
        assert np.array_equal(model.run(None, FEEDS["wide"])[0], subject.want)


def test_the_command_line(case: Callable[[str], Case], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subject = case("chain")
    out = tmp_path / "out.tcm"
    command = ["compile", str(subject.path), "-o", str(out), "--memory-budget"]
    assert main([*command, "30MiB"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert f"the smallest feasible one is {subject.least // MIB}MiB" in said[0]
    assert not out.exists()
    assert main([*command, "lots"]) == 2
    assert "400MiB" in capsys.readouterr().err
    assert main([*command, f"{subject.least // MIB}MiB", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert re.search(r"predicted", summary["weights streamed"])
    assert main(["run", str(out), "--random", "0", "--json"]) == 0


@pytest.mark.parametrize("shapes", [None, {"x": (range(1, 3), 8)}])
def test_free_shapes_are_refused(tmp_path: Path, shapes: dict[str, Sequence[int | range]] | None) -> None:
    path = write(tmp_path / "free.onnx", [helper.make_node("Relu", ["x"], ["y"])],
                 {"x": (TensorProto.FLOAT, ["n", 8])}, {"y": ["n", 8]}, {})  # fmt: skip
    with pytest.raises(UserError, match="free cannot be held to a memory budget"):
        tensorc.compile(path, shapes=shapes, memory_budget="100MiB")


def test_saved_again_it_is_the_same(case: Callable[[str], Case], tmp_path: Path) -> None:
    subject = case("chain")
    with tensorc.load(subject.compile(subject.least)) as model:
        model.save(tmp_path / "copy.tcm")
    with tensorc.load(tmp_path / "copy.tcm") as copy:
        assert isinstance(copy, Model)
        assert np.array_equal(copy.run(None, FEEDS["chain"])[0], subject.want)
