// Heat maps on a canvas: one row a layer, steps from left to right, a layer picked by hand or by key.

const MISSING = 65535; // codes of a cell, see report/_grids.py
const BROKEN = 65534;
const ZERO = 65533;
const LARGEST = 65532;
const BROKEN_COLOUR = "#c2006b"; // as in style.css

/** Turn "#rrggbb" colours into a table of 256 colours, with straight lines between them. */
function ramp(colours) {
  const parsed = colours.map((c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16)));
  const table = new Uint32Array(256);
  for (let i = 0; i < 256; i++) {
    const place = (i / 255) * (parsed.length - 1);
    const left = Math.min(Math.floor(place), parsed.length - 2);
    const [r, g, b] = [0, 1, 2].map((c) => Math.round(parsed[left][c] + (place - left) * (parsed[left + 1][c] - parsed[left][c])));
    table[i] = (255 << 24) | (b << 16) | (g << 8) | r;
  }
  return table;
}

/** One signal of one run, for many sites: the codes and what they mean. */
class Grid {
  constructor(map, run, sites) {
    this.map = map;
    this.steps = unpack(run.steps, Int32Array);
    this.codes = unpack(run.codes, Uint16Array);
    this.lows = unpack(run.lows, Float32Array);
    this.highs = unpack(run.highs, Float32Array);
    this.sites = map.rows.map((i) => sites[i]);
  }

  /** Return the value of a cell on the map's scale: its logarithm if that is logarithmic. */
  scaled(row, column) {
    const code = this.codes[row * this.steps.length + column];
    if (code === MISSING || code === BROKEN) return NaN;
    if (code === ZERO) return -Infinity;
    return this.lows[row] + (code / LARGEST) * (this.highs[row] - this.lows[row]);
  }

  value(row, column) {
    const scaled = this.scaled(row, column);
    return this.map.scale === "log" ? Math.exp(scaled) : scaled;
  }

  text(row, column) {
    const code = this.codes[row * this.steps.length + column];
    if (code === MISSING) return "no value";
    return code === BROKEN ? "not finite" : number(this.value(row, column));
  }

  /** Return a site's curve: its values over the steps that have one. */
  curve(row) {
    const y = new Float32Array(this.steps.length);
    const kept = [];
    for (let i = 0; i < y.length; i++) {
      y[i] = this.value(row, i);
      if (this.codes[row * y.length + i] !== MISSING) kept.push(i);
    }
    return { x: Int32Array.from(kept, (i) => this.steps[i]), y: Float32Array.from(kept, (i) => y[i]) };
  }
}

/** A heat map of a grid. */
class HeatMap {
  constructor({ grid, colours, label, domain, onPick }) {
    Object.assign(this, { grid, label, domain, onPick, row: null, column: null });
    this.table = ramp(colours);
    const rows = grid.sites.length;
    this.rowHeight = rows <= 18 ? clamp(Math.round(260 / rows), 16, 26) : rows > 320 ? 2 : Math.max(3, Math.round(300 / rows));
    this.height = rows * this.rowHeight;
    this.labels = node("div", { class: "heat-labels", "aria-hidden": "true" });
    this.labels.style.height = `${this.height}px`;
    this.canvas = node("canvas", { "aria-hidden": "true" });
    this.outline = node("div", { class: "heat-row", hidden: true });
    this.step = node("div", { class: "heat-step", hidden: true });
    this.field = node(
      "div",
      { class: "heat-field", tabindex: 0, role: "slider", "aria-orientation": "vertical", "aria-label": `${label}: pick a layer with the arrow keys`, "aria-valuemin": 1, "aria-valuemax": rows },
      this.canvas,
      this.outline,
      this.step,
    );
    this.axis = node("div", { class: "heat-axis", "aria-hidden": "true" });
    const body = node("div", { class: "heat-body" }, this.labels, this.field);
    const below = node("div", { class: "heat-body" }, this.axis);
    this.scroll = node("div", { class: "heat-scroll" }, body);
    this.element = node("div", { class: "heat" }, this.scroll, below);
    this.tip = new Tip(this.element);
    onWidth(this.field, (width) => this.draw(width));
    cursor.listeners.push((step) => this.point(step));
    this.listen();
  }

  draw(width) {
    this.width = width;
    const density = Math.min(window.devicePixelRatio || 1, 2);
    const wide = Math.round(width * density);
    const rows = this.grid.sites.length;
    const small = node("canvas");
    small.width = wide;
    small.height = rows;
    const context = small.getContext("2d");
    const image = context.createImageData(wide, rows);
    this.paint(new Uint32Array(image.data.buffer), wide, rows);
    context.putImageData(image, 0, 0);
    this.canvas.width = wide;
    this.canvas.height = Math.round(this.height * density);
    this.canvas.style.height = `${this.height}px`;
    const target = this.canvas.getContext("2d");
    target.imageSmoothingEnabled = false;
    target.drawImage(small, 0, 0, wide, this.canvas.height);
    this.drawLabels();
    this.drawAxis();
    this.outlineRow();
    this.point(cursor.step);
  }

