// Keeps the page fresh: asks once a second while somebody looks at it, more seldom while nobody
// answers, and draws what has changed.

import { DONE } from "./ask.js";
import { attribute, write } from "./draw.js";
import { overview } from "./overview.js";
import { oneRun } from "./run.js";
import { get, here, LoggedOut, places, Told } from "./server.js";

const EVERY_MS = 1000;
const SLOWEST_MS = 30000;

const pulse = document.getElementById("bf-pulse");
const isOverview = here.view === "overview";
const address = isOverview ? here.overview : places.api(here.run, here.database);
const view = isOverview ? overview() : oneRun(here.run, here.database);
document.getElementById("bf-view").append(view.node);

let timer = null;
let wait = EVERY_MS;
let isAsking = false;

function feel(state, text) {
  attribute(pulse, "data-state", state);
  write(pulse, text);
}

async function tick() {
  clearTimeout(timer);
  if (isAsking || document.hidden) return;
  isAsking = true;
  try {
    const found = await get(address);
    view.update(found);
    wait = EVERY_MS;
    if (view.isFromLedger(found)) feel("ledger", "read from the ledger");
    else feel("live", "live");
  } catch (error) {
    if (error instanceof LoggedOut) {
      feel("away", "nobody is logged in any more: load the page again");
      return;
    }
    wait = Math.min(wait * 2, SLOWEST_MS);
    feel("away", error instanceof Told ? error.message : "Flower does not answer; trying again");
  } finally {
    isAsking = false;
  }
  if (!document.hidden) timer = setTimeout(tick, wait);
}

function now() {
  wait = EVERY_MS;
  tick();
}

document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : now()));
document.addEventListener(DONE, now);
now();
