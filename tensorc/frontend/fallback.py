"""Nodes that are not compiled, as models of their own for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import helper

from tensorc.errors import UnsupportedError
from tensorc.frontend.reader import LoadedModel, element_code
from tensorc.frontend.scope import Absent, Datum, OnHost, SequenceDatum

#: The operator of `tensorc.dynamic.host` that does it.
ONNX_RUNTIME = "onnx_runtime"


def on_onnx_runtime(node: onnx.NodeProto, model: LoadedModel, inputs: Mapping[str, Datum]) -> OnHost:
    """A call of ONNX Runtime that does what `node` does. Raises UnsupportedError if that does not know it either."""
    import onnxruntime

    given = [helper.make_value_info(name, _type(datum)) for name, datum in inputs.items()]
    made = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
    proto = helper.make_model(
        helper.make_graph([node], node.op_type, given, made),
        opset_imports=model.proto.opset_import,
        ir_version=model.proto.ir_version,
    )
    data = proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own kinds of error, of many names
        first, *_ = str(error).splitlines() or [""]
        name = node.name or next((name for name in node.output if name), "")
        raise UnsupportedError(
            f"{model.name}: node {name!r} ({node.op_type}) runs neither here nor on ONNX Runtime: {first}"
        ) from error
    return OnHost(ONNX_RUNTIME, list(inputs.values()), {"model": data})


def _type(datum: Datum) -> onnx.TypeProto:
    if isinstance(datum, Absent):
        raise UnsupportedError("an optional that holds nothing cannot be given to ONNX Runtime")
    if isinstance(datum, SequenceDatum):
        tensor = helper.make_tensor_type_proto(element_code(datum.dtype or "float32"), None)
        return helper.make_sequence_type_proto(tensor)
    return helper.make_tensor_type_proto(element_code(datum.dtype), None)
