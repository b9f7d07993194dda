"""Who owns an output folder: `prepare.json` says for which options and inputs it was begun.

A folder is taken when it is empty or was begun with the same request; anything else is refused with
the difference. Inputs count as the same by name, size and content (`inputs`), not by time or place.
`--overwrite` removes what preparation makes, by its names, and nothing else.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dataset_decomposition import heldout, manifest
from dataset_decomposition.inputs import Source
from dataset_decomposition.records import DATASET
from tenfold import atomic
from tenfold.jobs.marks import differences

REQUEST = "prepare.json"
JOBS = ".jobs"
SPILLS = ".spill"
TOKENIZER = "tokenizer/tokenizer.json"
TITLES = ("map", "reduce", "heldout")
INPUTS = {"input": "input", "heldout": "held-out input"}
"""Parts of a request that list files, and what messages call them."""


def describe_sources(sources: Sequence[Source]) -> dict[str, Any]:
    """List inputs so that any change of a file, its name or its order shows."""
    return {
        "files": len(sources),
        "bytes": sum(source.size for source in sources),
        "identities": [source.identity for source in sources],
    }


def destination(out: Path) -> Path:
    """Return `out` as an absolute path.

    Raises:
        ValueError: It is empty, as an unset shell variable gives, which a path cannot tell from
            the current folder.
    """
    if out == Path():
        raise ValueError(
            "the output folder is '' or '.'; name a folder (the current one by its full path)"
        )
    return out.expanduser().absolute()


def claim(out: Path, request: Mapping[str, Any], *, overwrite: bool) -> None:
    """Take `out` for `request`, or refuse.

    Raises:
        ValueError: `out` is no folder, cannot be written, holds other files, or was begun with
            another request and `overwrite` is off.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        _remove_temporaries(out)
        if (out / REQUEST).exists():
            if overwrite:
                remove_made(out)
            else:
                _check_same(out, request)
                return
        elif found := next(out.iterdir(), None):
            raise ValueError(
                f"{out} is not empty ({found.name}) and was not made by prepare; "
                "choose another folder"
            )
        atomic.write_json(out / REQUEST, request)
    except OSError as error:
        raise ValueError(f"cannot write the output folder {out}: {error.strerror}") from error


def _remove_temporaries(out: Path) -> None:
    """Remove half-written files that a killed run left where no job owns them."""
    for folder in (out, (out / TOKENIZER).parent, *manifest.bucket_folders(out).values()):
        atomic.remove_temporaries(folder)


def _check_same(out: Path, request: Mapping[str, Any]) -> None:
    try:
        before = json.loads((out / REQUEST).read_text(encoding="utf-8"))
        changed_inputs = [
            f"{what} {change}"
            for key, what in INPUTS.items()
            if key in request
            and (change := _input_change(before[key]["identities"], request[key]["identities"]))
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{out / REQUEST} cannot be read; prepare anew with --overwrite"
        ) from error
    if changes := differences(_options(before), _options(request)):
        raise ValueError(
            f"{out} was begun with other options ({'; '.join([*changes, *changed_inputs])}); "
            "restore them, choose another folder, or prepare anew with --overwrite"
        )
    if changed_inputs:
        raise ValueError(
            f"the input changed since {out} was begun ({'; '.join(changed_inputs)}); prepare anew "
            "with --overwrite, or choose another folder"
        )


def _options(request: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in request.items() if key not in INPUTS}


def _input_change(before: Sequence[str], after: Sequence[str]) -> str | None:
    """Say what happened to the first input that differs, None if none does."""
    if before == after:
        return None
    old, new = _by_name(before), _by_name(after)
    for name in new:
        if name not in old:
            return f"{name} was added"
        if old[name] != new[name]:
            sizes = (int(old[name][1]), int(new[name][1]))
            how = "of the same size" if sizes[0] == sizes[1] else f"{sizes[0]:,} -> {sizes[1]:,} B"
            return f"{name} has other content, {how}"
    for name in old:
        if name not in new:
            return f"{name} is gone"
    return "files come in another order"


def _by_name(identities: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Split identities into version and size by name."""
    parts = (identity.split(" ", 2) for identity in identities)
    return {name: (version, size) for version, size, name in parts}


def remove_made(out: Path) -> None:
    """Remove what preparation makes below `out`; `prepare.json`, which says so, goes last."""
    remove_work(out)
    (out / DATASET).unlink(missing_ok=True)
    for folder in manifest.bucket_folders(out).values():
        for path in (folder / manifest.NAME, *folder.glob("shard-*.tar")):
            path.unlink(missing_ok=True)
        _remove_if_empty(folder)
    for name in (heldout.TOKENS, heldout.OFFSETS, TOKENIZER):
        (out / name).unlink(missing_ok=True)
        _remove_if_empty((out / name).parent)
    (out / REQUEST).unlink(missing_ok=True)


def remove_work(out: Path) -> None:
    """Remove what only an unfinished preparation needs."""
    if (out / SPILLS).exists():
        shutil.rmtree(out / SPILLS)
    for title in TITLES:
        if (out / JOBS / title).exists():
            shutil.rmtree(out / JOBS / title)
        (out / JOBS / f"{title}.lock").unlink(missing_ok=True)
    _remove_if_empty(out / JOBS)


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
