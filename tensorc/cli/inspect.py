"""`tensorc inspect`: what a file holds, an ONNX model before compilation or an artifact after it."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tensorc.cli.console import print_json, print_table, progress_bar, tensor
from tensorc.cli.memory import Memory, draw_memory, print_memory
from tensorc.cli.options import (
    Shape,
    compile_options,
    json_option,
    model_argument,
    refuse_for_artifact,
    shape_option,
)
from tensorc.cli.plot import check_plot
from tensorc.cli.profile_text import resources_text
from tensorc.cli.subject import is_artifact
from tensorc.errors import UserError
from tensorc.options import format_bytes
from tensorc.runtime.artifact import Artifact

if TYPE_CHECKING:
    from onnx import ModelProto

#: Longer IR is cut in the middle for a person; JSON has it whole.
TEXT_LINES = 40


@click.command()
@model_argument("MODEL.onnx|OUT.tcm")
@shape_option
@click.option("--memory", "wants_memory", is_flag=True, help="Show where activations lie; a model is compiled for it.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.svg",
              help="With --memory: draw that, steps across and bytes up.")  # fmt: skip
@json_option
def inspect(model: Path, shapes: dict[str, Shape], wants_memory: bool, plot: Path | None, as_json: bool) -> int:
    """Show what a model or an artifact holds."""
    if plot is not None:
        if not wants_memory:
            raise UserError("--plot is for --memory")
        check_plot(plot)
    if wants_memory:
        return _show_memory(model, shapes, plot, as_json)
    if is_artifact(model):
        refuse_for_artifact(model, None, shapes)
        facts = _artifact_facts(model)
        show = _print_artifact
    else:
        facts = _model_facts(model, shapes)
        show = _print_model
    if as_json:
        print_json(facts)
    else:
        show(facts)
    return 0


def _show_memory(path: Path, shapes: dict[str, Shape], plot: Path | None, as_json: bool) -> int:
    if is_artifact(path):
        refuse_for_artifact(path, None, shapes)
        memory = Memory.of(Artifact.open(path).manifest, path)
    else:
        from tensorc.driver import compile_model

        with tempfile.TemporaryDirectory(prefix="tensorc-") as folder, progress_bar() as watch:
            report = compile_model(path, compile_options(None, shapes, 0), Path(folder) / "model.tcm", watch)
        memory = Memory.of(report.manifest, path)
    if plot is not None:
        draw_memory(memory, plot, f"{path}: activations")
    if as_json:
        print_json({"model": str(path), **memory.to_json()})
    else:
        print_memory(memory, str(path))
    return 0


# ONNX ----------------------------------------------------------------------------------------------------


def _model_facts(path: Path, shapes: dict[str, Shape]) -> dict[str, Any]:
    from tensorc.frontend import import_model, read_model

    proto = read_model(path).proto
    facts: dict[str, Any] = {
        "model": str(path),
        "producer": " ".join(filter(None, (proto.producer_name, proto.producer_version))),
        "opsets": {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import},
        "parameters": sum(math.prod(tensor.dims) for tensor in proto.graph.initializer),
        "operators": _operators(proto),
        "supported": True,
        "problem": None,
    }
    try:
        imported = import_model(path, shapes)
    except UserError as error:
        return facts | {"supported": False, "problem": str(error)}
    graph = imported.graph
    return facts | {
        "inputs": _signature(imported.input_names, graph.inputs),
        "outputs": _signature(imported.output_names, graph.outputs),
        "ir": {
            "nodes": len(graph.nodes),
            "constants": len(graph.constants()),
            "ops": dict(Counter(node.op for node in graph.nodes).most_common()),
            "text": str(graph),
        },
    }


def _operators(proto: ModelProto) -> list[dict[str, Any]]:
    """The operators of the graph and of the model's functions, most frequent first."""
    from tensorc.frontend import supported_operators

    known = {(operator.domain, operator.name) for operator in supported_operators()}
    # A call of the model's own function is supported if what is in the function is.
    own = {(function.domain or "ai.onnx", function.name) for function in proto.functions}
    bodies = (proto.graph.node, *(function.node for function in proto.functions))
    counts = Counter((node.domain or "ai.onnx", node.op_type) for body in bodies for node in body)
    return [
        {"domain": domain, "name": name, "count": count, "supported": (domain, name) in known | own}
        for (domain, name), count in counts.most_common()
    ]


