"""Reads an ONNX model and says where its weights are; what the model computes is the importer's business.

Weights are never copied here: an initializer becomes a `Constant` whose `load` maps the bytes where they lie, in the
model's own file, in an external data file or in the protobuf. Everything that can be wrong with a file is found here
and reported as one line that names it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]

from tensorc.errors import UnsupportedError, UserError
from tensorc.frontend.limits import check_type
from tensorc.frontend.wire import Extent, TooLargeError, WireError, cut_weights
from tensorc.ir.dims import static_shape
from tensorc.ir.graph import Constant
from tensorc.ir.types import DTYPES, SHORT_NAMES, TensorType, bits_of, numpy_dtype

#: A path, a serialized model, or a model in memory.
Source = str | os.PathLike[str] | bytes | onnx.ModelProto


@dataclass(frozen=True)
class LoadedModel:
    """A parsed model. `name` is how messages call it; `folder` is where its external data must lie.

    The initializers of `proto` have names, types and shapes, but large ones no data: ask `initializer` for it.
    """

    name: str
    proto: onnx.ModelProto
    folder: Path | None = None
    _data: np.ndarray | None = field(default=None, repr=False)
    _extents: dict[str, Extent] = field(default_factory=dict, repr=False)

    def initializer(self, tensor: onnx.TensorProto) -> Constant:
        """The constant that an initializer of the main graph is."""
        extent = self._extents.get(tensor.name)
        if extent is None or self._data is None:
            return self.constant(tensor)
        type = self._type(tensor)
        self._check_length(tensor, type, extent.length)
        raw = self._data[extent.offset : extent.offset + extent.length]
        return Constant(type, functools.partial(_view, raw, type), tensor.name, origin=("initializer", tensor.name))

    def constant(self, tensor: onnx.TensorProto, label: str = "") -> Constant:
        """The constant that any other tensor of the model is: an attribute, say."""
        type = self._type(tensor)
        label = tensor.name or label
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return Constant(type, self._external(tensor, type), label)
        if tensor.HasField("raw_data"):
            self._check_length(tensor, type, len(tensor.raw_data))
        constant = Constant(type, functools.partial(self._decode, tensor), label)
        # One number is kept as such, so that its being a scalar is known without loading it again.
        return Constant.of(constant.numpy(), label=label) if type.size == 1 else constant

    def _decode(self, tensor: onnx.TensorProto) -> np.ndarray:
        try:
            if tensor.data_type == onnx.TensorProto.STRING:
                texts = [text.decode() for text in tensor.string_data]
                return np.array(texts, object).reshape(tuple(tensor.dims))
            return onnx.numpy_helper.to_array(tensor)
        except (TypeError, ValueError) as error:
            raise self._error(tensor, f"cannot be decoded: {error}") from error

    def _type(self, tensor: onnx.TensorProto) -> TensorType:
        try:
            text = tensor.data_type == onnx.TensorProto.STRING
            dtype = "string" if text else element_type(tensor.data_type)
        except UnsupportedError as error:
            raise UnsupportedError(f"{self.name}: tensor {tensor.name!r}: {error}") from error
        if any(dim < 0 for dim in tensor.dims):
            raise self._error(tensor, f"has the shape {list(tensor.dims)}")
        try:
            return check_type(TensorType(dtype, tuple(tensor.dims)), "the type")
        except UnsupportedError as error:
            raise UnsupportedError(f"{self.name}: tensor {tensor.name!r}: {error}") from error

    def _check_length(self, tensor: onnx.TensorProto, type: TensorType, length: int) -> None:
        needed = _packed_bytes(type)
        if length != needed:
            raise self._error(tensor, f"holds {length} bytes, its type {type} needs {needed}")

    def _external(self, tensor: onnx.TensorProto, type: TensorType) -> Callable[[], np.ndarray]:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if not location:
            raise self._error(tensor, "is external, but names no file")
        if self.folder is None:
            raise self._error(tensor, f"is in the external file {location!r}: give the model by its path")
        try:
            offset = int(entries.get("offset", 0))
            length = int(entries.get("length", _packed_bytes(type)))
        except ValueError as error:
            raise self._error(tensor, f"has no number as offset or length in {location!r}") from error
        self._check_length(tensor, type, length)
        path = self._inside(tensor, location)
        size = path.stat().st_size
        if offset < 0 or offset + length > size:
            raise self._error(
                tensor, f"needs bytes {offset} to {offset + length} of {location!r}, which has {size} bytes"
            )
        return lambda: _view(_map(path, offset, length), type)

    def _inside(self, tensor: onnx.TensorProto, location: str) -> Path:
        """The external file, which must lie in the model's folder: a model may not read what it likes."""
        assert self.folder is not None
        folder = self.folder.resolve()
        try:
            path = (folder / location).resolve()
            exists = path.is_file()
        except (OSError, ValueError) as error:  # no file can have such a name
            raise self._error(tensor, f"names the external file {location[:100]!r}: {_reason(error)}") from error
        if Path(location).is_absolute() or not path.is_relative_to(folder):
            raise self._error(tensor, f"names the external file {location!r}, which is outside the model's folder")
        if not exists:
            raise self._error(tensor, f"names the external file {location!r}, which does not exist")
        return path

    def _error(self, tensor: onnx.TensorProto, what: str) -> UserError:
        return UserError(f"{self.name}: tensor {tensor.name!r} {what}")


@dataclass(frozen=True)
class PackedModel:
    """A model in pieces that can be stored: `message` is the protobuf without large weights, which follow each other in
    `chunks` and lie at `extents`, by initializer name."""

    message: bytes
    chunks: Iterator[np.ndarray]
    extents: Mapping[str, Extent]


