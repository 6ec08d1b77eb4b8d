// The model writes: from the typed text on, at a temperature, with a seed that gives the same text again.
"use strict";

const MOST_WRITTEN = 20000;
const GREATEST_SEED = 2 ** 31 - 1;
// The text on the page is longer this often.
const SHOWN_EVERY_MS = 150;

section("writing", "Let it write", ({ unit }) => {
  const temperature = make("input", { type: "range", min: 0, max: 2, step: 0.05, value: 0.7, id: "temperature" });
  const value = make("output", { for: "temperature" });
  const seed = make("input", { type: "number", min: 0, max: GREATEST_SEED, step: 1, id: "seed", placeholder: "drawn", inputmode: "numeric" });
  const length = make("input", { type: "number", min: 1, max: MOST_WRITTEN, step: 1, id: "length", value: 1000, inputmode: "numeric" });
  const button = make("button", { type: "button", id: "write", disabled: true }, "Write");
  const status = make("p", { class: "chart-readout", id: "writing-status", role: "status" });
  const text = make("div", { class: "sample", id: "written", tabindex: 0, role: "region", "aria-label": "what the model writes", dir: "auto", lang: LANGUAGE });
  const showTemperature = () => { value.textContent = formatNumber(Number(temperature.value), 2); };
  temperature.addEventListener("input", showTemperature);
  showTemperature();
  let stop = null;

  function end() {
    stop?.();
    stop = null;
    button.textContent = "Write";
  }
  loading.then((model) => {
    button.disabled = false;
    button.addEventListener("click", () => {
      if (stop) {
        end();
        return;
      }
      const chosen = wholeNumberOf(seed, null) ?? Math.floor(Math.random() * GREATEST_SEED);
      const most = wholeNumberOf(length, 1000);
      button.textContent = "Stop";
      stop = write(model, { seed: chosen, most, temperature: () => Number(temperature.value), text, status, unit }, end);
    });
  });
  return [
    make("p", { class: "quiet" }, `It ${data.net.is_backward ? "writes what stands before" : "continues"} the text above. At temperature 0 it always takes the most probable ${unit}, at 1 it draws as it learned. ` +
      "The same seed, temperature and text give the same result again, in every browser."),
    make("div", { class: "slider" }, make("label", { for: "temperature" }, "temperature"), temperature, value),
    make("div", { class: "filter" }, make("label", {}, `${unit}s `, length), make("label", {}, "seed ", seed), button),
    status, text,
  ];
});

// Returns the allowed whole number nearest to what is typed in a field, or `otherwise` if no number is; the field shows it.
function wholeNumberOf(field, otherwise) {
  const typed = field.valueAsNumber;
  const used = Number.isNaN(typed) ? otherwise : Math.min(Math.max(Math.round(typed), field.min), field.max);
  field.value = used ?? "";
  return used;
}

// Writes, and returns a function that stops it. `end` is called when all is written.
function write(model, { seed, most, temperature, text, status, unit }, end) {
  const { symbols, typed } = model;
  const started = performance.now();
  const prompt = typed.field.value;
  const grown = document.createTextNode("");
  const shownPrompt = make("span", { class: "quiet" }, prompt);
  text.replaceChildren(...(symbols.isBackward ? [grown, shownPrompt] : [shownPrompt, grown]));
  const written = [];
  status.dataset.done = "false";
  let drawn = 0;
  const show = (isDone) => {
    const now = performance.now();
    if (!isDone && now - drawn < SHOWN_EVERY_MS) return;
    drawn = now;
    grown.data = symbols.decode(written);
    const speed = written.length / Math.max(now - started, 1) * 1000;
    status.textContent = `${formatNumber(written.length)} ${unit}${written.length === 1 ? "" : "s"}, ${formatNumber(speed)} a second, seed ${seed}`;
    status.dataset.speed = speed;
    status.dataset.done = String(isDone);
    if (isDone) end();
  };
  const stop = doInSlices(writingSteps(model, written, most, randomNumbers(seed), temperature), show, (error) => {
    show(true);
    status.textContent = `${error.message}.`;
  });
  return () => {
    stop();
    if (status.dataset.done !== "true") show(true);
  };
}

// Draws one symbol after the other into a list.
function* writingSteps({ net, reading, symbols }, written, most, random, temperature) {
  while (!reading.isDone) yield;
  const { state, excluded } = reading.continuation(symbols.newline);
  while (written.length < most) {
    const logits = net.predict(state);
    if (!written.length && excluded !== null) logits[excluded] = -Infinity;
    const id = drawSymbol(logits, temperature(), random());
    written.push(id);
    net.read(id, state);
    yield;
  }
}

// Returns the first symbol whose cumulative probability exceeds a number drawn from [0, 1).
function drawSymbol(logits, temperature, random) {
  if (temperature === 0) return mostProbable(logits);
  const probabilities = softmax(logits, temperature);
  let [sum, last] = [0, 0];
  for (let id = 0; id < probabilities.length; id++) {
    if (probabilities[id] > 0) last = id;
    sum += probabilities[id];
    if (sum > random) return id;
  }
  return last;
}

// Returns a generator of numbers from [0, 1), the same in every browser: mulberry32 (Ettinger, 2017).
function randomNumbers(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
