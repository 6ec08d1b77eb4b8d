// A net with int8 weights, one symbol at a time: products of integers, the cells, and the logits of what comes next.
"use strict";

const OVERFLOW = "the weights of this model are so large that its state overflows";
// As in kernel.py: rows in a block, and columns in a chunk of it.
const [ROWS, COLUMNS] = [8, 8];
// Smaller inputs count as zeros, because their scale would overflow.
const LEAST_INPUT = 1e-30;

// Powers of two: 2^-1024, 2^-1023, ..., and 2^(0/64), 2^(1/64), ..., 2^(63/64), from square roots, which are exact.
const POWERS = Float64Array.from({ length: 2048 }, (_, index) => 2 ** (index - 1024));
const ROOTS = Float64Array.from({ length: 64 }, (_, index) => {
  let [power, root] = [1, 2];
  for (let bit = 32; bit; bit >>= 1) {
    root = Math.sqrt(root);
    if (index & bit) power *= root;
  }
  return power;
});
const [PARTS_PER_NAT, NATS_PER_PART] = [92.33248261893573, 0.010830424696249145];

// Returns e^x: a power of two in steps of 1/64, times the first terms of the series for what is left. Math.exp may differ
// among browsers in its last bit, and then the same seed would not give the same text in all of them.
function exponential(x) {
  const bounded = x < -700 ? -700 : x > 700 ? 700 : x;
  const part = ((bounded * PARTS_PER_NAT + 65536.5) | 0) - 65536;
  const r = bounded - part * NATS_PER_PART;
  return POWERS[(part >> 6) + 1024] * ROOTS[part & 63] * (1 + r * (1 + r * (1 / 2 + r * (1 / 6 + r * (1 / 24)))));
}

function sigmoid(x) {
  return 1 / (1 + exponential(-x));
}

function tanh(x) {
  return 1 - 2 / (1 + exponential(2 * x));
}

// The cells of cells.py: `layer.u` is what the input adds to each gate, `layer.add(product, x)` puts a product with the
// state into `layer.r`. Each writes the new state and the gates. States are float32, everything between is float64.
const CELLS = {
  rnn({ size, u, r, gates, add }, [h]) {
    add(0, h);
    for (let j = 0; j < size; j++) gates[j] = h[j] = tanh(u[j] + r[j]);
  },
  "rnn-relu"({ size, u, r, gates, add }, [h]) {
    add(0, h);
    for (let j = 0; j < size; j++) gates[j] = h[j] = Math.max(u[j] + r[j], 0);
  },
  lstm({ size, u, r, gates, add }, [h, c]) {
    add(0, h);
    for (let j = 0, k = size, l = 2 * size, m = 3 * size; j < size; j++, k++, l++, m++) {
      const i = sigmoid(u[j] + r[j]);
      const f = sigmoid(u[k] + r[k]);
      const g = tanh(u[l] + r[l]);
      const o = sigmoid(u[m] + r[m]);
      const cell = f * c[j] + i * g;
      h[j] = o * tanh(cell);
      c[j] = cell;
      gates[j] = i;
      gates[k] = f;
      gates[l] = g;
      gates[m] = o;
    }
  },
  "lstm-peephole"({ size, u, r, gates, add, peepholes: p }, [h, c]) {
    add(0, h);
    for (let j = 0, k = size, l = 2 * size, m = 3 * size; j < size; j++, k++, l++, m++) {
      const i = sigmoid(u[j] + r[j] + p[j] * c[j]);
      const f = sigmoid(u[k] + r[k] + p[k] * c[j]);
      const g = tanh(u[l] + r[l]);
      const cell = f * c[j] + i * g;
      const o = sigmoid(u[m] + r[m] + p[l] * cell);
      h[j] = o * tanh(cell);
      c[j] = cell;
      gates[j] = i;
      gates[k] = f;
      gates[l] = g;
      gates[m] = o;
    }
  },
  "lstm-coupled"({ size, u, r, gates, add }, [h, c]) {
    add(0, h);
    for (let j = 0, k = size, l = 2 * size; j < size; j++, k++, l++) {
      const f = sigmoid(u[j] + r[j]);
      const g = tanh(u[k] + r[k]);
      const o = sigmoid(u[l] + r[l]);
      const cell = f * c[j] + (1 - f) * g;
      h[j] = o * tanh(cell);
      c[j] = cell;
      gates[j] = f;
      gates[k] = g;
      gates[l] = o;
    }
  },
  gru({ size, u, r, gates, add }, [h]) {
    add(0, h);
    for (let j = 0, k = size, l = 2 * size; j < size; j++, k++, l++) {
      const reset = sigmoid(u[j] + r[j]);
      const z = sigmoid(u[k] + r[k]);
      const n = tanh(u[l] + reset * r[l]);
      h[j] = (1 - z) * n + z * h[j];
      gates[j] = reset;
      gates[k] = z;
      gates[l] = n;
    }
  },
  "gru-reset-before"({ size, u, r, gates, add, scratch }, [h]) {
    add(0, h);
    for (let j = 0, k = size; j < size; j++, k++) {
      const reset = sigmoid(u[j] + r[j]);
      scratch[j] = reset * h[j];
      gates[j] = reset;
      gates[k] = r[k] = sigmoid(u[k] + r[k]);
    }
    add(1, scratch);
    for (let j = 0, k = size, l = 2 * size; j < size; j++, k++, l++) {
      const n = tanh(u[l] + r[l]);
      h[j] = (1 - r[k]) * n + r[k] * h[j];
      gates[l] = n;
    }
  },
  mingru({ size, u, gates }, [h]) {
    for (let j = 0, k = size; j < size; j++, k++) {
      const z = sigmoid(u[j]);
      h[j] = (1 - z) * h[j] + z * u[k];
      gates[j] = z;
      gates[k] = u[k];
    }
  },
  minlstm({ size, u, gates }, [h]) {
    for (let j = 0, k = size, l = 2 * size; j < size; j++, k++, l++) {
      // sigmoid(u_f) / (sigmoid(u_f) + sigmoid(u_i)), also where both are 0.
      const forget = 1 + exponential(-u[k]);
      const input = 1 + exponential(-u[j]);
      const f = forget / (forget + input);
      h[j] = f * h[j] + (1 - f) * u[l];
      gates[j] = f;
      gates[k] = 1 - f;
      gates[l] = u[l];
    }
  },
};

