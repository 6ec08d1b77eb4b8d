"""The addresses of `charlm serve`, without a network: answers are those of the commands, and refusals say why."""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from charlm.checkpoint import ModelFile
from charlm.inference.language_model import LanguageModel
from charlm.inference.stepper import Stepper
from charlm.vocab import Vocabulary
from charlm.web.batching import News
from charlm.web.bodies import MAX_BYTES, MAX_CHARACTERS, MAX_LENGTH
from charlm.web.completions import _Held
from charlm.web.server import Limits, Service
from tests.helpers.commands import answer
from tests.helpers.model_files import random_model

JSON = {"content-type": "application/json"}
PAGE = "<title>a page</title>"
NESTED = '{"prompt":' * 20_000
# What is wrong with a request to /generate, and a part of the message.
WRONG = {
    b"": "not JSON",
    b"{": "not JSON",
    b"\xff{}": "not JSON",
    b"[]": "no JSON object",
    b'"a"': "no JSON object",
    NESTED.encode(): "nested too deeply",
    b'{"temperature": NaN}': "NaN",
    b'{"temperature": -Infinity}': "Infinity",
    b'{"temperature": 1e999}': "`temperature`: it should be a finite number",
    b'{"temperature": -1}': "`temperature`: it should be greater",
    b'{"temperature": "1"}': "`temperature`: it should be a number",
    b'{"temperature": true}': "`temperature`: it should be a number",
    b'{"length": 1.5}': "`length`: it should be an integer",
    b'{"length": -1}': "`length`: it should be greater",
    b'{"length": 10001}': "`length`: it should be less",
    b'{"length": 1' + b"0" * 5000 + b"}": "not JSON",
    b'{"length": 1' + b"0" * 400 + b"}": "`length`: it should be less",
    b'{"num": 0}': "`num`: it should be greater",
    b'{"num": 65}': "`num`: it should be less",
    b'{"num": 64, "length": 10000}': "more than 100,000 characters",
    b'{"seed": -1}': "`seed`: it should be greater",
    b'{"seed": 1e3}': "`seed`: it should be an integer",
    b'{"seed": 99999999999999999999}': "`seed`: it should be less",
    b'{"top_k": 0}': "`top_k`: it should be greater",
    b'{"top_p": 0}': "`top_p`: it should be greater",
    b'{"min_p": 2}': "`min_p`: it should be less",
    b'{"stop": [""]}': "`stop`: an empty string",
    b'{"stop": 1}': "`stop`: this is neither a string nor",
    b'{"stop": ["a", 1]}': "`stop`: this is neither a string nor",
    b'{"prompt": 1}': "`prompt`: this is not a string",
    b'{"prompt": ["a"]}': "`prompt`: this is not a string",
    b'{"prompt": "X"}': "'X' (U+0058) at position 0",
    b'{"prompt": "a\\u0000"}': "NUL (U+0000) at position 1",
    b'{"prompt": "a\\ud800"}': "U+D800",
    b'{"prompt": "' + b"a" * (MAX_CHARACTERS + 1) + b'"}': "more than 20,000 characters",
    b'{"unknown": "drop"}': "`drop` is not a policy",
    b'{"unknown": "replace=X"}': "'X' is itself not in the vocabulary",
    b'{"lenght": 1}': "there is no field `lenght`",
    b'{"stream": "yes"}': "`stream`: it should be a boolean",
}


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    """A small model."""
    return LanguageModel(random_model())


def service_of(model: ModelFile, **options: Any) -> Service:
    """Return a service that answers by any name of this machine."""
    return Service(Stepper(model), "small", lambda: PAGE, **options)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """A client of a service with a small model."""
    service = service_of(random_model(), hosts=frozenset({"127.0.0.1", "localhost"}))
    yield TestClient(service, "http://127.0.0.1:8000")
    service.batch.close()


@pytest.fixture
def client_of() -> Iterator[Callable[..., TestClient]]:
    """Return a function that makes a client of a service with another model or other options."""
    services = []

    def make(model: ModelFile | None = None, **options: Any) -> TestClient:
        services.append(service_of(model or random_model(), **options))
        return TestClient(services[-1], "http://127.0.0.1:8000")

    yield make
    for service in services:
        service.batch.close()


