// What an operator says, with a name and a note, and what the gateway answers.
import { html, Component } from "./html.js";
import { newTransaction, request } from "./live.js";
import { myName, rememberName, set, tell } from "./ui.js";

const ACTS = {
  ack: { title: "Acknowledge", why: "You have seen it. It stays open until it is over." },
  true_alarm: { title: "A true alarm", why: "Something was wrong. The latest word on an alert holds." },
  false_alarm: { title: "A false alarm", why: "Nothing was wrong. The latest word on an alert holds." },
  accept: {
    title: "Accept as normal",
    why: "How it runs now is normal from here on: its machine and drift alerts end, and departures are measured from here. Only for a machine that was changed and is well.",
  },
};

function asked({ act, alert, device }) {
  if (act === "accept") return ["accept_as_normal", { device }];
  if (act === "ack") return ["ack", { alert_id: alert.id }];
  return ["label", { alert_id: alert.id, label: act }];
}

export class Dialog extends Component {
  constructor() {
    super();
    this.state = { busy: false, refused: null };
    this.unanswered = null; // { text, transaction }
  }

  componentDidMount() {
    this.box.showModal();
    const name = myName();
    this.form.by.value = name;
    (name ? this.form.note : this.form.by).focus();
  }

  async send(event) {
    event.preventDefault();
    if (this.state.busy) return;
    const by = this.form.by.value.trim();
    const note = this.form.note.value.trim();
    if (!by) {
      this.form.by.focus();
      return;
    }
    const [name, what] = asked(this.props);
    const said = JSON.stringify([name, what, by, note]);
    const transaction = this.unanswered?.said === said ? this.unanswered.transaction : newTransaction();
    this.setState({ busy: true, refused: null });
    const answer = await request(name, { transaction, ...what, by, note });
    if (answer.ok) {
      rememberName(by);
      this.box.close();
      tell(`${ACTS[this.props.act].title}: ${answer.text}`);
      return;
    }
    this.unanswered = answer.answered ? null : { said, transaction };
    this.setState({ busy: false, refused: answer.text });
  }

  render({ act, alert, device }, { busy, refused }) {
    const { title, why } = ACTS[act];
    return html`<dialog ref=${(box) => box && (this.box = box)} aria-labelledby="dialog-title" onClose=${() => set({ dialog: null })}>
      <form ref=${(form) => form && (this.form = form)} onSubmit=${(event) => this.send(event)} novalidate>
        <h2 id="dialog-title">${title}</h2>
        <p class="about">${alert ? alert.message : device}</p>
        <p class="soft">${why}</p>
        <label>Your name <input name="by" required maxlength="64" autocomplete="name" /></label>
        <label><span>Note <span class="soft">(if you like)</span></span> <input name="note" maxlength="500" autocomplete="off" /></label>
        ${refused !== null && html`<p class="error" role="alert"><b>Not done:</b> ${refused}</p>`}
        <div class="buttons">
          <button type="button" onClick=${() => this.box.close()}>Cancel</button>
          <button type="submit" class="primary" disabled=${busy}>${busy ? "Asking …" : title}</button>
        </div>
      </form>
    </dialog>`;
  }
}
