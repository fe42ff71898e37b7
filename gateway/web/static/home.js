// The market: live providers and the models that they serve, from the public routes. The server filters and sorts.
import { addCopyButtons, byId, make, showOrigin, usable } from "./elements.js";
import { number, t } from "./texts.js";
import { kindName, standingName } from "./words.js";

const SECONDS_BETWEEN = 15;
const FEW = 6;
const MANY = 200; // the most that one page of the API has
const KINDS = ["llm-inference", "embeddings", "image_generation", "training", "rendering", "benchmark", "custom_container"];

const count = document.querySelector(".live-count");
const form = byId("filters");
const [all, allModels] = [byId("all"), byId("all-models")];
let [timer, wanted, shown, shownModels] = [undefined, 0, FEW, FEW];

showOrigin();
addCopyButtons(t);
form.hidden = false;
byId("job-type").append(...KINDS.map((kind) => make("option", { value: kind }, kindName(kind))));
form.addEventListener("input", settle);
form.addEventListener("submit", (event) => event.preventDefault());
all.addEventListener("click", () => {
  shown = shown === FEW ? MANY : FEW;
  refresh();
});
allModels.addEventListener("click", () => {
  shownModels = shownModels === FEW ? Infinity : FEW;
  refresh();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) refresh();
});
settle();

function settle() {
  const bySpeed = document.querySelector("[data-needs-model]");
  bySpeed.disabled = !byId("model").value;
  if (bySpeed.disabled && bySpeed.selected) byId("sort").value = "price";
  refresh();
}

async function load(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(String(answer.status));
  return answer.json();
}

async function refresh() {
  clearTimeout(timer);
  const mine = ++wanted;
  const query = new URLSearchParams({ page_size: String(shown) });
  for (const { name, value } of form.elements) if (name && value) query.set(name, value);
  const model = byId("model").value;
  try {
    const [offers, served, prices] = await Promise.all([
      load(`/api/dc1/renters/available-providers?${query}`),
      load("/v1/models"),
      load("/api/dc1/prices"),
    ]);
    if (mine !== wanted) return; // newer filters have their own answer
    showOffers(offers, model);
    showModels(served.data, prices.prices, offers.providers);
    usable();
  } catch {
    if (mine !== wanted) return;
    count.textContent = t("The list cannot be loaded now; the page tries again automatically.");
  }
  if (!document.hidden) timer = setTimeout(refresh, SECONDS_BETWEEN * 1000);
}

function showOffers({ providers, total }, model) {
  const isFiltered = ["job-type", "model", "memory"].some((id) => byId(id).value);
  count.textContent = total ? t("{count} live now", { count: number(total) }) : t("No provider is live at the moment.");
  if (isFiltered) count.textContent = t("{count} match", { count: number(total) });
  byId("nothing").hidden = !isFiltered || total > 0;
  byId("offers").hidden = !providers.length;
  byId("providers").replaceChildren(...providers.map((provider) => offer(provider, model)));
  all.hidden = total <= FEW;
  all.textContent = shown === FEW ? t("Show all {count}", { count: number(Math.min(total, MANY)) }) : t("Show fewer");
}

