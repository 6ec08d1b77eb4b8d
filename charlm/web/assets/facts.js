// Settings, machine and text of a run, as they stand in its model file.
"use strict";

section("facts", "Settings, machine and text", (tables) => make("div", { class: "facts" }, tables.map(({ title, rows }) =>
  make("div", { class: "fact-group" }, make("h3", {}, title), make("dl", {}, rows.map(([name, value]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, value))))))));
