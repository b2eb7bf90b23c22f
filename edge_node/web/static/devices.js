// Devices: a card each, worst first; and one of them in full.
import { html } from "./html.js";
import { live } from "./live.js";
import { ScoreChart } from "./chart.js";
import { linkTo, set, ui } from "./ui.js";
import { duration, Moment, number, plural, STATES } from "./format.js";
import { OpenAlerts, OverAlerts } from "./alerts.js";

export const pairs = () => live.devices.map((device, i) => ({ device, now: live.now[i] }));

export function Devices() {
  const all = pairs();
  const words = ui.search.toLowerCase();
  const found = all
    .filter(({ now }) => ui.state === null || now.state === ui.state)
    .filter(({ device }) => `${device.id} ${device.machine} ${device.class}`.toLowerCase().includes(words))
    .sort((a, b) => rank(a) - rank(b));
  const shown = found.slice(0, ui.listed);
  return html`<section aria-labelledby="devices" class="devices">
    <div class="bar-row">
      <h2 id="devices">Devices</h2>
      <${StateFilter} all=${all} />
      <input type="search" placeholder="Find a device" aria-label="Find a device or machine" value=${ui.search}
        onInput=${(event) => set({ search: event.target.value, listed: 60 })} />
    </div>
    ${all.length > 0 && found.length === 0 && html`<p class="empty">No device here ${ui.state ? `is ${STATES[ui.state].word.toLowerCase()}` : "is called that"}.
      <button onClick=${() => set({ state: null, search: "" })}>Show all</button></p>`}
    <ul class="cards plain">
      ${shown.map(({ device, now }) => html`<li key=${device.id}><${DeviceCard} device=${device} now=${now} /></li>`)}
    </ul>
    ${found.length > shown.length && html`<button class="more" onClick=${() => set({ listed: ui.listed + 60 })}>
      Show more (${plural(found.length - shown.length, "device")})</button>`}
  </section>`;
}

// Those that stand well stay where the configuration has them.
const rank = ({ now }) => Math.min(STATES[now.state].rank, STATES.normal.rank);

function StateFilter({ all }) {
  const chip = (state, word, mark, n) => html`<button class=${`chip ${state ?? ""}`} aria-pressed=${ui.state === state ? "true" : "false"}
    onClick=${() => set({ state: ui.state === state ? null : state, listed: 60 })}>
    ${mark && html`<span class="mark" aria-hidden="true">${mark}</span>`} ${word} <b>${n}</b></button>`;
  return html`<div class="chips" role="group" aria-label="Which devices to show">
    ${chip(null, "All", "", all.length)}
    ${Object.entries(STATES).map(([state, { word, mark }]) => {
      const n = all.filter(({ now }) => now.state === state).length;
      return n > 0 || ui.state === state ? chip(state, word, mark, n) : null;
    })}
  </div>`;
}

function DeviceCard({ device, now }) {
  return html`<article class=${`card ${now.state}`} data-device=${device.id}>
    <header>
      <h3><a href=${linkTo(device.id)}>${device.id}</a></h3>
      <${State} state=${now.state} />
    </header>
    <p class="where soft"><span>${device.machine === device.id ? device.class : device.machine}</span> <${Since} now=${now} /></p>
    <${Body} device=${device} now=${now} />
  </article>`;
}

export function State({ state }) {
  const { word, mark } = STATES[state];
  return html`<span class=${`state ${state}`}><span class="mark" aria-hidden="true">${mark}</span> ${word}</span>`;
}

function Since({ now }) {
  return now.sinceMs === null ? null : html`<span>since <${Moment} ms=${now.sinceMs} now=${live.nowMs} /></span>`;
}

function Body({ device, now, large }) {
  const chart = device.model !== null && now.atS !== null;
  return html`
    ${chart && html`<${Score} device=${device} now=${now} />`}
    ${chart && html`<${ScoreChart} device=${device} scores=${live.scores.get(device.id)} nowS=${live.nowMs / 1000} large=${large} />`}
    <${Hint} device=${device} now=${now} />
  `;
}

function Score({ device, now }) {
  const known = now.level !== null;
  const above = known && now.score > now.level;
  const old = live.nowMs / 1000 - now.atS > Math.max(10, 3 * device.hop_s);
  return html`<p class=${`score ${above ? "above" : ""} ${old ? "old" : ""}`}>
    <b>${number(now.score)}</b> ${known && html`<span class="soft">${old ? "at last; alert level" : `${above ? "above" : "below"} the alert level of`} ${number(now.level)}</span>`}
  </p>`;
}

