// What the views of the operator's page share: who the operator is, lists in pages, and acts that are confirmed.
import { api, field, inPages, latin, onSubmit, problemPlace, read, Refused, table } from "./account.js";
import { make, once } from "./elements.js";
import { number, t } from "./texts.js";
import { actName } from "./words.js";

const LEVELS = { support: 1, finance: 2, admin: 3 };
const PAGE = 20;
const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

let me;

/** The operator whose page this is. */
export async function operator() {
  me ??= (await read("/admin/me")).operator;
  return me;
}

/** Whether the operator has a role or one above it. The server decides; this only says what is shown as usable. */
export const may = (least) => (LEVELS[me?.role] ?? 0) >= LEVELS[least];

export const name = (text) => make("bdi", {}, text || "–");
export const link = (view, id, text) => make("a", { href: `#${view}/${encodeURIComponent(id)}` }, text ?? latin(/^\d+$/.test(id) ? `#${id}` : id));
export const percent = (share) => number(share, { style: "percent", maximumFractionDigits: 1 });
export const textarea = (id, attributes = {}) => make("textarea", { id, ...attributes });

/** Facts in two columns: names and values. */
export function facts(...rows) {
  const parts = rows.filter(Boolean).map(([label, value]) => make("div", {}, make("dt", {}, label), make("dd", {}, value ?? "–")));
  return make("dl", { class: "values" }, ...parts);
}

/** How long ago something was, in the largest unit that fits. */
export function ago(text) {
  if (!text) return "–";
  const seconds = (Date.parse(text) - Date.now()) / 1000;
  const [unit, size] = UNITS.find(([, length]) => Math.abs(seconds) >= length) ?? UNITS.at(-1);
  const format = new Intl.RelativeTimeFormat(`${document.documentElement.lang}-u-nu-latn`, { numeric: "auto" });
  return make("time", { datetime: text, title: text }, format.format(Math.round(seconds / size), unit));
}

/** A duration in milliseconds, in the unit that reads best. */
export function duration(milliseconds) {
  if (milliseconds === undefined || milliseconds === null) return "–";
  const [unit, value] = milliseconds < 1000 ? ["millisecond", milliseconds] : milliseconds < 120_000 ? ["second", milliseconds / 1000] : ["minute", milliseconds / 60_000];
  return make("bdi", {}, number(value, { style: "unit", unit, unitDisplay: "short", maximumFractionDigits: value < 10 ? 1 : 0 }));
}

/** A table that reads the next page when asked. `load` gets what the last page said and returns {rows, next}. */
export function paged(caption, heads, load, empty) {
  const readPage = async (before) => {
    const { rows, next } = await load(before);
    return { items: rows, next };
  };
  return inPages(readPage, (rows) => table(caption, heads, rows, empty));
}

/** The address of a page of a list. */
export function page(path, values = {}, size = PAGE) {
  const query = new URLSearchParams({ page_size: String(size) });
  for (const [key, value] of Object.entries(values)) if (value !== undefined && value !== "") query.set(key, String(value));
  return `${path}?${query}`;
}

/** A button that opens a dialog, which says exactly what will happen and asks for what the act needs.
 *
 * What was typed stays until the act is done, also while somebody logs in again. Each opened act has a key of its own, so
 * that a request that is sent twice acts once; an answer with a secret is sent only once. If another operator was first, the dialog says who. */
export function act({ label, least, heading, sentence, shown = [], inputs = [], confirm, danger = false, path, body, object, objectId, makesSecret = false, done }) {
  const classes = danger ? "danger" : "primary";
  if (!may(least)) {
    const needs = { finance: t("Only operators with the role finance or admin can do this."), admin: t("Only operators with the role admin can do this.") }[least];
    return make("div", { class: "denied" }, make("button", { type: "button", disabled: true }, label), make("p", { class: "hint" }, needs));
  }
  const button = make("button", { type: "button", class: classes }, label);
  const problem = problemPlace();
  const back = make("button", { type: "button" }, t("Go back"));
  const send = make("button", { class: classes }, confirm ?? label);
  const id = `act-${once()}`;
  const words = make("p", { class: "sentence" });
  const form = make("form", { class: "stack" }, ...inputs.map(({ label: text, control, hint }) => field(text, control, hint)), problem, make("div", { class: "buttons" }, send, back));
  const dialog = make("dialog", { class: "decision", "aria-labelledby": id }, make("h2", { id }, heading ?? label), words, facts(...shown), form);
  let key;
  const show = () => words.replaceChildren(...[sentence()].flat());
  button.addEventListener("click", () => {
    key ??= once();
    problem.hidden = true;
    show();
    if (!dialog.isConnected) button.after(dialog);
    dialog.showModal();
  });
  form.addEventListener("input", () => {
    key = once(); // another text is another act
    show();
  });
  back.addEventListener("click", () => dialog.close());
  onSubmit(form, problem, async () => {
    try {
      const answer = await api("POST", path, body(), { headers: makesSecret ? {} : { "idempotency-key": key } });
      key = undefined;
      dialog.close();
      await done(answer);
    } catch (error) {
      if (!(error instanceof Refused) || error.code !== "WRONG_STATE") throw error;
      throw new Refused(await whoWasFirst(error, object, objectId), error.code, error.facts);
    }
  });
  dialog.addEventListener("close", () => {
    if (problem.dataset.late) done();
  });
  async function whoWasFirst(error, kind, of) {
    problem.dataset.late = "true"; // what the page shows is old: it is read again when the dialog closes
    send.hidden = true;
    const { entries } = await api("GET", page("/admin/audit", { object: kind, object_id: of }, 1));
    if (!entries.length) return error.message;
    return t("Already decided by {name}: {action}. Nothing was changed.", { name: entries[0].actor, action: actName(entries[0].action) });
  }
  return make("div", { class: "act" }, button, dialog);
}
