// The documents: search, tabs of code, the current place in the contents, and the form where a page has it.
import { addCopyButtons, byId, make, showOrigin, usable } from "./elements.js";
import { startTabs } from "./tabs.js";
import { mark, t } from "./texts.js";

const LONGEST = 30;
const KINDS = { guide: mark("Guide"), endpoint: mark("Endpoint"), error: mark("Error"), object: mark("Object"), event: mark("Event") };
const language = document.documentElement.lang;
let index;

if (!(await movedOn())) {
  showOrigin();
  addCopyButtons(t);
  startTabs(t);
  startSearch();
  startPlaces();
  if (matchMedia("(max-width: 820px)").matches) document.querySelector(".contents .list").open = false;
  if (byId("try")) await startForm();
  openFromAddress();
  addEventListener("hashchange", openFromAddress);
  usable();
}

function loadIndex() {
  index ??= fetch(`/docs/search.json?lang=${language}`).then(
    (answer) => (answer.ok ? answer.json() : Promise.reject(new Error(String(answer.status)))),
  );
  index.catch(() => (index = undefined)); // the next key tries again
  return index;
}

/** Addresses from the time when all was one page: their place has a page of its own now. */
async function movedOn() {
  const place = location.hash.slice(1);
  if (location.pathname !== "/docs" || !place || document.getElementById(decodeURIComponent(place))) return false;
  const group = document.querySelector(`[data-group="${CSS.escape(place)}"]`);
  const kept = ["events", "errors", "objects"].includes(place) ? `/docs/${place}` : undefined;
  const found = kept ?? group?.pathname ?? (await loadIndex().catch(() => [])).find((entry) => entry.address.endsWith(`#${place}`))?.address;
  if (!found) return false;
  location.replace(inLanguage(found));
  return true;
}

function inLanguage(address, code = language) {
  const [path, place] = address.split("#");
  return `${path}?lang=${code}${place ? `#${place}` : ""}`;
}

async function startForm() {
  const { startConsole } = await import("./console.js"); // most pages have no form
  const choose = await startConsole();
  const first = document.querySelector("[data-try]");
  if (first) choose(first.dataset.try);
  for (const button of document.querySelectorAll("[data-try]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      choose(button.dataset.try);
      byId("try").scrollIntoView({ block: "start" });
      byId("endpoint").focus({ preventScroll: true });
    });
  }
  const chooseFromAddress = () => {
    const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (place?.matches("article")) choose(place.id);
  };
  chooseFromAddress();
  addEventListener("hashchange", chooseFromAddress);
}

function openFromAddress() {
  const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (place?.matches("details")) place.open = true;
}

function startSearch() {
  const field = byId("search");
  const list = document.querySelector(".contents .list");
  const results = byId("results");
  field.addEventListener("focus", () => loadIndex().catch(() => {}));
  field.addEventListener("input", async () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    results.hidden = !words.length;
    list.hidden = Boolean(words.length);
    if (!words.length) return (byId("found").textContent = "");
    const typed = field.value;
    let entries;
    try {
      entries = await loadIndex();
    } catch {
      byId("found").textContent = t("The search cannot be loaded now. Type again to retry.");
      return;
    }
    if (field.value !== typed) return; // a newer key has its own turn
    const inTitle = (entry) => words.every((word) => entry.title.toLowerCase().includes(word));
    const all = entries.filter((entry) => words.every((word) => entry.words.includes(word)));
    all.sort((a, b) => inTitle(b) - inTitle(a));
    byId("found").textContent = all.length ? t("{count} found", { count: all.length }) : t("Nothing matches.");
    results.replaceChildren(...all.slice(0, LONGEST).map(result));
  });
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter") results.querySelector("a")?.click();
    if (event.key !== "Escape") return;
    field.value = "";
    field.dispatchEvent(new Event("input"));
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      field.focus();
    }
  });
}

function result({ kind, title, address, lang }) {
  const name = make("bdi", { lang: lang ?? false }, title);
  return make("li", {}, make("a", { href: inLanguage(address, lang) }, name, make("small", {}, lang ? `${t(KINDS[kind])} · ${t("in English")}` : t(KINDS[kind]))));
}

/** Marks in the list what is on the screen. */
function startPlaces() {
  const links = new Map([...document.querySelectorAll(".contents .inside a")].map((link) => [link.hash.slice(1), link]));
  const seen = new Set();
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) seen.add(target.id);
        else seen.delete(target.id);
      }
      const first = [...links.keys()].find((id) => seen.has(id));
      for (const [id, link] of links) {
        if (id === first) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    },
    { rootMargin: "-80px 0px -60% 0px" },
  );
  for (const article of document.querySelectorAll("article")) observer.observe(article);
}
