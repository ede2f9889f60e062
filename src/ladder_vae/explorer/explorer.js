"use strict";
// What is chosen on each level, and what follows from it. Level 0 is z1, next to the image.

const DRAWS = 6;  // of each level

/** Uniform numbers that follow from a seed, so that the page begins alike every time. */
function uniform(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function normals(count, random) {
  return Float32Array.from({ length: count }, () =>
    Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random()));
}

class Explorer {
  constructor(facts, weights) {
    const constants = constantsOf(bytesOf(weights), facts.programs.constants);
    const generate = runnable(facts.programs.generate, constants);
    const infer = runnable(facts.programs.infer, constants);
    this.facts = facts;
    this.random = uniform(3);
    this.noise = this.fresh();
    this.generate = (code) => generate(...code)[0];
    /** Rates of all levels, nats, and the code of a picture. */
    this.infer = (picture) => { const [rates, ...code] = infer(picture, ...this.noise); return { rates, code }; };
    this.sources = { a: null, b: null };
    this.levels = facts.levels.map((level) => ({
      ...level, choice: "a", code: null, temperature: 1, held: false, draws: [], changed: () => {},
    }));
    for (const level of this.levels) this.redraw(level);
    this.take("a", this.observed(Math.min(2, facts.pictures.length - 1)));
    this.take("b", this.dreamed());
  }

  fresh() { return this.facts.levels.map((level) => normals(level.size, this.random)); }

  redraw(level) { level.draws = Array.from({ length: DRAWS }, () => normals(level.size, this.random)); }

  /** A test image. */
  observed(number) {
    const { name, bytes } = this.facts.pictures[number];
    return this.read(Float32Array.from(bytesOf(bytes), (byte) => byte / 255), name);
  }

  /** A picture with intensities from 0 to 1, read by the network. */
  read(picture, name) { return { name, picture, code: this.infer(picture).code }; }

  /** A draw of the prior. */
  dreamed() {
    const code = this.fresh();
    return { name: "made up by the network", picture: this.generate(code), code };
  }

  /** Make something image A or B; levels that are taken from it, and are not held, follow. */
  take(name, source) {
    this.sources[name] = source;
    this.levels.forEach((level, number) => {
      if (level.choice !== name) return;
      if (level.held) level.choice = "own";
      else level.code = source.code[number];
    });
    this.touch();
  }

  choose(number, choice, code) {
    const level = this.levels[number];
    level.choice = choice;
    level.code = choice === "own" ? code : this.sources[choice].code[number];
    this.touch();
  }

  /** Let the innovations of a unit, or the mean of those of a channel, be a number. */
  move(number, mover, value) {
    const level = this.levels[number], code = level.code.slice();
    const by = value - this.position(number, mover);
    for (let i = 0; i < level.places; i++) code[mover * level.places + i] += by;
    this.choose(number, "own", code);
  }

  position(number, mover) {
    const { code, places } = this.levels[number];
    return code.subarray(mover * places, (mover + 1) * places).reduce((total, e) => total + e, 0) / places;
  }

  anew() {
    this.levels.forEach((level, number) => {
      if (!level.held) this.choose(number, "own", normals(level.size, this.random));
    });
  }

  reset() {
    this.levels.forEach((level, number) => {
      Object.assign(level, { held: false, temperature: 1 });
      this.choose(number, "a");
    });
  }

  /** The innovations of all levels, with another code on one of them if it is given. */
  code(replaced = -1, replacement = null) {
    return this.levels.map(({ code, temperature }, number) => {
      const e = number === replaced ? replacement : code;
      return temperature === 1 ? e : e.map((value) => value * temperature);
    });
  }

  /** The code of a small picture: 0 is from A, 1 from B, the rest are draws. */
  option(number, place) {
    const { a, b } = this.sources;
    return [a && a.code[number], b && b.code[number], ...this.levels[number].draws][place];
  }

  touch() {
    this.stale = true;
    for (const level of this.levels) level.stale = Array(DRAWS + 2).fill(true);
    this.changed?.();
  }
}
