"""`charlm serve` as a process of its own, and raw requests to it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple


class Server(NamedTuple):
    """A server that runs.

    Attributes:
        process: of it.
        host: where it listens.
        port: where it listens.
    """

    process: subprocess.Popen[str]
    host: str
    port: int

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{self.host}:{self.port}"

    def connect(self, timeout: float = 30) -> socket.socket:
        """Open a connection."""
        return socket.create_connection((self.host, self.port), timeout)

    def send(self, request: bytes, timeout: float = 30) -> bytes:
        """Send bytes on a connection of their own, and return all that is answered until it is closed."""
        with self.connect(timeout) as connection:
            connection.sendall(request)
            return read_to_end(connection)

    def post(self, path: str, body: Any, headers: str = "") -> tuple[int, Any]:
        """Send JSON; return the status and the JSON that is answered."""
        answer = self.send(http_post(path, json.dumps(body).encode(), f"Connection: close\r\n{headers}"))
        head, _, content = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(content)


@contextmanager
def running_server(*arguments: str, env: dict[str, str] | None = None) -> Iterator[Server]:
    """Run `charlm serve` on a free port, and stop it at the end if it has not stopped before."""
    command = [sys.executable, "-m", "charlm", "serve", "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | (env or {})) as process:
        assert process.stderr is not None
        lines = []
        try:
            for line in process.stderr:
                lines.append(line)
                if found := re.search(r"^serving .* at http://(?:\[(\S+)\]|(\S+)):(\d+);", line):
                    yield Server(process, found[1] or found[2], int(found[3]))
                    break
            else:
                raise AssertionError("".join(lines))
        finally:
            process.send_signal(signal.SIGTERM)


def http_post(path: str, body: bytes, headers: str = "", kind: str = "application/json") -> bytes:
    """Return a request as bytes."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}{headers}\r\n".encode() + body


def read_to_end(connection: socket.socket) -> bytes:
    """Return what arrives until the other side closes or breaks off."""
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    return received