def events_of(client: TestClient, path: str, body: dict[str, Any]) -> list[Any]:
    """Return the events of a stream."""
    response = client.post(path, json=body | {"stream": True})
    assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    *blocks, rest = response.text.split("\n\n")
    assert rest == ""
    events = [block.removeprefix("data: ") for block in blocks]
    return [event if event == "[DONE]" else json.loads(event) for event in events]


def error_of(response: Any, status: int) -> dict[str, Any]:
    """Check that a response is an error in one line of JSON, and return it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.text.removesuffix("\n").isprintable()
    error: dict[str, Any] = response.json()["error"]
    assert {"message", "type", "param", "code"} <= error.keys()
    return error


def test_generate_writes_what_sample_writes(client: TestClient, model: LanguageModel) -> None:
    """The texts of consecutive seeds, with all that can be said about how they are drawn."""
    options: dict[str, Any] = {"temperature": 0.9, "top_k": 5, "top_p": 0.95, "min_p": 0.01, "seed": 7, "length": 80}
    found = client.post("/generate", json=options | {"prompt": "ab", "num": 3, "stop": "g"}).json()["texts"]
    expected = model.generate("ab", num=3, stop="g", **options)
    assert ["ab" + text["text"] for text in found] == expected
    assert [text["seed"] for text in found] == [7, 8, 9]
    assert [text["end"] for text in found] == ["stop" if text.endswith("g") else "length" for text in expected]


def test_the_defaults_are_those_of_sample(client: TestClient, model: LanguageModel) -> None:
    """Only a seed is given: 500 characters at the temperature 0.7. Without one, another text comes each time."""
    assert client.post("/generate", json={"seed": 3}).json()["texts"][0]["text"] == model.generate(seed=3)
    assert client.post("/generate", json={}).json() != client.post("/generate", json={}).json()


def test_lines_end_a_text(client: TestClient) -> None:
    """A text of one line ends with it."""
    (text,) = client.post("/generate", json={"lines": 1, "seed": 1, "length": 10_000}).json()["texts"]
    assert (text["end"], text["text"].count("\n")) == ("stop", 1)


def test_a_stream_is_the_text_in_pieces(client: TestClient) -> None:
    """The pieces of each text, joined, are the text that comes whole; then its seed and why it has ended."""
    body = {"prompt": "ab", "num": 2, "seed": 5, "length": 120}
    whole = client.post("/generate", json=body).json()["texts"]
    events = events_of(client, "/generate", body)
    for number, text in enumerate(whole):
        assert "".join(each["text"] for each in events if each["number"] == number and "text" in each) == text["text"]
        ends = [each for each in events if each["number"] == number and "end" in each]
        assert ends == [{"number": number, "seed": 5 + number, "end": "length"}]


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_backward_model_writes_before_the_prompt(client_of: Callable[..., TestClient], is_streamed: bool) -> None:
    """Its text is in the order of reading; a streamed piece stands before those that came earlier."""
    file = random_model(direction="backward")
    client, body = client_of(file), {"prompt": "ab", "seed": 1, "length": 60}
    if is_streamed:
        found = "".join(event.get("text", "") for event in reversed(events_of(client, "/generate", body)))
        chunk, _ = events_of(client, "/v1/completions", {"prompt": "ab", "max_tokens": 9, "echo": True})
        assert chunk["choices"][0]["text"].endswith("ab")
    else:
        found = client.post("/generate", json=body).json()["texts"][0]["text"]
    assert found + "ab" == LanguageModel(file).generate("ab", seed=1, length=60)


@pytest.mark.parametrize("symbols", ["\n abcdefgh", Vocabulary.of_bytes()], ids=["characters", "bytes"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_predict_and_score_answer_as_the_commands(
    client_of: Callable[..., TestClient], symbols: Any, direction: str
) -> None:
    """They answer number for number what `predict-next --json` and `score --json` print."""
    file = random_model(symbols=symbols, direction=direction, ngram_order=0)
    file.save(Path("model.safetensors"))
    client = client_of(file)
    for text in ("ab\ncab", "a"):
        predicted = answer("predict-next", text, "-m", "model.safetensors", "--json", "--top", "4")
        assert client.post("/predict", json={"text": text, "top": 4}).json() == predicted
        scored = answer("score", text, "-m", "model.safetensors", "--json", "--top", "2")
        assert client.post("/score", json={"text": text, "top": 2}).json() == scored
    skipped = client.post("/score", json={"text": "aXb", "unknown": "skip"}).json()
    assert skipped["unknown_characters"] == (0 if isinstance(symbols, Vocabulary) else 1)


def test_a_text_without_characters_has_no_score(client: TestClient) -> None:
    """It is refused in words, and so is a request without a text."""
    assert "the text is empty" in error_of(client.post("/score", json={"text": ""}), 400)["message"]
    assert "`text` is missing" in error_of(client.post("/score", json={}), 400)["message"]


@pytest.mark.parametrize("body", WRONG, ids=lambda body: body[:30].decode("latin-1"))
def test_a_wrong_request_is_refused_in_words(client: TestClient, body: bytes) -> None:
    """The answer is 400, and one line says what is wrong."""
    error = error_of(client.post("/generate", content=body, headers=JSON), 400)
    assert WRONG[body] in error["message"]
    assert len(error["message"]) < 2000


def test_unknown_characters_can_be_skipped_or_replaced(client: TestClient, model: LanguageModel) -> None:
    """The field `unknown` is the option of that name, and the refusal tells of it."""
    for unknown in ("skip", "replace=c"):
        body = {"prompt": "aX\ud800b", "seed": 1, "length": 30, "unknown": unknown}
        (text,) = client.post("/generate", content=json.dumps(body), headers=JSON).json()["texts"]
        expected = model.generate("aX\ud800b", seed=1, length=30, unknown=unknown)
        assert "aX\ud800b" + text["text"] == expected
    assert '"unknown": "skip"' in error_of(client.post("/predict", json={"text": "X"}), 400)["hint"]


def test_a_misspelt_field_gets_a_hint(client: TestClient) -> None:
    """The nearest field is named."""
    assert error_of(client.post("/generate", json={"temprature": 1}), 400)["hint"] == "did you mean `temperature`?"


def test_a_large_body_is_refused(client: TestClient) -> None:
    """It is refused by its size, before it is read as JSON."""
    content = b'{"prompt": "' + b"a" * MAX_BYTES + b'"}'
    response = client.post("/generate", content=content, headers=JSON)
    assert "more than 262,144 bytes" in error_of(response, 413)["message"]
    assert response.headers["connection"] == "close"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonp"])
def test_only_json_is_read(client: TestClient, kind: str) -> None:
    """What the form of another site can send is refused."""
    response = client.post("/generate", content=b"{}", headers={"content-type": kind})
    assert "Content-Type: application/json" in error_of(response, 415)["hint"]


def test_wrong_addresses_and_methods_are_refused(client: TestClient) -> None:
    """An address that does not exist, one with a slash too many, and each with the wrong method."""
    assert "/generate" in error_of(client.get("/nix"), 404)["hint"]
    error_of(client.post("/generate/", json={}), 404)
    assert "/v1/completions" in error_of(client.post("/v1/chat/completions", json={}), 404)["message"]
    response = client.get("/generate")
    assert "POST" in error_of(response, 405)["message"]
    assert response.headers["allow"] == "POST"
    error_of(client.delete("/healthz"), 405)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "", "127.0.0.1.evil.example:8000", "localhost:80@evil.example", "evil.example:localhost"],
)
def test_another_name_for_this_machine_is_refused(client: TestClient, host: str) -> None:
    """A site whose name was pointed to this machine gets nothing, not even the page."""
    for path in ("/", "/healthz", "/v1/models"):
        error_of(client.get(path, headers={"host": host}), 403)


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:1"])
def test_the_names_of_this_machine_are_taken(client: TestClient, host: str) -> None:
    """With any port, because the one that a browser sees may be forwarded."""
    assert client.get("/", headers={"host": host}).text == PAGE


def test_no_other_site_may_read_an_answer(client: TestClient) -> None:
    """There are no headers that allow it, and a browser that asks first is refused."""
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    assert client.options("/generate", headers=headers).status_code == 405
    response = client.post("/generate", json={"length": 1}, headers=headers)
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert response.headers["cross-origin-resource-policy"] == "same-origin"
    assert response.headers["x-content-type-options"] == "nosniff"


def test_a_token_is_needed_for_all_but_health(client_of: Callable[..., TestClient]) -> None:
    """It is shown as a bearer token, or as the password that a browser asks for."""
    client = client_of(token="open sesame")
    assert client.get("/healthz").status_code == 200
    for path in ("/", "/v1/models", "/nix"):
        response = client.get(path)
        assert "Authorization: Bearer" in error_of(response, 401)["hint"]
        assert response.headers["www-authenticate"].startswith("Basic")
    for wrong in ("Bearer open", "Bearer open sesame2", "open sesame", "Basic x", "Basic b3Blbg==", "Bearer \xff"):
        headers = {"authorization": wrong.encode("latin-1")}
        error_of(client.post("/generate", json={}, headers=headers), 401)  # type: ignore[arg-type]
    assert client.get("/", headers={"authorization": "bearer open sesame"}).text == PAGE
    assert client.get("/", auth=("anyone", "open sesame")).text == PAGE


def test_health_and_models_are_told(client: TestClient) -> None:
    """How much runs and waits, and the one model, also by its name."""
    assert client.get("/healthz").json() == {"status": "ok", "running": 0, "waiting": 0}
    (told,) = client.get("/v1/models").json()["data"]
    assert client.get("/v1/models/small").json() == told
    assert "`small`" in error_of(client.get("/v1/models/a/b"), 404)["hint"]
    assert client.get("/").text == PAGE


def test_too_much_at_a_time_may_be_tried_again(client_of: Callable[..., TestClient]) -> None:
    """More texts than may wait, and more requests than are handled, get 503 and a time to wait."""
    for limits in (Limits(texts=1, waiting_texts=1), Limits(requests=0)):
        response = client_of(limits=limits).post("/generate", json={"num": 3})
        error_of(response, 503)
        assert int(response.headers["retry-after"]) >= 1


def test_a_request_ends_in_time(client_of: Callable[..., TestClient]) -> None:
    """What was written is the answer; a question that has no partial answer is refused."""
    client = client_of(limits=Limits(seconds=0.0))
    error_of(client.post("/score", json={"text": "ab"}), 503)
    assert events_of(client, "/generate", {"seed": 4})[-1] == {"number": 0, "seed": 4, "end": "time"}


def test_an_unexpected_error_tells_no_text(
    client_of: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client gets one line, and the owner of the server the place without the message."""
    reported: list[str] = []
    client = client_of(report=reported.append)

    def fail(*given: Any) -> None:
        raise KeyError("a secret text")

    monkeypatch.setattr("charlm.web.server.Predicting", fail)
    assert error_of(client.post("/predict", json={"text": "a"}), 500)["message"] == "an internal error"
    (line,) = reported
    assert "KeyError" in line
    assert "test_server.py" in line
    assert "secret" not in line


