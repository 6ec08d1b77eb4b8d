// What all pages share: the data, elements, numbers, sections and the theme.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const sections = [];

// Registers a section. It is drawn if the data has its key: `draw(data[key])` returns an element or several. Data with
// the name `missing` is a sentence that says why there is nothing to draw. The title may be null.
function section(key, title, draw) {
  sections.push({ key, title, draw });
}

// Makes an element. Attributes that begin with "on" are listeners; children are elements, texts, or lists of them.
// A text always stays a text: nothing here is read as HTML.
function make(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function makeSvg(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

// Formats a number with so many digits after the point; what is no number becomes a dash.
function formatNumber(value, digits = 0) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "\u2013";
  if (Math.abs(value) >= 1e15) return value.toExponential(3);
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

// Returns the language that a text is probably in, by its writing, so that its characters have their usual shapes.
function languageOf(text) {
  if (/[\u3041-\u30ff]/u.test(text)) return "ja";
  if (/\p{Script=Hangul}/u.test(text)) return "ko";
  return /\p{Script=Han}/u.test(text) ? "zh" : "";
}

function themeButton() {
  const root = document.documentElement;
  const isDark = () =>
    (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const name = () => (isDark() ? "Light" : "Dark");
  const button = make("button", {
    type: "button",
    id: "theme",
    onclick: () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      button.textContent = name();
    },
  }, name());
  return button;
}

document.addEventListener("DOMContentLoaded", () => {
  document.querySelector("header").append(themeButton());
  const main = document.querySelector("main");
  main.replaceChildren();
  const shown = sections.filter(({ key }) => data[key] !== null && data[key] !== undefined);
  const named = shown.filter(({ title }) => title !== null);
  for (const { key, title, draw } of shown) {
    const drawn = data[key].missing ? make("p", { class: "quiet" }, data[key].missing) : draw(data[key]);
    main.append(make("section", { id: key }, title === null ? null : make("h2", {}, title), drawn));
  }
  if (named.length > 1) {
    const links = named.map(({ key, title }) => make("a", { href: `#${key}` }, title));
    document.querySelector("header").after(make("nav", { "aria-label": "sections" }, links));
  }
});
