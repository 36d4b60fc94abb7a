// The server: where things are, what is asked of it, and what is sent to it.

const PATIENCE_MS = 15000;

export const here = document.getElementById("main-content").dataset;

const of = (database) => `?database=${encodeURIComponent(database)}`;
const fill = (address, run) => address.replace("RUN", encodeURIComponent(run));

export const places = {
  run: (run, database) => fill(here.runPage, run) + of(database),
  api: (run, database, more = "") => fill(here.runApi, run) + more + of(database),
  all: (action, database) => here.allApi.replace("ACTION", action) + of(database),
  // Flower puts what follows `name` into its search as it is
  tasks: (run) => `${here.tasks}?name=${encodeURIComponent(`backfill.work kwargs:${run}`)}`,
};

export class LoggedOut extends Error {}
// What the server says in words, unlike no answer at all.
export class Told extends Error {}

export async function get(address) {
  const answer = await fetch(address, {
    headers: { Accept: "application/json" },
    cache: "no-store",
    redirect: "manual",
    signal: AbortSignal.timeout(PATIENCE_MS),
  });
  if (answer.type === "opaqueredirect" || answer.status === 401) throw new LoggedOut();
  const found = await answer.json();
  if (!answer.ok) throw new Told([found.error, found.remedy].filter(Boolean).join(". "));
  return found;
}

export async function post(address, values) {
  const token = document.cookie.match(/(?:^|; )_xsrf="?([^;"]*)/)?.[1] ?? "";
  try {
    const answer = await fetch(address, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-XSRFToken": token },
      body: JSON.stringify(values),
      redirect: "manual",
    });
    return await answer.json();
  } catch {
    return { error: "Flower does not answer", remedy: "Nobody knows whether it was done: look before you try again." };
  }
}
