"""`charlm serve` on a real port: a real client of OpenAI, clients that are slow, hostile or gone, and the end."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

import charlm
from charlm.errors import UsageError
from charlm.inference.language_model import LanguageModel
from charlm.inference.stepper import Stepper
from charlm.web.bodies import (
    MAX_BYTES,
    MAX_CHARACTERS,
    MAX_DRAWN,
    MAX_LENGTH,
    MAX_SCORED,
    MAX_STOP_CHARACTERS,
    MAX_STOPS,
    MAX_TEXTS,
    Body,
    CompletionBody,
    GenerateBody,
    PredictBody,
    ScoreBody,
)
from charlm.web.network import (
    EXTRA_SECONDS,
    GRACE_SECONDS,
    IDLE_SECONDS,
    MAX_CONNECTIONS,
    _Protocol,
    is_loopback,
    listen,
    server_of,
)
from charlm.web.server import MAX_HEAD_BYTES, Limits, Service
from tests.helpers.commands import assert_refused, call, within
from tests.helpers.model_files import random_model
from tests.helpers.server import Server, http_post, read_to_end, running_server

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "serve.md"
# More than the buffers of a connection hold.
PAGE = "page" * 4_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The command, with a small model."""
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    random_model().save(path)
    with running_server("-m", str(path)) as server:
        yield server


