"""Each contract check finds a violation that is put into a small sound tree, and only then."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

import render_results
from contracts import boundaries, code, layout, readme, verbs, workspace
from contracts.registry import CHECKS

Check = Callable[[Path], list[str]]

ROOT_PROJECT = """
[tool.uv.sources]
tenfold = { workspace = true }
left = { workspace = true }
right = { workspace = true }
[dependency-groups]
members = ["tenfold[ray]", "left", "right"]
dev = ["pytest>=8"]
[tool.importlinter]
root_packages = ["tenfold", "left", "right"]
[[tool.importlinter.contracts]]
type = "independence"
modules = ["left", "right"]
[[tool.importlinter.contracts]]
type = "forbidden"
forbidden_modules = ["left", "right"]
"""
PROJECT = """
[project]
name = "{name}"
description = "A paper."
license = "Apache-2.0"
dependencies = ["numpy>=1", "torch"]
[project.optional-dependencies]
extra = ["Pillow>=10"]
[project.scripts]
{name} = "{name}.cli:main"
[tool.hatch.build.targets.wheel.force-include]
recipes = "{name}/recipes"
"""
OPTIONS = {verb: ["config", "data.path"] for verb in sorted(verbs.REQUIRED_VERBS)}
README = "# Left\n" + "\n".join(f"## {heading}\n\ntext\n" for heading in readme.HEADINGS)
MODULE = """
class Module:
    def training_step(self):
        self.log("train/loss", 1)
        self.log(f"train/loss_{self.term}", 1)
        self.log_dict({f"{self.stage}/top_1": 2})
"""
LONG_FUNCTION = """
def {name}(values):
    {doc}
    total = 0
    for value in values:
        if value > 3:
            total += value * 2
        else:
            total -= value + 1
    return total / len(values)
