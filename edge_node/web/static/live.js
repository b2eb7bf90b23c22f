// What the gateway last said, kept together with what it said before; asked for every second while somebody looks.
const EVERY_MS = 1000;
const PATIENCE_MS = 8000;
const MAX_SCORES = 48; // of which an answer is asked for at once

export const live = {
  ready: false,
  nowMs: 0, // the gateway's clock when it last answered
  heardAt: 0, // ours, then
  hasLogin: false, // whether one can log out
  trouble: null, // why it does not answer: { text, sinceMs }
  layout: "",
  devices: [],
  now: [],
  open: [],
  overTag: "",
  over: [],
  health: null,
  rates: {}, // of its counters, a second
  scores: new Map(), // device -> { at, score, level, logP, alerting }
};

const watched = new Map(); // device -> how many charts of it are in sight
let counters = null;
let changed = () => {};
let timer = 0;
let asking = null;

export function follow(onChange) {
  changed = onChange;
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) askSoon();
  });
  ask();
}

export function askSoon() {
  clearTimeout(timer);
  if (asking === null) timer = setTimeout(ask, 0);
}

export function watch(device, on) {
  const n = (watched.get(device) ?? 0) + (on ? 1 : -1);
  if (n > 0) watched.set(device, n);
  else watched.delete(device);
  if (on && n === 1) askSoon();
}

async function ask() {
  if (asking !== null) return;
  asking = new AbortController();
  const tooLong = setTimeout(() => asking.abort(), PATIENCE_MS);
  try {
    const reply = await fetch(`/api/live?${query()}`, { signal: asking.signal, cache: "no-store" });
    if (reply.status === 401) {
      location.assign("/login");
      return;
    }
    live.hasLogin = reply.headers.has("Linewatch-Login");
    const body = await reply.json();
    if (!reply.ok) throw new Error(body.error);
    take(body);
    live.trouble = null;
  } catch (error) {
    const text = error.name === "AbortError" || error instanceof TypeError ? "The gateway does not answer" : error.message;
    live.trouble = { text, sinceMs: live.trouble?.sinceMs ?? Date.now() };
  } finally {
    clearTimeout(tooLong);
    asking = null;
  }
  changed();
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(ask, EVERY_MS);
}

function query() {
  const wanted = new URLSearchParams({ layout: live.layout, over: live.overTag });
  for (const device of [...watched.keys()].slice(0, MAX_SCORES)) {
    wanted.append("scores", `${live.scores.get(device)?.at.at(-1) ?? 0} ${device}`);
  }
  return wanted;
}

function take(said) {
  live.ready = true;
  live.heardAt = Date.now();
  if (said.devices !== null) {
    live.devices = said.devices;
    live.layout = said.layout;
    const known = new Set(said.devices.map((device) => device.id));
    for (const device of live.scores.keys()) if (!known.has(device)) live.scores.delete(device);
  }
  if (said.over !== null) [live.over, live.overTag] = [said.over, said.over_tag];
  live.now = said.now.map(([state, sinceMs, atS, score, level, progress, leftS]) => ({ state, sinceMs, atS, score, level, progress, leftS }));
  live.open = said.open;
  live.health = said.health;
  takeRates(said);
  live.nowMs = said.now_ms;
  for (const [device, scores] of Object.entries(said.scores)) takeScores(device, scores);
}

function takeRates(said) {
  const status = said.health.status;
  const ms = Date.parse(status.updated_at.replace(/(\.\d{3})\d*Z/, "$1Z"));
  if (counters !== null && ms <= counters.ms) return;
  if (counters !== null && counters.boot === status.boot_id) {
    const seconds = (ms - counters.ms) / 1000;
    for (const [name, value] of Object.entries(status.counters)) {
      const rate = Math.max(0, (value - (counters.of[name] ?? 0)) / seconds);
      live.rates[name] = live.rates[name] === undefined ? rate : 0.7 * live.rates[name] + 0.3 * rate;
    }
  }
  counters = { ms, boot: status.boot_id, of: status.counters };
}

function takeScores(device, said) {
  const had = live.scores.get(device);
  const fresh = { at: said.at, score: said.score, level: said.level, logP: said.log_p, alerting: said.alerting };
  if (had === undefined || said.at.length === 0 || said.at[0] < had.at.at(-1)) {
    live.scores.set(device, fresh); // also of a device whose clock was set back
    return;
  }
  // The last second that is known is said again, since it may have grown.
  const keep = had.at.at(-1) === said.at[0] ? had.at.length - 1 : had.at.length;
  const from = Math.max(0, keep + said.at.length - 600);
  const joined = {};
  for (const key of Object.keys(fresh)) joined[key] = [...had[key].slice(from, keep), ...fresh[key]];
  live.scores.set(device, joined);
}

export function newTransaction() {
  const random = crypto.getRandomValues(new Uint8Array(12));
  return `page-${Array.from(random, (b) => b.toString(16).padStart(2, "0")).join("")}`;
}

// Asks for something to be done; what came of it: { answered, ok, text }. Where no answer came, asking again with the same
// transaction does nothing twice.
export async function request(name, body) {
  try {
    const reply = await fetch(`/api/request/${name}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    const answer = await reply.json();
    if (reply.status === 401) location.assign("/login");
    if (reply.ok) return { answered: true, ok: answer.ok, text: answer.text };
    return { answered: reply.status < 500, ok: false, text: answer.error };
  } catch {
    return { answered: false, ok: false, text: "The gateway did not answer. Ask again: it will not be done twice." };
  } finally {
    askSoon();
  }
}
