"""What a loaded model does on its device: on the emulator, and on a GPU where one is.

What only a GPU can show is at the end, and marked `gpu` by itself: the driver's own library, streams that overlap,
machine code that is for another GPU, PyTorch's arrays, and bundles measured.
"""

from __future__ import annotations

import gc
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import tensorc
from targets.cuda.compiler import compile_kernel
from targets.cuda.driver import Driver
from targets.cuda.executable import CudaExecutable
from targets.cuda.gpu import NAMED, detect
from targets.cuda.tuning.context import CudaTuning
from targets.cuda.tuning.measure import measure_bundle
from tensorc.errors import UserError
from tensorc.quantization.scheme import Quantization
from tensorc.runtime.artifact import Artifact
from tensorc.runtime.constants import views
from tensorc.runtime.dlpack import DeviceArray
from tensorc.search.bundle import BundleTask

pytestmark = pytest.mark.compiler

DIGITS = Path(__file__).parents[3] / "examples" / "digits"


@pytest.fixture
def model(device, two_layer_artifacts):
    with tensorc.load(two_layer_artifacts(device.target)) as model:
        yield model


@pytest.fixture
def feed():
    rng = np.random.default_rng(1)
    return {"x": rng.standard_normal((3, 6), np.float32), "y": rng.standard_normal((3, 5), np.float32)}