def test_weights_that_overflow_are_named(client_of: Callable[..., TestClient]) -> None:
    """An untrusted model gives an error in words, also in a stream that has started."""
    file = random_model("rnn", symbols="ab", embedding_size=0)
    file.arrays["output.bias"][:] = np.inf
    client = client_of(file)
    assert "its state overflows" in error_of(client.post("/predict", json={"text": "a"}), 500)["message"]
    assert "its state overflows" in events_of(client, "/generate", {})[-1]["error"]["message"]


def complete(client: TestClient, **body: Any) -> dict[str, Any]:
    """Ask for completions."""
    response = client.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def test_completions_are_the_texts_of_sample(client: TestClient, model: LanguageModel) -> None:
    """The prompts in order, each `n` times; text k has the seed plus k; characters are counted as tokens."""
    found = complete(client, model="small", prompt=["ab", "c"], n=2, max_tokens=30, seed=5, temperature=0.8)
    texts = [
        model.generate(prompt, seed=5 + k, length=30, temperature=0.8)
        for k, prompt in enumerate(["ab", "ab", "c", "c"])
    ]
    assert [choice["text"] for choice in found["choices"]] == [text[-30:] for text in texts]
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2, 3]
    assert {choice["finish_reason"] for choice in found["choices"]} == {"length"}
    assert found["usage"] == {"prompt_tokens": 3, "completion_tokens": 120, "total_tokens": 123}
    assert complete(client)["usage"] == {"prompt_tokens": 0, "completion_tokens": 16, "total_tokens": 16}