@contextmanager
def server_in_a_thread(**limits: Any) -> Iterator[tuple[Server, Any, Service]]:
    """Run a server in this process, where its bounds can be small."""
    service = Service(Stepper(random_model(hidden_size=64)), "small", lambda: PAGE, limits=Limits(**limits))
    listening = listen("127.0.0.1", 0)
    running = server_of(service)
    thread = threading.Thread(target=running.run, args=([listening],))
    thread.start()
    try:
        yield Server(None, *listening.getsockname()), running, service  # type: ignore[arg-type]
    finally:
        running.should_exit = True
        thread.join(20)
        service.batch.close()
    assert not thread.is_alive()


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    """The client of OpenAI."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_client_of_openai_completes(client: openai.OpenAI) -> None:
    """Whole and streamed, its completions are the texts of `generate`; models are listed."""
    model = LanguageModel(random_model())
    assert [each.id for each in client.models.list()] == ["small"]
    expected = [model.generate("ab", length=40, temperature=0.9, seed=seed)[2:] for seed in (3, 4)]
    options: Any = {"model": "small", "prompt": "ab", "max_tokens": 40, "temperature": 0.9, "seed": 3, "n": 2}
    whole = client.completions.create(**options, logprobs=2, stop=["zz"])
    assert [choice.text for choice in whole.choices] == expected
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (2, 80)
    assert whole.choices[0].logprobs is not None
    assert whole.choices[0].logprobs.tokens == list(expected[0])
    texts = ["", ""]
    for chunk in client.completions.create(**options, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == expected


def test_a_client_of_openai_gets_its_errors(client: openai.OpenAI) -> None:
    """They are those that it has for a wrong request and for a model that there is not."""
    with pytest.raises(openai.BadRequestError, match="not in the model's vocabulary") as refused:
        client.completions.create(model="small", prompt="X")
    assert refused.value.code == "unknown_character"
    with pytest.raises(openai.NotFoundError, match="there is no model `other`"):
        client.completions.create(model="other", prompt="a")


def test_the_examples_of_the_page_work(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """The program that uses the client of OpenAI runs, and each request is answered."""
    page = DOCUMENTATION.read_text(encoding="utf-8").replace("The fox said", "ab").replace("The fox", "ab")
    page = page.replace("The fo", "ab").replace("http://127.0.0.1:8000", server.url)
    (program,) = re.findall(r"^```py\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    exec(program, {})
    assert len(capsys.readouterr().out) == 2 * 200 + 1
    requests = re.findall(r"curl http://[\d.:]+(/\w+) (?:.|\n)*?-d '(.*)'", page)
    assert [path for path, _ in requests] == ["/generate", "/generate", "/predict", "/score"]
    for path, body in requests:
        assert server.post(path, json.loads(body))[0] == 200


@pytest.mark.parametrize("kind", [PredictBody, ScoreBody, GenerateBody, CompletionBody])
def test_the_page_names_every_field(kind: type[Body]) -> None:
    """The fields that do nothing are named too."""
    page = DOCUMENTATION.read_text(encoding="utf-8")
    fields = {*kind.model_fields, *kind.neutral} - {"frequency_penalty", "presence_penalty"}
    assert [field for field in fields if f"`{field}`" not in page] == []


def test_the_page_has_the_bounds() -> None:
    """Each row of the table has what the server holds, and the end its seconds."""
    page, limits = DOCUMENTATION.read_text(encoding="utf-8"), Limits()
    table = page.partition("## Bounds")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in table.splitlines() if line.startswith("|")]
    assert dict(rows[2:]) == {
        "a body": f"{MAX_BYTES // 1024} KiB, within {limits.body_seconds:g} s",
        "a prompt or text, or all prompts together": f"{MAX_CHARACTERS:,} characters",
        "a new text": f"{MAX_LENGTH:,} characters",
        "the texts of a request": f"{MAX_TEXTS}, of {MAX_DRAWN:,} characters in all",
        "stop strings": f"{MAX_STOPS}, of {MAX_STOP_CHARACTERS} characters each",
        "characters that have `logprobs`": f"{MAX_SCORED:,} in all",
        "a request": f"{limits.seconds:g} s",
        "texts that are written side by side": f"{limits.texts}",
        "texts that wait": f"{limits.waiting_texts}",
        "requests at a time": f"{limits.requests}",
        "connections": f"{MAX_CONNECTIONS}, or half of the files that the process may open",
        "the head of a request": f"{MAX_HEAD_BYTES // 1024} KiB, within {IDLE_SECONDS} s",
    }
    assert f"those that run have {GRACE_SECONDS} s to end" in table


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET / HTTP/9.9\r\nConnection: close\r\n\r\n", 403),
        (b"GET  /  HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (b"GET /%ff%00 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 404),
        (b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", 403),
        (b"GET / HTTP/1.0\r\n\r\n", 403),
        (b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999\r\n\r\n", 415),
        (http_post("/generate", b"", "Transfer-Encoding: gzip\r\n"), 400),
        (http_post("/generate", b"{}", "Connection: close, Upgrade\r\nUpgrade: websocket\r\n"), 200),
    ],
)
def test_what_is_hardly_http_is_refused(server: Server, request_: bytes, status: int) -> None:
    """Each is answered with a status, and with JSON where it is an error; the server goes on."""
    answer = server.send(request_)
    assert int(answer.split()[1]) == status, answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2]).keys() & {"error", "texts"}
    assert server.post("/predict", {"text": "a"})[0] == 200


def test_what_is_no_http_gets_the_error_of_all_addresses(server: Server) -> None:
    """It has the same fields."""
    body = server.send(b"what is this\r\n\r\n").partition(b"\r\n\r\n")[2]
    assert json.loads(body) == {
        "error": {
            "message": "this is no HTTP request",
            "type": "invalid_request_error",
            "param": None,
            "code": "invalid_http",
        }
    }


def test_a_head_without_end_is_refused(server: Server) -> None:
    """It is refused while it comes, so that it takes no memory."""
    with server.connect() as connection, pytest.raises(ConnectionError):
        connection.sendall(b"GET / HTTP/1.1\r\n" + (b"X: " + b"a" * 60_000 + b"\r\n") * 1000)
    assert server.post("/predict", {"text": "a"})[0] == 200


def chunked(*chunks: bytes, kind: str = "application/json") -> bytes:
    """Return a request whose body comes in chunks."""
    head = f"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
    return f"{head}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + b"".join(chunks)


def test_chunks_are_put_together_or_refused(server: Server) -> None:
    """Chunks of one byte are a body; what is no chunk, and a body without a sensible end, is refused."""
    assert b" 200 " in server.send(chunked(b"1\r\n{\r\n", b"1\r\n}\r\n", b"0\r\n\r\n"))
    for wrong in (b"zz\r\n{}\r\n", b"-1\r\n{}\r\n", b"ffffffffffffffffffffff\r\n{}", b"2\r\n{}x\r\n"):
        assert b" 400 " in server.send(chunked(wrong)).partition(b"\r\n")[0]
    assert b" 413 " in server.send(chunked(*[b"10000\r\n" + b"a" * 0x10000 + b"\r\n"] * 8, b"0\r\n\r\n"))


def test_ten_megabytes_are_refused_with_an_answer(server: Server) -> None:
    """The body is read to its end without being kept, so that its sender learns why."""
    answer = server.send(http_post("/generate", b"a" * 10_000_000))
    assert answer.startswith(b"HTTP/1.1 413 ")
    waits = "POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    waits += "Content-Length: 10000000\r\nExpect: 100-continue\r\n\r\n"
    assert server.send(waits.encode()).startswith(b"HTTP/1.1 413 ")


def test_requests_after_one_another_on_a_connection(server: Server) -> None:
    """Several requests that are sent at once are answered in order, and a refused one does not disturb the next."""
    bodies = [b'{"seed": 1, "length": 5}', b'{"lenght": 1}', b'{"seed": 1, "length": 5}']
    requests = [http_post("/generate", body) for body in bodies[:2]]
    answer = server.send(b"".join(requests) + http_post("/generate", bodies[2], "Connection: close\r\n"))
    assert [part.split()[0] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400", b"200"]


def test_each_request_on_a_connection_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that has come while another was answered."""
    expected, expect = [], _Protocol._expect

    def remember(connection: _Protocol, seconds: float, is_idle: bool) -> None:
        expected.append((seconds, is_idle))
        expect(connection, seconds, is_idle)

    monkeypatch.setattr(_Protocol, "_expect", remember)
    with server_in_a_thread(body_seconds=1, seconds=2) as (server, _, _):
        request = http_post("/generate", b'{"length": 1}')
        last = http_post("/generate", b'{"length": 1}', "Connection: close\r\n")
        server.send(request + request + last)
    # For the connection, for each of three requests, and for the end.
    assert expected == [(IDLE_SECONDS, True), *[(1 + 2 + EXTRA_SECONDS, False)] * 3, (IDLE_SECONDS, True)]


