// A device's scores against its alert level. Straight up to the level, and ever denser above it, so that a great score
// does not flatten what came before it.
import { html, Component } from "./html.js";
import { watch } from "./live.js";
import { duration, number, utc } from "./format.js";

const uPlot = globalThis.uPlot;
const HOURS = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const SECONDS = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const DAYS = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
// Between the labels of the time axis, in seconds: close enough to one another that there are always some.
const STEPS = [1, 2, 5, 10, 15, 20, 30, ...[1, 2, 3, 5, 10, 15, 20, 30].map((m) => 60 * m), ...[1, 2, 3, 4, 6, 8, 12, 24, 48].map((h) => 3600 * h)];
const NOTHING = { at: [], score: [], level: [], logP: [], alerting: [] };

const inSight = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) entry.target.lineChart?.see(entry.isIntersecting);
  },
  { rootMargin: "200px" },
);
const sizes = new ResizeObserver((entries) => {
  for (const entry of entries) entry.target.lineChart?.resize(entry.contentRect.width);
});
const charts = new Set();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const chart of charts) chart.recolour();
});

export class ScoreChart extends Component {
  componentDidMount() {
    this.seen = false;
    this.level = this.top = 1;
    this.box.lineChart = this;
    charts.add(this);
    inSight.observe(this.box);
    sizes.observe(this.box);
  }

  componentWillUnmount() {
    this.see(false);
    inSight.unobserve(this.box);
    sizes.unobserve(this.box);
    charts.delete(this);
    this.plot?.destroy();
  }

  componentDidUpdate() {
    if (this.seen) this.fill();
  }

  see(seen) {
    if (seen === this.seen) return;
    this.seen = seen;
    watch(this.props.device.id, seen);
    if (seen) this.fill();
  }

  resize(width) {
    if (width > 0 && this.plot) this.plot.setSize({ width, height: this.height });
  }

  recolour() {
    this.plot?.destroy();
    this.plot = null;
    if (this.seen) this.fill();
  }

  get height() {
    return this.props.large ? 300 : 116;
  }

  fill() {
    const { scores = NOTHING, device, nowS } = this.props;
    const width = this.box.clientWidth;
    if (width === 0) return;
    this.plot ??= new uPlot(this.options(width), [[], [], []], this.box);
    this.alerting = spans(scores);
    this.level = scores.level.at(-1) ?? 1;
    this.top = Math.max(1.35 * this.level, 1.12 * scores.score.reduce((a, b) => Math.max(a, b), 0));
    const end = Math.max(nowS, scores.at.at(-1) ?? 0);
    const begin = Math.max(end - device.span_s, Math.min(scores.at[0] ?? end, end - device.span_s / 10));
    this.plot.batch(() => {
      this.plot.setData(withGaps(scores, Math.max(5, 3 * device.hop_s)), false);
      this.plot.setScale("x", { min: begin, max: end });
      this.plot.setScale("y", { min: 0, max: this.top });
    });
  }

  options(width) {
    const css = getComputedStyle(this.box);
    const colour = (name) => css.getPropertyValue(name).trim();
    const large = this.props.large;
    const font = `${large ? 12 : 11}px ${css.fontFamily}`;
    const axis = { stroke: colour("--ink-soft"), font, ticks: { show: false }, gap: 4 };
    return {
      width,
      height: this.height,
      padding: [8, 4, 0, 0],
      legend: { show: false },
      cursor: { show: large, y: false, drag: { x: false, y: false }, points: { size: 7 } },
      select: { show: false },
      scales: {
        x: { time: true },
        y: { distr: 100, fwd: (v) => Math.asinh(v / this.level), bwd: (v) => this.level * Math.sinh(v) },
      },
      axes: [
        { ...axis, size: 19, space: large ? 80 : 58, incrs: STEPS, grid: { show: false }, values: (u, at, i, space, step) => at.map((s) => timeLabel(u, s, step)) },
        {
          ...axis,
          size: 42,
          grid: { stroke: colour("--grid"), width: 1 },
          splits: (u) => ticks(u, this.top),
          filter: (_, at) => at,
          values: (_, at) => at.map((v) => number(v, 2)),
        },
      ],
      series: [
        {},
        {
          stroke: (u) => this.gradient(u, colour("--line"), colour("--critical")),
          width: large ? 2 : 1.5,
          points: { show: (u) => u.data[0].length < 40, size: 4 },
        },
        { stroke: colour("--level"), width: 1.5, dash: [5, 4], points: { show: false } },
      ],
      hooks: {
        drawClear: [(u) => this.shade(u, colour("--alert-band"))],
        draw: [(u) => large && this.nameLevel(u, colour("--level"), font)],
        setCursor: [(u) => this.read(u)],
      },
    };
  }

