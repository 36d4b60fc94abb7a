// The buttons: each asks in a dialog that names what it is for, and then sends what was said.
//
// What they are for, the subject, is a run or all runs of a database:
//   { name, names: shown in the question, api: where an action is sent, database, about: for QUESTIONS }

import { el, plural } from "./draw.js";
import { here, places, post } from "./server.js";

const CHANGEABLE = [
  ["rate", "Rate", "rows per second, such as 2000/s; empty: none"],
  ["concurrency", "Concurrency", "slices worked on at once"],
  ["batch_rows", "Batch rows", "a number, or auto"],
  ["window", "Window", "such as 22:00-06:00 Europe/Berlin; empty: always"],
];

// What can be asked of a run as it is now: the names of the actions.
function possible(run) {
  const causes = new Set(run.pauses.map((pause) => pause.cause));
  const isLive = !["succeeded", "failed", "cancelled"].includes(run.state);
  const canResume = ["user", "error", "changed job"].some((cause) => causes.has(cause));
  return [
    ...(isLive && !causes.has("user") ? ["pause"] : []),
    ...(isLive && canResume ? ["resume"] : []),
    ...(isLive ? ["tune", "cancel"] : []),
    ...(run.state === "failed" ? ["retry"] : []),
    ...(isLive && run.quarantine.open ? ["quarantine-retry", "quarantine-accept"] : []),
  ];
}

// In the order in which they stand.
const LABELS = {
  pause: "Pause",
  resume: "Resume",
  tune: "Tune",
  cancel: "Cancel",
  retry: "Retry",
  "quarantine-retry": "Take again",
  "quarantine-accept": "Accept",
  "stop-all": "Stop all",
  "start-all": "Start all",
};

const QUESTIONS = {
  pause: () => ["Pause this run?", "The batches in hand are finished. Nothing is lost.", [field("reason", "Reason", "shown to everybody; may stay empty")]],
  resume: (run) => [
    "Let this run go on?",
    "",
    run.pauses.some((pause) => pause.cause === "changed job")
      ? [checkbox("accept_changes", "Go on with the job’s declaration as it is now")]
      : [],
  ],
  retry: () => ["Take this failed run up again?", "It goes on where it stopped.", []],
  cancel: (run) => [
    "End this run for good?",
    "What it has written stays. It cannot be taken up again.",
    [field("reason", "Reason", "shown to everybody; may stay empty"), field("typed_run", "The run’s id", `type ${run.run}`, { pattern: literally(run.run), required: true })],
  ],
  tune: (run) => [
    "Change how this run works?",
    "Within two seconds; each slot finishes its batch first.",
    CHANGEABLE.map(([name, label, hint]) => field(name, label, hint, { value: run.tunable?.[name] ?? "" })),
  ],
  "quarantine-retry": (run) => ["Take the rows in quarantine again?", `${plural(run.quarantine.open, "row")}, now that they are mended.`, []],
  "quarantine-accept": (run) => ["Leave the rows in quarantine as they are?", `${plural(run.quarantine.open, "row")}, for good. The run goes on to its end.`, []],
  "stop-all": () => [
    "Stop all runs of this database?",
    "The batches in hand are finished, and nothing is lost. A new run begins stopped, too.",
    [field("reason", "Reason", "shown to everybody; may stay empty")],
  ],
  "start-all": () => ["Let all runs of this database go on?", "What else pauses a run goes on to do so.", []],
};

function literally(text) {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}

let fields = 0;

function field(name, label, hint, more = {}) {
  const id = `bf-field-${(fields += 1)}`;
  const input = el("input", { id, name, class: "form-control", autocomplete: "off", spellcheck: "false", "aria-describedby": `${id}-hint`, title: hint, ...more });
  return el("div", { class: "bf-field" }, el("label", { for: id }, label), input, el("small", { id: `${id}-hint` }, hint));
}

function checkbox(name, label) {
  const id = `bf-field-${(fields += 1)}`;
  return el("div", { class: "form-check" }, el("input", { id, name, type: "checkbox", class: "form-check-input" }), el("label", { for: id, class: "form-check-label" }, label));
}

// What is announced when something was done, so that the page is drawn anew at once.
export const DONE = "backfills:done";

const dialog = document.getElementById("bf-dialog");
const told = document.getElementById("bf-told");
const READABLE_MS = 20000;
const QUIET = ["cancel", "tune", "quarantine-accept", "stop-all"];
const GRAVE = ["cancel", "stop-all"];

