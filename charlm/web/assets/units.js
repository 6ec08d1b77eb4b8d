// All units of a net at one character, as grids of small cells, with filters by layer and by part.
"use strict";

const UNIT_CELL = 13;

// Returns the grids. `onChoose` is called with the unit that was chosen, or null.
function unitGrid(view, onChoose) {
  const { tracks, findings, num_units: numUnits } = view.units;
  const layers = [...new Set(tracks.map((track) => track.layer))];
  const parts = [...new Set(tracks.map((track) => track.part))];
  const shown = { layer: layers.findLast((layer) => !layer.startsWith("right")), part: parts.includes("cell") ? "cell" : parts[0], cell: null, chosen: null };
  const status = make("p", { class: "unit-status", "aria-live": "polite" });
  const place = make("p", { class: "unit-place" });
  const holder = make("div", { class: "grids" });
  const [layerFilter, partFilter] = [filterButtons("layer", layers, shown, draw), filterButtons("part", parts, shown, draw)];
  const buttons = findings.map((finding) => findingButton(finding, () => {
    const track = tracks.find((each) => each.layer === finding.layer && each.part === finding.part);
    onChoose(isChosen(track, finding.unit) ? null : unitOf(track, finding.unit));
  }));
  let grids = [];

  const isChosen = (track, index) => shown.chosen?.track === track && shown.chosen.index === index;

  // Says the value of a unit at the character.
  function say(unit) {
    const value = shown.cell && unitOfCell(unit, shown.cell);
    status.textContent = `${unit.name}, ${partOf(unit.track)}: ${formatNumber(value, 2)}`;
  }
  // Makes the grids that the filters leave.
  function draw() {
    grids = tracks
      .filter((track) => [null, track.layer].includes(shown.layer) && [null, track.part].includes(shown.part))
      .map((track) => grid(track));
    holder.replaceChildren(...grids.map((each) => each.element));
    paint();
  }
  function paint() {
    for (const each of grids) each.paint();
    for (const each of buttons) {
      const { layer, part, unit } = each.finding;
      const chosen = shown.chosen;
      const isPressed = chosen?.track.layer === layer && chosen.track.part === part && chosen.index === unit;
      each.element.setAttribute("aria-pressed", String(Boolean(isPressed)));
    }
  }
  function grid(track) {
    const canvas = make("canvas", { tabindex: 0, role: "application", class: "grid" });
    canvas.setAttribute("aria-label", `Layer ${track.layer}, ${track.part}: ${numUnits} units. Arrow keys move, Enter chooses.`);
    let at = 0;
    const columns = () => Math.max(1, Math.floor((holder.clientWidth || 320) / UNIT_CELL));
    const paintGrid = () => paintUnits(canvas, view, track, columns(), numUnits, shown.cell, {
      at: document.activeElement === canvas ? at : null,
      chosen: shown.chosen?.track === track ? shown.chosen.index : null,
    });
    const under = (event) => {
      const box = canvas.getBoundingClientRect();
      const [column, row] = [event.clientX - box.left, event.clientY - box.top].map((each) => Math.floor(each / UNIT_CELL));
      const index = row * columns() + column;
      return column >= 0 && column < columns() && index >= 0 && index < numUnits ? index : null;
    };
    const toggle = (index) => onChoose(isChosen(track, index) ? null : unitOf(track, index));
    canvas.addEventListener("pointermove", (event) => {
      const index = under(event);
      if (index !== null) say(unitOf(track, index));
    });
    canvas.addEventListener("click", (event) => {
      const index = under(event);
      if (index === null) return;
      at = index;
      toggle(index);
    });
    canvas.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        toggle(at);
        return;
      }
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns() }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      if (at + step >= 0 && at + step < numUnits) at += step;
      say(unitOf(track, at));
      paintGrid();
    });
    canvas.addEventListener("focus", () => {
      say(unitOf(track, at));
      paintGrid();
    });
    canvas.addEventListener("pointerleave", () => shown.chosen && say(shown.chosen));
    canvas.addEventListener("blur", paintGrid);
    const heading = make("h4", {}, `layer ${track.layer}, ${partOf(track)}`);
    return { element: make("div", {}, heading, canvas), paint: paintGrid };
  }

  return {
    look(cell, name) {
      shown.cell = cell;
      if (shown.chosen) say(shown.chosen);
      place.textContent = cell.isKept
        ? `All units after ${name}, line ${formatNumber(cell.line)}, column ${formatNumber(cell.column)}`
        : "No units are kept at this character; they are at the underlined ones.";
      if (grids.length) paint();
      else draw();
    },
    choose(unit) {
      shown.chosen = unit;
      if (unit) say(unit);
      paint();
    },
    elements(onGo) {
      new ResizeObserver(paint).observe(holder);
      return [
        make("h3", {}, "All units"),
        make("p", { class: "quiet" }, aboutUnits(view), goButton(view, onGo)),
        findings.length ? make("div", { class: "findings" }, "Units that follow something: ", buttons.map((each) => each.element)) : "",
        make("div", { class: "filters" }, layerFilter, partFilter, unitField(tracks, shown, numUnits, onChoose, status)),
        place, status, holder,
      ];
    },
  };
}

