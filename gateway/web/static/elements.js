// Small helpers for the pages. Data from a server becomes text here, never markup.

/** A new element with attributes, and children that are elements or text. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** A text that is used once: a key of a request, an id. `crypto.randomUUID` would exist only with TLS and on this machine. */
export function once() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const USABLE = "usable";

/** Says that the page, or a view of it, can be used now: to programs that wait for it, and to whoever measures it. */
export function usable(name = "") {
  document.documentElement.dataset.ready = name;
  performance.mark(USABLE);
}

export const byId = (id) => document.getElementById(id);

/** Puts this page's origin where the samples name the public one. */
export function showOrigin() {
  for (const place of document.querySelectorAll(".origin")) place.textContent = location.origin;
  for (const place of document.querySelectorAll(".host")) place.textContent = location.hostname;
}

/** Copies, and says so on the button for a moment. */
export async function copy(text, button, done, failed) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = done;
  } catch {
    button.textContent = failed; // the browser gave no permission, or the page has no TLS
  }
  setTimeout(() => (button.textContent = before), 1600);
}

/** Gives each block of code a button that copies it. */
export function addCopyButtons(t) {
  for (const block of document.querySelectorAll("article pre, .starts pre, .intro pre, .guide pre")) {
    const button = make("button", { type: "button", class: "small" }, t("Copy"));
    button.setAttribute("aria-label", `${t("Copy")}: ${block.getAttribute("aria-label")}`);
    button.addEventListener("click", () => copy(block.textContent, button, t("Copied"), t("Could not copy")));
    const frame = make("div", { class: "with-copy" });
    block.replaceWith(frame);
    frame.append(block, button);
  }
}
