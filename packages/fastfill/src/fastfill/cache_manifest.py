"""What `cache.json` says of cached features: models, views and files of pairs. Free of torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fastfill.card import ModelCard

SCHEMA = 1
MANIFEST, IDS, HEAD, OLD_HEAD = "cache.json", "ids.jsonl", "head.npy", "old_head.npy"


class Cards(NamedTuple):
    """The models of a cache; `side` is None without side information."""

    old: ModelCard
    new: ModelCard
    side: ModelCard | None


@dataclass(frozen=True)
class CacheShard:
    """One file of pairs."""

    name: str
    num_items: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class CacheManifest:
    """What `cache.json` says.

    Attributes:
        cards: The models.
        num_views: Cached views of each item.
        dtype: Of the stored embeddings, `float16` or `float32`.
        shards: The files of pairs, in order.
        class_names: Names of the labels, empty where they have none.
        data: Where the originals came from and how views were made, for people.
    """

    cards: Cards
    num_views: int
    dtype: str
    shards: tuple[CacheShard, ...]
    class_names: tuple[str, ...] = ()
    data: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        cards = {
            name: None if card is None else card.to_json()
            for name, card in self.cards._asdict().items()
        }
        return {
            "schema": SCHEMA,
            "models": cards,
            "num_views": self.num_views,
            "dtype": self.dtype,
            "num_items": sum(shard.num_items for shard in self.shards),
            "shards": [vars(shard) for shard in self.shards],
            "class_names": list(self.class_names),
            "data": dict(self.data),
        }

    @classmethod
    def from_json(cls, value: Any) -> "CacheManifest":
        """Return what `to_json` gave.

        Raises:
            ValueError: Another schema version, or an entry is missing or malformed.
        """
        if not isinstance(value, Mapping) or value.get("schema") != SCHEMA:
            found = value.get("schema") if isinstance(value, Mapping) else value
            raise ValueError(f"schema version is {found!r:.40}, expected {SCHEMA}")
        try:
            models = value["models"]
            manifest = cls(
                cards=Cards(
                    ModelCard.from_json(models["old"]),
                    ModelCard.from_json(models["new"]),
                    None if models["side"] is None else ModelCard.from_json(models["side"]),
                ),
                num_views=int(value["num_views"]),
                dtype=str(value["dtype"]),
                shards=tuple(CacheShard(**shard) for shard in value["shards"]),
                class_names=tuple(value["class_names"]),
                data=dict(value["data"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"an entry is missing or malformed ({error!r})") from error
        for shard in manifest.shards:
            if shard.name != Path(shard.name).name:
                raise ValueError(f"shard name {shard.name!r} leaves the folder")
        return manifest