def test_a_thousand_connections_do_not_keep_others_out(server: Server) -> None:
    """Connections that send half a request are ended for new ones, which are answered."""
    connections = []
    try:
        for _ in range(1000):
            connections.append(server.connect())
            connections[-1].sendall(b"POST /generate HTTP/1.1\r\nHost: loc")
        assert server.post("/generate", {"length": 3})[0] == 200
        # Long before it has been silent for too long.
        with within(5):
            assert read_to_end(connections[0]) == b""
    finally:
        for connection in connections:
            connection.close()


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_client_that_goes_away_frees_its_texts(is_streamed: bool) -> None:
    """Its stream, and an answer that it only waits for, are given up at once."""
    body = {"length": 10_000, "num": 10, "stream": is_streamed}
    with server_in_a_thread() as (server, _, service), within(60):
        with server.connect() as connection:
            connection.sendall(http_post("/generate", json.dumps(body).encode()))
            while not service.batch.num_drawn:
                pass
        while service.batch.num_running:
            pass
        assert service.batch.num_drawn < 10 * 10_000


def test_slow_clients_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a head, half a body, and silence after an answer end in time; an answer that nobody reads ends too."""
    monkeypatch.setattr("charlm.web.network.IDLE_SECONDS", 0.3)
    monkeypatch.setattr("charlm.web.network.EXTRA_SECONDS", 0.3)
    with server_in_a_thread(body_seconds=0.2, seconds=0.3) as (server, running, service):
        assert server.send(b"GET / HTTP/1.1\r\nHost: loc") == b""
        assert server.send(b"") == b""
        half = http_post("/generate", b'{"length": 1}')[:-3]
        assert server.send(half).startswith(b"HTTP/1.1 408 ")
        assert server.send(http_post("/generate", b'{"length": 1}') + b"x").startswith(b"HTTP/1.1 200 ")
        before = service.num_answered
        with within(20), server.connect() as deaf:
            deaf.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while not service.num_answered > before:
                pass
            while running.server_state.connections:
                pass


def stream_of(server: Server, length: int) -> tuple[socket.socket, bytes]:
    """Start a stream; return its connection and what has arrived."""
    connection = server.connect()
    connection.sendall(http_post("/generate", json.dumps({"length": length, "num": 10, "stream": True}).encode()))
    return connection, connection.recv(65536)


def test_running_requests_may_end_when_the_server_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text is written to its end; new requests are refused on open connections, and there are no new ones."""
    monkeypatch.setattr("charlm.web.network.GRACE_SECONDS", 60)
    with server_in_a_thread() as (server, running, service):
        connection, received = stream_of(server, 300)
        with within(20), connection, server.connect() as open_connection:
            open_connection.sendall(b"GET / HTTP/1.1\r\nHost: ")
            while not running.server_state.connections:
                pass
            service.stop()
            open_connection.sendall(b"localhost\r\n\r\n")
            assert b"this server stops" in read_to_end(open_connection)
            running.should_exit = True
            assert (received + read_to_end(connection)).count(b'"end":"length"') == 10
        with pytest.raises(OSError, match="refused"):
            server.connect()


