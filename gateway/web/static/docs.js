// The reference page: search, the current place in the contents, and the parts that need JavaScript.
import { startConsole } from "./console.js";
import { addCopyButtons, byId, showOrigin } from "./elements.js";
import { t } from "./texts.js";

showOrigin();
addCopyButtons(t);
startSearch();
startPlaces();
if (matchMedia("(max-width: 820px)").matches) document.querySelector(".contents .list").open = false;

const choose = await startConsole();
for (const button of document.querySelectorAll("[data-try]")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    choose(button.dataset.try);
    byId("try").scrollIntoView({ block: "start" });
    byId("endpoint").focus({ preventScroll: true });
  });
}
chooseFromAddress();
addEventListener("hashchange", chooseFromAddress);
document.documentElement.dataset.ready = "";

function chooseFromAddress() {
  const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (place?.matches("article")) choose(place.id);
  if (place?.matches("details")) place.open = true;
}

function startSearch() {
  const field = byId("search");
  const articles = [...document.querySelectorAll("article[data-search]")];
  const list = document.querySelector(".contents .list");
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    for (const article of articles) {
      const matches = words.every((word) => article.dataset.search.includes(word));
      article.hidden = !matches;
      document.querySelector(`[data-of="${article.id}"]`).hidden = !matches;
      found += matches;
    }
    for (const group of document.querySelectorAll("[data-group]")) {
      group.hidden = !group.querySelector("article:not([hidden]), li:not([hidden])");
    }
    if (words.length) list.open = true;
    byId("found").textContent = !words.length ? "" : found ? t("{found} of {all} endpoints", { found, all: articles.length }) : t("No endpoint matches.");
  });
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      field.value = "";
      field.dispatchEvent(new Event("input"));
    }
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      field.focus();
    }
  });
}

/** Marks in the list what is on the screen. */
function startPlaces() {
  const links = new Map([...document.querySelectorAll(".contents li a")].map((link) => [link.hash.slice(1), link]));
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
