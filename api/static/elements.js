// Elements made by hand. Values only ever become text or attributes, never markup: a brand or a
// dead letter may be called anything.

export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** A sentence in which `words in backticks` are commands, and room for what is said instead. */
export function sentence(attributes, text) {
  const parts = text.split("`").map((part, at) => (at % 2 ? el("code", { text: part }) : part));
  return el("p", attributes, el("span", {}, ...parts), el("span", { class: "instead" }));
}

/** Set text without touching the page where nothing changed. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Keep exactly `wanted` children, made by `make(index)` where they are missing. */
export function keep(parent, wanted, make) {
  while (parent.children.length > wanted) parent.lastElementChild.remove();
  while (parent.children.length < wanted) parent.append(make(parent.children.length));
  return [...parent.children];
}
