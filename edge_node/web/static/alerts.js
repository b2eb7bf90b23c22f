// Alerts: what is wrong, who is to blame, and what operators say of it.
import { html } from "./html.js";
import { live } from "./live.js";
import { linkTo, set, ui } from "./ui.js";
import { duration, KINDS, Moment, number, plural, SEVERITIES } from "./format.js";

export function bySeverity(a, b) {
  return SEVERITIES[a.severity].rank - SEVERITIES[b.severity].rank || b.start_ms - a.start_ms;
}

export function OpenAlerts({ alerts, device }) {
  const waiting = alerts.filter((a) => a.ack === null).sort(bySeverity);
  const seen = alerts.filter((a) => a.ack !== null).sort(bySeverity);
  return html`<section aria-labelledby="open-alerts" class="alerts">
    <h2 id="open-alerts">Open alerts ${alerts.length > 0 && html`<span class="count">${alerts.length}</span>`}</h2>
    ${alerts.length === 0 && html`<p class="empty good"><span class="mark" aria-hidden="true">✓</span> ${nothingOpen(device)}</p>`}
    <ul class="plain">
      ${[...waiting, ...seen].map((alert) => html`<li key=${alert.id}><${OpenAlert} alert=${alert} /></li>`)}
    </ul>
  </section>`;
}

function nothingOpen(device) {
  if (device) return "Nothing is wrong with it that the gateway knows of.";
  const n = live.now.filter((d) => d.state !== "learning").length;
  if (live.devices.length === 0) return "No device is configured: add a [[device]] to gateway.toml.";
  if (n === 0) return "No device scores yet.";
  const lost = Object.values(live.health.status.connections).some((c) => !c.connected);
  if (lost) return "No alert is open, but not all that is watched is heard: see above.";
  const above = live.now.filter((d) => d.score > d.level).length;
  if (above > 0) return `No alert is open. ${plural(above, "device")} above the alert level: an alert follows if it lasts, and none within cooldown_s of the last one.`;
  return `All is well with ${plural(n, "device")} that the gateway watches.`;
}

function OpenAlert({ alert }) {
  const severity = SEVERITIES[alert.severity];
  const ofDevice = alert.kind !== "system";
  const canAccept = alert.kind === "machine" || alert.kind === "drift";
  return html`<article class=${`alert ${alert.severity} ${alert.ack ? "seen" : ""}`} data-alert=${alert.id}>
    <header>
      <span class=${`severity ${alert.severity}`}><span aria-hidden="true">${severity.mark}</span> ${severity.word}</span>
      <span class="soft">${KINDS[alert.kind]}</span>
      ${ofDevice && html`<a href=${linkTo(alert.device)}>${alert.device}</a>`}
      <span class="since"><span class="unseen">since </span><${Moment} ms=${alert.start_ms} now=${live.nowMs} /> · ${duration((live.nowMs - alert.start_ms) / 1000)}</span>
    </header>
    <p class="sentence">${alert.message}</p>
    ${alert.contributions.length > 0 && html`<${Blame} contributions=${alert.contributions} />`}
    <${Words} alert=${alert} />
    <footer>
      ${!alert.ack && html`<button class="primary" onClick=${() => set({ dialog: { act: "ack", alert } })}>Acknowledge</button>`}
      <${LabelButtons} alert=${alert} />
      ${canAccept && html`<button onClick=${() => set({ dialog: { act: "accept", alert, device: alert.device } })}>Accept as normal</button>`}
    </footer>
  </article>`;
}

function LabelButtons({ alert }) {
  const button = (label, word) => html`<button
    aria-pressed=${alert.label === label ? "true" : "false"}
    onClick=${() => set({ dialog: { act: label, alert } })}>${word}</button>`;
  return html`<span class="pair" role="group" aria-label="What it was">
    ${button("true_alarm", "True alarm")}${button("false_alarm", "False alarm")}
  </span>`;
}

function Blame({ contributions }) {
  const several = contributions.length > 1; // where it is one channel, it is all of the score
  const known = contributions.some((c) => c.expected_low !== null || c.expected_high !== null);
  const head = (word, columns = 1) => html`<th scope="col" colspan=${columns}>${word}</th>`;
  return html`<table class="blame">
    <caption class="unseen">What it comes from</caption>
    <thead><tr>${head("channel")}${several && head("share", 2)}${head("seen")}${known && head("expected")}</tr></thead>
    <tbody>
      ${contributions.map(
        (c) => html`<tr key=${c.channel} title=${c.feature}>
          <th scope="row">${c.channel}</th>
          ${several && html`<td class="bar"><span><span style=${{ width: `${100 * c.share}%` }}></span></span></td><td class="share">${percent(c.share)}</td>`}
          <td class="value">${number(c.observed)} ${c.unit}</td>
          ${known && html`<td class="expected soft">${expected(c)}</td>`}
        </tr>`,
      )}
    </tbody>
  </table>`;
}

const percent = (share) => `${Math.round(100 * share)} %`;

function expected(c) {
  if (c.expected_low === null && c.expected_high === null) return "";
  if (c.expected_low === null) return `at most ${number(c.expected_high)}`;
  if (c.expected_high === null) return `at least ${number(c.expected_low)}`;
  return `${number(c.expected_low)}–${number(c.expected_high)}`;
}

function Words({ alert }) {
  const word = (what, said) => html`<li>
    ${what} by ${said.by}, <${Moment} ms=${said.at_ms} now=${live.nowMs} />${said.note && html`: <q>${said.note}</q>`}
  </li>`;
  if (!alert.ack && !alert.labelled) return null;
  return html`<ul class="words plain">
    ${alert.ack && word("Seen", alert.ack)}
    ${alert.labelled && word(alert.label === "true_alarm" ? "Called a true alarm" : "Called a false alarm", alert.labelled)}
  </ul>`;
}

const FEW = 5;

export function OverAlerts({ alerts }) {
  if (alerts.length === 0) return null;
  const shown = ui.allOver ? alerts : alerts.slice(0, FEW);
  return html`<section class="over" aria-labelledby="over-alerts">
    <h2 id="over-alerts">Over <span class="soft">since the gateway started</span></h2>
    <ul class="plain">
      ${shown.map(
        (alert) => html`<li key=${alert.id} class="past" data-alert=${alert.id}>
          <p><span class="soft"><${Moment} ms=${alert.end_ms} now=${live.nowMs} /></span> ${alert.message}</p>
          <${Words} alert=${alert} />
          ${alert.kind !== "system" && html`<${LabelButtons} alert=${alert} />`}
        </li>`,
      )}
    </ul>
    ${alerts.length > FEW && html`<button class="more" onClick=${() => set({ allOver: !ui.allOver })}>
      ${ui.allOver ? "Show the latest alone" : `Show all ${alerts.length}`}</button>`}
  </section>`;
}
