// Puts the page of an incident together: the story, the charts around it, the replays, the suspects.

const data = JSON.parse(document.getElementById("data").textContent);
const run = data.runs[0];
const began = performance.now();

/** Return a stored curve as the chart takes it. */
function curveOf(stored, options) {
  return { x: unpack(stored.x, Int32Array), y: unpack(stored.y, Float32Array), ...options };
}

/** Return what a signal says of each step, as ticks below a chart; null if it never does. */
function rugOf(stored, key, options) {
  if (!stored) return null;
  const rug = { x: unpack(stored.x, Int32Array), y: unpack(stored[key], Float32Array), kind: "rug", ...options };
  return rug.y.some((v) => v > 0) ? rug : null;
}

/** What happened, why, and what was done, in words. */
function storySection() {
  const rows = data.story.flatMap(([label, text]) => [node("dt", {}, label), node("dd", {}, text)]);
  return section("story", "What happened", node("div", { class: `panel finding level-${data.level}` }, node("dl", { class: "story" }, ...rows)));
}

/** Return the usual level, the limit and all that lies below it, over the steps of a curve. */
function limitsOf(key, { x, y }) {
  const level = data.limits[`${key}_level`] ?? NaN;
  const limit = data.limits[`${key}_limit`] ?? NaN;
  const flat = (value) => new Float32Array(x.length).fill(value);
  const found = [];
  if (Number.isFinite(limit)) {
    const lowest = Math.min(limit, ...Array.from(y).filter(Number.isFinite));
    found.push({ label: "within the limit", x, y: flat(limit), low: flat(lowest), high: flat(limit), kind: "band", tint: "tint-good" });
    found.push({ label: "limit", x, y: flat(limit), kind: "dashed", tint: "tint-1" });
  }
  if (Number.isFinite(level)) found.push({ label: "usual level", x, y: flat(level), kind: "dashed", tint: "tint-plain" });
  return found;
}

function rugs(signal) {
  const { [signal]: own, skipped, flagged } = data.series;
  return [
    rugOf(own, "odd", { label: "not finite", tint: "tint-broken" }),
    rugOf(skipped, "y", { label: "left out", tint: "tint-skipped" }),
    rugOf(flagged, "y", { label: "judged bad", tint: "tint-clipped" }),
  ].filter(Boolean);
}

/** A chart of one signal around the event; null if it was not recorded. */
function eventPanel(signal, title, key, height, marks = data.marks) {
  const stored = data.series[signal];
  if (!stored) return null;
  const curve = curveOf(stored, { label: title.toLowerCase(), kind: "ink", tint: "tint-0" });
  if (!curve.x.length) return null;
  const series = [...limitsOf(key, curve), curve, ...rugs(signal)];
  const scale = wantsLog([curve]) ? "log" : "linear";
  const chart = new Chart({ label: title, unit: "1", height, series, scale, domain: spanOf(curve.x), marks });
  return panel(title, node("div", { class: "controls" }, scaleChoice(chart, scale)), chart.element);
}

function spanOf(x) {
  const steps = data.marks.map((mark) => mark.step);
  return [Math.min(x[0], ...steps), Math.max(x[x.length - 1], ...steps)];
}

function chartsSection() {
  const wordless = data.marks.map((mark) => ({ ...mark, label: "" }));
  const small = [
    ["learning_rate", "Learning rate"],
    ["loss_scale", "Loss scale"],
  ].map(([signal, title]) => eventPanel(signal, title, signal, 170, wordless));
  const panels = [eventPanel("loss", "Loss", "loss", 280), eventPanel("gradient.norm", "Gradient norm", "norm", 240)];
  const shown = panels.filter(Boolean);
  const more = small.filter(Boolean);
  if (!shown.length && !more.length) return null;
  return section("event", "Around the event", ...shown, more.length ? node("div", { class: `small-charts grid${more.length > 1 ? "" : " single"}` }, ...more) : null);
}

function outcomeOf({ level, outcome }) {
  const icon = node("svg:svg", { width: 14, height: 14, viewBox: "0 0 16 16", "aria-hidden": "true" });
  icon.append(node("svg:path", { d: ICONS[level], fill: "none", stroke: "currentColor", "stroke-width": 2.4, "stroke-linecap": "round", "stroke-linejoin": "round" }));
  return node("span", { class: `outcome level-${level}` }, icon, outcome);
}

