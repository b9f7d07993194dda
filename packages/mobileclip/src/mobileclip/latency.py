"""The verb `latency`: time of an image and of a text, folded, not and exported, beside ViT-B/16's.

The protocol is the paper's (section 5, spec 4): each model at its own image size, image and text
apart, median and 95th percentile after a warm-up. The models take turns, so that a busy moment of
the machine falls on all of them. Weights are random: they do not change the time.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from rich.console import Console
from rich.table import Table

from mobileclip.config import MODELS
from mobileclip.export import require_onnx
from tenfold import atomic
from tenfold.results import this_machine

if TYPE_CHECKING:
    import torch

    from mobileclip.models.clip import MobileCLIP

    Encode = Callable[[torch.Tensor], torch.Tensor]

Form = Literal["eager", "onnx", "torch"]

PEER = "vit_b_16"
PEER_SIZE, PEER_TOKENS = 224, 77


class Latency(NamedTuple):
    """Times of one tower, in milliseconds."""

    median: float
    p95: float


class Row(NamedTuple):
    """One model in one form: `unfolded`, `folded`, `onnx` and `torch` (graphs, folded)."""

    model: str
    form: str
    image: Latency
    text: Latency

    @property
    def median(self) -> float:
        """Milliseconds of an image and a text."""
        return self.image.median + self.text.median


class Settings(NamedTuple):
    """What is common to all models of a table."""

    device: str = "cpu"
    batch_size: int = 1
    threads: int = 1
    repeats: int = 20
    warmup: int = 3
    channels_last: bool = False
    compiled: bool = False
    forms: tuple[Form, ...] = ("eager",)


def latency(
    *,
    models: list[str] = ["s0", "s1", "s2", "b"],  # noqa: B006 - never changed; shown in --help
    forms: list[Form] = ["eager"],  # noqa: B006
    device: str = "cpu",
    batch_size: int = 1,
    threads: int = 1,
    repeats: int = 20,
    warmup: int = 3,
    channels_last: bool = False,
    compiled: bool = False,
    out: Path | None = None,
) -> None:
    """Time the models, folded and unfolded or exported, and open_clip's ViT-B-16 in one run.

    Args:
        models: Which models, in any case.
        forms: `eager` is the model itself, folded and unfolded; `onnx` (in ONNX Runtime, needs the
            extra `onnx`) and `torch` (`torch.export`) are what `export` writes: folded graphs, on a
            CPU.
        device: `cpu`, `cuda`, `cuda:<number>` or `auto`.
        batch_size: Images and texts at once.
        threads: Threads of a CPU.
        repeats: Timed calls.
        warmup: Calls before them.
        channels_last: Keep images of `eager` models in channels-last order.
        compiled: Run `eager` models through torch.compile.
        out: JSON file of all figures.

    Raises:
        ValueError: An option is impossible, there is no such model, form or device, or an extra is
            not installed.
    """
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("threads", threads, 1),
        ("repeats", repeats, 1),
        ("warmup", warmup, 0),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    models = [name.lower() for name in models]
    if not models or not set(models) <= set(MODELS):
        raise ValueError(f"models must be some of {', '.join(MODELS)}, got {', '.join(models)}")
    if not forms or not set(forms) <= set(get_args(Form)):
        known = ", ".join(get_args(Form))
        raise ValueError(f"forms must be some of {known}, got {', '.join(forms)}")
    if "onnx" in forms:
        require_onnx("timing onnx graphs")
    settings = Settings(
        device, batch_size, threads, repeats, warmup, channels_last, compiled, tuple(forms)
    )
    rows = measure(models, settings)
    Console(soft_wrap=True).print(report(rows, settings))
    if out is not None:
        figures = [{**row._asdict(), **_plain(row)} for row in rows]
        atomic.write_json(
            out, {"machine": this_machine(), "settings": settings._asdict(), "rows": figures}
        )


def measure(models: Sequence[str], settings: Settings) -> list[Row]:
    """Time each model in each form, and the peer, turn by turn.

    Raises:
        ValueError: Graphs are asked for on another device than a CPU, or there is no such device.
    """
    import torch

    from tenfold.devices import choose_device

    device = choose_device(settings.device)
    if device.type != "cpu" and set(settings.forms) != {"eager"}:
        raise ValueError(f"forms onnx and torch are timed on a CPU, got device {device}")
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        built = _build(models, device=device, settings=settings)
        arms = [_Arm(*each, device=device, settings=settings) for each in built]
        for turn in range(settings.warmup + settings.repeats):
            for arm in arms:
                arm.run(keep=turn >= settings.warmup)
        return [arm.row() for arm in arms]
    finally:
        torch.set_num_threads(threads)


def report(rows: Sequence[Row], settings: Settings) -> Table:
    """Lay out the times; the ratio is the eager peer's image and text over the row's."""
    peer = next(row.median for row in rows if row.model == PEER)
    where = f"{settings.device}, batch {settings.batch_size}, {settings.threads} threads"
    title = f"Milliseconds and speed over {PEER}: {where}; {this_machine()}"
    table = Table("model", "form", title=title)
    headings = ("image", "p95", "text", "p95", "both", "speed")
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        times = (*row.image, *row.text, row.median)
        cells = (*(f"{value:.2f}" for value in times), f"{peer / row.median:.2f}")
        table.add_row(row.model, row.form, *cells)
    return table


class _Built(NamedTuple):
    model: str
    form: str
    image_size: int
    context_length: int
    encoders: "tuple[Encode, Encode]"


def _build(
    models: Sequence[str], *, device: "torch.device", settings: Settings
) -> Iterator[_Built]:
    from mobileclip.models.clip import build_model
    from mobileclip.models.fold import fold

    for name in models:
        model = build_model(name).eval()
        shape, folded = (model.image_size, model.context_length), fold(model)
        for form in settings.forms:
            if form == "eager":
                for module, kind in ((model, "unfolded"), (folded, "folded")):
                    yield _Built(name, kind, *shape, _eager(module, device, settings))
            else:
                yield _Built(name, form, *shape, _exported(folded, form, settings.threads))
    yield _Built(PEER, "", PEER_SIZE, PEER_TOKENS, _eager(_peer(), device, settings))


def _peer() -> Any:
    import open_clip

    config = open_clip.get_model_config("ViT-B-16")
    assert config is not None
    return open_clip.CLIP(**config).eval()  # create_model would warn of random weights


def _eager(module: Any, device: "torch.device", settings: Settings) -> "tuple[Encode, Encode]":
    import torch

    module = module.to(device)
    if settings.channels_last:
        module = module.to(memory_format=torch.channels_last)
    if settings.compiled:
        return torch.compile(module.encode_image), torch.compile(module.encode_text)
    return module.encode_image, module.encode_text


def _exported(
    folded: "MobileCLIP", form: Literal["onnx", "torch"], threads: int
) -> "tuple[Encode, Encode]":
    """Write both graphs as `export` does and load them as a user would."""
    from mobileclip.exporting import graphs

    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        graphs.write(graphs.trace(folded), folded, folder, format=form)
        return graphs.load(folder, format=form, threads=threads)


class _Arm:
    """A model with its inputs and the times taken so far."""

    def __init__(
        self,
        model: str,
        form: str,
        image_size: int,
        context_length: int,
        encoders: "tuple[Encode, Encode]",
        *,
        device: "torch.device",
        settings: Settings,
    ) -> None:
        import torch

        self._names, self._device = (model, form), device
        image = torch.rand(settings.batch_size, 3, image_size, image_size, device=device)
        if settings.channels_last and form not in ("onnx", "torch"):
            image = image.contiguous(memory_format=torch.channels_last)
        tokens = torch.randint(1, 49406, (settings.batch_size, context_length), device=device)
        self._calls = tuple(zip(encoders, (image, tokens), strict=True))
        self._times: tuple[list[float], list[float]] = ([], [])

    def run(self, *, keep: bool) -> None:
        """Encode images and texts once."""
        for (call, inputs), times in zip(self._calls, self._times, strict=True):
            elapsed = _time(call, inputs, self._device)
            if keep:
                times.append(1e3 * elapsed)

    def row(self) -> Row:
        """Return what was measured."""
        image, text = (Latency(*_quantiles(times)) for times in self._times)
        return Row(*self._names, image, text)


def _time(call: "Encode", inputs: "torch.Tensor", device: "torch.device") -> float:
    import torch

    with torch.inference_mode():
        _wait(device)
        began = time.perf_counter()
        call(inputs)
        _wait(device)
        return time.perf_counter() - began


def _wait(device: "torch.device") -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _quantiles(times: Sequence[float]) -> tuple[float, float]:
    import numpy as np

    return float(np.median(times)), float(np.percentile(times, 95))


def _plain(row: Row) -> dict[str, dict[str, float]]:
    return {"image": row.image._asdict(), "text": row.text._asdict()}
