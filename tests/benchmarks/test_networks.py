"""The networks that the cost model is trained on: models as ONNX wants them, with kernels to tune."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from benchmarks.cost_model.networks import NETWORKS
from targets.cpu import CpuTarget
from tensorc.frontend.importer import import_model
from tensorc.options import CompileOptions
from tensorc.pipeline import run_passes
from tensorc.search.tasks import tasks_of

#: Of each kind one that is small.
SMALL = ("resnet_cifar_b8", "shufflenet_v1_192", "keyword_spotting", "quartznet_256", "bert_tiny_32_b8",
         "recommender_b128")  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_networks_run_and_leave_schedules_to_choose(name):
    model = NETWORKS[name]()
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feeds = {
        x.name: rng.integers(0, 9, x.shape) if "int" in x.type else rng.standard_normal(x.shape, np.float32)
        for x in session.get_inputs()
    }
    for output in session.run(None, feeds):
        assert np.isfinite(output).all()
        assert output.std() > 0
    graph = import_model(model).graph
    target, options = CpuTarget(), CompileOptions()
    run_passes(graph, target.passes(options))
    assert len(tasks_of(graph, target.tuning(options))) > 2


def test_a_network_is_the_same_each_time():
    assert NETWORKS["keyword_spotting"]() == NETWORKS["keyword_spotting"]()


def test_resnet18_is_as_large_as_the_published_one():
    """11,689,512 parameters, less what batch normalisations fold away: of their two for each channel, one stays."""
    arrays = [onnx.numpy_helper.to_array(each) for each in NETWORKS["resnet18_224"]().graph.initializer]
    assert sum(array.size for array in arrays if array.dtype == np.float32) == 11_689_512 - 4_800