  /** Fill pixels: each shows the largest value of the steps that it covers. */
  paint(pixels, wide, rows) {
    const { grid, table } = this;
    const { codes, steps } = grid;
    const [low, high] = grid.map.colour;
    const broken = ramp([BROKEN_COLOUR, BROKEN_COLOUR])[0];
    const spans = this.spans(wide);
    for (let row = 0; row < rows; row++) {
      const from = row * steps.length;
      const base = (grid.lows[row] - low) / (high - low || 1);
      const factor = (grid.highs[row] - grid.lows[row]) / (high - low || 1) / LARGEST;
      for (let x = 0; x < wide; x++) {
        let best = -1;
        for (let column = spans[2 * x]; column <= spans[2 * x + 1]; column++) {
          const code = codes[from + column];
          if (code === MISSING) continue;
          if (code === BROKEN) {
            best = 999;
            break;
          }
          const place = code === ZERO ? 0 : clamp(base + code * factor, 0, 1);
          if (place > best) best = place;
        }
        if (best >= 0) pixels[row * wide + x] = best === 999 ? broken : table[Math.round(best * 255)];
      }
    }
  }

  /** Return first and last column for each pixel; an empty span where the run has no steps. */
  spans(wide) {
    const { steps } = this.grid;
    const [first, last] = this.domain;
    const end = steps.length - 1;
    const gap = end > 0 ? (steps[end] - steps[0]) / end : last - first;
    const made = new Int32Array(2 * wide);
    let column = 0;
    for (let x = 0; x < wide; x++) {
      const from = first + (x / wide) * (last - first);
      const to = first + ((x + 1) / wide) * (last - first);
      while (column < end && steps[column + 1] <= from) column++;
      let until = column;
      while (until < end && steps[until + 1] < to) until++;
      const outside = to < steps[0] - gap || from > steps[end] + gap;
      made[2 * x] = outside ? 0 : column;
      made[2 * x + 1] = outside ? -1 : until;
    }
    return made;
  }

  drawLabels() {
    const { rowHeight, grid } = this;
    this.labels.replaceChildren();
    let below = -99;
    let before = null;
    grid.sites.forEach((site, row) => {
      const each = rowHeight >= 14;
      const group = each ? site : groupOf(site);
      if (group === before) return;
      before = group;
      const y = row * rowHeight;
      if (y - below < 14 || y + 14 > this.height + 2) return;
      if (!each && row) {
        const line = node("i");
        line.style.top = `${y}px`;
        this.labels.append(line);
      }
      below = y;
      const text = node("span", { title: site }, shorten(group, this.labels.clientWidth - 9));
      text.style.top = `${y + (each ? (rowHeight - 14) / 2 : 0)}px`;
      this.labels.append(text);
    });
  }

  drawAxis() {
    const [first, last] = this.domain;
    this.axis.replaceChildren();
    const marks = stepTicks(first, last, Math.max(2, Math.floor(this.width / 80)));
    const place = (step) => ((step - first) / Math.max(last - first, 1)) * this.width;
    for (const step of marks) {
      const text = node("span", { class: place(step) > this.width - 20 ? "last" : "" }, tick(step));
      text.style.left = `${(100 * place(step)) / this.width}%`; // a print has another width
      this.axis.append(text);
    }
    this.axis.append(node("span", { class: "name" }, "step"));
  }

  /** Pick a row, quietly: the caller is told nothing. */
  show(row) {
    this.row = row;
    this.outlineRow();
  }

  outlineRow() {
    this.outline.hidden = this.row === null;
    this.labels.querySelector(".picked")?.remove();
    for (const label of this.labels.querySelectorAll(".covered")) label.classList.remove("covered");
    if (this.row === null) return;
    const site = this.grid.sites[this.row];
    const picked = node("span", { class: "picked", title: site }, shorten(site, this.labels.clientWidth - 9, 600));
    picked.style.top = `${clamp((this.row + 0.5) * this.rowHeight - 7, 0, Math.max(this.height - 14, 0))}px`;
    this.labels.append(picked);
    for (const label of this.labels.querySelectorAll("span:not(.picked)")) {
      label.classList.toggle("covered", Math.abs(label.offsetTop - picked.offsetTop) < 13);
    }
    this.outline.style.top = `${this.row * this.rowHeight - 2}px`;
    this.outline.style.height = `${this.rowHeight + 4}px`;
    this.field.setAttribute("aria-valuenow", this.row + 1);
    this.tell();
  }

