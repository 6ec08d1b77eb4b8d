"""The addresses of `charlm serve`: who may ask, how much, and what is answered."""

from __future__ import annotations

import asyncio
import base64
import html
import json
import re
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from charlm.checkpoint import ModelFile
from charlm.errors import CharlmError, ModelFileError, UnknownCharacterError
from charlm.inference.stepper import Stepper
from charlm.inference.surprisal import finite
from charlm.web.batching import Batch, News, Text, Work
from charlm.web.bodies import (
    MAX_BYTES,
    AnyBody,
    CompletionBody,
    GenerateBody,
    PredictBody,
    Refusal,
    ScoreBody,
    read_body,
)
from charlm.web.completions import Completing
from charlm.web.generating import Generating, Predicting, Scoring

# Characters that are no UTF-8, and those that a terminal or a reader of lines might obey.
ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# What is read and dropped of a body that is too large, so that its sender learns why it is refused.
MAX_DROPPED_BYTES = 32 * 1024 * 1024
TOO_LARGE = f"the body has more than {MAX_BYTES:,} bytes"
# A stream tells this often what is new. More often would cost more than the model.
SECONDS_BETWEEN_EVENTS = 0.02
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


@dataclass(frozen=True)
class Limits:
    """How much is done at a time.

    Attributes:
        texts: how many texts are stepped side by side.
        waiting_texts: how many may wait.
        requests: how many requests are handled at a time, those included whose body is still being read.
        seconds: how long a request may take; what was written by then is the answer.
        body_seconds: how long the body of a request may take to arrive.
    """

    texts: int = 128
    waiting_texts: int = 256
    requests: int = 256
    seconds: float = 60.0
    body_seconds: float = 10.0


class _Asked(Protocol):
    """What a request asks for."""

    texts: list[Text]


class _Streamed(_Asked, Protocol):
    def answer(self, news: Sequence[News]) -> dict[str, Any]: ...
    def events(self, news: Sequence[News]) -> list[dict[str, Any]]: ...
    def last_events(self) -> Sequence[dict[str, Any] | str]: ...


