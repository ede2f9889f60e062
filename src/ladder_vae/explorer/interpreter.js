"use strict";
// Runs the programs that program.py writes. An array is a Float32Array; operations write into `out`.

/** Numbers in half precision, for each of the 65,536 patterns of bits. */
function halves() {
  const table = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const size = exponent === 0 ? fraction * 2 ** -24
      : exponent === 31 ? (fraction ? NaN : Infinity)
        : (1024 + fraction) * 2 ** (exponent - 25);
    table[bits] = bits & 0x8000 ? -size : size;
  }
  return table;
}

/** The bytes that a text in base64 stands for. */
function bytesOf(text) {
  const binary = atob(text.trim());
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** The constants of a table of [offset, length, half precision?]. */
function constantsOf(bytes, table) {
  const half = halves();
  return table.map(([offset, length, isHalf]) => {
    if (!isHalf) return new Float32Array(bytes.buffer, offset, length);
    const patterns = new Uint16Array(bytes.buffer, offset, length);
    const values = new Float32Array(length);
    for (let i = 0; i < length; i++) values[i] = half[patterns[i]];
    return values;
  });
}

/** The inner product of `count` numbers. Four sums at once: one would wait for itself. */
function product(x, at, y, from, count) {
  let a = 0, b = 0, c = 0, d = 0;
  const end = at + count, even = end - (count % 4);
  for (; at < even; at += 4, from += 4) {
    a += x[at] * y[from];
    b += x[at + 1] * y[from + 1];
    c += x[at + 2] * y[from + 2];
    d += x[at + 3] * y[from + 3];
  }
  for (; at < end; at++, from++) a += x[at] * y[from];
  return a + b + c + d;
}

const unary = (f) => (out, [x]) => { for (let i = 0; i < out.length; i++) out[i] = f(x[i]); };

/** Arrays of one element stand for as many as there are. */
const binary = (f) => (out, [a, b]) => {
  const n = out.length;
  if (a.length === b.length) for (let i = 0; i < n; i++) out[i] = f(a[i], b[i]);
  else if (b.length === 1) { const y = b[0]; for (let i = 0; i < n; i++) out[i] = f(a[i], y); }
  else { const y = a[0]; for (let i = 0; i < n; i++) out[i] = f(y, b[i]); }
};

const reduce = (f, start, end = (total) => total) => (out, [x], { count }) => {
  for (let row = 0, i = 0; row < out.length; row++) {
    let total = start;
    for (const last = i + count; i < last; i++) total = f(total, x[i]);
    out[row] = end(total, count);
  }
};

const OPERATIONS = {
  abs: unary(Math.abs),
  copy: unary((x) => x),
  exp: unary(Math.exp),
  expm1: unary(Math.expm1),
  log: unary(Math.log),
  log1p: unary(Math.log1p),
  logical_not: unary((x) => (x ? 0 : 1)),
  neg: unary((x) => -x),
  reciprocal: unary((x) => 1 / x),
  relu: unary((x) => (x > 0 ? x : 0)),
  rsqrt: unary((x) => 1 / Math.sqrt(x)),
  sigmoid: unary((x) => 1 / (1 + Math.exp(-x))),
  sign: unary(Math.sign),
  sqrt: unary(Math.sqrt),
  tanh: unary(Math.tanh),
  leaky_relu(out, [x], { slope }) {
    for (let i = 0; i < out.length; i++) out[i] = x[i] > 0 ? x[i] : slope * x[i];
  },

  add: binary((a, b) => a + b),
  sub: binary((a, b) => a - b),
  mul: binary((a, b) => a * b),
  div: binary((a, b) => a / b),
  pow: binary(Math.pow),
  maximum: binary(Math.max),
  minimum: binary(Math.min),
  eq: binary((a, b) => (a === b ? 1 : 0)),
  ne: binary((a, b) => (a !== b ? 1 : 0)),
  lt: binary((a, b) => (a < b ? 1 : 0)),
  le: binary((a, b) => (a <= b ? 1 : 0)),
  gt: binary((a, b) => (a > b ? 1 : 0)),
  ge: binary((a, b) => (a >= b ? 1 : 0)),
  logical_and: binary((a, b) => (a && b ? 1 : 0)),
  where(out, [condition, a, b]) {
    const one = (x) => (x.length === 1 && out.length > 1 ? 0 : 1);
    const c = one(condition), p = one(a), q = one(b);
    for (let i = 0; i < out.length; i++) out[i] = condition[i * c] ? a[i * p] : b[i * q];
  },

  sum: reduce((total, x) => total + x, 0),
  mean: reduce((total, x) => total + x, 0, (total, count) => total / count),
  max: reduce(Math.max, -Infinity),
  /** Each row to mean 0 and variance 1. */
  standardize(out, [x], { count, eps }) {
    for (let at = 0; at < out.length; at += count) {
      let mean = 0, variance = 0;
      for (let i = 0; i < count; i++) mean += x[at + i] / count;
      for (let i = 0; i < count; i++) variance += (x[at + i] - mean) ** 2 / count;
      const narrow = 1 / Math.sqrt(variance + eps);
      for (let i = 0; i < count; i++) out[at + i] = (x[at + i] - mean) * narrow;
    }
  },
  /** A factor and a summand for each channel, with `inner` elements of a channel in a row. */
  affine(out, [x, factor, summand], { inner }) {
    for (let i = 0, c = 0; i < out.length; c = (c + 1) % factor.length) {
      for (const last = i + inner; i < last; i++) out[i] = x[i] * factor[c] + summand[c];
    }
  },

  /** Element (i, j, ...) is that at offset + i strides[0] + j strides[1] + ... */
  strided(out, [x], { sizes, strides, offset }) {
    const rank = sizes.length;
    if (rank === 0) { out[0] = x[offset]; return; }
    const count = new Int32Array(rank), last = sizes[rank - 1], step = strides[rank - 1];
    for (let at = offset, i = 0; i < out.length;) {
      for (let j = 0, from = at; j < last; j++, from += step) out[i++] = x[from];
      for (let axis = rank - 2; axis >= 0; axis--) {
        at += strides[axis];
        if (++count[axis] < sizes[axis]) break;
        at -= strides[axis] * sizes[axis];
        count[axis] = 0;
      }
    }
  },
  /** Elements of all inputs, one after the other and counted from 1; 0 is zero. */
  take(out, inputs, { index }) {
    const all = new Float32Array(1 + inputs.reduce((total, x) => total + x.length, 0));
    let at = 1;
    for (const x of inputs) { all.set(x, at); at += x.length; }
    for (let i = 0; i < out.length; i++) out[i] = all[index[i]];
  },

  /** Rows of x times the rows of a matrix. */
  linear(out, [x, matrix, bias], { inputs, outputs }) {
    for (let row = 0, i = 0; i < out.length; row += inputs) {
      for (let o = 0; o < outputs; o++) out[i++] = (bias ? bias[o] : 0) + product(x, row, matrix, o * inputs, inputs);
    }
  },
  convolution(out, [x, weight, bias], { images, channels: [from, to], size: [height, width],
    result: [rows, columns], kernel: [tall, wide], padding: [above, left], groups }) {
    const read = from / groups, written = to / groups, count = read * tall * wide, places = rows * columns;
    const patch = new Float32Array(count);
    for (let image = 0; image < images; image++) {
      for (let group = 0; group < groups; group++) {
        for (let place = 0; place < places; place++) {
          const row = Math.floor(place / columns) - above, column = (place % columns) - left;
          for (let c = 0, k = 0; c < read; c++) {
            const plane = (image * from + group * read + c) * height;
            for (let y = row; y < row + tall; y++) {
              const line = (plane + y) * width, inside = y >= 0 && y < height;
              for (let at = column; at < column + wide; at++) {
                patch[k++] = inside && at >= 0 && at < width ? x[line + at] : 0;
              }
            }
          }
          for (let o = group * written; o < (group + 1) * written; o++) {
            out[(image * to + o) * places + place] = bias[o] + product(patch, 0, weight, o * count, count);
          }
        }
      }
    }
  },
  /** Means over blocks of pixels; those at the far edges may be smaller. */
  average_pool(out, [x], { images, size: [height, width], result: [rows, columns], kernel: [tall, wide] }) {
    for (let image = 0, i = 0; image < images; image++) {
      for (let row = 0; row < rows; row++) {
        for (let column = 0; column < columns; column++) {
          const bottom = Math.min(height, (row + 1) * tall), end = Math.min(width, (column + 1) * wide);
          let total = 0, count = 0;
          for (let y = row * tall; y < bottom; y++) {
            for (let at = column * wide; at < end; at++, count++) total += x[(image * height + y) * width + at];
          }
          out[i++] = total / count;
        }
      }
    }
  },
};

/** A program as a function of arrays; it gives a list of arrays that stay as they are until it is called again. */
function runnable(program, constants) {
  const { sizes, inputs, outputs, steps } = program;
  const values = new Array(sizes.length);
  const slot = (place) => (place < 0 ? constants[-1 - place] : values[place]);
  for (const step of steps) values[step.out] = new Float32Array(sizes[step.out]);
  const unknown = steps.find((step) => !(step.op in OPERATIONS));
  if (unknown) throw new Error(`this page does not know the operation ${unknown.op}`);
  return (...given) => {
    inputs.forEach((place, i) => {
      if (given[i].length !== sizes[place]) throw new Error(`input ${i} has ${given[i].length} numbers`);
      values[place] = given[i];
    });
    for (const step of steps) OPERATIONS[step.op](values[step.out], step.in.map(slot), step);
    return outputs.map((place) => values[place].slice());
  };
}