def _signature(names: tuple[str, ...], values: list[Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, "dtype": value.dtype, "shape": list(value.shape)}
        for name, value in zip(names, values, strict=True)
    ]


def _print_model(facts: dict[str, Any]) -> None:
    opsets = ", ".join(f"{domain} {version}" for domain, version in facts["opsets"].items())
    rows = [("opset", opsets), ("producer", facts["producer"]), ("parameters", f"{facts['parameters']:,}")]
    rows += [(f"input {row['name']}", tensor(row)) for row in facts.get("inputs", ())]
    rows += [(f"output {row['name']}", tensor(row)) for row in facts.get("outputs", ())]
    rows += [("supported", "yes" if facts["supported"] else f"no: {facts['problem']}")]
    print_table(facts["model"], (), rows)
    print_table("ONNX operators", ("operator", "count", "supported"), [
        (row["name"] if row["domain"] == "ai.onnx" else f"{row['domain']}.{row['name']}",
         str(row["count"]), "yes" if row["supported"] else "NO")
        for row in facts["operators"]
    ])  # fmt: skip
    if "ir" in facts:
        ir = facts["ir"]
        counts = ", ".join(f"{op} {count}" for op, count in ir["ops"].items())
        click.echo(f"IR: {ir['nodes']} nodes, {ir['constants']} constants ({counts})\n")
        click.echo("\n".join(_shortened(ir["text"].splitlines())))


def _shortened(lines: list[str]) -> list[str]:
    if len(lines) <= TEXT_LINES:
        return lines
    head, tail = TEXT_LINES * 3 // 4, TEXT_LINES // 4
    return [*lines[:head], f"  # {len(lines) - head - tail} lines more; --json has them all", *lines[-tail:]]


# Artifacts -----------------------------------------------------------------------------------------------


def _artifact_facts(path: Path) -> dict[str, Any]:
    return {"artifact": str(path), "bytes": path.stat().st_size, **Artifact.open(path).manifest}


def _print_artifact(facts: dict[str, Any]) -> None:
    rows = [("model", facts["name"]), ("target", facts["target"]), ("tensorc", facts["tensorc"])]
    rows += [(f"input {row['name']}", tensor(row)) for row in facts["inputs"]]
    rows += [(f"output {row['name']}", tensor(row)) for row in facts["outputs"]]
    rows += [(label, value) for label, value in facts["summary"]]
    rows += [(f"section {name}", format_bytes(row["size"])) for name, row in facts["sections"].items()]
    rows += [("file", format_bytes(facts["bytes"]))]
    print_table(facts["artifact"], (), rows)
    _print_resources(facts["program"])
    steps = facts["program"].get("steps")  # a program is the target's own: this table is for those that list steps
    if isinstance(steps, list) and all(isinstance(step, dict) for step in steps):
        columns = [key for key in ("kernel", "label", "tasks") if any(key in step for step in steps)]
        table = [[str(index), *(str(step.get(key, "")) for key in columns)] for index, step in enumerate(steps)]
        print_table("Kernels", ("step", *columns), table)


def _print_resources(program: dict[str, Any]) -> None:
    """What each kernel takes of the processors that run it, where the compiler says that."""
    kernels = program.get("kernels")
    rows = [(name, row["resources"]) for name, row in kernels.items() if row.get("resources")] if kernels else []
    if rows:
        columns = ("kernel", "blocks", "threads", "shared memory", "registers", "spilled", "occupancy")
        print_table("Kernels", columns, [
            (name, str(found["blocks"]), str(found["threads"]), format_bytes(found["shared"]), *resources_text(found))
            for name, found in rows
        ])  # fmt: skip
