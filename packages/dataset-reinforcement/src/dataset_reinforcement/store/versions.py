"""Versions of the libraries that make pixels: what replay must share with generation.

A new version may round one pixel differently, which the teacher never saw; so a store refuses
other versions until its user accepts them. Torch-free.
"""

import importlib.metadata
import logging
from collections.abc import Mapping

RECORDED = ("torch", "torchvision", "pillow", "numpy")
COMPARED = ("torch", "torchvision", "resize")
"""`resize` is the arithmetic that torchvision resizes in, which depends on the processor. numpy is
not compared: it draws the parameters, which are stored, and makes no pixels. Nor is Pillow: it
decodes, and the decode policy of the images that it decodes has its version."""

DECODER_KEYS = ("library", "jpeg")
"""Entries of the decode policy that are versions; the others are choices and must be equal."""

_log = logging.getLogger(__name__)


def library_versions() -> dict[str, str]:
    """Return the installed versions of `RECORDED`, without local parts such as `+cpu`."""
    return {name: _public(importlib.metadata.version(name)) for name in RECORDED}


def check_versions(stored: Mapping[str, str], *, allow_other_versions: bool = False) -> None:
    """Compare the versions of a store with the installed ones; none recorded means none compared.

    Raises:
        ValueError: They differ and are not allowed to; names both.
    """
    from tenfold.augment import backend  # loads torch, which only a replay needs

    here = library_versions() | {"resize": backend.describe()["resize"]}
    different = [
        f"{name} {stored[name]} (here {here[name]})"
        for name in COMPARED
        if name in stored and _public(stored[name]) != here[name]
    ]
    _refuse(different, allow_other_versions=allow_other_versions)


def check_decode(
    stored: Mapping[str, str], here: Mapping[str, str], *, allow_other_versions: bool = False
) -> None:
    """Compare the decode policy of a store with that of a data set.

    Raises:
        ValueError: A choice differs, or a version does and is not allowed to; names both.
    """
    different = {
        name: f"{name} {stored.get(name, 'absent')} (here {here.get(name, 'absent')})"
        for name in sorted({*stored, *here})
        if stored.get(name) != here.get(name)
    }
    for name, text in different.items():
        if name not in DECODER_KEYS:
            raise ValueError(
                f"the store was made from images decoded with {text}: its boxes do not fit these "
                "pixels; decode alike, or generate the store anew"
            )
    _refuse(list(different.values()), allow_other_versions=allow_other_versions)


def _refuse(different: list[str], *, allow_other_versions: bool) -> None:
    if not different:
        return
    made = f"the store was made with {', '.join(different)}"
    if not allow_other_versions:
        raise ValueError(
            f"{made}: replayed pixels may differ from what the teacher saw; install these "
            "versions, or accept it with allow_other_versions and measure it with the verb verify"
        )
    _log.warning("%s; replayed pixels may differ from what the teacher saw", made)


def _public(version: str) -> str:
    return version.partition("+")[0]
