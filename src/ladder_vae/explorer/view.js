"use strict";
// What is seen of an explorer, and what is done with it.

const FRAME = 12;  // milliseconds of computing before the page is shown again
const byId = (id) => document.getElementById(id);

function element(tag, settings = {}, ...children) {
  const made = Object.assign(document.createElement(tag), settings);
  made.append(...children);
  return made;
}

/** Intensities (C, H, W) on a canvas of as many pixels. */
function show(canvas, values, [channels, height, width]) {
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height), size = height * width;
  for (let i = 0; i < size; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = 255 * values[(channels === 3 ? c : 0) * size + i];
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

class View {
  constructor(explorer) {
    this.explorer = explorer;
    this.image = explorer.facts.image;
    this.target = "a";
    this.waiting = [];
    this.rates = explorer.levels.map((level) => this.rateRow(level));
    byId("rates").append(...this.rates.map((row) => row.row).reverse());
    this.cards = explorer.levels.map((level, number) => this.card(level, number));
    byId("levels").append(...this.cards.map((card) => card.card).reverse());
    this.connect();
    explorer.changed = () => this.wake();
    this.wake();
  }

  rateRow(level) {
    const widest = this.widest ??= 2.2 * Math.max(...this.explorer.levels.map((each) => each.rate));
    const bar = element("span", { className: "bar" }), value = element("span", { className: "value" });
    const tick = element("span", { className: "tick", title: `an average test image: ${level.rate.toFixed(1)}` });
    tick.style.left = `${100 * Math.max(0, level.rate) / widest}%`;
    const row = element("li", {}, element("b", { textContent: level.name }),
      element("span", { className: "track" }, bar, tick), value);
    return { row, bar, value, widest };
  }

  card(level, number) {
    const depth = this.explorer.levels.length;
    const effect = element("span", { className: "effect" });
    const held = element("input", { type: "checkbox" });
    held.addEventListener("change", () => { level.held = held.checked; this.wake(); });
    const hold = element("label", { className: "hold", title: "Keep this level when others are drawn anew, " +
      "or image A or B is changed" }, held, " hold");
    const names = ["A", "B", ...Array(DRAWS).fill("")];
    const cells = names.map((name, place) => {
      const canvas = element("canvas");
      const what = place < 2 ? `${level.name} from image ${name}` : `${level.name} drawn anew, number ${place - 1}`;
      const button = element("button", { className: "cell", title: what, ariaLabel: what },
        canvas, element("span", { textContent: name || "new" }));
      button.addEventListener("click", () =>
        this.explorer.choose(number, ["a", "b"][place] ?? "own", this.explorer.option(number, place)));
      return { button, canvas };
    });
    const more = element("button", { className: "more", textContent: "↻", title: "Other draws",
      ariaLabel: `Other draws of ${level.name}` });
    more.addEventListener("click", () => { this.explorer.redraw(level); this.explorer.touch(); });
    const warm = element("input", { type: "range", min: 0, max: 2, step: 0.05,
      ariaLabel: `Temperature of ${level.name}` });
    const degrees = element("output");
    warm.addEventListener("input", () => { level.temperature = Number(warm.value); this.explorer.touch(); });
    const sliders = level.movers.map((mover) => this.slider(level, number, mover));
    const kind = level.places > 1 ? "channel" : "unit";
    const many = (count) => `${count} ${kind}${count === 1 ? "" : "s"}`;
    const rows = element("details", { className: "movers", open: number === depth - 1 },
      element("summary", { textContent: level.movers.length
        ? `${many(level.movers.length)} of ${level.size / level.places} awake: move one`
        : "asleep: none of its units tells anything" }),
      ...sliders.map((slider) => slider.row));
    const card = element("article", { className: "level" },
      element("header", {}, element("h2", { textContent: level.name }),
        element("span", { className: "role", textContent: depth > 1 ? `step ${depth - number} of ${depth}` : "" }), effect, hold),
      element("div", { className: "strip" }, ...cells.map((cell) => cell.button), more),
      element("label", { className: "mover warm" }, element("span", { textContent: "temperature" }), warm, degrees,
        element("span", { className: "note word", textContent: "0: as expected" })), rows);
    return { card, cells, held, warm, degrees, sliders, effect };
  }

  slider(level, number, mover) {
    const name = `${level.places > 1 ? "channel" : "unit"} ${mover.number}`;
    const range = element("input", { type: "range", min: -3, max: 3, step: 0.05,
      ariaLabel: `${name} of ${level.name}` });
    const value = element("output");
    range.addEventListener("input", () => this.explorer.move(number, mover.number, Number(range.value)));
    const row = element("label", { className: "mover" }, element("span", { textContent: name }), range, value,
      element("span", { className: "note" }, element("span", { className: "word", textContent: "tells " }),
        `${mover.rate.toFixed(2)} nats`));
    return { row, range, value, mover };
  }

  connect() {
    const { explorer } = this;
    byId("anew").addEventListener("click", () => explorer.anew());
    byId("reset").addEventListener("click", () => explorer.reset());
    byId("dream").addEventListener("click", () => explorer.take(this.target, explorer.dreamed()));
    byId("gallery").append(...explorer.facts.pictures.map(({ name, bytes }, number) => {
      const canvas = element("canvas");
      show(canvas, Float32Array.from(bytesOf(bytes), (byte) => byte / 255), this.image);
      const button = element("button", { className: "thumb", title: name, ariaLabel: name }, canvas);
      button.addEventListener("click", () => explorer.take(this.target, explorer.observed(number)));
      return button;
    }));
    this.tiles = [...document.querySelectorAll(".source")];
    for (const tile of this.tiles) {
      tile.addEventListener("click", () => { this.target = tile.dataset.source; this.wake(); });
    }
    if (!byId("pad")) return;
    const sheet = paper(byId("paper"), (ink, side) => {
      const drawn = centered(ink, side, this.image[1], this.image[2]);
      explorer.take(this.target, explorer.read(drawn, "drawn by you"));
      show(byId("scaled"), drawn.map((value) => (value > 0.5 ? 1 : 0)), this.image);
    });
    const open = (isOpen) => {
      byId("pad").hidden = !isOpen;
      byId("open-pad").ariaExpanded = String(isOpen);
      if (isOpen) byId("pad").scrollIntoView({ block: "nearest" });
    };
    show(byId("scaled"), new Float32Array(this.image[1] * this.image[2]), this.image);
    byId("open-pad").addEventListener("click", () => open(byId("pad").hidden));
    byId("close-pad").addEventListener("click", () => open(false));
    byId("clear").addEventListener("click", () => sheet.clear());
  }

  wake() {
    this.moved = true;
    this.planned ??= requestAnimationFrame(() => this.frame());
  }

  /** Show the picture and its rates at once, and small pictures as time allows. */
  frame() {
    const { explorer } = this, begin = performance.now();
    this.planned = null;
    if (explorer.stale) {
      explorer.stale = false;
      this.picture = explorer.generate(explorer.code());
      this.told = explorer.infer(this.picture).rates;
      show(byId("picture"), this.picture, this.image);
      this.showRates();
    }
    if (this.moved) {
      this.moved = false;
      this.showState();
    }
    const waits = [];
    explorer.levels.forEach((level, number) => level.stale.forEach((stale, place) => {
      if (stale) waits.push([number, place]);
    }));
    // Beginning after the last one shown, so that each has its turn while something moves all the time.
    this.turn = waits.findIndex(([n, p]) => n * 100 + p > (this.last ?? -1));
    const order = this.turn < 0 ? waits : [...waits.slice(this.turn), ...waits.slice(0, this.turn)];
    for (const [number, place] of order) {
      if (performance.now() - begin > FRAME) break;
      this.showOption(number, place);
      this.last = number * 100 + place;
    }
    if (order.some(([number, place]) => explorer.levels[number].stale[place]) || explorer.stale) this.wake();
    else for (const resolve of this.waiting.splice(0)) resolve();
  }

  showOption(number, place) {
    const { explorer } = this, level = explorer.levels[number], card = this.cards[number];
    level.stale[place] = false;
    const picture = explorer.generate(explorer.code(number, explorer.option(number, place)));
    show(card.cells[place].canvas, picture, this.image);
    if (place < 2) return;
    let apart = 0, both = 0;
    for (let i = 0; i < picture.length; i++) {
      apart += Math.abs(picture[i] - this.picture[i]);
      both += picture[i] + this.picture[i];
    }
    (card.shares ??= [])[place - 2] = both ? apart / both : 0;
    const mean = card.shares.reduce((total, share) => total + share, 0) / card.shares.length;
    card.effect.textContent = `a new draw changes ${Math.round(100 * mean)} % of the picture`;
  }

  showRates() {
    this.rates.forEach(({ bar, value, widest }, number) => {
      const rate = this.told[number];
      bar.style.width = `${Math.min(100, 100 * Math.max(0, rate) / widest)}%`;
      value.textContent = rate.toFixed(1).replace("-", "−");
    });
    const total = this.told.reduce((sum, rate) => sum + rate, 0);
    const usual = this.explorer.levels.reduce((sum, level) => sum + level.rate, 0);
    byId("total").textContent =
      `Together ${total.toFixed(1)} nats. Ticks: an average test image, ${usual.toFixed(1)}.`;
  }

  showState() {
    const { explorer } = this;
    explorer.levels.forEach((level, number) => {
      const card = this.cards[number];
      card.held.checked = level.held;
      card.card.classList.toggle("held", level.held);
      card.warm.value = level.temperature;
      card.degrees.textContent = level.temperature.toFixed(2);
      card.cells.forEach(({ button }, place) => {
        const used = place < 2 ? level.choice === ["a", "b"][place]
          : level.choice === "own" && level.code === level.draws[place - 2];
        button.ariaPressed = String(used);
      });
      for (const { range, value, mover } of card.sliders) {
        const position = explorer.position(number, mover.number);
        if (document.activeElement !== range || Math.abs(range.value - position) > 0.03) range.value = position;
        value.textContent = position.toFixed(1).replace("-", "−");
      }
    });
    for (const tile of this.tiles) {
      const source = explorer.sources[tile.dataset.source];
      tile.ariaPressed = String(tile.dataset.source === this.target);
      tile.querySelector(".name").textContent = source.name;
      show(tile.querySelector("canvas"), source.picture, this.image);
    }
    const from = { a: "from A", b: "from B", own: "new" };
    const few = explorer.levels.length <= 4;
    byId("made-of").textContent = few ? explorer.levels.map((level) =>
      `${level.name} ${from[level.choice]}`).reverse().join(" · ") : "";
    byId("target").textContent = this.target.toUpperCase();
  }

  /** Resolves once everything is shown as it is. */
  settled() { return new Promise((resolve) => { this.waiting.push(resolve); this.wake(); }); }
}

try {
  const explorer = new Explorer(JSON.parse(byId("facts").textContent), byId("weights").textContent);
  byId("main").hidden = false;
  explorer.view = new View(explorer);
  byId("problem").hidden = true;
  window.explorer = explorer;  // for the console
} catch (error) {
  byId("main").hidden = true;
  byId("problem").textContent = `This browser cannot run the network (${error.message}); a current Firefox, ` +
    "Chrome, Edge or Safari can.";
  throw error;
}
