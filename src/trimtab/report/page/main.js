// Puts the page together: curves, heat maps, the followed layer, histograms, theme and print.

const data = JSON.parse(document.getElementById("data").textContent);
const runs = data.runs;
const two = runs.length > 1;
const began = performance.now();

/** Return a series of a run as the chart takes it; null if the run has none. */
function seriesOf(index, name, options) {
  const stored = runs[index].series[name];
  if (!stored) return null;
  const x = unpack(stored.x ?? runs[index].x, Int32Array);
  const y = unpack(stored.y, Float32Array);
  const band = stored.low ? { low: unpack(stored.low, Float32Array), high: unpack(stored.high, Float32Array) } : {};
  return { x, y, ...band, ...options, ...named(options.label, index) };
}

/** Return what a series is called; of two runs, whose it is as well. */
function named(label, index) {
  if (!two) return { label };
  return { label: `${label}, ${runs[index].name}`, what: label, run: { name: runs[index].name, tint: `tint-${index}` } };
}

function seriesOfAll(name, options) {
  return runs.map((_, i) => seriesOf(i, name, { tint: `tint-${i}`, ...options })).filter(Boolean);
}

function rugs() {
  const clipped = seriesOfAll("clipped", { label: "clipped steps", kind: "rug", tint: "tint-clipped" });
  const skipped = seriesOfAll("skipped", { label: "skipped steps", kind: "rug", tint: "tint-skipped" });
  return [...clipped, ...skipped].filter((s) => s.y.some((v) => v > 0));
}

