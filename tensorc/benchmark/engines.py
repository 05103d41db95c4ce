"""How each engine is opened on a model: one function an engine, each giving a call that runs the model once.

Every engine gets the same number of threads and is asked for float32 arithmetic; what else it does is its default.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Feed = Mapping[str, np.ndarray]
Call = Callable[[], object]


def open_tensorc(model: str, feed: Feed, threads: int) -> Call:
    import tensorc

    loaded = tensorc.load(model, threads=threads)
    inputs = dict(feed)
    return lambda: loaded.run(None, inputs)


def open_onnxruntime(model: str, feed: Feed, threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs = dict(feed)
    return lambda: session.run(None, inputs)


def open_openvino(model: str, feed: Feed, threads: int) -> Call:
    openvino: Any = importlib.import_module("openvino")  # optional, hence no import that a type checker would follow
    network = openvino.Core().read_model(model)
    network.reshape({name: list(array.shape) for name, array in feed.items()})
    config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(network, "CPU", config).create_infer_request()
    inputs = dict(feed)
    return lambda: request.infer(inputs, share_inputs=True, share_outputs=True)


#: Name on the command line -> (opens the engine, the module it needs, the pip extra of tensorc that brings it).
ENGINES: dict[str, tuple[Callable[[str, Feed, int], Call], str, str]] = {
    "tensorc": (open_tensorc, "tensorc", ""),
    "onnxruntime": (open_onnxruntime, "onnxruntime", ""),
    "openvino": (open_openvino, "openvino", "bench"),
}
