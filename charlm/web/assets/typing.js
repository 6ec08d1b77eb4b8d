// The field in which a person types: the text coloured by its bits, what comes next as bars, and ghost text.
"use strict";

const MOST_TYPED = 2000;
// The page follows the reading of a long text this often.
const DRAWN_EVERY_MS = 150;
const GHOST_LENGTH = 40;
const NUM_BARS = 10;

section("about", null, (paragraphs) => {
  const engine = make("p", { class: "quiet", id: "engine" }, "The model is being unpacked.");
  loading.then(({ net }) => {
    engine.textContent = net.kernel.kind !== "plain"
      ? "It computes with WebAssembly in this browser, and sends nothing anywhere."
      : "It computes in plain JavaScript, because this browser runs no WebAssembly with SIMD: slower, with the same results. It sends nothing anywhere.";
    document.documentElement.dataset.ready = "true";
  }).catch((error) => { engine.textContent = `This browser cannot run the model: ${error.message}`; });
  return [...paragraphs.map((text) => make("p", { class: "quiet" }, text)), engine];
});

section("typing", "Type, and see what the model expects", (view) => {
  const { is_backward: isBackward } = data.net;
  const shown = make("div", { class: "typed-shown", "aria-hidden": "true", dir: "auto", lang: LANGUAGE });
  const field = make("textarea", {
    class: "typed", rows: 1, maxlength: MOST_TYPED, dir: "auto", lang: LANGUAGE, spellcheck: "false", autocapitalize: "off", autocomplete: "off",
    "aria-label": "The text", "aria-describedby": "typing-hint",
  });
  const take = make("button", { type: "button", id: "take", disabled: true });
  const status = make("p", { class: "chart-readout" });
  const about = make("h3", {});
  const bars = make("div", { class: "next-symbols" });
  const scale = view.ramp.colours.map((_, shade, all) => {
    const bits = (shade / (all.length - 1)) * view.max_bits;
    return make("span", { class: `step shade-${shade}` }, shade === all.length - 1 ? `${bits}+` : `${bits}`);
  });
  const legend = make("p", { class: "bits-legend" }, "bits", make("span", { class: "steps" }, scale));
  const element = make("div", { class: "typing" },
    make("p", { class: "quiet", id: "typing-hint" }, hintOf(isBackward)),
    make("div", { class: "typed-box" }, shown, field),
    make("div", { class: "filter" }, take, legend), status, about, bars);
  setRamp(element, view.ramp);
  loading.then((model) => {
    const typed = new Typed(model, view, { field, shown, take, status, about, bars });
    typed.follow();
    model.typed = typed;
  });
  return element;
});

function hintOf(isBackward) {
  const colours = "Each character is coloured by the bits that it costs the model; the fewer, the more it was expected.";
  return isBackward
    ? `${colours} The model reads from the end. The button puts its most probable beginning before the text.`
    : `${colours} Tab, or the right arrow at the end, takes the grey text; Escape removes it.`;
}

class Typed {
  constructor(model, view, elements) {
    Object.assign(this, { model, view, ...elements, ghost: "", stop: () => {}, encoded: model.symbols.encode(""), spans: [] });
    this.ghostElement = make("span", { class: "ghost" });
    // The typed text breaks into lines as it does in the field, whatever follows. An empty last line has its height.
    this.afterSpans = make("wbr");
    this.shown.append(this.afterSpans, this.ghostElement, "\u200b");
  }

  get isBackward() {
    return this.model.symbols.isBackward;
  }

  follow() {
    const { field } = this;
    field.addEventListener("input", () => this.update());
    field.addEventListener("keydown", (event) => this.press(event));
    document.addEventListener("selectionchange", () => {
      if (document.activeElement === field) this.showBars();
    });
    this.take.addEventListener("click", () => {
      field.focus();
      this.takeGhost();
    });
    this.update();
  }