@pytest.mark.parametrize("symbols", ["\n abcdefgh", Vocabulary.of_bytes()], ids=["characters", "bytes"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("stops", [["g"], ["ab", "cb", "ga", "zz"], ["\n", "he"]])
def test_a_completion_ends_before_a_stop_string(
    client_of: Callable[..., TestClient],
    monkeypatch: pytest.MonkeyPatch,
    symbols: Any,
    direction: str,
    stops: list[str],
) -> None:
    """It is the text of sample without the stop string at its end, whole and in pieces, with its probabilities."""
    monkeypatch.setattr("charlm.web.server.SECONDS_BETWEEN_EVENTS", 0)
    file = random_model(symbols=symbols, direction=direction)
    client, model = client_of(file), LanguageModel(file)
    for seed in range(3):
        text = model.generate("ab", seed=seed, length=40, temperature=1.0, stop=stops)
        new = text.removesuffix("ab") if direction == "backward" else text.removeprefix("ab")
        end = new[::-1] if direction == "backward" else new
        met = [stop for stop in stops if end.endswith(stop[::-1] if direction == "backward" else stop)]
        expected = end[: len(end) - max(map(len, met), default=0)]
        body = {"prompt": "ab", "seed": seed, "max_tokens": 40, "stop": stops, "logprobs": 1}
        (choice,) = complete(client, **body)["choices"]
        assert choice["text"] == (expected[::-1] if direction == "backward" else expected)
        assert choice["finish_reason"] == ("stop" if met else "length")
        if not isinstance(symbols, Vocabulary):
            assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
        *chunks, done = events_of(client, "/v1/completions", body)
        assert done == "[DONE]"
        pieces = [chunk["choices"][0] for chunk in chunks]
        assert "".join(piece["text"] for piece in pieces) == choice["text"]
        assert [piece["finish_reason"] for piece in pieces][-1] == choice["finish_reason"]
        for key, whole in choice["logprobs"].items():
            assert list(itertools.chain.from_iterable(piece["logprobs"][key] for piece in pieces)) == whole


def test_long_stop_strings_do_not_keep_others_waiting() -> None:
    """All requests share one thread: a character costs a few calls for each stop string, however long these are."""
    held = _Held([chr(0x4E00 + number) * 200 for number in range(16)], is_backward=False)
    num_calls = 0

    def count(*_: Any) -> None:
        nonlocal num_calls
        num_calls += 1

    sys.setprofile(count)
    try:
        for _ in range(20):
            held.release(News(0, "a", None, None))
    finally:
        sys.setprofile(None)
    assert num_calls < 20 * 16 * 20


def test_echo_scores_the_prompt_as_score_does(client: TestClient, model: LanguageModel) -> None:
    """With no new characters it is what tools use to score a text: the bits of `score`, as natural logarithms."""
    (choice,) = complete(client, prompt="ab cab", max_tokens=0, echo=True, logprobs=2)["choices"]
    assert choice["text"] == "ab cab"
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == list("ab cab")
    assert logprobs["text_offset"] == [0, 1, 2, 3, 4, 5]
    bits = [-value / math.log(2) for value in logprobs["token_logprobs"]]
    assert bits == pytest.approx(model.score("ab cab").tolist(), rel=1e-12)
    for place, top in enumerate(logprobs["top_logprobs"]):
        expected = model.predict_next("ab cab"[:place], top=2).candidates if place else None
        assert not expected or {each.character: math.log(each.probability) for each in expected} == pytest.approx(top)


def test_logprobs_are_those_of_the_model_at_any_temperature(client: TestClient, model: LanguageModel) -> None:
    """Temperature and top-k change what is drawn; the probabilities that are told are as learned."""
    body = {"prompt": "ab", "seed": 1, "max_tokens": 20, "temperature": 0.2, "top_k": 2, "logprobs": 0}
    (choice,) = complete(client, **body)["choices"]
    bits = model.score("ab" + choice["text"])[2:] * -math.log(2)
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(bits.tolist(), rel=1e-12)
    assert choice["logprobs"]["text_offset"] == list(range(2, 22))
    assert choice["logprobs"]["top_logprobs"] == [{}] * 20


def test_bytes_are_named_as_openai_names_them(client_of: Callable[..., TestClient]) -> None:
    """A byte that is no character has its number, and the offset of the character that it belongs to."""
    client = client_of(random_model(symbols=Vocabulary.of_bytes()))
    (choice,) = complete(client, prompt="a\u00e9\u4e2db", max_tokens=0, echo=True, logprobs=0)["choices"]
    assert choice["text"] == "a\u00e9\u4e2db"
    names = ["a", r"bytes:\xc3", r"bytes:\xa9", r"bytes:\xe4", r"bytes:\xb8", r"bytes:\xad", "b"]
    assert choice["logprobs"]["tokens"] == names
    assert choice["logprobs"]["text_offset"] == [0, 1, 1, 2, 2, 2, 3]


def test_a_stream_can_tell_how_much_was_used(client: TestClient) -> None:
    """The last chunk has the counts and no choice, and those before have none."""
    body = {"prompt": "ab", "max_tokens": 9, "n": 2, "stream_options": {"include_usage": True}}
    *chunks, last, done = events_of(client, "/v1/completions", body)
    assert done == "[DONE]"
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 2 + 18)
    assert {chunk["usage"] for chunk in chunks} == {None}
    assert {(chunk["id"], chunk["object"], chunk["model"]) for chunk in chunks} == {
        (last["id"], "text_completion", "small")
    }


def test_harmless_fields_of_other_tools_are_taken(client: TestClient) -> None:
    """Null is as not given; what would change nothing is ignored, and what would change something is refused."""
    harmless = {"user": "me", "best_of": 1, "suffix": "", "frequency_penalty": 0, "presence_penalty": 0.0}
    nothing = dict.fromkeys(["model", "stop", "logprobs", "seed", "temperature", "prompt", "stream_options"])
    complete(client, **harmless, **nothing, logit_bias={})
    for field, value in {"best_of": 2, "suffix": "x", "frequency_penalty": 0.5, "logit_bias": {"1": 2}}.items():
        message = error_of(client.post("/v1/completions", json={field: value}), 400)["message"]
        assert message == f"`{field}` is not supported"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"model": "gpt"}, 404, "there is no model `gpt`"),
        ({"prompt": [1, 2]}, 400, "neither a string nor a list of strings"),
        ({"prompt": []}, 400, "from 1 to 64 strings"),
        ({"prompt": ["a"] * 65}, 400, "from 1 to 64 strings"),
        ({"prompt": ["a"] * 9, "n": 8}, 400, "more than 64 texts"),
        ({"prompt": "a", "logprobs": 6}, 400, "`logprobs`: it should be less"),
        ({"prompt": "a", "logprobs": True}, 400, "`logprobs`: it should be an integer"),
        ({"prompt": "a", "logprobs": 1, "n": 3, "max_tokens": MAX_LENGTH}, 400, "`logprobs` are given for at most"),
        ({"stream_options": {"x": 1}}, 400, "there is no field `stream_options.x`"),
        ({"stream_options": 7}, 400, "`stream_options`: it should be an object"),
        ({"messages": []}, 400, "there is no field `messages`"),
    ],
)
def test_a_wrong_completion_is_refused(client: TestClient, body: dict[str, Any], status: int, said: str) -> None:
    """The error has the form that OpenAI's clients know."""
    error = error_of(client.post("/v1/completions", json=body), status)
    assert said in error["message"]
    assert error["type"] == "invalid_request_error"


def test_the_answer_of_a_strange_model_is_json(client_of: Callable[..., TestClient]) -> None:
    """Symbols that are no UTF-8, that end lines for some readers, or that a terminal obeys, come out as escapes."""
    client = client_of(random_model(symbols="\ud800\u2028\x1b\x9b\0\x85"))
    response = client.post("/generate", json={"length": 200, "temperature": 5})
    assert response.text.removesuffix("\n").isprintable()
    assert set(response.json()["texts"][0]["text"]) == set("\ud800\u2028\x1b\x9b\0\x85")
    assert events_of(client, "/generate", {"length": 50})
