// The panels, in groups and in the order they stand. A new one is one object:
//
//   id, title, about   what it is called, and a few words beside
//   size               "full", "half" or "strip" of the page's width
//   parts              names in snapshot.problems that concern it
//   topics, flow       whose records it shows, and the flow that its rows are of: a panel of topics
//                      that hold nothing is left out, and one without rows says why
//   isOften            it is empty also where records were read: nobody failed, nobody asked
//   make(body)         fills the body once and returns update(snapshot), called each second

import { chart } from "./charts.js";
import { el, keep, say, sentence } from "./elements.js";
import * as format from "./format.js";
import { funnel, products, sessions } from "./behaviour.js";
import { chooser, last, middles, ranking, span, sum, tile, wholeOf } from "./parts.js";
import { profile } from "./profile.js";
import { request } from "./request.js";
import { alerts, failures, logins, online, services, shopNow, slowest } from "./shop.js";
import { trail } from "./trail.js";

const MINUTES_SHOWN = 20;
const RATES_SHOWN_MS = 180_000;
const TOP_ROWS = 8;
const START = "start the generator, for example `footfall generate tags`";

const TOPICS = {
  platform_logs: ["Service logs", "views"],
  shop_events: ["Shop events", "buys"],
  store_events: ["Store events", "cart"],
  user_tags: ["Tags", "revenue"],
};

const numbers = {
  id: "numbers",
  title: "Flows now",
  size: "strip",
  make(body) {
    const perSecond = tile(body, "Records a second");
    const read = tile(body, "Records read");
    const lag = tile(body, "Lag");
    const late = tile(body, "Late records");
    const dead = tile(body, "Dead letters");
    const workers = tile(body, "Workers");
    return ({ flows, rates, counts, topics }) => {
      const none = flows.length === 0;
      const known = (value) => (none ? format.NOTHING : format.count(value));
      const now = Object.values(rates.topics).map((one) => last(one) ?? 0);
      perSecond(none ? format.NOTHING : format.rate(sum(now)), "of all topics, each once");
      const standing = sum(Object.keys(TOPICS), (topic) => topics[topic] ?? 0);
      read(known(counts.read), standing ? `${format.short(standing)} stand in the topics` : " ");
      const ages = flows.map((flow) => flow.lag_s).filter((age) => age != null);
      const oldest = ages.length ? Math.max(...ages) : 0;
      lag(known(counts.lag), oldest ? `the oldest waits for ${format.ago(oldest)}` : "records not read yet");
      late(known(counts.late), `of ${format.short(counts.read)} read`);
      dead(known(counts.dead), `of ${format.short(counts.read)} read`, counts.dead ? "warn" : "");
      const all = flows.flatMap((flow) => flow.workers);
      const gone = all.filter((worker) => worker.state === "gone").length;
      const troubled = flows.filter((flow) => flow.trouble).length;
      workers(
        none ? format.NOTHING : `${all.length - gone} of ${all.length}`,
        none ? "none started yet" : gone ? `${gone} gone` : troubled ? "see above" : "all well",
        gone || troubled ? "bad" : "",
      );
    };
  },
};

const rates = {
  id: "rates",
  title: "Read a second",
  about: "last three minutes",
  size: "full",
  make(body) {
    const topics = Object.keys(TOPICS);
    const drawn = chart(body, {
      label: "Records read a second, by topic",
      series: topics.map((topic) => {
        const [label, colour] = TOPICS[topic];
        return { label, colour, kind: "line", format: format.rate, axis: format.short };
      }),
      empty: `No events yet: ${START}.`,
      marks: { 180000: "−3 min", 120000: "−2 min", 60000: "−1 min", 0: "now" },
    });
    return ({ rates: { times_ms: times, topics: known }, now_ms: now }) => {
      const some = topics.some((topic) => known[topic]?.some((value) => value > 0));
      const xs = some ? times : [];
      drawn.draw(
        xs,
        topics.map((topic) => (some ? (known[topic] ?? times.map(() => null)) : [])),
        [now - RATES_SHOWN_MS, now],
      );
    };
  },
};

