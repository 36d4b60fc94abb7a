// Draws: elements, numbers, times, charts and the map. All text goes through textContent, so that
// nothing that comes from a table or from somebody's words is ever read as markup.

const SVG = "http://www.w3.org/2000/svg";

export function el(tag, attributes = {}, ...children) {
  return dressed(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return dressed(document.createElementNS(SVG, tag), attributes, children);
}

function dressed(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

// Only what has changed is touched: what is selected, focused or read aloud stays as it is.
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function attribute(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

export function refill(parent, shown, make) {
  const text = JSON.stringify(shown);
  if (parent.dataset.shown === text) return;
  parent.dataset.shown = text;
  parent.replaceChildren(...[make(shown)].flat());
}

const kept = new WeakMap();

// One node for each item, made once, updated each time, in the order of the items.
export function each(parent, items, key, make) {
  const before = kept.get(parent) ?? new Map();
  const now = new Map();
  items.forEach((item, index) => {
    const one = before.get(key(item)) ?? make(item);
    one.update(item);
    now.set(key(item), one);
    if (parent.children[index] !== one.node) parent.insertBefore(one.node, parent.children[index] ?? null);
  });
  for (const [name, one] of before) if (!now.has(name)) one.node.remove();
  kept.set(parent, now);
}

// ------------------------------------------------------------------------- numbers and times

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const count = (value) => (value === null || value === undefined ? "–" : whole.format(value));
export const amount = (value) =>
  value === null || value === undefined ? "–" : Math.abs(value) >= 100 ? whole.format(value) : short.format(value);
export const percent = (share) => (share === null ? "–" : `${Math.floor(share * 100)} %`);
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value > 0 && value < 1) return `${whole.format(value * 1000)} ms`;
  if (value < 90) return `${whole.format(value)} s`;
  const minutes = Math.round(value / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = Math.round(value / 3600);
  return hours < 48 ? `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min` : `${Math.round(hours / 24)} d`;
}

export function clock(iso) {
  if (!iso) return "–";
  const at = new Date(iso);
  const time = at.toLocaleTimeString("en-GB");
  if (at.toDateString() === new Date().toDateString()) return time;
  return `${at.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} ${time.slice(0, 5)}`;
}

export const when = (iso) => el("time", { datetime: iso ?? "", title: iso ?? "" }, clock(iso));

// ------------------------------------------------------------------------- charts

const WIDE = 600;
const HIGH = 120;

function line(at, values, top) {
  const [begin, span] = [at[0], Math.max(1, at[at.length - 1] - at[0])];
  let path = "";
  let isGap = true;
  values.forEach((value, index) => {
    if (value === null) {
      isGap = true;
      return;
    }
    const x = ((at[index] - begin) / span) * WIDE;
    const y = HIGH - (Math.max(0, value) / top) * (HIGH - 4);
    path += `${isGap ? "M" : "L"}${x.toFixed(1)} ${y.toFixed(1)}`;
    isGap = false;
  });
  return path;
}

function under(path) {
  return path
    .split("M")
    .filter((part) => part.includes("L"))
    .map((part) => {
      const points = part.split("L");
      return `M${points[0].split(" ")[0]} ${HIGH}L${part}L${points[points.length - 1].split(" ")[0]} ${HIGH}Z`;
    })
    .join("");
}

const largest = (values) => values.reduce((most, value) => Math.max(most, value ?? 0), 0);

function canvas(label) {
  const area = svg("path", { class: "bf-area" });
  const stroke = svg("path", { class: "bf-line" });
  const limits = svg("g");
  const picture = svg(
    "svg",
    { viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", role: "img", "aria-label": label },
    area,
    limits,
    stroke,
  );
  return { area, stroke, limits, picture };
}

// A small line without an axis.
export function spark(label) {
  const { area, stroke, picture } = canvas(label);
  picture.classList.add("bf-spark");
  return {
    node: picture,
    update({ at, rows_per_second: values }) {
      const top = largest(values) * 1.1 || 1;
      const path = values.length > 1 ? line(at, values, top) : "";
      attribute(stroke, "d", path);
      attribute(area, "d", under(path));
      const last = values[values.length - 1] ?? null;
      attribute(picture, "aria-label", `${label}, now ${amount(last)}, at most ${amount(largest(values))}`);
    },
  };
}

// A chart with its title, the value now or under the pointer, and thresholds as lines.
export function chart(title, show = amount) {
  const { area, stroke, limits, picture } = canvas(title);
  const now = el("strong");
  const note = el("span", { class: "bf-chart-note" });
  const begin = el("span");
  const end = el("span");
  // below the plot, as all words are: within it they would cover a line
  const middle = el("span");
  const cursor = el("i", { class: "bf-cursor", hidden: true });
  const plot = el("div", { class: "bf-plot" }, picture, cursor);
  let data = { at: [], values: [] };
  let pointed = null;

  function say() {
    const index = pointed ?? data.values.length - 1;
    write(now, index < 0 ? "–" : show(data.values[index]));
    write(note, pointed === null || index < 0 ? "" : clock(data.at[index] * 1000));
  }
  plot.addEventListener("pointermove", (event) => {
    if (data.at.length < 2) return;
    const box = plot.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    const at = data.at[0] + share * (data.at[data.at.length - 1] - data.at[0]);
    pointed = data.at.reduce((best, one, index) => (Math.abs(one - at) < Math.abs(data.at[best] - at) ? index : best), 0);
    cursor.hidden = false;
    cursor.style.left = `${share * 100}%`;
    say();
  });
  plot.addEventListener("pointerleave", () => {
    pointed = null;
    cursor.hidden = true;
    say();
  });
  return {
    node: el(
      "figure",
      { class: "bf-chart" },
      el("figcaption", {}, el("span", {}, title), el("span", {}, note, now)),
      plot,
      el("div", { class: "bf-chart-times", "aria-hidden": "true" }, begin, middle, end),
    ),
    update({ at, values, thresholds = [] }) {
      data = { at, values };
      if (pointed !== null && pointed >= at.length) pointed = null;
      const high = Math.max(largest(values), ...thresholds.map((one) => one.value)) * 1.1 || 1;
      const path = at.length > 1 ? line(at, values, high) : "";
      attribute(stroke, "d", path);
      attribute(area, "d", under(path));
      refill(limits, [thresholds, high], () =>
        thresholds.map(({ name, value }) => {
          const y = HIGH - (value / high) * (HIGH - 4);
          const drawn = svg("line", { class: `bf-limit-${name}`, x1: 0, x2: WIDE, y1: y, y2: y });
          drawn.append(svg("title", {}, `${name} at ${show(value)}`));
          return drawn;
        }),
      );
      const most = values.length ? `at most ${show(largest(values))}` : "";
      write(middle, thresholds.map(({ name, value }) => `${name} ${show(value)}`).join(" · ") || most);
      write(begin, at.length > 1 ? clock(at[0] * 1000) : "");
      write(end, at.length > 1 ? clock(at[at.length - 1] * 1000) : "");
      const said = thresholds.map(({ name, value }) => `, ${name} at ${show(value)}`).join("");
      attribute(picture, "aria-label", `${title}: now ${show(values[values.length - 1] ?? null)}${said}`);
      say();
    },
  };
}

// ------------------------------------------------------------------------- the map of slices

// What a cell is called by: the first of these that one of its slices is.
const PLACES = [
  ["failing", "failing"],
  ["held", "being worked on"],
  ["sweep", "to sweep"],
  ["verify", "to verify"],
  ["walk", "waiting"],
  ["done", "done"],
];

// A slice that somebody holds, or that fails, is in a phase as well: it is told once.
function told(cell) {
  const left = { ...cell };
  let twice = Math.max(cell.held, cell.failing);
  for (const phase of ["walk", "sweep", "verify"]) {
    const taken = Math.min(left[phase], twice);
    left[phase] -= taken;
    twice -= taken;
  }
  left.held = Math.max(0, cell.held - cell.failing);
  return left;
}

export function map() {
  const cells = el("div", { class: "bf-map", role: "img" });
  const legend = el("ul", { class: "bf-legend" });
  return {
    node: el("div", {}, cells, legend),
    update({ map: found, slices_ahead: ahead, working, options }) {
      const each = Math.max(1, ...found.map((cell) => cell.slices));
      const empty = Math.min(240, Math.ceil(ahead / each));
      const walked = Object.fromEntries(working.map((one) => [one.slice, Math.min(0.95, one.paged / options.slice_rows)]));
      const shown = found.map((cell) => ({ ...told(cell), share: cell.slices > 1 ? cell.done / cell.slices : (walked[cell.first] ?? 0) }));
      const all = found.reduce((sum, cell) => sum + cell.slices, 0);
      const counted = PLACES.map(([name, words]) => [name, words, shown.reduce((sum, cell) => sum + cell[name], 0)]);
      const listed = [...counted, ["ahead", "not reached yet, about", ahead]].filter(([, , n]) => n > 0);
      refill(cells, [shown, empty], () => [
        ...shown.map(drawCell),
        ...Array.from({ length: empty }, () => el("i", { class: "bf-ahead", title: "not reached yet" })),
      ]);
      attribute(cells, "aria-label", `${plural(all, "slice")}: ${listed.map(([, words, n]) => `${words} ${count(n)}`).join(", ")}`);
      refill(legend, listed, () =>
        listed.map(([name, words, n]) => el("li", {}, el("i", { class: `bf-${name}`, "aria-hidden": "true" }), `${words} `, el("b", {}, count(n)))),
      );
    },
  };
}

function drawCell(cell) {
  const places = PLACES.filter(([name]) => cell[name] > 0);
  const place = places[0]?.[0] ?? "walk";
  const isOne = cell.slices === 1;
  const parts = [
    ...places.map(([name, words]) => (isOne ? words : `${count(cell[name])} ${words}`)),
    cell.deferred ? plural(cell.deferred, "row deferred", "rows deferred") : "",
    cell.quarantined ? plural(cell.quarantined, "row in quarantine", "rows in quarantine") : "",
  ].filter(Boolean);
  const name = isOne ? `slice ${cell.first}` : `slices ${cell.first}–${cell.first + cell.slices - 1}`;
  const drawn = el("i", { class: `bf-${place}${cell.quarantined ? " bf-has-quarantine" : ""}`, title: `${name}: ${parts.join(", ")}` });
  if (place !== "done") drawn.style.setProperty("--done", `${Math.round(cell.share * 100)}%`);
  return drawn;
}
