// The form for a new job of each kind, with what it would cost beside it.
import { api, field, figure, input, keepTrying, money, onSubmit, read, Refused, select } from "./account.js";
import { make, once } from "./elements.js";
import { bar } from "./renter-parts.js";
import { number, t } from "./texts.js";
import { kindName, standingName } from "./words.js";

const QUOTE_AFTER_MS = 400;
const CONTAINERS = ["custom_container", "training", "rendering", "benchmark"];
const LONGEST = 1_000_000;
const MOST_INPUTS = 100;
// What was typed stays while other views are shown.
const kept = {};
let keptInputs = [];

/** `resumed` is the job whose files the new one goes on from. */
export async function submitForm(draw, live, resumed) {
  const wanted = () => live.is;
  const [{ data: models }, { inputs: data }] = await Promise.all([read("/v1/models", wanted), read(`/inputs?page_size=${MOST_INPUTS}`, wanted)]);
  const kind = select("kind", ["llm-inference", "embeddings", "image_generation", "custom_container", "training", "rendering", "benchmark"].map((each) => [each, kindName(each)]));
  const list = make("datalist", { id: "models" }, ...models.map(({ id }) => make("option", { value: id })));
  const model = input("model", { dir: "ltr", list: "models", maxlength: "300", value: models[0]?.id ?? "" });
  const prompt = make("textarea", { id: "prompt", dir: "auto", maxlength: String(LONGEST) });
  const tokens = input("max-tokens", { type: "number", dir: "ltr", min: "1", max: "1000000", value: "256" });
  const size = input("image-size", { dir: "ltr", maxlength: "20", placeholder: "1024x1024", pattern: "[0-9]+x[0-9]+" });
  const image = input("image", { dir: "ltr", maxlength: "500", placeholder: "docker.io/library/python:3.12", spellcheck: "false" });
  const command = make("textarea", { id: "command", dir: "ltr", spellcheck: "false", rows: "3" });
  const env = make("textarea", { id: "env", dir: "ltr", spellcheck: "false", rows: "2", placeholder: "NAME=value" });
  const gpu = input("gpu", { dir: "ltr", maxlength: "200", placeholder: "RTX 4090", spellcheck: "false" });
  const vram = input("vram", { type: "number", dir: "ltr", min: "0", max: "100000", step: "1" });
  const resume = input("resume", { dir: "ltr", maxlength: "100", spellcheck: "false", placeholder: "job-…" });
  const minutes = input("minutes", { type: "number", dir: "ltr", min: "0.1", max: "1440", step: "0.1", value: "3", required: true });
  const most = input("most-cost", { type: "number", dir: "ltr", min: "0.01", step: "0.01" });
  const provider = input("provider", { type: "number", dir: "ltr", min: "1", step: "1" });
  const standing = select("standing", [["", t("the best that is there")], ...["new", "proven", "trusted"].map((each) => [each, standingName(each)])]);
  const fields = { kind, model, prompt, tokens, size, image, command, env, gpu, vram, resume, minutes, most, provider, standing };
  for (const [name, each] of Object.entries(fields)) if (kept[name] !== undefined) each.value = kept[name];
  if (resumed) {
    if (!CONTAINERS.includes(kind.value)) kind.value = "training";
    resume.value = resumed;
  }
  const wait = make("input", { type: "checkbox", id: "wait", checked: kept.wait ?? true });
  const problem = make("p", { class: "wrong", role: "alert", hidden: true });
  const inputs = inputRows(data.filter((each) => each.status === "ready"), changed);
  const named = (id, ...parts) => make("div", { id }, ...parts);
  const ofModels = make("div", {}, list, field(t("Model"), model), field(t("Prompt"), prompt), named("tokens-field", field(t("Tokens at most"), tokens)), named("size-field", field(t("Width and height"), size, t("Empty: as the model server has it."))));
  const ofContainers = make("div", {}, field(t("Image"), image, t("Each provider decides which images it runs.")), field(t("Command"), command, t("One argument on each line. Empty: the image's own command.")), inputs.element, make("details", {}, make("summary", {}, t("More about the container")), make("div", { class: "inner" }, make("div", { class: "row" }, field(t("GPU model"), gpu), field(t("GPU memory in GB"), vram)), field(t("Environment"), env, t("A variable on each line. The provider can read them: send no secrets.")), field(t("Go on from the files of this job"), resume, t("They lie in {folder}.", { folder: "/input/resume" })))));
  const more = make("details", {}, make("summary", {}, t("Where it runs")), make("div", { class: "inner row" }, field(t("Only this provider"), provider, t("Its number. Empty: the market chooses.")), field(t("Standing at least"), standing)));
  const form = make("form", { class: "stack" }, field(t("Kind of job"), kind), ofModels, ofContainers, make("div", { class: "row" }, field(t("Minutes at most"), minutes), field(t("SAR at most"), most, t("Empty: the price times the time."))), more, make("div", { class: "checks" }, make("label", { for: "wait" }, wait, t("Wait until a provider can run it"))), problem, make("button", { class: "primary" }, t("Submit the job")));
  const quote = make("div", { role: "status" });
  let timer;
  let key = once();

  function body() {
    const asked = { job_type: kind.value, duration_minutes: Number(minutes.value) };
    if (CONTAINERS.includes(kind.value)) addContainer(asked);
    else {
      asked.params = { model: model.value.trim(), prompt: prompt.value };
      if (kind.value === "llm-inference" && tokens.value) asked.params.max_tokens = Number(tokens.value);
      if (kind.value === "image_generation" && size.value.trim()) asked.params.image_size = size.value.trim();
    }
    if (most.value) asked.max_cost_halala = Math.round(Number(most.value) * 100);
    if (provider.value) asked.provider_id = Number(provider.value);
    else if (standing.value) asked.min_standing = standing.value;
    if (wait.checked) asked.wait_for_supply = true;
    return asked;
  }

  function addContainer(asked) {
    asked.container_spec = { image: image.value.trim() };
    const words = command.value.split("\n").filter((line) => line);
    if (words.length) asked.container_spec.command = words;
    const variables = env.value.split("\n").filter((line) => line.trim()).map((line) => [line.split("=", 1)[0].trim(), line.slice(line.split("=", 1)[0].length + 1)]);
    if (variables.length) asked.container_spec.env = Object.fromEntries(variables);
    if (gpu.value.trim()) asked.gpu_requirements = { gpu_model: gpu.value.trim() };
    if (vram.value) asked.gpu_requirements = { ...asked.gpu_requirements, min_vram_gb: Number(vram.value) };
    if (inputs.chosen().length) asked.inputs = inputs.chosen();
    if (resume.value.trim()) asked.resume_from = resume.value.trim();
  }

  function isWhole() {
    return CONTAINERS.includes(kind.value) ? image.value.trim() : model.value.trim() && prompt.value.trim();
  }

  function changed() {
    for (const [name, each] of Object.entries(fields)) kept[name] = each.value;
    kept.wait = wait.checked;
    key = once();
    const isContainer = CONTAINERS.includes(kind.value);
    ofModels.hidden = isContainer;
    ofContainers.hidden = !isContainer;
    form.querySelector("#tokens-field").hidden = kind.value !== "llm-inference";
    form.querySelector("#size-field").hidden = kind.value !== "image_generation";
    model.required = prompt.required = !isContainer;
    image.required = isContainer;
    clearTimeout(timer);
    timer = setTimeout(showQuote, QUOTE_AFTER_MS);
  }

  let asking = 0;
  async function showQuote() {
    const mine = ++asking;
    const isWanted = () => live.is && mine === asking;
    if (!isWhole() || !minutes.checkValidity()) {
      quote.replaceChildren(make("p", { class: "hint" }, t("Fill in the form, and its price appears here.")));
      return;
    }
    try {
      const answer = await keepTrying(() => api("POST", "/jobs/quote", body()), isWanted);
      if (isWanted()) quote.replaceChildren(...quoteParts(answer, most.value));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (isWanted()) quote.replaceChildren(make("p", { class: "wrong" }, error.message));
    }
  }

  live.whenLeft.push(() => clearTimeout(timer));
  form.addEventListener("input", changed);
  onSubmit(form, problem, async () => {
    const [asked, mine] = [body(), key];
    const { job } = await keepTrying(() => api("POST", "/jobs/submit", asked, { headers: { "idempotency-key": mine } }), () => live.is);
    for (const name of ["prompt", "resume"]) delete kept[name];
    keptInputs = [];
    location.hash = `#job/${encodeURIComponent(job.job_id)}`;
  });
  draw(make("h1", {}, t("New job")), make("div", { class: "pair" }, make("section", { class: "card" }, form), make("section", { class: "card sticky", "aria-labelledby": "quote-title" }, make("h2", { id: "quote-title" }, t("What it costs")), quote)));
  changed();
  await showQuote();
}

