// The gateway itself: what it reaches, what goes through it, what it lost and why.
import { html } from "./html.js";
import { live } from "./live.js";
import { bytes, duration, Moment, number, plural, REASONS, whole } from "./format.js";

const STAGES = { shadow: "On trial:", refused: "Refused:", rolled_back: "Rolled back:" };
const SAYS = { alert: "Alerts", summary: "Summaries", device_state: "States of devices", status: "Status", response: "Answers", model_state: "States of models" };

export function GatewayView() {
  const { status, uplink, problem, latency_ms, model_states } = live.health;
  const c = (name) => status.counters[name] ?? 0;
  const ran = c("run_seconds"); // what little says nothing of an hour yet
  const started = Date.parse(status.started_at.replace(/(\.\d{3})\d*Z/, "$1Z"));
  const connections = Object.entries(status.connections);
  if (uplink !== null) connections.push(["uplink", uplink]);
  return html`<div class="gateway">
    <section class="panel" aria-labelledby="connections">
      <h2 id="connections">Connections</h2>
      <ul class="plain connections">
        ${connections.map(([name, { connected, error }]) => html`<li key=${name} class=${connected ? "up" : "down"}>
          <span class="mark" aria-hidden="true">${connected ? "●" : "✕"}</span>
          <b>${name}</b> <span>${connected ? "connected" : "not connected"}</span>
          ${error && html`<p class="error">${error}</p>`}
        </li>`)}
        ${uplink === null && html`<li class="down"><b>uplink</b> <span>none configured: alerts are only shown here and logged</span></li>`}
      </ul>
    </section>

    <section class="panel" aria-labelledby="flow">
      <h2 id="flow">Flow</h2>
      <dl class="figures">
        <${Figure} word="values in" value=${`${rate("samples_in")}/s`} />
        <${Figure} word="windows scored" value=${`${rate("windows_scored")}/s`} />
        <${Figure} word="values waiting" value=${whole(c("samples_queued"))} />
        <${Figure} word="windows waiting" value=${whole(c("windows_pending"))} />
        <${Figure} word="from sample to alert" value=${latency(latency_ms)} />
      </dl>
    </section>

    <section class="panel" aria-labelledby="waiting">
      <h2 id="waiting">Kept for the broker and for a restart</h2>
      <dl class="figures">
        <${Figure} word="messages waiting" value=${whole(c("events_queued"))} />
        <${Figure} word="bytes waiting" value=${bytes(c("events_queued_bytes"))} />
        <${Figure} word="checkpoints written" value=${whole(c("checkpoints"))} />
        <${Figure} word="written in all" value=${bytes(c("checkpoint_bytes"))} />
      </dl>
      ${problem && html`<p class="error"><span aria-hidden="true">▲</span> ${problem}</p>`}
      ${c("checkpoint_failures") > 0 && html`<p class="soft">${plural(c("checkpoint_failures"), "checkpoint")} could not be written.</p>`}
      ${status.black_box_error && html`<p class="error"><span aria-hidden="true">▲</span> The black box: ${status.black_box_error}</p>`}
      ${status.recording_error && html`<p class="error">The recording has ended: ${status.recording_error}</p>`}
    </section>

    <section class="panel" aria-labelledby="egress">
      <h2 id="egress">What left the gateway</h2>
      <p class="soft">All of it. The raw signal never leaves.</p>
      <div class="scroll"><table class="table">
        <thead><tr><th scope="col">type</th><th scope="col">delivered</th><th scope="col">in all</th><th scope="col">an hour</th></tr></thead>
        <tbody>${types(status.counters).map((type) => html`<tr key=${type}>
          <th scope="row">${SAYS[type] ?? type}</th><td>${whole(c(`events_delivered.${type}`))}</td>
          <td>${bytes(c(`egress_bytes.${type}`))}</td><td>${ran < 600 ? "–" : bytes(Math.round((3600 * c(`egress_bytes.${type}`)) / ran))}</td>
        </tr>`)}</tbody>
      </table></div>
    </section>

    <section class="panel" aria-labelledby="drops">
      <h2 id="drops">What went no further</h2>
      <${Drops} counters=${status.counters} />
    </section>

    <section class="panel" aria-labelledby="models">
      <h2 id="models">Models</h2>
      ${status.models.length === 0 && html`<p class="empty">None yet: <code>edge-node record</code>, then <code>cloud-sink train</code>, then <code>model = …</code> for a device.</p>`}
      <ul class="plain">
        ${status.models.map((m) => html`<li key=${m.model_id}><b>${m.model_id}</b> version ${m.version} <p class="soft">${m.backend}</p>
          ${model_states.filter((s) => s.model_id === m.model_id && s.state !== "adopted").map((s) => html`<p key=${s.version} class=${s.state === "shadow" ? "soft" : "error"}>
            ${STAGES[s.state]} version ${s.version || "?"}, <${Moment} ms=${Date.parse(s.since_at.replace(/(\.\d{3})\d*Z/, "$1Z"))} now=${live.nowMs} />: ${s.text}
          </p>`)}
        </li>`)}
      </ul>
    </section>

    <section class="panel" aria-labelledby="itself">
      <h2 id="itself">This gateway</h2>
      <dl class="facts">
        <div><dt>Name</dt><dd>${status.site}/${status.gateway}</dd></div>
        <div><dt>Version</dt><dd>${status.version}</dd></div>
        <div><dt>Running for</dt><dd>${duration((live.nowMs - started) / 1000)}, since <${Moment} ms=${started} now=${live.nowMs} /></dd></div>
        <div><dt>Boot</dt><dd><code>${status.boot_id}</code></dd></div>
        <div><dt>Configuration</dt><dd><code>${status.config_hash.slice(0, 16)}</code></dd></div>
        ${status.conflicts.length > 0 && html`<div><dt>Clones</dt><dd class="error">Another computer says it is this gateway: boot ${status.conflicts.join(", ")}</dd></div>`}
      </dl>
      <p class="soft">For Prometheus: <a href="/metrics">/metrics</a></p>
    </section>
  </div>`;
}

