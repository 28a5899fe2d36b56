// The live page: asks for a snapshot each second and gives it to every panel.

import { el, say } from "./elements.js";
import { clock } from "./format.js";
import { groups } from "./panels.js";

const EVERY_MS = 1000;
const ANSWER_WITHIN_MS = 5000;

const state = document.getElementById("state");
const stateText = document.getElementById("state-text");
const notice = document.getElementById("notice");
const main = document.getElementById("panels");

const shown = groups.flatMap(({ title, panels }) => {
  main.append(el("h2", { class: "group", text: title }));
  return panels.map(put);
});

function put(panel) {
  const heading = el("h3", { id: `${panel.id}-title`, text: panel.title });
  const problem = el("p", { class: "problem", hidden: true });
  const body = el("div", { class: "body" });
  main.append(
    el(
      "section",
      { class: `panel ${panel.size}`, id: panel.id, "aria-labelledby": heading.id },
      el("div", { class: "head" }, heading, el("p", { class: "about", text: panel.about ?? "" })),
      problem,
      body,
    ),
  );
  return { panel, problem, update: panel.make(body) };
}

let tag = null;
let seenMs = null;

/** The snapshot, or null where it is the one that was seen before. */
async function ask() {
  const response = await fetch("/live.json", {
    headers: tag ? { "If-None-Match": tag } : {},
    cache: "no-store",
    signal: AbortSignal.timeout(ANSWER_WITHIN_MS),
  });
  if (response.status === 304) return null;
  if (!response.ok) throw new Error(`status ${response.status}`);
  const snapshot = await response.json();
  tag = response.headers.get("ETag");
  return snapshot;
}

function show(snapshot) {
  for (const { panel, problem, update } of shown) {
    const told = (panel.parts ?? []).map((part) => snapshot.problems[part]).filter(Boolean);
    const reasons = [...new Set(told)];
    problem.hidden = reasons.length === 0;
    say(problem, reasons.join("; "));
    problem.title = reasons.join("; ");
    try {
      update(snapshot);
    } catch (error) {
      console.error(`panel ${panel.id}`, error);
    }
  }
}

function tellLive() {
  state.dataset.state = "live";
  say(stateText, seenMs === null ? "live" : `live · ${clock(seenMs)} UTC`);
  notice.hidden = true;
  document.body.classList.remove("silent");
}

function tellSilent() {
  const since = seenMs === null ? "" : ` What you see is from ${clock(seenMs)} UTC.`;
  state.dataset.state = "silent";
  say(stateText, "no answer");
  say(notice, `The server does not answer.${since} Trying again every second.`);
  notice.hidden = false;
  document.body.classList.add("silent");
}

async function turn() {
  let snapshot;
  try {
    snapshot = await ask();
  } catch {
    tellSilent();
    return;
  }
  if (snapshot !== null) {
    seenMs = snapshot.now_ms;
    show(snapshot);
  }
  tellLive();
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** A hidden page asks nothing, and asks at once when it is seen again. */
const seen = () =>
  new Promise((resolve) => {
    if (!document.hidden) resolve();
    else document.addEventListener("visibilitychange", () => resolve(), { once: true });
  });

for (;;) {
  await seen();
  await turn();
  await pause(EVERY_MS);
}
