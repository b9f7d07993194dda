"""The verb `export`: a trained model for ONNX Runtime, compared first, or as safetensors."""

import importlib.util
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from tenfold import atomic

if TYPE_CHECKING:
    from biofame.heads import Classifier
    from biofame.model import BioFame
    from biofame.onnx_graph import Kind, WindowShape

ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
SUFFIXES = {"onnx": ".onnx", "safetensors": ".safetensors"}
LEAST_OPSET, GREATEST_OPSET = 18, 23
SCHEMA = 1

_log = logging.getLogger(__name__)


def export(
    run: Path,
    out: Path,
    *,
    kind: Literal["classifier", "features"] = "classifier",
    format: Literal["onnx", "safetensors"] = "onnx",
    channels: list[str] | None = None,
    length: int | None = None,
    rate: float | None = None,
    opset: int = LEAST_OPSET,
) -> None:
    """Write a trained model for use elsewhere; an ONNX graph only after it has been compared.

    A graph takes any number of windows of one shape; its Fourier transforms are matrices. What a
    program needs beside it (channels, rate, classes ...) stands in its metadata and in `out`.json.
    A file of weights has the network of `features`, which runs with any channels, lengths and
    rates, or the whole classifier; `load_network` and `load_classifier` read it.

    Args:
        run: Run folder or checkpoint; for `classifier` one of `finetune`.
        out: File to write, `.onnx` or `.safetensors`; must not exist.
        kind: The head's outputs (logits of classes), or pooled features `[B, D]`.
        format: `onnx` or `safetensors`.
        channels: Graphs only: channels of the windows in their order, by default the model's.
        length: Graphs only: samples of a window, by default as long as in training.
        rate: Graphs only: samples per second of the windows, by default the model's.
        opset: Graphs only: version of ONNX's operators.

    Raises:
        ValueError: There is no such checkpoint or it has no head, an option is impossible, the
            extra is not installed, or the graph gives other numbers than the model.
        FileExistsError: `out` is there.
    """
    out = Path(out)
    _check_out(out, format)
    if format == "safetensors":
        given = {"channels": channels, "length": length, "rate": rate}
        if fixed := [name for name, value in given.items() if value is not None]:
            raise ValueError(
                f"{', '.join(fixed)} are of format onnx only: a file of weights runs with any"
            )
        _write_weights(run, out, kind)
        return
    if not LEAST_OPSET <= opset <= GREATEST_OPSET:
        raise ValueError(f"opset must lie in {LEAST_OPSET}..{GREATEST_OPSET}, got {opset}")
    require_onnx("export to onnx")
    facts = write_graph(
        run, out, kind=kind, channels=channels, length=length, rate=rate, opset=opset
    )
    shape = " x ".join(str(part) for part in facts["shape"])
    Console(soft_wrap=True).print(
        f"{out}: {facts['kind']} of {shape} samples ({', '.join(facts['channels'])} at "
        f"{facts['rate']:g} Hz), largest difference from the model {facts['max_error']:.2g}",
        highlight=False,
    )


def write_graph(
    run: Path,
    out: Path,
    *,
    kind: "Kind",
    channels: list[str] | None = None,
    length: int | None = None,
    rate: float | None = None,
    opset: int = LEAST_OPSET,
) -> dict[str, Any]:
    """Write a graph and its JSON file, and return what the latter says; see `export`."""
    from biofame.onnx_graph import Fixed, Session, largest_difference, to_onnx

    model, classes = load(run, kind)
    windows = window_shape(model, channels=channels, length=length, rate=rate)
    fixed = Fixed(model, kind, windows).eval()
    facts = {**_facts(model, kind, classes, windows), "opset": opset}
    texts = {name: v if isinstance(v, str) else json.dumps(v) for name, v in facts.items()}
    graph = to_onnx(fixed, texts, opset=opset)
    facts["max_error"] = largest_difference(fixed, Session(graph))
    atomic.write_bytes(out, graph)
    facts["sha256"] = atomic.sha256_file(out)
    atomic.write_json(beside(out), facts)
    return facts


