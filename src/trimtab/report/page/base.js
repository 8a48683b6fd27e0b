// Numbers, text and elements: what every other script here is made of.

const SVG = "http://www.w3.org/2000/svg";
const SUPERSCRIPT = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

/** Make an element; text given as a child never becomes markup. */
function node(name, attributes = {}, ...children) {
  const made = name.startsWith("svg:")
    ? document.createElementNS(SVG, name.slice(4))
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) {
      made.setAttribute(key, value === true ? "" : value);
    }
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}

/** Decode base64 into a typed array. */
function unpack(text, Kind) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return new Kind(bytes.buffer);
}

function power(exponent) {
  return "10" + [...String(exponent)].map((c) => SUPERSCRIPT[c]).join("");
}

/** Write a number with so many significant digits, and no exponent where none is needed. */
function number(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  let text;
  if (size >= 1e7 || size < 1e-3) {
    const [mantissa, exponent] = size.toExponential(Math.max(digits - 2, 1)).split("e");
    text = `${mantissa.replace(/\.?0+$/, "")}×${power(Number(exponent))}`;
  } else if (Number.isInteger(size) || size >= 10 ** digits) {
    text = grouped(Math.round(size));
  } else {
    text = size.toPrecision(digits);
    if (text.includes("e")) text = grouped(Math.round(size));
  }
  return value < 0 ? "−" + text : text;
}

function grouped(integer) {
  return String(integer).replace(/\B(?=(\d{3})+$)/g, ",");
}

/** Write a value of a signal in its unit. */
function measured(value, unit) {
  if (unit === "byte" && Number.isFinite(value)) {
    const unit = byteUnit(value);
    return `${number(value / 1024 ** unit)} ${BYTE_UNITS[unit]}`;
  }
  return number(value);
}

const BYTE_UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** Return which unit suits so many bytes. */
function byteUnit(value) {
  return clamp(Math.floor(Math.log2(Math.max(value, 1)) / 10), 0, BYTE_UNITS.length - 1);
}

/** Write a value below an axis, short. */
function tick(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) {
    const [mantissa, exponent] = size.toExponential(2).split("e");
    const short = mantissa.replace(/\.?0+$/, "");
    const sign = value < 0 ? "−" : "";
    return sign + (short === "1" ? power(Number(exponent)) : `${short}×${power(Number(exponent))}`);
  }
  const text = size >= 1000 ? grouped(Math.round(size)) : String(Number(size.toPrecision(6)));
  return (value < 0 ? "−" : "") + text;
}

/** Return about `count` round numbers between two. */
function ticks(low, high, count, factors = [1, 2, 5, 10]) {
  if (!(high > low)) return [low];
  const raw = (high - low) / Math.max(count, 1);
  const base = 10 ** Math.floor(Math.log10(raw));
  const unit = factors.find((factor) => factor * base >= raw * 0.999) * base;
  const found = [];
  for (let i = Math.ceil(low / unit - 1e-9); i * unit <= high + unit * 1e-9; i++) {
    found.push(Number((i * unit).toPrecision(12)));
  }
  return found;
}

/** Return about `count` round steps between two. */
function stepTicks(low, high, count) {
  return ticks(low, high, count, [1, 2, 2.5, 5, 10]).filter(Number.isInteger);
}

/** Return round numbers between two for a logarithmic axis. */
function logTicks(low, high, count) {
  const first = Math.ceil(Math.log10(low) - 1e-9);
  const last = Math.floor(Math.log10(high) + 1e-9);
  const every = Math.max(1, Math.ceil((last - first + 1) / Math.max(count, 2)));
  if (last - first >= 2) {
    const found = [];
    for (let e = first; e <= last; e += every) found.push(10 ** e);
    return found;
  }
  const found = [];
  for (let e = first - 1; e <= last; e++) {
    for (const factor of [1, 2, 5]) {
      const value = Number(`${factor}e${e}`);
      if (value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9)) found.push(value);
    }
  }
  return found.length >= 2 ? found : ticks(low, high, count);
}

/** Return the index of the value nearest to `wanted` in an ascending array. */
function nearest(sorted, wanted) {
  let low = 0;
  let high = sorted.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (sorted[middle] <= wanted) low = middle;
    else high = middle;
  }
  return wanted - sorted[low] <= sorted[high] - wanted ? low : high;
}

/** Call back when the element's width changes. */
function onWidth(element, callback) {
  let width = 0;
  new ResizeObserver(() => {
    if (element.clientWidth !== width && element.clientWidth > 0) {
      width = element.clientWidth;
      callback(width);
    }
  }).observe(element);
}

/** The step that all charts point at; whoever shows it hears of a change. */
const cursor = {
  step: null,
  listeners: [],
  set(step) {
    if (step === this.step) return;
    this.step = step;
    for (const listener of this.listeners) listener(step);
  },
};

/** A small table that follows the pointer inside `host`. */
class Tip {
  constructor(host) {
    this.host = host;
    this.box = node("div", { class: "tip", hidden: true, "aria-hidden": "true" });
    host.append(this.box);
  }

  /** Show a title and rows of [class, name, value] beside (x, y) of the host. */
  show(x, y, title, rows) {
    const table = node("table");
    for (const [tint, name, value] of rows) {
      const mark = tint ? node("i", { class: tint }) : null;
      table.append(node("tr", {}, node("td", {}, mark, name), node("td", {}, value)));
    }
    this.box.replaceChildren(node("b", {}, title), table);
    this.box.hidden = false;
    const { width, height } = this.box.getBoundingClientRect();
    const host = this.host.getBoundingClientRect();
    const room = document.documentElement.clientWidth;
    let left = x + 14;
    if (host.left + left + width > Math.min(host.right + 60, room - 6)) left = x - width - 14;
    left = clamp(left, 6 - host.left, room - 6 - host.left - width);
    const top = y - height - 10;
    this.box.style.transform = `translate(${left}px, ${host.top + top < 50 ? y + 16 : top}px)`;
  }

  hide() {
    this.box.hidden = true;
  }
}

/** A row of buttons of which one is pressed. */
function choices(label, options, chosen, onChange) {
  const group = node("span", { class: "choices", role: "group", "aria-label": label });
  for (const [value, text] of options) {
    const button = node("button", { type: "button", "data-choice": value }, text);
    button.setAttribute("aria-pressed", String(value === chosen));
    button.addEventListener("click", () => {
      for (const other of group.children) other.setAttribute("aria-pressed", String(other === button));
      onChange(value);
    });
    group.append(button);
  }
  return group;
}