/** The data of a job: which of the account's files, and where each lies below /input. */
function inputRows(ready, changed) {
  const rows = make("div");
  const add = make("button", { type: "button", class: "small" }, t("Add data"));
  let count = 0;

  function row(given = {}) {
    const at = (count += 1);
    const which = select(`input-${at}`, ready.map((each) => [each.input_id, each.name]));
    if (ready.some((each) => each.input_id === given.input_id)) which.value = given.input_id;
    const path = input(`path-${at}`, { dir: "ltr", maxlength: "512", spellcheck: "false", placeholder: "data", value: given.path });
    const unpack = make("input", { type: "checkbox", id: `unpack-${at}`, checked: given.unpack ?? /\.(tar|tgz|tar\.gz)$/.test(which.selectedOptions[0]?.textContent ?? "") });
    const drop = make("button", { type: "button", class: "small", "aria-label": t("Remove data {number}", { number: at }) }, t("Remove"));
    const element = make("fieldset", { class: "data" }, make("legend", {}, t("Data {number}", { number: at })), field(t("File"), which), field(t("Where below /input"), path), make("div", { class: "checks" }, make("label", { for: unpack.id }, unpack, t("Unpack it"))), drop);
    element.read = () => ({ input_id: which.value, ...(path.value.trim() ? { path: path.value.trim() } : {}), ...(unpack.checked ? { unpack: true } : {}) });
    drop.addEventListener("click", () => {
      element.remove();
      keep();
      changed();
      add.focus();
    });
    rows.append(element);
  }

  const chosen = () => [...rows.children].map((each) => each.read());
  const keep = () => (keptInputs = chosen());
  for (const each of keptInputs) row(each);
  rows.addEventListener("input", keep);
  add.addEventListener("click", () => {
    row();
    keep();
    changed();
    rows.lastChild.querySelector("select").focus();
  });
  const hint = ready.length ? add : make("p", { class: "hint" }, t("To give the job data, upload it first:"), " ", make("a", { href: "#files" }, t("Files")));
  return { element: make("div", { class: "field" }, make("p", { class: "label" }, t("Data")), rows, hint), chosen };
}

