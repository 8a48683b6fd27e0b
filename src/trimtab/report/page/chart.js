// Line charts in SVG: several series over steps, with a crosshair, a tooltip and the keyboard.

const MARGIN = { left: 64, narrow: 46, right: 14, top: 8, bottom: 42 };

/**
 * A chart of series over steps.
 *
 * A series is {label, x, y, low?, high?, kind, tint}: kind "ink", "faint", "dashed" or "points", or
 * "rug", whose y is a share between 0 and 1 that is drawn as ticks below the curves, or "band", of
 * which only the area between low and high is seen. Of two runs it
 * also has run {name, tint} and what, its name without that of the run.
 */
class Chart {
  constructor({ label, unit, height, series, scale = "linear", domain, legend = true, marks = [] }) {
    Object.assign(this, { label, unit, height, scale, domain, marks });
    this.host = node("div", { class: "chart" });
    this.legend = node("ul", { class: "legend", "aria-label": `Legend of ${label}` });
    this.svg = node("svg:svg", { class: "plot", tabindex: 0, role: "slider", "aria-label": label });
    this.svg.setAttribute("aria-valuemin", domain[0]);
    this.svg.setAttribute("aria-valuemax", domain[1]);
    this.host.append(this.svg);
    this.tip = new Tip(this.host);
    this.element = node("div", {}, legend ? this.legend : null, this.host);
    this.width = 0;
    this.setSeries(series);
    onWidth(this.host, (width) => {
      this.width = width;
      this.draw();
    });
    cursor.listeners.push((step) => this.point(step));
    this.listen();
  }

  setSeries(series) {
    this.series = series.filter((s) => s.x.length);
    this.curves = this.series.filter((s) => s.kind !== "rug");
    this.rugs = this.series.filter((s) => s.kind === "rug");
    this.legend.replaceChildren(...legendOf(this.series).map((s) => node("li", {}, swatch(s), s.label)));
    if (this.width) this.draw();
  }

  setScale(scale) {
    this.scale = scale;
    this.draw();
  }

  /** Return [low, high] of what is drawn, with some air. */
  range() {
    let low = Infinity;
    let high = -Infinity;
    const log = this.scale === "log";
    for (const { y, low: lows, high: highs } of this.curves) {
      for (const values of [y, lows, highs]) {
        for (const value of values ?? []) {
          if (Number.isFinite(value) && (!log || value > 0)) {
            if (value < low) low = value;
            if (value > high) high = value;
          }
        }
      }
    }
    if (low > high) return null;
    if (log) {
      const air = Math.max((high / low) ** 0.05, 1.05);
      return [low / air, high * air];
    }
    if (low === 0 && high === 0) return [0, 1];
    const air = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
    const floor = low >= 0 && low < (high - low) * 0.6 ? 0 : low - air;
    return [floor, high + air];
  }