function offer(provider, model) {
  const prices = provider.prices ?? [];
  const hours = prices.filter(({ price }) => price?.sar_per_hour).map(({ price }) => Number(price.sar_per_hour));
  const ofModels = prices.filter((entry) => entry.model && (!model || entry.model === model));
  const tokens = ofModels.filter(({ price }) => price?.sar_per_million_output_tokens).map(({ price }) => Number(price.sar_per_million_output_tokens));
  const speeds = ofModels.map((entry) => entry.tokens_per_second).filter(Boolean);
  const standing = provider.standing?.standing;
  const kinds = [...new Set(prices.map((entry) => entry.job_type).filter(Boolean))].map(kindName);
  const name = make("small", {}, make("bdi", {}, provider.name), " · ", provider.accepting_jobs ? t("takes jobs") : t("takes no jobs now"));
  const share = provider.reliability;
  return make("tr", { role: "row" },
    make("th", { role: "rowheader", scope: "row" }, make("span", { class: provider.accepting_jobs ? "dot" : "dot waiting", "aria-hidden": "true" }), gpu(provider), name),
    cell(t("Memory"), provider.gpu_vram_mib ? figure(`${number(provider.gpu_vram_mib / 1024, { maximumFractionDigits: 0 })} GB`) : none()),
    cell(t("SAR per hour"), range(hours)),
    cell(t("SAR per 1M tokens"), range(tokens)),
    cell(t("Tokens per second"), speeds.length ? figure(number(Math.max(...speeds), { maximumFractionDigits: 0 })) : none(t("not measured"))),
    cell(t("Reliability"), share === undefined || share === null ? none(t("no jobs yet")) : figure(number(share, { style: "percent", maximumFractionDigits: 0 })),
      ...(provider.reliability_attempts ? [make("small", {}, t("of {count} jobs", { count: number(provider.reliability_attempts) }))] : [])),
    cell(t("Standing"), standing ? make("span", { class: standing }, standingName(standing)) : none()),
    cell(t("Kinds of jobs"), kinds.length ? kinds.join(t(", ")) : none()),
  );
}

/** What stands where there is no figure. */
const none = (text = "–") => make("span", { class: "none" }, text);

function cell(label, ...children) {
  return make("td", { role: "cell", "data-label": label }, ...children);
}

/** Figures and product names run left to right in both languages. */
function figure(text) {
  return make("bdi", { dir: "ltr" }, text);
}

function range(values) {
  if (!values.length) return none();
  const [low, high] = [Math.min(...values), Math.max(...values)].map((value) => number(value, { maximumFractionDigits: 4 }));
  return figure(low === high ? low : `${low}–${high}`);
}

/** A product name runs left to right in both languages; a sentence runs as its language does. */
function gpu({ gpu_count: gpus, gpu_model: model }) {
  if (!model) return make("span", {}, t("no GPU reported"));
  return figure(`${gpus > 1 ? `${number(gpus)} × ` : ""}${model}`);
}

function showModels(served, prices, providers) {
  const chosen = byId("model").value;
  const names = served.map((entry) => entry.id);
  const field = byId("model");
  const options = [...new Set([...names, ...(chosen ? [chosen] : [])])];
  if ([...field.options].slice(1).map((option) => option.value).join("\n") !== options.join("\n")) {
    while (field.options.length > 1) field.options[1].remove();
    field.append(...options.map((name) => make("option", { value: name }, name)));
    field.value = chosen;
  }
  const offered = providers.flatMap((provider) => provider.prices ?? []);
  byId("models-part").hidden = !served.length;
  byId("models").replaceChildren(...served.slice(0, shownModels).map((entry) => {
    const price = prices.find(({ model }) => model === entry.id)?.price ?? {};
    const speeds = offered.filter(({ model }) => model === entry.id).map((one) => one.tokens_per_second).filter(Boolean);
    return make("tr", { role: "row" },
      make("th", { role: "rowheader", scope: "row" }, figure(entry.id)),
      cell(t("Context, tokens"), entry.context_length ? figure(number(entry.context_length)) : none()),
      cell(t("SAR per 1M tokens read"), price.sar_per_million_input_tokens ? figure(price.sar_per_million_input_tokens) : t("paid by time")),
      cell(t("SAR per 1M tokens written"), price.sar_per_million_output_tokens ? figure(price.sar_per_million_output_tokens) : t("paid by time")),
      cell(t("Fastest, tokens per second"), speeds.length ? figure(number(Math.max(...speeds), { maximumFractionDigits: 0 })) : none(t("not measured"))),
    );
  }));
  allModels.hidden = served.length <= FEW;
  allModels.textContent = shownModels === FEW ? t("Show all {count}", { count: number(served.length) }) : t("Show fewer");
  if (names[0]) for (const place of document.querySelectorAll(".model")) place.textContent = names[0];
}
