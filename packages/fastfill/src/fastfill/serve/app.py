"""The HTTP side of a service: routes, bodies, errors."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, PlainTextResponse

from fastfill.serve.errors import RequestError
from fastfill.serve.page import add_page
from fastfill.serve.queries import Query, from_form, from_json, target_from_json
from fastfill.serve.security import Security, SecurityMiddleware, error_response
from fastfill.serve.service import Service

logger = logging.getLogger(__name__)

BODY_S = 60.0
"""How long a body may take to come."""


def create_app(service: Service, security: Security) -> FastAPI:
    """Return the application; it starts the service, and closes it at the end.

    Args:
        service: Answers.
        security: Who may ask.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await run_in_threadpool(service.close)

    # The generated documentation loads scripts from elsewhere.
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(SecurityMiddleware, security=security)
    _add_errors(app)
    _add_state(app, service)
    _add_queries(app, service)
    _add_items(app, service)
    add_page(app)
    return app


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/api/status")
    def status() -> JSONResponse:
        return JSONResponse(service.status())

    @app.get("/api/curve")
    def curve() -> JSONResponse:
        return JSONResponse(service.curve())

    @app.post("/api/pause")
    def pause() -> JSONResponse:
        return JSONResponse(service.pause(paused=True))

    @app.post("/api/resume")
    def resume() -> JSONResponse:
        return JSONResponse(service.pause(paused=False))

    @app.post("/api/rollback")
    async def rollback(request: Request) -> JSONResponse:
        if _kind(request) != "application/json":
            raise RequestError(415, "send application/json")
        async with _body_in_time():
            target = target_from_json(await request.body())
        return JSONResponse(await run_in_threadpool(service.rollback, target))


def _add_queries(app: FastAPI, service: Service) -> None:
    @app.post("/api/query")
    async def query(request: Request) -> JSONResponse:
        asked = await _query(request, batch=False, max_batch=1)
        found = await run_in_threadpool(service.search, asked)
        (only,) = found.pop("results")
        return JSONResponse(found | only)

    @app.post("/api/query/batch")
    async def query_batch(request: Request) -> JSONResponse:
        asked = await _query(request, batch=True, max_batch=service.max_batch)
        return JSONResponse(await run_in_threadpool(service.search, asked, batch=True))


def _add_items(app: FastAPI, service: Service) -> None:
    @app.get("/api/items/{item:path}/image")
    def image(item: str) -> Response:
        return Response(service.image(item), media_type="image/jpeg")

    @app.get("/api/items/{item:path}/text")
    def text(item: str) -> Response:
        return PlainTextResponse(service.text(item))


async def _query(request: Request, *, batch: bool, max_batch: int) -> Query:
    """Read and check the query of a request."""
    kind = _kind(request)
    async with _body_in_time():
        if kind == "application/json":
            body = await request.body()
            return from_json(body, batch=batch, max_batch=max_batch)
        if kind == "multipart/form-data":
            return await _form(request, max_batch)
    raise RequestError(415, "send application/json, or multipart/form-data with `image`")


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


@asynccontextmanager
async def _body_in_time() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(BODY_S):
            yield
    except TimeoutError:
        raise RequestError(408, f"the body did not come within {BODY_S:g} seconds") from None


async def _form(request: Request, max_batch: int) -> Query:
    async with request.form(max_files=max_batch, max_fields=4, max_part_size=4096) as form:
        fields: dict[str, str] = {}
        images: list[bytes] = []
        for name, value in form.multi_items():
            if isinstance(value, str) and name in ("k", "exact"):
                fields[name] = value
            elif not isinstance(value, str) and name == "image":
                images.append(await value.read())
            else:
                raise RequestError(400, f"unknown field {name!r:.40}: send `image`, `k`, `exact`")
    if not images:
        raise RequestError(400, "the form has no file `image`")
    return from_form(images, fields)


def _add_errors(app: FastAPI) -> None:
    async def refused(_: Request, error: Any) -> JSONResponse:
        return error_response(error)

    async def http_error(_: Request, error: Any) -> JSONResponse:
        message = " ".join(str(error.detail).split())
        return JSONResponse({"error": message}, error.status_code, headers=error.headers)

    async def failed(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "the service failed; its log says why"}, 500)

    handlers: dict[Any, Callable[..., Any]] = {
        RequestError: refused,
        HTTPException: http_error,
        Exception: failed,
    }
    # Errors of the framework itself are of a class that only these numbers reach.
    handlers |= dict.fromkeys((400, 404, 405), http_error)
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
