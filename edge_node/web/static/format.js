// Numbers, times and words as a person reads them. Nothing here knows the page.
import { html } from "./html.js";

export const STATES = {
  anomalous: { word: "Anomalous", rank: 0, mark: "▲" },
  sensor_fault: { word: "Sensor fault", rank: 1, mark: "◆" },
  stale: { word: "Silent", rank: 2, mark: "✕" },
  learning: { word: "Learning", rank: 3, mark: "…" },
  normal: { word: "Normal", rank: 4, mark: "●" },
  idle: { word: "Idle", rank: 5, mark: "○" },
};

export const SEVERITIES = {
  critical: { word: "Critical", rank: 0, mark: "■" },
  warning: { word: "Warning", rank: 1, mark: "▲" },
  info: { word: "Info", rank: 2, mark: "●" },
};

export const KINDS = {
  machine: "Machine",
  limit: "Limit",
  sensor: "Sensor",
  stale: "Silence",
  drift: "Drift",
  system: "Gateway",
};

// Why something went no further: what each reason of a counter means.
export const REASONS = {
  not_finite: "not a number",
  duplicate: "came twice",
  late: "came after its window had closed",
  future: "dated in the future",
  too_old: "older than is taken",
  unknown_device: "of no configured device",
  unknown_channel: "of no configured channel",
  wrong_rate: "at another rate than configured",
  queue_full: "the gateway could not keep up",
  lost: "lost on the line",
  unexplained: "the board did not say what they are",
  down: "while the gateway was down",
  malformed: "could not be read",
  oversize: "too long",
  unknown_topic: "on a topic that nothing is read from",
  bad_crc: "damaged on the line",
  bad_cobs: "damaged on the line",
  short: "cut short",
  cut_in: "joined in the middle of a frame",
  unknown_type: "of an unknown type",
  unknown_version: "of an unknown version",
  no_answer: "the slave did not answer",
  gap: "samples were missing",
  inactive: "the machine was at rest",
  sensor_fault: "a sensor was at fault",
  warm_up: "the machine had just started",
  no_model: "the device has no model",
  learning: "the device was learning from them",
  backpressure: "too many waited for a score",
  inference_failed: "the model could not be run",
  not_finite_score: "the score was not a number",
  refused: "refused by the other end",
  evicted: "the queue to the broker was full",
  expired: "waited too long for the broker",
  corrupt: "could not be read back from the disk",
  disk_full: "the disk was full",
  unwritable: "the disk could not be written",
};

const count = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });

export const whole = (n) => count.format(n);

export function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e6 || size < 1e-4)) return value.toExponential(1);
  if (size >= 10 ** digits) return count.format(value);
  return String(Number(value.toPrecision(digits)));
}

export function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let i = 0;
  while (n >= 1000 && i < units.length - 1) [n, i] = [n / 1000, i + 1];
  return `${i === 0 ? n : n.toPrecision(3)} ${units[i]}`;
}

export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return s % 3600 < 60 ? `${Math.floor(s / 3600)} h` : `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

// A moment in the browser's zone, in UTC where one points at it.
export function Moment({ ms, now }) {
  const date = new Date(ms);
  const text = Math.abs(now - ms) < 20 * 3600 * 1000 ? clock.format(date) : day.format(date);
  return html`<time datetime=${date.toISOString()} title=${utc(ms)}>${text}</time>`;
}

export const utc = (ms) => `${new Date(ms).toISOString().replace("T", " ").replace(/\.\d+Z$/, "")} UTC`;

export const plural = (n, one, many = `${one}s`) => `${whole(n)} ${n === 1 ? one : many}`;