def check(outputs, feed, expected_two):
    for got, wanted in zip(outputs, expected_two(feed["x"], feed["y"]), strict=True):
        np.testing.assert_allclose(np.asarray(got), wanted, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def ranges(tmp_path_factory):
    """Of the digits' network, found on the CPU: the emulator would take a minute."""
    kept = tmp_path_factory.mktemp("ranges") / "ranges.json"
    tensorc.compile(
        DIGITS / "digits.onnx", quantize=Quantization("int8", DIGITS / "calibration.npz", save=kept)
    ).close()
    return kept


@pytest.mark.parametrize(
    ("options", "least", "most"),
    [({}, 0, 1e-5), ({"precision": "float16"}, 1e-6, 2**-9), ({"quantize": "int8"}, 1e-3, 0.03)],
    ids=["float32", "float16", "int8"],
)
def test_digits_are_what_onnx_runtime_reads(device, options, least, most, request):
    given = {**options, **({"calibration": request.getfixturevalue("ranges")} if "quantize" in options else {})}
    images = (np.load(DIGITS / "heldout.npz")["images"][:3] / 16).astype(np.float32)
    session = onnxruntime.InferenceSession(DIGITS / "digits.onnx")
    with tensorc.compile(DIGITS / "digits.onnx", device.target, **given) as model:
        for image in images[:, None]:
            (want,) = session.run(None, {"image": image})
            (got,) = model.run(None, {"image": image})
            assert got.dtype == np.float32
            assert got.argmax() == want.argmax()
            assert least <= np.abs(got - want).max() / np.abs(want).max() < most


def test_numpy_arrays(model, feed, expected_two):
    check(model.run(None, feed), feed, expected_two)
    feed["x"][0] = 7
    check(model.run(None, feed), feed, expected_two)


def test_a_run_again_reads_what_is_there_then(device, model, feed, expected_two):
    x, a = device.put(feed["x"]), device.put(np.zeros((3, 5), np.float32))
    run = model.run_async({"x": x, "y": feed["y"]}, outputs={"a": a})
    run.wait()
    model.run(None, {name: np.zeros_like(array) for name, array in feed.items()})
    feed["x"][:] = np.flip(feed["x"])
    device.fill(x, feed["x"])
    feed["y"][:] += 1
    outputs = run.again().wait()
    check([device.get(a), outputs[1].numpy()], feed, expected_two)
    model.close()
    with pytest.raises(UserError, match="the model is closed"):
        run.again()


def test_device_arrays_wherever_they_begin(device, model, feed, expected_two):
    for offset in (0, 4, 16):
        lent = {name: device.put(array, offset) for name, array in feed.items()}
        check(model.run(None, lent), feed, expected_two)


def test_outputs_stay_on_the_device(device, model, feed, expected_two):
    outputs = model.run_async(feed).wait()
    assert all(isinstance(out, DeviceArray) for out in outputs)
    check([out.numpy() for out in outputs], feed, expected_two)
    assert outputs[0].__dlpack_device__() == device.memory
    assert (outputs[0].shape, outputs[0].dtype, outputs[0].nbytes) == ((3, 5), "float32", 60)


def test_an_output_is_an_input_as_it_is(model, feed, expected_two):
    first, _ = model.run_async(feed).outputs
    outputs = model.run(None, {"x": feed["x"], "y": first})
    check(outputs, {"x": feed["x"], "y": first.numpy()}, expected_two)


def test_outputs_outlive_the_model(model, feed, expected_two):
    waited, later = model.run_async(feed).wait(), model.run_async(feed).outputs
    model.close()
    gc.collect()
    check([out.numpy() for out in waited], feed, expected_two)
    check([out.numpy() for out in later], feed, expected_two)


def test_outputs_are_written_to_the_callers_buffers(device, model, feed, expected_two):
    a, s = device.put(np.zeros((3, 5), np.float32)), np.empty((3, 5), np.float32)
    run = model.run_async({"x": device.put(feed["x"]), "y": feed["y"]}, outputs={"a": a, "s": s})
    assert run.wait()[0] is a
    assert run.outputs[1] is s
    check([device.get(a), s], feed, expected_two)


def test_some_outputs_have_buffers(device, model, feed, expected_two):
    s = device.put(np.zeros((3, 5), np.float32))
    outputs = model.run_async(feed, outputs={"s": s}).wait()
    check([outputs[0].numpy(), device.get(s)], feed, expected_two)


def test_threads_take_turns(device, model, expected_two):
    failures = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(20):
            feed = {"x": rng.standard_normal((3, 6), np.float32), "y": rng.standard_normal((3, 5), np.float32)}
            try:
                lent = {name: device.put(array) for name, array in feed.items()} if seed % 2 else feed
                check(model.run_async(lent).wait() if seed % 3 else model.run(None, lent), feed, expected_two)
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_model_closed_while_others_run_it(device, model, feed, expected_two):
    executable, inputs = model.executable, model.bind(feed)
    said = []

    def work():
        try:
            while True:
                check(executable.run(inputs), feed, expected_two)
        except UserError as error:
            said.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    model.close()
    for thread in threads:
        thread.join()
    assert said == ["the model is closed"] * 3
    with pytest.raises(UserError, match="the model is closed"):
        executable.borrow(device.put(feed["x"]), device.memory, None)


def test_a_loop_that_data_end(device):
    """v = 2 v + i until the sum is 100: the host writes the iteration's number, and reads the condition."""
    body = onnx.parser.parse_graph("""
        body (int64 i, bool go, float[4] v) => (bool more, float[4] w) <float two = {2.0}, float most = {100.0}> {
            doubled = Mul(v, two)
            number = Cast<to: int = 1>(i)
            w = Add(doubled, number)
            sum = ReduceSum<keepdims: int = 0>(w)
            more = Less(sum, most)
        }""")
    go = onnx.numpy_helper.from_array(np.array(True), "go")
    node = onnx.helper.make_node("Loop", ["", "go", "x"], ["y"], body=body)
    rows = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([node], "loop", rows[:1], rows[1:], [go])
    source = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    with tensorc.compile(source, device.target) as model:
        for x in (np.arange(4, dtype=np.float32), np.full(4, 30, np.float32), np.full(4, 0.25, np.float32)):
            want, number = 2 * x, 0
            while want.sum() < 100:
                number += 1
                want = 2 * want + number
            np.testing.assert_allclose(model.run(None, {"x": x})[0], want)
            np.testing.assert_allclose(model.run_async({"x": device.put(x)}).wait()[0].numpy(), want)


def test_a_profile_leaves_runs_as_they_were(model, feed, expected_two):
    report = model.executable.profile(model.bind(feed), 0.01, False, lambda *_: None)
    assert [step.label for step in report.steps] == [launch.label for launch in model.executable.program.launches]
    assert all(0 < step.seconds < 1 for step in report.steps)
    check(model.run(None, feed), feed, expected_two)


# A GPU alone ---------------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_a_gpu_says_what_it_is(gpu):
    facts = gpu.driver.facts()
    assert facts.name.startswith(("NVIDIA", "Tesla", "Quadro"))
    assert facts.capability == gpu.driver.capability >= detect().capability
    assert facts.multiprocessors > 0
    assert 1e10 < facts.bandwidth < 1e14


@pytest.mark.gpu
def test_more_memory_than_there_is(gpu):
    with pytest.raises(UserError, match=r"the GPU has no 1048576\.00 GiB left: .* GiB of its .* GiB are free"):
        gpu.driver.allocate(1 << 50)
    address = gpu.driver.allocate(16)
    gpu.driver.free(address)


@pytest.mark.gpu
def test_ptx_runs_where_the_machine_code_does_not(two_layer_artifacts, feed, expected_two):
    """As on a GPU of a later kind than the artifact was compiled for."""
    other = NAMED["sm_80" if detect().name == "sm_75" else "sm_75"]

    class Foreign(Driver):
        def load(self, name, code):
            foreign = compile_kernel(f'extern "C" __global__ void {name}() {{}}', name, other)
            return super().load(name, replace(code, cubin=foreign.cubin))

    artifact = Artifact.open(two_layer_artifacts("cuda"))
    sections = {name: artifact.section(name) for name in artifact.names}
    constants = views(sections["constants"], artifact.manifest["constants"])
    executable = CudaExecutable(artifact.manifest["program"], sections, constants, Foreign())
    check(executable.run([feed["x"], feed["y"]]), feed, expected_two)
    executable.close()


@pytest.mark.gpu
def test_a_model_closed_while_runs_go_on(gpu, two_layer_artifacts, feed, expected_two):
    model = tensorc.load(two_layer_artifacts(gpu.target))
    run = model.run_async(feed)
    for _ in range(1000):
        run.again()
    model.close()
    check([out.numpy() for out in run.outputs], feed, expected_two)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # PyTorch's own
def test_pytorchs_arrays_and_streams(gpu, two_layer_artifacts, expected_two):
    import torch  # on a machine with a GPU the test demands it

    assert torch.cuda.is_available(), "this PyTorch is without CUDA: install one that has it"
    x, y = torch.randn(3, 6, device="cuda"), torch.randn(3, 5, device="cuda")
    buffer, stream = torch.empty(3, 5, device="cuda"), torch.cuda.Stream()

    def checked(outputs):
        torch.cuda.synchronize()
        check([out.cpu() for out in outputs], {"x": x.cpu().numpy(), "y": y.cpu().numpy()}, expected_two)

    with tensorc.load(two_layer_artifacts(gpu.target)) as model:
        checked(map(torch.from_numpy, model.run(None, {"x": x, "y": y})))
        checked([torch.from_dlpack(out) for out in model.run_async({"x": x, "y": y}).outputs])
        checked([torch.from_dlpack(out) for out in model.run_async({"x": x, "y": y}, stream=0).outputs])
        with torch.cuda.stream(stream):
            for _ in range(50):  # the stream alone keeps what is written before the run from what is read after it
                x.add_(torch.ones_like(x))
                run = model.run_async({"x": x, "y": y}, {"a": buffer}, stream.cuda_stream)
                taken, other = buffer.clone(), torch.from_dlpack(run.outputs[1]).clone()
        checked([taken, other])
        with pytest.raises(UserError, match="it is not contiguous"):
            model.run(None, {"x": torch.randn(6, 3, device="cuda").T, "y": y})
        with pytest.raises(UserError, match="does not begin at a multiple of 16"):
            model.run_async({"x": x, "y": y}, {"a": torch.empty(16, device="cuda")[1:].reshape(3, 5)})
    checked([taken, other])


@pytest.mark.gpu
def test_a_bundle_is_measured(cuda, tmp_path):
    context = CudaTuning(detect())
    body = cuda.body("relu(matmul_packed(x, w, columns=40))", x="f16[5,64]", w="f16[5,64,8]")
    space = context.space(body)
    rng = np.random.default_rng(0)
    values = list({space.default_values(): None, **{space.sample(rng): None for _ in range(6)}})
    schedules = [space.schedule(value) for value in values]
    context.export_bundle(tmp_path / "bundle", [BundleTask(context.key(body), body, schedules)])
    assert measure_bundle(tmp_path / "bundle") == 0
    results = context.import_bundle(tmp_path / "bundle")
    assert results.unmeasured == 0
    assert [record.ok for record in results.records] == [True] * len(schedules)
    assert all(1e-7 < min(record.seconds) < 1e-2 for record in results.records)
