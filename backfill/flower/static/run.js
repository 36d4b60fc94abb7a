// The page of one run: everything that is known of it.

import { buttons } from "./ask.js";
import { amount, attribute, chart, count, each, el, map, plural, refill, seconds, when, write } from "./draw.js";
import { bar, events, figures, FIGURES, limit, schedules, state, working } from "./parts.js";
import { get, here, places } from "./server.js";

const section = (title, ...children) => el("section", { class: "bf-panel", "aria-label": title }, el("h2", {}, title), ...children);

export function oneRun(id, database) {
  const top = [state(), buttons(["pause", "resume", "retry", "tune", "cancel"]), bar("Done"), limit(), figures(Object.values(FIGURES))];
  const [where, press, progress, limited, numbers] = top.map((part) => part.node);
  const what = el("h2");
  const failure = el("p", { class: "bf-note bf-wrong" });
  const slices = map();
  const who = working();
  const idle = el("p", { class: "bf-empty" }, "Nobody works on it now.");
  const drawn = charts();
  const held = quarantine(id, database);
  const log = events("Events");
  const planned = schedules();
  const planning = section("Schedules of this job", planned.node);
  const about = el("dl", { class: "bf-about" });
  return {
    node: el(
      "div",
      { class: "bf-run" },
      el("section", { class: "bf-panel bf-top", "aria-label": "Progress" }, el("header", {}, what, where, press), progress, numbers, limited, failure),
      section("Slices, in the order of their keys", slices.node, who.node, idle),
      drawn.node,
      held.node,
      planning,
      section("Events", log.node),
      section("About", about, el("p", {}, el("a", { href: places.tasks(id) }, "Its tasks in Celery"))),
    ),
    update(run) {
      for (const part of top) part.update(run, run.database);
      write(what, run.label);
      failure.hidden = !run.failure;
      write(failure, run.failure ?? "");
      slices.update(run);
      who.update(run);
      idle.hidden = run.working.length > 0;
      drawn.update(run);
      held.update(run);
      planning.hidden = run.schedules.length === 0;
      planned.update(run.schedules);
      log.update(run.events);
      refill(about, aboutOf(run), (found) => found.map(([name, value]) => el("div", { class: value.length > 60 ? "bf-wide" : null }, el("dt", {}, name), el("dd", {}, value))));
    },
    isFromLedger: (run) => run.source === "ledger" && !run.finished_at,
  };
}

function aboutOf(run) {
  const said = (values) => Object.entries(values).filter(([, value]) => value !== null).map(([name, value]) => `${name} = ${value}`).join(", ") || "none";
  return [
    ["Job", run.job],
    ["Database", `${run.database.name}, ${run.database.where}`],
    ["Asked for by", run.requested_by],
    ["Begun", run.started_at ? new Date(run.started_at).toLocaleString("en-GB") : "not yet"],
    ["Ended", run.finished_at ? new Date(run.finished_at).toLocaleString("en-GB") : "not yet"],
    ["Worked on by", run.executor === "celery" ? plural(run.workers, "worker") : "one process"],
    ["Rows", Object.entries(run.counts).filter(([name, value]) => value && name !== "paged").map(([name, value]) => `${count(value)} ${name}`).join(", ") || "none yet"],
    ["Parameters", said(run.params)],
    ["Bounds", boundsOf(run)],
    ["Options", said(run.options)],
  ];
}

/* Keys are values of rows: they are not told here. */
function boundsOf(run) {
  const { from, to, limit } = run.bounds;
  const keys = from && to ? "from a key up to another" : from ? "from a key on" : to ? "up to a key" : null;
  return [keys && `${keys} (\`backfill status ${run.run}\` says which)`, limit && `at most ${count(limit)} rows`].filter(Boolean).join(", ") || "none";
}

// ------------------------------------------------------------------------- charts

const SHOWN = { s: seconds, "%": (value) => (value === null ? "–" : `${amount(value)} %`), B: bytes, "B/s": (value) => (value === null ? "–" : `${bytes(value)}/s`) };

function bytes(value) {
  if (value === null) return "–";
  const steps = ["B", "kB", "MB", "GB", "TB"];
  const step = Math.min(steps.length - 1, value < 1 ? 0 : Math.floor(Math.log2(value) / 10));
  return `${amount(value / 1024 ** step)} ${steps[step]}`;
}

