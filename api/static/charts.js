// Charts over uPlot: one look, a legend that tells the values, colours of the page's scheme.

import { el, say, sentence } from "./elements.js";
import { NOTHING } from "./format.js";

const AXIS_FONT = "12px system-ui, sans-serif";
/** What is counted has no fractions: an axis of a few goes 0, 1, 2. */
const WHOLE_STEPS = Array.from({ length: 16 }, (_, power) => [1, 2, 5].map((one) => one * 10 ** power)).flat();
const DASHES = [4, 3];
const made = new Set();

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

const inUtc = (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC");

/**
 * A chart in `box`.
 *
 *   series   [{ label, colour, kind: "line" | "left bar" | "right bar" | "bar", format }]
 *   height   pixels, fixed, so that nothing moves when data come
 *   empty    what to say where there are none
 *   sync     charts of one name share their cursor
 *   small    fewer marks on the axes
 *   marks    { milliseconds before the end of the range: text } in place of times of day
 *
 * draw(xs, columns, range, caption, whole) takes times in ms and a list of numbers for each series.
 * Of these the first `whole` are final: those after are dashed, and the legend tells the last
 * that is whole.
 */
export function chart(box, { label, series, height = 220, empty, sync, small = false, marks }) {
  const legend = el("ul", { class: "legend" });
  const values = series.map((one) => {
    const value = el("span", { class: "value", text: NOTHING });
    legend.append(
      el("li", {}, el("i", { class: `swatch ${one.colour}` }), `${one.label} `, value),
    );
    return value;
  });
  const captionBox = el("span", { class: "caption" });
  const canvasBox = el("div", { class: "chart", role: "img", "aria-label": label });
  canvasBox.style.height = `${height}px`;
  const nothing = sentence({ class: "empty" }, empty);
  canvasBox.append(nothing, captionBox);
  box.append(legend, canvasBox);

  let plot = null;
  let wholes = 0;
  let shown = [[], ...series.map(() => [])];
  let limits = [0, 1];

  function tell(index) {
    series.forEach((one, place) => {
      const column = shown[place + 1];
      const at = index ?? lastKnown(column.slice(0, wholes));
      say(values[place], at in column ? one.format(column[at]) : NOTHING);
    });
  }

  function options() {
    const grid = { stroke: colour("line"), width: 1 };
    const axis = { stroke: colour("muted"), font: AXIS_FONT, ticks: { show: false } };
    return {
      width: canvasBox.clientWidth,
      height,
      tzDate: inUtc,
      legend: { show: false },
      padding: [10, 16, 0, 0],
      cursor: {
        y: false,
        drag: { x: false, y: false },
        ...(sync ? { sync: { key: sync } } : {}),
      },
      scales: { x: { range: () => limits }, y: { range: (_plot, _low, high) => [0, top(high)] } },
      axes: [
        {
          ...axis,
          grid: { show: false },
          space: small ? 70 : 60,
          size: 28,
          ...(marks ? fixedMarks(marks) : { values: timesOfDay }),
        },
        {
          ...axis,
          grid,
          size: 48,
          incrs: WHOLE_STEPS,
          space: small ? 34 : 40,
          values: (_plot, splits) => splits.map((value) => series[0].axis(value)),
        },
      ],
      series: [{}, ...series.map((one) => look(one, false)), ...series.map((one) => look(one, true))],
      hooks: { setCursor: [(plotted) => tell(plotted.cursor.idx)] },
    };
  }

  function look(one, isOpen) {
    const stroke = colour(one.colour);
    const bars = { "left bar": -1, "right bar": 1, bar: 0 };
    if (one.kind in bars) {
      const align = bars[one.kind];
      return {
        stroke,
        ...(isOpen ? { width: 1.5, dash: DASHES } : { fill: stroke, width: 0 }),
        points: { show: false },
        paths: uPlot.paths.bars({ size: [align ? 0.38 : 0.7, 28], align, radius: 0.15 }),
      };
    }
    return {
      stroke,
      ...(isOpen ? { dash: DASHES } : { fill: `${stroke}22` }),
      width: 2,
      // A line of one point would not be seen.
      points: { show: (plotted) => plotted.data[0].length < 2 },
      spanGaps: true,
    };
  }

  function build() {
    plot?.destroy();
    plot = new uPlot(options(), drawn(), canvasBox);
  }

  /** What is whole, and after it what is not: a line goes on from the last whole point. */
  function drawn() {
    const [xs, ...columns] = shown;
    const open = columns.map((column, place) => {
      const first = series[place].kind === "line" ? wholes - 1 : wholes;
      return wholes < xs.length ? column.map((value, at) => (at < first ? null : value)) : xs.map(() => null);
    });
    return [xs, ...columns.map((column) => column.map((value, at) => (at < wholes ? value : null))), ...open];
  }

  const self = {
    draw(xs, columns, range, caption = "", whole = xs.length) {
      wholes = whole;
      say(captionBox, caption);
      shown = [xs.map((ms) => ms / 1000), ...columns];
      nothing.hidden = xs.length > 0;
      limits = xs.length ? range.map((ms) => ms / 1000) : [0, 1];
      canvasBox.classList.toggle("blank", xs.length === 0);
      if (plot === null) build();
      else plot.setData(drawn());
      tell(plot.cursor.idx ?? null);
    },
    rebuild() {
      if (plot !== null) build();
    },
  };
  new ResizeObserver(() => {
    if (plot !== null && canvasBox.clientWidth > 0 && canvasBox.clientWidth !== plot.width) {
      plot.setSize({ width: canvasBox.clientWidth, height });
    }
  }).observe(canvasBox);
  made.add(self);
  return self;
}

function lastKnown(column) {
  // -1 where nothing is whole yet.
  let at = column.length - 1;
  while (at > 0 && column[at] == null) at -= 1;
  return at;
}

/** A round number a little above, so that the scale does not tremble with every value. */
function top(high) {
  if (!high || high <= 0) return 1;
  const step = 10 ** Math.floor(Math.log10(high)) / 2;
  return Math.ceil((high * 1.05) / step) * step;
}

function timesOfDay(plot, splits) {
  const days = (plot.scales.x.max - plot.scales.x.min) / 86400;
  const seconds = splits.some((second) => second % 60 !== 0);
  const [from, to] = days > 3 ? [5, 10] : [11, seconds ? 19 : 16];
  return splits.map((second) => new Date(second * 1000).toISOString().slice(from, to));
}

function fixedMarks(marks) {
  const places = Object.keys(marks).map(Number);
  return {
    splits: (plot) => places.map((before) => plot.scales.x.max - before / 1000),
    values: () => places.map((before) => marks[before]),
  };
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const one of made) one.rebuild();
});
