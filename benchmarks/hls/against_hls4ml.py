"""The same networks in the same fixed point by hls4ml 1.3.0: do both C simulations say the same, and what do they take?

    python benchmarks/hls/against_hls4ml.py [--scheme fixed16]... [--part xczu7ev] [--json]

Networks: the jet-tagging MLP, whole and without its softmax, and the digits CNN, which hls4ml reads from ONNX too (see
peer.py). Each of our types, tensor by tensor, is given to hls4ml as ap_fixed<W, I, AP_RND, AP_SAT>; sums are exact in
both. What stands in a row:
- same class, largest difference in steps of the output's type, and accuracy on the held-out samples, by both C
  simulations (g++ on the sources that each generates). The one step by which the digits CNN of 16 bits differs comes
  from two of its weights that lie half-way between two numbers (-3385.5 * 2^-16 and 3720.5 * 2^-15): we round them up,
  and hls4ml writes weights as decimals of 15 digits, which happen to lie below. With these two as hls4ml has them, all
  3,600 outputs are the same.
- ours: latency, interval and DSP as in report.json (`tensorc verify` shows all three on the Verilog).
- hls4ml: nothing can be measured without Vitis, and it estimates nothing. Its reuse factor R is set, layer by layer, to
  what ours is: the multiplications of one position by our multipliers (it takes the nearest legal one). By its manual a
  layer then has ceil(products / R) multipliers and begins a position every R cycles. So `cycles at least` is R times
  the positions, of the slowest layer for the interval and, for the latency, of all layers of the MLP one behind the
  other; `DSP` is what our rule (that of yosys) gives so many multipliers of these widths. Both are lower bounds of what
  Vitis would report: no pipeline depth, no buffers of windows, no division.
  Where both unroll a layer whole, weights are constants of their multipliers, which may be LUTs and no DSP.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import onnx
from peer import Layer, Peer, Type, channels_last, simulated
from rich.console import Console
from rich.table import Table

from targets.hls import project, schedule
from targets.hls.hardware.resources import dsp_of_product
from targets.hls.layers.network import Network, network_of
from targets.hls.layers.product import Product
from targets.hls.layers.tensor import Tensor
from targets.hls.parts import find_part
from targets.hls.report import Promise
from targets.hls.simulation import csim
from tensorc.fixed_point import Grid

EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass(frozen=True)
class Case:
    model: Path
    calibration: Path
    heldout: Path
    #: What the archive of held-out samples calls them, and what they are divided by.
    images: str
    divisor: float = 1
    softmax: bool = True


CASES = {
    "jets": Case(EXAMPLES / "fpga/jets.onnx", EXAMPLES / "fpga/jets_calibration.npz",
                 EXAMPLES / "fpga/jets_heldout.npz", "features"),
    "jets, logits": Case(EXAMPLES / "fpga/jets.onnx", EXAMPLES / "fpga/jets_calibration.npz",
                         EXAMPLES / "fpga/jets_heldout.npz", "features", softmax=False),
    "digits": Case(EXAMPLES / "digits/digits.onnx", EXAMPLES / "digits/calibration.npz",
                   EXAMPLES / "digits/heldout.npz", "images", 16),
}  # fmt: skip


@dataclass(frozen=True)
class Side:
    accuracy: float
    latency: int | None
    interval: int
    multipliers: int
    dsp: int


@dataclass(frozen=True)
class Row:
    network: str
    scheme: str
    images: int
    same_class: float
    largest_lsb: float
    ours: Side
    hls4ml: Side


def compare(name: str, scheme: str, part: str, folder: Path) -> Row:
    case = CASES[name]
    model = onnx.load(case.model)
    if not case.softmax:
        _cut_softmax(model)
    onnx.save(model, folder / "model.onnx")
    out = folder / "ours"
    command = [sys.executable, "-m", "tensorc", "compile", str(folder / "model.onnx"), "--target", f"hls:{part}",
               "--quantize", scheme, "--calibration", str(case.calibration), "-o", str(out), "--json"]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    heldout = np.load(case.heldout)
    labels = heldout["labels"]
    images = np.asarray(heldout[case.images], np.float32) / np.float32(case.divisor)
    images = images.reshape(len(images), *[d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:])

    network = network_of(project.read_graph(out))
    (_, entry), (_, result) = network.inputs[0], network.outputs[0]
    ours = _ours(out, entry, result, images)
    report = Promise.of(project.read_json(out, project.REPORT))
    unrolls = schedule.read(project.read_json(out, project.SCHEDULE)).unrolls
    products = [layer for layer in network.layers if isinstance(layer, Product)]
    multipliers = [layer.multipliers(unrolls[layer.name]) for layer in products]
    reuse = {
        i: max(1, layer.weights.size // count)
        for i, (layer, count) in enumerate(zip(products, multipliers, strict=True))
    }

    types = [_layer(layer) for layer in products]
    given = np.moveaxis(images, 1, -1) if images.ndim > 2 else images
    peer = simulated(channels_last(model), _type(entry), types, _type(result), given, reuse, folder / "hls4ml")
    theirs = peer.results.reshape(ours.shape)
    return Row(
        name, scheme, len(images), float((ours.argmax(1) == theirs.argmax(1)).mean()),
        float(np.abs(ours - theirs).max() * 2.0**result.kind.fraction),
        Side(float((ours.argmax(1) == labels).mean()), report.latency, report.interval, sum(multipliers), report.dsp),
        _theirs(peer, network, types, float((theirs.argmax(1) == labels).mean()), part),
    )  # fmt: skip


def _cut_softmax(model: onnx.ModelProto) -> None:
    (last,) = (node for node in model.graph.node if node.op_type == "Softmax")
    model.graph.output[0].name = last.input[0]
    model.graph.node.remove(last)


def _ours(out: Path, entry: Tensor, result: Tensor, images: np.ndarray) -> np.ndarray:
    """What our C simulation gives, as real numbers [images, results]."""
    kind = entry.kind
    raw = np.clip(np.floor(images.astype(np.float64) * 2.0**kind.fraction + 0.5), kind.full.low, kind.full.high)
    with csim.compiled(out) as simulation:
        (found,) = simulation.run([raw.astype(np.int64)])
    return found * 2.0**-result.kind.fraction


def _type(tensor: Tensor) -> Type:
    return Type(tensor.kind.bits, tensor.kind.signed, tensor.kind.fraction)


def _of_grid(grid: Grid) -> Type:
    return Type(grid.bits, grid.signed, grid.fraction)


def _layer(layer: Product) -> Layer:
    group = layer.group
    operands = {value for node in group.body.nodes for value in node.inputs if group.constant(value) is not None}
    weights = layer.head.inputs[1]
    (bias,) = operands - {weights}
    inner = [group.grids[node.output] for node in group.body.nodes if node.op in ("conv", "matmul", "add")]
    fraction = max(grid.fraction for grid in inner)
    whole = max(grid.bits - grid.fraction + (not grid.signed) for grid in inner)
    sums = Type(whole + fraction, True, fraction)
    return Layer(_of_grid(group.grids[weights]), _of_grid(group.grids[bias]), sums, _type(layer.output))


def _theirs(peer: Peer, network: Network, types: Sequence[Layer], accuracy: float, part: str) -> Side:
    family = find_part(part).family
    products = [layer for layer in network.layers if isinstance(layer, Product)]
    cycles, multipliers, dsp = [], 0, 0
    for (total, count), layer, kinds in zip(peer.products.values(), products, types, strict=True):
        cycles.append(-(-total // count))
        multipliers += count
        x, weight = layer.inputs[0].kind, kinds.weight
        dsp += count * dsp_of_product(x.bits, x.signed, weight.bits, weight.signed, family)
    is_image = any(layer.head.op == "conv" for layer in products)
    return Side(accuracy, None if is_image else sum(cycles), max(cycles), multipliers, dsp)


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice(list(CASES)))
@click.option("--scheme", "schemes", multiple=True, default=("fixed8", "fixed16"), help="Repeatable.")
@click.option("--part", default="xczu7ev")
@click.option("--json", "as_json", is_flag=True)
def main(names: tuple[str, ...], schemes: tuple[str, ...], part: str, as_json: bool) -> None:
    rows = []
    for name in names or CASES:
        for scheme in schemes:
            with tempfile.TemporaryDirectory() as made:
                rows.append(compare(name, scheme, part, Path(made)))
    if as_json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    table = Table("network", "scheme", "same class", "largest difference, LSB", "accuracy ours / hls4ml",
                  "latency ours / theirs at least", "interval", "multipliers", "DSP")  # fmt: skip
    for row in rows:
        a, b = row.ours, row.hls4ml
        table.add_row(
            row.network, row.scheme, f"{row.same_class:.1%} of {row.images}", f"{row.largest_lsb:g}",
            f"{a.accuracy:.1%} / {b.accuracy:.1%}", f"{a.latency:,} / {b.latency or '-'}",
            f"{a.interval:,} / {b.interval:,}", f"{a.multipliers:,} / {b.multipliers:,}", f"{a.dsp:,} / {b.dsp:,}",
        )  # fmt: skip
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
