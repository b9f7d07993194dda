"""The verb `export`: a checkpoint for open_clip, ONNX Runtime or `torch.export`, compared first."""

import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console

if TYPE_CHECKING:
    from mobileclip.exporting.graphs import GraphFormat
    from mobileclip.exporting.parity import Parity
    from mobileclip.models.clip import MobileCLIP

ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")

_log = logging.getLogger(__name__)


def export(
    checkpoint: Path,
    out: Path,
    *,
    format: Literal["open_clip", "onnx", "torch"] = "open_clip",
    fold: bool = True,
    ema: bool = True,
) -> None:
    """Write a trained model for use elsewhere and print how far its logits differ.

    The folder appears only after it has been loaded and compared.

    Args:
        checkpoint: Checkpoint or run folder of `fit`, or a weights file.
        out: Folder to write; new or empty.
        format: `open_clip` loads in open_clip by `local-dir:` (S1, S2 and B; open_clip has no text
            tower of S0), `onnx` and `torch` hold a graph of each tower.
        fold: Fold the graphs; open_clip always builds the unfolded model.
        ema: Export the moving average of the weights where the checkpoint has one.

    Raises:
        ValueError: There is no such checkpoint, `out` holds something, the format cannot hold the
            model, an extra is not installed, or what was written gives other logits.
    """
    from mobileclip.exporting.folders import require_new

    out = require_new(out)
    if format == "onnx":
        require_onnx("export to onnx")
    from mobileclip.checkpoint import load_model

    model = load_model(checkpoint, ema=ema).eval()
    if format == "open_clip":
        parity = _export_open_clip(model, out)
    else:
        parity = _export_graphs(model, out, format=format, fold=fold)
    Console(soft_wrap=True).print(f"{out}: {parity}", highlight=False)


def _export_open_clip(model: "MobileCLIP", out: Path) -> "Parity":
    from mobileclip.exporting import open_clip_folder
    from mobileclip.exporting.folders import new_folder

    open_clip_folder.check_model(model)
    with new_folder(out) as folder:
        open_clip_folder.write(model, folder)
        return open_clip_folder.check(model, folder)


def _export_graphs(
    model: "MobileCLIP", out: Path, *, format: "GraphFormat", fold: bool
) -> "Parity":
    from mobileclip.exporting import graphs
    from mobileclip.exporting.folders import new_folder
    from mobileclip.models.fold import fold as folded
    from mobileclip.models.fold import is_folded

    exported = folded(model) if fold else model
    if not is_folded(exported):
        _log.warning("the graphs are not folded: slower than they need be; leave fold on")
    with new_folder(out) as folder:
        graphs.write(graphs.trace(exported), exported, folder, format=format)
        return graphs.check(model, folder, format=format)


def require_onnx(purpose: str) -> None:
    """Refuse when the packages of the extra `onnx` are not all there.

    Args:
        purpose: What needs them, as the message begins.

    Raises:
        ValueError: Some are missing; names the extra.
    """
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"{purpose} needs {', '.join(missing)}: install the extra mobileclip[onnx]"
        )
