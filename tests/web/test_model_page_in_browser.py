"""The page that runs a model, in a real browser: numbers as those of charlm, keys that work, texts that do nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from charlm.cells import CELLS
from charlm.checkpoint import ModelFile
from charlm.inference.language_model import LanguageModel
from charlm.inference.mixture import Mixture
from charlm.inference.sampling import softmax
from charlm.inference.stepper import Stepper
from charlm.ramps import SEQUENTIAL
from charlm.vocab import Vocabulary
from charlm.web.model_page import blocked, model_page
from charlm.web.quantised import Matrix, QuantisedNet
from tests.helpers.browser import after_drawing
from tests.helpers.model_files import random_model, with_ngrams
from tests.web.test_text_view import embedded

pytestmark = pytest.mark.browser

Open = Callable[[str], Any]
SYMBOLS = "\n abcdefgh"
TEXT = "had a bad cab\nfade"
# No probability of these nets, whose weights are random, changes by more than this.
TOLERANCE = 0.03
HOSTILE = (
    "\n\r</script>&<img src=x onerror=document.title='hostile'>\x00\x1b\u202e\u200b\u2028\ud800\udc00\u0301\u05e9\u5bbd"
)

# Reads ids with a model, and returns after each of them the logits of what comes next.
READ = """
  const [spec, ids, kind, done] = arguments;
  Net.load(spec, [kind]).then((net) => {
    const state = net.before();
    done([net.kernel.kind, ids.map((id) => (net.read(id, state), Array.from(net.predict(state))))]);
  }).catch((error) => done(String(error)));