const minutes = {
  id: "minutes",
  flow: "minute_buckets",
  topics: ["user_tags"],
  title: "Views against buys",
  about: "by minute of event time",
  size: "half",
  parts: ["minutes"],
  make(body) {
    const drawn = chart(body, {
      label: "Views and buys in each minute of event time",
      series: [
        { label: "Views", colour: "views", kind: "left bar", format: format.count, axis: format.short },
        { label: "Buys", colour: "buys", kind: "right bar", format: format.count },
      ],
      empty: `No minutes yet: ${START}.`,
    });
    return ({ minutes: { start_ms: starts, views, buys, whole_ms: until } }) =>
      drawn.draw(
        middles(starts),
        [views, buys],
        span(starts, MINUTES_SHOWN),
        format.date(last(starts)),
        wholeOf(starts, until),
      );
  },
};

const revenue = {
  id: "revenue",
  flow: "minute_buckets",
  topics: ["user_tags"],
  title: "Revenue",
  about: "by minute of event time",
  size: "half",
  parts: ["minutes"],
  make(body) {
    const drawn = chart(body, {
      label: "Revenue in each minute of event time",
      series: [
        { label: "Bought for", colour: "revenue", kind: "bar", format: format.amount, axis: format.amountShort },
      ],
      empty: `No revenue yet: ${START}.`,
    });
    return ({ minutes: { start_ms: starts, revenue: sums, whole_ms: until } }) =>
      drawn.draw(
        middles(starts),
        [sums],
        span(starts, MINUTES_SHOWN),
        format.date(last(starts)),
        wholeOf(starts, until),
      );
  },
};

const top = {
  id: "top",
  flow: "minute_buckets",
  topics: ["user_tags"],
  title: "Top",
  about: "by revenue of the last five minutes",
  size: "half",
  parts: ["top"],
  make(body) {
    let seen = null;
    const kinds = { brands: "Brands", origins: "Origins", categories: "Categories" };
    const chosen = chooser(body, "Top what", kinds, () => seen && show(seen));
    const nothing = sentence({ class: "empty" }, `Nothing sold yet: ${START}.`);
    const box = el("div", { class: "ranked" });
    const fill = ranking(box, "revenue");
    box.append(nothing);
    body.append(box);

    function show(snapshot) {
      seen = snapshot;
      const list = snapshot.top[chosen.name].slice(0, TOP_ROWS);
      const most = Math.max(1, ...list.map((one) => one.revenue));
      nothing.hidden = list.length > 0;
      fill(
        list.map((one) => ({
          name: one.name,
          note: `${format.short(one.buys)} buys, ${format.short(one.views)} views`,
          value: format.amount(one.revenue),
          share: one.revenue / most,
        })),
      );
    }
    return show;
  },
};

const store = {
  id: "store",
  flow: "store_metrics",
  topics: ["store_events"],
  title: "Shop windows",
  about: "each window of store metrics, newest at the right",
  size: "full",
  parts: ["windows"],
  make(body) {
    const measures = [
      ["viewed", "Items viewed", "views", format.count, format.short],
      ["put_in_cart", "Put in cart", "cart", format.count, format.short],
      ["sold", "Items sold", "buys", format.count, format.short],
      ["revenue_cents", "Sold for", "revenue", format.amount, format.amountShort],
    ];
    const grid = el("div", { class: "small-charts" });
    body.append(grid);
    const charts = measures.map(([, label, colour, shown, axis]) => {
      const box = el("div", {});
      grid.append(box);
      return chart(box, {
        label: `${label} in each window`,
        series: [{ label, colour, kind: "line", format: shown, axis }],
        height: 130,
        empty: "No windows yet: replay a CSV, or `footfall generate store`.",
        sync: "store",
        small: true,
      });
    });
    return ({ windows }) => {
      const starts = windows.start_ms;
      const range = [starts[0], Math.max(last(starts), starts[0] + 1000)];
      const date = format.date(last(starts));
      const whole = windows.end_ms.filter((end) => end <= windows.whole_ms).length;
      charts.forEach((one, place) =>
        one.draw(starts, [windows[measures[place][0]]], range, date, whole),
      );
    };
  },
};

