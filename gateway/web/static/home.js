// The home page: lists the live providers from the public route, and refreshes while the page is visible.
import { addCopyButtons, byId, make, showOrigin } from "./elements.js";
import { number, t } from "./texts.js";

const SECONDS_BETWEEN = 15;
const SHOWN = 24;

showOrigin();
addCopyButtons(t);

const count = document.querySelector(".live-count");
const list = byId("providers");
let timer;

async function refresh() {
  clearTimeout(timer);
  try {
    const answer = await fetch(`/api/dc1/renters/available-providers?page_size=${SHOWN}`);
    if (!answer.ok) throw new Error(String(answer.status));
    show(await answer.json());
  } catch {
    count.textContent = t("The list cannot be loaded now; the page tries again automatically.");
  }
  if (!document.hidden) timer = setTimeout(refresh, SECONDS_BETWEEN * 1000);
}

function show({ providers, total }) {
  count.textContent = total
    ? t("{count} live now", { count: number(total) })
    : t("No provider is live at the moment.");
  list.replaceChildren(...providers.map(card));
  const model = providers.flatMap((provider) => provider.models)[0];
  if (model) for (const place of document.querySelectorAll(".model")) place.textContent = model;
}

function card(provider) {
  const rates = provider.rates_halala_per_minute ?? {};
  const rate = rates["llm-inference"];
  const lines = [
    make("h3", {}, make("span", { class: provider.accepting_jobs ? "dot" : "dot waiting", "aria-hidden": "true" }), make("bdi", {}, provider.name)),
    make("p", {}, gpu(provider)),
    make("p", {}, provider.accepting_jobs ? t("takes jobs") : t("takes no jobs now")),
  ];
  if (provider.models.length) lines.push(make("p", {}, make("bdi", { dir: "ltr" }, provider.models.slice(0, 3).join(", "))));
  if (rate) lines.push(make("p", { class: "rate" }, t("{rate} halala per minute for language models", { rate: number(rate) })));
  return make("li", {}, ...lines);
}

/** A product name runs left to right in both languages; a sentence runs as its language does. */
function gpu({ gpu_count: count, gpu_model: model, gpu_vram_mib: mib }) {
  if (!model) return t("no GPU reported");
  const gpus = count > 1 ? `${number(count)} × ` : "";
  const memory = mib ? ` · ${number(mib / 1024, { maximumFractionDigits: 0 })} GB` : "";
  return make("bdi", { dir: "ltr" }, `${gpus}${model}${memory}`);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) refresh();
});
refresh();