// Multiplies int8 weights with int16 inputs: `products(weights, blocks, chunks)` multiplies the blocks that start there
// in the memory with `inputs`, and leaves a sum for each row in `sums`.
class Kernel {
  // weights: the bytes of all matrices. numInputs, numSums: the longest vectors. code: a WebAssembly module.
  static async make(weights, numInputs, numSums, code, isPlain = false) {
    const size = weights.length + 2 * numInputs + 4 * numSums;
    const bytes = await Kernel.memory(Math.ceil(size / 65536), code, isPlain);
    return new Kernel(weights, numInputs, numSums, bytes);
  }

  static async memory(pages, code, isPlain) {
    if (!isPlain && typeof WebAssembly === "object" && WebAssembly.validate(code)) {
      try {
        const memory = new WebAssembly.Memory({ initial: pages });
        const { instance } = await WebAssembly.instantiate(code, { page: { memory } });
        return { buffer: memory.buffer, multiply: instance.exports.multiply };
      } catch (error) {
        // Settings of a browser may forbid WebAssembly.
        console.info(error.message);
      }
    }
    return { buffer: new ArrayBuffer(pages * 65536), multiply: null };
  }

  constructor(weights, numInputs, numSums, { buffer, multiply }) {
    const atInputs = weights.length;
    const atSums = atInputs + 2 * numInputs;
    this.hasSimd = multiply !== null;
    this.weights = new Int8Array(buffer, 0, weights.length);
    this.weights.set(weights);
    this.inputs = new Int16Array(buffer, atInputs, numInputs);
    this.sums = new Int32Array(buffer, atSums, numSums);
    this.products = multiply
      ? (at, blocks, chunks) => multiply(at, atInputs, atSums, blocks, chunks)
      : (at, blocks, chunks) => this.multiplyPlainly(at, blocks, chunks);
  }

  multiplyPlainly(at, blocks, chunks) {
    const { weights: w, inputs: x, sums } = this;
    const columns = chunks * COLUMNS;
    for (let row = 0; row < blocks * ROWS; row++) {
      let place = at + (row - (row % ROWS)) * columns + (row % ROWS) * COLUMNS;
      let sum = 0;
      for (let column = 0; column < columns; column += COLUMNS, place += ROWS * COLUMNS) {
        sum += w[place] * x[column] + w[place + 1] * x[column + 1] + w[place + 2] * x[column + 2] + w[place + 3] * x[column + 3]
          + w[place + 4] * x[column + 4] + w[place + 5] * x[column + 5] + w[place + 6] * x[column + 6] + w[place + 7] * x[column + 7];
      }
      sums[row] = sum;
    }
  }
}

// Returns a function that puts the product of a matrix with a vector, and the bias, into an array from a place on.
function multiplier(kernel, floats, { at, rows, columns, scales: scalesAt, bias: biasAt, limit }) {
  const { inputs, sums, products } = kernel;
  const [scales, bias] = [floats.subarray(scalesAt, scalesAt + rows), floats.subarray(biasAt, biasAt + rows)];
  const [blocks, chunks] = [Math.ceil(rows / ROWS), Math.ceil(columns / COLUMNS)];
  return (x, y, from) => {
    let largest = 0;
    for (let column = 0; column < columns; column++) largest = Math.max(largest, Math.abs(x[column]));
    if (!(largest < Infinity)) throw new RangeError(OVERFLOW);
    const isLarge = largest > LEAST_INPUT;
    const factor = isLarge ? limit / largest : 0;
    for (let column = 0; column < columns; column++) inputs[column] = Math.floor(x[column] * factor + 0.5);
    inputs.fill(0, columns, chunks * COLUMNS);
    products(at, blocks, chunks);
    const step = (isLarge ? largest : 1) / limit;
    for (let row = 0; row < rows; row++) y[from + row] = sums[row] * (scales[row] * step) + bias[row];
  };
}