function charts() {
  const own = [
    [chart("Rows per second"), "rows_per_second"],
    [chart("Rows a batch"), "batch_rows"],
    [chart("Time of a batch", seconds), "batch_seconds"],
  ];
  const measured = el("div", { class: "bf-charts" });
  const signals = el("section", { class: "bf-panel", "aria-label": "Signals" }, el("h2", {}, "Signals"), measured);
  const node = el("div", {}, section("Over time", el("div", { class: "bf-charts" }, ...own.map(([one]) => one.node))), signals);
  return {
    node,
    update({ series, signals: now }) {
      for (const [one, column] of own) one.update({ at: series.at, values: series[column] });
      const found = Object.entries(series.signals).map(([name, values]) => ({ name, at: series.at, values, sample: now.find((one) => one.name === name) }));
      signals.hidden = found.length === 0;
      each(measured, found, ({ name }) => name, signalChart);
    },
  };
}

function signalChart({ name, sample }) {
  const one = chart(name.replaceAll("_", " "), SHOWN[sample?.unit] ?? amount);
  return {
    node: one.node,
    update(found) {
      const { stop, resume, state: how } = found.sample ?? {};
      const thresholds = [["resume", resume], ["stop", stop]].filter(([, value]) => value !== undefined);
      attribute(one.node, "data-state", how ?? null);
      one.update({ at: found.at, values: found.values, thresholds: thresholds.map(([kind, value]) => ({ name: kind, value })) });
    },
  };
}

// ------------------------------------------------------------------------- the quarantine

// Keys and reasons can quote rows, so they are asked for by whoever wants to see them, and not kept.
function quarantine(id, database) {
  const why = el("p", { class: "bf-empty" });
  const settle = buttons(["quarantine-retry", "quarantine-accept"]);
  const kinds = el("ul", { class: "bf-kinds" });
  const rows = el("tbody");
  const table = el("div", { class: "bf-scroll", tabindex: "0", role: "region", "aria-label": "Rows in quarantine", hidden: true }, el("table", {}, el("thead", {}, el("tr", {}, ...["Key", "SQLSTATE", "Reason", "Since", ""].map((text) => el("th", { scope: "col" }, text)))), rows));
  let page = 0;
  let withReasons = false;
  const press = (text, change) =>
    el("button", { type: "button", class: "btn btn-sm btn-outline-secondary", onclick: () => { change(); load(); } }, text);
  const show = press("Show rows", () => {});
  const reasons = press("Show reasons", () => { withReasons = true; });
  const before = press("Back", () => { page -= 1; });
  const after = press("More", () => { page += 1; });
  for (const one of [reasons, before, after]) one.hidden = true;
  const node = section("Quarantine", why, kinds, el("div", { class: "bf-buttons" }, settle.node, show, reasons, before, after), table);

  async function load() {
    try {
      const asked = `${places.api(id, database, "/quarantine")}&page=${page}${withReasons ? "&reasons=1" : ""}`;
      const found = await get(asked);
      rows.replaceChildren(...found.rows.map(drawRow));
      table.hidden = false;
      show.textContent = "Read again";
      reasons.hidden = withReasons;
      before.hidden = page === 0;
      after.hidden = !found.more;
    } catch (error) {
      rows.replaceChildren(el("tr", {}, el("td", { colspan: 5 }, error.message || "Flower does not answer")));
      table.hidden = false;
    }
  }
  return {
    node,
    update(run) {
      const found = run.quarantine;
      settle.update(run, run.database);
      node.hidden = found.all === 0;
      write(why, found.open ? `${plural(found.open, "row")} ${found.open === 1 ? "waits" : "wait"} for somebody: mended and taken again, or accepted as they are.` : "All of them are accepted as they are.");
      refill(kinds, found.by_sqlstate, () => found.by_sqlstate.map((one) => el("li", {}, el("b", {}, count(one.open + one.accepted)), ` ${one.sqlstate ?? "refused by the job itself"}`, one.accepted ? ` (${count(one.accepted)} accepted)` : "")));
      show.hidden = here.maySeeRows !== "yes";
    },
  };
}

function drawRow(row) {
  const key = row.key.length === 1 ? row.key[0] : `(${row.key.join(", ")})`;
  return el("tr", {}, el("td", { class: "bf-key" }, el("code", {}, key)), el("td", {}, row.sqlstate ?? "–"), el("td", { class: "bf-reason" }, row.reason ?? "…"), el("td", {}, when(row.since)), el("td", {}, row.accepted ? "accepted" : ""));
}
