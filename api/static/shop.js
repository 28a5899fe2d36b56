// What the shop is doing: its large numbers, who is online, logins, services, what failed.

import { chart } from "./charts.js";
import { el, keep, say, sentence } from "./elements.js";
import * as format from "./format.js";
import { lead, link } from "./links.js";
import { last, lastWhole, middles, ranking, span, sum, tile, wholeOf } from "./parts.js";

const MINUTES_SHOWN = 60;
const ERRORS_BAD = 0.1;
const START = "`footfall demo` sends events and runs all flows";
const alone = (flow, does) => `${START}; with events of your own, \`footfall run ${flow}\` ${does}.`;

export const shopNow = {
  id: "shop",
  flow: "service_health",
  topics: ["platform_logs"],
  title: "The shop now",
  size: "strip",
  parts: ["moment"],
  make(body) {
    const moment = tile(body, "Newest minute");
    const online = tile(body, "Users online");
    const logins = tile(body, "Logins a minute");
    const requests = tile(body, "Requests a minute");
    const errors = tile(body, "Errors at services");
    const slowest = tile(body, "Slowest operation");
    return ({ shop }) => {
      const nothing = shop.now_ms === null;
      moment(
        nothing ? format.NOTHING : format.clock(shop.now_ms).slice(0, 5),
        nothing ? "no events yet" : format.date(shop.now_ms),
      );
      const whole = (list, of) => lastWhole(list, of.start_ms, of.whole_ms);
      const users = shop.online;
      online(
        format.count(whole(users.online, users)),
        withText(whole(users.active, users), "active in a minute", users),
      );
      const { logins: good, failures: bad } = shop.logins;
      logins(format.count(whole(good, shop.logins)), withText(whole(bad, shop.logins), "more failed", shop.logins));
      const { services, operations, minute_requests: aMinute } = shop.health;
      const all = sum(services, (one) => one.requests);
      const failed = sum(services, (one) => one.errors);
      const known = services.length > 0;
      requests(
        aMinute ? format.count(aMinute) : format.NOTHING,
        known ? `at ${services.length} service${services.length === 1 ? "" : "s"}` : " ",
      );
      errors(
        known ? format.percent(failed, all) : format.NOTHING,
        known ? `${format.short(failed)} of ${format.short(all)} in 15 min` : " ",
        failed > all * ERRORS_BAD ? "bad" : "",
      );
      const slow = operations[0];
      slowest(
        slow ? format.duration(slow.p95_ms) : format.NOTHING,
        slow ? `p95 of ${slow.operation} at ${slow.server}` : " ",
      );
    };
  },
};

const withText = (value, text, { start_ms: starts }) =>
  value == null ? (starts.length ? "no minute is over yet" : " ") : `${format.count(value)} ${text}`;

export const online = {
  id: "online",
  flow: "online_users",
  topics: ["platform_logs"],
  title: "Users online",
  about: "by minute of event time",
  size: "half",
  parts: ["online"],
  make(body) {
    const drawn = chart(body, {
      label: "Users online at the end of each minute, and users active in it",
      series: [
        { label: "Online", colour: "cart", kind: "line", format: format.count, axis: format.short },
        { label: "Active", colour: "views", kind: "line", format: format.count },
      ],
      empty: `Nobody seen yet: ${alone("online_users", "counts them")}`,
    });
    return ({ shop: { online: known } }) => {
      const starts = known.start_ms;
      drawn.draw(
        middles(starts),
        [known.online, known.active],
        span(starts, MINUTES_SHOWN),
        format.date(last(starts)),
        wholeOf(starts, known.whole_ms),
      );
    };
  },
};

export const logins = {
  id: "logins",
  flow: "failed_logins",
  topics: ["platform_logs"],
  title: "Logins and failures",
  about: "by minute of event time",
  size: "half",
  parts: ["logins"],
  make(body) {
    const drawn = chart(body, {
      label: "Logins and failed logins in each minute of event time",
      series: [
        { label: "Logins", colour: "views", kind: "left bar", format: format.count, axis: format.short },
        { label: "Failed", colour: "bad", kind: "right bar", format: format.count },
      ],
      empty: `No logins yet: ${alone("failed_logins", "notes failures, \`footfall run online_users\` logins")}`,
    });
    return ({ shop: { logins: known } }) => {
      const starts = known.start_ms;
      drawn.draw(
        middles(starts),
        [known.logins, known.failures],
        span(starts, MINUTES_SHOWN),
        format.date(last(starts)),
        wholeOf(starts, known.whole_ms),
      );
    };
  },
};

/** A ranked list in a panel, which says what is missing where there is nothing. */
function ranked(body, colour, empty) {
  const box = el("div", { class: "ranked" });
  const fill = ranking(box, colour);
  const nothing = sentence({ class: "empty" }, empty);
  box.append(nothing);
  body.append(box);
  return (rows) => {
    nothing.hidden = rows.length > 0;
    fill(rows);
  };
}

