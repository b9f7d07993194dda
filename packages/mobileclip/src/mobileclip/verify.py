"""The verb `verify`: do the members of samples fit together, and do teachers still say the same?

Accuracy does not notice a view whose pixels are another view's (spec 7a); comparing embeddings
does.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
from rich.console import Console

from mobileclip.generate.teacher_config import TeacherEnsembleConfig
from mobileclip.generate.teachers import build_teachers
from mobileclip.images import IMAGE_EXTENSIONS
from mobileclip.pairs import Pair, PairSchema, pair_schema
from mobileclip.reader_config import ReaderConfig
from mobileclip.recompute import Agreement, Recomputation
from mobileclip.rejections import kind_of
from mobileclip.repeated_uids import RepeatedUids
from mobileclip.schema import ReinforcementInfo
from mobileclip.shard_sources import open_shards, read_reinforcement
from mobileclip.uid_table import sample_about
from tenfold import keyed
from tenfold.shards import LocalSource, ShardError, ShardIndex, TarMembers

T = TypeVar("T")

MIN_COSINE = 0.999
"""Smallest cosine of a stored and a recomputed embedding that bfloat16 explains (spec 7a)."""

_SHOWN = 5


class Problem(NamedTuple):
    """What is wrong with one sample.

    Attributes:
        key: The sample.
        kind: Kind of the problem.
        reason: One line.
    """

    key: str
    kind: str
    reason: str


def verify(
    shards: str,
    *,
    sample: int = 1000,
    recompute: bool = False,
    teachers: TeacherEnsembleConfig | None = None,
    release: str = "",
    seed: int = 0,
    device: str = "cpu",
    min_cosine: float = MIN_COSINE,
) -> int:
    """Check samples of reinforced shards; with `recompute` ask their teachers again.

    Checked are shapes, widths, NaN and norms of embeddings, numbers of views and captions, crop
    boxes against the image, and the image's digest where one is stored. With `recompute` one stored
    view and the captions of each sample are embedded again. As a check of the check the same is
    done with the parameters of another view of the image: this must be noticed. Samples of the
    opened tars that have the uid of another one are counted in a warning.

    Args:
        shards: A folder of shards, or a brace or glob pattern of tars.
        sample: Number of samples, drawn by `seed`; 0 for all.
        recompute: Whether to embed views and captions again.
        teachers: The teachers that the data were made with; needed for `recompute`.
        release: Published data set that the shards are of, when they do not say it themselves.
        seed: Keys the choice of samples and views.
        device: Where the teachers run: `cpu`, `cuda` or `cuda:<number>`.
        min_cosine: Smallest accepted cosine of a stored and a recomputed embedding.

    Returns:
        1 when a sample is bad, a cosine is too small, or shuffled parameters go unnoticed, else 0.

    Raises:
        FileNotFoundError: Shards or weights are missing.
        ValueError: The shards are not reinforced, or the teachers are others than theirs.
    """
    if recompute and teachers is None:
        raise ValueError("recompute needs teachers: name those that the data were made with")
    index = open_shards(shards)
    info = read_reinforcement(index, release=release)
    if info is None:
        raise ValueError(f"{shards} has no reinforcement.json; name the published data in release")
    chosen = choose_samples(index.num_samples, sample, seed=seed)
    again: Recomputation | None = None
    if recompute and teachers is not None:
        again = Recomputation(info, build_teachers(teachers, device=device), seed=seed)
    problems: list[Problem] = []
    uids, batch = RepeatedUids(), teachers.batch if teachers else 1
    for found in in_batches(check_samples(index, info, chosen, uids=uids), batch):
        problems += [one for one in found if isinstance(one, Problem)]
        pairs = [one for one in found if isinstance(one, Pair)]
        if again is not None and pairs:
            again.add(pairs)
    console = Console(soft_wrap=True, markup=False)
    for line in (*_lines(len(chosen), index.num_samples, problems), *uids.lines()):
        console.print(line)
    if again is None or len(problems) == len(chosen):
        return int(bool(problems))
    agreement = again.agreement()
    for line in _agreement_lines(agreement, min_cosine):
        console.print(line)
    return int(bool(problems) or not agreement.holds(min_cosine))


def choose_samples(count: int, sample: int, *, seed: int) -> list[int]:
    """Return `sample` different numbers below `count`, or all, in order."""
    if sample < 0:
        raise ValueError(f"sample must be >= 0, got {sample}")
    if sample == 0 or sample >= count:
        return list(range(count))
    rng = keyed.generator("verify", seed)
    return np.sort(rng.choice(count, size=sample, replace=False)).tolist()


def check_samples(
    index: ShardIndex,
    info: ReinforcementInfo,
    samples: Sequence[int],
    *,
    uids: RepeatedUids | None = None,
) -> Iterator[Pair | Problem]:
    """Yield samples, checked as training does and for what training takes on trust.

    Args:
        index: The shards.
        info: What they should hold.
        samples: Numbers of samples in the order of the index, ascending.
        uids: Gets the uids of all samples of the tars that are opened.
    """
    captions = "both" if info.num_captions else "real"
    schema = pair_schema(ReaderConfig(mode="dr", captions=captions), info)
    for members, key in _located(index, samples, uids):
        try:
            yield _check(members, key, schema, info)
        except ShardError as error:
            reason = str(error)
            yield Problem(key, kind_of(reason), reason)


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield consecutive items in lists of at most `size`."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _check(members: TarMembers, key: str, schema: PairSchema, info: ReinforcementInfo) -> Pair:
    pair: Pair = schema.read(members, key)["pair"]
    if len(pair.views) != info.num_views:
        raise ShardError(f"views: {len(pair.views)}, reinforcement.json says {info.num_views}")
    for name, texts in pair.synthetic.items():
        if len(texts) != info.num_captions:
            raise ShardError(
                f"captions: {len(texts)} of {name}, reinforcement.json says {info.num_captions}"
            )
    about = sample_about(members, key)
    digest = about.get("meta", {}).get("image_sha256") if isinstance(about, dict) else None
    if digest:
        extension = next(e for e in IMAGE_EXTENSIONS if e in members.extensions(key))
        if hashlib.sha256(members.read(key, extension)).hexdigest() != digest:
            raise ShardError("views: the image is another than the one that they were drawn for")
    return pair


def _located(
    index: ShardIndex, samples: Sequence[int], uids: RepeatedUids | None
) -> Iterator[tuple[TarMembers, str]]:
    source = LocalSource(index)
    first, remaining = 0, list(samples)
    for entry in index.entries:
        within = [number - first for number in remaining if number < first + entry.num_samples]
        remaining = remaining[len(within) :]
        first += entry.num_samples
        if within:
            members = TarMembers(source.path(entry))
            if uids is not None:
                uids.add(members)
            yield from ((members, members.keys[number]) for number in within)


def _lines(count: int, total: int, problems: Sequence[Problem]) -> Iterator[str]:
    more = " (--sample 0 for all)" if count < total else ""
    yield f"{count:,} of {total:,} samples{more}: {len(problems):,} bad"
    for kind, number in Counter(problem.kind for problem in problems).most_common():
        yield f"  {kind}: {number}"
        for problem in [problem for problem in problems if problem.kind == kind][:_SHOWN]:
            yield f"    {problem.key}: {problem.reason}"


def _agreement_lines(agreement: Agreement, limit: float) -> Iterator[str]:
    for name, cosines in (("views", agreement.views), ("captions", agreement.captions)):
        smallest = float(cosines.min())
        verdict = "ok" if smallest >= limit else f"below {limit:g}"
        yield f"{len(cosines)} {name}: smallest cosine {smallest:.5f}: {verdict}"
    share = agreement.noticed(limit)
    if share is None:
        yield "one view an image: whether shuffled parameters would be noticed cannot be told"
        return
    answer = "would be noticed" if share >= 0.5 else "might go unnoticed with these teachers"
    median = float(agreement.shuffled.median())
    yield f"shuffled parameters {answer}: {share:.0%} below, median cosine {median:.5f}"
