"""The verb `latency`: time of an image and of a text, folded and not, beside ViT-B/16's CLIP.

The protocol is the paper's (section 5, spec 4): each model at its own image size, image and text
apart, median and 95th percentile after a warm-up. The models take turns, so that a busy moment of
the machine falls on all of them. Weights are random: they do not change the time.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.table import Table

from mobileclip.config import MODELS
from tenfold import atomic
from tenfold.results import this_machine

if TYPE_CHECKING:
    import torch

    Encode = Callable[[torch.Tensor], torch.Tensor]

PEER = "vit_b_16"
PEER_SIZE, PEER_TOKENS = 224, 77


class Latency(NamedTuple):
    """Times of one tower, in milliseconds."""

    median: float
    p95: float


class Row(NamedTuple):
    """One model in one form."""

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


def latency(
    *,
    models: list[str] = ["s0", "s1", "s2", "b"],  # noqa: B006 - never changed; shown in --help
    device: str = "cpu",
    batch_size: int = 1,
    threads: int = 1,
    repeats: int = 20,
    warmup: int = 3,
    channels_last: bool = False,
    compiled: bool = False,
    out: Path | None = None,
) -> None:
    """Time the models, folded and unfolded, and open_clip's ViT-B-16 in one run.

    Args:
        models: Which models.
        device: `cpu`, `cuda`, `cuda:<number>` or `auto`.
        batch_size: Images and texts at once.
        threads: Threads of a CPU.
        repeats: Timed calls.
        warmup: Calls before them.
        channels_last: Keep images in channels-last order.
        compiled: Run the models through torch.compile.
        out: JSON file of all figures.

    Raises:
        ValueError: An option is impossible, or there is no such model or device.
    """
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("threads", threads, 1),
        ("repeats", repeats, 1),
        ("warmup", warmup, 0),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if not models or not set(models) <= set(MODELS):
        raise ValueError(f"models must be some of {', '.join(MODELS)}, got {', '.join(models)}")
    settings = Settings(device, batch_size, threads, repeats, warmup, channels_last, compiled)
    rows = measure(models, settings)
    Console(soft_wrap=True).print(report(rows, settings))
    if out is not None:
        figures = [{**row._asdict(), **_plain(row)} for row in rows]
        atomic.write_json(
            out, {"machine": this_machine(), "settings": settings._asdict(), "rows": figures}
        )


def measure(models: Sequence[str], settings: Settings) -> list[Row]:
    """Time each model unfolded and folded, and the peer, turn by turn."""
    import torch

    from tenfold.devices import choose_device

    device = choose_device(settings.device)
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        arms = [_Arm(*each, device=device, settings=settings) for each in _build(models)]
        for turn in range(settings.warmup + settings.repeats):
            for arm in arms:
                arm.run(keep=turn >= settings.warmup)
        return [arm.row() for arm in arms]
    finally:
        torch.set_num_threads(threads)


def report(rows: Sequence[Row], settings: Settings) -> Table:
    """Lay out the times; the ratio is the peer's image and text over the row's."""
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
    module: Any
    image_size: int
    context_length: int


def _build(models: Sequence[str]) -> list[_Built]:
    from mobileclip.models.clip import build_model
    from mobileclip.models.fold import fold

    built: list[_Built] = []
    for name in models:
        model = build_model(name).eval()
        shape = (model.image_size, model.context_length)
        built += [
            _Built(name, "unfolded", model, *shape),
            _Built(name, "folded", fold(model), *shape),
        ]
    return [*built, _Built(PEER, "", _peer(), PEER_SIZE, PEER_TOKENS)]


def _peer() -> Any:
    import open_clip

    config = open_clip.get_model_config("ViT-B-16")
    assert config is not None
    return open_clip.CLIP(**config).eval()  # create_model would warn of random weights


class _Arm:
    """A model with its inputs and the times taken so far."""

    def __init__(
        self,
        model: str,
        form: str,
        module: Any,
        image_size: int,
        context_length: int,
        *,
        device: "torch.device",
        settings: Settings,
    ) -> None:
        import torch

        self._names, self._device = (model, form), device
        module = module.to(device)
        image = torch.rand(settings.batch_size, 3, image_size, image_size, device=device)
        if settings.channels_last:
            module = module.to(memory_format=torch.channels_last)
            image = image.contiguous(memory_format=torch.channels_last)
        tokens = torch.randint(1, 49406, (settings.batch_size, context_length), device=device)
        encode: list[Encode] = [module.encode_image, module.encode_text]
        if settings.compiled:
            encode = [torch.compile(call) for call in encode]
        self._calls = tuple(zip(encode, (image, tokens), strict=True))
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