class Service:
    """A model behind addresses; an ASGI application.

    Args:
        stepper: the model.
        name: of the model.
        page: the page at `/`, as HTML.
        hosts: the names by which browsers may call this server; None for any, which needs a token.
        token: what requests must show; empty for nothing.
        limits: how much is done at a time.
        report: called with a line about an error that nobody expects.

    Attributes:
        num_answered: how many requests were answered.
    """

    def __init__(
        self,
        stepper: Stepper,
        name: str,
        page: str,
        hosts: frozenset[str] | None = None,
        token: str = "",
        limits: Limits | None = None,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.limits = limits or Limits()
        self.num_answered = 0
        self._stepper, self._name, self._page, self._report = stepper, name, page, report
        self._hosts, self._token = hosts, token.encode()
        self._num_requests, self._is_stopping = 0, False
        self.batch = Batch(stepper, self.limits.texts, self.limits.waiting_texts, self._report_error)
        self._app = Starlette(
            routes=[
                Route("/", self._show_page),
                Route("/healthz", self._tell_health),
                Route("/predict", self._predict, methods=["POST"]),
                Route("/score", self._score, methods=["POST"]),
                Route("/generate", self._generate, methods=["POST"]),
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route("/v1/models", self._list_models),
                Route("/v1/models/{model:path}", self._tell_model),
            ],
            exception_handlers={HTTPException: _refuse_route, CharlmError: _refuse},
        )
        self._app.router.redirect_slashes = False

    def stop(self) -> None:
        """Refuse new requests from now on."""
        self._is_stopping = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, whatever goes wrong."""
        is_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        self._num_requests += 1
        try:
            await (self._refused(scope) or self._app)(scope, receive, send_with_headers)
            self.num_answered += 1
        except ClientDisconnect:
            pass
        except Exception as error:
            self._report_error(error)
            if not is_started:
                await _error(Refusal(500, "internal_error", "an internal error"))(scope, receive, send_with_headers)
        finally:
            self._num_requests -= 1

    def _refused(self, scope: Scope) -> ASGIApp | None:
        """Return the answer to a request that is not handled, or None."""
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self._hosts is not None and re.sub(r":\d*$", "", host) not in self._hosts:
            hint = "this server answers to its own address only"
            return _error(Refusal(403, "wrong_host", "the header `Host` names another server", hint))
        # Whether a process lives is no secret; a supervisor has no token.
        if self._token and scope["path"] != "/healthz":
            given = _token_in(headers.get(b"authorization", b""))
            if not secrets.compare_digest(given, self._token):
                hint = "send the header `Authorization: Bearer TOKEN`"
                response = _error(Refusal(401, "invalid_api_key", "the token is missing or wrong", hint))
                response.headers["www-authenticate"] = 'Basic realm="charlm", charset="UTF-8"'
                return response
        if self._is_stopping:
            return _error(Refusal(503, "stopping", "this server stops", retry_after=5), closes=True)
        if self._num_requests > self.limits.requests:
            return _error(Refusal(503, "overloaded", "too many requests at a time", retry_after=1))
        return None

    async def _show_page(self, request: Request) -> Response:
        return HTMLResponse(self._page)

    async def _tell_health(self, request: Request) -> Response:
        return _json({"status": "ok", "running": self.batch.num_running, "waiting": self.batch.num_waiting})

    async def _list_models(self, request: Request) -> Response:
        return _json({"object": "list", "data": [self._model()]})

    async def _tell_model(self, request: Request) -> Response:
        if request.path_params["model"] != self._name:
            raise Refusal(404, "model_not_found", "there is no such model", f"this server has the model `{self._name}`")
        return _json(self._model())

    def _model(self) -> dict[str, Any]:
        return {"id": self._name, "object": "model", "created": 0, "owned_by": "charlm"}

    async def _predict(self, request: Request) -> Response:
        asked = Predicting(self._stepper, await self._body(request, PredictBody))
        await self._finish(request, asked)
        return _json(asked.answer())

    async def _score(self, request: Request) -> Response:
        asked = Scoring(self._stepper, await self._body(request, ScoreBody))
        await self._finish(request, asked)
        return _json(asked.answer())

    async def _generate(self, request: Request) -> Response:
        body = await self._body(request, GenerateBody)
        return await self._grow(request, Generating(self._stepper, body), body.stream)

    async def _complete(self, request: Request) -> Response:
        body = await self._body(request, CompletionBody)
        return await self._grow(request, Completing(self._stepper, self._name, body), body.stream)

    async def _grow(self, request: Request, asked: _Streamed, is_streamed: bool) -> Response:
        if is_streamed:
            return _EventStream(self._events(work := self._start(asked), asked), lambda: self.batch.leave(work))
        return _json(asked.answer(await self._finish(request, asked)))

    def _start(self, asked: _Asked) -> Work:
        work = Work(asked.texts, self.limits.seconds)
        if not self.batch.add(work):
            raise Refusal(503, "overloaded", "too many texts wait", "try again later, or ask for fewer", retry_after=2)
        return work

    async def _finish(self, request: Request, asked: _Asked) -> list[News]:
        """Wait until all texts have ended; if the client goes away before, they end too."""
        work = self._start(asked)
        waiting = [asyncio.ensure_future(work.news(until_end=True)), asyncio.ensure_future(_has_gone(request))]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not waiting[0].done():
                raise ClientDisconnect
            news: list[News] = waiting[0].result() or []
        finally:
            self.batch.leave(work)
            for task in waiting:
                task.cancel()
        if any(text.next_logits_V is None for text in asked.texts):
            if any(text.end == "shutdown" for text in asked.texts):
                raise Refusal(503, "stopping", "this server stops", retry_after=5)
            message = f"there was no answer within {self.limits.seconds:g} s"
            raise Refusal(503, "time_is_over", message, "try again later, or with a shorter text", retry_after=5)
        return news

    async def _events(self, work: Work, asked: _Streamed) -> AsyncIterator[str]:
        try:
            while news := await work.news():
                for event in asked.events(news):
                    yield _event(event)
                await asyncio.sleep(SECONDS_BETWEEN_EVENTS)
            for last in asked.last_events():
                yield _event(last)
        except CharlmError as error:
            yield _event(_error_json(_as_refusal(error)))
        except Exception as error:
            self._report_error(error)
            yield _event(_error_json(Refusal(500, "internal_error", "an internal error")))

    async def _body(self, request: Request, kind: type[AnyBody]) -> AnyBody:
        """Read the body of a request.

        Raises:
            Refusal: it is not JSON, too large, too slow, or asks for what there is not.
        """
        # A page of another site can send a form or plain text to this server, but no JSON.
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            hint = "send the header `Content-Type: application/json`"
            raise Refusal(415, "unsupported_media_type", "the body is not declared to be JSON", hint)
        content, size = bytearray(), 0
        declared = request.headers.get("content-length", "")
        most = MAX_BYTES if "expect" in request.headers else MAX_DROPPED_BYTES
        try:
            if declared.isdigit() and int(declared[:20]) > most:
                raise Refusal(413, "too_large", TOO_LARGE)
            async with asyncio.timeout(self.limits.body_seconds):
                async for chunk in request.stream():
                    size += len(chunk)
                    content += chunk if size <= MAX_BYTES else b""
                    if size > MAX_DROPPED_BYTES:
                        break
        except TimeoutError:
            raise Refusal(408, "too_slow", "the body took too long to arrive") from None
        if size > MAX_BYTES:
            raise Refusal(413, "too_large", TOO_LARGE)
        return read_body(kind, bytes(content))

    def _report_error(self, error: Exception) -> None:
        """Report where an error came from, without its message, which may hold somebody's text."""
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f" in {trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno}" if trace else ""
        self._report(f"error: a request met {type(error).__name__}{where}")


def page_of(file: ModelFile, name: str) -> str:
    """Return the page at `/`."""
    return f"<!DOCTYPE html><title>charlm</title><p>{html.escape(name)}: POST /generate, /predict, /score</p>"


class _EventStream(StreamingResponse):
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


def _json(value: Any, status: int = 200) -> Response:
    content = _dumped(value) + "\n"
    return Response(content, status, {"cache-control": "no-store"}, "application/json")


def _dumped(value: Any) -> str:
    text = json.dumps(finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _event(value: dict[str, Any] | str) -> str:
    return f"data: {value if isinstance(value, str) else _dumped(value)}\n\n"


async def _has_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _token_in(authorization: bytes) -> bytes:
    """Return the token in a header: `Bearer TOKEN`, or the password that a browser asks for."""
    scheme, _, value = authorization.partition(b" ")
    if scheme.lower() == b"basic":
        with suppress(ValueError):
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
    return value.strip() if scheme.lower() == b"bearer" else b""


def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, CharlmError)
    refusal = _as_refusal(error)
    # What is left of a body that was not read to its end would be taken for the next request.
    return _error(refusal, closes=refusal.status in (408, 413, 415))


def _refuse_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    allowed = (error.headers or {}).get("Allow", "")
    message = f"this address takes {allowed} only" if allowed else "there is no such address"
    hint = "" if allowed else "there are /generate, /predict, /score, /v1/completions, /v1/models and /healthz"
    response = _error(Refusal(error.status_code, HTTPStatus(error.status_code).phrase.lower(), message, hint))
    if allowed:
        response.headers["allow"] = allowed
    return response


def _as_refusal(error: CharlmError) -> Refusal:
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ModelFileError):
        return Refusal(500, "broken_model", str(error), error.hint)
    if isinstance(error, UnknownCharacterError):
        hint = '"unknown": "skip" drops such characters, "unknown": "replace=C" replaces each with C'
        return Refusal(400, "unknown_character", str(error), hint)
    return Refusal(400, "invalid_value", str(error), error.hint)


def _error(refusal: Refusal, closes: bool = False) -> Response:
    response = _json(_error_json(refusal), refusal.status)
    if refusal.retry_after is not None:
        response.headers["retry-after"] = str(refusal.retry_after)
    if closes:
        response.headers["connection"] = "close"
    return response


def _error_json(refusal: Refusal) -> dict[str, Any]:
    """Return a refusal as OpenAI's clients know it, with a hint beside."""
    kind = "server_error" if refusal.status >= 500 else "invalid_request_error"
    values = {"message": str(refusal), "type": kind, "param": refusal.field, "code": refusal.code.replace(" ", "_")}
    return {"error": values | ({"hint": refusal.hint} if refusal.hint else {})}