def beside(graph: Path) -> Path:
    """Return the JSON file of a graph; `x.json` would be the manifest of a checkpoint `x.ckpt`."""
    return graph.with_name(f"{graph.name}.json")


def load(run: Path, kind: "Kind") -> "tuple[BioFame | Classifier, tuple[str, ...]]":
    """Return a classifier with its classes, or for `features` of a run without one its network."""
    from biofame.model import BioFame
    from biofame.weights import load_classifier, load_either

    loaded = load_either(run) if kind == "features" else load_classifier(run)
    return (loaded, ()) if isinstance(loaded, BioFame) else (loaded.classifier, loaded.classes)


def window_shape(
    model: "BioFame | Classifier",
    *,
    channels: list[str] | None,
    length: int | None,
    rate: float | None,
) -> "WindowShape":
    """Return what a model is given, by default what it was trained with.

    Raises:
        ValueError: The rate is not positive, a window is shorter than a patch, or a channel is
            named twice.
    """
    from biofame.channel_rows import UNKNOWN, row_numbers
    from biofame.model import BioFame
    from biofame.onnx_graph import WindowShape

    config = (model if isinstance(model, BioFame) else model.network).config
    if rate is not None and not rate > 0:
        raise ValueError(f"rate must be > 0 samples per second, got {rate}")
    chosen = rate or config.rate
    if length is None:
        length = round(config.tokens * config.patch * chosen / config.rate)
    if length < config.patch:
        raise ValueError(f"length must be at least a patch, {config.patch} samples, got {length}")
    names = config.channels if channels is None else tuple(channels)
    rows = row_numbers(config.channels, names)
    if new := [name for name, row in zip(names, rows, strict=True) if row == UNKNOWN]:
        _log.warning("%s: the model has no parameters of their own for them", ", ".join(new))
    context = 0
    if not isinstance(model, BioFame) and model.config.task == "staging":
        context = model.config.context
    return WindowShape(channels=names, rate=chosen, length=length, context=context)


def require_onnx(purpose: str) -> None:
    """Refuse when the packages of the extra `onnx` are not all there.

    Args:
        purpose: What needs them, as the message begins.

    Raises:
        ValueError: Some are missing; names the extra.
    """
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"{purpose} needs {', '.join(missing)}: install the extra biofame[onnx]")


def _facts(
    model: "BioFame | Classifier", kind: "Kind", classes: tuple[str, ...], windows: "WindowShape"
) -> dict[str, Any]:
    """Return what a program needs beside the graph."""
    from biofame.model import BioFame
    from biofame.onnx_graph import INPUT, OUTPUT

    head = None if kind == "features" or isinstance(model, BioFame) else model.config
    return {
        "schema": SCHEMA,
        "kind": kind,
        "task": head.task if head else "",
        "classes": list(classes) if head else [],
        "channels": list(windows.channels),
        "rate": windows.rate,
        "patch": (model if isinstance(model, BioFame) else model.network).config.patch,
        "input": INPUT,
        "shape": ["batch", *windows.shape(1)[1:]],
        "output": OUTPUT,
    }


def _check_out(out: Path, format: str) -> None:
    if out.suffix != SUFFIXES[format]:
        raise ValueError(f"out must end in {SUFFIXES[format]} for format {format}, got {out}")
    for path in (out, beside(out)) if format == "onnx" else (out,):
        if path.exists():
            raise FileExistsError(f"{path} exists; remove it or choose another name")


def _write_weights(run: Path, out: Path, kind: "Kind") -> None:
    from biofame.weights import load_classifier, load_network, save_classifier, save_network

    if kind == "features":
        save_network(out, load_network(run))
    else:
        save_classifier(out, load_classifier(run))
    Console(soft_wrap=True).print(f"{out}: weights of the {kind}", highlight=False)
