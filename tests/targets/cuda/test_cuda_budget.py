"""Budgets of a GPU's memory, kept: the emulator has no more than that, and computes what it computes without."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import tensorc
from targets.cuda import driver, replay
from targets.cuda.budget import Keeper
from targets.cuda.device import Await, Call, Copy
from targets.cuda.emulator import Emulator
from targets.cuda.executable import CudaExecutable
from targets.cuda.program import Argument, CudaProgram, Launch, Transfer, Wait
from targets.cuda.segments import segments
from tensorc.cli import main
from tensorc.errors import UserError
from tensorc.options import parse_bytes
from tensorc.runtime.artifact import Artifact
from tensorc.runtime.constants import views

pytestmark = pytest.mark.compiler

EXAMPLES = Path(__file__).parents[3] / "examples" / "digits"
KIB = 1 << 10


# Plans ---------------------------------------------------------------------------------------------------


@st.composite
def programs(draw: st.DrawFn) -> tuple[CudaProgram, list[int], dict[int, int]]:
    """Launches that mostly read constants of their own, sometimes those of others; the first one may be a table."""
    sizes: list[int] = []
    steps = []
    for _ in range(draw(st.integers(1, 12))):
        fresh = draw(st.lists(st.integers(1, 3000), max_size=3))
        numbers = [*range(len(sizes), len(sizes) + len(fresh))]
        sizes += fresh
        if sizes and draw(st.booleans()):
            numbers.append(draw(st.integers(max(len(sizes) - 6, 0), len(sizes) - 1)))
        steps.append(Launch("k", tuple(Argument("constant", number, 8) for number in numbers), "label"))
    program = CudaProgram("sm_90", {}, tuple(steps), (), (), 1000, 100, 4)
    return program, sizes, {0: 4} if sizes and draw(st.booleans()) else {}


def follow(program: CudaProgram, want: CudaProgram, sizes: list[int], late: bool) -> None:
    """Each launch finds the constants that it is to read, whether copies land at once or as late as they may."""
    rng = np.random.default_rng(0)
    constants = [rng.integers(0, 256, nbytes, np.uint8) for nbytes in sizes]
    host = np.zeros(program.host_bytes, np.uint8)
    for number, home in program.homes.items():
        host[home : home + sizes[number]] = constants[number]
    memory = {"window": np.zeros(program.window_bytes, np.uint8), "host": host}
    coming: list[Transfer] = []
    begun = landed = 0
    launches = iter(want.launches)

    def land(count: int) -> None:
        nonlocal landed
        while landed < count:
            copy = coming.pop(0)
            to = slice(copy.memory.offset, copy.memory.offset + copy.nbytes)
            memory["window"][to] = host[copy.offset : copy.offset + copy.nbytes]
            landed += 1

    for step in program.steps:
        match step:
            case Transfer():
                assert step.beside
                assert step.memory.space == "window"
                memory["window"][step.memory.offset : step.memory.offset + step.nbytes] = 0
                coming.append(step)
                begun += 1
                land(0 if late else begun)
            case Wait():
                assert step.count <= begun
                land(step.count)
            case Launch():
                for found, wanted in zip(step.arguments, next(launches).arguments, strict=True):
                    constant = constants[wanted.index]
                    if found.space == "constant":
                        assert found == wanted
                        assert wanted.index not in program.homes
                        continue
                    begin = found.offset - wanted.offset
                    assert begin % 256 == 0
                    np.testing.assert_array_equal(memory[found.space][begin : begin + constant.size], constant)
    assert next(launches, None) is None


@settings(max_examples=60, deadline=None)
@given(programs(), st.floats(0, 1), st.booleans())
def test_what_a_launch_reads_is_there(case: Any, share: float, late: bool) -> None:
    program, sizes, tables = case
    whole = program.device_bytes(sizes)
    least = 1
    try:
        Keeper(program, sizes, tables, least).program()
    except UserError as error:
        least = int(re.findall(r"([0-9]+)KiB", str(error))[0]) * KIB
    budget = round(least + share * max(whole - least, 0))
    held = Keeper(program, sizes, tables, budget).program()
    assert held.device_bytes(sizes) <= budget
    assert CudaProgram.from_json(json.loads(json.dumps(held.to_json()))) == held
    follow(held, program, sizes, late)


def test_copies_begin_before_their_launch_is_next() -> None:
    """Twenty layers in half of the room: but for those that a run begins with, there is a launch's time for each."""
    sizes = [1000] * 20
    steps = tuple(Launch("k", (Argument("constant", number),), "label") for number in range(20))
    program = CudaProgram("sm_90", {}, steps, (), (), 0, 0, 0)
    held = Keeper(program, sizes, {}, 10 * 1024).program()
    copies = [number for number, step in enumerate(held.steps) if isinstance(step, Transfer)]
    assert 10 <= len(copies) <= 12
    steps_of = list(held.steps)
    for count, begin in enumerate(copies, start=1):
        wait = steps_of.index(Wait(count), begin)
        assert any(isinstance(step, Launch) for step in steps_of[begin:wait])


