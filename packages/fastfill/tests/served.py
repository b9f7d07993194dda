"""A gallery of small pictures with a real model, and a service of it over real HTTP."""

import http.client
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from PIL import Image

from fastfill.card import ModelCard
from fastfill.config import BackboneConfig
from fastfill.encoders import Encoder, load_encoder
from fastfill.gallery import Gallery, GalleryCards
from fastfill.models import build_backbone
from fastfill.serve.app import create_app
from fastfill.serve.run import _listen, open_service
from fastfill.serve.security import Security
from fastfill.serve.service import Service
from fastfill.weights import backbone_card, save_backbone
from tenfold import keyed

DIM = 6

TOKEN = "a-token-of-good-length"


def wait_for(condition: Any, seconds: float = 20) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)


@dataclass(frozen=True)
class World:
    """Files of a service.

    Attributes:
        gallery: Folder of the gallery.
        model: File of the new model.
        images: Folder of originals; two classes.
        ids: Of all items.
        encoder: The new model.
        z: Transformed vectors.
        new: Vectors of the new model.
    """

    gallery: Path
    model: Path
    images: Path
    ids: list[str]
    encoder: Encoder
    z: np.ndarray
    new: np.ndarray


def make_model(path: Path, seed: int = 0) -> Path:
    """Save a small untrained model."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = build_backbone(BackboneConfig(arch="tiny_conv", dim=DIM, num_classes=2)).eval()
    save_backbone(path, backbone, backbone_card(backbone, name=path.stem))
    return path


def make_world(folder: Path, items: int = 12, **options: Any) -> World:
    """Write pictures, model and gallery."""
    model = make_model(folder / "new.safetensors")
    ids = [f"{'ab'[n % 2]}/picture {n:02d}.png" for n in range(items)]
    for number, item in enumerate(ids):
        path = folder / "images" / item
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = keyed.generator("picture", number).integers(0, 256, (40, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    encoder = load_encoder(str(model))
    new = encoder.embed_images([Image.open(folder / "images" / item) for item in ids])
    z = new + keyed.generator("z").normal(0, new.std() / 4, new.shape).astype(np.float32)
    old_card = ModelCard("old", 3, "l2", "sha-old")
    Gallery.create(
        folder / "gallery",
        ids,
        keyed.generator("old").normal(size=(items, 3)).astype(np.float32),
        z,
        np.arange(items, dtype=np.float32),
        cards=GalleryCards(new=encoder.card, old=(old_card,)),
        **options,
    )
    return World(folder / "gallery", model, folder / "images", ids, encoder, z, new)


@dataclass
class Client:
    """Speaks HTTP with a service.

    Attributes:
        port: Of the service.
        headers: Sent with every request.
    """

    port: int
    service: Service
    headers: dict[str, str]

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, Any]:
        """Return status and content, of JSON its value."""
        status, content, kind = self.raw(method, path, body, **headers)
        return status, json.loads(content) if kind == "application/json" else content

    def raw(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes, str]:
        """Return status, content and media type."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {**self.headers, **named})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers["content-type"]
        finally:
            connection.close()

    def post(self, path: str, value: Any) -> tuple[int, Any]:
        """Send JSON."""
        return self.ask("POST", path, json.dumps(value).encode(), content_type="application/json")

    def upload(self, path: str, images: list[bytes], **fields: str) -> tuple[int, Any]:
        """Send a form with images."""
        parts = [
            f'--edge\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in fields.items()
        ]
        for data in images:
            head = '--edge\r\nContent-Disposition: form-data; name="image"; filename="q"\r\n\r\n'
            parts.append(head.encode() + data + b"\r\n")
        body = b"".join([*parts, b"--edge--\r\n"])
        return self.ask("POST", path, body, content_type="multipart/form-data; boundary=edge")


@contextmanager
def running(
    world: World, *, token: str | None = None, max_bytes: int = 1 << 20, **options: Any
) -> Iterator[Client]:
    """Serve a world in a thread."""
    service = open_service(world.gallery, model=str(world.model), **options)
    app = create_app(service, Security(host="127.0.0.1", token=token, max_bytes=max_bytes))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on", ws="none"))
    with _listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_for(lambda: server.started or not thread.is_alive())
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            yield Client(listener.getsockname()[1], service, headers)
        finally:
            server.should_exit = True
            thread.join()


def png(size: tuple[int, int] = (32, 32)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (200, 10, 60)).save(out, "PNG")
    return out.getvalue()


def versions_of(found: Any) -> set[str]:
    return {hit["version"] for hit in found["hits"]}