def test_long_texts_end_as_they_are_when_the_server_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """After some seconds they end, and the stream says why."""
    monkeypatch.setattr("charlm.web.network.GRACE_SECONDS", 0)
    with server_in_a_thread() as (server, running, _):
        connection, received = stream_of(server, 10_000)
        running.should_exit = True
        with connection:
            assert (received + read_to_end(connection)).count(b'"end":"shutdown"') == 10


def test_ctrl_c_stops_the_command(model: str, tmp_path: Path) -> None:
    """It needs no torch, says at the end how much was answered, and has the exit code of Ctrl-C."""
    (tmp_path / "torch.py").write_text("raise OSError('broken')", encoding="utf-8")
    with running_server("-m", model, env={"PYTHONPATH": f"{tmp_path}:{Path(charlm.__file__).parent.parent}"}) as server:
        assert server.process.stderr is not None
        assert server.process.stderr.readline() == "try it:\n"
        example = server.process.stderr.readline()
        assert server.post("/generate", {"length": 9})[0] == 200
        server.process.send_signal(signal.SIGINT)
        rest = server.process.stderr.read()
        assert server.process.wait() == 130
    assert example == f"curl {server.url}/generate -H 'Content-Type: application/json' -d '{{\"length\": 200}}'\n"
    assert rest == "stopping\nanswered 1 request, wrote 9 characters\n"


def test_a_token_from_the_environment_is_needed(model: str) -> None:
    """It is not printed, and the example shows how it is given. SIGTERM has its exit code."""
    with running_server("-m", model, "--host", "0.0.0.0", env={"CHARLM_TOKEN": "open-sesame"}) as server:
        assert server.process.stderr is not None
        assert '-H "Authorization: Bearer $CHARLM_TOKEN"' in [server.process.stderr.readline() for _ in range(2)][1]
        local = Server(server.process, "127.0.0.1", server.port)
        assert local.post("/generate", {})[0] == 401
        assert local.post("/generate", {}, "Authorization: Bearer open-sesame\r\n")[0] == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait() == 143
        assert "open-sesame" not in server.process.stderr.read()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "requests must show a token"),
        (["--host", "::"], "requests must show a token"),
        (["--host", ""], "there is no host ``"),
        (["--host", "no such host"], "there is no host `no such host`"),
        (["--host", "203.0.113.1", "--token", "open-sesame"], "cannot be used"),
        (["--token", "short"], "at least 8 characters"),
        (["--token", "with a space"], "none a space"),
        (["--port", "70000"], "70000"),
        (["--model", "small.safetensors"], "takes one `--model`"),
    ],
)
def test_what_cannot_be_served_is_refused(model: str, arguments: list[str], said: str) -> None:
    """One line and a hint, before anything listens."""
    assert said in assert_refused(call("serve", "-m", model, "--port", "0", *arguments))


def test_a_model_that_cannot_be_served_is_refused() -> None:
    """There is none, or it reads from both sides."""
    random_model(direction="both").save(Path("both.safetensors"))
    assert "reads from both sides" in assert_refused(call("serve", "-m", "both.safetensors"))
    assert "none.safetensors" in assert_refused(call("serve", "-m", "none.safetensors"))


def test_a_port_in_use_is_named(model: str) -> None:
    """The hint takes a free one."""
    with listen("127.0.0.1", 0) as taken:
        result = call("serve", "-m", model, "--port", str(taken.getsockname()[1]))
    assert "Address already in use" in assert_refused(result)
    assert "`--port 0`" in result.stderr


def test_the_extra_is_needed(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its packages the command says how to install them."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = call("serve", "-m", model)
    assert "`starlette` is not installed" in assert_refused(result)
    assert 'pip install "charlm[serve]"' in result.stderr


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_known(address: str) -> None:
    """These addresses are open without a token."""
    assert is_loopback(address)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0"])
def test_what_others_reach_is_not_loopback(address: str) -> None:
    """Others need one."""
    assert not is_loopback(address)


def test_a_host_that_does_not_exist_is_refused() -> None:
    """So is a name that no resolver takes."""
    for host in ("a" * 300, "\ud800", "a..b"):
        with pytest.raises(UsageError):
            listen(host, 0)
