// What the renter's views share: headings, buttons, bars, and lists that are read page by page.
import { api, problemPlace, Refused } from "./account.js";
import { make } from "./elements.js";
import { number, t } from "./texts.js";

export { card, problemPlace } from "./account.js";

const SURE_MS = 5000;
const KIB = 1024;

export const MICROS_PER_HALALA = 1_000_000;
export const title = (text, ...more) => make("div", { class: "head" }, make("h1", {}, text), make("div", { class: "buttons" }, ...more));
export const halala = (sar) => Math.round(Number(sar) * 100);

/** Says in `problem` why something failed. Faults of ours are thrown. */
export function say(problem, error) {
  if (!(error instanceof Refused)) throw error;
  problem.textContent = error.message;
  problem.hidden = false;
}

/** Runs `work` at a click, one at a time; what fails is said in `problem`. */
export function onClick(button, problem, work) {
  button.addEventListener("click", async () => {
    if (button.getAttribute("aria-disabled")) return;
    button.setAttribute("aria-disabled", "true");
    problem.hidden = true;
    try {
      await work();
    } catch (error) {
      say(problem, error);
    } finally {
      button.removeAttribute("aria-disabled");
    }
  });
  return button;
}

/** A button for what cannot be undone: it asks once more, for some seconds. */
export function sureButton(label, question, problem, work, attributes = {}) {
  const button = make("button", { type: "button", class: "danger", ...attributes }, label);
  let isAsking = false;
  const ask = (is) => {
    isAsking = is;
    button.textContent = is ? question : label;
    if (attributes["aria-label"]) button.setAttribute("aria-label", is ? question : attributes["aria-label"]);
  };
  return onClick(button, problem, async () => {
    if (isAsking) {
      ask(false);
      await work();
      return;
    }
    ask(true);
    setTimeout(() => ask(false), SURE_MS);
  });
}

/** How much of something is used, as a bar with words. */
export function bar(label, value, most, words) {
  const share = most ? Math.min(1, value / most) : 0;
  const meter = make("span", { class: `level${share > 0.9 ? " high" : ""}`, "aria-hidden": "true" }, make("span", {}));
  meter.firstChild.style.inlineSize = `${share * 100}%`;
  return make("div", { class: "of-most" }, make("p", {}, make("span", {}, label), make("span", { class: "words" }, ...words)), meter);
}

/** A size for people. */
export function bytes(count) {
  let size = Number(count);
  for (const unit of ["byte", "kilobyte", "megabyte", "gigabyte"]) {
    if (size < KIB || unit === "gigabyte") return make("bdi", {}, number(size, { style: "unit", unit, unitDisplay: unit === "byte" ? "long" : "short", maximumFractionDigits: size < 10 ? 1 : 0 }));
    size /= KIB;
  }
  return "";
}

/** A list with a button for its older entries: `readPage(next)` returns `{items, next}`. */
export async function inPages(readPage, tableOf) {
  const found = [];
  const place = make("div");
  const problem = problemPlace();
  const more = make("button", { type: "button", hidden: true }, t("Show older"));
  let next;
  async function load() {
    const page = await readPage(next);
    found.push(...page.items);
    next = page.next;
    more.hidden = next === undefined;
    place.replaceChildren(tableOf(found));
  }
  onClick(more, problem, load);
  await load();
  return make("div", {}, place, problem, more);
}

/** A link that saves a file. If the log-in has ended, it asks for one first: a refusal is never saved as the file. */
export function download(href, ...text) {
  const link = make("a", { href, download: "" }, ...text);
  link.addEventListener("click", async (event) => {
    event.preventDefault();
    try {
      await api("GET", "/renters/me");
      make("a", { href: link.href, download: "" }).click();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      link.after(make("span", { class: "wrong", role: "alert" }, " ", error.message));
    }
  });
  return link;
}
