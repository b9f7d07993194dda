"""Weight files in our, the official, open_clip's and timm's key layouts.

| layout | image tower | text tower |
|---|---|---|
| `ours` | `image_tower.` + timm's names | `text_tower.` + open_clip's names |
| `official` | `image_encoder.model.` | `text_encoder.` |
| `open_clip` | `visual.trunk.` + timm's names | `text.`, its own for Base, ours for MCt |
| `timm` | timm's names | none: the file holds the image tower alone |

Both ways are strict: a tensor too many, too few or of another shape is an error that names it.
Folded files are read in all layouts and written in ours: the others keep batch normalisation that
ours folds.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mobileclip.models.clip import MobileCLIP, build_model
from mobileclip.models.fold import is_folded
from mobileclip.models.fold_blocks import fold_branches_, fold_norms_
from mobileclip.models.official_names import IMAGE, TEXT, official_names
from tenfold import atomic, checkpoints

Layout = Literal["ours", "official", "open_clip", "timm"]

PROJECTIONS = ("image_tower.head.fc.weight", "image_tower.head.weight")
"""Projection of the image tower, by kind of tower; timm's has a bias, the official one none."""

_SIGNS: tuple[tuple[str, Layout], ...] = (
    (IMAGE, "ours"),
    ("image_encoder.model.", "official"),
    ("visual.trunk.", "open_clip"),
    ("stem.0.", "timm"),
    ("patch_embed.backbone.", "timm"),
)
_WRAPPERS = ("state_dict", "model")
_SUFFIXES = (".pt", ".pth", ".bin")
_POSITIONS = ("image_tower.pos_embed", "text_tower.positional_embedding")
_NAMED = 3


def detect_layout(state: Mapping[str, Tensor]) -> Layout:
    """Return the layout of `state`, from its names.

    Raises:
        ValueError: It has none of the four.
    """
    for prefix, layout in _SIGNS:
        if any(name.startswith(prefix) for name in state):
            return layout
    some = ", ".join(list(state)[:_NAMED]) or "nothing"
    raise ValueError(f"weights have no known layout ({', '.join(get_args(Layout))}): {some} ...")


def load_weights(model: MobileCLIP, path: Path) -> Layout:
    """Load a safetensors or torch file of weights into `model`, whatever its layout.

    In layout `timm` the text tower and the temperature stay as they are.

    Returns:
        The layout found.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read without unpickling, or does not fit `model`.
    """
    return load_state(model, read_state(path), source=str(path))


def load_state(model: MobileCLIP, state: Mapping[str, Tensor], *, source: str) -> Layout:
    """Load tensors in any layout into `model`.

    Args:
        model: Folded for a folded state, else unfolded.
        state: Tensors by name.
        source: What messages call `state`.

    Returns:
        The layout found.

    Raises:
        ValueError: `state` does not fit `model`.
    """
    layout = detect_layout(state)
    if layout == "ours" or not is_folded(model):
        values = _renamed(model, state, layout, source)
    else:
        half = _half_folded(model)
        renamed = _renamed(half, state, layout, source)
        values = {name: tensor.to(model.logit_scale) for name, tensor in renamed.items()}
        half.load_state_dict(values, strict=False, assign=True)
        fold_norms_(half)
        values = {n: t for n, t in half.state_dict().items() if layout != "timm" or _is_image(n)}
    model.load_state_dict({**model.state_dict(), **values})
    return layout