// A run's buttons; all that are possible, or only some of them.
export function buttons(only = Object.keys(LABELS)) {
  const drawn = row();
  return {
    node: drawn.node,
    update: (run, database) => drawn.update(ofRun(run, database), possible(run).filter((action) => only.includes(action))),
  };
}

function ofRun(run, database) {
  const names = [["Run", run.run], ["Job", run.job], whereOf(database)];
  return { name: run.run, names, api: (action) => places.api(run.run, database.name, `/${action}`), database, about: run };
}

// The red button of a database, or the one that undoes it.
export function redButton() {
  const drawn = row();
  return {
    node: drawn.node,
    update: (database) => drawn.update(ofAll(database), database.error ? [] : [database.stopped ? "start-all" : "stop-all"]),
  };
}

function ofAll(database) {
  return { name: database.name, names: [whereOf(database)], api: (action) => places.all(action, database.name), database, about: database };
}

const whereOf = (database) => ["Database", `${database.name}, ${database.where}`];

// A row of buttons for what is possible now; empty where nobody may do anything.
function row() {
  const node = el("div", { class: "bf-buttons" });
  const made = new Map();
  let subject = null;
  function button(action) {
    const kind = QUIET.includes(action) ? "btn-outline-secondary" : "btn-outline-primary";
    const label = `${LABELS[action]} ${subject.name}`;
    return el("button", { type: "button", class: `btn btn-sm ${kind}`, "data-action": action, "aria-label": label, onclick: () => ask(action, subject) }, LABELS[action]);
  }
  return {
    node,
    update(nextSubject, asked) {
      subject = nextSubject;
      const now = here.mayAct === "yes" ? asked : [];
      let next = null;
      for (const action of Object.keys(LABELS).reverse()) {
        if (now.includes(action) && !made.has(action)) {
          made.set(action, button(action));
          node.insertBefore(made.get(action), next);
        }
        next = made.get(action) ?? next;
      }
      for (const [action, one] of made) one.hidden = !now.includes(action);
    },
  };
}

function ask(action, { names, api, database, about }) {
  const [title, explanation, asked] = QUESTIONS[action](about);
  const typed = database.confirm
    ? [field("typed_database", "The database’s name", `type ${database.name}`, { pattern: literally(database.name), required: true })]
    : [];
  const wrong = el("p", { class: "bf-wrong", role: "alert" });
  const goes = action === "cancel" ? "End the run" : LABELS[action];
  const go = el("button", { type: "submit", class: `btn ${GRAVE.includes(action) ? "btn-danger" : "btn-primary"}` }, goes);
  const back = el("button", { type: "button", class: "btn btn-outline-secondary", onclick: () => dialog.close() }, "Not now");
  const form = el(
    "form",
    { method: "dialog" },
    el("h2", { id: "bf-dialog-title" }, title),
    el("dl", { class: "bf-names" }, ...names.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
    explanation && el("p", {}, explanation),
    ...asked,
    ...typed,
    wrong,
    el("div", { class: "bf-dialog-buttons" }, back, go),
  );
  const before = valuesOf(form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    go.disabled = true;
    go.textContent = "A moment …";
    wrong.textContent = "";
    const values = action === "tune" ? changed(before, valuesOf(form)) : valuesOf(form);
    const answer = await post(api(action), values);
    go.disabled = false;
    go.textContent = goes;
    if (answer.error) {
      wrong.textContent = [answer.error, answer.remedy].filter(Boolean).join(". ");
      return;
    }
    dialog.close();
    tell(answer);
    document.dispatchEvent(new Event(DONE));
  });
  dialog.replaceChildren(form);
  dialog.showModal();
  (form.querySelector("input") ?? go).focus();
}

function tell(answer) {
  const close = el("button", { type: "button", class: "btn-close", "aria-label": "Close", onclick: () => told.replaceChildren() });
  const done = answer.lines.map((text) => el("p", {}, text));
  const notes = answer.notes.map((text) => el("p", { class: "bf-quiet" }, text));
  const shown = el("div", { class: "bf-toast" }, el("div", {}, ...done, ...notes), close);
  told.replaceChildren(shown);
  setTimeout(() => shown.remove(), READABLE_MS);
}

function valuesOf(form) {
  return Object.fromEntries([...form.querySelectorAll("input")].map((input) => [input.name, input.type === "checkbox" ? input.checked : input.value.trim()]));
}

// Of the tunable options only those that were changed; an emptied one is taken away.
function changed(before, after) {
  return Object.fromEntries(
    Object.entries(after)
      .filter(([name, value]) => name.startsWith("typed_") || value !== before[name])
      .map(([name, value]) => [name, value === "" ? "none" : value]),
  );
}
