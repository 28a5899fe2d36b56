// One panel opens what another one shows: a request's timeline, a user's trail.

import { el, say } from "./elements.js";

const openers = new Map();

/** The panel that shows things of this kind: open(id) is called when somebody follows a link. */
export function shows(kind, open) {
  openers.set(kind, open);
}

/** A button that opens one thing; its id is the text, or stands beside other texts. */
export function link(kind, classes = "link") {
  const button = el("button", { type: "button", class: classes });
  button.addEventListener("click", () => openers.get(kind)?.(button.dataset.id));
  return button;
}

/** Point a link at a thing. */
export function lead(button, id, text = id) {
  button.dataset.id = id;
  say(button, text);
  button.title = id;
}

/** Bring a panel into view, gently where that is wanted. */
export function bringIntoView(element) {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  element.scrollIntoView({ block: "nearest", behavior: still ? "instant" : "smooth" });
}