# Devices -------------------------------------------------------------------------------------------------


def test_launches_that_read_what_is_on_its_way_are_refused() -> None:
    device = Emulator()
    host = device.reachable(512)
    window = device.allocate(512)
    copy = Copy(window, host.ctypes.data, 512, out=False, beside=True)
    call = Call("late", None, 1, 1, 0, (window + 256,))
    with pytest.raises(RuntimeError, match="late: an argument points to what is still on its way from the host"):
        device.replay(device.record([copy, call]))
    with pytest.raises(RuntimeError, match="what waits for 2 copies stands behind 1"):
        device.replay(device.record([copy, Await(2), call]))
    with pytest.raises(AttributeError):  # it gets as far as to launch what is no kernel
        device.replay(device.record([copy, Await(1), call]))
    device.close()


class Context(contextlib.nullcontext):
    handle = "context"


def test_a_graph_has_copies_beside_its_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """What each node waits for, as the driver is told: there is no GPU to see it on."""
    from cuda.bindings import driver as bindings

    nodes: list[tuple[str, list[int]]] = []

    def asked(name: str, *arguments: Any) -> Any:
        if name.startswith("cuGraphAdd"):
            _, before, count, parameters = arguments[:4]
            assert count == len(before) == len(set(before))
            nodes.append((name.removeprefix("cuGraphAdd"), sorted(before)))
            if "Memcpy" in name:
                assert (parameters.WidthInBytes, parameters.Height, parameters.Depth) == (64, 1, 1)
                assert sorted((int(parameters.srcDevice), int(parameters.dstDevice))) == [0, 4096]
                assert {parameters.srcMemoryType.name[14:], parameters.dstMemoryType.name[14:]} == {"HOST", "DEVICE"}
        return len(nodes) - 1

    monkeypatch.setattr(driver, "_asked", asked)
    monkeypatch.setattr(driver, "_cuda", lambda: bindings)
    device = object.__new__(driver.Driver)
    device._context, device._recordings = Context(), []
    call = Call("call", 1, 1, 32, 0, (4096,))
    beside, out = Copy(4096, 1, 64, out=False, beside=True), Copy(4096, 1, 64, out=True, beside=False)
    recording = device.record([beside, beside, Await(1), call, beside, Await(2), out, call, Await(3), Await(3), beside])
    copy, kernel = "MemcpyNode", "KernelNode"
    assert nodes == [
        (copy, []), (copy, [0]), (kernel, [0]), (copy, [1, 2]), (copy, [1, 2]), (kernel, [4]), (copy, [3, 5]),
    ]  # fmt: skip
    assert recording.nodes == {3: 2, 7: 5}


# Models --------------------------------------------------------------------------------------------------


def write(path: Path, nodes: list, inputs: dict, outputs: dict, weights: dict[str, np.ndarray]) -> Path:
    graph = helper.make_graph(
        nodes, path.stem,
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def matrix(seed: int, width: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((width, width)) / 6).astype(np.float32)


def write_hourglass(path: Path) -> Path:
    """Values that wait, all at one time, in the order in which nobody reads them next."""
    depth, rows, width, nodes, weights = 5, 64, 32, [], {}
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
    return write(path, nodes, {"y0": (TensorProto.FLOAT, [rows, width])}, {last: [rows, width]}, weights)


def write_embedding(path: Path) -> Path:
    """A table of 256 KiB, of which 8 rows are read, and some matrices."""
    width, nodes = 64, [helper.make_node("Gather", ["table", "ids"], ["x0"])]
    weights = {"table": np.random.default_rng(0).standard_normal((1024, width), np.float32)}
    for i in range(3):
        weights[f"w{i}"] = matrix(i, width)
        nodes.append(helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]))
    return write(path, nodes, {"ids": (TensorProto.INT64, [8])}, {"x3": [8, width]}, weights)


