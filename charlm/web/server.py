"""The addresses of `charlm serve`: who may ask, how much, and what is answered."""

from __future__ import annotations

import asyncio
import base64
import re
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from charlm.errors import CharlmError
from charlm.inference.stepper import Predictor
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
from charlm.web.responses import (
    INTERNAL,
    EventStream,
    as_refusal,
    error_json,
    error_response,
    event,
    json_response,
    refuse,
    refuse_route,
    tell_internal,
)

MAX_HEAD_BYTES = 16 * 1024
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
        make_page: makes the page at `/`, which takes a moment; called when somebody first asks for it.
        hosts: the names by which browsers may call this server; None for any, which needs a token.
        token: what requests must show; empty for nothing.
        limits: how much is done at a time.
        report: called with a line about an error that nobody expects.

    Attributes:
        num_answered: how many requests were answered.
    """

    def __init__(
        self,
        stepper: Predictor,
        name: str,
        make_page: Callable[[], str],
        hosts: frozenset[str] | None = None,
        token: str = "",
        limits: Limits | None = None,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.limits = limits or Limits()
        self.num_answered = 0
        self._stepper, self._name, self._make_page, self._report = stepper, name, make_page, report
        self._page: bytes | None = None
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
            exception_handlers={HTTPException: refuse_route, CharlmError: refuse, Exception: tell_internal},
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
                await error_response(INTERNAL)(scope, receive, send_with_headers)
        finally:
            self._num_requests -= 1

    def _refused(self, scope: Scope) -> ASGIApp | None:
        """Return the answer to a request that is not handled, or None."""
        headers = dict(scope["headers"])
        head = [scope["raw_path"], scope["query_string"], *chain(*scope["headers"])]
        if sum(map(len, head)) > MAX_HEAD_BYTES:
            return error_response(Refusal(431, "too_large", "the head of the request is too large"), closes=True)
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self._hosts is not None and re.sub(r":\d*$", "", host) not in self._hosts:
            hint = "this server answers to its own address only"
            return error_response(Refusal(403, "wrong_host", "the header `Host` names another server", hint))
        # Whether a process lives is no secret; a supervisor has no token.
        if self._token and scope["path"] != "/healthz":
            given = _token_in(headers.get(b"authorization", b""))
            if not secrets.compare_digest(given, self._token):
                hint = "send the header `Authorization: Bearer TOKEN`"
                response = error_response(Refusal(401, "invalid_api_key", "the token is missing or wrong", hint))
                response.headers["www-authenticate"] = 'Basic realm="charlm", charset="UTF-8"'
                return response
        if self._is_stopping:
            return error_response(Refusal(503, "stopping", "this server stops", retry_after=5), closes=True)
        if self._num_requests > self.limits.requests:
            return error_response(Refusal(503, "overloaded", "too many requests at a time", retry_after=1))
        return None

    async def _show_page(self, request: Request) -> Response:
        if self._page is None:
            self._page = (await asyncio.to_thread(self._make_page)).encode()
        return HTMLResponse(self._page)

    async def _tell_health(self, request: Request) -> Response:
        return json_response({"status": "ok", "running": self.batch.num_running, "waiting": self.batch.num_waiting})

    async def _list_models(self, request: Request) -> Response:
        return json_response({"object": "list", "data": [self._model()]})

    async def _tell_model(self, request: Request) -> Response:
        if request.path_params["model"] != self._name:
            raise Refusal(404, "model_not_found", "there is no such model", f"this server has the model `{self._name}`")
        return json_response(self._model())

    def _model(self) -> dict[str, Any]:
        return {"id": self._name, "object": "model", "created": 0, "owned_by": "charlm"}

    async def _predict(self, request: Request) -> Response:
        asked = Predicting(self._stepper, await self._body(request, PredictBody))
        await self._finish(request, asked)
        return json_response(asked.answer())

    async def _score(self, request: Request) -> Response:
        asked = Scoring(self._stepper, await self._body(request, ScoreBody))
        await self._finish(request, asked)
        return json_response(asked.answer())

    async def _generate(self, request: Request) -> Response:
        body = await self._body(request, GenerateBody)
        return await self._grow(request, Generating(self._stepper, body), body.stream)

    async def _complete(self, request: Request) -> Response:
        body = await self._body(request, CompletionBody)
        return await self._grow(request, Completing(self._stepper, self._name, body), body.stream)

    async def _grow(self, request: Request, asked: _Streamed, is_streamed: bool) -> Response:
        if is_streamed:
            return EventStream(self._events(work := self._start(asked), asked), lambda: self.batch.leave(work))
        return json_response(asked.answer(await self._finish(request, asked)))

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
                for told in asked.events(news):
                    yield event(told)
                await asyncio.sleep(SECONDS_BETWEEN_EVENTS)
            for last in asked.last_events():
                yield event(last)
        except CharlmError as error:
            yield event(error_json(as_refusal(error)))
        except Exception as error:
            self._report_error(error)
            yield event(error_json(INTERNAL))

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