  // The part of the line above the level has another colour.
  gradient(u, below, above) {
    const { top, height } = u.bbox;
    const at = Math.min(1, Math.max(0, (u.valToPos(this.level, "y", true) - top) / height));
    if (!Number.isFinite(at)) return below;
    const gradient = u.ctx.createLinearGradient(0, top, 0, top + height);
    for (const [stop, colour] of [[0, above], [at, above], [at, below], [1, below]]) gradient.addColorStop(stop, colour);
    return gradient;
  }

  // Where a machine alert was open.
  shade(u, colour) {
    u.ctx.fillStyle = colour;
    for (const [from, to] of this.alerting ?? []) {
      const [a, b] = [from, to].map((s) => u.valToPos(s, "x", true));
      const left = Math.max(a, u.bbox.left);
      const right = Math.min(Math.max(b, a + 2), u.bbox.left + u.bbox.width);
      if (right > left) u.ctx.fillRect(left, u.bbox.top, right - left, u.bbox.height);
    }
  }

  nameLevel(u, colour, font) {
    const { left, width } = u.bbox;
    u.ctx.save();
    u.ctx.font = font.replace(/^[\d.]+/, (size) => size * devicePixelRatio);
    u.ctx.fillStyle = colour;
    u.ctx.textAlign = "right";
    u.ctx.textBaseline = "bottom";
    u.ctx.fillText(`alert level ${number(this.level)}`, left + width - 4, u.valToPos(this.level, "y", true) - 3);
    u.ctx.restore();
  }

  read(u) {
    if (!this.readout) return;
    const i = u.cursor.idx;
    const at = i === null || i === undefined ? undefined : u.data[0][i];
    const { scores = NOTHING } = this.props;
    const j = at === undefined ? -1 : scores.at.indexOf(at);
    this.readout.textContent = j < 0 ? "" : said(scores, j);
    this.readout.title = j < 0 ? "" : utc(at * 1000);
  }

  render({ device, scores = NOTHING, large }) {
    const last = scores.score.length - 1;
    const label =
      last < 0
        ? `${device.id}: no scores yet`
        : `${device.id}: score ${number(scores.score[last])}, alert level ${number(scores.level[last])}; the last ${duration(device.span_s)}`;
    return html`<div class=${large ? "chart large" : "chart"}>
      <div class="canvas" role="img" aria-label=${label} ref=${(box) => box && (this.box = box)}></div>
      ${large && html`<p class="readout" ref=${(p) => (this.readout = p)}></p>`}
    </div>`;
  }
}

function said(scores, i) {
  const level = `alert level ${number(scores.level[i])}`;
  const chance = scores.logP[i] <= -300 ? "" : ` · by chance once in ${number(10 ** -scores.logP[i], 2)} windows`;
  return `${SECONDS.format(scores.at[i] * 1000)} · score ${number(scores.score[i])} · ${level}${chance}`;
}

// Not where the edge would cut it.
function timeLabel(u, s, step) {
  const room = u.bbox.width / devicePixelRatio - u.valToPos(s, "x");
  const at = new Date(s * 1000);
  const midnight = step >= 60 && at.getHours() === 0 && at.getMinutes() === 0;
  const [format, half] = step < 60 ? [SECONDS, 26] : midnight ? [DAYS, 20] : [HOURS, 16];
  return room < half ? "" : format.format(s * 1000);
}

// 0 and round numbers, as many as there is room for; powers of ten first.
function ticks(u, top) {
  const found = [0];
  const places = [u.valToPos(0, "y")];
  for (const times of [1, 2, 5]) {
    for (let power = 10 ** Math.floor(Math.log10(top) - 3); power * times <= top; power *= 10) {
      const place = u.valToPos(power * times, "y");
      if (places.some((other) => Math.abs(other - place) < 20)) continue;
      found.push(power * times);
      places.push(place);
    }
  }
  return found.sort((a, b) => a - b);
}

// A line is not drawn over time of which nothing is known.
function withGaps(scores, gapS) {
  const [at, score, level] = [[], [], []];
  for (let i = 0; i < scores.at.length; i++) {
    if (i > 0 && scores.at[i] - scores.at[i - 1] > gapS) {
      at.push(scores.at[i - 1] + 1);
      score.push(null);
      level.push(scores.level[i - 1]);
    }
    at.push(scores.at[i]);
    score.push(scores.score[i]);
    level.push(scores.level[i]);
  }
  return [at, score, level];
}

function spans(scores) {
  const found = [];
  for (let i = 0; i < scores.at.length; i++) {
    if (!scores.alerting[i]) continue;
    if (i > 0 && scores.alerting[i - 1]) found.at(-1)[1] = scores.at[i];
    else found.push([scores.at[i], scores.at[i]]);
  }
  return found;
}
