"""Random access, and what a scan of headers must find in damaged and hostile tars."""

import pickle
import tarfile

import pytest
from foreign_tars import write_tar

from tenfold.shards import (
    ShardError,
    TarMembers,
    write_shard,
)
from tenfold.testing import numbered_sample


def test_members_random_access_equals_tarfile(tmp_path):
    write_shard(tmp_path / "a.tar", map(numbered_sample, range(9)))
    members = TarMembers(tmp_path / "a.tar")
    copy = pickle.loads(pickle.dumps(members))  # noqa: S301 - how workers get it
    assert members.keys == copy.keys == tuple(f"{i:03d}" for i in range(9))
    assert len(members) == 9
    assert "003" in members
    assert "009" not in members
    with tarfile.open(tmp_path / "a.tar") as tar:
        for info in reversed(tar.getmembers()):
            key, extension = info.name.split(".")
            data = tar.extractfile(info).read()
            assert members.read(key, extension) == copy.read(key, extension) == data
            assert members.size(key, extension) == len(data)
    with pytest.raises(ShardError, match="no sample 'x'"):
        members.read("x", "txt")
    with pytest.raises(ShardError, match="'000' has no 'jpg' member, only cls, json, txt"):
        members.read("000", "jpg")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        TarMembers(tmp_path / "none.tar")


def test_foreign_tar_is_read(tmp_path):
    """Folders, webdataset's metadata and `./` in front of names are what `tar cf` gives."""
    folder = tarfile.TarInfo("./")
    folder.type = tarfile.DIRTYPE
    long = "d/" * 60 + "k"
    path = write_tar(
        tmp_path / "a.tar",
        [
            folder,
            ("__index__", b"{}"),
            ("__m__/a.txt", b""),
            ("./a.txt", b"1"),
            (f"{long}.seg.png", b"2"),
        ],
    )
    members = TarMembers(path)
    assert members.keys == ("./a", long)
    assert members.read(long, "seg.png") == b"2"


def special(name: str, kind: bytes, link: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (("../evil.txt", b""), r"'\.\./evil\.txt' climbs out"),
        (("a/../../evil.txt", b""), "climbs out"),
        (("/etc/evil.txt", b""), "absolute"),
        (("a b.txt", b""), "characters outside"),
        (("ä.txt", b""), "characters outside"),
        (("a\n.txt", b""), "characters outside"),
        (("README", b""), "'README' is not of the form key.extension"),
        ((".txt", b""), "not of the form"),
        (special("a.txt", tarfile.SYMTYPE), "link, a device or sparse"),
        (special("a.txt", tarfile.LNKTYPE), "link, a device or sparse"),
        (special("a.txt", tarfile.CHRTYPE), "link, a device or sparse"),
        (special("a.txt", tarfile.FIFOTYPE), "link, a device or sparse"),
    ],
)
def test_hostile_member_refuses_the_shard(tmp_path, member, message):
    path = write_tar(tmp_path / "bad.tar", [("ok.txt", b"1"), member, ("z.txt", b"2")])
    for strict in (True, False):
        with pytest.raises(ShardError, match=message) as caught:
            TarMembers(path, strict=strict)
        assert "bad.tar" in str(caught.value)


def test_negative_size_does_not_loop(tmp_path):
    path = write_tar(tmp_path / "bad.tar", [("a.txt", b"1"), ("b.txt", b"2")])
    data = bytearray(path.read_bytes())
    data[1024 + 124 : 1024 + 136] = b"\xff" * 10 + b"\xfc\x00"  # -1024 in base 256
    data[1024 + 148 : 1024 + 156] = b" " * 8
    data[1024 + 148 : 1024 + 156] = b"%06o\0 " % sum(data[1024:1536])
    path.write_bytes(data)
    with pytest.raises(ShardError):
        TarMembers(path)


@pytest.mark.parametrize(
    ("names", "bad", "message"),
    [
        (["a.txt", "b.txt", "b.txt", "c.txt"], "b", r"'b\.txt' appears twice"),
        (["a.txt", "b.txt", "a.cls", "b.cls"], "a", r"'a\.cls' lies apart"),
    ],
)
def test_scattered_and_repeated_members(tmp_path, names, bad, message):
    path = write_tar(tmp_path / "bad.tar", [(name, b"1") for name in names])
    with pytest.raises(ShardError, match=f"sample '{bad}': member {message}"):
        TarMembers(path)
    lenient = TarMembers(path, strict=False)
    assert bad in lenient.bad
    assert lenient.damage is None


def test_every_truncation_is_found(tmp_path):
    """tarfile itself is silent about those that end within a header."""
    write_shard(tmp_path / "whole.tar", map(numbered_sample, range(3)))
    whole = (tmp_path / "whole.tar").read_bytes()
    end = 9 * 1024
    assert not any(whole[end:])
    path = tmp_path / "cut.tar"
    for size in [*range(0, end + 512, 128), end + 511]:
        path.write_bytes(whole[:size])
        with pytest.raises(ShardError, match=r"cut\.tar: "):
            TarMembers(path)
        lenient = TarMembers(path, strict=False)
        assert lenient.damage is not None
        for key in lenient.keys:
            if key not in lenient.bad:
                assert len(lenient.extensions(key)) == 3
                assert lenient.read(key, "txt") == b"text %d" % int(key)
    path.write_bytes(whole[: end + 512])
    assert len(TarMembers(path)) == 3


def test_a_cut_shard_is_told_in_a_sentence(tmp_path):
    path = write_tar(tmp_path / "cut.tar", [("a.txt", b"1"), ("a.cls", b"1")])
    path.write_bytes(path.read_bytes()[:2048])
    expected = (
        r"sample 'a': member 'a\.cls' is the last before the shard breaks, others may be lost; "
        "truncated: no end mark at byte 2048"
    )
    with pytest.raises(ShardError, match=expected):
        TarMembers(path)


@pytest.mark.parametrize("position", [3 * 1024 + 10, 3 * 1024 + 150])
def test_flipped_byte_in_a_header_is_found(tmp_path, position):
    write_shard(tmp_path / "a.tar", map(numbered_sample, range(3)))
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[position] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ShardError, match="may be lost; broken header or stray data"):
        TarMembers(tmp_path / "a.tar")


def test_zeroed_middle_is_not_the_end(tmp_path):
    write_shard(tmp_path / "a.tar", map(numbered_sample, range(3)))
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[3 * 1024 : 6 * 1024] = bytes(3 * 1024)
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ShardError, match="stray data"):
        TarMembers(tmp_path / "a.tar")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (bytes(10240), "holds no samples"),
        (b"\x1f\x8b" + b"x" * 2000, "broken"),
    ],
)
def test_what_is_no_tar(tmp_path, content, message):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(ShardError, match=message):
        TarMembers(tmp_path / "a.tar")
