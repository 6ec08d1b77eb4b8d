// A text coloured by the bits of its characters or by a unit, what was expected at each character, and all units.
"use strict";

section("text_view", "A text, as the model reads it", (view) => {
  const element = make("div", { class: "text-view" });
  mountTextView(element, view);
  return element;
});

// Draws `view`, which text_view.py has made, into an element.
function mountTextView(element, view) {
  const text = textModel(view);
  const shown = { at: 0, pinned: 0, unit: null };
  const box = make("div", {
    class: "text", tabindex: 0, role: "group", lang: languageOf(view.text),
    "aria-label": "The text. The arrow keys move from character to character.",
  }, text.lines);
  const details = make("div", { class: "details", "aria-live": "polite" });
  const legend = make("div", { class: "legend" });
  const units = view.units ? unitGrid(view, (unit) => choose(unit)) : null;

  function look(index) {
    if (index === shown.at && details.firstChild) return;
    text.cells[shown.at].element.classList.remove("at");
    shown.at = index;
    text.cells[index].element.classList.add("at");
    details.replaceChildren(...characterDetails(view, text, index));
    units?.look(text.cells[index], text.name(index));
  }
  function pin(index) {
    shown.pinned = Math.min(Math.max(index, 0), text.cells.length - 1);
    look(shown.pinned);
    scrollTo(box, text.cells[shown.pinned].element);
  }
  function choose(unit) {
    shown.unit = unit;
    colour(element, view, text, unit);
    legend.replaceChildren(...legendOf(view, unit, () => choose(null)));
    units?.choose(unit);
  }

  const stretch = units && text.cells.findIndex((cell) => cell.end > view.units.start);
  element.append(
    ...aboutText(view),
    legend,
    make("div", { class: "text-and-details" }, box, make("div", { class: "side" }, stepper(view, text, pin), details)),
    ...(units ? units.elements(() => pin(stretch)) : [make("p", {}, "The units of this model do not fit into a page.")]),
  );
  unpack(view).then((unpacked) => {
    Object.assign(view, unpacked);
    text.place();
    choose(null);
    pin(stretch ?? 0);
    follow(box, text.cells, { look, pin, pinned: () => shown.pinned });
    element.dataset.ready = "true";
  }).catch((error) => details.replaceChildren(`This browser cannot unpack the data of the text: ${error.message}`));
}

// Lets the mouse, a finger and the keyboard choose a character of the text.
function follow(box, cells, { look, pin, pinned }) {
  const cellOf = (event) => event.target.closest?.(".text .cell")?.cell;
  box.addEventListener("pointerover", (event) => {
    const cell = event.pointerType === "mouse" && cellOf(event);
    if (cell) look(cell.index);
  });
  box.addEventListener("pointerleave", () => look(pinned()));
  box.addEventListener("click", (event) => {
    const cell = cellOf(event);
    if (cell) pin(cell.index);
  });
  box.addEventListener("keydown", (event) => {
    const next = nextCell(cells, pinned(), event);
    if (next === null) return;
    event.preventDefault();
    pin(next);
  });
}

// Unpacks all that text_view.py has packed: base64 of raw deflate.
async function unpack(view) {
  const values = {
    symbols_of_characters: new Uint8Array(await unpackedBytes(view.symbols_of_characters)),
    symbol_bits: new Float32Array(await unpackedBytes(view.symbol_bits)),
    symbol_names: new TextDecoder().decode(await unpackedBytes(view.symbol_names)).split("\n"),
    found: new Uint16Array(await unpackedBytes(view.found)),
    expected: new Uint16Array(await unpackedBytes(view.expected)),
    probabilities: new Float32Array(await unpackedBytes(view.probabilities)),
  };
  for (const track of view.units?.tracks ?? []) {
    track.values = new Uint8Array(await unpackedBytes(track.values));
    track.num_rows = track.values.length / view.units.num_units;
  }
  return values;
}

// Returns the bytes that base64 of compressed bytes stands for.
function unpackedBytes(packed, format = "deflate-raw") {
  const compressed = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
  const stream = new Blob([compressed]).stream().pipeThrough(new DecompressionStream(format));
  return new Response(stream).arrayBuffer();
}