function lossPanel(domain) {
  const raw = seriesOfAll("loss", { label: "training", kind: "faint" });
  const validation = seriesOfAll("val_loss", { label: "validation", kind: "points" });
  if (!two) validation.forEach((s) => (s.tint = "tint-1"));
  if (!raw.length && !validation.length) return null;
  const long = raw.some((s) => s.x.length > 100);
  const build = (weight) => {
    const smoothed = raw.map((s) => ({ ...s, low: undefined, high: undefined, y: smooth(s.y, weight), kind: "ink", label: `${s.label}, smoothed`, what: "smoothed" }));
    return weight ? [...raw, ...smoothed, ...validation, ...rugs()] : [...raw.map((s) => ({ ...s, kind: "ink" })), ...validation, ...rugs()];
  };
  const first = long ? 0.85 : 0;
  const log = wantsLog(raw);
  const chart = new Chart({ label: "Loss", unit: "loss", height: 300, series: build(first), scale: log ? "log" : "linear", domain });
  const slider = node("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: first, id: "smoothing" });
  const shown = node("output", { for: "smoothing" }, first.toFixed(2));
  slider.addEventListener("input", () => {
    shown.textContent = Number(slider.value).toFixed(2);
    chart.setSeries(build(Number(slider.value)));
  });
  const controls = node("div", { class: "controls" }, node("label", {}, "Smoothing", slider, shown), scaleChoice(chart, chart.scale));
  return panel("Loss", controls, chart.element);
}

function normPanel(domain) {
  const norms = seriesOfAll("gradient.norm", { label: "norm before clipping", kind: "ink" });
  if (!norms.length) return null;
  const limits = seriesOfAll("gradient.clip_threshold", { label: "clip threshold", kind: "dashed" });
  if (!two) limits.forEach((s) => (s.tint = "tint-1"));
  const chart = new Chart({ label: "Gradient norm", unit: "gradient", height: 230, series: [...norms, ...limits, ...rugs()], scale: "log", domain });
  return panel("Gradient norm", node("div", { class: "controls" }, scaleChoice(chart, "log")), chart.element);
}

function curvesSection(domain) {
  const rate = seriesOfAll("learning_rate", { label: "learning rate", kind: "ink" });
  const others = data.others
    .map(({ name, title, unit }) => {
      const series = seriesOfAll(name, { label: title, kind: "ink" });
      const log = wantsLog(series);
      const chart = new Chart({ label: title, unit, height: 170, series, scale: log ? "log" : "linear", domain, legend: two });
      return series.length ? panel(titled(title, unit), null, chart.element) : null;
    })
    .filter(Boolean);
  if (rate.length) {
    const chart = new Chart({ label: "Learning rate", unit: "1", height: 170, series: rate, domain, legend: two });
    others.unshift(panel("Learning rate", null, chart.element));
  }
  const main = [lossPanel(domain), normPanel(domain)].filter(Boolean);
  if (!main.length && !others.length) return section("curves", "Curves", node("p", { class: "note" }, "No step was recorded."));
  const more = node("div", { class: `grid${others.length > 2 ? " three" : ""} small-charts` }, ...others);
  return section("curves", "Curves", ...main, others.length ? more : null);
}

/** The heat maps, and the followed layer that they choose. */
class Layers {
  constructor(domain) {
    this.domain = domain;
    this.maps = [];
    this.follow = new Follow(domain, (family, site) => this.pick(family, site));
  }

  element() {
    if (!data.maps.length) {
      const hint = "Layers were not watched in this run, so there is nothing to show about each of them.";
      return section("layers", "Layers", node("p", { class: "note" }, hint));
    }
    const first = data.maps.filter((map) => data.first_maps.includes(`${map.family}:${map.name}`));
    const rest = data.maps.filter((map) => !first.includes(map));
    const grid = node("div", { class: "grid" }, ...first.flatMap((map) => this.panels(map)));
    const note = "One row a layer, from input to output. Pick a row with the pointer, or focus a map and use the arrow keys, to follow that layer below.";
    const parts = [node("p", { class: "note" }, note), grid];
    if (rest.length) parts.push(this.chooser(rest));
    parts.push(this.follow.element);
    return section("layers", "Layers", ...parts);
  }

  panels(map) {
    const sites = data.sites[map.family];
    const colours = map.diverging ? data.colours.diverging : data.colours.sequential;
    return map.runs.map((stored, i) => {
      const name = two ? `${map.title}, ${runs[i].name}` : map.title;
      if (!stored) return panel(titled(name, ""), null, node("p", { class: "none" }, "Not recorded in this run."));
      const grid = new Grid(map, stored, sites);
      const heat = new HeatMap({ grid, colours, label: name, domain: this.domain, onPick: (site) => this.pick(map.family, site) });
      this.maps.push(heat);
      const chosen = this.follow.site;
      if (chosen && this.follow.family === map.family && grid.sites.includes(chosen)) heat.show(grid.sites.indexOf(chosen));
      const made = panel(titled(name, map.unit), colourBar(map, colours), heat.element);
      const broken = grid.codes.includes(BROKEN) ? [node("span", { class: "swatch-broken" }), "not finite"] : [];
      made.append(node("p", { class: "caption" }, node("span", {}, stored.note), ...broken));
      return made;
    });
  }

  /** A selector for the signals that are not shown at once. */
  chooser(maps) {
    const select = node("select", { id: "signal" });
    for (const family of ["parameter", "module"]) {
      const options = maps.filter((m) => m.family === family).map((m) => node("option", { value: maps.indexOf(m) }, m.title));
      if (options.length) select.append(node("optgroup", { label: family === "module" ? "Outputs of modules" : "Parameters" }, ...options));
    }
    const place = node("div", { class: two ? "grid" : "" });
    const caption = node("p", { class: "note" });
    let made = [];
    const show = () => {
      const map = maps[Number(select.value)];
      this.maps = this.maps.filter((heat) => !made.includes(heat));
      const before = this.maps.length;
      place.replaceChildren(...this.panels(map));
      made = this.maps.slice(before);
      caption.textContent = `${map.meaning}.`;
    };
    select.addEventListener("change", show);
    show();
    const label = node("div", { class: "controls" }, node("label", {}, "Another signal", select));
    const box = node("div", { class: "more" }, label, caption, place);
    return box;
  }

  pick(family, site) {
    for (const heat of this.maps) {
      const row = heat.grid.map.family === family ? heat.grid.sites.indexOf(site) : -1;
      heat.show(row < 0 ? null : row);
    }
    this.follow.show(family, site);
  }
}

/** All that was measured of one layer, as curves. */
class Follow {
  constructor(domain, onChoose) {
    this.domain = domain;
    this.select = node("select", { id: "follow-site", "aria-label": "Layer to follow" });
    for (const [family, title] of [["parameter", "Parameters"], ["module", "Modules"]]) {
      const sites = data.sites[family] ?? [];
      const options = sites.map((site, i) => node("option", { value: `${family} ${i}` }, site));
      if (options.length) this.select.append(node("optgroup", { label: title }, ...options));
    }
    this.select.addEventListener("change", () => {
      const [chosen, i] = this.select.value.split(" ");
      onChoose(chosen, data.sites[chosen][Number(i)]);
    });
    this.name = node("span", { class: "follow-name" });
    this.charts = node("div", { class: "grid three" });
    const title = node("h3", { "aria-live": "polite" }, "Followed layer: ", this.name);
    const head = node("div", { class: "panel-head" }, title, node("div", { class: "controls" }, this.select));
    this.element = node("div", { class: "follow", id: "follow" }, head, this.charts);
  }

  show(family, site) {
    if (this.family === family && this.site === site) return;
    Object.assign(this, { family, site });
    this.name.textContent = site;
    this.select.value = `${family} ${data.sites[family].indexOf(site)}`;
    const kept = cursor.listeners.length;
    if (this.listeners) cursor.listeners = cursor.listeners.filter((f) => !this.listeners.includes(f));
    const before = this.listeners ? cursor.listeners.length : kept;
    const made = data.maps.filter((map) => map.family === family).map((map) => this.chart(map, site));
    this.listeners = cursor.listeners.slice(before);
    this.charts.replaceChildren(...made.filter(Boolean));
  }

  chart(map, site) {
    const row = map.rows.indexOf(data.sites[map.family].indexOf(site));
    if (row < 0) return null;
    const series = map.runs.map((stored, i) => {
      if (!stored) return null;
      const curve = new Grid(map, stored, data.sites[map.family]).curve(row);
      return { ...curve, ...named(map.title, i), kind: "ink", tint: `tint-${i}` };
    });
    const shown = series.filter((s) => s && s.x.length);
    if (!shown.length) return null;
    const scale = wantsLog(shown) ? "log" : "linear";
    const chart = new Chart({ label: `${map.title} of ${site}`, unit: map.unit, height: 164, series: shown, scale, domain: this.domain, legend: two });
    return panel(titled(map.title, map.unit), null, chart.element);
  }
}

function histogramsSection() {
  if (!data.histograms.length) return null;
  const select = node("select", { id: "histogram", "aria-label": "Histogram to show" });
  data.histograms.forEach((entry, i) => select.append(node("option", { value: i }, entry.title)));
  const place = node("div", { class: "grid" });
  const show = () => {
    const entry = data.histograms[Number(select.value)];
    place.classList.toggle("single", !two);
    place.replaceChildren(
      ...entry.runs.map((stored, i) => {
        const name = two ? `${entry.title}, ${runs[i].name}` : entry.title;
        if (!stored) return panel(name, null, node("p", { class: "none" }, "Not recorded in this run."));
        const grid = new Grid(entry, stored, data.bins);
        const heat = new HeatMap({ grid, colours: data.colours.sequential, label: name, domain: histogramDomain, onPick: () => {} });
        return panel(titled(name, ""), colourBar(entry, data.colours.sequential), heat.element);
      }),
    );
  };
  const ends = data.histograms.flatMap((entry) => entry.runs.filter(Boolean).flatMap((run) => run.span));
  const histogramDomain = [Math.min(...ends), Math.max(...ends)];
  select.addEventListener("change", show);
  show();
  const note = "How values are spread, in powers of two: positive values in the upper half, negative ones in the lower. The colour is the share of elements, in per cent.";
  const controls = node("div", { class: "controls section-controls" }, node("label", {}, "Values", select));
  return section("histograms", "Histograms", node("p", { class: "note" }, note), controls, place);
}

function stepDomain() {
  const ends = runs.flatMap((run) => run.span).concat(data.maps.flatMap((m) => m.runs.filter(Boolean).flatMap((r) => r.span)));
  return ends.length ? [Math.min(...ends), Math.max(...ends)] : [0, 1];
}

function assemble() {
  chooseTheme();
  const domain = stepDomain();
  const layers = new Layers(domain);
  const made = [
    headSection(runs),
    findingsSection(runs),
    curvesSection(domain),
    layers.element(),
    histogramsSection(),
    eventsSection(runs),
    settingsSection(runs),
  ].filter(Boolean);
  present(made, began);
  if (data.follow) layers.pick(...data.follow);
}

assemble();
