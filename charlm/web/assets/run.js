// A run: its figures, its curves, and what it wrote along the way.
"use strict";

section("summary", null, (summary) => {
  const { row, baseline, per, unit } = summary;
  const measured = (data.curves.validation ?? []).filter((bits) => bits !== null);
  const text = summary.text.split("/").at(-1);
  const tiles = [
    row.best === null
      ? ["best validation so far", formatNumber(measured.length ? Math.min(...measured) : null, 4), `bits per ${per}`]
      : ["best model", formatNumber(row.best, 4), `bits per ${per}${aboutMeasured(summary)}`],
    row.net === null ? null : ["its net alone", formatNumber(row.net, 4), `bits per ${per}, without its n-grams`],
    baseline && [baseline.name, formatNumber(baseline.bits, 4), `bits per ${per}, on the text of the curve`],
    ["trained", clockText(row.seconds), `${formatNumber(row.steps)} steps${row.finished ? "" : ", not finished"}`],
    row.characters_per_second === null ? null : ["pace", formatNumber(row.characters_per_second), `${unit}s per second`],
    ["parameters", formatNumber(row.parameters), row.cell],
  ];
  return [
    make("p", { class: "quiet lead" }, make("strong", {}, row.cell), " on ", make("strong", {}, text), `: ${summary.kind}.`),
    make("p", { class: "judgement" }, sentence(summary.judgement)),
    make("dl", { class: "tiles" }, tiles.filter(Boolean).map(([name, value, about]) => make("div", { class: "tile" },
      make("dt", {}, name), make("dd", {}, make("span", { class: "tile-value" }, value), make("span", { class: "tile-about" }, about))))),
  ];
});

// Says on how much text the best model was measured, if that is known.
function aboutMeasured({ metrics, unit }) {
  const measured = metrics[`validation_${unit}s`];
  return measured ? `, on ${formatNumber(measured)} held-out ${unit}s` : "";
}

function sentence(text) {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
}

section("curves", "Curves", (curves) => {
  const { summary } = data;
  const axes = [
    ["step", curves.step, { short: (value) => shortNumber(value) }],
    ["time", curves.seconds, { short: clockText, steps: NICE_SECONDS }],
    ["epoch", curves.epoch, { short: (value) => shortNumber(Number(value.toFixed(2))) }],
  ].filter(([, values]) => values.every((value) => value !== null));
  const num = curves.step.length;
  const columns = [["step", 0], ["epoch", 2], ["seconds", 1], ["train", 4], ["validation", 4], ["learning_rate", 6], ["gradient_norm", 4]];
  return [
    axisChoice(axes.map(([name, values, axis]) => [
      name, () => runCharts(curves, values, { ...axis, describe: (x) => placeOf(curves, values, x) }, summary),
    ])),
    make("p", { class: "quiet" }, curveNotes(curves, summary)),
    figureTable(`The figures of ${formatNumber(num)} records`, columns.map(([name]) => ({ number: name.replace("_", " ") })), () =>
      curves.step.map((_, index) => columns.map(([name, digits]) => formatNumber(curves[name][index], digits)))),
  ];
});

// Says what is drawn and what is not.
function curveNotes(curves, summary) {
  const notes = [`Bits per ${summary.per}, lower is better.`];
  if (summary.row.net !== null) notes.push("The curves are those of the net alone.");
  if (summary.row.best !== null) notes.push(`The lines of the best model were measured after training${aboutMeasured(summary)}.`);
  if (!summary.baseline && !curves.reads_both_sides) notes.push("This run recorded no baseline; charlm eval measures one.");
  if (!curves.gradient_norm.some((value) => value !== null)) notes.push("It recorded no gradient norm.");
  if (!curves.validation.some((value) => value !== null)) notes.push("There is no validation, because nothing was held out or none was due yet.");
  if (curves.num_records > curves.step.length) notes.push(`Of ${formatNumber(curves.num_records)} records, ${formatNumber(curves.step.length)} are drawn.`);
  return notes.join(" ");
}

// Names a place of the curves by all axes.
function placeOf(curves, values, x) {
  const index = values.indexOf(x);
  const epoch = curves.epoch[index];
  const parts = [`step ${formatNumber(curves.step[index])}`, clockText(curves.seconds[index])];
  if (epoch !== null) parts.push(`epoch ${formatNumber(epoch, 2)}`);
  return parts.join(", ");
}

