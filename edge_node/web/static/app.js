// The page: what stands around its parts.
import { html, render } from "./html.js";
import { follow, live } from "./live.js";
import { begin, ui } from "./ui.js";
import { bySeverity, OpenAlerts, OverAlerts } from "./alerts.js";
import { Devices, DeviceView } from "./devices.js";
import { GatewayView } from "./gateway.js";
import { Dialog } from "./dialog.js";
import { duration, Moment, plural, SEVERITIES } from "./format.js";

const root = document.getElementById("page");
let drawing = false;

function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    render(html`<${Page} />`, root);
  });
}

function Page() {
  if (!live.ready) return html`<p class="loading">${live.trouble ? `${live.trouble.text} …` : "Asking the gateway …"}</p>`;
  const { status } = live.health;
  const n = live.open.length;
  document.title = `${n > 0 ? `(${n}) ` : ""}${status.gateway} · Linewatch`;
  return html`
    <a class="skip" href="#main" onClick=${toMain}>To the content</a>
    <${Head} status=${status} />
    <${Troubles} status=${status} />
    <main id="main" tabindex="-1">
      ${ui.view === "gateway" && html`<h1 class="unseen">Gateway ${status.gateway}</h1><${GatewayView} />`}
      ${ui.view === "device" && html`<h1 class="unseen">${ui.device}</h1><${DeviceView} key=${ui.device} id=${ui.device} />`}
      ${ui.view === "machines" && html`<h1 class="unseen">Machines</h1><div class="machines">
        <div class="side"><${OpenAlerts} alerts=${live.open} /><${OverAlerts} alerts=${live.over} /></div>
        <${Devices} />
      </div>`}
    </main>
    <div class="told" role="status">${ui.told && ui.told.untilMs > Date.now() && html`<p>${ui.told.text}</p>`}</div>
    ${ui.dialog && html`<${Dialog} ...${ui.dialog} />`}
  `;
}

function toMain(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

function Head({ status }) {
  const [worst] = [...live.open].sort(bySeverity);
  const tab = (view, word) => html`<a href=${`#/${view}`} aria-current=${ui.view === view || (view === "machines" && ui.view === "device") ? "page" : null}>${word}</a>`;
  return html`<header class="top">
    <a class="brand" href="#/"><img src="/icon.svg" alt="Linewatch" width="26" height="26" /><span class="place"><b>${status.gateway}</b> <span class="soft">${status.site}</span></span></a>
    <nav aria-label="Views">${tab("machines", "Machines")}${tab("gateway", "Gateway")}</nav>
    <p class=${`overall ${worst ? worst.severity : "good"}`}>
      <span aria-hidden="true">${worst ? SEVERITIES[worst.severity].mark : "✓"}</span>
      ${worst ? plural(live.open.length, "open alert") : "No open alerts"}
    </p>
    <p class=${live.trouble ? "beat lost" : "beat"}><span class="mark" aria-hidden="true">●</span> ${live.trouble ? "Not live" : html`Live <${Moment} ms=${live.nowMs} now=${live.nowMs} />`}</p>
    ${live.hasLogin && html`<form method="post" action="/logout"><button>Log out</button></form>`}
  </header>`;
}

function Troubles({ status }) {
  const lost = Object.entries(status.connections).filter(([, c]) => !c.connected);
  const uplink = live.health.uplink;
  if (uplink !== null && !uplink.connected) lost.push(["uplink", uplink]);
  return html`<div class="troubles">
    ${live.trouble && html`<p role="alert"><b>${live.trouble.text}.</b> What is shown is from ${duration((Date.now() - live.heardAt) / 1000)} ago; it goes on by itself.</p>`}
    ${lost.map(([name, { error }]) => html`<p key=${name}><b>${name} is not connected${error ? ":" : "."}</b> ${error ? `${error}.` : ""} ${name === "uplink" ? "Alerts are kept, and sent once it is." : ""}</p>`)}
  </div>`;
}

begin(draw);
follow(draw);