// Returns how a character is shown: itself, or something that can be seen and that no browser obeys.
function visible(character) {
  if (character === "\n") return "\u21b5";
  if (character === "\t") return "\u2192   ";
  if (character === " " || character === "\u3000" || !/^[\p{C}\p{Z}]$/u.test(character)) return character;
  if (character === "\r") return "\\r";
  const code = character.codePointAt(0).toString(16);
  const [letter, digits] = [["x", 2], ["u", 4], ["U", 8]].find(([, most]) => code.length <= most);
  return `\\${letter}${code.padStart(digits, "0")}`;
}

// Divides the text into cells, one for each character with the marks that combine with it, and into lines of cells.
function textModel(view) {
  const characters = Array.from(view.text);
  const cells = [];
  const lines = [];
  let [line, column, startsLine] = [view.first_line, view.first_column, true];
  characters.forEach((character, index) => {
    if (startsLine) lines.push(make("div", { class: "line", dir: "auto" }));
    const combines = /^\p{M}$/u.test(character);
    if (combines && !startsLine) {
      const cell = cells.at(-1);
      cell.end = index + 1;
      cell.element.textContent += character;
    } else {
      const shown = (combines ? "\u25cc" : "") + visible(character);
      const cell = { index: cells.length, start: index, end: index + 1, line, column };
      cell.element = make("span", { class: "cell" }, shown);
      cell.element.cell = cell;
      cells.push(cell);
      lines.at(-1).append(cell.element);
    }
    startsLine = character === "\n" || (character === "\r" && characters[index + 1] !== "\n");
    [line, column] = startsLine ? [line + 1, 1] : [line, column + 1];
  });
  const text = { characters, cells, lines, unknown: new Set(view.unknown) };
  // Where the symbols of each character begin, and its row in the arrays of units.
  text.place = () => {
    const { symbols_of_characters: counts, units } = view;
    text.firstSymbols = [0];
    text.rows = [];
    let row = 0;
    counts.forEach((count, index) => {
      text.firstSymbols.push(text.firstSymbols[index] + count);
      const isKept = units && count && index >= units.start && index < units.end;
      text.rows.push(isKept ? row++ : null);
    });
    const areAll = units && areAllKept(view);
    for (const cell of cells) {
      // A cell of several characters has the value after the one that is read last.
      const rows = text.rows.slice(cell.start, cell.end).filter((each) => each !== null);
      cell.rows = { forward: rows.at(-1) ?? null, backward: rows[0] ?? null };
      cell.isKept = rows.length > 0;
      cell.isMarked = cell.isKept && !areAll;
    }
  };
  text.name = (index) => characters.slice(cells[index].start, cells[index].end).map(nameCharacter).join(" + ");
  return text;
}

// Returns whether the units of all characters that were read are in the page.
function areAllKept({ units, bits_of_characters: bits }) {
  return units.num_characters === bits.filter((each) => each !== null).length;
}

