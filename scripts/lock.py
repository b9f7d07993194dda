"""Keep `uv.lock` free of download addresses: resolve, then strip every host from the result.

The committed lock names versions, file names, sizes and sha256, but no registry: whoever installs
it uses their own default index. uv reads such entries as a flat local registry, so that
`uv lock --check` and `uv export` work on it as it is, and the resolver keeps its versions.

Not here: installing (see the Makefile's `setup`).
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
REGISTRY = "wheels"  # a relative path that need not exist

_SOURCE = re.compile(r'\bregistry = "[^"]*"')
_ARTEFACT = re.compile(r'\{ (?:url|path) = "([^"]*)", (hash = "[^"]*"(?:, size = \d+)?)[^}]*\}')
_ADDRESS = re.compile(r'[a-z+]+://[^\s"]*')


def strip_addresses(lock: str) -> str:
    """Return the text of a `uv.lock` with every registry and download address taken out.

    Upload times go too: they are the registry's, and uv does not need them. The result is a fixed
    point: stripping it again changes nothing.

    Raises:
        ValueError: An address is left, for example of a git or direct-URL dependency.
    """
    lock = _SOURCE.sub(f'registry = "{REGISTRY}"', lock)
    lock = _ARTEFACT.sub(lambda match: f'{{ path = "{_file_name(match[1])}", {match[2]} }}', lock)
    if left := find_addresses(lock):
        raise ValueError(
            f"uv.lock still names {left[0]!r}; only packages of the default index can be locked, "
            "remove the git or URL dependency from pyproject.toml"
        )
    return lock


def find_addresses(lock: str) -> list[str]:
    """Return every address (`scheme://...`) that a lock's text holds."""
    return _ADDRESS.findall(lock)


def _file_name(address: str) -> str:
    return unquote(urlsplit(address).path).rsplit("/", 1)[-1]


def resolve(root: Path, uv: str, *, upgrade: list[str] | None = None) -> None:
    """Bring `root/uv.lock` up to date with the pyproject files, in the form without addresses.

    Args:
        root: The workspace.
        uv: The uv executable.
        upgrade: `None` keeps every locked version that still fits, an empty list upgrades all
            packages, otherwise only those named.
    """
    flags = [] if upgrade is None else ["--upgrade"]
    if upgrade:
        flags = [flag for name in upgrade for flag in ("--upgrade-package", name)]
    subprocess.run([uv, "lock", "--project", str(root), *flags], check=True)
    path = root / "uv.lock"
    _replace_text(path, strip_addresses(path.read_text(encoding="utf-8")))


def check(root: Path, uv: str) -> list[str]:
    """Return what is wrong with `root/uv.lock`: addresses in it, or out of date (no network)."""
    problems = [
        f"uv.lock names {address}; run `make lock`"
        for address in find_addresses((root / "uv.lock").read_text(encoding="utf-8"))
    ]
    result = subprocess.run(
        [uv, "lock", "--check", "--offline", "--project", str(root)],
        capture_output=True,
        text=True,
        check=False,
        env=_environment_without_indexes(),
    )
    if result.returncode:
        problems.append(f"uv.lock is not up to date; run `make lock`\n{result.stderr.strip()}")
    return problems


def _environment_without_indexes() -> dict[str, str]:
    # Where the user has set an index of their own, uv holds a lock that does not name it for stale.
    index = re.compile(r"UV_(DEFAULT_INDEX|INDEX|INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS)")
    kept = {name: value for name, value in os.environ.items() if not index.fullmatch(name)}
    return {**kept, "UV_NO_CONFIG": "1"}


def _replace_text(path: Path, text: str) -> None:
    # Not tenfold.atomic: the lock must be repairable before anything is installed.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.tmp-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def main(argv: list[str] | None = None) -> int:
    """Run `lock.py`, or `lock.py --check`."""
    parser = argparse.ArgumentParser(description="Resolve uv.lock and keep it free of addresses.")
    parser.add_argument(
        "--check", action="store_true", help="change nothing, exit 1 if it is wrong"
    )
    parser.add_argument(
        "--upgrade", nargs="*", metavar="NAME", help="newest versions, of all packages or of these"
    )
    parser.add_argument("--uv", default=os.environ.get("UV") or "uv", help="the uv executable")
    arguments = parser.parse_args(argv)
    if arguments.check:
        problems = check(ROOT, arguments.uv)
        for problem in problems:
            print(problem, file=sys.stderr)
        return 1 if problems else 0
    try:
        resolve(ROOT, arguments.uv, upgrade=arguments.upgrade)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:  # uv has said why
        return error.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