  press(event) {
    const { field } = this;
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey || event.isComposing || !this.ghost || this.isBackward) return;
    const isAtEnd = field.selectionStart === field.value.length;
    if (event.key === "Escape") this.setGhost("");
    else if (isAtEnd && (event.key === "Tab" || event.key === "ArrowRight")) {
      event.preventDefault();
      this.takeGhost();
    }
  }

  takeGhost() {
    const { field, ghost } = this;
    const at = this.isBackward ? 0 : field.value.length;
    field.setSelectionRange(at, at);
    // This way, the browser can undo it.
    if (!document.execCommand("insertText", false, ghost)) {
      field.setRangeText(ghost, at, at, "end");
      this.update();
    }
    if (this.isBackward) field.setSelectionRange(0, 0);
  }

  // Reads the text as it is now, and then looks for what may follow.
  update() {
    const { reading, symbols } = this.model;
    this.stop();
    const text = this.field.value;
    const isGhostTyped = text.startsWith(this.text ?? "") && this.ghost.startsWith(text.slice(this.text?.length ?? 0));
    this.setGhost(isGhostTyped && !this.isBackward ? this.ghost.slice(text.length - (this.text?.length ?? 0)) : "");
    this.text = text;
    this.encoded = symbols.encode(text);
    reading.edit(this.encoded.ids);
    this.isSettled = false;
    let [isDrawn, drawnAt] = [false, performance.now()];
    this.stop = doInSlices(this.steps(), (isDone) => {
      this.isSettled = isDone;
      const now = performance.now();
      if (isDrawn || !(reading.isDone || now - drawnAt > DRAWN_EVERY_MS)) return;
      [isDrawn, drawnAt] = [reading.isDone, now];
      this.draw();
    }, (error) => this.fail(error));
    this.draw();
  }

  * steps() {
    const { reading } = this.model;
    while (!reading.isDone) {
      reading.advance();
      yield;
    }
    const ghost = yield* this.findGhost();
    this.setGhost(ghost);
  }

  // Follows the most probable symbols to the end of a word or of the line.
  * findGhost() {
    const { net, reading, symbols } = this.model;
    const { state, excluded } = reading.continuation(symbols.newline);
    const found = [];
    while (found.length < GHOST_LENGTH) {
      const logits = net.predict(state);
      if (!found.length && excluded !== null) logits[excluded] = -Infinity;
      const id = mostProbable(logits);
      if (id === symbols.newline && found.length) break;
      found.push(id);
      net.read(id, state);
      yield;
    }
    const text = symbols.decode(found);
    if (found.length < GHOST_LENGTH) return text;
    return (this.isBackward ? text.replace(/^\S+(?=\s)/u, "") : text.replace(/(?<=\s)\S+$/u, "")) || text;
  }

  setGhost(ghost) {
    this.ghost = ghost;
    this.take.disabled = !ghost;
    const shown = Array.from(ghost, (character) => (character === "\n" ? visible(character) : character)).join("");
    this.take.replaceChildren(this.isBackward ? "Put before: " : "Take: ", make("span", { class: "ghost-text" }, shown || "\u2026"));
    this.ghostElement.textContent = this.isBackward ? "" : ghost;
  }

  draw() {
    const { view, encoded, model } = this;
    const { reading } = model;
    encoded.characters.forEach((character, index) => {
      const bits = this.bitsOf(index);
      const shade = bits === null ? (encoded.unknown.has(index) ? "unknown" : "") : `shade-${shadeOf(view.ramp, bits / view.max_bits)}`;
      const span = this.spans[index] ?? this.newSpan();
      // What is set anew is laid out anew.
      if (span.textContent !== character) span.textContent = character;
      if (span.className !== shade) span.className = shade;
    });
    for (const span of this.spans.splice(encoded.characters.length)) span.remove();
    this.status.textContent = this.statusText();
    if (reading.isDone) {
      this.showBars();
      for (const listener of model.listeners) listener();
    }
  }

  newSpan() {
    const span = make("span");
    this.shown.insertBefore(span, this.afterSpans);
    this.spans.push(span);
    return span;
  }

  // Returns the bits of a character, or null if it has none, or if it was not read yet.
  bitsOf(index) {
    const [first, last] = this.placesOf(index);
    if (first === last || last > this.model.reading.place) return null;
    return this.model.reading.bits.slice(first, last).reduce((sum, each) => sum + each, 0);
  }

  // Returns from which to which place, in reading order, the symbols of a character stand.
  placesOf(index) {
    const { ends, ids } = this.encoded;
    const [before, upto] = [ends[index], ends[index + 1]];
    return this.isBackward ? [ids.length - upto, ids.length - before] : [before, upto];
  }

  statusText() {
    const { reading } = this.model;
    const { characters, unknown, ids } = this.encoded;
    if (!reading.isDone) return `${formatNumber(reading.place)} of ${formatNumber(ids.length)} read`;
    const parts = [`${formatNumber(characters.length)} character${characters.length === 1 ? "" : "s"}`];
    const total = reading.bits.reduce((sum, each) => sum + each, 0);
    const scored = characters.filter((_, index) => this.bitsOf(index) !== null).length;
    if (scored) parts.push(`${formatNumber(total, 1)} bits`, `${formatNumber(total / scored, 2)} per character`);
    if (characters.length >= MOST_TYPED) parts.push("the field is full");
    const names = [...new Set([...unknown].map((index) => nameCharacter(characters[index])))];
    if (names.length) parts.push(`not known to the model and skipped: ${names.slice(0, 5).join(", ")}${names.length > 5 ? " and more" : ""}`);
    return parts.join(", ");
  }

  // Shows what the model expects at the place of the cursor.
  showBars() {
    const { reading, symbols } = this.model;
    if (!reading.isDone) return;
    const { field, encoded, isBackward } = this;
    const at = Array.from(field.value.slice(0, field.selectionStart)).length;
    const place = isBackward ? encoded.ids.length - encoded.ends[at] : encoded.ends[at];
    try {
      const probabilities = reading.probabilities(place, symbols.newline);
      const found = encoded.ids[place];
      const order = Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a] || a - b).slice(0, NUM_BARS);
      if (found !== undefined && !order.includes(found)) order.push(found);
      const rows = order.map((id) => ({ index: id, probability: probabilities[id] }));
      const entropy = probabilities.reduce((sum, p) => sum - (p > 0 ? p * Math.log2(p) : 0), 0);
      const where = isBackward ? "What may stand before the cursor" : "What may come after the cursor";
      this.about.replaceChildren(where, make("span", { class: "quiet" }, `, ${formatNumber(entropy, 2)} bits of uncertainty`));
      this.bars.replaceChildren(barTable(rows, found, (id) => symbols.nameOf(id)));
    } catch (error) {
      this.fail(error);
    }
  }

  fail(error) {
    this.stop();
    this.isSettled = true;
    this.setGhost("");
    this.bars.replaceChildren();
    this.status.textContent = `${error.message}.`;
  }
}
