// Parts that both pages show: state, bar, figures, who works, events.

import { amount, attribute, clock, count, each, el, percent, plural, refill, seconds, when, write } from "./draw.js";

export function state() {
  const node = el("span", { class: "bf-state" });
  return {
    node,
    update(run) {
      attribute(node, "data-state", run.state);
      write(node, run.state);
    },
  };
}

export function bar(label) {
  const fill = el("div", { class: "bf-fill" });
  const node = el("div", { class: "bf-bar", role: "progressbar", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": 100 }, fill);
  return {
    node,
    update(run) {
      const share = run.share ?? 0;
      fill.style.width = `${share * 100}%`;
      attribute(node, "data-state", run.state);
      attribute(node, "aria-valuenow", run.share === null ? null : Math.floor(share * 100));
      attribute(node, "aria-valuetext", run.share === null ? "not known yet" : percent(run.share));
    },
  };
}

const settled = (counts) => counts.paged - counts.deferred;

// Large numbers with small words below: [words, value of a run, whether it is worth a look].
export function figures(wanted) {
  const node = el("dl", { class: "bf-figures" });
  const made = wanted.map(([words, value]) => {
    const text = el("dd");
    node.append(el("div", {}, el("dt", {}, words), text));
    return (run) => {
      const [shown, isLoud = false] = [value(run)].flat();
      write(text, shown);
      attribute(text, "data-loud", isLoud ? "yes" : null);
    };
  });
  return { node, update: (run) => made.forEach((update) => update(run)) };
}

function walked({ walk, ...rest }) {
  const over = Object.values(rest).reduce((a, b) => a + b, 0);
  return `${count(over)} / ${count(over + walk)}`;
}

export const FIGURES = {
  done: ["done", (run) => percent(run.share)],
  rows: ["rows", (run) => `${count(settled(run.counts))} / ${run.total_rows === null ? "?" : (run.total_is_exact || run.state === "succeeded" ? "" : "≈ ") + count(run.total_rows)}`],
  speed: ["rows/s", (run) => (["running", "sweeping", "verifying"].includes(run.state) ? amount(run.rows_per_second) : "0")],
  left: ["left", (run) => (run.eta_at ? seconds(run.eta_seconds) : "–")],
  ends: ["ends about", (run) => clock(run.eta_at)],
  slices: ["slices walked", (run) => walked(run.slices)],
  deferred: ["deferred", (run) => [count(run.counts.deferred), run.counts.deferred > 0]],
  quarantined: ["quarantined", (run) => [count(run.quarantine.open), run.quarantine.open > 0]],
};

export function limit() {
  const node = el("p", { class: "bf-limit" });
  return {
    node,
    update(run) {
      const isPaused = run.pauses.length > 0;
      node.hidden = !run.limited_by;
      attribute(node, "data-paused", isPaused ? "yes" : null);
      const ends = isPaused ? ` Ends: ${run.pauses.map((pause) => pause.ends).join("; ")}.` : "";
      write(node, `${isPaused ? "Paused by" : "Limited by"} ${run.limited_by}.${ends}`);
    },
  };
}

export function working() {
  const node = el("ul", { class: "bf-working", "aria-label": "Who works" });
  return {
    node,
    update(run) {
      node.hidden = run.working.length === 0;
      const inOrder = run.working.toSorted((one, other) => one.slice - other.slice);
      each(node, inOrder, (one) => one.slice, () => {
        const item = el("li");
        return {
          node: item,
          update: (one) => write(item, workLine(one)),
        };
      });
    },
  };
}

function workLine(one) {
  const batch = one.batch_rows ? ` · ${plural(one.batch_rows, "row")} in ${seconds(one.batch_seconds)}` : "";
  const failed = one.attempts ? ` · failed ${plural(one.attempts, "time")}` : "";
  return `slice ${one.slice} · ${one.holder}${one.phase === "walk" ? "" : ` · ${one.phase}`}${batch}${failed}`;
}

export function events(label) {
  const node = el("ol", { class: "bf-events", "aria-label": label });
  return {
    node,
    update: (found) =>
      refill(node, found, () => found.map((one) => el("li", {}, when(one.at), el("b", {}, one.name.replace(".", " ")), el("span", {}, detail(one.detail)), el("small", {}, one.caused_by)))),
  };
}

function detail(found) {
  return Object.entries(found)
    .filter(([, value]) => value !== null && value !== "" && !(typeof value === "object" && Object.keys(value).length === 0))
    .map(([name, value]) => `${name} ${typeof value === "string" ? value : JSON.stringify(value)}`)
    .join(" · ");
}

export function schedules() {
  const node = el("ul", { class: "bf-schedules" });
  return {
    node,
    update: (found) =>
      refill(node, found, () =>
        found.map((one) =>
          el(
            "li",
            {},
            el("b", {}, one.name),
            el("span", {}, `${one.job} · ${one.when}`),
            el("span", {}, one.waiting ? "waits for the live run" : one.next_at ? "next " : "no tick any more", one.next_at && !one.waiting ? when(one.next_at) : ""),
            el("small", {}, one.last_outcome ? `last: ${one.last_outcome}${one.last_reason ? `, ${one.last_reason}` : ""} · ` : "not yet ticked", one.last_tick ? when(one.last_tick) : ""),
          ),
        ),
      ),
  };
}