"""


MODELS = {cell: lambda cell=cell: random_model(cell, 2, SYMBOLS) for cell in CELLS} | {
    "one-hot, learned start": lambda: random_model("gru", 2, SYMBOLS, embedding_size=0, initial_state="learned"),
    "n-grams": lambda: with_ngrams(random_model("lstm", 1, SYMBOLS)),
    "n-grams, bytes": lambda: with_ngrams(random_model("mingru", 1, Vocabulary.of_bytes(), hidden_size=20)),
}


@pytest.fixture
def show(open_page: Open) -> Callable[[ModelFile], Any]:
    """Return a function that opens the page of a model, and waits until it has read its text."""

    def show(file: ModelFile) -> Any:
        from selenium.webdriver.support.wait import WebDriverWait

        browser = open_page(model_page(file, "a model"))
        WebDriverWait(browser, 10).until(lambda _: browser.find_elements("css selector", "[data-ready]"))
        return browser

    return show


def type_text(browser: Any, *keys: str) -> None:
    """Type into the field, and wait until all is read and the ghost text is found."""
    browser.find_element("css selector", ".typed").send_keys(*keys)
    settle(browser)


def settle(browser: Any) -> None:
    """Wait until the text is read and what may follow is found."""
    browser.execute_async_script(
        "const done = arguments[0];"
        "loading.then(({ typed }) => { const wait = () => (typed.isSettled ? done() : setTimeout(wait)); wait(); })"
    )


def text_of(browser: Any, selector: str) -> str:
    """Return the text of the first element that a selector finds."""
    # Chromium's driver cannot return lone surrogates, JSON escapes them.
    script = "return JSON.stringify(document.querySelector(arguments[0]).textContent)"
    return json.loads(browser.execute_script(script, selector))  # type: ignore[no-any-return]


def written_by(browser: Any) -> str:
    """Let the model write, and return the text when it is complete."""
    browser.execute_async_script(
        "const done = arguments[0]; const { dataset } = document.getElementById('writing-status');"
        "document.getElementById('write').click();"
        "const wait = () => (dataset.done === 'true' ? done() : setTimeout(wait)); wait();"
    )
    return text_of(browser, "#written")


def test_all_models_predict_as_charlm_does(show: Callable[[ModelFile], Any]) -> None:
    """The probabilities are those of the stepper up to the rounding, with SIMD and without bit for bit the same."""
    browser = show(random_model(symbols=SYMBOLS))
    for name, make in MODELS.items():
        file = make()
        ids = [len(file.vocabulary), *file.vocabulary.encode(TEXT).tolist()]
        spec = embedded(model_page(file, "a model"))["net"]
        kind, logits_TV = browser.execute_async_script(READ, spec, ids, "simd")
        assert kind == "simd", name
        for other in ("plain", "relaxed"):
            assert browser.execute_async_script(READ, spec, ids, other)[1] == logits_TV, (name, other)
        stepper, net, mixture = Stepper(file), QuantisedNet(file), Mixture.of(file)
        state, rounded = stepper.before(1), net.before(1)
        for index, logits_V in zip(ids, logits_TV, strict=True):
            expected_1V, state = stepper.step(np.array([index]), state)
            p_V = softmax(np.array(logits_V))
            np.testing.assert_allclose(p_V, softmax(expected_1V)[0], atol=TOLERANCE, err_msg=name)
            net_1V, rounded = net.step(np.array([index]), rounded)
            twin_1V = mixture.mix(net_1V, mixture.ngrams.log_probabilities(state[-1][0])) if mixture else net_1V
            np.testing.assert_allclose(p_V, softmax(twin_1V)[0], atol=1e-5, err_msg=name)


def test_the_largest_sums_are_exact(show: Callable[[ModelFile], Any]) -> None:
    """Of 4,096 products of the largest numbers in all kernels, though the relaxed one adds more than int32 holds."""
    browser = show(random_model(symbols=SYMBOLS))
    rows = np.array([[127] * 4096, [-127] * 4096, [127, -127] * 2048, [0] * 4095 + [1]], np.int8)
    limit = Matrix.with_bias(rows.astype(np.float32), np.zeros(4, np.float32)).limit
    script = """
      const [weights, limit, kind, done] = arguments;
      const matrix = { at: 0, rows: 4, columns: 4096, scales: 0, bias: 4, limit };
      Kernel.make(Int8Array.from(weights), 4096, 4, data.net.kernels, [kind]).then((kernel) => {
        const multiply = multiplier(kernel, Float32Array.of(1, 1, 1, 1, 0, 0, 0, 0), matrix);
        done([1, -1].map((sign) => { const y = []; multiply(new Array(4096).fill(sign * limit), y, 0); return y; }));
      });
    """
    products = rows.astype(np.int64).sum(axis=1) * limit
    for kind in ("relaxed", "simd", "plain"):
        found = browser.execute_async_script(script, blocked(rows).ravel().tolist(), limit, kind)
        assert found == [products.tolist(), (-products).tolist()], kind


def test_what_is_typed_has_bars_and_colours(show: Callable[[ModelFile], Any]) -> None:
    """The bars are those of `predict-next`, the shades those of `score`; an unknown character has neither."""
    file = with_ngrams(random_model(symbols=SYMBOLS))
    model, browser = LanguageModel(file), show(file)
    for added, text in (("", ""), ("had x", "had "), ("a bad", "had a bad")):
        type_text(browser, added)
        rows = [row.text.split() for row in browser.find_elements("css selector", ".candidates tr")]
        expected = {each.name: each.probability for each in model.predict_next(text, top=10).candidates}
        assert {row[0] for row in rows} == expected.keys()
        for name, share in (row[:2] for row in rows):
            assert abs(float(share.strip("<%")) / 100 - expected[name]) < TOLERANCE
    shades = browser.execute_script(
        "return [...document.querySelectorAll('.typed-shown span')].map((e) => e.className)"
    )
    assert shades.pop(4) == "unknown"
    expected_shades = [SEQUENTIAL.shade(bits / 9) for bits in model.score("had a bad")]
    found = [int(each.removeprefix("shade-")) for each in shades[: len(expected_shades)]]
    assert abs(np.subtract(found, expected_shades)).max() <= 1
    assert text_of(browser, ".typing .chart-readout").endswith("not known to the model and skipped: 'x'")
    # In the middle of the text, the symbol that stands there is marked.
    type_text(browser, "\ue012" * 2)
    (row,) = browser.find_elements("css selector", ".candidates .found")
    assert row.text.split()[0] == "'a'"


def test_keys_take_the_grey_text(show: Callable[[ModelFile], Any]) -> None:
    """Tab and the right arrow take it at the end, the button always does; Escape removes it, so that Tab moves on."""
    from selenium.webdriver.common.keys import Keys

    browser = show(random_model(symbols=SYMBOLS))
    type_text(browser, "ab")
    for take in (Keys.TAB, Keys.ARROW_RIGHT, None):
        before, ghost = typed_in(browser), text_of(browser, ".ghost")
        assert ghost
        if take:
            type_text(browser, take)
        else:
            browser.find_element("id", "take").click()
            settle(browser)
        assert typed_in(browser) == before + ghost
    before = typed_in(browser)
    type_text(browser, Keys.ARROW_LEFT, Keys.ARROW_RIGHT, Keys.ESCAPE, Keys.TAB)
    assert (typed_in(browser), text_of(browser, ".ghost")) == (before, "")
    assert browser.execute_script("return document.activeElement.tagName") != "TEXTAREA"


def test_an_edited_text_is_read_as_if_it_were_new(show: Callable[[ModelFile], Any]) -> None:
    """Whatever was typed before, and whatever was cut out of a text of several snapshots."""
    text = "had a bad cab fade ha gag hedge beach " * 3
    browser = show(random_model("lstm-peephole", symbols=SYMBOLS))
    shown = []
    for texts in ([text[:40] + text[60:]], [text, text[:90], text[:40] + text[60:]]):
        for each in ["", *texts]:
            browser.execute_script(
                "const [text] = arguments; const field = document.querySelector('.typed');"
                "field.value = text; field.dispatchEvent(new Event('input'))",
                each,
            )
            settle(browser)
        shown.append(browser.execute_async_script("loading.then(({ reading }) => arguments[0](reading.bits))"))
    assert shown[0] == shown[1]
    assert len(shown[0]) == len(text) - 20


def test_a_seed_gives_the_same_text_again(show: Callable[[ModelFile], Any]) -> None:
    """Another seed gives another one, and at temperature 0 the seed does not matter."""
    browser = show(random_model(symbols=SYMBOLS))
    type_text(browser, "ab")
    texts = []
    for seed, temperature in ((1, 1), (1, 1), (2, 1), (1, 0), (2, 0)):
        for name, value in (("seed", seed), ("temperature", temperature), ("length", 60)):
            browser.execute_script("document.getElementById(arguments[0]).value = arguments[1]", name, str(value))
        texts.append(written_by(browser))
        assert text_of(browser, "#writing-status").endswith(f" a second, seed {seed}")
    assert all(len(text) == 62 and text.startswith("ab") for text in texts)
    assert texts[0] == texts[1] != texts[2]
    assert texts[3] == texts[4] != texts[0]
    assert texts[3][2:].startswith(text_of(browser, ".ghost"))


def test_fields_show_the_numbers_that_are_used(show: Callable[[ModelFile], Any]) -> None:
    """Whatever is typed; an empty seed stays empty, and is drawn."""
    from selenium.webdriver.common.keys import Keys

    browser = show(random_model(symbols=SYMBOLS, hidden_size=16))
    seed, length, unit = (browser.find_element("id", name) for name in ("seed", "length", "unit"))

    def shown_after(field: Any, typed: str) -> str:
        browser.execute_script("arguments[0].select()", field)
        field.send_keys(typed or Keys.BACKSPACE, Keys.TAB)
        if field != unit:
            written_by(browser)
        return str(field.get_property("value"))

    for typed, used in (("-5", "1"), ("2.4", "2"), ("1e1", "10"), ("e", "1000"), ("3", "3")):
        assert shown_after(length, typed) == used
        assert text_of(browser, "#writing-status").startswith(f"{int(used):,} ")
    for typed, used in (("1.5", "2"), ("-3", "0"), ("4294967296", "2147483647"), ("9" * 20, "2147483647"), ("7", "7")):
        assert shown_after(seed, typed) == used
        assert text_of(browser, "#writing-status").endswith(f" seed {used}")
    for typed in ("", "-"):
        assert shown_after(seed, typed) == ""
        assert browser.execute_script("return arguments[0].validity.badInput", seed) is False
        assert int(text_of(browser, "#writing-status").rsplit(" ", 1)[1]) >= 0
    for typed, used in (("999", "15"), ("-1", "0"), ("1.5", "2"), ("", "0"), ("3", "3")):
        assert shown_after(unit, typed) == used
        watched = browser.execute_async_script("loading.then(({ reading }) => arguments[0](reading.unit.index))")
        assert watched == int(used)


def test_a_long_text_can_be_stopped(show: Callable[[ModelFile], Any]) -> None:
    """What was written stays, and the page says how much it is."""
    # A net of this size writes for more than a second: there is time to stop it.
    browser = show(random_model(symbols=SYMBOLS, hidden_size=256))
    browser.execute_script("document.getElementById('length').value = '20000'")
    names = browser.execute_async_script(
        "const done = arguments[0]; const button = document.getElementById('write');"
        "const text = document.getElementById('written'); button.click(); const names = [button.textContent];"
        "const stop = () => { button.click(); done([...names, button.textContent]); };"
        "const wait = () => (text.textContent ? stop() : setTimeout(wait)); wait();"
    )
    assert names == ["Stop", "Write"]
    number = int(text_of(browser, "#writing-status").split()[0].replace(",", ""))
    assert number == len(text_of(browser, "#written")) < 20000


def test_curves_are_the_gates_of_the_unit(show: Callable[[ModelFile], Any]) -> None:
    """After the last symbol, those of the chosen layer and unit; the arrow keys read other places."""
    file = random_model("gru", 2, SYMBOLS)
    browser = show(file)
    type_text(browser, "had a bad")
    for layer, unit in ((1, 0), (2, 7)):
        browser.execute_script(
            "for (const [id, value] of Object.entries(arguments[0])) { const field = document.getElementById(id);"
            "field.value = value; field.dispatchEvent(new Event('change')); }",
            {"layer": layer - 1, "unit": unit},
        )
        settle(browser)
        shown = dict(each.text.rsplit(" ", 1) for each in browser.find_elements("css selector", "#units .legend-entry"))
        parts = LanguageModel(file).activations("had a bad")[layer - 1].parts
        for name in ("reset", "update", "hidden", "candidate"):
            assert abs(float(shown[name]) - parts[name][-1, unit]) < 0.05


@pytest.mark.parametrize("kind", ["letters, backward", "hostile", "bytes, backward"])
def test_hostile_vocabularies_do_nothing(show: Callable[[ModelFile], Any], kind: str) -> None:
    """Nothing is obeyed, the model reads and writes, and neither a phone nor a desk scrolls sideways."""
    vocabulary = {
        "letters, backward": Vocabulary("characters", " abcdefgh", "letters"),
        "hostile": Vocabulary("characters", "".join(dict.fromkeys(HOSTILE))),
        "bytes, backward": Vocabulary.of_bytes(),
    }[kind]
    direction = "backward" if kind.endswith("backward") else "forward"
    browser = show(random_model(symbols=vocabulary, direction=direction))
    typed = (
        "Had <b>a\u0301</b> \u5bbd cab" if kind != "hostile" else "".join(c for c in HOSTILE if "\x1f" < c < "\ud800")
    )
    browser.execute_script(
        "const field = document.querySelector('.typed'); field.value = arguments[0];"
        "field.dispatchEvent(new Event('input'))",
        typed,
    )
    settle(browser)
    assert text_of(browser, ".typed-shown").startswith(typed)
    browser.find_element("id", "take").click()
    settle(browser)
    browser.execute_script("document.getElementById('length').value = '300'")
    written_by(browser)
    (read,) = browser.execute_async_script("loading.then(({ typed }) => arguments[0]([typed.encoded.ids]))")
    expected = list(vocabulary.encode(typed_in(browser), "skip"))
    assert read == (expected[::-1] if direction == "backward" else expected)
    assert browser.execute_script("return [document.title, document.images.length]") == ["a model", 0]
    for width in (1280, 390):
        browser.set_window_size(width, 844)
        after_drawing(browser)
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_a_browser_without_wasm_runs_the_model(show: Callable[[ModelFile], Any], started_browser: Any) -> None:
    """In plain JavaScript, and the page says so."""
    script = started_browser.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument", {"source": "delete globalThis.WebAssembly"}
    )
    try:
        browser = show(random_model(symbols=SYMBOLS))
    finally:
        started_browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
    type_text(browser, "ab")
    assert text_of(browser, "#engine").startswith("It computes in plain JavaScript")
    assert text_of(browser, ".ghost")


def test_numbers_that_overflow_are_reported(show: Callable[[ModelFile], Any]) -> None:
    """The page says so instead of showing numbers that mean nothing."""
    file = random_model("rnn-relu", symbols=SYMBOLS)
    huge = {name: array * np.float32(1e8) if "weight" in name else array for name, array in file.arrays.items()}
    browser = show(replace(file, arrays=huge))
    type_text(browser, "a bad cab")
    assert "so large that its state overflows" in text_of(browser, ".typing .chart-readout")


def typed_in(browser: Any) -> str:
    """Return what stands in the field."""
    return json.loads(browser.execute_script("return JSON.stringify(document.querySelector('.typed').value)"))  # type: ignore[no-any-return]