function Figure({ word, value }) {
  return html`<div><dt>${word}</dt><dd>${value}</dd></div>`;
}

function rate(name) {
  const value = live.rates[name];
  return value === undefined ? "–" : value >= 1e6 ? `${number(value / 1e6)} M` : value >= 1e4 ? `${number(value / 1e3)} k` : number(value);
}

function latency(byKind) {
  let [n, ms] = [0, 0];
  for (const [many, total] of Object.values(byKind)) [n, ms] = [n + many, ms + total];
  return n === 0 ? "–" : `${number(ms / n, 2)} ms`;
}

const types = (counters) =>
  Object.keys(counters)
    .filter((name) => name.startsWith("events_published."))
    .map((name) => name.slice("events_published.".length));

function Drops({ counters }) {
  const rows = Object.entries(counters)
    .map(([name, n]) => [name.match(/^(samples|windows|events|source_messages)_dropped\.(?:(.+)\.)?([a-z_]+)$/), n])
    .filter(([match, n]) => match !== null && n > 0)
    .map(([[, what, of, reason], n]) => ({ what: WHAT[what], of: SAYS[of] ?? of ?? "", reason, n }));
  if (rows.length === 0) return html`<p class="empty good"><span class="mark" aria-hidden="true">✓</span> Nothing was lost or left out.</p>`;
  return html`<div class="scroll"><table class="table">
    <thead><tr><th scope="col">what</th><th scope="col">why</th><th scope="col">how many</th></tr></thead>
    <tbody>${rows.map(({ what, of, reason, n }) => html`<tr key=${what + of + reason}>
      <th scope="row">${what}${of && html` <span class="soft">${of}</span>`}</th><td>${REASONS[reason] ?? reason}</td><td>${whole(n)}</td>
    </tr>`)}</tbody>
  </table></div>`;
}

const WHAT = { samples: "Values", windows: "Windows", events: "Messages out", source_messages: "Messages in" };