  draw() {
    const { width, height } = this;
    const lanes = this.rugs.length ? this.rugs.length * 11 + 4 : 0;
    const bottom = MARGIN.bottom + lanes;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height + lanes}`);
    const range = this.range();
    this.plot = {
      left: width < 400 && this.unit !== "byte" ? MARGIN.narrow : MARGIN.left,
      right: width - MARGIN.right,
      top: MARGIN.top,
      bottom: height + lanes - bottom,
    };
    this.svg.replaceChildren();
    if (!range) {
      this.svg.append(node("svg:text", { class: "none", x: MARGIN.left, y: 30, fill: "currentColor" }, "No finite value."));
      this.toY = null;
      return;
    }
    this.setMaps(range);
    this.drawAxes(range);
    for (const series of this.curves) this.drawCurve(series);
    this.marks.forEach((mark, i) => this.drawMark(mark, i));
    this.rugs.forEach((series, i) => this.drawRug(series, this.plot.bottom + 7 + i * 11));
    this.line = node("svg:line", { class: "cursor", y1: this.plot.top, y2: this.plot.bottom + lanes, visibility: "hidden" });
    this.dots = node("svg:g");
    this.svg.append(this.line, this.dots);
    this.point(cursor.step);
  }

  setMaps([low, high]) {
    const { left, right, top, bottom } = this.plot;
    const [first, last] = this.domain;
    const wide = Math.max(last - first, 1);
    this.toX = (step) => left + ((step - first) / wide) * (right - left);
    this.toStep = (x) => first + ((x - left) / (right - left)) * wide;
    if (this.scale === "log") {
      const [a, b] = [Math.log(low), Math.log(high)];
      this.toY = (v) => (v > 0 ? bottom - ((Math.log(v) - a) / (b - a)) * (bottom - top) : NaN);
    } else {
      this.toY = (v) => bottom - ((v - low) / (high - low)) * (bottom - top);
    }
  }

  drawAxes([low, high]) {
    const { left, right, top, bottom } = this.plot;
    const axis = node("svg:g", { class: "axis", "aria-hidden": "true" });
    const count = Math.max(2, Math.round((bottom - top) / (bottom - top > 150 ? 44 : 30)));
    const factor = this.unit === "byte" ? 1024 ** byteUnit(high) : 1;
    const suffix = this.unit === "byte" ? ` ${BYTE_UNITS[byteUnit(high)]}` : "";
    const marks = this.scale === "log" ? logTicks(low, high, count + 1) : ticks(low / factor, high / factor, count).map((v) => v * factor);
    for (const value of marks) {
      const y = this.toY(value);
      axis.append(
        node("svg:line", { x1: left, x2: right, y1: y, y2: y }),
        node("svg:text", { x: left - 8, y: y + 4, "text-anchor": "end" }, tick(value / factor) + suffix),
      );
    }
    const below = this.svg.viewBox.baseVal.height - 16;
    const fit = Math.max(2, Math.floor((right - left) / 76));
    for (const step of stepTicks(...this.domain, fit)) {
      const x = this.toX(step);
      const anchor = x > right - 16 ? "end" : "middle";
      axis.append(
        node("svg:line", { class: "base", x1: x, x2: x, y1: bottom, y2: bottom + 4 }),
        node("svg:text", { x: anchor === "end" ? right : x, y: below - 9, "text-anchor": anchor }, tick(step)),
      );
    }
    axis.append(node("svg:line", { class: "base", x1: left, x2: right, y1: bottom, y2: bottom }));
    const middle = (left + right) / 2;
    axis.append(node("svg:text", { class: "name", x: middle, y: below + 9, "text-anchor": "middle" }, "step"));
    this.svg.append(axis);
  }

  /** Draw a line across at a step, with a word at its head; several words stand below each other. */
  drawMark({ step, label, tint }, row) {
    const x = this.toX(step);
    const left = x > (this.plot.left + this.plot.right) / 2;
    const at = { x: left ? x - 5 : x + 5, y: this.plot.top + 11 + 14 * row, "text-anchor": left ? "end" : "start" };
    this.svg.append(
      node("svg:line", { class: `mark-line ${tint}`, x1: x, x2: x, y1: this.plot.top, y2: this.plot.bottom }),
      node("svg:text", { class: `mark-word ${tint}`, ...at }, label),
    );
  }

  drawCurve({ x, y, low, high, kind, tint }) {
    if (low && high) {
      const area = areas(x, low, high, this.toX, this.toY);
      this.svg.append(node("svg:path", { class: `area ${tint}`, d: area }));
    }
    if (kind === "band") return;
    if (kind !== "points" || x.length > 60) {
      const dense = Math.max(...this.curves.map((s) => s.x.length)) > this.width / 2 ? " dense" : "";
      this.svg.append(node("svg:path", { class: `${kind}${dense} ${tint}`, d: lines(x, y, this.toX, this.toY) }));
      return;
    }
    this.svg.append(node("svg:path", { class: `points ${tint}`, d: lines(x, y, this.toX, this.toY) }));
    for (let i = 0; i < x.length; i++) {
      if (Number.isFinite(this.toY(y[i]))) {
        this.svg.append(node("svg:circle", { class: `dots ${tint}`, r: 3, cx: this.toX(x[i]), cy: this.toY(y[i]) }));
      }
    }
  }

  /** Draw shares as ticks: the larger the share, the denser the colour. */
  drawRug({ x, y, tint, run }, top) {
    if (run) this.svg.append(node("svg:rect", { class: `block ${run.tint}`, x: this.plot.left - 13, y: top + 0.5, width: 6, height: 6, rx: 1 }));
    const levels = ["", "", "", ""];
    const least = Math.max((this.plot.right - this.plot.left) / 2400, 0.6);
    for (let i = 0; i < x.length; i++) {
      if (!(y[i] > 0)) continue;
      const from = this.toX(i ? x[i - 1] : x[i] - 1);
      const to = this.toX(x[i]);
      const wide = Math.max(to - from, tint === "tint-skipped" ? 2 : least);
      const left = clamp(to - wide, this.plot.left, this.plot.right);
      levels[Math.min(3, Math.ceil(y[i] * 4) - 1)] += `M${left.toFixed(1)} ${top}h${wide.toFixed(2)}v7h-${wide.toFixed(2)}z`;
    }
    levels.forEach((d, i) => {
      const opacity = tint === "tint-skipped" ? 1 : 0.4 + 0.2 * i;
      if (d) this.svg.append(node("svg:path", { class: `rug ${tint}`, d, "fill-opacity": opacity }));
    });
  }

  /** Show the step that some chart points at. */
  point(step) {
    if (!this.line || !this.toY) return;
    const inside = step !== null && step >= this.domain[0] && step <= this.domain[1];
    this.line.setAttribute("visibility", inside ? "visible" : "hidden");
    this.dots.replaceChildren();
    if (!inside) return;
    const x = this.toX(step);
    this.line.setAttribute("x1", x);
    this.line.setAttribute("x2", x);
    for (const { x: xs, y: ys, tint, kind } of this.curves) {
      const i = nearest(xs, step);
      const y = this.toY(ys[i]);
      if (kind !== "faint" && kind !== "band" && Number.isFinite(y) && Math.abs(this.toX(xs[i]) - x) < 12) {
        this.dots.append(node("svg:circle", { class: `hover-dot ${tint}`, r: 4, cx: this.toX(xs[i]), cy: y }));
      }
    }
  }

  /** Return [tint, label, text] of each series at a step. */
  read(step) {
    const rows = [];
    for (const { label, x, y, low, high, kind, tint } of this.series) {
      if (kind === "band") continue;
      const i = nearest(x, step);
      const near = Math.abs(x[i] - step) <= Math.max(1, (this.domain[1] - this.domain[0]) / 60);
      if (kind === "rug") {
        if (near && y[i] > 0) rows.push([tint, label, y[i] === 1 ? "yes" : `${number(100 * y[i], 2)} %`]);
      } else if (near) {
        const other = x[i] !== step && kind === "points" ? ` at ${grouped(x[i])}` : "";
        const value = Number.isFinite(y[i]) ? measured(y[i], this.unit) : "not finite";
        rows.push([tint, label, value + other]);
        if (low && high[i] > low[i]) rows.push(["", "  lowest – highest", `${number(low[i])} – ${number(high[i])}`]);
      }
    }
    return rows;
  }

  listen() {
    const at = (event) => {
      const box = this.svg.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    const move = (event) => {
      if (!this.toY) return;
      const [x, y] = at(event);
      this.go(this.snap(this.toStep(x)), y);
    };
    this.svg.addEventListener("pointermove", move);
    this.svg.addEventListener("pointerdown", move);
    this.svg.addEventListener("pointerleave", () => this.leave());
    this.svg.addEventListener("blur", () => this.leave());
    this.svg.addEventListener("keydown", (event) => this.key(event));
  }

  leave() {
    this.tip.hide();
    cursor.set(null);
  }

  /** Return the nearest step that the longest series has. */
  snap(step) {
    const longest = this.curves.reduce((a, b) => (b.x.length > a.x.length ? b : a));
    return longest.x[nearest(longest.x, clamp(step, ...this.domain))];
  }

  go(step, y = this.plot.top + 30) {
    cursor.set(step);
    const rows = this.read(step);
    this.tip.show(this.toX(step), y, `Step ${grouped(step)}`, rows);
    this.svg.setAttribute("aria-valuenow", step);
    this.svg.setAttribute("aria-valuetext", `Step ${step}: ${rows.map((r) => `${r[1]} ${r[2]}`).join(", ")}`);
  }

  key(event) {
    if (!this.toY) return;
    const longest = this.curves.reduce((a, b) => (b.x.length > a.x.length ? b : a)).x;
    const last = longest.length - 1;
    const now = cursor.step === null ? -1 : nearest(longest, cursor.step);
    const far = Math.max(1, Math.round(last / 20));
    const to = {
      ArrowRight: now + 1,
      ArrowLeft: now < 0 ? last : now - 1,
      PageUp: now + far,
      PageDown: now - far,
      Home: 0,
      End: last,
    }[event.key];
    if (event.key === "Escape") this.leave();
    if (to === undefined) return;
    event.preventDefault();
    this.go(longest[clamp(to, 0, last)]);
  }
}

/** Return the SVG path of a curve; it breaks where a value is not finite. */
function lines(x, y, toX, toY) {
  let path = "";
  let open = false;
  for (let i = 0; i < x.length; i++) {
    const v = toY(y[i]);
    if (!Number.isFinite(v)) {
      open = false;
      continue;
    }
    path += `${open ? "L" : "M"}${toX(x[i]).toFixed(1)} ${v.toFixed(1)}`;
    const alone = !open && (i + 1 === x.length || !Number.isFinite(toY(y[i + 1])));
    if (alone) path += "h.01";
    open = true;
  }
  return path;
}

/** Return the SVG path of the band between two curves. */
function areas(x, low, high, toX, toY) {
  let path = "";
  let start = 0;
  const bad = (i) => !Number.isFinite(toY(low[i])) || !Number.isFinite(toY(high[i]));
  for (let i = 0; i <= x.length; i++) {
    if (i < x.length && !bad(i)) continue;
    if (i - start > 1) {
      for (let j = start; j < i; j++) path += `${j > start ? "L" : "M"}${toX(x[j]).toFixed(1)} ${toY(high[j]).toFixed(1)}`;
      for (let j = i - 1; j >= start; j--) path += `L${toX(x[j]).toFixed(1)} ${toY(low[j]).toFixed(1)}`;
      path += "z";
    }
    start = i + 1;
  }
  return path;
}

/** Return the entries of a legend: of two runs their colours first, then what each kind of line is. */
function legendOf(series) {
  if (!series.some((s) => s.run)) return series;
  const runs = new Map(series.map((s) => [s.run.name, { kind: "block", tint: s.run.tint, label: s.run.name }]));
  const kinds = new Map();
  for (const { what, kind, tint } of series) {
    if (!kinds.has(what)) kinds.set(what, { kind, label: what, tint: kind === "rug" ? tint : "tint-plain" });
  }
  return [...runs.values(), ...(kinds.size > 1 ? kinds.values() : [])];
}

/** Return what stands before a name in a legend. */
function swatch({ kind, tint }) {
  const svg = node("svg:svg", { width: kind === "block" ? 10 : 22, height: 10, "aria-hidden": "true", class: tint });
  if (kind === "block") svg.append(node("svg:rect", { width: 10, height: 10, rx: 2, class: "block" }));
  else if (kind === "band") svg.append(node("svg:rect", { width: 22, height: 10, rx: 2, class: "block", "fill-opacity": 0.22 }));
  else if (kind === "rug") svg.append(node("svg:path", { d: "M3 1h3v8h-3zM10 1h3v8h-3zM15 1h3v8h-3z", fill: "var(--tint)" }));
  else svg.append(node("svg:line", { x1: 1, x2: 21, y1: 5, y2: 5, class: kind }));
  if (kind === "points") svg.append(node("svg:circle", { cx: 11, cy: 5, r: 3, class: "dots" }));
  return svg;
}

/**
 * Return a moving average that forgets by `weight` each step, to both sides alike, so that it does
 * not lag behind; what is not finite is passed over.
 */
function smooth(y, weight) {
  const sums = new Float64Array(y.length);
  const norms = new Float64Array(y.length);
  for (const backwards of [false, true]) {
    let sum = 0;
    let norm = 0;
    for (let i = 0; i < y.length; i++) {
      const at = backwards ? y.length - 1 - i : i;
      sums[at] += weight * sum;
      norms[at] += weight * norm;
      const known = Number.isFinite(y[at]);
      sum = weight * sum + (known ? y[at] : 0);
      norm = weight * norm + (known ? 1 : 0);
    }
  }
  return Float32Array.from(y, (v, i) => (Number.isFinite(v) ? (sums[i] + v) / (norms[i] + 1) : NaN));
}

function scaleChoice(chart, chosen) {
  return choices("Scale", [["linear", "Linear"], ["log", "Log"]], chosen, (scale) => chart.setScale(scale));
}

/** Return whether a logarithmic axis shows the values better. */
function wantsLog(series) {
  const values = series.flatMap((s) => Array.from(s.high ?? s.y)).filter(Number.isFinite);
  if (!values.length || values.some((v) => v <= 0)) return false;
  values.sort((a, b) => a - b);
  return values[values.length - 1] / values[values.length >> 1] > 12;
}
