// The gates and the state of one unit over the typed text, as curves.
"use strict";

const MOST_CHARTED = 200;

section("units", "The gates of a unit", ({ gates, all_gates: allGates, state }) => {
  const { hidden_size: size, layers } = data.net;
  const field = make("input", { type: "number", min: 0, max: size - 1, step: 1, value: 0, id: "unit", inputmode: "numeric" });
  const layer = layers.length > 1
    ? make("select", { id: "layer" }, layers.map((_, index) => make("option", { value: index }, `${index + 1}`)))
    : null;
  const holder = make("div", {});
  loading.then(({ reading, typed, symbols, listeners }) => {
    // The candidate of a cell without gates is its state.
    const series = [...state, ...allGates].map((name, index) => ({ name, index, isGate: gates.includes(name) }))
      .filter(({ name }) => name !== "candidate" || gates.length);
    function draw() {
      const from = Math.max(0, reading.ids.length - MOST_CHARTED);
      holder.replaceChildren(reading.ids.length
        ? unitChart(reading, symbols, series, from)
        : make("p", { class: "quiet" }, "Type something above, and its curves stand here."));
    }
    function choose() {
      reading.watch({ layer: Number(layer?.value ?? 0), index: wholeNumberOf(field, 0) });
      typed.update();
    }
    field.addEventListener("change", choose);
    layer?.addEventListener("change", choose);
    listeners.push(draw);
    if (reading.isDone) draw();
  });
  return [
    make("p", { class: "quiet" }, `What one of the ${formatNumber(size)} units ${layers.length > 1 ? "of a layer " : ""}does at each symbol of the text above, ` +
      `at most at the last ${MOST_CHARTED}.`),
    make("div", { class: "filter" },
      layer && make("label", {}, "layer ", layer), make("label", {}, "unit ", field)),
    holder,
  ];
});

function unitChart(reading, symbols, series, from) {
  const places = reading.values.slice(from).map((values, index) => [from + index + 1, values]);
  const curve = ({ name, index }, colour) => ({ name, colour: colour + 1, hasDots: true, points: places.map(([place, values]) => [place, values[index]]) });
  const panel = (name, some, isGate) => ({
    name, height: 180, format: (value) => formatNumber(value, 3), series: some.map(curve), fromZero: isGate,
    lines: isGate ? [] : [{ name: "zero", value: 0, colour: 8 }],
  });
  const [ofGates, ofState] = [series.filter(({ isGate }) => isGate), series.filter(({ isGate }) => !isGate)];
  const panels = [panel("State", ofState, false)];
  if (ofGates.length) panels.unshift(panel("Gates, from 0, closed, to 1, open", ofGates, true));
  return lineCharts({
    name: "the gates and the state of a unit",
    axis: {
      short: (place) => formatNumber(place),
      describe: (place) => `after ${symbols.nameOf(reading.ids[place - 1])}, symbol ${formatNumber(place)}`,
      steps: (least) => NICE(Math.max(least, 1)),
    },
    panels,
  });
}
