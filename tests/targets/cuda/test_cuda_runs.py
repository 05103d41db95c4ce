"""Runs of a loaded model, as the emulator can be asked about them: where arrays are read, what is told to the device,
in what order, and what is refused. What runs compute is in test_cuda_devices."""

from __future__ import annotations

import gc
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import tensorc
from targets.cuda.device import Call, Mark
from targets.cuda.emulator import Emulator, compile_for_host, launch
from targets.cuda.executable import CudaExecutable
from tensorc.errors import UserError
from tensorc.runtime.artifact import Artifact
from tensorc.runtime.constants import views
from tensorc.runtime.dlpack import Borrowed, DeviceArray

from .conftest import Lent, aligned

pytestmark = pytest.mark.compiler


@pytest.fixture
def feed():
    rng = np.random.default_rng(1)
    x, y = aligned((3, 6)), aligned((3, 5))
    x[:], y[:] = rng.standard_normal(x.shape), rng.standard_normal(y.shape)
    return {"x": x, "y": y}


def check(outputs, feed, expected_two):
    for got, wanted in zip(outputs, expected_two(feed["x"], feed["y"]), strict=True):
        np.testing.assert_allclose(np.asarray(got), wanted, rtol=1e-5, atol=1e-6)


def test_device_arrays_are_read_where_they_lie(two, feed, expected_two, monkeypatch):
    borrowed = two.bind({name: Lent(array) for name, array in feed.items()})
    assert [b.address for b in borrowed] == [feed["x"].ctypes.data, feed["y"].ctypes.data]

    def refuse(*_):
        raise AssertionError("copied")

    for name in ("write", "copy"):
        monkeypatch.setattr(Emulator, name, refuse)
    check(two.run(None, {name: Lent(array) for name, array in feed.items()}), feed, expected_two)


def test_only_launches_with_another_address_are_told(two, feed, monkeypatch):
    told = []
    rebind = Emulator.rebind
    monkeypatch.setattr(Emulator, "rebind", lambda *a: (told.append(a[2]), rebind(*a)))
    program = two.executable.program
    with_y = [n for n, launch in enumerate(program.launches) if ("input", 1) in
              {(a.space, a.index) for a in launch.arguments}]  # fmt: skip
    assert 0 < len(with_y) < len(program.launches)
    two.run(None, feed)
    assert told == []
    lent = Lent(feed["y"])
    two.run(None, {"x": feed["x"], "y": lent})
    assert told == with_y
    two.run(None, {"x": feed["x"], "y": lent})
    assert told == with_y, "the address is the same"
    two.run(None, feed)
    assert told == 2 * with_y, "back in the model's own memory"


def test_what_was_taken_outlives_the_output_and_the_model(two, feed, expected_two):
    outputs = [np.from_dlpack(out) for out in two.run_async(feed).wait()]
    two.close()
    gc.collect()
    check(outputs, feed, expected_two)


def test_a_capsule_that_nobody_takes_frees_what_it_holds(two, feed):
    from tensorc.runtime import dlpack

    out, _ = two.run_async(feed).outputs
    before = len(dlpack._lent)
    for version in (None, (1, 0)):
        capsule = out.__dlpack__(max_version=version)
        assert len(dlpack._lent) == before + 1
        del capsule
        assert len(dlpack._lent) == before
    taken = np.from_dlpack(out)
    assert len(dlpack._lent) == before + 1
    del taken
    assert len(dlpack._lent) == before


class LikeGpu(Emulator):
    """Memory that DLPack calls a GPU's, and a stream with a handle."""

    memory, stream = (2, 0), 55


