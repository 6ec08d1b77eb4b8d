// N-grams beside a net, as ngrams.py and packed_ngrams.py describe them: a trie in flat arrays, factors as codes.
"use strict";

const LEAST_LOG = -24 * Math.LN2;

class Ngrams {
  // buffer: the arrays one after the other. weights: of the net and of the counts in the logits.
  constructor(buffer, { num_ngrams: numNgrams, num_inner: numInner, integer_bytes: width, codes_per_nat: codesPerNat, order, weights }, numSymbols) {
    const Integers = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array }[width];
    const ends = [numNgrams * width, (numNgrams + numInner) * width, (numNgrams + numInner) * width + numNgrams];
    Object.assign(this, { numInner, codesPerNat, order, weights, numSymbols });
    this.symbols = new Integers(buffer.slice(0, ends[0]));
    this.children = new Integers(buffer.slice(ends[0], ends[1]));
    this.codes = new Int8Array(buffer, ends[1], numNgrams);
    const backoffs = new Int8Array(buffer, ends[2]);
    // Node n + 1 is n-gram n, and node 0 the empty one. Only n-grams with children have a backoff other than 1.
    this.backoffs = new Int8Array(numInner);
    this.first = new Int32Array(numInner);
    for (let node = 0, child = 1, parent = 0; node < numInner; node++) {
      this.first[node] = child;
      child += this.children[node];
      if (this.children[node]) this.backoffs[node] = backoffs[parent++];
    }
    // After the empty context, which is in every distribution.
    this.empty = new Float64Array(numSymbols).fill(this.backoffs[0] + codesPerNat * Math.fround(Math.log(numSymbols)));
    for (let ngram = 0; ngram < this.children[0]; ngram++) this.empty[this.symbols[ngram]] = this.codes[ngram];
  }

  // Returns the nodes of the contexts of 0, 1, 2, ... symbols that end a text; -1 for those that were never seen.
  start() {
    const contexts = new Int32Array(this.order).fill(-1);
    contexts[0] = 0;
    return contexts;
  }

  step(id, contexts) {
    for (let length = contexts.length - 1; length > 0; length--) contexts[length] = this.child(contexts[length - 1], id);
  }

  // Puts the logarithms of the probabilities of what comes next into an array.
  logProbabilities(contexts, logs) {
    const { backoffs, children, codes, codesPerNat, first, symbols } = this;
    const isInner = (node) => node >= 0 && node < this.numInner;
    let scale = 0;
    for (let length = 1; length < contexts.length; length++) if (isInner(contexts[length])) scale += backoffs[contexts[length]];
    for (let id = 0; id < logs.length; id++) logs[id] = this.empty[id] + scale;
    // The children of longer contexts take the place of those of shorter ones.
    for (let length = 1; length < contexts.length; length++) {
      const node = contexts[length];
      if (!isInner(node)) continue;
      scale -= backoffs[node];
      for (let ngram = first[node] - 1, end = ngram + children[node]; ngram < end; ngram++) logs[symbols[ngram]] = codes[ngram] + scale;
    }
    let sum = 0;
    for (let id = 0; id < logs.length; id++) sum += exponential(logs[id] /= -codesPerNat);
    // Math.log may differ among browsers in its last bit.
    const whole = Math.fround(Math.log(sum));
    for (let id = 0; id < logs.length; id++) logs[id] = Math.max(logs[id] - whole, LEAST_LOG);
  }

  // Returns the node of a context with one more symbol, or -1 if it or the context was never seen.
  child(node, id) {
    if (node < 0 || node >= this.numInner) return -1;
    let [low, high] = [this.first[node] - 1, this.first[node] - 1 + this.children[node]];
    const end = high;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.symbols[middle] < id) low = middle + 1;
      else high = middle;
    }
    return low < end && this.symbols[low] === id ? low + 1 : -1;
  }
}
