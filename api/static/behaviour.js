// What its users do: how long they stay, how far they come, what they look at.

import { el, keep, say, sentence } from "./elements.js";
import * as format from "./format.js";
import { chooser, ranking, sum } from "./parts.js";

const LENGTHS = ["under 1 min", "1 to 5 min", "5 to 15 min", "15 to 30 min", "30 to 60 min", "over 1 h"];
const REASONS = { logout: "views", relogin: "cart", timeout: "buys", inactivity: "buys" };
const STEPS = {
  visited: "visited a page",
  searched: "then searched",
  added_to_cart: "then put in the cart",
  ordered: "then ordered",
};
const HOUR_MS = 3_600_000;

export const sessions = {
  id: "sessions",
  flow: "time_online",
  topics: ["platform_logs", "shop_events"],
  title: "Sessions",
  about: "begun in the last 6 hours, by length and how they ended",
  size: "half",
  parts: ["sessions"],
  make(body) {
    let seen = [];
    const chosen = chooser(
      body,
      "Sessions of which events",
      { platform_logs: "Services", shop_events: "Marketplace" },
      () => show(),
    );
    const legend = el("ul", { class: "legend" });
    const rows = el("ul", { class: "stacks" });
    const nothing = sentence(
      { class: "empty" },
      "No session has ended yet: `footfall demo` runs all flows, `footfall run time_online` this one.",
    );
    body.append(legend, el("div", { class: "stacks-box" }, rows, nothing));

    const row = () =>
      el(
        "li",
        {},
        el("span", { class: "name" }),
        el("span", { class: "stack", "aria-hidden": "true" }),
        el("span", { class: "value" }),
      );
    const key = () =>
      el("li", {}, el("i", { class: "swatch" }), el("span", {}), el("span", { class: "value" }));

    function show() {
      const known = seen.find((one) => one.source === chosen.name);
      const reasons = known ? Object.keys(known.lengths).sort() : [];
      nothing.hidden = Boolean(known);
      say(chosen.aside, known ? `half took up to ${format.duration(known.median_s * 1000)}` : "");
      keep(legend, reasons.length, key).forEach((item, place) => {
        const [swatch, text, value] = item.children;
        const reason = reasons[place];
        swatch.className = `swatch ${REASONS[reason] ?? "revenue"}`;
        say(text, `${reason} `);
        say(value, format.short(sum(known.lengths[reason])));
      });
      const totals = LENGTHS.map((_, at) => sum(reasons, (reason) => known.lengths[reason][at]));
      const most = Math.max(1, ...totals);
      keep(rows, known ? LENGTHS.length : 0, row).forEach((item, at) => {
        const [name, stack, value] = item.children;
        say(name, LENGTHS[at]);
        say(value, format.short(totals[at]));
        item.title = reasons.map((reason) => `${reason} ${known.lengths[reason][at]}`).join(", ");
        keep(stack, reasons.length, () => el("i", {})).forEach((part, place) => {
          const reason = reasons[place];
          part.className = REASONS[reason] ?? "revenue";
          part.style.setProperty("--share", String(known.lengths[reason][at] / most));
        });
      });
    }
    return ({ shop }) => {
      seen = shop.sessions;
      chosen.offer(seen.map((one) => one.source));
      show();
    };
  },
};

export const funnel = {
  id: "funnel",
  flow: "shop_events_hot",
  topics: ["shop_events"],
  title: "Funnel",
  about: "users of an hour who did these in this order",
  size: "half",
  parts: ["funnel"],
  make(body) {
    const when = el("p", { class: "summary", text: " " });
    const box = el("div", { class: "ranked funnel" });
    const fill = ranking(box, "views");
    const nothing = sentence(
      { class: "empty" },
      "No shop events yet: `footfall demo` runs all flows, `footfall run shop_events_hot` this one.",
    );
    box.append(nothing);
    body.append(when, box);
    return ({ shop: { funnel: known } }) => {
      const at = known.hour_ms.length - 1;
      nothing.hidden = at >= 0;
      if (at < 0) {
        say(when, " ");
        fill([]);
        return;
      }
      const hour = known.hour_ms[at];
      say(when, `${format.dateAndTime(hour).slice(0, 16)} to ${format.clock(hour + HOUR_MS).slice(0, 5)} UTC`);
      const before = known.hour_ms[at - 1] === hour - HOUR_MS ? at - 1 : -1;
      const most = Math.max(1, ...Object.keys(STEPS).map((step) => known.steps[step][at]));
      fill(
        Object.entries(STEPS).map(([step, name]) => {
          const users = known.steps[step][at];
          const share = format.percent(users, known.steps.visited[at]);
          const earlier = before < 0 ? "" : `, ${format.short(known.steps[step][before])} the hour before`;
          return {
            name,
            note: `${step === "visited" ? "" : `${share} of visitors`}${earlier}`.replace(/^, /, ""),
            value: format.count(users),
            share: users / most,
          };
        }),
      );
    };
  },
};

export const products = {
  id: "products",
  flow: "product_views",
  topics: ["platform_logs", "store_events", "user_tags"],
  title: "Top products",
  about: "by views of the last 15 minutes",
  size: "half",
  parts: ["products"],
  make(body) {
    let seen = [];
    const chosen = chooser(
      body,
      "Products of which events",
      { platform_logs: "Services", store_events: "Store", user_tags: "Tags" },
      () => show(),
    );
    const box = el("div", { class: "ranked" });
    const fill = ranking(box, "views");
    const nothing = sentence(
      { class: "empty" },
      "No views of these events yet: `footfall demo` runs all flows, `footfall run product_views` this one.",
    );
    box.append(nothing);
    body.append(box);
    function show() {
      const found = seen.find((one) => one.source === chosen.name)?.products ?? [];
      const most = Math.max(1, ...found.map((one) => one.views));
      nothing.hidden = found.length > 0;
      fill(
        found.map((one) => ({
          name: one.product_id,
          note: one.impressions ? `listed ${format.short(one.impressions)} times` : "",
          value: format.count(one.views),
          share: one.views / most,
        })),
      );
    }
    return ({ shop }) => {
      seen = shop.products;
      chosen.offer(seen.filter((one) => one.products.length).map((one) => one.source));
      show();
    };
  },
};
