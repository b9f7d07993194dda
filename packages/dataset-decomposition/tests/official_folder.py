"""A folder as the official preparation describes it, written with the standard library alone."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np

EOT = "<|endoftext|>"


def write_official(
    folder: Path, rows: dict[int, np.ndarray], *, eot_id: int, per_shard: int, copies: int = 1
) -> Path:
    """Write `D_<k>/shard-*.tar` and manifests; ends of documents stand as strings.

    Args:
        folder: Where.
        rows: Integers `[n, 2^k + 1]` by exponent k.
        eot_id: Id that becomes a string.
        per_shard: Samples of a shard; the last may hold fewer.
        copies: How often the manifest is repeated (the official tool's `append_a_copy` plus one).
    """
    for bucket, tokens in rows.items():
        (folder / f"D_{bucket}").mkdir(parents=True)
        lines = []
        for number, start in enumerate(range(0, len(tokens), per_shard)):
            block = tokens[start : start + per_shard].tolist()
            items = [[EOT if token == eot_id else token for token in row] for row in block]
            write_tar(folder / f"D_{bucket}/shard-{number:07d}.tar", [str(row) for row in items])
            entry = {"shard": f"shard-{number:07d}", "num_sequences": len(block)}
            lines.append(json.dumps(entry) + "\n")
        (folder / f"D_{bucket}/manifest.jsonl").write_text("".join(lines * copies))
    return folder


def write_tar(path: Path, texts: list[str]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, text in enumerate(texts):
            member = tarfile.TarInfo(f"{number:012d}.txt")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