def test_producers_have_the_stream_of_the_run_wait(two_layer_artifact, feed):
    executable = opened(two_layer_artifact, LikeGpu())
    lent = Lent(feed["x"], (2, 0))
    for stream in (None, 77, 0):
        assert executable.borrow(lent, (2, 0), stream).address == feed["x"].ctypes.data
    assert lent.streams == [55, 77, 1], "its own, the caller's, and the legacy default stream as DLPack spells it"
    assert executable.borrow(Lent(feed["x"], (13, 0)), (13, 0), None) is not None, "managed memory"
    assert executable.borrow(Lent(feed["x"]), (1, 0), None) is None
    with pytest.raises(UserError, match="it lies on GPU 1, and the model on GPU 0"):
        executable.borrow(Lent(feed["x"], (2, 1)), (2, 1), None)
    executable.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: Lent(x.astype(np.float64)), "input 'x' has element type float64; it must be float32"),
        (lambda x: Lent(x.T.copy()), r"input 'x' has shape \[6, 3\]; it must be \[3, 6\]"),
        (lambda x: Lent(np.asfortranarray(x)), "input 'x': it is not contiguous in C order on the GPU"),
        (lambda x: Lent(x, (8, 0)), "input 'x': it does not lie where this model runs"),
        (lambda x: Lent(x.astype(">f4")), "input 'x': an array of type Lent does not lend its memory"),
    ],
)
def test_wrong_device_arrays(two, feed, change, message):
    with pytest.raises(UserError, match=message):
        two.run(None, {**feed, "x": change(feed["x"])})


@pytest.mark.parametrize(
    ("buffers", "message"),
    [
        (lambda _: {"t": np.empty(1)}, "no output is named 't'; outputs: a, s"),
        (lambda _: {"a": np.empty((3, 4), np.float32)}, r"output 'a' has shape \[3, 4\]; it must be \[3, 5\]"),
        (lambda _: {"a": np.empty((3, 5))}, "output 'a' has element type float64"),
        (lambda _: {"a": np.empty((5, 3), np.float32).T}, "output 'a' needs a buffer that is C-contiguous"),
        (lambda _: {"a": Lent(aligned((3, 5), offset=4))}, "output 0 does not begin at a multiple of 16"),
        (lambda _: {"a": [1.0]}, "output 'a' cannot be written to an object of type list"),
        (lambda feed: {"a": Lent(feed["y"])}, "overlaps an input"),
    ],
)
def test_wrong_buffers(two, feed, buffers, message):
    with pytest.raises(UserError, match=message):
        two.run_async({**feed, "y": Lent(feed["y"])}, outputs=buffers(feed))


def test_read_only_buffers(two, feed):
    frozen = aligned((3, 5))
    frozen.flags.writeable = False
    for buffer in (frozen, Lent(frozen)):
        with pytest.raises(UserError, match="may be written to"):
            two.run_async(feed, outputs={"a": buffer})


def test_overlapping_buffers(two, feed):
    whole = aligned((4, 5))
    shifted = whole.reshape(-1)[4:19].reshape(3, 5)
    with pytest.raises(UserError, match="overlaps"):
        two.run_async(feed, outputs={"a": Lent(whole[:3]), "s": Lent(shifted)})


def opened(path, device):
    artifact = Artifact.open(path)
    sections = {name: artifact.section(name) for name in artifact.names}
    constants = views(sections["constants"], artifact.manifest["constants"])
    return CudaExecutable(artifact.manifest["program"], sections, constants, device)


class Held(Mark):
    """A mark that tells which streams are held until it is past, which it never is before someone waits."""

    is_past = False

    def __init__(self, told):
        self.told = told

    def wait(self):
        self.is_past = True

    def hold(self, stream):
        self.told.append(stream)


class Marked(LikeGpu):
    def __init__(self):
        super().__init__()
        self.told = []

    def mark(self, _stream=None):
        return Held(self.told)


def test_runs_on_several_streams_wait_for_each_other(two_layer_artifact, feed):
    """They have their memory in common."""
    device = Marked()
    executable = opened(two_layer_artifact, device)
    inputs = [feed["x"], feed["y"]]
    executable.run_async(inputs, [None, None], 7)
    executable.run_async(inputs, [None, None], 7)
    assert device.told == [], "one stream is in order by itself"
    executable.run(inputs)
    assert device.told == [55], "the model's own"
    executable.run_async(inputs, [None, None], 0)
    assert device.told == [55, 0]
    run = executable.run_async(inputs, [None, None], None)
    assert device.told == [55, 0, 55]
    run.outputs[0].__dlpack__(stream=9)
    run.outputs[0].__dlpack__()
    run.outputs[0].__dlpack__(stream=-1)
    assert device.told == [55, 0, 55, 9, 1], "-1: the caller waits itself"
    held = [mark for mark, _ in executable._held]
    executable.close()
    assert all(mark.is_past for mark in held)