// The model: embedding, recurrent layers, output, and its n-grams. A state goes in and is changed; `copy` keeps one.
class Net {
  // spec: as model_page.py describes it. isPlain: without WebAssembly.
  static async load(spec, isPlain = false) {
    const weights = new Int8Array(await unpackedBytes(spec.weights));
    const floats = new Float32Array(await unpackedBytes(spec.floats));
    const ngrams = spec.ngrams ? new Ngrams(await unpackedBytes(spec.ngrams.packed, "deflate"), spec.ngrams, spec.num_symbols) : null;
    const code = Uint8Array.from(atob(spec.kernel), (character) => character.charCodeAt(0));
    const kernel = await Kernel.make(weights, spec.most_inputs, spec.most_sums, code, isPlain);
    return new Net(spec, kernel, floats, ngrams);
  }

  constructor(spec, kernel, floats, ngrams) {
    Object.assign(this, { spec, kernel, floats, ngrams, logits: new Float64Array(spec.num_symbols) });
    this.layers = spec.layers.map((layer) => this.layer(layer));
    this.output = multiplier(kernel, floats, spec.output);
    this.counted = ngrams && new Float64Array(spec.num_symbols);
    // What the first layer gets from each symbol that was read.
    this.firstInputs = new Map();
  }

  layer({ inputs, recurrent, bias, peepholes }) {
    const { hidden_size: size, num_gates: numGates, num_peepholes: numPeepholes } = this.spec;
    const products = recurrent.map((matrix) => multiplier(this.kernel, this.floats, matrix));
    const starts = recurrent.map((_, index) => recurrent.slice(0, index).reduce((sum, { rows }) => sum + rows, 0));
    const r = new Float64Array(numGates * size);
    return {
      size, r, u: null, gates: new Float32Array(numGates * size), scratch: new Float64Array(size),
      inputs: inputs && multiplier(this.kernel, this.floats, inputs),
      bias: this.floats.subarray(bias, bias + numGates * size),
      peepholes: this.floats.subarray(peepholes, peepholes + numPeepholes * size),
      add: (product, x) => products[product](x, r, starts[product]),
    };
  }

  // Returns the state before anything was read, not even the start of a text.
  before() {
    const { hidden_size: size, num_state: numParts, start } = this.spec;
    const parts = this.layers.map((_, layer) => Array.from({ length: numParts }, (_each, part) => {
      const at = start + (layer * numParts + part) * size;
      return this.floats.slice(at, at + size);
    }));
    return { layers: parts, contexts: this.ngrams?.start() };
  }

  copy({ layers, contexts }) {
    return { layers: layers.map((parts) => parts.map((part) => part.slice())), contexts: contexts?.slice() };
  }

  // Reads a symbol; the id one past the last symbol is the start of a text.
  read(id, state) {
    const step = CELLS[this.spec.cell];
    this.layers.forEach((layer, index) => {
      if (index) layer.inputs(state.layers[index - 1][0], layer.u ??= new Float64Array(layer.r.length), 0);
      else layer.u = this.firstInput(id);
      step(layer, state.layers[index]);
    });
    this.ngrams?.step(id, state.contexts);
  }

  firstInput(id) {
    const known = this.firstInputs.get(id);
    if (known) return known;
    const [layer] = this.layers;
    const { at, columns, scales } = this.spec.table;
    const row = this.kernel.weights.subarray(at + id * columns, at + (id + 1) * columns);
    const x = Float64Array.from(row, (integer) => integer * this.floats[scales + id]);
    const u = new Float64Array(layer.r.length);
    if (layer.inputs) layer.inputs(x, u, 0);
    else for (let gate = 0; gate < u.length; gate++) u[gate] = x[gate] + layer.bias[gate];
    this.firstInputs.set(id, u);
    return u;
  }

  // Returns the logits of what comes next, in an array that the next call overwrites.
  predict(state) {
    const { logits, counted, ngrams } = this;
    this.output(state.layers.at(-1)[0], logits, 0);
    if (ngrams) {
      ngrams.logProbabilities(state.contexts, counted);
      const { net, counts } = ngrams.weights;
      for (let id = 0; id < logits.length; id++) logits[id] = net * logits[id] + counts * counted[id];
    }
    return logits;
  }
}

// Turns logits into probabilities in place, at a temperature above 0.
function softmax(logits, temperature = 1) {
  let [most, sum] = [-Infinity, 0];
  for (let id = 0; id < logits.length; id++) most = Math.max(most, logits[id]);
  for (let id = 0; id < logits.length; id++) sum += logits[id] = logits[id] === -Infinity ? 0 : exponential((logits[id] - most) / temperature);
  for (let id = 0; id < logits.length; id++) logits[id] /= sum;
  return logits;
}

// Returns the most probable symbol; of equal ones the first.
function mostProbable(values) {
  let best = 0;
  for (let id = 1; id < values.length; id++) if (values[id] > values[best]) best = id;
  return best;
}
