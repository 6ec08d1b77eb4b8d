"""The form of answers: JSON in one line, server-sent events, and errors as OpenAI's clients know them."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from charlm.errors import CharlmError, ModelFileError, UnknownCharacterError
from charlm.inference.surprisal import finite
from charlm.web.bodies import Refusal

# Characters that are no UTF-8, and those that a terminal or a reader of lines might obey.
ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")
INTERNAL = Refusal(500, "internal_error", "an internal error")


class EventStream(StreamingResponse):
    """Server-sent events; whatever ends them, `leave` is called."""

    def __init__(self, events: AsyncIterator[str], leave: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"cache-control": "no-store"})
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()


def json_response(value: Any, status: int = 200) -> Response:
    """Return an answer in one line of JSON."""
    content = _dumped(value) + "\n"
    return Response(content, status, {"cache-control": "no-store"}, "application/json")


def _dumped(value: Any) -> str:
    text = json.dumps(finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def event(value: dict[str, Any] | str) -> str:
    """Return a server-sent event."""
    return f"data: {value if isinstance(value, str) else _dumped(value)}\n\n"


def tell_internal(request: Request, error: Exception) -> Response:
    """Answer a request that met an error which nobody expects."""
    return error_response(INTERNAL)


def refuse(request: Request, error: Exception) -> Response:
    """Answer a request that asks for what there is not."""
    assert isinstance(error, CharlmError)
    refusal = as_refusal(error)
    # What is left of a body that was not read to its end would be taken for the next request.
    return error_response(refusal, closes=refusal.status in (408, 413, 415))


def refuse_route(request: Request, error: Exception) -> Response:
    """Answer a request to an address that there is not, or with a wrong method."""
    assert isinstance(error, HTTPException)
    allowed = (error.headers or {}).get("Allow", "")
    message = f"this address takes {allowed} only" if allowed else "there is no such address"
    if "/chat/" in request.url.path:
        # Clients of OpenAI show the message alone.
        message = "there is no chat: the model continues texts, at /v1/completions"
    hint = "" if allowed else "there are /generate, /predict, /score, /v1/completions, /v1/models and /healthz"
    response = error_response(Refusal(error.status_code, HTTPStatus(error.status_code).name.lower(), message, hint))
    if allowed:
        response.headers["allow"] = allowed
    return response


def as_refusal(error: CharlmError) -> Refusal:
    """Return an error of charlm as a reason to refuse a request."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ModelFileError):
        return Refusal(500, "broken_model", str(error), error.hint)
    if isinstance(error, UnknownCharacterError):
        hint = '"unknown": "skip" drops such characters, "unknown": "replace=C" replaces each with C'
        return Refusal(400, "unknown_character", str(error), hint)
    return Refusal(400, "invalid_value", str(error), error.hint)


def error_response(refusal: Refusal, closes: bool = False) -> Response:
    """Return a refusal as an answer, which may end the connection."""
    response = json_response(error_json(refusal), refusal.status)
    if refusal.retry_after is not None:
        response.headers["retry-after"] = str(refusal.retry_after)
    if closes:
        response.headers["connection"] = "close"
    return response


def error_json(refusal: Refusal) -> dict[str, Any]:
    """Return a refusal as OpenAI's clients know it, with a hint beside."""
    kind = "server_error" if refusal.status >= 500 else "invalid_request_error"
    values = {"message": str(refusal), "type": kind, "param": refusal.field, "code": refusal.code}
    return {"error": values | ({"hint": refusal.hint} if refusal.hint else {})}
