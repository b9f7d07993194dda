"""Embed stored views and captions again, and compare with what is stored (spec 7a)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mobileclip.embeddings import Embeddings
from mobileclip.generate.teachers import Teachers
from mobileclip.pairs import Pair
from mobileclip.replay import decode_view
from mobileclip.schema import ReinforcementInfo
from tenfold import keyed
from tenfold.augment.pipeline import Augment


@dataclass(frozen=True, eq=False)
class Agreement:
    """Cosines of stored and recomputed embeddings, the smallest over teachers.

    Attributes:
        views: Of views made from their own parameters, `[n]`.
        captions: Of real and synthetic captions, `[m]`.
        shuffled: Of views made from the parameters of the next view of their image, `[k]`; empty
            where images have one view.
    """

    views: Tensor
    captions: Tensor
    shuffled: Tensor

    def noticed(self, limit: float) -> float | None:
        """Return the share of shuffled views below the limit; None where there are none."""
        return float((self.shuffled < limit).float().mean()) if len(self.shuffled) else None

    def holds(self, limit: float) -> bool:
        """Return whether all is as stored, and another view would mostly be noticed."""
        smallest = min(float(self.views.min()), float(self.captions.min()))
        share = self.noticed(limit)
        return smallest >= limit and (share is None or share >= 0.5)


class Recomputation:
    """Compares batches of pairs with what their teachers say now.

    Args:
        info: What the pairs were made with.
        teachers: The teachers.
        seed: Keys which view of a pair is made again.

    Raises:
        ValueError: The teachers are others than those of the data.
    """

    def __init__(self, info: ReinforcementInfo, teachers: Teachers, *, seed: int = 0) -> None:
        check_teachers(info, teachers)
        self.info = info
        self.teachers = teachers
        self.seed = seed
        self._augment = Augment(info.augment)
        self._found: dict[str, list[Tensor]] = {"views": [], "captions": [], "shuffled": []}

    def add(self, pairs: Sequence[Pair]) -> None:
        """Compare one view and all captions of each pair."""
        chosen = [(pair, self._choose(pair)) for pair in pairs]
        stored = torch.stack([_embeddings(pair).image[j] for pair, j in chosen])
        self._compare("views", self._embed_views(chosen), stored)
        texts, rows = _captions(pairs)
        self._compare("captions", self.teachers.encode_texts(texts), rows)
        several = [n for n, pair in enumerate(pairs) if len(pair.views) > 1]
        if several:
            others = [(pair, (j + 1) % len(pair.views)) for pair, j in chosen]
            shuffled = self._embed_views([others[n] for n in several])
            self._compare("shuffled", shuffled, stored[several])

    def agreement(self) -> Agreement:
        """Return what all batches showed."""
        return Agreement(
            **{name: torch.cat([torch.zeros(0), *rows]) for name, rows in self._found.items()}
        )

    def _choose(self, pair: Pair) -> int:
        rng = keyed.generator("verify view", self.seed, pair.uid)
        return int(rng.integers(len(pair.views)))

    def _embed_views(self, chosen: Sequence[tuple[Pair, int]]) -> Tensor:
        made = [
            self._augment.apply(
                pair.image, decode_view(pair.views[j], self.info.augment, name=pair.key)
            )
            for pair, j in chosen
        ]
        return self.teachers.encode_images(torch.stack(made))

    def _compare(self, name: str, here: Tensor, stored: Tensor) -> None:
        cosines = teacher_cosines(here, stored, self.info.dims)
        self._found[name].append(cosines.amin(1))


def teacher_cosines(one: Tensor, other: Tensor, dims: Sequence[int]) -> Tensor:
    """Return the cosine of rows for each teacher, float32 `[n, K]`.

    Args:
        one: `[n, W]`.
        other: Likewise.
        dims: Width of each of the K teachers.
    """
    halves = (rows.cpu().to(torch.float32).split(list(dims), dim=1) for rows in (one, other))
    return torch.stack([torch.cosine_similarity(a, b) for a, b in zip(*halves, strict=True)], dim=1)


def check_teachers(info: ReinforcementInfo, teachers: Teachers) -> None:
    """Compare given teachers with those of the data; published data do not tell their weights.

    Raises:
        ValueError: Their number, widths or weights differ; names both.
    """
    if tuple(teachers.dims) != info.dims:
        raise ValueError(
            f"the data have teachers of widths {list(info.dims)}, the given ones have "
            f"{list(teachers.dims)}: give the teachers that the data were made with"
        )
    for number, (stored, here) in enumerate(zip(info.teachers, teachers.describe(), strict=True)):
        digest = stored.weights_sha256
        if digest is not None and digest != here.weights_sha256:
            raise ValueError(
                f"teacher {number} of the data is {stored.name} with weights {digest[:12]}, the "
                f"given one {here.name} with {str(here.weights_sha256)[:12]}"
            )


def _captions(pairs: Sequence[Pair]) -> tuple[list[str], Tensor]:
    texts: list[str] = []
    rows: list[Tensor] = []
    for pair in pairs:
        stored = _embeddings(pair)
        texts += pair.captions
        rows.append(stored.text)
        for key, captions in pair.synthetic.items():
            texts += captions
            rows.append(stored.synthetic[key])
    return texts, torch.cat(rows)


def _embeddings(pair: Pair) -> Embeddings:
    assert pair.embeddings is not None
    return pair.embeddings
