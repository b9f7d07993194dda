"""What a gallery's `gallery.json` says: models, versions, and how far the columns are durable."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal, Self, get_args

from fastfill.card import ModelCard, TransformCard
from fastfill.gallery.columns import ColumnSpec
from tenfold import atomic

STATE = "gallery.json"
SCHEMA = 2
NO_VINTAGE = 0xFFFF
"""Vintage of an item that no old model has embedded."""
NO_RANK = 0xFFFFFFFF
"""Rank of an item that is not in the order."""
NOT_SEARCHED = "not searched"
"""What stands for the version of an added item while the old model is searched with."""
_INTEGERS = ("side_dim", "rows", "ids_bytes", "failures_bytes", "generation", "epoch")

Dtype = Literal["float32", "float16"]
Phase = Literal["backfilling", "final"]
Serving = Literal["new", "old"]


class Version(IntEnum):
    """What an item's vector is."""

    OLD = 0
    TRANSFORMED = 1
    NEW = 2


class Status(IntEnum):
    """What may be done with an item."""

    LIVE = 0
    FAILED = 1
    DELETED = 2


@dataclass(frozen=True, kw_only=True)
class GalleryCards:
    """The models whose vectors a gallery holds.

    Args:
        new: The model that queries are embedded with.
        old: One for each vintage: an item's `vintage` is a position in here.
        maps: For each vintage the map to the new space; None where the model is the new one.
        maps_sha256: Digests of the maps' weights, for rolling back with the same.
        side: Of the side information.
    """

    new: ModelCard
    old: tuple[ModelCard, ...]
    maps: tuple[TransformCard | None, ...] = ()
    maps_sha256: tuple[str, ...] = ()
    side: ModelCard | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.old) < NO_VINTAGE:
            raise ValueError(f"a gallery needs 1..{NO_VINTAGE - 1} old models, got {len(self.old)}")
        for name in ("maps", "maps_sha256"):
            if getattr(self, name) and len(getattr(self, name)) != len(self.old):
                raise ValueError(f"a gallery's {name} must be one for each old model")

    @property
    def old_dim(self) -> int:
        """Width of the column of old embeddings: the widest model's."""
        return max(card.dim for card in self.old)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the cards that `asdict` gave."""
        side = value["side"]
        return cls(
            new=ModelCard.from_json(value["new"]),
            old=tuple(ModelCard.from_json(card) for card in value["old"]),
            maps=tuple(card and TransformCard.from_json(card) for card in value["maps"]),
            maps_sha256=tuple(str(digest) for digest in value["maps_sha256"]),
            side=None if side is None else ModelCard.from_json(side),
        )


@dataclass(frozen=True, kw_only=True)
class GalleryState:
    """The durable part of a gallery as of its last checkpoint.

    Args:
        cards: The models.
        backend: Of the index that is built from the gallery, and its options.
        backend_options: See `backend`.
        dtype: Of the vectors.
        side_dim: Width of the side information, 0 without.
        phase: `final` once old embeddings are gone.
        serving: In which space is searched: `old` after a roll-back to the old model.
        rows: Items, deleted ones included.
        ids_bytes: Length of the file of ids.
        failures_bytes: Length of the file of failures.
        generation: Number of the journal.
        epoch: Number of roll-backs to the vectors of h; results of an earlier one count no more.
        schema: Of this file.
    """

    cards: GalleryCards
    backend: str
    backend_options: Mapping[str, Any] = field(default_factory=dict)
    dtype: Dtype = "float32"
    side_dim: int = 0
    phase: Phase = "backfilling"
    serving: Serving = "new"
    rows: int = 0
    ids_bytes: int = 0
    failures_bytes: int = 0
    generation: int = 0
    epoch: int = 0
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        for name, known in (("dtype", Dtype), ("phase", Phase), ("serving", Serving)):
            if getattr(self, name) not in get_args(known):
                choices = " or ".join(get_args(known))
                raise ValueError(f"{name} must be {choices}, got {getattr(self, name)!r}")
        for name in _INTEGERS:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"{name} must be an integer >= 0, got {value!r}")
        if not isinstance(self.backend, str) or not isinstance(self.backend_options, Mapping):
            raise ValueError("backend must be a name and backend_options an object")

    @property
    def specs(self) -> dict[str, ColumnSpec]:
        """Return the columns of the gallery in this phase."""
        always = {
            "vec": ColumnSpec(self.dtype, self.cards.new.dim),
            "version": ColumnSpec("uint16"),
            "attempts": ColumnSpec("uint8"),
            "vintage": ColumnSpec("uint16"),
            "status": ColumnSpec("uint8"),
        }
        if self.phase == "final":
            return always
        side = {"side": ColumnSpec(self.dtype, self.side_dim)} if self.side_dim else {}
        old = {"old": ColumnSpec(self.dtype, self.cards.old_dim)}
        return always | old | side | {"s": ColumnSpec("float32"), "rank": ColumnSpec("uint32")}

    @property
    def serving_card(self) -> ModelCard:
        """Return the model that queries must come from."""
        return self.cards.new if self.serving == "new" else self.cards.old[0]

    def names_of_versions(self) -> dict[str, str]:
        """Return what a person calls each version, by `<version>` or `<version>/<vintage>`."""
        names = {str(int(Version.NEW)): self.cards.new.name}
        names[f"{int(Version.OLD)}/{NO_VINTAGE}"] = NOT_SEARCHED
        for vintage, card in enumerate(self.cards.old):
            names[f"{int(Version.OLD)}/{vintage}"] = card.name
            names[f"{int(Version.TRANSFORMED)}/{vintage}"] = f"h({card.name})"
        return names


OLD_COLUMNS = ("old", "side", "s", "rank")
"""Columns that a finalised gallery has no more."""


def write_state(folder: Path, state: GalleryState) -> None:
    """Replace the state atomically."""
    value = asdict(state)
    value["dim"], value["metric"] = state.cards.new.dim, state.cards.new.metric  # for people
    value["versions"] = state.names_of_versions()
    atomic.write_json(folder / STATE, value)


def read_state(folder: Path) -> GalleryState:
    """Return the state of the gallery in `folder`.

    Raises:
        FileNotFoundError: There is no gallery.
        ValueError: The file is damaged or of another release.
    """
    path = folder / STATE
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{folder} is no gallery ({STATE} is missing); make one with init-gallery"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        found = value.get("schema") if isinstance(value, dict) else value
        raise ValueError(f"{path} has schema {found!r:.40}, this release reads {SCHEMA}")
    names = {entry.name for entry in fields(GalleryState)}
    if missing := sorted(names - value.keys()):
        raise ValueError(f"{path} lacks {', '.join(missing)}; the gallery is damaged")
    try:
        entries: dict[str, Any] = {name: value[name] for name in names}
        entries["cards"] = GalleryCards.from_json(entries["cards"])
        return GalleryState(**entries)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def journal_path(folder: Path, generation: int) -> Path:
    """Return the journal of a generation."""
    return folder / f"journal-{generation:08d}.bin"
