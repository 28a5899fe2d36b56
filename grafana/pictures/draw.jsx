// Draws a dashboard with Grafana's own panel components: its JSON, and the frames that its queries
// gave. The page calls drawDashboard({dashboard, frames, ranges}) and waits for window.isDrawn.
import {
  ThemeContext, createTheme, dateTime, getDisplayProcessor, getFieldDisplayName,
  standardTransformers, toDataFrame,
} from "@grafana/data";
import { BarGauge, BigValue, GlobalStyles, PanelChrome, TimeSeries } from "@grafana/ui";
import { TableNG } from "@grafana/ui/unstable";
import { createRoot } from "react-dom/client";
import { of } from "rxjs";

const theme = createTheme({ colors: { mode: "dark" } });
const CELL_WIDTH = 60, CELL_HEIGHT = 30, GAP = 8, TIME_ZONE = "utc";

function setPath(object, path, value) {
  const names = path.split(".");
  const last = names.pop();
  const inner = names.reduce((at, name) => (at[name] ??= {}), object);
  inner[last] = value;
}

// What Grafana keeps in JSON as null is minus infinity.
function withoutNulls(thresholds) {
  const steps = thresholds.steps.map((step) => ({ ...step, value: step.value ?? -Infinity }));
  return { ...thresholds, steps };
}

function configured(frames, panel) {
  const { defaults = {}, overrides = [] } = panel.fieldConfig ?? {};
  let series = 0;
  for (const frame of frames) {
    for (const field of frame.fields) {
      const config = structuredClone(defaults);
      config.custom = { axisPlacement: "auto", ...config.custom };
      config.mappings ??= [];
      Object.assign(config, field.config);
      if (defaults.displayName) {
        config.displayName = defaults.displayName.replace(
          /\$\{__field\.labels\.(\w+)\}/g, (_, label) => field.labels?.[label] ?? "",
        );
      }
      if (field.type === "time") { delete config.displayName; delete config.min; }
      field.config = config;
      field.state = { ...field.state, seriesIndex: field.type === "number" ? series++ : undefined };
      const name = config.displayName ?? getFieldDisplayName(field, frame, frames);
      for (const override of overrides.filter((one) => one.matcher.options === name)) {
        for (const { id, value } of override.properties) setPath(config, id, structuredClone(value));
      }
      if (config.thresholds) config.thresholds = withoutNulls(config.thresholds);
      // A cell with a link is drawn as one; nobody clicks on a picture.
      if (config.links) field.getLinks = () => config.links.map((one) => ({ ...one, href: "#" }));
      field.display = getDisplayProcessor({ field, theme, timeZone: TIME_ZONE });
    }
  }
  return frames;
}

async function transformed(frames, panel) {
  const known = Object.values(standardTransformers);
  for (const { id, options } of panel.transformations ?? []) {
    const transformer = known.find((one) => one.id === id);
    const context = { interpolate: (text) => text };
    frames = await new Promise((resolve) =>
      of(frames).pipe(transformer.operator({ ...transformer.defaultOptions, ...options }, context)).subscribe(resolve),
    );
  }
  return frames;
}

function Stat({ panel, frames, width, height }) {
  const field = frames[0]?.fields.find((one) => one.type === "number" || one.name !== "Time");
  if (!field) return "No data";
  const values = field.values.filter((one) => one != null);
  const value = field.display(values[values.length - 1]);
  const graph = panel.options.graphMode === "area" && values.length > 1;
  const [min, max] = [Math.min(...values), Math.max(...values)];
  const numbers = {
    ...field, config: { ...field.config, custom: {} }, state: { ...field.state, range: { min, max, delta: max - min } },
  };
  return (
    <BigValue
      value={{ ...value, title: "" }} theme={theme} width={width} height={height}
      colorMode={panel.options.colorMode} graphMode={graph ? "area" : "none"} justifyMode="auto"
      sparkline={graph ? { y: numbers, x: frames[0].fields[0] } : undefined}
    />
  );
}

function Bars({ frames, width, height }) {
  const [names, lengths] = frames[0].fields;
  const most = Math.max(...lengths.values);
  const each = height / lengths.values.length;
  lengths.config = { ...lengths.config, min: 0, max: most };
  const display = getDisplayProcessor({ field: lengths, theme, timeZone: TIME_ZONE });
  return lengths.values.map((value, at) => (
    <BarGauge
      key={at} theme={theme} width={width} height={each - 6} orientation="horizontal" displayMode="basic"
      field={lengths.config} display={display} itemSpacing={6} showUnfilled
      value={{ ...display(value), title: names.values[at] }}
    />
  ));
}

function Content({ panel, frames, range, width, height }) {
  if (!frames.length) return <div style={{ padding: 16 }}>No data</div>;
  switch (panel.type) {
    case "stat": return <Stat {...{ panel, frames, width, height }} />;
    case "bargauge": return <Bars {...{ frames, width, height }} />;
    case "table": return <TableNG data={frames[0]} width={width} height={height} cellHeight="sm" noHeader={false} timeRange={range} structureRev={1} enableVirtualization={false} fieldConfig={panel.fieldConfig} />;
    default: return (
      <TimeSeries frames={frames} width={width} height={height} timeRange={range} timeZone={TIME_ZONE}
        legend={{ displayMode: "list", placement: panel.gridPos.w > 10 ? "right" : "bottom", showLegend: true, calcs: [] }} />
    );
  }
}

function Shown({ panel, frames, range }) {
  const { x, y, w, h } = panel.gridPos;
  const place = { position: "absolute", left: x * CELL_WIDTH, top: y * (CELL_HEIGHT + GAP) };
  const width = w * CELL_WIDTH - GAP, height = h * (CELL_HEIGHT + GAP) - GAP;
  if (panel.type === "row") {
    return <h4 style={{ ...place, margin: "8px 4px", fontSize: 18 }}>{panel.title}</h4>;
  }
  return (
    <div style={{ ...place, width, height }}>
      <PanelChrome title={panel.title} width={width} height={height} padding={panel.type === "stat" ? "none" : "sm"}>
        {(innerWidth, innerHeight) => (
          <Content panel={panel} frames={frames} range={range} width={innerWidth} height={innerHeight} />
        )}
      </PanelChrome>
    </div>
  );
}

function timeRange([from, to]) {
  const range = { from: dateTime(from * 1000), to: dateTime(to * 1000) };
  return { ...range, raw: range };
}

window.drawDashboard = async ({ dashboard, frames, ranges }) => {
  const shown = [];
  for (const panel of dashboard.panels) {
    const found = (frames[panel.id] ?? []).map(toDataFrame);
    const made = configured(await transformed(found, panel), panel);
    shown.push(<Shown key={shown.length} panel={panel} frames={made} range={panel.type === "row" ? null : timeRange(ranges[panel.id])} />);
  }
  const height = Math.max(...dashboard.panels.map(({ gridPos: { y, h } }) => (y + h) * (CELL_HEIGHT + GAP)));
  const root = document.getElementById("dashboard");
  root.style.height = `${height + 44}px`;
  createRoot(root).render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <h2 style={{ margin: "8px 4px 8px" }}>{dashboard.title} <small style={{ fontSize: 15, opacity: 0.7 }}>{dashboard.description}</small></h2>
      <div style={{ position: "relative" }}>{shown}</div>
    </ThemeContext.Provider>,
  );
  setTimeout(() => { window.isDrawn = true; }, 3000);
};