function quoteParts(answer, cap) {
  const likely = answer.likely_micro_halala;
  const figures = [figure(t("Held at submission"), money(answer.hold_micro_halala), t("The most that it can cost; the rest returns."))];
  if (likely !== undefined) figures.unshift(figure(t("Likely cost"), money(likely)));
  const share = likely === undefined ? [] : [bar(cap ? t("Likely cost against your limit") : t("Likely cost against what is held"), likely, answer.hold_micro_halala, [money(likely), " / ", money(answer.hold_micro_halala)])];
  return [make("dl", { class: "figures" }, ...figures), ...share, make("p", {}, answer.able ? t("Providers that can run it: {count}", { count: number(answer.able) }) : t("No connected provider can run it now.")), ...priceParts(answer.price ?? {})];
}

function priceParts(price) {
  const lines = [];
  if (price.sar_per_hour) lines.push(t("SAR {price} per hour", { price: price.sar_per_hour }));
  if (price.sar_per_million_input_tokens) lines.push(t("SAR {price} per million tokens in", { price: price.sar_per_million_input_tokens }));
  if (price.sar_per_million_output_tokens) lines.push(t("SAR {price} per million tokens out", { price: price.sar_per_million_output_tokens }));
  return lines.map((line) => make("p", { class: "hint" }, line));
}
