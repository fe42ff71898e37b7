// What the renter's views share: buttons for what cannot be undone, bars, sizes and downloads.
import { api, MICROS_PER_HALALA, onClick, Refused } from "./account.js";
import { make } from "./elements.js";
import { number } from "./texts.js";

const SURE_MS = 5000;
const KIB = 1024;

/** The states in which a job stays. */
export const FINAL = new Set(["completed", "failed", "cancelled"]);
export const held = (job) => job.billing?.hold_micro_halala ?? job.cost_halala * MICROS_PER_HALALA;
export const halala = (sar) => Math.round(Number(sar) * 100);

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
