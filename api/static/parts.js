// What several panels are made of: large numbers, choices, ranked rows, questions to the server.

import { el, keep, say } from "./elements.js";
import { NOTHING } from "./format.js";

export const MINUTE_MS = 60_000;
const MINUTES_FIRST = 8;
const ANSWER_WITHIN_MS = 8000;

export const last = (list) => (list.length ? list[list.length - 1] : null);
export const sum = (list, of = (one) => one) => list.reduce((total, one) => total + of(one), 0);

/** How many of the minutes are over: those that end by then. */
export const wholeOf = (starts, untilMs) => starts.filter((start) => start + MINUTE_MS <= untilMs).length;
/** The value of the last minute that is over; undefined where none is. */
export const lastWhole = (list, starts, untilMs) => list[wholeOf(starts, untilMs) - 1];

/** The minutes shown: some room from the first one on, so that bars are wide, then all. */
export const span = (starts, most) => {
  const end = last(starts) + MINUTE_MS;
  const minutes = Math.min(Math.max((end - starts[0]) / MINUTE_MS, MINUTES_FIRST), most);
  return [end - minutes * MINUTE_MS, end];
};
export const middles = (starts) => starts.map((start) => start + MINUTE_MS / 2);

export function tile(body, label) {
  const value = el("strong", { class: "number", text: NOTHING });
  const note = el("span", { class: "note", text: " " });
  const box = el("div", { class: "tile" }, el("span", { class: "label", text: label }), value, note);
  body.append(box);
  return (text, noteText = " ", tone = "") => {
    say(value, text);
    say(note, noteText);
    note.title = noteText.trim();
    box.dataset.tone = tone;
  };
}

/** Buttons of which one is pressed; `changed` is called when another one is. `aside` is a place
 *  for some words beside them. */
export function chooser(body, label, kinds, changed) {
  const names = Object.keys(kinds);
  const aside = el("span", { class: "aside" });
  const chosen = {
    name: names[0],
    aside,
    /** Choose the first of these, until somebody has pressed a button. */
    offer(those) {
      if (!chosen.isPressed && those.length && !those.includes(chosen.name)) press(those[0]);
    },
  };
  const press = (name) => {
    chosen.name = name;
    buttons.forEach((one, at) => one.setAttribute("aria-pressed", String(names[at] === name)));
  };
  const buttons = names.map((name) => {
    const pressed = String(name === chosen.name);
    const button = el("button", { type: "button", "aria-pressed": pressed, text: kinds[name] });
    button.addEventListener("click", () => {
      chosen.isPressed = true;
      press(name);
      changed();
    });
    return button;
  });
  body.append(el("div", { class: "choice", role: "group", "aria-label": label }, ...buttons, aside));
  return chosen;
}

/** Rows of a name, a note and a value over a bar: fill(rows) with {name, note, value, share}. */
export function ranking(body, colour, tag = "ol") {
  const rows = el(tag, { class: `ranking ${colour}` });
  body.append(rows);
  const row = () =>
    el(
      "li",
      {},
      el("span", { class: "name" }),
      el("span", { class: "sold" }),
      el("span", { class: "value" }),
      el("i", { class: "bar", "aria-hidden": "true" }),
    );
  return (list) =>
    keep(rows, list.length, row).forEach((element, place) => {
      const one = list[place];
      const [name, note, value, bar] = element.children;
      say(name, one.name);
      name.title = one.name;
      say(note, one.note);
      say(value, one.value);
      bar.style.setProperty("--share", String(Math.min(1, Math.max(0, one.share))));
    });
}

/** A form that asks for one text; `chosen` is given what was typed. */
export function question(id, label, placeholder, chosen) {
  const input = el("input", {
    id,
    name: id,
    autocomplete: "off",
    spellcheck: "false",
    placeholder,
    maxlength: "200",
  });
  const form = el(
    "form",
    { class: "ask" },
    el("label", { for: id, text: label }),
    input,
    el("button", { type: "submit", text: "Show" }),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const typed = input.value.trim();
    if (typed) chosen(typed);
  });
  return { form, input };
}

/** What the server answers to a lookup. Throws Refused with its reason. */
export class Refused extends Error {}

export async function lookUp(path, id) {
  let target;
  try {
    target = `${path}/${encodeURIComponent(id)}`;
  } catch {
    throw new Refused("This is no text that an id could be.");
  }
  let response;
  let answer;
  try {
    response = await fetch(target, {
      cache: "no-store",
      signal: AbortSignal.timeout(ANSWER_WITHIN_MS),
    });
    answer = await response.json();
  } catch {
    throw new Refused("The server did not answer: try again.");
  }
  if (!response.ok) throw new Refused(answer.error);
  return answer;
}
