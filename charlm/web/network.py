"""Runs a service on a port: connections that are slow, idle or too many, and the end. Knows no models."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import signal
import socket
from collections.abc import Callable
from types import FrameType

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from charlm.errors import UsageError
from charlm.web.bodies import Refusal
from charlm.web.responses import error_response
from charlm.web.server import Service

# A connection ends that sends no whole head of a request for so long, or whose answer is not taken.
IDLE_SECONDS = 10
# A request has its own limits for its body and its texts. What is left is the time for its answer to be taken.
EXTRA_SECONDS = 20
# So many connections may be open. For another one, the one ends that has been idle the longest.
MAX_CONNECTIONS = 512
# Requests that run when the server stops may continue for so long. Then their texts end as they are.
GRACE_SECONDS = 3
# The end after that.
LAST_SECONDS = 2


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        UsageError: there is no such address, or it cannot be used.
    """
    where = f"{host}, port {port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host or "", port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise UsageError(f"there is no host `{host}`", "`--host 127.0.0.1` is this machine alone") from None
    listening = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(1024)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        hint = "`--host 127.0.0.1` is this machine alone"
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            hint = "`--port 0` takes a free one"
        raise UsageError(f"{where} cannot be used: {error.strerror or error}", hint) from None
    return listening


def is_loopback(address: str) -> bool:
    """Return whether a numeric address can be reached from this machine only."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)


def run(service: Service, listening: socket.socket, announce: Callable[[int], None]) -> int:
    """Answer requests until a signal comes.

    Args:
        service: what answers.
        listening: as `listen` returned it.
        announce: called with the number of requests that still run when the server stops.

    Returns:
        the number of the signal.
    """
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(number)

    # The server sets its own handlers while it runs. Then it sends itself the signals that came.
    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server_of(service, announce).run([listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        service.batch.close()
    return received[-1]


def server_of(service: Service, announce: Callable[[int], None] = lambda num_running: None) -> uvicorn.Server:
    """Return a server for a service, which ends when its `should_exit` becomes true; see `run`."""

    class Connection(_Protocol):
        max_connections = _max_connections()
        request_seconds = service.limits.body_seconds + service.limits.seconds + EXTRA_SECONDS

    config = uvicorn.Config(
        service,
        loop="asyncio",
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS + LAST_SECONDS,
    )
    return _Server(config, service, announce)


def _max_connections() -> int:
    """Return how many connections may be open, so that the files which a process may open suffice."""
    try:
        from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit
    except ImportError:
        return MAX_CONNECTIONS
    num_files = getrlimit(RLIMIT_NOFILE)[0]
    return MAX_CONNECTIONS if num_files == RLIM_INFINITY else min(MAX_CONNECTIONS, num_files // 2)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, service: Service, announce: Callable[[int], None]) -> None:
        super().__init__(config)
        self._service, self._announce = service, announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # A client may break off in any way; that is nothing to print.
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.stop()
        self._announce(len(self.server_state.tasks))
        asyncio.get_running_loop().call_later(GRACE_SECONDS, self._service.batch.end_all)
        await super().shutdown(sockets)


class _Protocol(H11Protocol):
    """A connection that ends if its client is slow or silent.

    Attributes:
        max_connections: so many may be open.
        request_seconds: how long a request may take, its answer included.
        idle_since: since when no request runs; None while one does.
    """

    max_connections: int
    request_seconds: float
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.idle_since: float | None = None
        self._expect(IDLE_SECONDS, is_idle=True)
        others = [each for each in self.connections if isinstance(each, _Protocol) and each is not self]
        if len(others) >= self.max_connections:
            idle = [each for each in others if each.idle_since is not None]
            victim = min(idle, key=lambda each: each.idle_since or 0.0, default=self)
            victim.transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.idle_since is not None and self._is_busy():
            self._expect(self.request_seconds, is_idle=False)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # The next request may have come already. It has a time of its own.
        is_idle = not self._is_busy()
        self._expect(IDLE_SECONDS if is_idle else self.request_seconds, is_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        refused = error_response(Refusal(400, "invalid_http", "this is no HTTP request"), closes=True)
        try:
            for event in (
                h11.Response(status_code=400, headers=refused.raw_headers, reason=b"Bad Request"),
                h11.Data(bytes(refused.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()
        except h11.LocalProtocolError:
            # An answer is on its way already.
            self.transport.abort()

    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect(self, seconds: float, is_idle: bool) -> None:
        """End the connection after so many seconds, unless something else is expected by then."""
        if self._timer is not None:
            self._timer.cancel()
        self.idle_since = self.loop.time() if is_idle else None
        self._timer = self.loop.call_later(seconds, self.transport.abort)