def write_control(path: Path) -> Path:
    """Matrices, a loop of three trips over two others, a branch between two more, and matrices."""
    width, shape = 32, [8, 32]
    tensor = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("MatMul", ["a", "u0"], ["b"]), helper.make_node("Tanh", ["b"], ["c"]),
         helper.make_node("MatMul", ["c", "u1"], ["d"]), helper.make_node("Identity", ["on"], ["go"])],
        "body",
        [tensor("i", TensorProto.INT64, []), tensor("on", TensorProto.BOOL, []), tensor("a", TensorProto.FLOAT, shape)],
        [tensor("go", TensorProto.BOOL, []), tensor("d", TensorProto.FLOAT, shape)],
    )  # fmt: skip
    ways = [
        helper.make_graph([helper.make_node("MatMul", ["x4", way], [f"{way}_x"])], way, [],
                          [tensor(f"{way}_x", TensorProto.FLOAT, shape)])
        for way in ("v0", "v1")
    ]  # fmt: skip
    names = [f"w{i}" for i in (0, 1, 2, 4, 5, 6)] + ["u0", "u1", "v0", "v1"]
    weights = {name: matrix(seed, width) for seed, name in enumerate(names)}
    weights |= {"trips": np.array(3), "true": np.array(True), "none": np.array(0, np.float32)}
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(3)]
    nodes += [
        helper.make_node("Loop", ["trips", "true", "x3"], ["x4"], body=body),
        helper.make_node("ReduceSum", ["x0"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "none"], ["is"]),
        helper.make_node("If", ["is"], ["y4"], then_branch=ways[0], else_branch=ways[1]),
        *(helper.make_node("MatMul", [f"y{i}", f"w{i}"], [f"y{i + 1}"]) for i in range(4, 7)),
    ]
    return write(path, nodes, {"x0": (TensorProto.FLOAT, shape)}, {"y7": shape}, weights)


MODELS: dict[str, Callable[[Path], Path]] = {
    "digits": lambda _: EXAMPLES / "digits.onnx",
    "digits_transformer": lambda _: EXAMPLES / "digits_transformer.onnx",
    "hourglass": write_hourglass,
    "embedding": write_embedding,
    "control": write_control,
}


class Case:
    """A model, and what it gives without a budget."""

    def __init__(self, name: str, folder: Path):
        self.path = MODELS[name](folder / f"{name}.onnx")
        self.folder = folder
        rng = np.random.default_rng(1)
        with tensorc.compile(self.path, target="cuda:sm_90", out=folder / "plain.tcm") as model:
            self.feed = {
                info.name: rng.integers(0, 1024, info.shape) if info.dtype == "int64"
                else rng.standard_normal(info.shape).astype(np.float32)
                for info in model.get_inputs()
            }  # fmt: skip
            self.want = model.run(None, self.feed)
            sizes = [nbytes for _, nbytes in model.manifest["constants"]]
            self.whole = model.executable.program.device_bytes(sizes)
            assert dict(model.summary)["device memory"] == tensorc.options.format_bytes(self.whole)
        with pytest.raises(UserError, match=r"smallest feasible one is [0-9]+KiB") as caught:
            self.compile(KIB)
        self.refusal = str(caught.value)
        self.least = parse_bytes(re.findall(r"[0-9]+KiB", self.refusal)[-1])

    def compile(self, budget: int) -> Path:
        out = self.folder / f"{budget}.tcm"
        if not out.exists():
            tensorc.compile(self.path, target="cuda:sm_90", out=out, memory_budget=budget).close()
        return out

    def check(self, budget: int) -> Artifact:
        """On a device that has no more."""
        artifact = Artifact.open(self.compile(budget))
        executable = opened(artifact, Emulator(budget))
        for _ in range(2):
            for got, want in zip(executable.run(list(self.feed.values())), self.want, strict=True):
                np.testing.assert_array_equal(got, want)
        executable.close()
        return artifact


