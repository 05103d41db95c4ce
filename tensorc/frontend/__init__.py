"""The ONNX frontend: reads a model and translates it to the graph IR."""

from tensorc.frontend.functions import supported_operators
from tensorc.frontend.importer import ImportedModel, import_model
from tensorc.frontend.reader import LoadedModel, Source, read_model
from tensorc.frontend.registry import SupportedOperator

__all__ = [
    "ImportedModel",
    "LoadedModel",
    "Source",
    "SupportedOperator",
    "import_model",
    "read_model",
    "supported_operators",
]
