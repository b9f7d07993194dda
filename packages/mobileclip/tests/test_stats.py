"""Counts and bytes of shards, against the formula of the specification."""

from pathlib import Path

import pytest
from published_shards import INFO, make_sample, write_folder, write_release

from mobileclip.published import published
from mobileclip.stats import count, expected_bytes, stats
from mobileclip.tar_paths import list_tars


def test_the_formula() -> None:
    # Spec 3: 108 KiB in bfloat16 for 30 views and 5 captions, 96 KiB in float32 for 10 and 5.
    assert expected_bytes(published("datacompdr-12m"), "pth.gz") == 108 * 1024
    assert expected_bytes(published("datacompdr-1b"), "npz") == 96 * 1024
    assert expected_bytes(INFO, "emb.bin") == (4 + 1 + 3) * 10 * 2


def test_counts_are_those_of_the_members(tmp_path: Path) -> None:
    index, made = write_release(tmp_path, count=5, shard_size=3, form="emb.bin")
    found = count(list_tars(tmp_path)[1])
    assert found.samples == 5
    assert found.file_bytes == sum(entry.num_bytes for entry in index.entries)
    for extension in ("jpg", "emb.bin", "syn.json"):
        sizes = [len(one.members[extension]) for one in made.values()]
        assert (found.members[extension], found.member_bytes[extension]) == (5, sum(sizes))
    over = found.member_bytes["emb.bin"] / 5 - expected_bytes(INFO, "emb.bin")
    assert over == 16 + len('{"syn_text":3}')  # header and keys


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = [make_sample(number, form="emb.bin") for number in range(3)]
    del made[1].members["jpg"]
    write_folder(tmp_path, [made])
    stats(str(tmp_path))
    printed = capsys.readouterr().out
    assert "3 samples in 1 shard," in printed
    assert "4 views, 3 captions; teachers teacher 0 (6, scale 100), teacher 1" in printed
    assert "160 (1.1" in printed
    row = next(line for line in printed.splitlines() if " jpg " in line)
    assert [cell.strip() for cell in row.replace("│", "|").split("|")[2:4]] == ["2", "1"]