function runCharts(curves, values, axis, summary) {
  const series = (name, key, colour, hasDots) => ({ name, colour, hasDots, points: values.map((x, index) => [x, curves[key][index]]) });
  const has = (each) => each.points.some(([, y]) => y !== null);
  const level = (name, value, colour) => (typeof value === "number" ? { name, value, colour } : null);
  const bits = (value) => formatNumber(value, 4);
  const panels = [
    {
      name: `Bits per ${summary.per}`, height: 300, format: bits, zoom: true, hasLabels: true,
      series: [series("train", "train", 2), series("validation", "validation", 1, true)],
      lines: [
        level(summary.baseline?.name, summary.baseline?.bits, 3),
        level(summary.row.net === null ? "best model" : "best, with n-grams", summary.row.best, 4),
        level("best, its net alone", summary.row.net, 1),
      ].filter(Boolean),
    },
    { name: "Learning rate", height: 110, format: shortNumber, fromZero: true, hasLabels: true, series: [series("of the last block", "learning_rate", 5)] },
    { name: "Gradient norm", height: 130, format: (value) => formatNumber(value, 4), fromZero: true, hasLabels: true, series: [series("before clipping", "gradient_norm", 6)] },
  ];
  const drawn = panels.map((panel) => ({ ...panel, series: panel.series.filter(has) })).filter((panel) => panel.series.length);
  return lineCharts({ name: "Curves of the run", axis, panels: drawn });
}

section("samples", "What it wrote along the way", ({ ramp, max_bits: maxBits, samples, num_samples: num }) => {
  const text = make("div", { class: "sample", "aria-live": "polite" });
  const place = make("p", { class: "sample-place" });
  const slider = make("input", {
    type: "range", min: 0, max: samples.length - 1, value: samples.length - 1, step: 1, "aria-label": "which sample", oninput: show,
  });
  function show() {
    const sample = samples[Number(slider.value)];
    const parts = [`step ${formatNumber(sample.step)}`, clockText(sample.seconds)];
    if (sample.epoch !== null) parts.push(`epoch ${formatNumber(sample.epoch, 2)}`);
    if (sample.validation !== null) parts.push(`validation ${formatNumber(sample.validation, 4)}`);
    slider.setAttribute("aria-valuetext", parts.join(", "));
    place.replaceChildren(make("strong", {}, parts[0]), `, ${parts.slice(1).join(", ")}`);
    text.lang = languageOf(sample.text);
    text.replaceChildren(...shadedText(sample.text, sample.bits, ramp, maxBits));
  }
  show();
  const element = make("div", { class: "samples" }, place,
    samples.length > 1 ? make("div", { class: "slider" }, make("span", { class: "quiet" }, "start"), slider, make("span", { class: "quiet" }, "end")) : null,
    text, bitsLegend(ramp, maxBits));
  setRamp(element, ramp);
  const notes = ["At each of these steps the model wrote a text, always with the same random numbers, at temperature 0.7. Each character is coloured by the bits that it cost the model."];
  if (num > samples.length) notes.push(`Of ${formatNumber(num)} samples, ${formatNumber(samples.length)} are in this page.`);
  return [make("p", { class: "quiet" }, notes.join(" ")), element];
});

// Returns the characters of a text, each on the shade of its bits.
function shadedText(text, bits, ramp, maxBits) {
  return Array.from(text).map((character, index) => {
    const shade = bits ? `shade-${shadeOf(ramp, bits[index] / maxBits)}` : null;
    const title = bits ? `${formatNumber(bits[index], 2)} bits` : null;
    const cell = make("span", { class: shade, title }, visible(character));
    return character === "\n" ? [cell, make("br")] : cell;
  }).flat();
}

function bitsLegend(ramp, maxBits) {
  const last = ramp.colours.length - 1;
  const steps = ramp.colours.map((_, shade) => make("span", { class: `step shade-${shade}` }, shade === last ? `${maxBits}+` : `${(shade / last) * maxBits}`));
  return make("p", { class: "bits-legend" }, make("span", {}, "bits"), make("span", { class: "steps" }, steps));
}