/** Return a table with these headings and rows of cells; headings that begin with # are numbers. */
function tableOf(label, headings, rows) {
  const numeric = headings.map((text) => text.startsWith("#"));
  const head = headings.map((text, i) => node("th", { scope: "col", class: numeric[i] ? "right" : null }, text.replace("#", "")));
  const body = rows.map((cells) => node("tr", {}, ...cells.map((cell, i) => node("td", { class: numeric[i] ? "right" : null }, cell))));
  const table = node("table", { class: "list spaced" }, node("thead", {}, node("tr", { class: "head" }, ...head)), node("tbody", {}, ...body));
  return node("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, table);
}

/** The table of replays, and a small chart of each. */
function replaysSection() {
  const rows = data.experiments;
  if (!rows.length) return section("replays", "Replays", node("p", { class: "note" }, "The steps were not replayed, so the cause is a judgement and not a proof."));
  const step = grouped(data.step);
  const probed = rows.some((row) => row.probe);
  const noted = rows.some((row) => row.note);
  const headings = ["Replayed with", "The incident", `#Loss at step ${step}: recorded`, "#replayed", "#Last loss", probed ? "#Healthy batches after" : null, "#Took", noted ? "Note" : null];
  const cells = rows.map((row) => [row.change, outcomeOf(row), row.recorded, row.replayed || "–", row.last || "–", probed ? row.probe || "–" : null, row.seconds, noted ? row.note : null]);
  const keep = headings.map((text) => text !== null);
  const table = tableOf("Replays", headings.filter(Boolean), cells.map((row) => row.filter((_, i) => keep[i])));
  const note = "The same steps from the same snapshot, each time with one thing changed. A change with which the incident does not happen points at its cause.";
  return section("replays", "Replays", node("p", { class: "note" }, note), node("div", { class: "panel" }, table), node("div", { class: "grid three small-charts" }, ...rows.map(replayPanel)));
}

function replayPanel(row) {
  const before = curveOf(row.before, { label: "recorded", kind: "dashed", tint: "tint-plain" });
  const replay = curveOf(row.replay, { label: "replayed", kind: "ink", tint: "tint-0" });
  const shown = [before, replay].filter((series) => series.x.length);
  if (!shown.length) return panel(row.change, outcomeOf(row), node("p", { class: "none" }, "No step was replayed."));
  const steps = shown.flatMap((series) => Array.from(series.x));
  const domain = [Math.min(...steps), Math.max(...steps)];
  const odd = rugOf(row.replay, "odd", { label: "not finite", tint: "tint-broken" });
  const marks = data.step >= domain[0] && data.step <= domain[1] ? [{ step: data.step, label: "", tint: "tint-skipped" }] : [];
  const series = odd ? [...shown, odd] : shown;
  const chart = new Chart({ label: `Loss ${row.change}`, unit: "1", height: 150, series, scale: wantsLog(shown) ? "log" : "linear", domain, marks });
  return panel(row.change, outcomeOf(row), chart.element, row.broke ? node("p", { class: "caption" }, row.broke) : null);
}

/** A bar as long as a share between 0 and 1. */
function barOf({ share, odd, accused }) {
  const tint = odd ? "tint-broken" : accused ? "tint-skipped" : "tint-0";
  const svg = node("svg:svg", { class: `bar-line ${tint}`, viewBox: "0 0 200 10", preserveAspectRatio: "none", "aria-hidden": "true" });
  svg.append(node("svg:rect", { class: "block", width: Math.max(200 * share, 1), height: 10 }));
  return svg;
}

function suspectsSection() {
  const { rows, left_out: more, others } = data.suspects;
  if (!rows.length && !others.length) return null;
  const parts = [];
  if (others.length) {
    const lines = others.map(([name, text]) => node("tr", {}, node("th", { scope: "row" }, name.replaceAll("_", " ")), node("td", {}, text)));
    parts.push(panel("What was found", null, node("table", { class: "list" }, node("tbody", {}, ...lines))));
  }
  if (rows.length) {
    const cells = rows.map((row) => [`${row.row}`, row.loss, barOf(row), row.accused ? outcomeOf({ level: "bad", outcome: "suspect" }) : ""]);
    const note = more ? node("p", { class: "caption" }, `${grouped(more)} further examples with a smaller loss are left out. The first of a batch is number 0.`) : node("p", { class: "caption" }, "The first of a batch is number 0.");
    parts.push(panel("Examples of the batch by their loss", null, tableOf("Examples by loss", ["#Example", "#Loss", "", ""], cells), note));
  }
  return section("suspects", "Suspects", ...parts);
}

function reproduceSection() {
  const parts = data.commands.flatMap(([what, command]) => [node("p", { class: "caption" }, `${what}:`), node("pre", { class: "command", tabindex: 0 }, node("code", {}, command))]);
  const build = data.commands.some(([, command]) => command.includes("--build"));
  const note = build ? node("p", { class: "caption" }, "The function that --build names takes a seed and returns a TrainingSetup: model, optimizer and loss as in the run.") : null;
  if (!parts.length) parts.push(node("p", { class: "caption" }, "Snapshot and batches were not saved with this incident, so it cannot be repeated."));
  const lost = data.left_out.length ? node("p", { class: "caption" }, `Not saved: ${data.left_out.join("; ")}`) : null;
  return section("reproduce", "Reproduce it", node("div", { class: "panel" }, ...parts, note, lost));
}

chooseTheme();
present(
  [headSection([run]), storySection(), chartsSection(), replaysSection(), suspectsSection(), reproduceSection(), settingsSection([run])].filter(Boolean),
  began,
);
