// Line charts as small SVG: panels above one another share a horizontal axis, a crosshair and a legend that reads out.
"use strict";

const PLOT = { left: 52, right: 12, top: 8, bottom: 24, labels: 184 };
// From this width on, horizontal lines have their names beside the plot.
const WIDE = 640;

// Draws panels one above the other and returns their element.
//
// name: what the charts show, for those who do not see them.
// axis: {short(x), describe(x), steps}: how a place on the horizontal axis is written, and which steps its ticks have.
// panels: for each {name, height, format(y), tick(y), series, lines}; a series is {name, colour, points: [[x, y], ...],
//   hasDots}, where y may be null; a line is {name, value, colour}. With `zoom` a panel starts with the scale that the
//   curves need after their beginning, with `fromZero` its scale starts at 0, with `hasLabels` there is room for the
//   names of lines beside all panels.
// start: the place whose values are shown while nobody points at another one; the last one by default.
function lineCharts({ name, axis, panels, start }) {
  const xs = [...new Set(panels.flatMap((panel) => panel.series.flatMap((series) => series.points.map(([x]) => x))))];
  xs.sort((a, b) => a - b);
  const usual = start === undefined ? xs.length - 1 : nearest(xs, start);
  let at = null;
  const readout = make("strong", {});
  const hint = make("span", {}, " Point at the curves, or use the arrow keys, to read other places.");
  const drawn = panels.map((panel) => panelOf(panel, axis, [xs[0], xs.at(-1)]));
  const plots = make("div", {
    class: "plots", tabindex: 0, role: "slider", "aria-label": `${name}. The arrow keys move along the curves.`,
    "aria-orientation": "horizontal", "aria-valuemin": 0, "aria-valuemax": xs.length - 1, "aria-valuenow": 0,
  }, drawn.map((each) => each.element));
  const element = make("div", { class: "charts" }, make("p", { class: "chart-readout" }, readout, hint), plots);

  function look(index) {
    at = index;
    const x = xs[index ?? usual];
    const texts = drawn.flatMap((each) => each.look(x, index !== null));
    readout.textContent = axis.describe(x);
    hint.hidden = index !== null;
    plots.setAttribute("aria-valuenow", index ?? usual);
    plots.setAttribute("aria-valuetext", [axis.describe(x), ...texts].join(", "));
  }
  plots.addEventListener("pointermove", (event) => {
    const panel = drawn.find((each) => each.element.contains(event.target)) ?? drawn[0];
    look(nearest(xs, panel.valueAt(event.clientX)));
  });
  plots.addEventListener("pointerdown", (event) => look(nearest(xs, drawn[0].valueAt(event.clientX))));
  plots.addEventListener("pointerleave", (event) => {
    // A finger leaves what it has tapped; the place stays.
    if (event.pointerType === "mouse" && document.activeElement !== plots) look(null);
  });
  plots.addEventListener("focus", () => at ?? look(usual));
  plots.addEventListener("blur", () => look(null));
  plots.addEventListener("keydown", (event) => {
    const last = xs.length - 1;
    const here = at ?? usual;
    const big = Math.max(1, Math.round(xs.length / 10));
    const next = {
      ArrowLeft: here - 1, ArrowDown: here - 1, ArrowRight: here + 1, ArrowUp: here + 1, PageDown: here - big,
      PageUp: here + big, Home: 0, End: last,
    }[event.key];
    if (next === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    look(Math.min(Math.max(next, 0), last));
  });
  new ResizeObserver(() => {
    for (const each of drawn) each.draw();
    look(at);
  }).observe(plots);
  look(null);
  return element;
}

// Makes a panel: a heading, a legend that also reads out, and a plot that is drawn when its width is known.
function panelOf(panel, axis, domain) {
  const entries = [...panel.series.map((series) => ({ ...series, kind: "series" })), ...(panel.lines ?? [])];
  const legend = entries.map((entry) => {
    const value = make("span", { class: "legend-value" }, entry.kind ? "" : panel.format(entry.value));
    return { value, element: make("span", { class: "legend-entry" }, swatchOf(entry), `${entry.name} `, value) };
  });
  const full = scaleOf(panel, -Infinity);
  const late = panel.zoom ? scaleOf(panel, domain[0] + (domain[1] - domain[0]) * 0.05) : full;
  const canZoom = full[1] - full[0] > 1.25 * (late[1] - late[0]);
  let isWhole = !canZoom;
  const button = canZoom ? make("button", { type: "button", "aria-pressed": "false", class: "whole", onclick: () => {
    isWhole = !isWhole;
    button.setAttribute("aria-pressed", String(isWhole));
    draw();
  } }, "with the beginning") : null;
  const plot = make("div", { class: "plot" });
  plot.style.height = `${panel.height}px`;
  const element = make("div", { class: "panel" },
    make("div", { class: "panel-head" }, make("h3", {}, panel.name), button),
    make("p", { class: "chart-legend" }, legend.map((each) => each.element)), plot);
  let frame = null;
  let marks = null;
  let place = [null, false];

  function draw() {
    const width = plot.clientWidth;
    if (!width) return;
    frame = frameOf(panel, width, isWhole ? full : late, domain);
    legend.forEach((each, index) => { each.element.hidden = frame.hasLabels && !entries[index].kind; });
    marks = makeSvg("g", { class: "marks" });
    plot.replaceChildren(svgOf(panel, axis, frame, marks));
    look(...place);
  }
  function look(x, isMarked) {
    place = [x, isMarked];
    const texts = panel.series.map((series, index) => {
      const point = x === null ? null : lastPoint(series.points, x);
      const exact = point !== null && point[0] === x;
      const text = point === null ? "" : panel.format(point[1]) + (exact ? "" : ` at ${axis.short(point[0])}`);
      legend[index].value.textContent = text;
      return text ? `${series.name} ${text}` : "";
    });
    if (marks) marks.replaceChildren(...(isMarked ? marksAt(panel, frame, x) : []));
    return texts.filter(Boolean);
  }
  return {
    element, draw, look,
    valueAt: (clientX) => frame.valueAt(clientX - plot.getBoundingClientRect().left),
  };
}

function lineClass({ kind, colour, dash }) {
  return `${kind ? "curve" : "level"} colour-${colour}${dash ? ` dash-${dash}` : ""}`;
}

// Returns a piece of a line, as it stands in a legend.
function swatchOf(entry) {
  return makeSvg("svg", { class: "swatch", width: 22, height: 10, "aria-hidden": "true" },
    makeSvg("line", { class: lineClass(entry), x1: 1, x2: 21, y1: 5, y2: 5 }));
}

// Makes buttons that choose among horizontal axes, given as pairs of a name and a function that draws the charts.
function axisChoice(choices) {
  const holder = make("div", {});
  const buttons = choices.map(([name, draw]) => make("button", { type: "button", onclick: () => choose(name, draw) }, name));
  function choose(name, draw) {
    for (const each of buttons) each.setAttribute("aria-pressed", String(each.textContent === name));
    holder.replaceChildren(draw());
  }
  choose(...choices[0]);
  const group = make("div", { class: "filter", role: "group", "aria-label": "horizontal axis" }, make("span", { class: "quiet" }, "over"), buttons);
  return make("div", {}, group, holder);
}

// Returns the lowest and the highest value to draw: of all lines, and of the curves from a place on.
function scaleOf(panel, from) {
  const values = (panel.lines ?? []).map((line) => line.value);
  for (const series of panel.series) {
    const points = series.points.filter(([, y]) => y !== null);
    const after = points.filter(([x]) => x >= from);
    values.push(...(after.length ? after : points.slice(-1)).map(([, y]) => y));
  }
  const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const low = panel.fromZero ? 0 : values.reduce((a, b) => Math.min(a, b), Infinity);
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [panel.fromZero ? 0 : low - room, high + room];
}

// Returns where values stand in a plot of a certain width.
function frameOf(panel, width, [low, high], [first, last]) {
  const hasLabels = width >= WIDE && panel.hasLabels;
  const [left, right] = [PLOT.left, width - (hasLabels ? PLOT.labels : PLOT.right)];
  const [top, bottom] = [PLOT.top, panel.height - PLOT.bottom];
  const span = last - first || 1;
  return {
    width, left, right, top, bottom, low, high, hasLabels, first, last,
    x: (value) => left + ((value - first) / span) * (right - left),
    y: (value) => bottom - ((value - low) / (high - low)) * (bottom - top),
    valueAt: (x) => first + ((x - left) / (right - left)) * span,
  };
}

function svgOf(panel, axis, frame, marks) {
  const { width, left, right, top, bottom } = frame;
  const clip = `clip-${svgOf.count = (svgOf.count ?? 0) + 1}`;
  const ticksY = ticksBetween(frame.low, frame.high, Math.max(3, Math.round((bottom - top) / 44)), NICE);
  const ticksX = ticksBetween(frame.first, frame.last, Math.max(2, Math.floor((right - left) / 90)), axis.steps ?? NICE);
  const digits = Math.max(...ticksY.map(decimalsOf));
  const tick = panel.tick ?? ((value) => (frame.high < 1e-3 || frame.high >= 1e6 ? shortNumber(value) : formatNumber(value, value && digits)));
  const labels = frame.hasLabels ? placedLabels(panel.lines ?? [], frame) : [];
  return makeSvg("svg", { width, height: panel.height, viewBox: `0 0 ${width} ${panel.height}`, "aria-hidden": "true" },
    makeSvg("clipPath", { id: clip }, makeSvg("rect", { x: left - 4, y: top - 2, width: right - left + 8, height: bottom - top + 4 })),
    ticksY.map((value) => [
      makeSvg("line", { class: "rule", x1: left, x2: right, y1: frame.y(value), y2: frame.y(value) }),
      makeSvg("text", { class: "tick", x: left - 8, y: frame.y(value) + 4, "text-anchor": "end" }, tick(value)),
    ]),
    makeSvg("line", { class: "rule", x1: left, x2: right, y1: bottom, y2: bottom }),
    ticksX.map((value) => [
      makeSvg("line", { class: "rule", x1: frame.x(value), x2: frame.x(value), y1: bottom, y2: bottom + 4 }),
      makeSvg("text", { class: "tick", x: frame.x(value), y: bottom + 17, "text-anchor": "middle" }, axis.short(value)),
    ]),
    makeSvg("g", { "clip-path": `url(#${clip})` },
      (panel.lines ?? []).map((line) =>
        makeSvg("line", { class: lineClass(line), x1: left, x2: right, y1: frame.y(line.value), y2: frame.y(line.value) })),
      panel.series.map((series) => curveOf(series, frame)), marks),
    labels.map(({ line, y }) => [
      makeSvg("text", { class: `label colour-${line.colour}`, x: right + 10, y: y + 4 }, `${line.name} ${panel.format(line.value)}`),
    ]),
  );
}

// Returns a curve as a path, with gaps where there is no value, and its points as dots if they are few.
function curveOf(series, frame) {
  const points = series.points.filter(([, y]) => y !== null || !series.hasDots);
  let path = "";
  let isDown = false;
  for (const [x, y] of points) {
    if (y !== null) path += `${isDown ? "L" : "M"}${frame.x(x).toFixed(1)} ${frame.y(y).toFixed(1)}`;
    isDown = y !== null;
  }
  const dots = series.hasDots && points.length <= 60
    ? points.map(([x, y]) => makeSvg("circle", { class: `dot colour-${series.colour}`, cx: frame.x(x), cy: frame.y(y), r: 2.5 }))
    : [];
  return [makeSvg("path", { class: lineClass({ kind: "series", ...series }), d: path }), dots];
}

// Returns the crosshair at a place, and a ring around each value that was measured there or last before it.
function marksAt(panel, frame, x) {
  const rings = panel.series.map((series) => {
    const point = lastPoint(series.points, x);
    if (point === null) return null;
    return makeSvg("circle", { class: `ring colour-${series.colour}`, cx: frame.x(point[0]), cy: frame.y(point[1]), r: 4.5 });
  });
  const line = { class: "crosshair", x1: frame.x(x), x2: frame.x(x), y1: frame.top, y2: frame.bottom };
  return [makeSvg("line", line), ...rings.filter(Boolean)];
}

// Returns the names of lines beside the plot, far enough from one another to be read.
function placedLabels(lines, frame) {
  const labels = lines.map((line) => ({ line, y: frame.y(line.value) })).sort((a, b) => a.y - b.y);
  labels.forEach((label, index) => {
    if (index) label.y = Math.max(label.y, labels[index - 1].y + 16);
  });
  for (let index = labels.length - 1; index >= 0; index--) {
    const below = index === labels.length - 1 ? frame.bottom : labels[index + 1].y - 16;
    labels[index].y = Math.min(labels[index].y, below);
  }
  return labels;
}

// Returns the last point with a value at a place or before it, or null.
function lastPoint(points, x) {
  let found = null;
  for (const point of points) {
    if (point[0] > x) break;
    if (point[1] !== null) found = point;
  }
  return found;
}

function nearest(values, value) {
  let [low, high] = [0, values.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (values[middle] < value) low = middle;
    else high = middle;
  }
  return value - values[low] <= values[high] - value ? low : high;
}

// Steps of ticks as multiples of powers of ten, and for seconds up to days.
const NICE = (least) => {
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((each) => each * power).find((step) => step >= least * 0.999);
};
const CLOCK = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400];
const NICE_SECONDS = (least) => CLOCK.find((step) => step >= least) ?? 86400 * NICE(least / 86400);

