// Numbers and times as people read them. Times are UTC: the shop's, not the viewer's.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const money = new Intl.NumberFormat("en", {
  minimumFractionDigits: 2,
  maximumFractionDigits: 2,
});

export const NOTHING = "–";

export function count(value) {
  if (value == null) return NOTHING;
  return Math.abs(value) < 1e6 ? whole.format(value) : compact.format(value);
}

export function short(value) {
  if (value == null) return NOTHING;
  return Math.abs(value) < 10000 ? whole.format(value) : compact.format(value);
}

export function rate(value) {
  if (value == null) return NOTHING;
  return value > 0 && value < 10 ? value.toFixed(1) : count(value);
}

/** An amount in the smallest unit (cents) as whole units. */
export function amount(cents) {
  if (cents == null) return NOTHING;
  const units = cents / 100;
  if (Math.abs(units) < 1e5) return money.format(units);
  return Math.abs(units) < 1e7 ? whole.format(units) : compact.format(units);
}

export function amountShort(cents) {
  return cents == null ? NOTHING : compact.format(cents / 100);
}

export function bytes(value) {
  return `${whole.format(value / 1e6)} MB`;
}

/** How long: milliseconds as people say them. */
export function duration(ms) {
  if (ms == null) return NOTHING;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
  const minutes = Math.floor(ms / 60_000);
  if (minutes < 60) return `${minutes} min ${Math.floor((ms % 60_000) / 1000)} s`;
  return `${whole.format(Math.floor(minutes / 60))} h ${minutes % 60} min`;
}

export function percent(part, of) {
  if (!of) return NOTHING;
  const share = (part / of) * 100;
  return `${share > 0 && share < 10 ? share.toFixed(1) : Math.round(share)} %`;
}

/** Time of day with its milliseconds. */
export function moment(ms) {
  return new Date(ms).toISOString().slice(11, 23);
}

export function clock(ms) {
  return new Date(ms).toISOString().slice(11, 19);
}

export function dateAndTime(ms) {
  return ms == null ? NOTHING : new Date(ms).toISOString().slice(0, 19).replace("T", " ");
}

export function date(ms) {
  return ms == null ? "" : `${new Date(ms).toISOString().slice(0, 10)} UTC`;
}

export function ago(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}
