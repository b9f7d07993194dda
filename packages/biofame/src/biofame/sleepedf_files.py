"""Which files of Sleep-EDF are meant: 39 nights of 20 people, how they are split, where they lie.

The list and the split by subject are those of the released code (its `data/download.sh` and
`data/split.py`, both from TS-TCC; spec 3). Nothing here downloads.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DATASET = "sleep-edfx 1.0.0"
FOLDER = "sleep-cassette"
ADDRESS = "https://physionet.org/files/sleep-edfx/1.0.0"
CHECKSUMS = "SHA256SUMS.txt"

# SC4<subject><night>E<scorer>: the scorer's letter is in the hypnogram's name only.
# fmt: off
HYPNOGRAMS = (
    "SC4001EC", "SC4002EC", "SC4011EH", "SC4012EC", "SC4021EH", "SC4022EJ", "SC4031EC", "SC4032EP",
    "SC4041EC", "SC4042EC", "SC4051EC", "SC4052EC", "SC4061EC", "SC4062EC", "SC4071EC", "SC4072EH",
    "SC4081EC", "SC4082EP", "SC4091EC", "SC4092EC", "SC4101EC", "SC4102EC", "SC4111EC", "SC4112EC",
    "SC4121EC", "SC4122EV", "SC4131EC", "SC4141EU", "SC4142EU", "SC4151EC", "SC4152EC", "SC4161EC",
    "SC4162EC", "SC4171EU", "SC4172EC", "SC4181EC", "SC4182EC", "SC4191EP", "SC4192EV",
)
# fmt: on
# The part that a recording and its hypnogram share.
STEM = 7
RECORDINGS = tuple(name[:STEM] for name in HYPNOGRAMS)
NAME = re.compile(r"(SC4\d{3}[A-Z])[A-Z0-9]-(PSG|Hypnogram)\.edf")

# Subjects by number, 12/4/4.
SPLIT_SUBJECTS = {
    "train": (0, 3, 6, 8, 9, 10, 11, 14, 16, 17, 18, 19),
    "val": (1, 2, 4, 13),
    "test": (5, 7, 12, 15),
}
SUBJECTS = sum(map(len, SPLIT_SUBJECTS.values()))
NAMED_AT_MOST = 5


@dataclass(frozen=True)
class NightFiles:
    """The two files of a night.

    Attributes:
        stem: What their names share, such as `SC4001E`.
        psg: The recording.
        hypnogram: Its stages.
    """

    stem: str
    psg: Path
    hypnogram: Path

    @property
    def recording(self) -> str:
        """Name of the night, such as `SC4001`."""
        return self.stem[:6]

    @property
    def subject(self) -> str:
        """Name of the person, which both nights share, such as `SC400`."""
        return self.stem[:5]

    @property
    def split(self) -> str:
        """Split of the person."""
        number = int(self.stem[3:5])
        return next(split for split, numbers in SPLIT_SUBJECTS.items() if number in numbers)


def file_names() -> tuple[str, ...]:
    """Return the names of the 78 files, recording and hypnogram by turns."""
    return tuple(
        name
        for stem, hypnogram in zip(RECORDINGS, HYPNOGRAMS, strict=True)
        for name in (f"{stem}0-PSG.edf", f"{hypnogram}-Hypnogram.edf")
    )


def missing_addresses(root: Path) -> tuple[str, ...]:
    """Return the addresses of the files that are not below `root`, and of their checksums."""
    there = {_kind_and_stem(path.name) for path in Path(root).rglob("*.edf")}
    names = [f"{FOLDER}/{name}" for name in file_names() if _kind_and_stem(name) not in there]
    return tuple(f"{ADDRESS}/{name}" for name in (*names, CHECKSUMS))


def find_nights(root: Path, *, complete: bool) -> tuple[NightFiles, ...]:
    """Return the listed nights that lie anywhere below `root`, by name.

    Args:
        root: Folder with the files.
        complete: Whether all 39 must be there.

    Raises:
        FileNotFoundError: `root` or all recordings are missing, a recording has no hypnogram or a
            hypnogram no recording, or, with `complete`, a night is missing.
        ValueError: A night has two recordings or two hypnograms.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder: name the one with Sleep-EDF's files")
    psgs, hypnograms = _by_stem(root, "PSG"), _by_stem(root, "Hypnogram")
    if not psgs:
        raise FileNotFoundError(
            f"{root} has no recording of Sleep-EDF's list (such as {file_names()[0]}): download "
            f"{DATASET}; --download_list true prints the addresses"
        )
    _check_pairs(root, psgs, hypnograms)
    missing = [stem for stem in RECORDINGS if stem not in psgs]
    if complete and missing:
        raise FileNotFoundError(
            f"{root} lacks {len(missing)} of {len(RECORDINGS)} nights ({_some(missing)}): download "
            "them, or leave out --complete"
        )
    return tuple(NightFiles(stem, psgs[stem], hypnograms[stem]) for stem in sorted(psgs))


def unlisted_nights(root: Path) -> int:
    """Return how many recordings below `root` have a name of Sleep-EDF's but are not listed."""
    found = (_kind_and_stem(path.name) for path in Path(root).rglob("*-PSG.edf"))
    return sum(names is not None and names[1] not in RECORDINGS for names in found)


def read_checksums(root: Path) -> Mapping[str, str]:
    """Return the SHA-256 by file name from PhysioNet's list in `root` or the folder above it.

    No list gives no sums.

    Raises:
        ValueError: A line of the list is no checksum.
    """
    path = next((f / CHECKSUMS for f in (root, root.parent) if (f / CHECKSUMS).is_file()), None)
    sums: dict[str, str] = {}
    for number, line in enumerate(path.read_text().splitlines() if path else [], start=1):
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](\S.*)", line)
        if match is None:
            raise ValueError(
                f"{path} line {number} is no SHA-256 and file name: download the list again, or "
                "remove it"
            )
        sums[Path(match[2]).name] = match[1].lower()
    return sums


def _kind_and_stem(name: str) -> tuple[str, str] | None:
    match = NAME.fullmatch(name)
    return None if match is None else (match[2], match[1])


def _by_stem(root: Path, kind: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(root.rglob(f"*-{kind}.edf")):
        _, stem = _kind_and_stem(path.name) or ("", "")
        if stem not in RECORDINGS:
            continue
        if stem in found:
            raise ValueError(
                f"night {stem} has two files of kind {kind}, {found[stem]} and {path}: remove one"
            )
        found[stem] = path
    return found


def _check_pairs(root: Path, psgs: Mapping[str, Path], hypnograms: Mapping[str, Path]) -> None:
    for have, lack, wanted in (
        (psgs, hypnograms, "hypnogram (*-Hypnogram.edf)"),
        (hypnograms, psgs, "recording (*-PSG.edf)"),
    ):
        alone = sorted(have.keys() - lack.keys())
        if alone:
            names = [have[stem].name for stem in alone]
            raise FileNotFoundError(
                f"{root} has no {wanted} for {_some(names)}: download it, or remove that file"
            )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
    return ", ".join(names[:NAMED_AT_MOST]) + more
