"""The verb `serve`: queries over HTTP while the gallery is backfilled."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from fastfill.card import ModelCard
    from fastfill.encoders import Encoder
    from fastfill.gallery import GalleryCards
    from fastfill.gallery.maps import GalleryMaps
    from fastfill.serve.security import Security
    from fastfill.serve.service import Service

TOKEN = "FASTFILL_TOKEN"
"""Environment variable of the token."""
NEEDED = ("fastapi", "multipart", "uvicorn")
CONNECTIONS = 128
"""Most requests at a time; more are answered 503."""
SHUTDOWN_S = 10
"""How long requests may take to end."""


def serve(
    gallery: Path,
    *,
    model: str,
    backend: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    max_upload_mb: float = 10.0,
    max_batch: int = 256,
    old_model: str | None = None,
    h: list[Path] | Path | None = None,
    source: str | None = None,
    backfill: bool = False,
    device: str = "cpu",
) -> None:
    """Answer queries over HTTP, with a page at `/`, while a backfill goes on.

    The service is the gallery's writer: `backfill` commands leave their results in its inbox. Where
    another process is the writer already, it follows that one. Verbs that write are refused
    meanwhile: `POST /api/rollback` with `{"to": "transformed"}`, `"old"` or `"new"` does what
    `rollback` does, `/api/pause` and `/api/resume` what their namesakes do; `finalise` and `plan`
    must wait for the end of the service. SIGTERM and Ctrl-C end requests and make everything
    durable.

    Args:
        gallery: Folder that `init-gallery` wrote.
        model: The gallery's new model, as for `backfill`; with `open_clip:...:text` images are
            searched by text.
        backend: Index: `faiss-flat`, `faiss-ivf`, `lancedb`; the gallery's own if absent.
        host: Address to listen on; other than this machine's own needs a token.
        port: Port; 0 for any free one.
        token: What clients must send as `Authorization: Bearer`; better in FASTFILL_TOKEN, which
            other users of this machine cannot see.
        max_upload_mb: Largest body of a request, in MiB.
        max_batch: Most queries of one request.
        old_model: The old model, to embed queries while the gallery is rolled back to it. With
            `source`, it must give the vectors that the gallery has of it.
        h: The maps that the gallery was made with, to roll back to their vectors.
        source: Originals, as for `backfill`: shows thumbnails, and measures quality where they have
            labels.
        backfill: Run a backfill beside the service; needs `source`.
        device: Where models run: `auto`, `cpu`, `cuda` or `cuda:<n>`.

    Raises:
        FileNotFoundError: Gallery, model or originals are missing.
        ValueError: The extra is not installed, an option is impossible, a token is missing, or the
            model is not the gallery's.
    """
    _check_installed()
    from fastfill.serve.security import Security

    token = token or os.environ.get(TOKEN) or None
    security = Security(host=host, token=token, max_bytes=int(max_upload_mb * (1 << 20)))
    if max_batch < 1:
        raise ValueError(f"max_batch must be >= 1, got {max_batch}")
    listener = _listen(host, port)
    with listener, _sigterm_interrupts():
        service = open_service(
            Path(gallery),
            model=model,
            backend=backend,
            max_batch=max_batch,
            old_model=old_model,
            h=h,
            source=source,
            backfill=backfill,
            device=device,
        )
        try:
            _run(service, security, listener, gallery)
        finally:
            service.close()


def open_service(
    gallery: Path,
    *,
    model: str,
    backend: str | None = None,
    max_batch: int = 256,
    old_model: str | None = None,
    h: list[Path] | Path | None = None,
    source: str | None = None,
    backfill: bool = False,
    device: str = "cpu",
) -> "Service":
    """Open everything that a service needs; arguments as for `serve`.

    Raises:
        FileNotFoundError: Gallery, model or originals are missing.
        ValueError: A model is not the gallery's, or the options do not fit together.
    """
    if backfill and source is None:
        raise ValueError("--backfill needs --source, the originals")
    # Here, so that `--help` does not load torch.
    from fastfill.gallery import Gallery
    from fastfill.serve.old_model import check_old_model
    from fastfill.serve.service import Service
    from fastfill.serve.worker import BackfillWorker
    from fastfill.sources import open_source

    gallery = gallery.resolve()
    reader = Gallery.open(gallery, "r")
    cards = reader.state.cards
    encoder = _encoder(model, cards.new, device=device, what="model")
    old_encoder = None
    if old_model is not None:
        old_encoder = _encoder(old_model, cards.old[0], device=device, what="old model")
    originals = None if source is None else open_source(source)
    if old_encoder is not None and originals is not None:
        check_old_model(reader, old_encoder, originals)
    maps = None if h is None else _maps(h, cards, device=device)
    worker = None
    if backfill and originals is not None:
        if originals.kind != encoder.kind:
            raise ValueError(f"{model} embeds {encoder.kind}s, {source} holds {originals.kind}s")
        worker = BackfillWorker(
            gallery, model=model, source=str(source), metric=encoder.card.metric, device=device
        )
    return Service(
        gallery,
        encoder,
        old_encoder=old_encoder,
        maps=maps,
        source=originals,
        backend=backend,
        worker=worker,
        max_batch=max_batch,
    )


def _maps(h: list[Path] | Path, cards: "GalleryCards", *, device: str) -> "GalleryMaps":
    from fastfill.gallery.maps import GalleryMaps
    from tenfold.devices import choose_device

    maps = GalleryMaps(h if isinstance(h, list) else [h], device=str(choose_device(device)))
    maps.check_those_of(cards)
    return maps


def _encoder(name: str, card: "ModelCard", *, device: str, what: str) -> "Encoder":
    """Load a model and compare it with the gallery's."""
    from fastfill.card import check_same
    from fastfill.encoder_networks import OPEN_CLIP, TIMM
    from fastfill.encoders import load_encoder

    # Models from elsewhere do not say what is near among their vectors; the gallery does.
    metric = card.metric if name.startswith((TIMM, OPEN_CLIP)) else None
    encoder = load_encoder(name, device=device, metric=metric)
    check_same(card, encoder.card, what=what)
    return encoder


def _run(service: "Service", security: "Security", listener: socket.socket, gallery: Path) -> None:
    import uvicorn

    from fastfill.serve.app import create_app

    config = uvicorn.Config(
        create_app(service, security),
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=SHUTDOWN_S,
        lifespan="on",
        ws="none",
        proxy_headers=False,
    )
    listener.listen()  # from the announcement on nobody is refused
    _announce(gallery, security.host, listener)
    uvicorn.Server(config).run(sockets=[listener])


def _check_installed() -> None:
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ValueError(
            f"serve needs {', '.join(missing)}, an extra: pip install 'fastfill[serve]'"
        )


def _listen(host: str, port: int) -> socket.socket:
    """Bind before models are loaded, so that a taken port is told at once."""
    if not 0 <= port <= 65535:
        raise ValueError(f"port must lie in 0..65535, got {port}")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ValueError(f"host {host} is no address of this machine: {error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ValueError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another --port"
        ) from None
    return listener


def _announce(gallery: Path, host: str, listener: socket.socket) -> None:
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{listener.getsockname()[1]}/"
    console = Console(markup=False, highlight=False, soft_wrap=True)
    console.print(f"{gallery} is served at {url}; Ctrl-C ends it")


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Make SIGTERM end the process as Ctrl-C does, with its own exit code."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