// Returns at most about so many round values in an interval.
function ticksBetween(low, high, most, steps) {
  if (!(high > low)) return [low];
  const step = steps((high - low) / most);
  const ticks = [];
  // Plus 0, because -0 would be shown with its sign.
  for (let index = Math.ceil(low / step); index * step <= high && ticks.length < 100; index++) ticks.push(index * step + 0);
  return ticks;
}

// Writes a number with as many digits as it needs, as on an axis.
function shortNumber(value) {
  const size = Math.abs(value);
  if (size >= 1e6 || (size > 0 && size < 1e-4)) return value.toExponential(2).replace(/\.?0+e/u, "e");
  return formatNumber(Number(value.toPrecision(6)), Math.max(0, Math.min(6, decimalsOf(value))));
}

function decimalsOf(value) {
  const written = String(Number(value.toPrecision(6)));
  return written.includes(".") ? written.split(".")[1].length : 0;
}

// Writes seconds as a clock does: 0:08, 12:05, 1:02:03.
function clockText(seconds) {
  const whole = Math.round(seconds);
  if (whole >= 360000) return `${formatNumber(Math.round(whole / 3600))} h`;
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (value) => String(value).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

// Returns figures as a table that is made when somebody opens it.
function figureTable(summary, head, rows) {
  const details = make("details", { class: "figure-table" }, make("summary", {}, summary));
  details.addEventListener("toggle", () => {
    if (details.open && !details.querySelector("table")) details.append(table(head, rows()));
  });
  return details;
}

// Makes a table: what is no text is a number and stands on the right.
function table(head, rows) {
  const isNumber = head.map((each) => typeof each !== "string");
  const names = head.map((each) => (typeof each === "string" ? each : each.number));
  return make("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "table" }, make("table", { class: "figures-table" },
    make("thead", {}, make("tr", {}, names.map((each, index) => make("th", { scope: "col", class: isNumber[index] && "number" }, each)))),
    make("tbody", {}, rows.map((row) => make("tr", {}, row.map((each, index) => make("td", { class: isNumber[index] && "number" }, each))))),
  ));
}
