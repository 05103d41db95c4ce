"""tensorc as a backend in ONNX's own sense, which its conformance tests and other tools call.

rep = tensorc.backend.prepare(onnx.load("model.onnx"))
outputs = rep.run([x])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnx.backend.base import Backend, BackendRep, Device, DeviceType, namedtupledict

import tensorc
from tensorc.runtime.model import Model
from tensorc.target import installed_targets

#: What one input or output is: an array, a list of them for a sequence, None for an optional that is absent.
Datum = Any


class TensorcRep(BackendRep):
    """A compiled model. `model` is what `tensorc.compile` gave."""

    def __init__(self, model: Model):
        self.model = model

    def run(self, inputs: Any, **_: Any) -> tuple[Datum, ...]:
        """The outputs, as a tuple whose fields have their names. `inputs`: in order, or by name."""
        names = [info.name for info in self.model.get_inputs()]
        if isinstance(inputs, Mapping):
            feed = dict(inputs)
        else:
            given = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
            feed = dict(zip(names, given, strict=False))
        outputs = self.model.run(None, feed)
        fields = [info.name for info in self.model.get_outputs()]
        result: tuple[Datum, ...] = namedtupledict("Outputs", fields)(*outputs)
        return result


class TensorcBackend(Backend):
    """`prepare` takes the keywords of `tensorc.compile`."""

    @classmethod
    def is_compatible(cls, model: ModelProto, device: str = "CPU", **_: Any) -> bool:  # noqa: ARG003
        """Whether the device is one of ours. What a model holds shows when it is prepared, by an error of one line."""
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> TensorcRep:
        """Compile the model. Raises `tensorc.errors.UserError`."""
        return TensorcRep(tensorc.compile(model, target=_target(device), **kwargs))

    @classmethod
    def run_model(cls, model: ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Datum, ...]:
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype, tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Datum, ...]:
        """Compile a model of this one node and run it. `opset_version` is the newest one if it is not given."""
        opset = kwargs.pop("opset_version", onnx.defs.onnx_opset_version())
        names = [name for name in node.input if name]
        feed = dict(inputs) if isinstance(inputs, Mapping) else dict(zip(names, inputs, strict=True))
        given = [
            helper.make_tensor_value_info(name, numpy_helper.from_array(np.asarray(feed[name])).data_type,
                                          np.shape(feed[name]))
            for name in dict.fromkeys(names)
        ]  # fmt: skip
        made = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
        if outputs_info is not None:
            made = [
                helper.make_tensor_value_info(value.name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
                for value, (dtype, shape) in zip(made, outputs_info, strict=True)
            ]
        graph = helper.make_graph([node], node.op_type, given, made)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid(node.domain, opset)])
        return cls.run_model(model, feed, device, **kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        try:
            return _target(device) in {target.name for target in installed_targets()}
        except (KeyError, ValueError):
            return False


def _target(device: str) -> str:
    """`CPU`, `CUDA` or `CUDA:0` in ONNX's words, `cpu` and `cuda` in ours."""
    return {DeviceType.CPU: "cpu", DeviceType.CUDA: "cuda"}[Device(device).type]


is_compatible = TensorcBackend.is_compatible
prepare = TensorcBackend.prepare
run_model = TensorcBackend.run_model
run_node = TensorcBackend.run_node
supports_device = TensorcBackend.supports_device
