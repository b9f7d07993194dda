"""The verb `latency`: time of one window on one CPU thread, as on a wearable (spec 10).

Forms take turns, so that a busy moment of the machine falls on all of them.
"""

import copy
import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from biofame.export import load, require_onnx, window_shape
from tenfold import atomic
from tenfold.results import this_machine

if TYPE_CHECKING:
    from biofame.onnx_graph import Fixed, Kind, WindowShape

Form = Literal["eager", "compiled", "onnx"]
Call = Callable[[], object]

FIRST = 5
"""Calls before the timed ones."""


class Row(NamedTuple):
    """One form of the model.

    Attributes:
        form: `eager`, `compiled` or `onnx`.
        median: Milliseconds of a call.
        p95: 95th percentile, milliseconds.
        macs: Multiply-adds of matrix products in a call; the graph's Fourier transforms are such,
            torch's are not counted. None for a graph that came as a file.
        parameters: Numbers that were trained; None likewise.
    """

    form: str
    median: float
    p95: float
    macs: int | None
    parameters: int | None


def latency(
    run: Path,
    *,
    kind: Literal["classifier", "features"] = "classifier",
    forms: list[Form] | None = None,
    channels: list[str] | None = None,
    seconds: float | None = None,
    rate: float | None = None,
    threads: int = 1,
    repeats: int = 50,
    out: Path | None = None,
) -> None:
    """Time one window through a trained model, in torch and as the graph that `export` writes.

    Args:
        run: Run folder or checkpoint, or an `.onnx` file of `export`, which fixes kind, channels,
            length and rate.
        kind: The head's outputs, or pooled features.
        forms: `eager`, `compiled` (torch.compile, needs a C++ compiler) and `onnx` (needs the extra
            `onnx`); by default eager, and onnx where the extra is installed.
        channels: Channels of the window, by default the model's.
        seconds: Length of the window, by default as in training.
        rate: Samples per second, by default the model's.
        threads: CPU threads.
        repeats: Timed calls of each form.
        out: JSON file of all figures.

    Raises:
        ValueError: There is no such checkpoint or it has no head, an option is impossible, or an
            extra is not installed.
    """
    for name, value in (("threads", threads), ("repeats", repeats)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    if Path(run).suffix == ".onnx":
        _refuse(forms=forms, channels=channels, seconds=seconds, rate=rate)
        shape, rows = time_file(Path(run), threads=threads, repeats=repeats)
    else:
        fixed = _prepare(run, kind, channels, seconds, rate)
        shape = fixed.windows
        rows = time_forms(fixed, _checked(forms), threads=threads, repeats=repeats)
    title = f"One window: {_describe(shape)}; threads {threads}; {this_machine()}"
    Console(soft_wrap=True).print(report(rows, title=title))
    if out is not None:
        figures = [row._asdict() for row in rows]
        settings = {"window": _describe(shape), "threads": threads, "repeats": repeats}
        atomic.write_json(out, {"machine": this_machine(), **settings, "rows": figures})


def time_forms(
    fixed: "Fixed", forms: Sequence[Form], *, threads: int = 1, repeats: int = 50
) -> list[Row]:
    """Time a model in each form.

    Args:
        fixed: In evaluation mode, on the CPU.
        forms: Which.
        threads: CPU threads.
        repeats: Timed calls of each.
    """
    from biofame.onnx_graph import in_real_arithmetic, recordings

    samples = recordings(fixed.windows, 1)
    parameters = sum(parameter.numel() for parameter in fixed.parameters())
    calls = [_call(fixed, form, samples, threads) for form in forms]
    rows = []
    for form, (median, p95) in zip(forms, _times(calls, threads, repeats), strict=True):
        computed = in_real_arithmetic(fixed) if form == "onnx" else fixed
        rows.append(Row(form, median, p95, count_macs(computed), parameters))
    return rows


def time_file(
    path: Path, *, threads: int = 1, repeats: int = 50
) -> "tuple[WindowShape, list[Row]]":
    """Time a graph that `export` wrote, and return what it takes.

    Raises:
        ValueError: There is no such file, or `export` did not write it.
    """
    require_onnx("timing a graph")
    from biofame.onnx_graph import Session, WindowShape, recordings

    if not path.is_file():
        raise FileNotFoundError(f"no such graph: {path}; write one with `biofame export`")
    session = Session(path, threads=threads)
    facts = session.properties
    if "shape" not in facts:
        raise ValueError(f"{path} was not written by `biofame export`: it does not say its shape")
    *context, _, length = json.loads(facts["shape"])[1:]
    shape = WindowShape(
        channels=tuple(json.loads(facts["channels"])),
        rate=float(facts["rate"]),
        length=length,
        context=context[0] if context else 0,
    )
    samples = recordings(shape, 1)
    ((median, p95),) = _times([lambda: session(samples)], threads, repeats)
    return shape, [Row("onnx", median, p95, None, None)]


def count_macs(fixed: "Fixed") -> int:
    """Return the multiply-adds of matrix products in one window, attention's among them."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # The counter's hooks fail on parameters under no_grad.
    frozen = copy.deepcopy(fixed).requires_grad_(False)
    # It does not know the CPU's fused attention; the plain one is matrix products.
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        frozen(torch.zeros(fixed.windows.shape(1)))
    return counter.get_total_flops() // 2


def report(rows: Sequence[Row], *, title: str) -> Table:
    """Lay out the figures."""
    table = Table("form", title=title)
    for heading in ("median ms", "p95 ms", "M MAC", "parameters"):
        table.add_column(heading, justify="right")
    for row in rows:
        macs = "" if row.macs is None else f"{row.macs / 1e6:.2f}"
        parameters = "" if row.parameters is None else f"{row.parameters:,}"
        table.add_row(row.form, f"{row.median:.3f}", f"{row.p95:.3f}", macs, parameters)
    return table


def _prepare(
    run: Path,
    kind: "Kind",
    channels: list[str] | None,
    seconds: float | None,
    rate: float | None,
) -> "Fixed":
    from biofame.onnx_graph import Fixed

    model, _ = load(run, kind)
    shape = window_shape(model, channels=channels, length=None, rate=rate)
    if seconds is not None:
        length = round(seconds * shape.rate)
        shape = window_shape(model, channels=channels, length=length, rate=rate)
    return Fixed(model, kind, shape).eval()


def _checked(forms: list[Form] | None) -> list[Form]:
    if forms is None:
        return ["eager", "onnx"] if importlib.util.find_spec("onnxruntime") else ["eager"]
    known = get_args(Form)
    if not forms or not set(forms) <= set(known):
        raise ValueError(f"forms must be some of {', '.join(known)}, got {', '.join(forms)}")
    if "onnx" in forms:
        require_onnx("timing onnx graphs")
    return forms


def _refuse(**given: object) -> None:
    if fixed := [name for name, value in given.items() if value is not None]:
        raise ValueError(f"an .onnx file is of one window shape; leave out {', '.join(fixed)}")


def _call(fixed: "Fixed", form: Form, samples: NDArray[np.float32], threads: int) -> Call:
    import torch

    from biofame.export import LEAST_OPSET
    from biofame.onnx_graph import Session, to_onnx

    if form == "onnx":
        session = Session(to_onnx(fixed, {}, opset=LEAST_OPSET), threads=threads)
        return lambda: session(samples)
    module = torch.compile(fixed) if form == "compiled" else fixed
    inputs = torch.from_numpy(samples)
    return lambda: module(inputs)


def _times(calls: Sequence[Call], threads: int, repeats: int) -> list[tuple[float, float]]:
    """Return median and 95th percentile of each call, in milliseconds."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            turns = [[_seconds(call) for call in calls] for _ in range(FIRST + repeats)]
    finally:
        torch.set_num_threads(before)
    kept = 1e3 * np.asarray(turns[FIRST:])
    return [(float(np.median(each)), float(np.percentile(each, 95))) for each in kept.T]


def _seconds(call: Call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _describe(shape: "WindowShape") -> str:
    seconds = shape.length / shape.rate
    context = f"{shape.context} x " if shape.context else ""
    return f"{context}{', '.join(shape.channels)}, {seconds:g} s at {shape.rate:g} Hz"