def test_only_the_oldest_run_is_asked_whether_it_is_past(two_layer_artifact, feed):
    """However many were begun and go on: none is past before it."""

    class Asked(Mark):
        questions = 0

        @property
        def is_past(self):
            Asked.questions += 1
            return False

        def wait(self): ...

        def hold(self, stream): ...

    device = LikeGpu()
    device.mark = lambda _stream: Asked()
    executable = opened(two_layer_artifact, device)
    for _ in range(6):
        executable.run_async([feed["x"], feed["y"]], [None, None], 7)
    assert Asked.questions == 5
    executable.close()


def test_an_emulated_launch_leaves_no_memory_behind():
    def data_bytes():
        found = re.search(r"VmData:\s*(\d+) kB", Path("/proc/self/status").read_text())
        return 1024 * int(found[1])

    counts = np.zeros(1024, np.int32)
    before = data_bytes()
    for number in range(3):
        source = f'extern "C" __global__ void k(int *x) {{ x[threadIdx.x] += {number}; __syncthreads(); }}'
        launch(compile_for_host("k", source), Call("k", None, 2, 1024, 0, (counts.ctypes.data,)))
    assert (counts == 2 * (0 + 1 + 2)).all()
    assert data_bytes() - before < 64 << 20, "the stacks of 1024 threads take 256 MiB"


def test_too_little_memory_says_what_is_needed(two_layer_artifact):
    with pytest.raises(UserError, match=r"the model needs \d+ B of the GPU's memory: the GPU has no \d+ B left: "
                                        r"\d+ B of its 200 B are free"):  # fmt: skip
        opened(two_layer_artifact, Emulator(capacity=200))


def test_a_gpu_that_is_too_old_is_named(two_layer_artifact):
    class Old(Emulator):
        capability = 80

    with pytest.raises(UserError, match=r"compiled for sm_90, and this GPU is an older sm_80: .* cuda:sm_80"):
        opened(two_layer_artifact, Old())


def test_other_targets_take_such_arrays_from_the_host(tmp_path, feed, expected_two, two_layer_artifact):
    source = two_layer_artifact.with_suffix(".onnx")
    with tensorc.compile(source, target="cpu", out=tmp_path / "two.tcm") as model:
        strided = {**feed, "x": Lent(np.asfortranarray(feed["x"]))}
        check(model.run(None, strided), feed, expected_two)
        a = aligned((3, 5))
        outputs = model.run_async({name: Lent(array) for name, array in feed.items()}, outputs={"a": a}).wait()
        assert outputs[0] is a
        check(outputs, feed, expected_two)
        run = model.run_async(feed, outputs={"a": Lent(a)})
        feed["x"][:] += 1
        check([a, run.again().wait()[1]], feed, expected_two)
        frozen = aligned((3, 5))
        frozen.flags.writeable = False
        for buffer in (Lent(frozen), Lent(np.asfortranarray(a)), np.asfortranarray(a)):
            with pytest.raises(UserError, match="needs a buffer that is C-contiguous and may be written to"):
                model.run_async(feed, outputs={"a": buffer})
        with pytest.raises(UserError, match=r"input 'x': it does not lie where this model runs: .* host's memory"):
            model.run(None, {**feed, "x": Lent(feed["x"], (2, 0))})


def test_types_that_numpy_does_not_know_go_by_dlpack():
    array = DeviceArray(64, "bfloat16", (2, 3), (1, 0), None, lambda _: None, lambda _: None)
    from tensorc.runtime.dlpack import borrow

    lent = borrow(array, (1, 0), None)
    assert (lent.address, lent.dtype, lent.shape, lent.is_contiguous) == (64, "bfloat16", (2, 3), True)
    assert isinstance(lent, Borrowed)
    assert lent.nbytes == 6 * np.dtype(ml_dtypes.bfloat16).itemsize
    with pytest.raises(BufferError, match="no element type int4"):
        DeviceArray(64, "int4", (2,), (1, 0), None, lambda _: None, lambda _: None).__dlpack__()
