"""Both towers as graphs, ONNX or `torch.export`, with any batch size.

Each graph ends in unit rows: the logits are `scale` times their products, and `mobileclip.json`
beside them holds the scale and what a program needs to prepare inputs.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from mobileclip.exporting.parity import Parity, compare, samples
from mobileclip.models.clip import MobileCLIP
from mobileclip.models.fold import is_folded
from tenfold import atomic
from tenfold.cli.quiet import quiet_loggers

GraphFormat = Literal["onnx", "torch"]

SUFFIXES: dict[GraphFormat, str] = {"onnx": ".onnx", "torch": ".pt2"}
INPUTS = {"image": "image", "text": "tokens"}
OUTPUT = "embeddings"
FACTS_FILE = "mobileclip.json"
SCHEMA = 1


class UnitTower(nn.Module):
    """A tower that ends in unit rows.

    Args:
        tower: Maps inputs to `[B, D]`.
    """

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `[B, D]`."""
        return F.normalize(self.tower(inputs), dim=-1)


def trace(model: MobileCLIP) -> dict[str, ExportedProgram]:
    """Return the graphs `image` and `text`; the model must be in evaluation mode."""
    inputs = samples(model)
    with _plain_attention():
        return {
            "image": _trace(model.image_tower, inputs.images),
            "text": _trace(model.text_tower, inputs.tokens),
        }


def write(
    graphs: dict[str, ExportedProgram], model: MobileCLIP, folder: Path, *, format: GraphFormat
) -> None:
    """Write both graphs and `mobileclip.json`."""
    for name, graph in graphs.items():
        path = folder / f"{name}{SUFFIXES[format]}"
        if format == "torch":
            torch.export.save(graph, path)
        else:
            _write_onnx(graph, path, input_name=INPUTS[name])
    atomic.write_json(folder / FACTS_FILE, facts(model))


def check(model: MobileCLIP, folder: Path, *, format: GraphFormat) -> Parity:
    """Run the files as a user would and compare with the trained model.

    Raises:
        ValueError: The numbers differ.
    """
    return compare(model, *load(folder, format=format))


def load(
    folder: Path, *, format: GraphFormat, threads: int = 0
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Return the towers of a written folder, each from inputs to unit rows, on the CPU.

    Args:
        folder: What `write` wrote.
        format: Of the graphs.
        threads: Of ONNX Runtime, 0 for its own choice; `torch.export` follows torch.
    """
    image, text = (folder / f"{name}{SUFFIXES[format]}" for name in INPUTS)
    if format == "torch":
        return _load_torch(image), _load_torch(text)
    return _load_onnx(image, threads), _load_onnx(text, threads)


def facts(model: MobileCLIP) -> dict[str, object]:
    """Return what a program needs beside the graphs."""
    return {
        "schema": SCHEMA,
        "model": model.name,
        "folded": is_folded(model),
        "logit_scale": model.scale().item(),
        "embed_dim": model.embed_dim,
        "image": {
            "size": model.image_size,
            "resize": "shorter side, bilinear",
            "crop": "center",
            "values": "RGB 0..1, float32, channels first",
        },
        "text": {
            "context_length": model.context_length,
            "tokens": "CLIP byte pairs, int64: start, text, end, zeros",
        },
    }


def _trace(tower: nn.Module, example: Tensor) -> ExportedProgram:
    tower = copy.deepcopy(tower)
    for parameter in tower.parameters():  # folding leaves views, which would be saved as a whole
        parameter.data = parameter.detach().clone(memory_format=torch.contiguous_format)
    # Strict tracing keeps the batch symbolic where a module asks for the length of a tensor.
    shapes = {"inputs": {0: Dim.DYNAMIC}}
    return torch.export.export(
        UnitTower(tower).eval(), (example,), dynamic_shapes=shapes, strict=True
    )


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Switch off torch's fused inference attention, an operator that no other runtime knows."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _write_onnx(graph: ExportedProgram, path: Path, *, input_name: str) -> None:
    with quiet_loggers("onnx_ir", "onnxscript"):
        program = torch.onnx.export(
            graph, input_names=[input_name], output_names=[OUTPUT], dynamo=True, verbose=False
        )
        assert program is not None
        program.save(path, external_data=False)


def _load_onnx(path: Path, threads: int) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(path, options, providers=providers)
    name = session.get_inputs()[0].name

    def encode(inputs: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {name: inputs.numpy()})[0])

    return encode


def _load_torch(path: Path) -> Callable[[Tensor], Tensor]:
    return torch.export.load(path).module()
