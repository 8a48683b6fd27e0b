// The parts of the page that are text: head, tiles, findings, events and settings.

const ICONS = {
  good: "M3 8.5l3.2 3L13 4.5",
  warn: "M8 3v6.2M8 12.2v.3",
  bad: "M4 4l8 8M12 4l-8 8",
  plain: "M4 8h8",
};

function section(id, title, ...children) {
  return node("section", { id, "aria-labelledby": `${id}-title` }, node("h2", { id: `${id}-title` }, title), ...children);
}

function panel(title, controls, ...children) {
  const heading = typeof title === "string" ? node("h3", {}, title) : title;
  const head = node("div", { class: "panel-head" }, heading, controls);
  return node("div", { class: "panel" }, head, ...children);
}

function titled(title, unit) {
  const said = ["", "1", "byte", undefined].includes(unit) || title.toLowerCase().split(" ").includes(unit);
  return node("h3", {}, title, said ? null : node("span", { class: "unit" }, `  in ${unit}`));
}

/** Who the runs are, and how they went. */
function headSection(runs) {
  const heads = runs.map((run, i) => {
    const { level, word, facts } = run.verdict;
    const icon = node("svg:svg", { width: 16, height: 16, viewBox: "0 0 16 16", "aria-hidden": "true" });
    icon.append(node("svg:path", { d: ICONS[level], fill: "none", stroke: "currentColor", "stroke-width": 2, "stroke-linecap": "round", "stroke-linejoin": "round" }));
    const list = node("ul", {}, ...facts.map((fact) => node("li", {}, fact)));
    const verdict = node("div", { class: `verdict level-${level}` }, node("strong", {}, icon, word), list);
    const meta = node("p", { class: "run-meta" }, ...run.about.map((text) => node("span", {}, text)));
    return node("div", { class: `run-head run-${i}` }, node("h1", {}, run.name), meta, verdict);
  });
  return node("section", { id: "summary", "aria-label": "Summary" }, node("div", { class: `runs${runs.length > 1 ? " two" : ""}` }, ...heads), tiles(runs));
}

function tiles(runs) {
  const names = [...new Set(runs.flatMap((run) => run.figures.map((f) => f.label)))];
  const list = node("dl", { class: "tiles" });
  for (const name of names) {
    const tile = node("div", { class: "tile" }, node("dt", {}, name));
    runs.forEach((run, i) => {
      const figure = run.figures.find((f) => f.label === name);
      const note = figure?.note ? node("small", {}, figure.note) : null;
      tile.append(node("dd", { class: runs.length > 1 ? `pair run-${i}` : null }, figure?.value ?? "–", note));
    });
    list.append(tile);
  }
  onWidth(list, () => fillRow(list));
  return list;
}

/** Add an empty tile over the rest of the last row, so that no hole shows. */
function fillRow(list) {
  list.querySelector(".rest")?.remove();
  const columns = getComputedStyle(list).gridTemplateColumns.split(" ").length;
  const over = list.children.length % columns;
  if (!over) return;
  const rest = node("div", { class: "tile rest", role: "presentation" });
  rest.style.gridColumn = `span ${columns - over}`;
  list.append(rest);
}

/** What a judge of the run found; absent as long as there is nothing. */
function findingsSection(runs) {
  const cards = runs.flatMap((run, i) =>
    run.findings.map((finding) => {
      const { title, level, details } = finding;
      const rows = details.flatMap(([key, text]) => [node("dt", {}, key), node("dd", {}, text)]);
      const whose = runs.length > 1 ? node("span", { class: "muted" }, `  ${runs[i].name}`) : null;
      return node("div", { class: `panel finding level-${level}` }, node("h3", {}, title, whose), node("dl", {}, ...rows));
    }),
  );
  return cards.length ? section("findings", "Findings", ...cards) : null;
}

function eventsSection(runs) {
  const rows = runs.flatMap((run, i) => run.events.map((event) => ({ ...event, run: i })));
  if (!rows.length) return null;
  rows.sort((a, b) => a.step - b.step);
  const two = runs.length > 1;
  const head = ["Step", two ? "Run" : null, "Kind", "Details"].filter(Boolean);
  const body = rows.map((row) =>
    node(
      "tr",
      {},
      node("td", { class: "num" }, grouped(row.step)),
      two ? node("td", {}, runs[row.run].name) : null,
      node("td", { class: "key" }, row.kind),
      node("td", {}, row.text),
    ),
  );
  const table = node(
    "table",
    { class: "list" },
    node("thead", {}, node("tr", { class: "head" }, ...head.map((text) => node("th", { scope: "col" }, text)))),
    node("tbody", {}, ...body),
  );
  const left = runs.reduce((sum, run) => sum + run.events_left_out, 0);
  const more = left ? node("p", { class: "caption" }, `${grouped(left)} further events are left out.`) : null;
  const box = node("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Events" }, table);
  return section("events", "Events", node("div", { class: "panel" }, box, more));
}

/** Settings and environment; of two runs, side by side with the differences marked. */
function settingsSection(runs) {
  const parts = [
    ["Configuration", "config"],
    ["Environment", "environment"],
  ].map(([title, key]) => settingsPanel(title, runs, key));
  const shown = parts.filter(Boolean);
  return shown.length ? section("settings", "Settings", ...shown) : null;
}

function settingsPanel(title, runs, key) {
  const keys = [...new Set(runs.flatMap((run) => run[key].map(([name]) => name)))];
  if (!keys.length) return null;
  const values = runs.map((run) => new Map(run[key]));
  const two = runs.length > 1;
  const rows = keys.map((name) => {
    const cells = values.map((known) => known.get(name) ?? "–");
    const differs = two && cells[0] !== cells[1];
    return node(
      "tr",
      { class: differs ? "differs" : null },
      node("th", { scope: "row" }, name),
      ...cells.map((text) => node("td", { class: "mono" }, text)),
    );
  });
  const head = two
    ? node("thead", {}, node("tr", { class: "head" }, node("th", { scope: "col" }, "Setting"), ...runs.map((run) => node("th", { scope: "col" }, run.name))))
    : null;
  const table = node("table", { class: "list" }, head, node("tbody", {}, ...rows));
  let control = null;
  if (two && rows.some((row) => row.classList.contains("differs"))) {
    const box = node("input", { type: "checkbox" });
    box.addEventListener("change", () => table.classList.toggle("only-different", box.checked));
    control = node("span", { class: "controls" }, node("label", {}, box, "Only differences"));
  }
  const scroll = node("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": title }, table);
  return panel(title, control, scroll);
}
