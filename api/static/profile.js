// One user's profile: type a cookie, or take one that was just seen; it is asked again while open.

import { el, keep, say, sentence } from "./elements.js";
import * as format from "./format.js";

const AGAIN_MS = 2000;
const ROWS = 10;
const ALL_TIME = "1970-01-01T00:00:00.000_2105-12-31T23:59:59.999";

class Refused extends Error {}

async function ask(cookie) {
  const target = `/user_profiles/${encodeURIComponent(cookie)}?time_range=${ALL_TIME}`;
  const response = await fetch(target, { cache: "no-store", signal: AbortSignal.timeout(5000) });
  const answer = await response.json();
  if (!response.ok) throw new Refused(answer.error);
  return answer;
}

const timeOf = (tag) => Date.parse(/Z|[+-]\d\d:?\d\d$/.test(tag.time) ? tag.time : `${tag.time}Z`);

export const profile = {
  id: "profile",
  isOften: true,
  flow: "user_profiles",
  topics: ["user_tags"],
  title: "One user's profile",
  about: "the newest views and buys of a cookie",
  size: "half",
  parts: ["cookies"],
  make(body) {
    const input = el("input", {
      id: "cookie",
      name: "cookie",
      autocomplete: "off",
      spellcheck: "false",
      placeholder: "a cookie",
      maxlength: "512",
    });
    const form = el(
      "form",
      { class: "ask" },
      el("label", { for: "cookie", text: "Cookie" }),
      input,
      el("button", { type: "submit", text: "Show" }),
    );
    const offers = el("div", { class: "offers", role: "group", "aria-label": "Cookies just seen" });
    const summary = el("p", { class: "summary", text: " " });
    const nothing = sentence({ class: "empty" }, "No cookie yet: send a tag, or type one.");
    const rows = el("tbody", {});
    const table = el(
      "table",
      { class: "tags", hidden: true },
      el(
        "thead",
        {},
        el("tr", {}, ...["Time", "", "Product", "Price"].map((text) => el("th", { scope: "col", text }))),
      ),
      rows,
    );
    body.append(form, offers, summary, el("div", { class: "tags-box" }, table, nothing));

    let chosen = null;
    let timer = null;

    function choose(cookie) {
      chosen = cookie;
      if (input.value !== cookie) input.value = cookie;
      clearTimeout(timer);
      for (const offer of offers.children) {
        offer.setAttribute("aria-pressed", String(offer.textContent === cookie));
      }
      refresh();
    }

    async function refresh() {
      const cookie = chosen;
      if (!document.hidden) {
        try {
          const answer = await ask(cookie);
          if (cookie === chosen) show(answer);
        } catch (error) {
          // That the server is silent is told above the page.
          if (cookie === chosen && error instanceof Refused) say(summary, error.message);
        }
      }
      if (cookie === chosen) timer = setTimeout(refresh, AGAIN_MS);
    }

    function show({ views, buys }) {
      const spent = buys.reduce((total, tag) => total + tag.product_info.price, 0);
      say(
        summary,
        views.length + buys.length
          ? `${format.count(views.length)} views, ${format.count(buys.length)} buys for ${format.amount(spent)}`
          : "This cookie has no tags.",
      );
      const tags = [...views, ...buys].sort((one, other) => timeOf(other) - timeOf(one)).slice(0, ROWS);
      table.hidden = tags.length === 0;
      nothing.hidden = true;
      keep(rows, tags.length, () =>
        el("tr", {}, ...[0, 1, 2, 3].map(() => el("td", {}))),
      ).forEach((row, place) => {
        const tag = tags[place];
        const product = tag.product_info;
        const values = [
          format.dateAndTime(timeOf(tag)).slice(5),
          tag.action,
          `${product.product_id} · ${product.brand_id}`,
          format.amount(product.price),
        ];
        row.dataset.action = tag.action;
        [...row.children].forEach((cell, at) => say(cell, values[at]));
      });
    }

    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const cookie = input.value.trim();
      if (cookie) choose(cookie);
    });

    return ({ cookies }) => {
      // What somebody is about to press must not move away.
      if (!offers.matches(":hover, :focus-within")) {
        keep(offers, cookies.length, () => {
          const offer = el("button", { type: "button" });
          offer.addEventListener("click", () => choose(offer.textContent));
          return offer;
        }).forEach((offer, place) => {
          say(offer, cookies[place]);
          offer.setAttribute("aria-pressed", String(cookies[place] === chosen));
        });
      }
      if (chosen === null && cookies.length && document.activeElement !== input) choose(cookies[0]);
    };
  },
};
