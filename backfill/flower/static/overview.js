// The page of all runs: for each database what lives, then, quieter, what has ended.

import { buttons, redButton } from "./ask.js";
import { clock, count, each, el, plural, refill, seconds, spark, when, write } from "./draw.js";
import { bar, events, figures, FIGURES, limit, schedules, state, working } from "./parts.js";
import { places } from "./server.js";

const isLive = (run) => !["succeeded", "failed", "cancelled"].includes(run.state);

export function overview() {
  const node = el("div");
  return {
    node,
    update: (found) => each(node, found.databases, (one) => one.name, section),
    isFromLedger: (found) => found.databases.some((one) => one.runs.some((run) => isLive(run) && run.source === "ledger")),
  };
}

function section(first) {
  const workers = el("span");
  const red = redButton();
  const wrong = el("p", { class: "bf-note bf-wrong" });
  const stopped = el("p", { class: "bf-note bf-wrong" });
  const cards = el("div", { class: "bf-cards" });
  const nothing = el("p", { class: "bf-empty" });
  const planned = schedules();
  const planning = el("section", { "aria-label": "Schedules" }, el("h3", {}, "Schedules"), planned.node);
  const past = el("tbody");
  const ended = el(
    "section",
    { class: "bf-ended", "aria-label": "Ended runs" },
    el("h3", {}, "Ended"),
    el("div", { class: "bf-scroll", tabindex: "0", role: "region", "aria-label": "Table of ended runs" }, el("table", {}, el("thead", {}, el("tr", {}, ...["Run", "State", "Rows", "Took", "Ended"].map((text) => el("th", { scope: "col" }, text)))), past)),
  );
  const node = el("section", { class: "bf-database", "aria-label": `Database ${first.name}` }, el("header", {}, el("h2", {}, first.name), el("span", { class: "bf-where" }, first.where), workers, red.node), wrong, stopped, cards, nothing, planning, ended);
  return {
    node,
    update(found) {
      const live = found.runs.filter(isLive);
      const over = found.runs.filter((run) => !isLive(run));
      wrong.hidden = !found.error;
      write(wrong, found.error ? `${found.error}. ${found.remedy ?? ""}` : "");
      stopped.hidden = !found.stopped;
      write(stopped, found.stopped ? `All runs are stopped since ${clock(found.stopped.since)}: ${found.stopped.reason} (${found.stopped.by}). \`backfill start-all\` lets them go on.` : "");
      red.update(found);
      write(workers, found.error ? "" : workerLine(found.workers));
      each(cards, live.map((run) => ({ run, database: found })), ({ run }) => run.run, card);
      cards.hidden = live.length === 0;
      nothing.hidden = live.length > 0 || Boolean(found.error);
      write(nothing, "No run is live. `backfill enqueue JOB` begins one.");
      planning.hidden = found.schedules.length === 0;
      planned.update(found.schedules);
      ended.hidden = over.length === 0;
      refill(past, over, () => over.map((run) => row(run, found.name)));
    },
  };
}

function workerLine(names) {
  if (names.length === 0) return "no worker is running";
  return `${plural(names.length, "worker")}: ${names.slice(0, 6).join(", ")}${names.length > 6 ? " …" : ""}`;
}

function card({ run: { run: id, label }, database: { name } }) {
  const parts = [state(), buttons(["pause", "resume"]), bar(`${label}: done`), figures([FIGURES.done, FIGURES.rows, FIGURES.speed, FIGURES.left, FIGURES.slices, FIGURES.deferred, FIGURES.quarantined]), limit(), working()];
  const [where, press, progress, numbers, limited, who] = parts.map((part) => part.node);
  const speed = spark("Rows per second");
  const last = events("Last events");
  return {
    node: el(
      "article",
      { class: "bf-card", "data-run": id, "aria-label": id },
      el("header", {}, el("h3", {}, el("a", { href: places.run(id, name) }, label), " ", el("small", {}, id)), where, press),
      progress,
      el("div", { class: "bf-middle" }, numbers, speed.node),
      limited,
      who,
      last.node,
    ),
    update({ run, database }) {
      for (const part of parts) part.update(run, database);
      if (run.series) speed.update(run.series);
      last.update(run.events ?? []);
    },
  };
}

function row(run, database) {
  const took = run.started_at && run.finished_at ? (new Date(run.finished_at) - new Date(run.started_at)) / 1000 : null;
  return el(
    "tr",
    {},
    el("td", {}, el("a", { href: places.run(run.run, database) }, run.run), " ", el("small", {}, run.label)),
    el("td", {}, el("span", { class: "bf-state", "data-state": run.state }, run.state)),
    el("td", {}, count(run.counts.paged)),
    el("td", {}, seconds(took)),
    el("td", {}, when(run.finished_at)),
  );
}
