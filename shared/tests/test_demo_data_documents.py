"""Documents: extraction against a hand-made library, splits, bad input, the command line."""

import json
import textwrap
from pathlib import Path

import pytest

from tenfold.demo_data import documents
from tenfold.demo_data.__main__ import main
from tenfold.demo_data.documents import Document


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = "handmade_library"
    site = folder / "site"
    (site / f"{name}-1.0.dist-info").mkdir(parents=True)
    (site / f"{name}-1.0.dist-info/METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
    files = {
        "__init__.py": '''
            """The package."""
            ''',
        "b/deep.py": r'''
            """Deep, with an invalid escape: \d."""
            class Outer:
                """Outer
                    indented."""
                def method(self):
                    """Method."""
                    if self:
                        def inner():
                            """Inner."""
                async def wait(self):
                    """The package."""
            def silent(): "   "
            x = """not a docstring"""
            ''',
        "a.py": "# no docstring at all\n",
        "copy_of_a.py": "# no docstring at all\n",
        "empty.py": "\n",
        "b/tests/test_deep.py": '"""A test."""\n',
    }
    for relative, text in files.items():
        path = site / name / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip(), encoding="utf-8")
    latin = b'# -*- coding: latin-1 -*-\n"""Caf\xe9."""\n'
    (site / name / "latin.py").write_bytes(latin)
    monkeypatch.syspath_prepend(site)
    return name


def test_docstrings_of_a_library_written_by_hand(library: str) -> None:
    found = documents.load("docstrings", "all", libraries=[library])
    deep = f"{library}/b/deep.py"
    assert found == [
        Document(f"{library}/__init__.py", library, "The package."),
        Document(deep, f"{library}.b.deep", r"Deep, with an invalid escape: \d."),
        Document(deep, f"{library}.b.deep.Outer", "Outer\nindented."),
        Document(deep, f"{library}.b.deep.Outer.method", "Method."),
        Document(deep, f"{library}.b.deep.Outer.method.inner", "Inner."),
        Document(f"{library}/latin.py", f"{library}.latin", "Café."),
    ]
    assert documents.load("docstrings", "all", libraries=[library]) == found


def test_sources_are_whole_files_without_tests_duplicates_and_blanks(library: str) -> None:
    found = documents.load("sources", "all", libraries=[library])
    assert [item.path.removeprefix(f"{library}/") for item in found] == [
        "__init__.py",
        "a.py",
        "b/deep.py",
        "latin.py",
    ]
    assert found[1].text == "# no docstring at all\n"
    assert found[3].text == '# -*- coding: latin-1 -*-\n"""Café."""\n'


def test_no_file_straddles_the_split() -> None:
    parts = {
        split: documents.load("docstrings", split, libraries=["networkx"])
        for split in ("train", "heldout", "all")
    }
    assert len(parts["all"]) > 1_500
    assert len({item.text for item in parts["all"]}) == len(parts["all"])
    assert not {item.path for item in parts["train"]} & {item.path for item in parts["heldout"]}
    key = dict.fromkeys(parts["all"])
    assert set(parts["train"]) | set(parts["heldout"]) == set(key)
    assert 0.01 < len(parts["heldout"]) / len(parts["all"]) < 0.12
    assert all("/tests/" not in item.path for item in parts["all"])


def test_split_is_a_fact_of_the_path() -> None:
    # zlib.crc32 % 20: written down, so that a changed rule shows.
    assert documents.split_of("scipy/stats/_distr_params.py") == "heldout"
    assert documents.split_of("numpy/linalg/__init__.py") == "train"


def test_fingerprint_depends_on_kind_and_libraries() -> None:
    prints = {
        documents.fingerprint("docstrings", libraries=["numpy"]),
        documents.fingerprint("sources", libraries=["numpy"]),
        documents.fingerprint("docstrings", libraries=["scipy"]),
        documents.fingerprint("docstrings", libraries=["numpy", "scipy"]),
    }
    assert len(prints) == 4
    assert documents.fingerprint("docstrings", libraries=["numpy"]) in prints


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"kind": "poems"}, ValueError, "kind must be one of docstrings, sources, got 'poems'"),
        ({"split": "test"}, ValueError, "split must be one of train, heldout, all, got 'test'"),
        ({"libraries": []}, ValueError, "libraries is empty"),
        ({"libraries": ["no-such"]}, FileNotFoundError, "library 'no-such', which is not inst"),
        (
            {"kind": "sources", "libraries": ["no-such"]},
            FileNotFoundError,
            "library 'no-such', which is not inst",
        ),
    ],
)
def test_bad_input(arguments: dict[str, object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        documents.load(**arguments)  # pyright: ignore[reportArgumentType]


def test_command_line_writes_json_lines(
    library: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(documents.LIBRARIES, "sources", (library,))
    out = folder / "new" / "sources.jsonl"
    assert main(["documents", "--kind", "sources", "--split", "all", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote {out} (4 documents)\n"
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [Document(**line) for line in lines] == documents.load("sources", "all")
    monkeypatch.setitem(documents.LIBRARIES, "sources", ("no-such",))
    assert main(["documents", "--kind", "sources", "--out", str(out)]) == 2
    assert capsys.readouterr().err.startswith("error: the demo data needs the library 'no-such'")
