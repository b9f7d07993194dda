"""The page of a service: three files of this package, and nothing from elsewhere."""

from importlib import resources

from fastapi import FastAPI, Response

FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
"""Path -> file and media type."""


def add_page(app: FastAPI) -> None:
    """Add the page's routes; its files are read once."""
    folder = resources.files("fastfill.serve") / "static"
    for path, (name, kind) in FILES.items():
        _add_file(app, path, (folder / name).read_bytes(), kind)


def _add_file(app: FastAPI, path: str, content: bytes, kind: str) -> None:
    @app.get(path)
    async def file() -> Response:
        return Response(content, media_type=kind)
