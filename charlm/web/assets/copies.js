// How much of what a model writes stands verbatim in its training text, beside held-out text.
"use strict";

section("copies", "Memorisation", (view) => {
  const { copies, text } = view;
  const { unit, longest, share_by_length: shares, held_out_share_by_length: heldOut, marked_length: marked } = copies;
  const percent = (share) => `${formatNumber(share * 100, 1)}%`;
  const notes = [
    `In a text of ${formatNumber(copies.length)} ${unit}s that the best model wrote, ${percent(shares[marked])} lies in copies of at least ${formatNumber(marked)} ${unit}s, which stand verbatim in the training text.`,
    heldOut ? `Of held-out text it is ${percent(heldOut[marked])}: what any text of this kind has in common with it.` : "Nothing was held out to compare with.",
  ];
  if (view.has_base) notes.push("The text of the model that this one started from was not searched.");
  // The chart ends where neither text has a longer copy.
  const lengths = Object.keys(shares).map(Number).sort((a, b) => a - b);
  const last = lengths.find((length) => length > 2 * marked && !shares[length] && !heldOut?.[length]) ?? lengths.at(-1);
  const series = (name, values, colour) => ({
    name, colour, points: lengths.filter((length) => length <= last).map((length) => [length, values[length]]),
  });
  const chart = lineCharts({
    name: `Share of a text in copies, by their length in ${unit}s`,
    axis: {
      short: (value) => formatNumber(value), describe: (value) => `copies of at least ${formatNumber(value)} ${unit}s`,
    },
    start: marked,
    panels: [{
      name: `Share of the text in copies of at least so many ${unit}s`, height: 220, format: percent, fromZero: true,
      tick: (value) => `${formatNumber(value * 100, 0)}%`,
      series: [series("what the model wrote", shares, 4), ...(heldOut ? [series("held-out text", heldOut, 8)] : [])],
    }],
  });
  return [
    make("p", {}, notes.join(" ")),
    chart,
    make("h3", {}, "The longest copy"),
    ...aboutLongest(longest, unit),
    make("details", { class: "written" }, make("summary", {}, "The text, with its copies underlined"), underlined(text, copies.spans)),
    make("p", { class: "quiet" }, "The same check in a terminal:"),
    make("pre", {}, view.command),
  ];
});

function aboutLongest(longest, unit) {
  if (!longest) return [make("p", {}, `There is none, not even of one ${unit}.`)];
  const line = longest.line === null ? "" : `, line ${formatNumber(longest.line)}`;
  const where = `${formatNumber(longest.length)} ${unit}${longest.length === 1 ? "" : "s"}, at position ${formatNumber(longest.position)}${line} of ${longest.source}:`;
  const piece = (text) => Array.from(text).map((character) => [visible(character), character === "\n" ? "\n" : ""]).flat().join("");
  return [
    make("p", {}, where),
    make("pre", { class: "copy", lang: languageOf(longest.text) }, make("span", { class: "quiet" }, piece(longest.before)), make("mark", {}, piece(longest.text)), make("span", { class: "quiet" }, piece(longest.after))),
  ];
}

// Returns a text with its copies marked; spans count characters.
function underlined(text, spans) {
  const characters = Array.from(text);
  const piece = (start, end) => characters.slice(start, end).map((character) => (character === "\n" ? "\n" : visible(character))).join("");
  const parts = [];
  let at = 0;
  for (const [start, end] of spans) {
    parts.push(piece(at, start), make("u", {}, piece(start, end)));
    at = end;
  }
  return make("pre", { class: "copied", lang: languageOf(text) }, parts, piece(at));
}
