// Runs side by side: for each text and kind the curves of all runs in one picture, and a table.
"use strict";

section("comparison", "Runs side by side", ({ rows, groups, notes }) => {
  let start = 0;
  const drawn = groups.map((group) => {
    const members = rows.slice(start, start + group.rows.length);
    start += group.rows.length;
    return groupOf(group, members, groups);
  });
  const about = [
    "Validation in bits, lower is better. The best figure is measured after training, the others on the beginning of the held-out text.",
    rows.some((row) => row.net !== null) ? "Where the net has n-grams beside it, the curves and the figures at equal time and equal steps are those of the net alone." : "",
    rows.some((row) => !row.finished) ? "Runs with * did not finish: interrupted, or still running." : "",
  ].filter(Boolean).join(" ");
  const list = notes.length ? make("ul", { class: "notes quiet" }, notes.map((note) => make("li", {}, note))) : null;
  return [make("p", { class: "quiet" }, about), list, drawn];
});

function groupOf(group, rows, groups) {
  const isAlone = groups.every((other) => other === group || other.text !== group.text || other.sha256 === group.sha256);
  const name = group.text.split("/").at(-1) + (isAlone ? "" : ` (${group.sha256.slice(0, 8)})`);
  const names = shortNames(rows.map((row) => row.run));
  const curves = rows.map((row, index) => ({ row, name: names[index], colour: (index % 8) + 1, dash: Math.floor(index / 8) % 3 }));
  return make("div", { class: "comparison" },
    make("h3", {}, name, make("span", { class: "quiet" }, `: ${group.kind}`)),
    comparedCurves(group, curves.filter(({ row }) => row.curve.length)),
    comparedTable(group, curves),
  );
}

function comparedCurves(group, curves) {
  if (!curves.length) return make("p", { class: "quiet" }, "No run has a validation, so there are no curves to draw.");
  const axes = [
    ["time", 1, { short: clockText, describe: (x) => `after ${clockText(x)}`, steps: NICE_SECONDS }],
    ["step", 0, { short: shortNumber, describe: (x) => `step ${formatNumber(x)}` }],
  ];
  return axisChoice(axes.map(([name, place, axis]) => [name, () => lineCharts({
    name: "Validations of all runs", axis,
    panels: [{
      name: `Validation in bits per ${group.per}`, height: 340, format: (value) => formatNumber(value, 4), zoom: true,
      series: curves.map(({ row, name, colour, dash }) => ({
        name, colour, dash, hasDots: true, points: row.curve.map((point) => [point[place], point[2]]),
      })),
    }],
  })]));
}

function comparedTable(group, curves) {
  const hasNet = curves.some(({ row }) => row.net !== null);
  const head = [
    "run", "cell", { number: "best" }, ...(hasNet ? [{ number: "its net" }] : []),
    { number: `at ${formatNumber(group.equal_seconds, 1)} s` }, { number: `at step ${formatNumber(group.equal_steps)}` },
    { number: "parameters" }, { number: `${group.unit}s/s` }, { number: "seconds" }, { number: "steps" },
  ];
  return table(head, curves.map(({ row, colour, dash }) => [
    [swatchOf({ kind: "series", colour, dash }), row.run + (row.finished ? "" : " *")], row.cell,
    ...[row.best, ...(hasNet ? [row.net] : []), row.at_equal_time, row.at_equal_steps].map((bits) => formatNumber(bits, 4)),
    formatNumber(row.parameters), formatNumber(row.characters_per_second), formatNumber(row.seconds, 1), formatNumber(row.steps),
  ]));
}

// Returns the last part of each path, or the whole path if two would be the same.
function shortNames(paths) {
  const names = paths.map((path) => path.replace(/[/\\]+$/u, "").split(/[/\\]/u).at(-1));
  return paths.map((path, index) => (names.filter((name) => name === names[index]).length > 1 ? path : names[index]));
}