def pack(model: LoadedModel) -> PackedModel:
    """The whole model, weights of external files included."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    constants: list[Constant] = []
    extents: dict[str, Extent] = {}
    offset = 0
    for tensor in proto.graph.initializer:
        external = tensor.data_location == onnx.TensorProto.EXTERNAL
        if not external and tensor.name not in model._extents:
            continue
        constant = model.initializer(tensor)
        tensor.ClearField("data_location")
        del tensor.external_data[:]
        constants.append(constant)
        extents[tensor.name] = Extent(offset, _packed_bytes(constant.type))
        offset += _packed_bytes(constant.type)
    return PackedModel(proto.SerializeToString(), (_packed(constant) for constant in constants), extents)


def unpack(name: str, message: bytes, data: memoryview, extents: Mapping[str, Extent]) -> LoadedModel:
    """What `pack` took apart; weights are views of `data`."""
    proto = onnx.ModelProto.FromString(message)
    return LoadedModel(name, proto, None, np.frombuffer(data, np.uint8), dict(extents))


def element_type(code: int) -> str:
    """numpy's name of one of ONNX's element types; UnsupportedError when the IR has no such type."""
    try:
        name = onnx.helper.tensor_dtype_to_np_dtype(code).name
    except (KeyError, TypeError):
        name = ""
    if name not in SHORT_NAMES or code == onnx.TensorProto.STRING:
        known = onnx.TensorProto.DataType.items()
        label = next((key for key, value in known if value == code), str(code))
        raise UnsupportedError(f"element type {label} is not supported; supported: {', '.join(DTYPES.values())}")
    return name


def element_code(dtype: str) -> int:
    """ONNX's number of an element type."""
    text = dtype == "string"
    return onnx.TensorProto.STRING if text else onnx.helper.np_dtype_to_tensor_dtype(numpy_dtype(dtype))


def read_model(source: Source) -> LoadedModel:
    """Parse a model without its weights' data. UserError when it is none, or its file cannot be read."""
    if isinstance(source, onnx.ModelProto):
        model = LoadedModel("the model", source)
    elif isinstance(source, bytes):
        model = _parse("the model", np.frombuffer(source, dtype=np.uint8), None)
    else:
        path = Path(source)
        model = _parse(str(path), _map_model(path), path.absolute().parent)
    if not model.proto.HasField("graph") or not model.proto.opset_import:
        raise UserError(f"{model.name} is not an ONNX model: it holds no graph or no opset")
    field = _no_text(model.proto)
    if field:
        raise UserError(f"{model.name} is damaged: a {field} in it is not UTF-8 text")
    return model


def _no_text(message: Message) -> str:
    """The name of a field whose value should be text and is not, "" if there is none. Descriptions may be anything."""
    for row, value in message.ListFields():
        if row.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in value if row.is_repeated else (value,):
                if found := _no_text(inner):
                    return found
        elif (
            row.type == FieldDescriptor.TYPE_STRING
            and row.name != "doc_string"
            # protobuf gives the bytes that it cannot decode.
            and any(isinstance(text, bytes) for text in (value if row.is_repeated else (value,)))
        ):
            return str(row.full_name.removeprefix("onnx."))
    return ""


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _map_model(path: Path) -> np.ndarray:
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder, not an ONNX file")
        size = path.stat().st_size
        return _map(path, 0, size) if size else np.empty(0, dtype=np.uint8)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _parse(name: str, data: np.ndarray, folder: Path | None) -> LoadedModel:
    if not data.size:
        raise UserError(f"{name} is empty")
    proto = onnx.ModelProto()
    try:
        message, extents = cut_weights(data.data)
        proto.ParseFromString(message)
    except TooLargeError as error:
        raise UserError(f"{name} is too large: protobuf allows 2 GiB, {error}; save it with external data") from error
    except (WireError, DecodeError) as error:
        raise UserError(f"{name} is truncated or not an ONNX model: {error}") from error
    return LoadedModel(name, proto, folder, data, extents)


def _map(path: Path, offset: int, length: int) -> np.ndarray:
    if not length:
        return np.empty(0, dtype=np.uint8)
    return np.memmap(path, dtype=np.uint8, mode="r", offset=offset, shape=(length,))


def _packed_bytes(type: TensorType) -> int:
    """Bytes of a tensor in a model: ONNX packs elements of less than 8 bits."""
    return -(-type.size * bits_of(type.dtype) // 8)


def _packed(constant: Constant) -> np.ndarray:
    """Its elements, or the bytes that hold several of them each."""
    bits = bits_of(constant.type.dtype)
    if bits >= 8:
        return constant.numpy()
    codes = constant.numpy().reshape(-1, 1).view(np.uint8)
    return np.packbits(np.unpackbits(codes, axis=1, bitorder="little")[:, :bits], bitorder="little")


def _unpacked(raw: np.ndarray, bits: int, count: int) -> np.ndarray:
    """`count` numbers of so many bits, the first in the lowest bits, a byte each."""
    if 8 % bits:
        each = np.unpackbits(raw, count=count * bits, bitorder="little").reshape(count, bits)
        return np.packbits(each, axis=-1, bitorder="little")
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return ((raw[:, None] >> shifts) & np.uint8((1 << bits) - 1)).reshape(-1)[:count]


def _view(raw: np.ndarray, type: TensorType) -> np.ndarray:
    """`raw` bytes as an array of `type`: a view, or a copy when they do not lie as the element type must."""
    if bits_of(type.dtype) < 8:
        raw = _unpacked(raw, bits_of(type.dtype), type.size)
    array: np.ndarray = np.frombuffer(raw, dtype=numpy_dtype(type.dtype)).reshape(static_shape(type.shape))
    return array if array.flags.aligned else array.copy()