  tell() {
    const column = this.column ?? this.grid.steps.length - 1;
    const value = `step ${this.grid.steps[column]}: ${this.grid.text(this.row, column)}`;
    this.field.setAttribute("aria-valuetext", `${this.grid.sites[this.row]}, ${value}`);
  }

  point(step) {
    if (!this.width) return;
    const [first, last] = this.domain;
    const inside = step !== null && step >= first && step <= last;
    this.step.hidden = !inside;
    if (inside) this.step.style.left = `${((step - first) / Math.max(last - first, 1)) * this.width}px`;
  }

  pick(row) {
    this.show(row);
    this.onPick(this.grid.sites[row]);
  }

  /** Show the tooltip of a cell. */
  explain(row, column) {
    this.column = column;
    const { grid } = this;
    cursor.set(grid.steps[column]);
    const [first, last] = this.domain;
    const x = this.labels.clientWidth + ((grid.steps[column] - first) / Math.max(last - first, 1)) * this.width;
    const y = row * this.rowHeight - this.scroll.scrollTop;
    const rows = [["", `step ${grouped(grid.steps[column])}`, grid.text(row, column)]];
    this.tip.show(x, y, grid.sites[row], rows);
  }

  listen() {
    const at = (event) => {
      const box = this.canvas.getBoundingClientRect();
      const row = clamp(Math.floor(((event.clientY - box.top) / box.height) * this.grid.sites.length), 0, this.grid.sites.length - 1);
      const [first, last] = this.domain;
      const step = first + ((event.clientX - box.left) / box.width) * (last - first);
      return [row, nearest(this.grid.steps, step)];
    };
    this.field.addEventListener("pointermove", (event) => this.explain(...at(event)));
    this.field.addEventListener("click", (event) => {
      const [row, column] = at(event);
      this.explain(row, column);
      this.pick(row);
    });
    this.field.addEventListener("pointerleave", () => this.leave());
    this.field.addEventListener("blur", () => this.leave());
    this.field.addEventListener("keydown", (event) => this.key(event));
  }

  leave() {
    this.tip.hide();
    cursor.set(null);
  }

  key(event) {
    const rows = this.grid.sites.length - 1;
    const columns = this.grid.steps.length - 1;
    const row = this.row ?? 0;
    const column = this.column ?? columns;
    const to = {
      ArrowDown: [this.row === null ? 0 : row + 1, column],
      ArrowUp: [row - 1, column],
      PageDown: [row + 10, column],
      PageUp: [row - 10, column],
      Home: [0, column],
      End: [rows, column],
      ArrowRight: [row, column + 1],
      ArrowLeft: [row, column - 1],
    }[event.key];
    if (event.key === "Escape") this.leave();
    if (!to) return;
    event.preventDefault();
    const [newRow, newColumn] = [clamp(to[0], 0, rows), clamp(to[1], 0, columns)];
    this.column = newColumn;
    if (newRow !== this.row) this.pick(newRow);
    this.tell();
    this.explain(newRow, newColumn);
  }
}

/** Return the part of a dotted name up to its first number: "blocks.3.attention.q" gives "blocks.3". */
function groupOf(site) {
  const parts = site.split(".");
  const place = parts.findIndex((part) => /^\d+$/.test(part));
  return parts.slice(0, place < 0 ? 1 : place + 1).join(".");
}

const ruler = node("canvas").getContext("2d");

/** Shorten a name in its middle until it fits into so many pixels. */
function shorten(text, width, weight = 400) {
  ruler.font = `${weight} 11.5px ${getComputedStyle(document.body).fontFamily}`;
  let shown = text;
  for (let letters = text.length - 1; letters > 3 && ruler.measureText(shown).width > width; letters--) {
    const tail = Math.ceil((letters - 1) * 0.62);
    shown = text.slice(0, Math.max(letters - 1 - tail, 1)) + "…" + text.slice(text.length - tail);
  }
  return shown;
}

/** Return the legend of a map's colours. */
function colourBar(map, colours) {
  const [low, high] = map.colour;
  const value = (v) => (map.scale === "log" ? Math.exp(v) : v);
  const bar = node("div", { class: "ramp" });
  bar.style.background = `linear-gradient(to right, ${colours.join(", ")})`;
  const ends = node("div", { class: "ends" });
  const shown = low === high ? [low] : [low, (low + high) / 2, high];
  for (const v of shown) ends.append(node("span", {}, number(value(v), 2)));
  const label = `Colours from ${number(value(low))} to ${number(value(high))}, ${map.scale} scale`;
  return node("div", { class: "scale", role: "img", "aria-label": label }, bar, ends);
}
