"""A model as an ONNX graph for windows of one shape, in memory until it has been compared.

Shapes: B windows, C channels, L samples; of `staging` S windows more, `[B, S, C, L]`.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim

from biofame.dft_export import with_dft
from biofame.heads import Classifier
from biofame.model import BioFame
from tenfold.cli.quiet import quiet_loggers

if TYPE_CHECKING:
    import onnx

Kind = Literal["classifier", "features"]

INPUT, OUTPUT = "samples", "outputs"
LARGEST_DIFFERENCE = 1e-4
"""Of float32, against the largest output where that is above 1: the same sums in another order."""


@dataclass(frozen=True, kw_only=True)
class WindowShape:
    """What a graph takes.

    Attributes:
        channels: Names, in the order of the samples.
        rate: Samples per second.
        length: Samples of a window.
        context: Windows of a sequence, 0 where single windows are taken.
    """

    channels: tuple[str, ...]
    rate: float
    length: int
    context: int = 0

    def shape(self, batch: int) -> tuple[int, ...]:
        """Return the shape of the samples."""
        context = (self.context,) if self.context else ()
        return (batch, *context, len(self.channels), self.length)


class Fixed(nn.Module):
    """A model that takes samples alone: channels and rate are settled.

    Args:
        model: Classifier, or a network whose features are the mean over its tokens.
        kind: Whether it says `outputs` of the head or pooled features.
        windows: What it will be given.
    """

    def __init__(self, model: BioFame | Classifier, kind: Kind, windows: WindowShape) -> None:
        super().__init__()
        self.model, self.windows = model, windows
        self.kind: Kind = kind

    def forward(self, samples: Tensor) -> Tensor:
        """Return outputs `[B, outputs]` (`staging`: `[B, S, outputs]`) or features `[B, D]`."""
        settled: dict[str, Any] = {"channels": self.windows.channels, "rate": self.windows.rate}
        if isinstance(self.model, BioFame):
            return self.model(samples, **settled).mean(dim=(1, 2))
        if self.kind == "features":
            return self.model.features(samples, **settled)
        return self.model(samples, **settled)


def in_real_arithmetic(fixed: Fixed) -> Fixed:
    """Return a copy whose filters do not use torch's Fourier transform."""
    model, windows = copy.deepcopy(fixed.model), fixed.windows
    network = model if isinstance(model, BioFame) else model.network
    config = network.config
    whole, over = divmod(windows.length, config.patch)
    tokens = whole + (over > 0 and config.tail == "pad")
    network = with_dft(network, tokens=tokens, rate=windows.rate)
    if isinstance(model, Classifier):
        model.network = network
    else:
        model = network
    return Fixed(model, fixed.kind, windows).eval()


def to_onnx(fixed: Fixed, properties: Mapping[str, str], *, opset: int) -> bytes:
    """Return the graph, of any number of windows at once.

    Args:
        fixed: In evaluation mode, with torch's Fourier transform.
        properties: Metadata that the file carries.
        opset: Version of ONNX's operators.
    """
    import onnx

    with quiet_loggers("onnx_ir", "onnxscript", "torch.onnx"):
        # Strict tracing keeps the batch symbolic where a module asks for the length of a tensor.
        traced = torch.export.export(
            in_real_arithmetic(fixed),
            (torch.zeros(fixed.windows.shape(2)),),
            dynamic_shapes={"samples": {0: Dim.DYNAMIC}},
            strict=True,
        )
        program = torch.onnx.export(
            traced,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    _forget_origins(graph)
    onnx.helper.set_model_props(graph, dict(properties))
    return graph.SerializeToString()


class Session:
    """A graph in ONNX Runtime on the CPU.

    Args:
        graph: Its bytes, or a file of them.
        threads: Threads, 0 for the runtime's own choice.
    """

    def __init__(self, graph: bytes | Path, *, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = threads
        source = graph if isinstance(graph, bytes) else str(graph)
        self._session = onnxruntime.InferenceSession(
            source, options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the outputs."""
        (outputs,) = self._session.run([OUTPUT], {INPUT: samples})
        assert isinstance(outputs, np.ndarray)
        return outputs

    @property
    def properties(self) -> dict[str, str]:
        """Metadata that the file carries."""
        return dict(self._session.get_modelmeta().custom_metadata_map)


def largest_difference(fixed: Fixed, run: Callable[[NDArray[np.float32]], Any]) -> float:
    """Compare a graph with its model on noise and on windows like recordings, one and several.

    Raises:
        ValueError: They differ by more than rounding.
    """
    worst = 0.0
    for samples in (noise(fixed.windows, 1), recordings(fixed.windows, 3)):
        with torch.inference_mode():
            expected = fixed(torch.from_numpy(samples)).numpy()
        difference = float(np.abs(run(samples) - expected).max())
        allowed = LARGEST_DIFFERENCE * max(1.0, float(np.abs(expected).max()))
        if not difference <= allowed:
            raise ValueError(
                f"the graph's outputs differ from the model's by {difference:.3g}, at most "
                f"{allowed:.3g} is rounding; nothing was written"
            )
        worst = max(worst, difference)
    return worst


def noise(windows: WindowShape, batch: int) -> NDArray[np.float32]:
    """Return standard normal samples."""
    return _generator(0).standard_normal(windows.shape(batch), dtype=np.float32)


def recordings(windows: WindowShape, batch: int) -> NDArray[np.float32]:
    """Return 1/f noise of tens of units beside an offset, and one channel that is flat."""
    white = _generator(1).standard_normal(windows.shape(batch))
    spectrum = np.fft.rfft(white, axis=-1)
    spectrum /= np.sqrt(np.maximum(np.arange(spectrum.shape[-1]), 1))
    drifting = np.fft.irfft(spectrum, n=windows.length, axis=-1)
    samples = (40 * drifting + 100).astype(np.float32)
    samples[0, ..., -1, :] = 0
    return samples


def _generator(stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=stream))


def _forget_origins(graph: "onnx.ModelProto") -> None:
    """Remove the exporter's notes: they name source files of the machine."""
    inside = graph.graph
    for entries in (inside.node, inside.value_info, inside.input, inside.output):
        for entry in entries:
            del entry.metadata_props[:]
    del inside.metadata_props[:]
