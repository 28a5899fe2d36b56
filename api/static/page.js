// The live page: asks each second for what changed, and gives the whole to every panel.

import { el, keep, say } from "./elements.js";
import { clock, count } from "./format.js";
import { groups } from "./panels.js";
import { patched } from "./patches.js";

const EVERY_MS = 1000;
const ANSWER_WITHIN_MS = 3000;
const TITLE = document.title;

const state = document.getElementById("state");
const stateText = document.getElementById("state-text");
const notice = document.getElementById("notice");
const origin = document.getElementById("origin");
const unshown = document.getElementById("unshown");
const main = document.getElementById("panels");

const shown = groups.flatMap(({ title, panels }) => {
  const heading = el("h2", { class: "group", text: title });
  main.append(heading);
  const made = panels.map(put);
  for (const one of made) one.siblings = { heading, made };
  return made;
});

function put(panel) {
  const heading = el("h3", { id: `${panel.id}-title`, text: panel.title });
  const mark = el("span", { class: "mark", text: "simulated", hidden: true });
  const problem = el("p", { class: "problem", hidden: true });
  const body = el("div", { class: "body" });
  const section = el(
    "section",
    { class: `panel ${panel.size}`, id: panel.id, "aria-labelledby": heading.id },
    el("div", { class: "head" }, heading, el("p", { class: "about", text: panel.about ?? "" }), mark),
    problem,
    body,
  );
  main.append(section);
  return { panel, section, mark, problem, update: panel.make(body) };
}

let tag = null;
let seen = null;

/** The snapshot, or null where it is the one that was seen before. */
async function ask() {
  const response = await fetch(tag ? `/live.json?since=${tag}` : "/live.json", {
    signal: AbortSignal.timeout(ANSWER_WITHIN_MS),
  });
  if (response.status === 304) return null;
  if (!response.ok) throw new Error(`status ${response.status}`);
  const answer = await response.json();
  const snapshot = answer.patch === undefined ? answer : patched(seen, answer.patch);
  tag = response.headers.get("ETag")?.replaceAll('"', "") ?? null;
  return snapshot;
}

function show(snapshot) {
  tellOrigin(snapshot);
  tellUnshown(snapshot);
  for (const one of shown) {
    const { panel, section, problem, update } = one;
    const parts = panel.parts ?? [];
    const reasons = [...new Set(parts.map((part) => snapshot.problems[part]).filter(Boolean))];
    problem.hidden = reasons.length === 0;
    say(problem, reasons.join("; "));
    problem.title = reasons.join("; ");
    try {
      update(snapshot);
    } catch (error) {
      console.error(`panel ${panel.id}`, error);
    }
    const isWaiting = parts.some((part) => snapshot.waiting.includes(part));
    const text = reasons.length
      ? `Not known: ${reasons.join("; ")}`
      : isWaiting
        ? "Asking …"
        : whyEmpty(panel, snapshot);
    for (const empty of section.querySelectorAll(".empty")) {
      empty.toggleAttribute("data-instead", text !== "");
      say(empty.lastElementChild, text);
    }
  }
}

/** Why a panel without rows is empty although there are records: "" where there are none. */
function whyEmpty({ flow: name, topics = [], isOften }, { flows, topics: records }) {
  const flow = flows.find((one) => one.flow === name);
  if (flow?.trouble) return `Not known: ${name} ${flow.trouble}. ${flow.error}`;
  if (flow?.read) {
    return isOften ? "" : `${name} has read ${count(flow.read)} records, and none of them has a row here.`;
  }
  const standing = topics.reduce((total, topic) => total + (records[topic] ?? 0), 0);
  if (!name || !standing) return "";
  const waiting = `${count(standing)} records`;
  return flow ? `${name} has not read any of ${waiting} yet.` : `${waiting} wait: footfall run ${name} reads them.`;
}

/** A panel of topics that hold nothing is left out where others hold something. */
function tellUnshown({ topics: records, flows }) {
  // A flow may read another topic than its own (KAFKA_TOPIC).
  const reads = new Set(flows.filter((one) => one.read).map((one) => one.flow));
  const holds = (panel) =>
    !panel.topics || reads.has(panel.flow) || panel.topics.some((topic) => records[topic] > 0);
  const isAny = shown.some(({ panel }) => panel.topics && holds(panel));
  for (const { panel, section } of shown) section.hidden = isAny && !holds(panel);
  for (const { siblings } of shown) {
    siblings.heading.hidden = siblings.made.every(({ section }) => section.hidden);
  }
  const hidden = shown.filter(({ section }) => section.hidden);
  const topics = [...new Set(hidden.flatMap(({ panel }) => panel.topics))].sort();
  const titles = hidden.map(({ panel }) => panel.title).join(", ");
  unshown.hidden = hidden.length === 0;
  say(unshown, hidden.length ? `Not shown, as ${topics.join(", ")} hold no record: ${titles}.` : "");
}

/** What is simulated says so, in the head of the page and of each panel. */
function tellOrigin({ sent, topics: records }) {
  const simulated = new Set(sent.filter((one) => one.is_simulated && one.rows).flatMap((one) => one.topics));
  for (const { panel, mark } of shown) {
    mark.hidden = !panel.topics?.some((topic) => simulated.has(topic) && records[topic] > 0);
  }
  const texts = sent
    .filter((one) => one.rows)
    .map((one) => `${one.is_simulated ? "simulated: " : ""}${one.name}`);
  say(origin, texts.join(" · "));
  origin.title = texts.join("\n");
}

function tell(lines) {
  notice.hidden = lines.length === 0;
  keep(notice, lines.length, () => el("p", {})).forEach((line, place) => say(line, lines[place]));
  document.title = lines.length ? `▲ ${TITLE}` : TITLE;
}

function tellAnswered() {
  const { now_ms: nowMs, troubles } = seen;
  state.dataset.state = troubles.length ? "trouble" : "live";
  say(stateText, `${troubles.length ? "trouble" : "live"} · ${clock(nowMs)} UTC`);
  tell(troubles);
  document.body.classList.remove("silent");
}

function tellSilent() {
  const since = seen === null ? "" : ` What you see is from ${clock(seen.now_ms)} UTC.`;
  state.dataset.state = "silent";
  say(stateText, "no answer");
  tell([`The server of this page does not answer.${since} Trying again every second.`]);
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
    seen = snapshot;
    show(snapshot);
    main.classList.remove("unasked");
  }
  tellAnswered();
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** A hidden page asks nothing, and asks at once when it is seen again. */
const isSeen = () =>
  new Promise((resolve) => {
    if (!document.hidden) resolve();
    else document.addEventListener("visibilitychange", () => resolve(), { once: true });
  });

for (;;) {
  await isSeen();
  await turn();
  await pause(EVERY_MS);
}