// What to know, or to do, where there is no score to look at.
function Hint({ device, now }) {
  if (now.state === "learning") {
    if (now.progress === 0) return html`<p class="hint">Nothing has come from it yet. ${unconnected(device) || "What feeds it is connected: does it send, and under this name?"}</p>`;
    if (now.leftS !== null) {
      return html`<p class="hint">
        <label>It learns what is normal from its own windows: <progress max="1" value=${now.progress}></progress> ${Math.floor(100 * now.progress)} %.</label>${" "}
        ${now.progress < 1 ? `About ${duration(now.leftS)} of running are wanted yet; more, while that is not steady.` : "Its model is being made."}
      </p>`;
    }
    if (now.progress === 1 && device.gate) return html`<p class="hint">It is not known yet whether its machine runs (<code>${device.gate}</code>).</p>`;
    return html`<p class="hint">
      <label>Its first window, of ${duration(device.window_s)}, is filling: <progress max="1" value=${now.progress}></progress> ${Math.floor(100 * now.progress)} %</label>
    </p>`;
  }
  if (now.state === "stale") return html`<p class="hint">It has fallen silent. ${unconnected(device) || "What feeds it is connected: look at the sensor."}</p>`;
  if (now.state === "idle") return html`<p class="hint">Its machine is at rest; meanwhile nothing is scored${device.gate && html` (it runs while <code>${device.gate}</code>)`}.</p>`;
  if (device.model === null) {
    return html`<p class="hint">No model yet: only its sensors${device.limits.length > 0 && ` and ${plural(device.limits.length, "limit")}`} are watched.
      With <code>model = "learn"</code> this gateway makes one by itself; or record healthy running (<code>edge-node record</code>), then <code>cloud-sink train</code>.</p>`;
  }
  return null;
}

function unconnected(device) {
  const { connections } = live.health.status;
  const lost = device.sources.filter((name) => connections[`source ${name}`]?.connected === false);
  return lost.length === 0 ? "" : `Not connected: source ${lost.join(", ")}.`;
}

export function DeviceView({ id }) {
  const found = pairs().find(({ device }) => device.id === id);
  if (found === undefined) {
    return html`<section class="device"><p><a href="#/">← All machines</a></p><p class="empty">There is no device ${id} here.</p></section>`;
  }
  const { device, now } = found;
  const open = live.open.filter((a) => a.device === id);
  const fact = (word, text) => text && html`<div><dt>${word}</dt><dd>${text}</dd></div>`;
  return html`<section class="device" aria-labelledby="device" data-device=${id}>
    <p><a href="#/">← All machines</a></p>
    <div class="panel">
      <header class="head"><h2 id="device">${device.id}</h2> <${State} state=${now.state} /> <span class="soft"><${Since} now=${now} /></span></header>
      <${Body} device=${device} now=${now} large=${true} />
    </div>
    <div class="columns">
      <div><${OpenAlerts} alerts=${open} device=${device} /><${OverAlerts} alerts=${live.over.filter((a) => a.device === id)} /></div>
      <div class="panel">
        <h2>What it is</h2>
        <dl class="facts">
          ${fact("Machine", device.machine)} ${fact("Class", device.class)}
          ${fact("Channels", device.channels.map((c) => (c.unit ? `${c.name} (${c.unit})` : c.name)).join(", "))}
          ${fact("Windows", `${spell(device.window_s)}, one every ${spell(device.hop_s)}`)}
          ${fact("Model", device.model === null ? (now.leftS === null ? "none" : "it learns one") : `${device.model}, version ${device.model_version}`)}
          ${fact("Alert level", device.level)}
          ${fact("Fed by", device.sources.join(", "))} ${fact("Runs while", device.gate)} ${device.limits.map((limit) => fact("Limit", limit))}
        </dl>
        ${device.model !== null && html`<button onClick=${() => set({ dialog: { act: "accept", device: id } })}>Accept as normal</button>`}
      </div>
    </div>
  </section>`;
}

const spell = (seconds) => (seconds < 10 ? `${number(seconds)} s` : duration(seconds));
