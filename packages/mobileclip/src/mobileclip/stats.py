"""The verb `stats`: what shards hold, and where their bytes are. Free of torch."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mobileclip.published import published
from mobileclip.repeated_uids import RepeatedUids
from mobileclip.schema import ReinforcementInfo, read_info
from mobileclip.tar_paths import TarFile, list_tars
from tenfold.shards import TarMembers

EMBEDDINGS = {"emb.bin": 2, "pth.gz": 2, "npz": 4}
"""Members that hold embeddings, and bytes of a number in them."""


@dataclass
class ShardStats:
    """Counts over samples.

    Attributes:
        samples: Their number.
        file_bytes: Size of the tars.
        members: Samples that have a member, by extension.
        member_bytes: Bytes of the members, by extension.
        uids: Tells which samples have the uid of another one.
    """

    samples: int = 0
    file_bytes: int = 0
    members: Counter[str] = field(default_factory=Counter)
    member_bytes: Counter[str] = field(default_factory=Counter)
    uids: RepeatedUids = field(default_factory=RepeatedUids)

    def add(self, members: TarMembers) -> None:
        """Count the samples of one tar; reads its headers and uids alone."""
        self.uids.add(members)
        self.samples += len(members)
        self.file_bytes += members.num_bytes
        for key in members.keys:
            for extension in members.extensions(key):
                self.members[extension] += 1
                self.member_bytes[extension] += members.size(key, extension)


def stats(shards: str, *, release: str = "") -> None:
    """Print how many samples have which members, their bytes, and the bytes expected.

    The formula for embeddings is (J + real captions + S) x width x bytes of a number. Samples with
    the uid of another one are counted too.

    Args:
        shards: A folder of shards, or a brace or glob pattern of tars.
        release: Published data set that the shards are of, when they do not say it themselves.

    Raises:
        FileNotFoundError: There are no shards.
        ValueError: A tar is damaged, or there is no such release.
    """
    folder, tars = list_tars(shards)
    found = count(tars)
    console = Console(soft_wrap=True, markup=False)
    console.print(
        f"{shards}: {_counted(found.samples, 'sample')} in {_counted(len(tars), 'shard')}, "
        f"{_counted(found.file_bytes, 'byte')}"
    )
    info = published(release) if release else _info(folder)
    if info is not None:
        names = ", ".join(f"{t.name} ({t.dim}, scale {t.logit_scale:g})" for t in info.teachers)
        console.print(f"{info.num_views} views, {info.num_captions} captions; teachers {names}")
    console.print(_table(found, info))
    for line in found.uids.lines():
        console.print(line)


def count(tars: Iterable[TarFile]) -> ShardStats:
    """Count the samples of tars."""
    found = ShardStats()
    for tar in tars:
        members = TarMembers(tar.path)
        found.add(members)
        members.close()
    return found


def _counted(number: int, noun: str) -> str:
    """Return `1 shard`, `2 shards`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def expected_bytes(info: ReinforcementInfo, extension: str) -> int:
    """Return the bytes of one sample's embeddings by the formula.

    Args:
        info: Numbers of views and captions, and the teachers' widths.
        extension: Member that holds them.
    """
    rows = info.num_views + 1 + info.num_captions
    return rows * info.width * EMBEDDINGS[extension]


def _table(found: ShardStats, info: ReinforcementInfo | None) -> Table:
    table = Table("member", "samples", "missing", "bytes", "bytes a sample", "formula")
    for extension in sorted(found.members):
        holders, size = found.members[extension], found.member_bytes[extension]
        formula = ""
        if info is not None and extension in EMBEDDINGS:
            expected = expected_bytes(info, extension)
            formula = f"{expected:,} ({size / holders / expected:.3f}x)"
        table.add_row(
            extension,
            f"{holders:,}",
            f"{found.samples - holders:,}",
            f"{size:,}",
            f"{size / holders:,.0f}",
            formula,
        )
    return table


def _info(folder: Path) -> ReinforcementInfo | None:
    try:
        return read_info(folder)
    except FileNotFoundError:
        return None
