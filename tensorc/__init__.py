"""tensorc: ONNX models compiled to fast native code.

    model = tensorc.compile("model.onnx", target="cpu")
    outputs = model.run(None, {"input": x})

Importing this package costs nothing: what a function needs is imported when it is called, so that a program which only
loads an artifact never pays for the compiler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from tensorc.frontend.reader import Source
    from tensorc.runtime.model import Model

    __version__: str
else:

    def __getattr__(name):
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import version

        return version("tensorc")


__all__ = ["__version__", "compile", "load"]


def compile(
    source: Source,
    target: str = "cpu",
    shapes: Mapping[str, Sequence[int]] | None = None,
    threads: int = 0,
    out: str | os.PathLike[str] | None = None,
) -> Model:
    """Compile an ONNX model (a path, its bytes or a ModelProto) and load the result.

    `shapes` fixes the free axes of inputs, by name; `threads` of 0 means all cores. The artifact is kept in the file
    `out`, or else for as long as the model lives (`Model.save` writes it then). Raises `tensorc.errors.UserError`, a
    ValueError, in one line that says what is wrong and what is legal.
    """
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from tensorc.driver import compile_model
    from tensorc.options import CompileOptions

    fixed = {name: tuple(shape) for name, shape in (shapes or {}).items()}
    options = CompileOptions(target=target, shapes=fixed, threads=threads)
    if out is not None:
        return load(compile_model(source, options, Path(out)).output, threads)
    # A loaded model maps its artifact, so the file needs its name no longer: its bytes go when the model does.
    with TemporaryDirectory(prefix="tensorc-") as folder:
        return load(compile_model(source, options, Path(folder) / "model.tcm").output, threads)


def load(path: str | os.PathLike[str], threads: int = 0) -> Model:
    """Load a compiled artifact (`.tcm`); `threads` of 0 means the target's default."""
    from pathlib import Path

    from tensorc.runtime.model import load as load_artifact

    return load_artifact(Path(path), threads=threads)
