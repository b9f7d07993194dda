"""Who may ask, and how much they may send: token, host, origin, length; headers of all answers.

Plain ASGI, so that a body is refused while it arrives, before anything has kept it.
"""

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from fastapi.responses import JSONResponse

from fastfill.serve.errors import RequestError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MIN_TOKEN = 16
"""Shortest token that is accepted."""

MAX_DIGITS = 18
"""Most digits of a length that is looked at."""

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


@dataclass(frozen=True, kw_only=True)
class Security:
    """Rules of a service.

    Without a token only this machine may ask, and only under a name of its own: else a page of
    another site could, through the user's browser.

    Args:
        host: Address that is listened on.
        token: What `Authorization: Bearer` must say; nothing is asked for without one.
        max_bytes: Longest body.
    """

    host: str
    token: str | None = field(default=None, repr=False)
    max_bytes: int = 10 << 20

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ValueError(f"the largest upload must be >= 1 byte, got {self.max_bytes}")
        if self.token is None:
            if not is_loopback(self.host):
                raise ValueError(
                    f"host {self.host} can be reached from other machines: give a token (--token "
                    "or FASTFILL_TOKEN), or listen on 127.0.0.1"
                )
            return
        printable = self.token.isascii() and self.token.isprintable() and " " not in self.token
        if len(self.token) < MIN_TOKEN or not printable:
            raise ValueError(
                f"a token must be {MIN_TOKEN} or more ASCII characters without spaces; this one, "
                f"of {len(self.token)} characters, is not"
            )

    def check(self, scope: Scope) -> None:
        """Refuse a request by its headers.

        Raises:
            RequestError: It is foreign, has no right token, or says that its body is too long.
        """
        if self.token is None:
            self._check_site(scope)
        elif scope["path"].startswith("/api/"):
            self._check_token(scope, self.token)
        length = _header(scope, b"content-length") or "0"
        # A number of thousands of digits is none for int().
        if not length.isdecimal() or len(length) > MAX_DIGITS or int(length) > self.max_bytes:
            raise self._too_large()

    def limited(self, receive: Receive) -> Receive:
        """Return a `receive` that fails as soon as more than `max_bytes` have come."""
        seen = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.max_bytes:
                raise self._too_large()
            return message

        return counted

    def _check_token(self, scope: Scope, token: str) -> None:
        given = (_header(scope, b"authorization") or "").split(" ", 1)
        scheme, secret = given if len(given) == 2 else ("", "")
        same = hmac.compare_digest(secret.strip().encode(), token.encode())
        if scheme.lower() != "bearer" or not same:
            raise RequestError(401, "a token is needed: send Authorization: Bearer <token>")

    def _check_site(self, scope: Scope) -> None:
        host = _header(scope, b"host") or ""
        if not is_loopback(_name_of(host)):
            raise RequestError(403, "without a token only 127.0.0.1 and localhost are answered")
        origin = _header(scope, b"origin")
        if scope["method"] != "GET" and origin is not None and origin != f"http://{host}":
            raise RequestError(403, "pages of other sites may not use the service")

    def _too_large(self) -> RequestError:
        return RequestError(413, f"the body is larger than {self.max_bytes} bytes; send less")


class SecurityMiddleware:
    """Apply `Security` to every request, and `HEADERS` to every answer."""

    def __init__(self, app: Callable[..., Awaitable[None]], *, security: Security) -> None:
        self.app, self.security = app, security

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *more]
            await send(message)

        try:
            self.security.check(scope)
        except RequestError as error:
            await error_response(error)(scope, receive, send_with_headers)  # pyright: ignore
            return
        await self.app(scope, self.security.limited(receive), send_with_headers)


def error_response(error: RequestError) -> JSONResponse:
    """Return an error as JSON of one line."""
    headers = {"www-authenticate": "Bearer"} if error.status == 401 else None
    return JSONResponse({"error": str(error)}, error.status, headers=headers)


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _name_of(host: str) -> str:
    """Return a `Host` header without the port and the brackets of IPv6."""
    if host.startswith("["):
        return host[1:].split("]")[0]
    return host.rsplit(":", 1)[0] if ":" in host else host


def _header(scope: Scope, name: bytes) -> str | None:
    """Return a header that came once; two of a kind count as none."""
    values = [value for key, value in scope["headers"] if key == name]
    return values[0].decode("latin-1") if len(values) == 1 else None
