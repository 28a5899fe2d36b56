// One user's trail: what the services logged of a user, newest first.

import { el, keep, say, sentence } from "./elements.js";
import * as format from "./format.js";
import { bringIntoView, lead, link, shows } from "./links.js";
import { lookUp, question } from "./parts.js";

export const trail = {
  id: "trail",
  isOften: true,
  flow: "user_trace",
  topics: ["platform_logs"],
  title: "One user's trail",
  about: "newest records at the services",
  size: "half",
  make(body) {
    const { form, input } = question("user-id", "User", "a user id", (id) => choose(id, true));
    const summary = el("p", { class: "summary", "aria-live": "polite", text: " " });
    const sessions = el("p", { class: "sessions-of", text: " " });
    const rows = el("tbody", {});
    const nothing = sentence(
      { class: "empty" },
      "No user yet: type an id, or click a user. `footfall run user_trace` follows users.",
    );
    const columns = ["Time", "Step", "Server", "Request"];
    const table = el(
      "table",
      { class: "trail", hidden: true },
      el("thead", {}, el("tr", {}, ...columns.map((name) => el("th", { scope: "col", text: name })))),
      rows,
    );
    const box = el(
      "div",
      { class: "scroll trail-box", tabindex: "0", role: "region", "aria-label": "Records of the user" },
      table,
      nothing,
    );
    body.append(form, summary, sessions, box);

    let chosen = null;

    async function choose(id, wanted) {
      chosen = id;
      input.value = id;
      if (wanted) bringIntoView(body.parentElement);
      try {
        const answer = await lookUp("/live/users", id);
        if (id === chosen) show(answer);
      } catch (error) {
        if (id === chosen) clear(error.message);
      }
    }

    function clear(message) {
      keep(rows, 0);
      table.hidden = true;
      nothing.hidden = true;
      say(summary, message);
      say(sessions, " ");
    }

    function show(answer) {
      const { trail: records, sessions: known } = answer;
      if (records.length === 0 && known.length === 0) {
        clear("No service has logged anything of this user.");
        return;
      }
      const many = `${answer.more ? "the newest " : ""}${format.count(records.length)} records`;
      const seen = records.length ? `last seen ${format.dateAndTime(records[0].time_ms)} UTC` : "";
      say(summary, [many, seen].filter(Boolean).join(", "));
      const last = known[0];
      say(
        sessions,
        last
          ? `Last session that ended: ${format.dateAndTime(last.login_ms).slice(5)} to ` +
              `${format.clock(last.ended_ms)}, ${format.duration(last.spent_s * 1000)}, by ${last.ended_by}`
          : "No session has ended yet.",
      );
      table.hidden = records.length === 0;
      nothing.hidden = true;
      box.scrollTop = 0;
      keep(rows, records.length, row).forEach((line, place) => {
        const one = records[place];
        const [at, log, server, request] = line.children;
        say(at.firstElementChild, format.dateAndTime(one.time_ms).slice(5, 11));
        say(at.lastElementChild, format.clock(one.time_ms));
        say(log, one.log);
        log.title = one.log;
        say(server, one.server);
        server.title = one.server;
        const again = place > 0 && records[place - 1].request_id === one.request_id;
        request.firstElementChild.hidden = again;
        line.toggleAttribute("data-again", again);
        lead(request.firstElementChild, one.request_id);
      });
    }

    const row = () =>
      el(
        "tr",
        {},
        el("td", {}, el("span", { class: "day" }), el("span", {})),
        el("td", {}),
        el("td", {}),
        el("td", {}, link("request")),
      );

    shows("user", (id) => choose(id, true));

    return ({ shop: { alerts, failures } }) => {
      const first = alerts[0] ?? failures[0];
      if (chosen === null && first && document.activeElement !== input) choose(first.user_id, false);
    };
  },
};