const workers = {
  id: "flows",
  title: "Flows",
  about: "and their workers",
  size: "full",
  make(body) {
    const columns = ["Flow", "Read/s", "Lag", "Late", "Dead", "Rows", "Event time"];
    const rows = el("tbody", {});
    const nothing = sentence(
      { class: "empty" },
      "No worker has reported yet: `footfall demo` starts all, `footfall run minute_buckets` one.",
    );
    const table = el(
      "table",
      {},
      el("thead", {}, el("tr", {}, ...columns.map((text) => el("th", { scope: "col", text })))),
      rows,
    );
    body.append(el("div", { class: "flows" }, table, nothing));

    const row = () =>
      el(
        "tr",
        {},
        el("th", { scope: "row" }, el("span", { class: "name" }), el("ul", { class: "workers" }), el("span", { class: "why" })),
        ...columns.slice(1).map(() => el("td", {})),
      );

    function tell(item, worker) {
      const share = `${Math.round(worker.cpu_share * 100)}% of a core, ${format.bytes(worker.memory_bytes)}`;
      const state = {
        running: share,
        finished: "finished",
        gone: `gone, last seen ${format.ago(worker.age_s)} ago`,
      };
      item.dataset.state = worker.state;
      say(item, `${worker.worker}: ${state[worker.state]}`);
    }

    return ({ flows }) => {
      nothing.hidden = flows.length > 0;
      table.hidden = flows.length === 0;
      keep(rows, flows.length, row).forEach((line, place) => {
        const flow = flows[place];
        const [head, ...cells] = line.children;
        say(head.children[0], flow.flow);
        keep(head.children[1], flow.workers.length, () => el("li", {})).forEach((item, at) =>
          tell(item, flow.workers[at]),
        );
        const values = [
          format.rate(flow.read_per_s),
          ...[flow.lag, flow.late, flow.dead, flow.rows_written].map(format.short),
          flow.watermark_ms === null ? format.NOTHING : format.clock(flow.watermark_ms),
        ];
        cells.forEach((cell, at) => say(cell, values[at]));
        cells[3].dataset.tone = flow.dead ? "warn" : "";
        head.dataset.tone = flow.trouble ? "bad" : "";
        say(head.children[2], [flow.trouble, flow.error].filter(Boolean).join(". "));
      });
    };
  },
};

const letters = {
  id: "letters",
  title: "Newest dead letters",
  about: "records that can never be processed, and why",
  size: "full",
  parts: ["dead_letters"],
  make(body) {
    const nothing = sentence({ class: "empty" }, "None: every record could be read.");
    const list = el("ul", { class: "letters" });
    body.append(el("div", { class: "letters-box" }, list, nothing));
    const row = () =>
      el(
        "li",
        {},
        el("code", { class: "code" }),
        el("span", { class: "reason" }),
        el("span", { class: "place" }),
        el("code", { class: "payload" }),
      );
    return ({ dead_letters: known }) => {
      nothing.hidden = known.length > 0;
      keep(list, known.length, row).forEach((element, place) => {
        const one = known[place];
        const [code, reason, from, payload] = element.children;
        say(code, one.code);
        say(reason, one.reason);
        say(from, `${one.flow}, ${one.topic} ${one.partition} at ${one.offset}`);
        say(payload, one.payload);
      });
    };
  },
};

export const groups = [
  {
    title: "The shop",
    panels: [
      shopNow, online, logins, services, slowest, failures, alerts, request, trail, profile,
      sessions, funnel,
    ],
  },
  { title: "What it sells", panels: [products, top, minutes, revenue, store] },
  { title: "The flows behind it", panels: [numbers, rates, workers, letters] },
];
