"""`scripts/render_results.py`: what is rendered, and what a wrong result file is told."""

import json
from pathlib import Path
from typing import Any

import pytest

import render_results
from tenfold.results import load_result

RESULT: dict[str, Any] = {
    "claim": "Short first beats long first",
    "paper": "arXiv 1234.56789, table 2",
    "scale": "tiny",
    "command": "uv run left reproduce --scale tiny",
    "commit": "abc1234",
    "seeds": [0, 1],
    "rows": [
        {"arm": "ours", "metric": "val/loss", "mean": 1.5, "spread": 0.7071, "per_seed": [1.0, 2]},
        {
            "arm": "baseline",
            "metric": "val/loss",
            "mean": 3.0,
            "spread": 0.0,
            "per_seed": [3.0, 3.0],
        },
    ],
    "margin": 1.5,
    "holds": True,
    "machine": "2 CPU cores",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("left", "right"):
        folder = tmp_path / "packages" / name
        folder.mkdir(parents=True)
        (folder / "pyproject.toml").write_text(f'[project]\ndescription = "About {name}."\n')
    readme = f"# Top\n\n{render_results.BEGIN}\nold\n{render_results.END}\n\nbottom\n"
    (tmp_path / "README.md").write_text(readme)
    return tmp_path


def write_result(root: Path, **changes: Any) -> Path:
    path = root / "results" / "left" / "short_first.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**RESULT, **changes}))
    return path


def test_without_results_it_says_so(root: Path) -> None:
    rendered = render_results.render(root)
    assert "No results are committed yet" in rendered[root / "RESULTS.md"]
    assert "No result is committed yet" in rendered[root / "packages/left/RESULTS.md"]
    assert (
        "| About left. | `make reproduce-left` | not measured yet |" in rendered[root / "README.md"]
    )


def test_a_result_is_rendered_everywhere(root: Path) -> None:
    write_result(root)
    rendered = render_results.render(root)
    section = """\
**Claim:** Short first beats long first (arXiv 1234.56789, table 2)

At scale `tiny` it holds, margin 1.5.
`uv run left reproduce --scale tiny` at commit `abc1234`, seeds 0, 1, on 2 CPU cores.

| arm | metric | mean | spread | per seed |
|---|---|---:|---:|---|
| ours | `val/loss` | 1.5 | 0.71 | 1, 2 |
| baseline | `val/loss` | 3 | 0 | 3, 3 |
"""
    assert f"## left\n\n{section}" in rendered[root / "RESULTS.md"]
    assert rendered[root / "packages/left/RESULTS.md"].endswith(section)
    assert "No result" in rendered[root / "packages/right/RESULTS.md"]
    readme = rendered[root / "README.md"]
    assert readme.startswith(f"# Top\n\n{render_results.BEGIN}\n| package")
    assert readme.endswith(f"{render_results.END}\n\nbottom\n")
    assert "Short first beats long first (tiny: holds, margin 1.5)" in readme


def test_a_claim_that_fails_is_rendered_as_it_is(root: Path) -> None:
    write_result(root, holds=False, margin=-0.25, notes="Tried three learning rates.")
    text = render_results.render(root)[root / "packages/left/RESULTS.md"]
    assert "it **does not hold**, margin -0.25." in text
    assert text.endswith("\n\nTried three learning rates.\n")


def test_the_readme_says_that_a_claim_fails(root: Path) -> None:
    write_result(root, holds=False, margin=-0.25)
    readme = render_results.render(root)[root / "README.md"]
    assert "Short first beats long first (tiny: does not hold, margin -0.25)" in readme


def test_rendering_twice_changes_nothing(root: Path) -> None:
    write_result(root)
    first = render_results.render(root)
    for path, text in first.items():
        path.write_text(text, encoding="utf-8")
    assert render_results.render(root) == first


def row(**changes: Any) -> list[dict[str, Any]]:
    return [{**RESULT["rows"][0], **changes}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": "huge"}, "scale must be one of tiny, small, gpu, got 'huge'"),
        ({"holds": "yes"}, "result.holds must be true or false, got 'yes'"),
        ({"margin": True}, "result.margin must be a finite number, got True"),
        ({"margin": float("nan")}, "result.margin must be a finite number, got nan"),
        ({"claim": 3}, "result.claim must be a text, got 3"),
        ({"seeds": [0.5, 1]}, "result.seeds must be whole numbers"),
        ({"seeds": [0]}, "arm 'ours' has 2 values for 1 seeds"),
        ({"rows": []}, "rows must not be empty"),
        ({"rows": {}}, "result.rows must be a list"),
        ({"rows": [3]}, r"rows\[0\] must be an object, got int"),
        ({"rows": row(mean=9)}, "mean is 9, but per_seed has the mean 1.5"),
        ({"rows": row(spread=-1)}, "spread must be >= 0, got -1"),
        ({"rows": row(per_seed=[])}, "per_seed must not be empty"),
        ({"rows": row(per_seed=["1", 2])}, r"rows\[0\].per_seed must be finite numbers"),
        ({"rows": row(extra=1)}, r"rows\[0\] has an unknown key 'extra'"),
        ({"extra": 1}, "result has an unknown key 'extra'"),
    ],
)
def test_wrong_result_files(root: Path, changes: dict[str, Any], message: str) -> None:
    path = write_result(root, **changes)
    with pytest.raises(ValueError, match=message) as error:
        render_results.render(root)
    assert str(error.value).startswith(f"{path}: ")


def test_missing_key_and_broken_json(root: Path) -> None:
    path = write_result(root)
    path.write_text(json.dumps({key: RESULT[key] for key in RESULT if key != "seeds"}))
    with pytest.raises(ValueError, match="result has no seeds"):
        load_result(path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"short_first.json: .*write it again"):
        load_result(path)


def test_stray_folder_and_missing_markers(root: Path) -> None:
    path = write_result(root)
    (root / "README.md").write_text("# Top\n")
    with pytest.raises(ValueError, match=r"README\.md has no '<!-- results:begin -->'"):
        render_results.render(root)
    stray = root / "results" / "lefty" / path.name
    stray.parent.mkdir()
    path.rename(stray)
    with pytest.raises(ValueError, match="no package 'lefty'"):
        render_results.render(root)
