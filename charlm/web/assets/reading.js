// A typed text as symbols, and the model that reads it: what each symbol cost, and what comes next at each place.
"use strict";

// So many symbols are read again at most to find the state at any place.
const SNAPSHOT_EVERY = 32;
// So long work may take before the page answers again.
const SLICE_MS = 30;

// Does what a generator yields step by step, and lets the page answer now and then. `show` is called after each slice.
function doInSlices(steps, show, fail) {
  let isStopped = false;
  function slice() {
    if (isStopped) return;
    const end = performance.now() + SLICE_MS;
    let isDone = false;
    try {
      while (!isDone && performance.now() < end) isDone = steps.next().done;
      show(isDone);
    } catch (error) {
      fail(error);
      return;
    }
    if (!isDone) setTimeout(slice);
  }
  setTimeout(slice);
  return () => { isStopped = true; };
}

// The language of what the model knows, for the shapes of its characters.
const LANGUAGE = languageOf(data.net.code_points.slice(0, 20000).map((code) => String.fromCodePoint(code)).join(""));

// The symbols of a model: characters, or the bytes of UTF-8.
class Symbols {
  constructor({ vocabulary, filter, code_points: codePoints, is_backward: isBackward }) {
    Object.assign(this, { isOfBytes: vocabulary === "bytes", filter, isBackward });
    this.characters = codePoints.map((code) => String.fromCodePoint(code));
    this.ids = new Map(this.characters.map((character, id) => [character, id]));
    this.newline = this.ids.get("\n");
    // A model may know carriage returns as its only line ends.
    this.lineEnd = !this.ids.has("\n") && this.ids.has("\r") ? "\r" : "\n";
  }

  // Returns the symbols of a text in reading order, and of each character how many symbols stand before and up to it.
  encode(text) {
    const characters = Array.from(text);
    const symbols = [];
    const ends = [0];
    const unknown = new Set();
    let wasSpace = false;
    characters.forEach((character, index) => {
      const given = character === "\n" ? this.lineEnd : character;
      for (const each of this.filter === "letters" ? lettersOf(given) : [given]) {
        if (this.filter === "letters" && each === " " && wasSpace) continue;
        wasSpace = each === " ";
        if (this.isOfBytes) symbols.push(...new TextEncoder().encode(each));
        else if (this.ids.has(each)) symbols.push(this.ids.get(each));
        else unknown.add(index);
      }
      ends.push(symbols.length);
    });
    return { characters, ids: this.isBackward ? symbols.reverse() : symbols, ends, unknown };
  }

  // Returns the text of symbols in reading order. Bytes that spell no character yet are dropped.
  decode(ids) {
    const ordered = this.isBackward ? ids.toReversed() : ids;
    if (!this.isOfBytes) return ordered.map((id) => this.characters[id]).join("");
    const first = this.isBackward ? Math.max(0, ordered.findIndex((byte) => byte < 0x80 || byte >= 0xc0)) : 0;
    return new TextDecoder().decode(Uint8Array.from(ordered.slice(first)), { stream: !this.isBackward });
  }

  nameOf(id) {
    if (this.isOfBytes && id >= 0x80) return `byte 0x${id.toString(16)}`;
    return nameCharacter(this.characters[id]);
  }
}

// Returns what the filter `letters` leaves of a character.
function lettersOf(character) {
  return Array.from(character.toLowerCase(), (each) => (/^[\p{L}\p{M}]$/u.test(each) ? each : " "));
}

// The model at a text that is being edited. Only what changed is read again.
class Reading {
  constructor(net) {
    this.net = net;
    this.ids = [];
    this.bits = [];
    // Of the chosen unit, the parts of its state and its gates after each symbol.
    this.values = [];
    this.unit = { layer: 0, index: 0 };
    this.startState = net.before();
    net.read(net.spec.num_symbols, this.startState);
    this.restart();
  }

  restart() {
    this.snapshots = [this.startState];
    this.goTo(0);
  }

  // Follows the text to what it is now; `advance` then reads what is new.
  edit(ids) {
    let same = 0;
    while (same < ids.length && ids[same] === this.ids[same]) same++;
    this.ids = ids;
    if (same < this.place) this.goTo(same);
  }

  // Follows another unit.
  watch(unit) {
    this.unit = unit;
    this.restart();
  }

  get isDone() {
    return this.place === this.ids.length;
  }

  // Reads one symbol.
  advance() {
    const { net, ids, state } = this;
    const id = ids[this.place];
    this.bits[this.place] = -Math.log2(softmax(net.predict(state))[id]);
    net.read(id, state);
    this.values[this.place++] = this.valuesOf(state);
    if (this.place % SNAPSHOT_EVERY === 0) this.snapshots[this.place / SNAPSHOT_EVERY] = net.copy(state);
  }

  valuesOf(state) {
    const { layer, index } = this.unit;
    const { gates, size } = this.net.layers[layer];
    const ofGates = Array.from({ length: gates.length / size }, (_, gate) => gates[gate * size + index]);
    return [...state.layers[layer].map((part) => part[index]), ...ofGates];
  }

  // Goes back to a place, from the last snapshot before it.
  goTo(place) {
    const number = Math.floor(place / SNAPSHOT_EVERY);
    this.snapshots.length = number + 1;
    this.place = number * SNAPSHOT_EVERY;
    this.state = this.net.copy(this.snapshots[number]);
    this.bits.length = this.values.length = this.place;
  }

  // Returns the state after so many symbols of the text, which were read.
  stateAt(place) {
    if (place === this.place) return this.net.copy(this.state);
    const number = Math.floor(place / SNAPSHOT_EVERY);
    const state = this.net.copy(this.snapshots[number]);
    for (let at = number * SNAPSHOT_EVERY; at < place; at++) this.net.read(this.ids[at], state);
    return state;
  }

  // Returns the state from which a text continues, and the symbol that may not come first. Without a text, it starts as a
  // line does that is not empty.
  continuation(newline) {
    if (this.ids.length || newline === undefined || this.net.spec.num_symbols === 1) return { state: this.stateAt(this.ids.length), excluded: null };
    const state = this.net.copy(this.startState);
    this.net.read(newline, state);
    return { state, excluded: newline };
  }

  // Returns the probabilities of what stands at a place, in an array that the next prediction overwrites.
  probabilities(place, newline) {
    const { state, excluded } = place || this.ids.length ? { state: this.stateAt(place), excluded: null } : this.continuation(newline);
    const logits = this.net.predict(state);
    if (excluded !== null) logits[excluded] = -Infinity;
    return softmax(logits);
  }
}

const loading = Net.load(data.net).then((net) => {
  const symbols = new Symbols(data.net);
  return { net, symbols, reading: new Reading(net), listeners: [] };
});
