"""The folder that a compilation leaves: what its files are called, and that it appears whole or not at all.

firmware/           HLS C++: the top function, a function for each layer, weights
NAME_test.cpp       test bench, which compares with
tb_data/            golden vectors: raw integers, an image a line, as the model orders them
hls_config.cfg      for v++ --mode hls; build_prj.tcl does the same for vitis_hls
rtl/                Verilog of the same schedule, by which cycles and resources are shown here
schedule.json       every loop, how far it is unrolled, every channel and memory
pareto.json         what other designs of this network would take, for their speed; pareto.svg draws it
report.json         cycles and resources, in the field names of Vitis's report; report.html for people
reference/          the fixed-point graph: what all of this must compute
project.json        what the model is
"""

from __future__ import annotations

import io
import json
import secrets
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tensorc.errors import IRError, UserError
from tensorc.ir.graph import Graph
from tensorc.ir.text import INLINE_ELEMENTS, parse_graph, print_graph
from tensorc.target import PROJECT

SCHEDULE = "schedule.json"
REPORT = "report.json"
PARETO = "pareto.json"
GRAPH = "reference/graph.txt"
WEIGHTS = "reference/weights.npz"


def obstacle(out: Path) -> str:
    """Why a project cannot be written to `out`; "" if it can, in place of an older one if there is one."""
    if out.is_dir():
        mine = (out / PROJECT).is_file() or not any(out.iterdir())
        return "" if mine else "it is a folder that holds something else than a project"
    return "it is a file; a project is a folder" if out.exists() else ""


def write(out: Path, manifest: Mapping[str, Any], sections: Mapping[str, Iterable[Any]]) -> int:
    """`sections` are files by their paths in the folder. Gives their bytes. Raises UserError."""
    fresh = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
    nbytes = 0
    try:
        for path, chunks in sections.items():
            data = b"".join(chunks)
            if data:
                file = fresh / path
                file.parent.mkdir(parents=True, exist_ok=True)
                nbytes += file.write_bytes(data)
        nbytes += (fresh / PROJECT).write_bytes(json.dumps(manifest, indent=1).encode())
        old = out.with_name(f".{out.name}.{secrets.token_hex(4)}.old")
        if out.exists():
            out.rename(old)
        fresh.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return nbytes


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Of a project. Raises UserError where the file is missing or damaged."""
    try:
        found: dict[str, Any] = json.loads((folder / name).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is no project of tensorc's: {name}: {error}") from error
    return found


def graph_files(graph: Graph) -> Iterator[tuple[str, bytes]]:
    """The reference: a text, and the constants that do not stand in it."""
    weights = {value.constant.label or value.name: value.constant.numpy()
               for value in graph.constants()
               if value.constant is not None and value.constant.splat is None
               and value.constant.type.size > INLINE_ELEMENTS}  # fmt: skip
    yield GRAPH, print_graph(graph).encode()
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **weights)
    yield WEIGHTS, stream.getvalue()


def read_graph(folder: Path) -> Graph:
    """The reference of a project. Raises UserError."""
    try:
        with np.load(folder / WEIGHTS, allow_pickle=False) as arrays:
            data = {name: arrays[name] for name in arrays.files}
        graph = parse_graph((folder / GRAPH).read_text(), data)
    except (OSError, ValueError, EOFError, IRError, zipfile.BadZipFile) as error:
        raise UserError(f"{folder}: its reference cannot be read: {error}") from error
    manifest = read_json(folder, PROJECT)
    graph.labels = tuple([row["name"] for row in manifest[key]] for key in ("inputs", "outputs"))  # type: ignore[assignment]
    return graph
