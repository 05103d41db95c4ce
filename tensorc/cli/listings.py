"""`tensorc targets` and `tensorc ops`: what there is to choose from."""

from __future__ import annotations

import click

from tensorc.cli.console import print_json, print_table
from tensorc.cli.options import json_option
from tensorc.ir.ops import OPS
from tensorc.target import installed_targets


@click.command()
@json_option
def targets(as_json: bool) -> int:
    """List the targets that are installed."""
    rows = [row for target in installed_targets() for row in target.describe()]
    if as_json:
        print_json({"targets": [{"target": name, "description": text} for name, text in rows]})
    else:
        print_table("Targets", ("target", "what it is"), rows)
    return 0


@click.command()
@click.option("--formats", "of_formats", is_flag=True, help="List the number formats for weights and caches instead.")
@json_option
def ops(of_formats: bool, as_json: bool) -> int:
    """List the operators of the IR, and the ONNX operators that the frontend takes."""
    if of_formats:
        return _formats(as_json)
    from tensorc.frontend import supported_operators

    supported = supported_operators()
    if as_json:
        print_json({
            "ir": [
                {"name": op.name, "kind": op.kind.value, "attrs": {k: repr(v) for k, v in op.attrs.items()},
                 "doc": op.doc}
                for op in OPS.values()
            ],
            "onnx": [operator._asdict() for operator in supported],
        })  # fmt: skip
        return 0
    print_table("Operators of the IR", ("op", "kind", "attributes", "meaning"), [
        (op.name, op.kind.value, ", ".join(f"{key}={value!r}" for key, value in op.attrs.items()), op.doc)
        for op in OPS.values()
    ])  # fmt: skip
    print_table(f"ONNX operators that the frontend takes: {len(supported)}", ("operator", "changed in opset"), [
        (operator.name, ", ".join(map(str, operator.versions))) for operator in supported
    ])  # fmt: skip
    return 0


def _formats(as_json: bool) -> int:
    from tensorc.formats import SHAPE, listed_formats, lmul

    formats = listed_formats()
    if as_json:
        print_json({
            "shape": list(SHAPE),
            "formats": [
                {"name": f.name, "bits_per_element": f.bits_per_element(), "block": f.block, "summary": f.summary}
                for f in formats
            ],
            "arithmetic": [{"name": "lmul", "summary": lmul.SUMMARY}],
        })  # fmt: skip
        return 0
    rows, columns = SHAPE
    print_table(f"Number formats; bits per element of {rows}x{columns}, scales included", (
        "format", "bits", "block", "what it is"
    ), [
        (f.name, f"{f.bits_per_element():.3f}", "row" if f.block is None else str(f.block), f.summary) for f in formats
    ])  # fmt: skip
    print_table("Emulated arithmetic", ("name", "what it is"), [("lmul", lmul.SUMMARY)])
    return 0
