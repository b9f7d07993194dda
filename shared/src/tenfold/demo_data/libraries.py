"""Where the installed libraries lie that the demo data is made from, and their versions."""

import importlib.metadata
import importlib.util
from pathlib import Path

# Distributions whose import name differs.
_IMPORT_NAMES = {"scikit-image": "skimage", "scikit-learn": "sklearn", "pillow": "PIL"}


def folder(distribution: str) -> Path:
    """Return the package folder of an installed distribution without importing it.

    Raises:
        FileNotFoundError: The library is not installed.
    """
    name = _IMPORT_NAMES.get(distribution, distribution)
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(_missing(distribution))
    return Path(next(iter(spec.submodule_search_locations)))


def version(distribution: str) -> str:
    """Return the version of an installed distribution.

    Raises:
        FileNotFoundError: The library is not installed.
    """
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        raise FileNotFoundError(_missing(distribution)) from None


def shipped_file(distribution: str, relative: str) -> Path:
    """Return the path of a file that a library's wheel carries.

    Raises:
        FileNotFoundError: The library is not installed, or this build of it lacks the file.
    """
    path = folder(distribution) / relative
    if not path.is_file():
        raise FileNotFoundError(
            f"{distribution} {version(distribution)} lacks {relative}, which the demo data needs; "
            f"reinstall {distribution} from its official wheel"
        )
    return path


def _missing(distribution: str) -> str:
    return (
        f"the demo data needs the library {distribution!r}, which is not installed here; "
        f"install it (`pip install {distribution}`)"
    )