function goButton(view, onGo) {
  return areAllKept(view) ? null : [" ", make("button", { type: "button", class: "go", onclick: onGo }, "Go there")];
}

function unitOf(track, index) {
  return { track, index, name: `unit ${track.layer}.${index}` };
}

function aboutUnits(view) {
  const { num_characters: num, precision } = view.units;
  const isBothWays = new Set(view.units.tracks.map((track) => track.reads_backward)).size > 1;
  const notes = [
    areAllKept(view)
      ? "The states and gates of all units after each character."
      : `A page has room for the units at ${formatNumber(num)} characters: the underlined ones.`,
    `A unit is named by its layer and its number. Its value is the one after the character was read, to within ${precision}.`,
    "Click a unit, or choose it with the arrow keys and Enter, and the text is coloured by it.",
  ];
  if (view.is_backward) notes.push("This model reads from the end of the text.");
  if (isBothWays) notes.push("Layers named right read from the end of the text.");
  if (isBothWays && view.bits_of_characters.length < view.num_characters) notes.push("The units have read only what is shown.");
  return notes.join(" ");
}

// Makes a button for each value of `shown[key]`, and one for all.
function filterButtons(key, values, shown, onChange) {
  const choices = [...values, null];
  const buttons = choices.map((value) => {
    const button = make("button", { type: "button", "aria-pressed": String(shown[key] === value) }, value ?? "all");
    button.addEventListener("click", () => {
      shown[key] = value;
      buttons.forEach((each, index) => each.setAttribute("aria-pressed", String(choices[index] === value)));
      onChange();
    });
    return button;
  });
  return values.length < 2 ? null : make("div", { class: `filter ${key}`, role: "group", "aria-label": key }, make("span", {}, key), buttons);
}

function findingButton(finding, onClick) {
  const unit = `${finding.layer}.${finding.unit}`;
  const how = finding.measure === "r" ? (finding.sign > 0 ? "rises" : "falls") : finding.sign > 0 ? "high" : "low";
  const title = `${finding.about}; ${finding.part} of unit ${unit} is ${how} there, measured on the second half of the text`;
  const label = `${finding.name}: ${unit} ${finding.part}, ${finding.measure} ${formatNumber(finding.figure, 2)}`;
  return { finding, element: make("button", { type: "button", title, "aria-pressed": "false", onclick: onClick }, label) };
}

// Makes a field in which the name of a unit is typed.
function unitField(tracks, shown, numUnits, onChoose, status) {
  const field = make("input", { type: "text", size: 8, placeholder: "1.37", "aria-label": "name of a unit", autocomplete: "off" });
  const submit = (event) => {
    event.preventDefault();
    const parts = field.value.trim().match(/^(.*)\.(\d{1,9})$/u);
    const ofLayer = parts && Number(parts[2]) < numUnits ? tracks.filter((track) => track.layer === parts[1]) : [];
    const track = ofLayer.find((each) => each.part === shown.part) ?? ofLayer[0];
    if (track) onChoose(unitOf(track, Number(parts[2])));
    else status.textContent = `There is no unit ${field.value.trim().slice(0, 20)} here. The last one is ${tracks.at(-1).layer}.${numUnits - 1}.`;
  };
  return make("form", { class: "filter", onsubmit: submit }, make("span", {}, "unit"), field);
}

// Paints the units of a track at a character, and marks the chosen one and the one at which the keyboard is.
function paintUnits(canvas, view, track, columns, numUnits, cell, marked) {
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [columns * UNIT_CELL, Math.ceil(numUnits / columns) * UNIT_CELL];
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
    [canvas.style.width, canvas.style.height] = [`${width}px`, `${height}px`];
  }
  const context = canvas.getContext("2d");
  const style = getComputedStyle(canvas);
  const ramp = rampOf(view, track);
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  const row = cell?.rows?.[track.reads_backward ? "backward" : "forward"] ?? null;
  const box = (index) => [(index % columns) * UNIT_CELL, Math.floor(index / columns) * UNIT_CELL];
  for (let index = 0; index < numUnits; index++) {
    context.fillStyle = row === null ? style.borderTopColor : ramp.colours[shadeOf(ramp, valueOf(track, index, row))];
    context.fillRect(...box(index), UNIT_CELL - 1, UNIT_CELL - 1);
  }
  for (const [index, lineWidth] of [[marked.at, 2], [marked.chosen, 3]]) {
    if (index === null) continue;
    const [left, top] = box(index);
    context.lineWidth = lineWidth;
    context.strokeStyle = style.color;
    context.strokeRect(left + 0.5, top + 0.5, UNIT_CELL - 2, UNIT_CELL - 2);
  }
}
