"""What `verify` and `bench` work on: an artifact, compiled on the spot if a model is given, and its ONNX model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tensorc.cli.console import progress_bar
from tensorc.cli.options import Shape, compile_options, refuse_for_artifact
from tensorc.driver import QUANTIZED, compile_model
from tensorc.options import Precision
from tensorc.runtime.artifact import MAGIC, Artifact
from tensorc.sampling import Spec, Statistics, index_limits, random_inputs
from tensorc.target import writer_of


@dataclass(frozen=True)
class Subject:
    """An artifact with its manifest; `reference` is the ONNX model it was made of, where that is known. `shapes` are
    those of random inputs where the artifact leaves them free."""

    artifact: Path
    manifest: dict[str, Any]
    reference: Path | None
    shapes: dict[str, Shape]

    def random_inputs(self, seed: int) -> dict[str, np.ndarray]:
        """Inputs that the model can be run on: legal indices too, if the ONNX model is there to tell them. Those of a
        quantized model are distributed as those that it was measured on."""
        limits = {}
        if self.reference is not None:
            from tensorc.frontend.reader import read_model

            limits = index_limits(read_model(self.reference).proto)
        like = {name: Statistics(**row) for name, row in self.manifest.get(QUANTIZED, {}).get("inputs", {}).items()}
        return random_inputs(Spec.of_manifest(self.manifest["inputs"], self.shapes), seed, limits, like)


def is_artifact(path: Path) -> bool:
    """By content; a broken file by its suffix, so that the complaint is about an artifact."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC or path.suffix == ".tcm"


def is_free(manifest: dict[str, Any]) -> bool:
    """Whether the artifact runs on several shapes."""
    shapes = [row["shape"] for row in manifest["inputs"]]
    return any(shape is None or not all(isinstance(axis, int) for axis in shape) for shape in shapes)


@contextmanager
def opened_subject(
    model: Path,
    reference: Path | None,
    target: str | None,
    shapes: dict[str, Shape],
    threads: int,
    precision: Precision = "float32",
) -> Iterator[Subject]:
    """The subject that `model`, an artifact or an ONNX file, names; what is compiled here is gone afterwards."""
    writer = None if is_artifact(model) else writer_of(model)
    if is_artifact(model) or writer is not None:
        manifest = Artifact.open(model).manifest if writer is None else writer.manifest(model)
        refuse_for_artifact(model, target, {} if is_free(manifest) else shapes, precision)
        yield Subject(model, manifest, reference, shapes)
        return
    with TemporaryDirectory(prefix="tensorc-") as folder:
        options = replace(compile_options(target, shapes, threads), precision=precision)
        with progress_bar() as watch:
            report = compile_model(model, options, Path(folder) / f"{model.stem}.tcm", watch)
        yield Subject(report.output, dict(report.manifest), reference or model, {})