function nameCharacter(character) {
  const names = { " ": "space", "\n": "newline", "\t": "tab", "\r": "carriage return" };
  if (names[character]) return names[character];
  if (/^[\p{C}\p{Z}\p{M}]$/u.test(character)) {
    return `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
  }
  return `'${character}'`;
}

// Returns the cell that a key leads to, or null for any other key.
function nextCell(cells, index, event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return null;
  const { line } = cells[index];
  switch (event.key) {
    case "ArrowLeft": return index - 1;
    case "ArrowRight": return index + 1;
    case "Home": return cells.findIndex((cell) => cell.line === line);
    case "End": return cells.findLastIndex((cell) => cell.line === line);
    case "ArrowUp": return inNextRow(cells, index, -1);
    case "ArrowDown": return inNextRow(cells, index, 1);
    default: return null;
  }
}

// Returns the cell above or below, in the rows that the eye sees.
function inNextRow(cells, index, step) {
  const place = (cell) => cell.element.getBoundingClientRect();
  const here = place(cells[index]);
  const isBeyond = (a, b) => (b.top - a.top) * step > a.height / 2;
  let next = index;
  while (cells[next] && !isBeyond(here, place(cells[next]))) next += step;
  if (!cells[next]) return index;
  const row = place(cells[next]);
  let best = next;
  for (; cells[next] && !isBeyond(row, place(cells[next])); next += step) {
    if (Math.abs(place(cells[next]).left - here.left) < Math.abs(place(cells[best]).left - here.left)) best = next;
  }
  return best;
}

// Scrolls only the box, not the page, so that an element in it can be seen.
function scrollTo(box, element) {
  const [outer, inner] = [box.getBoundingClientRect(), element.getBoundingClientRect()];
  if (inner.top < outer.top + 8) box.scrollTop -= outer.top + 8 - inner.top + outer.height / 4;
  if (inner.bottom > outer.bottom - 8) box.scrollTop += inner.bottom - outer.bottom + 8 + outer.height / 4;
}

function shadeOf(ramp, value) {
  const share = (Math.min(Math.max(value, ramp.lowest), 1) - ramp.lowest) / (1 - ramp.lowest);
  return Math.floor(share * (ramp.colours.length - 1) + 0.5);
}

function rampOf(view, track) {
  return track?.lowest ? view.ramps.diverging : view.ramps.sequential;
}

function valueOf(track, unit, row) {
  return track.lowest + (track.values[unit * track.num_rows + row] / track.num_steps) * (1 - track.lowest);
}

// Sets the colours of the shades within an element.
function setRamp(element, ramp) {
  ramp.colours.forEach((each, shade) => {
    element.style.setProperty(`--shade-${shade}`, each);
    element.style.setProperty(`--on-shade-${shade}`, ramp.text_colours[shade]);
  });
}

// Colours the text by a unit, or by bits if it is null.
function colour(element, view, text, unit) {
  const ramp = rampOf(view, unit?.track);
  setRamp(element, ramp);
  for (const cell of text.cells) {
    const value = unit ? unitOfCell(unit, cell) : bitsOfCell(view, text, cell) / view.max_bits;
    const shade = value === null || Number.isNaN(value) ? "unshaded" : `shade-${shadeOf(ramp, value)}`;
    const at = cell.element.classList.contains("at") ? " at" : "";
    cell.element.className = `cell ${shade}${cell.isMarked ? " kept" : ""}${at}`;
  }
}

function unitOfCell({ track, index }, cell) {
  const row = cell.rows[track.reads_backward ? "backward" : "forward"];
  return row === null ? null : valueOf(track, index, row);
}

// Returns the most bits that a character of a cell cost, for each masked byte if the figures are about these.
function bitsOfCell(view, text, cell) {
  const bits = [];
  for (let index = cell.start; index < cell.end; index++) {
    const each = view.bits_of_characters[index];
    if (each !== null) bits.push(each / (view.unit === "masked byte" ? view.symbols_of_characters[index] : 1));
  }
  return bits.length ? Math.max(...bits) : NaN;
}

function legendOf(view, unit, onBits) {
  const ramp = rampOf(view, unit?.track);
  const last = ramp.colours.length - 1;
  const label = (shade) => {
    if (!unit) return shade === last ? `${view.max_bits}+` : `${(shade / last) * view.max_bits}`;
    return shade % last === 0 || (ramp.lowest && shade * 2 === last) ? `${ramp.lowest + (shade / last) * (1 - ramp.lowest)}` : "";
  };
  const steps = ramp.colours.map((_, shade) => make("span", { class: `step shade-${shade}` }, label(shade)));
  const what = unit ? `${unit.name}, ${partOf(unit.track)}, after each character` : `bits per ${view.unit}`;
  return [
    make("strong", { class: "coloured-by" }, what),
    make("span", { class: "steps" }, steps),
    unit && make("button", { type: "button", class: "by-bits", onclick: onBits }, "Colour by bits again"),
  ].filter(Boolean);
}

function partOf(track) {
  return track.change ? `${track.part} (${track.change})` : track.part;
}

// Says what the figures are about, and how much of the text is shown.
function aboutText(view) {
  const per = view.unit.replaceAll(" ", "_");
  const { totals } = view;
  const figures = [
    `${formatNumber(totals[`bits_per_${per}`], 4)} bits per ${view.unit}`,
    `perplexity ${formatNumber(totals[`perplexity_per_${per}`], 3)}`,
    Number.isFinite(totals.bits_per_byte) && `${formatNumber(totals.bits_per_byte, 4)} bits per byte`,
    `${formatNumber(totals.characters)} character${totals.characters === 1 ? "" : "s"}`,
    totals.unknown_characters > 0 && `${formatNumber(totals.unknown_characters)} unknown`,
  ].filter(Boolean);
  const notes = [`Each character is coloured by the bits that it costs; ${view.given}.`];
  if (view.has_ngrams) notes.push("These are the figures of the net and its n-grams together; the units are those of the net.");
  const num_shown = view.bits_of_characters.length;
  if (num_shown < view.num_characters) {
    const which = view.start ? "last" : "first";
    notes.push(
      `The figures are those of the whole text. The page shows the ${which} ${formatNumber(num_shown)} of its ` +
      `${formatNumber(view.num_characters)} characters.`,
    );
  }
  return [
    make("p", { class: "figures" }, make("strong", {}, view.name), ` ${figures.join(", ")}`),
    make("p", { class: "quiet" }, notes.join(" ")),
  ];
}

// Makes two buttons that lead to the most surprising places one after the other.
function stepper(view, text, pin) {
  let [order, at] = [null, -1];
  const count = make("span", { class: "count" }, "Most surprising places");
  const step = (by) => {
    order ??= text.cells
      .map((cell) => [bitsOfCell(view, text, cell), cell.index])
      .filter(([bits]) => !Number.isNaN(bits))
      .sort((a, b) => b[0] - a[0]);
    if (!order.length) return;
    at = at < 0 && by < 0 ? order.length - 1 : (at + by + order.length) % order.length;
    count.textContent = `Most surprising: ${formatNumber(at + 1)} of ${formatNumber(order.length)}`;
    pin(order[at][1]);
  };
  return make(
    "div", { class: "stepper" }, count,
    make("button", { type: "button", class: "previous", "aria-label": "the place before it", onclick: () => step(-1) }, "\u2190"),
    make("button", { type: "button", class: "next", "aria-label": "the next of the most surprising places", onclick: () => step(1) }, "\u2192"),
  );
}

// Returns what a panel says about the characters of a cell: their bits, and what was expected.
function characterDetails(view, text, index) {
  const cell = text.cells[index];
  const place = `line ${formatNumber(cell.line)}, column ${formatNumber(cell.column)}`;
  const parts = [make("p", { class: "where" }, make("strong", {}, text.name(index)), ` ${place}`)];
  for (let character = cell.start; character < cell.end; character++) {
    const bits = view.bits_of_characters[character];
    const [first, last] = [text.firstSymbols[character], text.firstSymbols[character + 1]];
    const name = nameCharacter(text.characters[character]);
    if (cell.end - cell.start > 1) parts.push(make("p", { class: "part" }, name));
    if (text.unknown.has(character)) {
      const what = first === last ? "It was skipped." : `It was read as ${view.symbol_names[view.found[first]]}.`;
      parts.push(make("p", {}, `The model does not know ${name}. ${what}`));
    }
    if (bits !== null) parts.push(make("p", { class: "bits" }, `${formatNumber(bits, 2)} bits`));
    for (let symbol = first; symbol < last; symbol++) {
      if (last - first > 1) {
        const which = `byte ${symbol - first + 1} of ${last - first}: ${formatNumber(view.symbol_bits[symbol], 2)} bits`;
        parts.push(make("p", { class: "part" }, which));
      }
      parts.push(candidateTable(view, symbol));
    }
  }
  return parts;
}

// Returns the symbols that were expected in a place, with bars, and the one that was found there.
function candidateTable(view, symbol) {
  const num = view.num_expected;
  const found = view.found[symbol];
  const rows = Array.from({ length: num }, (_, rank) => symbol * num + rank)
    .map((place) => ({ index: view.expected[place], probability: view.probabilities[place] }));
  if (!rows.some((row) => row.index === found)) rows.push({ index: found, probability: 2 ** -view.symbol_bits[symbol] });
  return barTable(rows, found, (index) => view.symbol_names[index]);
}

// Makes a table of symbols with their probabilities as bars, in which one of them may be found.
function barTable(rows, found, nameOf) {
  return make("table", { class: "candidates" }, make("tbody", {}, rows.map(({ index, probability }) => {
    const bar = make("span", { class: "bar" });
    bar.style.width = `${probability * 100}%`;
    return make(
      "tr", { class: index === found ? "found" : null },
      make("th", { scope: "row" }, make("bdi", {}, nameOf(index).replace(/^(U\+\w+) .*/u, "$1"))),
      make("td", { class: "bars" }, bar),
      make("td", { class: "number" }, formatShare(probability)),
      make("td", { class: "mark" }, index === found ? "found" : ""),
    );
  })));
}

function formatShare(share) {
  if (share < 1e-5) return "<0.001%";
  return `${formatNumber(share * 100, share < 1e-3 ? 3 : 1)}%`;
}