"""


def paper(name: str) -> dict[str, str]:
    base = f"packages/{name}"
    source = f"{base}/src/{name}"
    return {
        f"{base}/pyproject.toml": PROJECT.format(name=name),
        f"{base}/README.md": README,
        f"{base}/recipes/tiny_cpu.yaml": "# Small.\nseed: 1\n",
        f"{base}/recipes/h200.yaml": "# Large.\nseed: 1\n",
        f"{base}/tests/option_names.json": json.dumps(OPTIONS),
        f"{source}/__init__.py": "",
        f"{source}/cli.py": f'APP = App(fit="{name}.module:Module", data="tenfold.atomic:write")\n',
        f"{source}/config.py": "from dataclasses import dataclass\n",
        f"{source}/model.py": "import torch\nfrom torch import nn\n",
        f"{source}/losses.py": "import torch\n",
        f"{source}/module.py": MODULE,
    }


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = {
        "pyproject.toml": ROOT_PROJECT,
        "uv.lock": 'source = { registry = "wheels" }\n',
        "README.md": f"# All\n{render_results.BEGIN}\n{render_results.END}\n",
        "Makefile": "help:\n\ntrain-%:\n",
        "shared/pyproject.toml": '[project]\nname = "tenfold"\ndependencies = []\n',
        "shared/src/tenfold/atomic.py": "def write(path): ...\n",
        **paper("left"),
        **paper("right"),
    }
    write_files(tmp_path, files)
    write_files(
        tmp_path, {str(path): text for path, text in render_results.render(tmp_path).items()}
    )
    return tmp_path


def write_files(root: Path, files: Mapping[str, str | None]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            path.unlink()
        else:
            path.write_text(text, encoding="utf-8")


def command(text: str) -> str:
    return README.replace("text", f"```bash\n{text}\n```", 1)


LEFT = "packages/left/src/left"
HOME = "/" + "home" + "/me/data"
HOST = "https://" + "pypi" + ".org/simple"
BAD: list[tuple[Check, Mapping[str, str | None], str]] = [
    (
        boundaries.check_neighbours,
        {f"{LEFT}/a.py": "from right.model import x\n"},
        "left imports the",
    ),
    (
        boundaries.check_neighbours,
        {"packages/left/tests/test_a.py": "import right\n"},
        "test_a.py:1",
    ),
    (
        boundaries.check_neighbours,
        {"shared/src/tenfold/a.py": "import left\n"},
        "tenfold imports the",
    ),
    (
        boundaries.check_declared,
        {f"{LEFT}/a.py": "def f():\n    import yaml\n"},
        "pyyaml is not in",
    ),
    (boundaries.check_declared, {f"{LEFT}/a.py": "import pytest\n"}, "pytest is not in left's"),
    (boundaries.check_declared, {"shared/src/tenfold/a.py": "import torch\n"}, "torch is not in"),
    (boundaries.check_declared, {"packages/left/tests/a.py": "import scipy\n"}, "scipy is not in"),
    (
        boundaries.check_config_imports,
        {f"{LEFT}/config.py": "import torch\n"},
        "config.py imports torch",
    ),
    (
        boundaries.check_config_imports,
        {f"{LEFT}/config.py": "import left\n"},
        "config.py imports left",
    ),
    (
        boundaries.check_model_imports,
        {f"{LEFT}/model.py": "import lightning as L\n"},
        "model.py imports",
    ),
    (boundaries.check_model_imports, {f"{LEFT}/model.py": "from pathlib import Path\n"}, "pathlib"),
    (
        boundaries.check_losses_imports,
        {f"{LEFT}/losses.py": "import left.data\n"},
        "losses.py imports",
    ),
    (code.check_no_print, {f"{LEFT}/a.py": "def f():\n    print(1)\n"}, "a.py:2: print"),
    (code.check_no_pickle, {f"{LEFT}/a.py": "from pickle import loads\n"}, "imports pickle.loads"),
    (code.check_no_pickle, {f"{LEFT}/a.py": "pickle.load(file)\n"}, "calls pickle.load"),
    (code.check_no_pickle, {f"{LEFT}/a.py": "torch.load(path)\n"}, "weights_only=True"),
    (
        code.check_no_pickle,
        {f"{LEFT}/a.py": "torch.load(path, weights_only=False)\n"},
        "weights_only",
    ),
    (code.check_no_pickle, {f"{LEFT}/a.py": "np.load(p, allow_pickle=True)\n"}, "allow_pickle"),
    (code.check_metric_names, {f"{LEFT}/a.py": 'self.log("loss", 1)\n'}, "metric 'loss'"),
    (code.check_metric_names, {f"{LEFT}/a.py": 'self.log("train/Loss", 1)\n'}, "'train/Loss'"),
    (code.check_metric_names, {f"{LEFT}/a.py": 'self.log_dict({"eval/x": 1})\n'}, "'eval/x'"),
    (code.check_metric_names, {f"{LEFT}/a.py": 'self.log(f"{a}_loss", 1)\n'}, "metric '*_loss'"),
    (
        code.check_duplicates,
        {
            f"{LEFT}/a.py": LONG_FUNCTION.format(name="mean", doc='"""One."""'),
            "packages/right/src/right/b.py": LONG_FUNCTION.format(name="other", doc='"""Two."""'),
        },
        "a.py:2: mean: same body as packages/right/src/right/b.py:2: other",
    ),
    (layout.check_file_names, {f"{LEFT}/utils.py": ""}, "utils.py: name the idea"),
    (layout.check_file_names, {f"{LEFT}/model_v2.py": ""}, "replace the old version"),
    (layout.check_file_names, {"packages/left/demo.ipynb": ""}, ".ipynb files do not belong"),
    (layout.check_file_names, {"packages/left/tests/weights.npz": ""}, ".npz files do not belong"),
    (layout.check_file_names, {"packages/left/tests/__init__.py": ""}, "tests are no package"),
    (layout.check_file_sizes, {f"{LEFT}/a.py": "x = 1\n" * 401}, "401 lines, more than 400"),
    (layout.check_recipes, {"packages/left/recipes/h200.yaml": None}, "h200.yaml is missing"),
    (
        layout.check_recipes,
        {"packages/left/recipes/vit_b16.yaml": "seed: 1\n"},
        "must be a comment",
    ),
    (layout.check_recipes, {"packages/left/recipes/My Run.yaml": "# Run.\n"}, "name it <model>"),
    (layout.check_texts, {"packages/left/notes.md": f"data in {HOME}\n"}, f"names '{HOME[:7]}"),
    (layout.check_texts, {"packages/left/notes.md": f"see {HOST}\n"}, "names 'pypi"),
    (readme.check_headings, {"packages/left/README.md": "# Left\n"}, "'What it does' expected"),
    (readme.check_headings, {"packages/left/README.md": README + "## More\n"}, "got 'More'"),
    (
        readme.check_commands,
        {"packages/left/README.md": command("uv run left fly")},
        "no verb 'fly'",
    ),
    (
        readme.check_commands,
        {"packages/left/README.md": command("A=1 uv run left fit \\\n  --data.root x | tee log")},
        "left fit has no option --data.root",
    ),
    (
        readme.check_commands,
        {"packages/left/README.md": command("uv run left fit --config nope")},
        "ships no recipe 'nope'",
    ),
    (
        readme.check_commands,
        {
            "packages/left/README.md": command(
                "uv run left fit --config=packages/left/recipes/b.yaml"
            )
        },
        "packages/left/recipes/b.yaml does not exist",
    ),
    (readme.check_commands, {"README.md": "```sh\nuv run lefty fit\n```\n"}, "no package"),
    (
        readme.check_commands,
        {"README.md": "```\nmake train-lefty\n```\n"},
        "no target 'train-lefty'",
    ),
    (verbs.check_verbs, {"packages/left/tests/option_names.json": None}, "is missing; run"),
    (
        verbs.check_verbs,
        {"packages/left/tests/option_names.json": '{"fit": []}'},
        "no verb predict",
    ),
    (
        verbs.check_verb_targets,
        {f"{LEFT}/cli.py": 'x = "left.module:Other"\n'},
        "left.module:Other",
    ),
    (verbs.check_verb_targets, {f"{LEFT}/cli.py": 'x = "left.gone:main"\n'}, "left.gone:main"),
    (verbs.check_verb_targets, {f"{LEFT}/cli.py": None}, "cli.py: is missing"),
    (workspace.check_workspace, paper("third"), "[tool.uv.sources]: third missing"),
    (
        workspace.check_workspace,
        {
            "pyproject.toml": ROOT_PROJECT.replace(
                'modules = ["left", "right"]', 'modules = ["left"]', 1
            )
        },
        "the independence contract: right",
    ),
    (
        workspace.check_member_projects,
        {"packages/left/pyproject.toml": PROJECT.format(name="left").replace(":main", ":run")},
        "project.scripts: 'left.cli:run'",
    ),
    (workspace.check_lock_addresses, {"uv.lock": f'registry = "{HOST}"\n'}, "names https://"),
    (workspace.check_results, {"RESULTS.md": "typed\n"}, "RESULTS.md: is not what"),
    (workspace.check_results, {"results/left/a.json": "{}"}, "result has no"),
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_sound_tree_passes(tree: Path, check: Check) -> None:
    assert check(tree) == []


@pytest.mark.parametrize(
    "case",
    [SimpleNamespace(check=check, files=files, says=says) for check, files, says in BAD],
    ids=lambda case: f"{case.check.__name__}-{case.says}",
)
def test_violation_is_found(tree: Path, case: SimpleNamespace) -> None:
    write_files(tree, case.files)
    problems = case.check(tree)
    assert any(case.says in problem for problem in problems), problems


def test_accepted_unpickling_passes(tree: Path) -> None:
    write_files(tree, {f"{LEFT}/a.py": "pickle.loads(own_child)  # noqa: S301\n"})
    assert code.check_no_pickle(tree) == []


def test_each_check_has_a_violation() -> None:
    assert {check for check, _, _ in BAD} == set(CHECKS)


@pytest.mark.parametrize(
    "text",
    [
        "uv run left fit --config tiny_cpu --trainer.max_steps 3 && make train-left",
        "$ uv run left validate --config packages/left/recipes/h200.yaml --data.path=x  # --not",
        "uv run left --help\nuv run left recipes\nmake train-left RECIPE=h200",
        "epoch 1: it's 3 --fast",
    ],
)
def test_sound_commands_pass(tree: Path, text: str) -> None:
    write_files(tree, {"packages/left/README.md": command(text)})
    assert readme.check_commands(tree) == []