def opened(artifact: Artifact, device: Emulator) -> CudaExecutable:
    sections = {name: artifact.section(name) for name in artifact.names}
    constants = views(sections["constants"], artifact.manifest["constants"])
    return CudaExecutable(artifact.manifest["program"], sections, constants, device)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Case]]:
    known: dict[str, Case] = {}

    def get(name: str) -> Case:
        if name not in known:
            known[name] = Case(name, tmp_path_factory.mktemp(name))
        return known[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORC_CUDA_EMULATE", "1")
        yield get


@pytest.mark.parametrize("share", [0, 0.4, 1])
@pytest.mark.parametrize("name", MODELS)
def test_budgets_hold_and_change_no_bit(case: Callable[[str], Case], name: str, share: float) -> None:
    subject = case(name)
    assert subject.least < 0.8 * subject.whole
    manifest = subject.check(round(subject.least + share * (subject.whole - subject.least))).manifest
    assert bool(manifest["program"]["homes"]) == ("weights streamed" in dict(manifest["summary"])) == (share < 1)


@pytest.mark.parametrize("name", ["digits", "hourglass"])
def test_a_budget_below_the_least_is_refused(case: Callable[[str], Case], name: str) -> None:
    subject = case(name)
    with pytest.raises(UserError, match=re.escape(subject.refusal.split("too small")[1])):
        subject.compile(subject.least - KIB)


def test_values_wait_in_the_hosts_memory(case: Callable[[str], Case]) -> None:
    subject = case("hourglass")
    manifest = subject.check(subject.least).manifest
    ways = [step["out"] for step in manifest["program"]["steps"]
            if isinstance(step, dict) and step["control"] == "transfer" and not step["beside"]]  # fmt: skip
    assert 0 < sum(ways) <= len(ways) / 2
    assert "activations in host memory" in dict(manifest["summary"])


def test_rows_of_a_table_are_read_where_it_lies(case: Callable[[str], Case]) -> None:
    subject = case("embedding")
    program = subject.check(subject.least).manifest["program"]
    spaces = [space for step in program["steps"] if isinstance(step, list) for space, _, _ in step[1]]
    assert spaces.count("host") == 1
    assert subject.least < 100 * KIB < 256 * KIB < program["host_bytes"]


def test_loops_that_the_host_goes_through(case: Callable[[str], Case], monkeypatch: pytest.MonkeyPatch) -> None:
    """Between recordings, with which all has ended that went beside."""
    monkeypatch.setattr(replay, "segments", lambda steps: segments(steps, most=0))
    manifest = case("control").check(case("control").least).manifest
    controls = [step.get("control") for step in manifest["program"]["steps"] if isinstance(step, dict)]
    assert {"loop", "branch", "transfer", "wait"} <= set(controls)


def test_runs_from_and_to_other_memory(case: Callable[[str], Case]) -> None:
    """Launches are told other addresses by their own numbers, between which there are copies."""
    subject = case("digits_transformer")
    with tensorc.load(subject.compile(subject.least)) as model:
        (name,) = subject.feed
        run = model.run_async(subject.feed)
        np.testing.assert_array_equal(run.wait()[0].numpy(), subject.want[0])
        model.run(None, {name: np.zeros_like(subject.feed[name])})
        np.testing.assert_array_equal(run.again().wait()[0].numpy(), subject.want[0])


def test_what_does_not_fit_a_gpu_is_told_of_budgets(case: Callable[[str], Case]) -> None:
    subject = case("digits")
    room = subject.least + 3 * KIB + 5
    with pytest.raises(UserError, match=r"the model needs .* of the GPU's memory") as caught:
        opened(Artifact.open(subject.folder / "plain.tcm"), Emulator(room))
    said = re.findall(r"with --memory-budget ([0-9]+KiB) or less, it streams weights", str(caught.value))
    assert [parse_bytes(budget) for budget in said] == [room // KIB * KIB]
    subject.check(room // KIB * KIB)


def test_the_command_line(case: Callable[[str], Case], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subject = case("digits")
    out = tmp_path / "out.tcm"
    command = ["compile", str(subject.path), "--target", "cuda:sm_90", "-o", str(out), "--memory-budget"]
    assert main([*command, "30KiB"]) == 2
    assert f"the smallest feasible one is {subject.least // KIB}KiB" in capsys.readouterr().err
    assert main([*command, f"{subject.least // KIB}KiB"]) == 0
    said = [capsys.readouterr().out]
    assert main(["inspect", str(out)]) == 0
    said.append(capsys.readouterr().out)
    for text in said:
        assert re.search(r"device memory +[0-9.]+ KiB", text)
        assert re.search(r"memory budget .* for activations, .* for weights", text)
        assert "a run" in text
    assert main(["profile", str(out), "--seconds", "0.05", "--json"]) == 0
    launches = [row for row in Artifact.open(out).manifest["program"]["steps"] if isinstance(row, list)]
    assert len(json.loads(capsys.readouterr().out)["steps"]) == len(launches)
