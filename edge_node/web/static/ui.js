// What this browser shows, as opposed to what the gateway says: the view, the filter, the dialog, who one is.
let draw = () => {};

export const ui = {
  view: "machines", // or "gateway", "device"
  device: null,
  state: null, // of the devices that are listed; null: any
  search: "",
  listed: 60,
  allOver: false, // whether all alerts that are over are shown
  dialog: null, // { act, alert, device }
  told: null, // { text, untilMs }
};

export function begin(onDraw) {
  draw = onDraw;
  addEventListener("hashchange", route);
  route();
}

export function set(changes) {
  Object.assign(ui, changes);
  draw();
}

export function tell(text) {
  set({ told: { text, untilMs: Date.now() + 6000 } });
}

function route() {
  const [view, device] = location.hash.replace(/^#\/?/, "").split("/");
  if (view === "device" && device) set({ view: "device", device: decodeURIComponent(device) });
  else set({ view: view === "gateway" ? "gateway" : "machines", device: null });
  scrollTo(0, 0);
}

export const linkTo = (device) => `#/device/${encodeURIComponent(device)}`;

const NAME = "linewatch-name";

export function myName() {
  try {
    return localStorage.getItem(NAME) ?? "";
  } catch {
    return ""; // a browser that keeps nothing
  }
}

export function rememberName(name) {
  try {
    localStorage.setItem(NAME, name);
  } catch {
    // then it is asked for again
  }
}
