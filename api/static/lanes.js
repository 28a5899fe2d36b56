// Steps of a request drawn on a time axis, a lane for each server. A bar lasts until the next step,
// wherever that is: so the longest bar is where the time went.

const SVG = "http://www.w3.org/2000/svg";
const FULL = 256;
const LANE_LEAST = 46;
const LANE_MOST = 110;
const AXIS = 26;
const RIGHT = 18;
const NARROW = 560;
const NARROW_LANE_LEAST = 58;
const BAR = 12;
const DOT = 6;
const FONT = "650 12px system-ui, sans-serif";
const TICKS = [1, 2, 5];

function svg(tag, attributes = {}, text = null) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== null) made.textContent = text;
  return made;
}

const pen = document.createElement("canvas").getContext("2d");
pen.font = FONT;
const lengthOf = (text) => Math.ceil(pen.measureText(text).width * 1.05) + 4;
const cut = (text, letters) => (text.length > letters ? `${text.slice(0, letters - 1)}…` : text);

/**
 * Draw into an svg of this width. The elements with the role "img" are the steps; their data-place
 * says which, and the missing one is the last.
 *
 *   steps    [{ at, server, log, failed, about }], `at` in ms from the first
 *   missing  { server, log, after, about } or null
 *   tickText the text of a tick in ms
 */
export function drawLanes(root, width, { steps, missing, tickText }) {
  const servers = [...new Set([...steps, ...(missing ? [missing] : [])].map((one) => one.server))];
  const narrow = width < NARROW;
  const left = narrow ? 12 : 112;
  const least = narrow ? NARROW_LANE_LEAST : LANE_LEAST;
  const lane = Math.min(LANE_MOST, Math.max(least, (FULL - AXIS) / Math.max(1, servers.length)));
  const height = servers.length * lane + AXIS;
  const most = Math.max(1, steps.length ? steps[steps.length - 1].at : 0);
  const x = (at) => left + (at / most) * (width - left - RIGHT);
  const y = (server) => servers.indexOf(server) * lane + lane / 2 + (narrow ? 4 : 0);
  root.setAttribute("viewBox", `0 0 ${width} ${height}`);
  root.setAttribute("width", width);
  root.setAttribute("height", height);

  const ground = svg("g", { "aria-hidden": "true" });
  servers.forEach((server, place) => {
    const top = place * lane;
    if (place % 2 === 0) ground.append(svg("rect", { class: "lane", x: 0, y: top, width, height: lane }));
    ground.append(
      narrow
        ? svg("text", { class: "server", x: 6, y: top + 13 }, cut(server, 30))
        : svg("text", { class: "server", x: 10, y: top + lane / 2 + 4 }, cut(server, 14)),
    );
  });
  for (const tick of ticks(most, (width - left) / 90)) {
    ground.append(
      svg("line", { class: "tick", x1: x(tick), x2: x(tick), y1: 0, y2: height - AXIS }),
      svg("text", { class: tick ? "time" : "time first", x: x(tick), y: height - 8 }, tickText(tick)),
    );
  }
  const path = steps.map((one) => `${x(one.at).toFixed(1)},${y(one.server)}`).join(" ");
  ground.append(svg("polyline", { class: "way", points: path }));

  const marks = steps.map((one, place) => {
    const next = steps[place + 1];
    const from = x(one.at);
    const to = next ? x(next.at) : from;
    const mark = svg("g", {
      class: one.failed ? "step failed" : "step",
      role: "img",
      "aria-label": one.about,
      tabindex: place === 0 ? 0 : -1,
      "data-place": place,
    });
    const middle = y(one.server);
    mark.append(
      svg("rect", {
        class: "reach",
        x: from - 8,
        y: middle - 14,
        width: Math.max(16, to - from + 8),
        height: 28,
      }),
      svg("rect", {
        class: "bar",
        x: from,
        y: middle - BAR / 2,
        width: Math.max(0, to - from),
        height: BAR,
      }),
      shape(one.failed, from, middle),
    );
    return mark;
  });
  const labels = svg("g", { "aria-hidden": "true" });
  labels.append(...labelsOf(steps, x, y, width));
  // A failed step lies above the others: none may hide it.
  const above = [...steps.keys()].sort((one, other) => steps[one].failed - steps[other].failed);
  root.replaceChildren(ground, ...above.map((place) => marks[place]), labels);
  if (missing) root.append(gap(missing, steps, x, y, width));
}

/** A failed step is a cross, so that colour alone does not say it. */
function shape(failed, at, middle) {
  if (!failed) return svg("circle", { class: "dot", cx: at, cy: middle, r: DOT });
  const arm = DOT;
  return svg("path", {
    class: "dot",
    d: `M${at - arm},${middle - arm}L${at + arm},${middle + arm}M${at - arm},${middle + arm}L${at + arm},${middle - arm}`,
  });
}

/** Names of steps where there is room: above the bar, failed ones before all others. */
function labelsOf(steps, x, y, width) {
  const taken = new Map();
  const made = [];
  const order = [...steps.keys()].sort((one, other) => steps[other].failed - steps[one].failed);
  for (const place of order) {
    const { at, server, log, failed } = steps[place];
    const long = lengthOf(log);
    const from = Math.max(2, Math.min(x(at) - DOT, width - long - 4));
    const others = taken.get(server) ?? [];
    if (long > width * 0.6 || others.some(([start, end]) => from < end && from + long > start)) continue;
    taken.set(server, [...others, [from, from + long + 8]]);
    made.push(svg("text", { class: failed ? "log failed" : "log", x: from, y: y(server) + 20 }, log));
  }
  return made;
}

/** Where the missing step belongs: half way to the next one that came. */
function gap(missing, steps, x, y, width) {
  const before = steps[missing.after]?.at ?? 0;
  const after = steps[missing.after + 1]?.at ?? steps[steps.length - 1]?.at ?? 0;
  const at = Math.min(x((before + after) / 2) + (before === after ? 22 : 0), width - RIGHT);
  const middle = y(missing.server);
  const group = svg("g", { class: "missing", role: "img", "aria-label": missing.about, tabindex: -1 });
  group.dataset.place = steps.length;
  const text = cut(`no ${missing.log}`, 40);
  const from = Math.max(2, Math.min(at + 12, width - lengthOf(text)));
  group.append(
    svg("circle", { cx: at, cy: middle, r: DOT + 2 }),
    svg("text", { class: "log failed", x: from, y: middle - 10 }, text),
  );
  return group;
}

/** Round numbers from 0 to the end, at most so many. */
function ticks(most, count) {
  const wanted = most / Math.max(1, Math.floor(count));
  const ten = 10 ** Math.floor(Math.log10(Math.max(1, wanted)));
  const step = TICKS.map((one) => one * ten).find((one) => one >= wanted) ?? 10 * ten;
  const found = [];
  for (let at = 0; at <= most; at += step) found.push(at);
  return found;
}
