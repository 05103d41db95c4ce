"""What other engines plan for the activations of a model: `python benchmarks/planned_arenas.py ENGINE MODEL.onnx`.

Prints a JSON object, `{"bytes": N}` or, where the engine does not take the model or plans nothing, `{"why": "..."}`.
Weights that the file declares as inputs, too, are constants here. In a process of its own: ONNX Runtime says what it
asks for on standard error, and TVM is 4 s of imports.

- `onnxruntime`: the block of its memory pattern, which it finds in a first run and allocates whole from then on.
  Neither scratch memory of kernels nor outputs are in it.
- `tvm`: the storages of Relax's StaticPlanBlockMemory after its usual fusion. Weights are not in them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

Shapes = Mapping[str, Sequence[int]]

#: Reported for every extension of an arena; after one run and a shrinkage, the first is that of the memory pattern.
_ASKED = re.compile(r"Extending BFCArena for Cpu.*?num_bytes: (\d+)")


def planned_arena(engine: str, path: Path, shapes: Shapes | None = None) -> dict[str, Any]:
    command = [sys.executable, __file__, engine, str(path), json.dumps({k: list(v) for k, v in (shapes or {}).items()})]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "Error" in line] or done.stderr.splitlines()[-1:]
        return {"why": said[0].strip() if said else f"exit code {done.returncode}"}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _onnxruntime(path: Path, shapes: Shapes) -> dict[str, Any]:
    import numpy as np
    import onnxruntime

    onnxruntime.set_default_logger_severity(1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = _model(path).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    types = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
    feeds = {
        value.name: np.ones(shapes.get(value.name, value.shape), types[value.type]) for value in session.get_inputs()
    }
    outputs = session.run(None, feeds)
    binding = session.io_binding()  # outputs of its own would keep parts of the arena from being let go
    for name, value in feeds.items():
        binding.bind_cpu_input(name, value)
    for output, array in zip(session.get_outputs(), outputs, strict=True):
        binding.bind_ortvalue_output(output.name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    shrink = onnxruntime.RunOptions()
    shrink.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    for _ in range(2):
        session.run_with_iobinding(binding, shrink)
    with tempfile.TemporaryFile() as log:
        errors = os.dup(2)
        os.dup2(log.fileno(), 2)
        session.run_with_iobinding(binding, shrink)
        os.dup2(errors, 2)
        log.seek(0)
        found = _ASKED.search(log.read().decode())
    return {"bytes": int(found[1])} if found else {"why": "no pattern, or it fits the region that the arena keeps"}


def _tvm(path: Path, shapes: Shapes) -> dict[str, Any]:
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    module = from_onnx(_model(path), shape_dict=dict(shapes) or None)
    step = relax.transform
    steps = [
        step.DecomposeOpsForInference(), step.CanonicalizeBindings(), step.LegalizeOps(), step.AnnotateTIROpPattern(),
        step.FoldConstant(), step.FuseOps(), step.FuseTIR(), step.DeadCodeElimination(), step.ToNonDataflow(),
        step.RemovePurityChecking(), step.CallTIRRewrite(), step.StaticPlanBlockMemory(),
    ]  # fmt: skip
    with tvm.target.Target("llvm"), tvm.transform.PassContext(opt_level=3):
        module = tvm.ir.transform.Sequential(steps)(module)
    sizes: list[int] = []

    def visit(expression: Any) -> None:
        if isinstance(expression, relax.Call) and getattr(expression.op, "name", "") == "relax.memory.alloc_storage":
            sizes.extend(int(size) for size in expression.args[0].values)

    for function in module.functions.values():
        if isinstance(function, relax.Function):
            relax.analysis.post_order_visit(function, visit)
    return {"bytes": sum(sizes)}


def _model(path: Path) -> onnx.ModelProto:
    model = onnx.load(path)
    weights = {weight.name for weight in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)  # before, weights had to be inputs
    return model


ENGINES = {"onnxruntime": _onnxruntime, "tvm": _tvm}


if __name__ == "__main__":
    engine, path, *shapes = sys.argv[1:]
    print(json.dumps(ENGINES[engine](Path(path), json.loads(shapes[0]) if shapes else {})))