def read_state(path: Path) -> dict[str, Tensor]:
    """Read tensors by name, without the prefixes of compiled and wrapped modules.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read without unpickling.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there are no weights at {path}")
    if path.suffix == ".safetensors":
        content: Any = checkpoints.load_weights(path)
    else:
        content = _load_torch(path)
    for wrapper in _WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    tensors = {n.replace("_orig_mod.", ""): t for n, t in content.items() if isinstance(t, Tensor)}
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def to_layout(model: MobileCLIP, layout: Layout) -> dict[str, Tensor]:
    """Return the model's tensors under the names, and in the shapes, of a layout.

    They share memory with the model.

    Raises:
        ValueError: Unknown layout, or a folded model in another layout than ours.
    """
    if layout not in get_args(Layout):
        raise ValueError(f"layout must be one of {', '.join(get_args(Layout))}, got {layout}")
    if layout != "ours" and is_folded(model):
        raise ValueError(
            f"layout {layout} cannot hold a folded model: save the unfolded one, or use layout ours"
        )
    own = model.state_dict()
    names = _foreign_names(own, layout)
    state = {foreign: _stored(own[name], name, layout) for name, foreign in names.items()}
    bias = _bias_name(own, layout)
    if bias:
        state[bias] = model.logit_scale.new_zeros(model.embed_dim)
    return state


def save_weights(model: MobileCLIP, path: Path, *, layout: Layout) -> None:
    """Write the model's weights, atomically.

    Args:
        model: Folded models in layout `ours` only.
        path: `.safetensors`, or `.pt`, `.pth`, `.bin` for a torch file.
        layout: `ours`, `official`, `open_clip` or `timm` (image tower alone).

    Raises:
        ValueError: Unknown layout or suffix, or a folded model in another layout than ours.
    """
    path = Path(path)
    state = {name: t.detach().contiguous() for name, t in to_layout(model, layout).items()}
    if path.suffix == ".safetensors":
        checkpoints.save_weights(path, state, {"model": model.name, "layout": layout})
    elif path.suffix in _SUFFIXES:
        with atomic.open_atomic(path) as file:
            torch.save(state, file)
    else:
        known = ", ".join((".safetensors", *_SUFFIXES))
        raise ValueError(f"weights are written to {known}, got {path}")


def _foreign_names(own: Mapping[str, Tensor], layout: Layout) -> dict[str, str]:
    """Return the name in `layout` of each of our tensors that it holds."""
    if layout == "official":
        return official_names(own)
    if layout == "timm":
        return {name: name.removeprefix(IMAGE) for name in own if _is_image(name)}
    if layout == "open_clip":
        return {n: n.replace(IMAGE, "visual.trunk.").replace(TEXT, "text.") for n in own}
    return {name: name for name in own}


def _is_image(name: str) -> bool:
    return name.startswith(IMAGE)


def _bias_name(own: Mapping[str, Tensor], layout: Layout) -> str | None:
    """Return what `layout` calls the bias of the projection, which our towers do not have."""
    if layout not in ("open_clip", "timm"):
        return None
    projection = next(name for name in PROJECTIONS if name in own)
    return _foreign_names({projection: own[projection]}, layout)[projection][:-6] + "bias"


def _stored(tensor: Tensor, name: str, layout: Layout) -> Tensor:
    if layout != "official":
        return tensor
    if name in PROJECTIONS:
        return tensor.T
    return tensor.reshape(1, 1, *tensor.shape[-2:]) if name in _POSITIONS else tensor


def _as_ours(tensor: Tensor, name: str, like: Tensor, layout: Layout) -> Tensor:
    if layout == "official" and name in PROJECTIONS:
        return tensor.T
    if layout == "official" and name in _POSITIONS and tensor.shape[-2:] == like.shape[-2:]:
        return tensor.reshape(like.shape)
    return tensor


def _renamed(
    model: MobileCLIP, state: Mapping[str, Tensor], layout: Layout, source: str
) -> dict[str, Tensor]:
    """Return `state` under our names, compared with `model` name by name and shape by shape."""
    own = model.state_dict()
    names = _foreign_names(own, layout)
    bias = _bias_name(own, layout)
    if bias and bias in state and state[bias].any():
        raise ValueError(
            f"{source}: the image projection has a bias, {bias}, that is not zero; the model has "
            "none, so these weights cannot be kept exactly"
        )
    unexpected = sorted(set(state) - set(names.values()) - {bias})
    missing = sorted(set(names.values()) - set(state))
    found = {
        name: _as_ours(state[foreign], name, own[name], layout)
        for name, foreign in names.items()
        if foreign in state
    }
    reshaped = [names[name] for name, tensor in found.items() if tensor.shape != own[name].shape]
    _require_fit(model, layout, source, missing=missing, unexpected=unexpected, reshaped=reshaped)
    return found


def _require_fit(model: MobileCLIP, layout: Layout, source: str, **problems: list[str]) -> None:
    told = [
        f"{len(names)} {what} ({', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''})"
        for what, names in problems.items()
        if names
    ]
    if not told:
        return
    folded = any("reparam" in name for name in problems["unexpected"])
    remedy = "give the model.name and model.image_size that it was made with"
    if folded and not is_folded(model):
        remedy = "it holds folded weights, load them into fold(model)"
    elif is_folded(model):
        remedy = "if it holds unfolded weights, load them into the unfolded model and fold that"
    raise ValueError(
        f"{source}, layout {layout}, does not fit {model.name}: {'; '.join(told)}; {remedy}"
    )


def _half_folded(model: MobileCLIP) -> MobileCLIP:
    """Return a model without values that is folded as far as the official code and timm do."""
    with torch.device("meta"):
        half = build_model(model.name, image_size=model.image_size).eval()
    fold_branches_(half)
    return half


def _load_torch(path: Path) -> Any:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several types; none of them names the file
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{path} cannot be read safely: {reason}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} must hold tensors by name, got {type(content).__name__}")
    return content