/** Lines about minutes that were unlike the hour before them. */
function unusual(body, measure, tellValue) {
  const lines = el("ul", { class: "unusual" });
  body.append(lines);
  return (anomalies, known) => {
    const found = anomalies.filter((one) => one.measure === measure);
    const texts = found.map(
      (one) =>
        `${format.clock(one.minute_ms).slice(0, 5)} ${one.operation} at ${one.server}: ` +
        `${tellValue(one.value)}, usually ${tellValue(one.expected)}`,
    );
    if (known && found.length === 0) texts.push("Every minute like the hour before it.");
    keep(lines, texts.length, () => el("li", {})).forEach((line, place) => {
      say(line, texts[place]);
      line.title = texts[place];
      line.toggleAttribute("data-unusual", found.length > 0);
    });
  };
}

export const services = {
  id: "services",
  flow: "service_health",
  topics: ["platform_logs"],
  title: "Errors by service",
  about: "share of requests, last 15 minutes",
  size: "half",
  parts: ["health", "anomalies"],
  make(body) {
    const fill = ranked(body, "bad", `No requests yet: ${alone("service_health", "counts them")}`);
    const note = unusual(body, "errors", (share) => format.percent(share, 1));
    return ({ shop: { health, anomalies } }) => {
      note(anomalies, health.services.length > 0);
      const share = (one) => one.errors / Math.max(1, one.requests);
      const most = Math.max(0.01, ...health.services.map(share));
      fill(
        health.services.map((one) => ({
          name: one.server,
          note: `${format.short(one.errors)} of ${format.short(one.requests)}`,
          value: format.percent(one.errors, one.requests),
          share: share(one) / most,
        })),
      );
    };
  },
};

export const slowest = {
  id: "slowest",
  flow: "service_health",
  topics: ["platform_logs"],
  title: "Slowest operations",
  about: "95 of 100 took no longer, last 15 minutes",
  size: "half",
  parts: ["health", "anomalies"],
  make(body) {
    const fill = ranked(body, "cart", `Nothing timed yet: ${alone("service_health", "times requests")}`);
    const note = unusual(body, "latency", format.duration);
    return ({ shop: { health, anomalies } }) => {
      note(anomalies, health.operations.length > 0);
      const most = Math.max(1, ...health.operations.map((one) => one.p95_ms));
      fill(
        health.operations.map((one) => ({
          name: `${one.operation} at ${one.server}`,
          note: `half in ${format.duration(one.p50_ms)}, 99 % in ${format.duration(one.p99_ms)}`,
          value: format.duration(one.p95_ms),
          share: one.p95_ms / most,
        })),
      );
    };
  },
};

export const failures = {
  id: "failures",
  isOften: true,
  flow: "request_trace",
  topics: ["platform_logs"],
  title: "Newest failed requests",
  about: "some of each operation; click one to see its steps",
  size: "half",
  parts: ["failures"],
  make(body) {
    const list = el("ul", { class: "rows" });
    const nothing = sentence(
      { class: "empty" },
      `None in the last hour, or no requests yet: ${alone("request_trace", "follows them")}`,
    );
    body.append(el("div", { class: "rows-box" }, list, nothing));
    const row = () => {
      const button = link("request", "row failure");
      button.append(...["at", "name", "what", "id"].map((part) => el("span", { class: part })));
      return el("li", {}, button);
    };
    return ({ shop: { failures: known } }) => {
      nothing.hidden = known.length > 0;
      // What somebody is about to press must not move away.
      if (known.length && list.matches(":hover, :focus-within")) return;
      keep(list, known.length, row).forEach((item, place) => {
        const one = known[place];
        const button = item.firstElementChild;
        const [at, name, what, id] = button.children;
        button.dataset.id = one.request_id;
        button.dataset.outcome = one.outcome;
        say(at, format.clock(one.started_ms));
        say(name, one.operation);
        const failed = [one.failed_log, one.status].filter(Boolean).join(" ") || one.outcome;
        say(what, one.missing ? `no ${one.missing}` : failed);
        what.title = one.error ? `${failed}: ${one.error}` : what.textContent;
        say(id, one.request_id);
        id.title = one.request_id;
      });
    };
  },
};

export const alerts = {
  id: "alerts",
  isOften: true,
  flow: "login_alerts",
  topics: ["platform_logs"],
  title: "Newest login alerts",
  about: "more than 3 failures within 30 s",
  size: "half",
  parts: ["alerts"],
  make(body) {
    const list = el("ul", { class: "rows" });
    const nothing = sentence(
      { class: "empty" },
      `No alert: nobody failed so often, or the flow does not run. ${alone("login_alerts", "watches")}`,
    );
    body.append(el("div", { class: "rows-box" }, list, nothing));
    const row = () =>
      el(
        "li",
        { class: "row alert" },
        el("span", { class: "at" }),
        link("user"),
        el("span", { class: "what" }),
      );
    return ({ shop: { alerts: known } }) => {
      nothing.hidden = known.length > 0;
      if (known.length && list.matches(":hover, :focus-within")) return;
      keep(list, known.length, row).forEach((item, place) => {
        const one = known[place];
        const [at, user, what] = item.children;
        const seconds = Math.ceil((one.last_ms - one.first_ms) / 1000);
        say(at, format.clock(one.time_ms));
        at.title = format.dateAndTime(one.time_ms);
        lead(user, one.user_id, `user ${one.user_id}`);
        say(what, `${format.count(one.failures)} failures in ${seconds} s`);
      });
    };
  },
};
