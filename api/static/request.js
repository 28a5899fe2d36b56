// One request's trace as a timeline: type an id, or click a failed request.

import { el, keep, say, sentence } from "./elements.js";
import * as format from "./format.js";
import { drawLanes } from "./lanes.js";
import { bringIntoView, lead, link, shows } from "./links.js";
import { lookUp, question } from "./parts.js";

const HINT = "Point at a step, or move with the arrow keys, for its details.";
const STEPS_MAX = 500;

/** What a request's answer says, in the shape that is drawn. */
function drawable({ steps, missing }) {
  const first = steps.length ? steps[0].time_ms : 0;
  return {
    steps: steps.map((one, place) => {
      const at = one.time_ms - first;
      const next = steps[place + 1];
      const wait = next ? `, ${format.duration(next.time_ms - one.time_ms)} to the next step` : "";
      const what = [one.status, one.error].filter(Boolean).join(": ");
      return {
        at,
        server: one.server,
        log: one.log,
        failed: one.failed,
        about:
          `${one.log} at ${one.server}, ${format.moment(one.time_ms)} (+${format.duration(at)})${wait}` +
          `${what ? `. ${what}` : ""}${one.failed ? ". Failed" : ""}`,
      };
    }),
    missing: missing && {
      ...missing,
      about: `${missing.log} at ${missing.server} is missing: no record of it came`,
    },
    tickText: format.duration,
  };
}

export const request = {
  id: "request",
  isOften: true,
  flow: "request_trace",
  topics: ["platform_logs"],
  title: "One request",
  about: "its steps on a time axis, by server",
  size: "full",
  make(body) {
    const { form, input } = question("request-id", "Request", "a request id", (id) => choose(id, true));
    const text = el("span", {});
    const user = link("user");
    const summary = el("p", { class: "summary", "aria-live": "polite" }, text, user);
    const gap = el("p", { class: "gap" });
    const root = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    root.setAttribute("role", "group");
    const nothing = sentence(
      { class: "empty" },
      "No request yet: type an id, or click a failed request above. `footfall run request_trace` follows requests.",
    );
    const lanes = el("div", { class: "lanes" }, root, nothing);
    const detail = el("p", { class: "detail", text: " " });
    const rows = el("tbody", {});
    const columns = ["Time", "After", "Server", "Step", "Status"];
    const table = el(
      "table",
      { class: "steps" },
      el("thead", {}, el("tr", {}, ...columns.map((name) => el("th", { scope: "col", text: name })))),
      rows,
    );
    const list = el(
      "details",
      { class: "more", hidden: true },
      el("summary", { text: "The steps as a table" }),
      el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Steps" }, table),
    );
    body.append(form, summary, gap, lanes, detail, list);
    lead(user, "", "user");
    user.hidden = true;

    let chosen = null;
    let shown = null;

    function tell(about) {
      say(detail, about);
      detail.title = about;
    }

    function draw() {
      if (shown === null || lanes.clientWidth === 0) return;
      drawLanes(root, lanes.clientWidth, shown);
      for (const mark of root.querySelectorAll("[role=img]")) {
        for (const event of ["pointerenter", "focus"]) {
          mark.addEventListener(event, () => tell(mark.getAttribute("aria-label")));
        }
      }
    }

    // One stop for the Tab key, and arrows from there: a request may have hundreds of steps.
    root.addEventListener("keydown", (event) => {
      const all = [...root.querySelectorAll("[role=img]")].sort(
        (one, other) => one.dataset.place - other.dataset.place,
      );
      const at = all.indexOf(document.activeElement);
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
      if (at < 0 || to === undefined || !all[to]) return;
      event.preventDefault();
      all[at].setAttribute("tabindex", "-1");
      all[to].setAttribute("tabindex", "0");
      all[to].focus();
    });

    async function choose(id, wanted) {
      chosen = id;
      input.value = id;
      for (const one of document.querySelectorAll("#failures button")) {
        one.toggleAttribute("data-open", one.dataset.id === id);
      }
      if (wanted) bringIntoView(body.parentElement);
      try {
        const answer = await lookUp("/live/requests", id);
        if (id === chosen) show(answer);
      } catch (error) {
        if (id === chosen) clear(error.message);
      }
    }

    function clear(message) {
      shown = null;
      root.replaceChildren();
      root.setAttribute("height", 0);
      nothing.hidden = true;
      say(text, message);
      user.hidden = true;
      list.hidden = true;
      say(gap, "");
      tell(" ");
    }

    function show(answer) {
      const { summary: known, missing, steps } = answer;
      if (steps.length === 0 && known === null) {
        clear("No service has logged a step of this request.");
        return;
      }
      shown = drawable(answer);
      nothing.hidden = true;
      root.setAttribute("aria-label", `Steps of request ${answer.request_id}, by server`);
      const parts = known
        ? [known.operation, known.outcome, format.duration(known.duration_ms)]
        : ["not summarised yet"];
      const count = known?.steps ?? steps.length;
      parts.push(`${format.count(count)} step${count === 1 ? "" : "s"}`);
      if (known) parts.push(`${known.hops} hop${known.hops === 1 ? "" : "s"}`);
      if (answer.more) parts.push(`the first ${STEPS_MAX} are shown`);
      if (steps.length) parts.push(`${format.dateAndTime(steps[0].time_ms)} UTC`);
      say(text, `${parts.join(" · ")} · `);
      summary.dataset.outcome = known?.outcome ?? "";
      const owner = known?.user_id ?? steps[0].user_id;
      user.hidden = false;
      lead(user, owner, `user ${owner}`);
      say(gap, missing ? `Missing: ${missing.log} at ${missing.server}. No record of it came.` : "");
      tell(HINT);
      fill(steps);
      draw();
    }

    function fill(steps) {
      list.hidden = steps.length === 0;
      keep(rows, steps.length, () => el("tr", {}, ...columns.map(() => el("td", {})))).forEach(
        (row, place) => {
          const one = steps[place];
          const values = [
            format.moment(one.time_ms),
            `+${format.duration(one.time_ms - steps[0].time_ms)}`,
            one.server,
            one.log,
            [one.failed ? "failed" : "", one.status, one.error].filter(Boolean).join(", "),
          ];
          row.toggleAttribute("data-failed", one.failed);
          [...row.children].forEach((cell, at) => say(cell, values[at]));
        },
      );
    }

    new ResizeObserver(() => {
      if (shown !== null && Number(root.getAttribute("width")) !== lanes.clientWidth) draw();
    }).observe(lanes);
    shows("request", (id) => choose(id, true));

    return ({ shop: { failures } }) => {
      if (chosen === null && failures.length && document.activeElement !== input) {
        // The longest of them has most to show.
        const longest = failures.reduce((one, other) =>
          other.duration_ms > one.duration_ms ? other : one,
        );
        choose(longest.request_id, false);
      }
    };
  },
};
