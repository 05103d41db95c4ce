"""The networks that the FPGA is shown on: as good as their scripts say, and trained with gradients that are right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from examples.export import Nodes
from examples.fpga import train_jets, train_pulses, train_residual
from examples.fpga.jets import CLASSES, MASS_TOP, MASS_W, jets, partons
from examples.fpga.pulses import STEP, pulses
from examples.layers import Pass, gelu, maxpool2x2, upsample
from examples.training import CALIBRATION, by_onnxruntime, cross_entropy, squared_error, to_onnx

FPGA = Path(__file__).parents[2] / "examples" / "fpga"
SCRIPTS = {"jets": train_jets, "pulses": train_pulses, "residual": train_residual}


def committed(name):
    model = onnx.load(FPGA / f"{name}.onnx")
    entry = model.graph.input[0].name
    heldout, calibration = (dict(np.load(FPGA / f"{name}_{kind}.npz")) for kind in ("heldout", "calibration"))
    return model, heldout.pop(entry), heldout, calibration[entry]


@pytest.mark.parametrize(("name", "samples", "right"), [("jets", 1000, 77.8), ("residual", 360, 96.39)])
def test_the_committed_classifiers_are_as_right_as_is_said(name, samples, right):
    model, inputs, wanted, _ = committed(name)
    assert len(inputs) == len(wanted["labels"]) == samples
    found = by_onnxruntime(model, inputs)
    assert 100 * (found.argmax(1) == wanted["labels"]).mean() == pytest.approx(right, abs=0.15)


def test_the_committed_autoencoder_takes_most_of_the_noise_away():
    model, inputs, wanted, _ = committed("pulses")
    assert len(inputs) == 256
    assert train_pulses.error(inputs, wanted["clean"]) == pytest.approx(0.2408, abs=1e-4)
    assert train_pulses.error(by_onnxruntime(model, inputs), wanted["clean"][:, 0]) == pytest.approx(0.0252, abs=1e-4)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_committed_files_are_whole_small_and_what_the_scripts_write(name):
    model, inputs, _, calibration = committed(name)
    onnx.checker.check_model(model, full_check=True)
    shape = tuple(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim)
    assert shape[0] == 1
    assert inputs.shape[1:] == calibration.shape[1:] == shape
    assert inputs.dtype == calibration.dtype == np.float32
    assert len(calibration) == CALIBRATION
    assert not (calibration[:, None] == inputs[None]).all(tuple(range(2, inputs.ndim + 1))).any()
    assert all(path.stat().st_size < 100_000 for path in FPGA.glob(f"{name}*"))
    script = SCRIPTS[name]
    assert list(model.graph.node) == script.nodes().nodes
    arrays = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    fresh = script.initial_parameters(np.random.default_rng(0))
    assert {each: array.shape for each, array in fresh.items()} == {each: arrays[each].shape for each in fresh}
    found, _ = script.network({each: arrays[each] for each in fresh}, inputs[:8, 0])
    theirs = by_onnxruntime(model, inputs[:8])
    if name == "jets":
        found = np.log(np.exp(found) / np.exp(found).sum(1, keepdims=True))
        theirs = np.log(theirs)
    np.testing.assert_allclose(theirs, found, rtol=1e-4, atol=1e-4)


def assert_gradient(value, array, gradient, rng, places=6):
    """`gradient` is how value() changes with some elements of `array`, which is changed in place."""
    assert gradient.shape == array.shape
    for index in rng.choice(array.size, min(places, array.size), replace=False):
        at, step = np.unravel_index(index, array.shape), 1e-6
        kept = array[at]
        array[at] = kept + step
        above = value()
        array[at] = kept - step
        below = value()
        array[at] = kept
        assert gradient[at] == pytest.approx((above - below) / (2 * step), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", SCRIPTS)
def test_gradients_are_those_that_differences_give(name):
    script, rng = SCRIPTS[name], np.random.default_rng(3)
    parameters = {each: array.astype(float) for each, array in script.initial_parameters(rng).items()}
    for array in parameters.values():
        array += 0.1 * rng.standard_normal(array.shape)  # biases too: no ReLU at its corner
    _, inputs, wanted, _ = committed(name)
    x, target = inputs[:3, 0].astype(float), wanted.get("labels", wanted.get("clean", np.empty(0)))[:3]
    loss, target = (squared_error, target[:, 0]) if name == "pulses" else (cross_entropy, target)
    found, backward = script.network(parameters, x)
    gradients = backward(loss(found, target)[1])
    assert gradients.keys() == parameters.keys()
    for each, array in parameters.items():
        assert_gradient(lambda: loss(script.network(parameters, x)[0], target)[0], array, gradients[each], rng)


@pytest.mark.parametrize(
    ("shape", "kernel", "stride"),
    [((2, 3, 10), (3,), 1), ((2, 3, 9), (5,), 2), ((2, 2, 7, 6), (3, 5), 2), ((1, 2, 5, 4), (1, 1), 1)],
)
def test_convolutions_are_onnx_s_and_their_gradients_right(shape, kernel, stride):
    rng = np.random.default_rng(0)
    parameters = {"conv.weight": rng.standard_normal((4, shape[1], *kernel)), "conv.bias": rng.standard_normal(4)}
    x = rng.standard_normal(shape)
    forward = Pass(parameters)
    y, backward = forward.conv("conv", x, stride)
    weights = rng.standard_normal(y.shape)
    dx = backward(weights)

    def value():
        return (Pass(parameters).conv("conv", x, stride)[0] * weights).sum()

    for array, gradient in [(x, dx), *((parameters[name], forward.gradients[name]) for name in parameters)]:
        assert_gradient(value, array, gradient, rng)
    nodes = Nodes()
    nodes.conv("conv", "x", kernel, stride)
    single = {name: array.astype(np.float32) for name, array in parameters.items()}
    model = to_onnx("conv", nodes.nodes, single, {"x": shape}, {"conv": y.shape}, opset=17, ir=8)
    np.testing.assert_allclose(by_onnxruntime(model, x[None].astype(np.float32)), y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", [upsample, maxpool2x2, gelu])
def test_layers_without_parameters_have_right_gradients(layer):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 4, 6))
    y, backward = layer(x)
    weights = rng.standard_normal(y.shape)
    gradient = backward(weights)
    # gelu's factor is rounded to float32, as training has it.
    if layer is gelu:
        step = 1e-2
        want = (layer(x + step)[0] - layer(x - step)[0]) / (2 * step) * weights
        np.testing.assert_allclose(gradient, want, atol=1e-3)
    else:
        assert_gradient(lambda: (layer(x)[0] * weights).sum(), x, gradient, rng, places=40)


def test_jets_are_the_same_for_a_seed_and_heavy_ones_have_their_mass():
    values, labels = jets(300, np.random.default_rng(5))
    again, _ = jets(300, np.random.default_rng(5))
    np.testing.assert_array_equal(values, again)
    assert np.isfinite(values).all()
    assert set(labels) == set(range(len(CLASSES)))
    mass = values[:, 14]
    assert np.median(mass[labels == 2]) < np.median(mass[labels == 3]) < np.median(mass[labels == 4])
    # Of the quarks alone, which have none themselves: m^2 = sum p_i p_j d_ij^2, but for the angles' being small.
    chosen = np.repeat([2, 4], 500)
    momentum, place = partons(chosen, np.random.default_rng(6))
    apart = ((place[:, :, None] - place[:, None]) ** 2).sum(-1)
    mass = np.sqrt((momentum[:, :, None] * momentum[:, None] * apart).sum((1, 2)) / 2)
    assert np.median(mass[chosen == 2]) == pytest.approx(MASS_W, rel=0.03)
    assert np.median(mass[chosen == 4]) == pytest.approx(MASS_TOP, rel=0.06)


def test_recorded_pulses_are_whole_steps_of_the_converter():
    recorded, clean = pulses(50, np.random.default_rng(5))
    assert recorded.shape == clean.shape == (50, 1, 64)
    np.testing.assert_array_equal(recorded, np.round(recorded / STEP) * STEP)
    assert clean.min() == 0
    assert 0.15 < clean.max() < 4
    np.testing.assert_array_equal(recorded, pulses(50, np.random.default_rng(5))[0])
