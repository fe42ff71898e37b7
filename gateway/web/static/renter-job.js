// One job of a renter: its way as steps, its cost against what was held, live output and log, files, a dispute.
import { api, badge, card, field, figure, latin, money, onClick, onSubmit, pause, pauseAfter, problemPlace, read, say, table, time } from "./account.js";
import { make } from "./elements.js";
import { disputeState } from "./renter-disputes.js";
import { bar, bytes, download, FINAL, held } from "./renter-parts.js";
import { number, t } from "./texts.js";
import { failureName, kindName, obstacleName, outcomeName, waitName } from "./words.js";

const WAITS = new Set(["queued", "pending"]);
const SHOWN_CHARACTERS = 200_000;
const SHOWN_ATTEMPTS = 8;
const CHAT_BEGINS = '{"choices":';
const CONTAINERS = new Set(["custom_container", "training", "rendering", "benchmark"]);
const EXPLAIN_SECONDS = 10;
const MICROS_PER_SAR = 100_000_000;

export async function job(draw, live, id) {
  const path = `/jobs/${encodeURIComponent(id)}`;
  let now = (await read(path, () => live.is)).job;
  const head = make("div", { class: "head" });
  const facts = make("dl", { class: "figures" });
  const spent = make("div", { class: "card" });
  const way = make("div", { role: "status" });
  const output = make("pre", { class: "output", dir: "auto", tabindex: "0", role: "group", "aria-label": t("Output") });
  const log = make("pre", { class: "output log", dir: "ltr", tabindex: "0", role: "group", "aria-label": t("Log") });
  const files = make("div");
  const dispute = make("div");
  const problem = problemPlace();
  const actions = make("div", { class: "buttons" });
  const state = make("span");
  const isContainer = CONTAINERS.has(now.job_type);
  const end = (body) => async () => show((await api("POST", `${path}/cancel`, body)).job);
  const keep = onClick(make("button", { type: "button" }, t("Cancel and keep the files")), problem, end({ keep_files: true }));
  const cancel = onClick(make("button", { type: "button", class: "danger" }, t("Cancel the job")), problem, end({}));
  const again = make("a", { class: "button", href: `#submit/${encodeURIComponent(id)}` }, t("Go on from its files"));
  actions.append(state, keep, cancel, again);
  head.append(make("h1", {}, latin(id)), actions);

  function show(found) {
    now = found;
    const ended = FINAL.has(found.status);
    state.replaceChildren(badge(found.status));
    cancel.hidden = ended || found.cancel_requested;
    keep.hidden = cancel.hidden || !isContainer || found.status !== "running";
    again.hidden = !(ended && found.artifact_count);
    const tokens = found.usage?.completion_tokens;
    facts.replaceChildren(
      figure(t("Model"), found.model ? latin(found.model) : kindName(found.job_type)),
      figure(t("Billed time"), t("{seconds} s", { seconds: number(found.billing?.billed_seconds ?? 0, { maximumFractionDigits: 1 }) })),
      figure(t("Tokens of the answer"), tokens === undefined ? "–" : number(tokens), found.usage?.tokens_per_second ? t("{count} a second", { count: number(found.usage.tokens_per_second, { maximumFractionDigits: 1 }) }) : ""),
    );
    showCost();
    if (ended) dispute.replaceChildren(disputePart(found, path, async () => show((await read(path, () => live.is)).job)));
  }

  function showCost() {
    const most = held(now);
    if (FINAL.has(now.status)) {
      const cost = now.billing?.actual_cost_micro_halala;
      spent.replaceChildren(bar(t("Cost"), cost ?? 0, most, [money(cost), " ", t("of at most"), " ", money(most)]));
      return;
    }
    const soFar = costSoFar(now, most);
    const words = soFar === undefined ? [t("at most"), " ", money(most)] : [t("about"), " ", money(soFar), " ", t("of at most"), " ", money(most)];
    spent.replaceChildren(bar(t("Cost so far"), soFar ?? 0, most, words));
  }

  async function explain() {
    const answer = await api("GET", `${path}/why`);
    if (!live.is) return;
    const next = make("div", {}, steps(now, answer), ...considered(answer));
    // Only news is announced, and what somebody opened stays open.
    if (next.textContent !== way.textContent) way.replaceChildren(next);
  }

  async function explainAgain() {
    while (live.is && !FINAL.has(now.status)) {
      await pause(EXPLAIN_SECONDS);
      if (live.is && WAITS.has(now.status)) await explain().catch(() => {});
    }
  }

  const report = (error) => {
    if (live.is) say(problem, error);
  };
  show(now);
  await explain().catch(report);
  const timer = setInterval(() => now.status === "running" && showCost(), 1000);
  live.whenLeft.push(() => clearInterval(timer));
  draw(head, problem, spent, facts, card(t("How it goes"), way), card(t("Output"), output), make("details", { class: "card" }, make("summary", {}, t("Log")), log), files, dispute);
  explainAgain();
  follow(path, live, { output, log, files, show, explain, say: report });
}

/** What a running job has cost by its time; undefined if tokens are paid for, or it does not run. */
function costSoFar({ price, started_at: started, status }, most) {
  if (!price?.sar_per_hour || !started || status !== "running") return undefined;
  const hours = Math.max(0, Date.now() - new Date(started)) / 3_600_000;
  return Math.min(hours * Number(price.sar_per_hour) * MICROS_PER_SAR, most);
}

/** The job's way so far as a list: what is done, where it is now, and how it ended. */
function steps(found, why) {
  const items = [[t("Submitted"), time(found.created_at), [], "done"]];
  const attempts = why.attempts ?? [];
  if (attempts.length > SHOWN_ATTEMPTS) items.push([t("{count} earlier offers", { count: number(attempts.length - SHOWN_ATTEMPTS) }), "", [], "done"]);
  for (const each of attempts.slice(-SHOWN_ATTEMPTS)) {
    const name = each.accepted_at ? t("Run {number} by provider {id}", { number: each.attempt, id: each.provider_id }) : t("Offered to provider {id}", { id: each.provider_id });
    items.push([name, time(each.started_at ?? each.accepted_at ?? each.offered_at), each.outcome ? [outcomeName(each.outcome), ...detail(each.detail)] : [], !each.outcome ? "now" : each.outcome === "succeeded" ? "done" : "bad"]);
  }
  if (found.status === "queued") {
    const place = why.queue_position ? t("Position {number} in the queue.", { number: number(why.queue_position) }) : "";
    const start = why.estimated_start_seconds ? t("It may start in about {seconds} s.", { seconds: number(why.estimated_start_seconds) }) : "";
    items.push([t("Waiting"), "", [waitName(why), " ", [place, start].filter(Boolean).join(" ")], "now"]);
  }
  if (FINAL.has(found.status)) items.push([{ completed: t("Completed"), failed: t("Failed"), cancelled: t("Cancelled") }[found.status], time(found.ended_at), found.failure_reason ? [failureName(found.failure_reason), ...detail(found.failure_message)] : [], found.status === "completed" ? "done" : "bad"]);
  else if (found.cancel_requested) items.push([t("Being cancelled"), "", [], "now"]);
  return make("ol", { class: "way" }, ...items.map(([name, when, text, kind]) => make("li", { class: kind, "aria-current": kind === "now" ? "step" : undefined }, make("strong", {}, name), " ", make("span", { class: "hint" }, when), text.length ? make("p", {}, ...text) : "")));
}

/** What a program wrote about it, which is in no language of the page. */
const detail = (text) => (text ? [": ", make("bdi", {}, text)] : []);

function considered({ providers = [] }) {
  if (!providers.length) return [];
  const rows = providers.map((each) => [latin(each.provider_id), obstacleName(each)]);
  return [make("details", {}, make("summary", {}, t("Providers that were considered: {count}", { count: number(providers.length) })), table(t("Providers"), [t("Provider"), t("What keeps it away")], rows, ""))];
}

// --- the charge and its dispute ---

function disputePart(found, path, done) {
  if (found.dispute) return card(t("Dispute"), ...disputeState(found.dispute));
  if (!(found.billing?.actual_cost_micro_halala > 0)) return "";
  const reason = make("textarea", { id: "reason", dir: "auto", required: true, maxlength: "2000" });
  const problem = problemPlace();
  const form = make("form", { class: "stack" }, field(t("What is wrong with the answer, and what you asked for"), reason, t("The provider and the operator read it. The operator does not see your prompt.")), problem, make("button", { class: "danger" }, t("Dispute the charge")));
  onSubmit(form, problem, async () => {
    await api("POST", `${path}/dispute`, { reason: reason.value.trim() });
    await done();
  });
  return make("details", { class: "card" }, make("summary", {}, t("Dispute the charge of this job")), make("p", { class: "hint" }, t("An operator decides, once, and can refund the charge or a part of it.")), form);
}

// --- what it writes ---

/** Shows a job's events as they come. The browser goes on by itself after a broken connection. */
function follow(path, live, { output, log, files, show, explain, say: report }, tries = 0) {
  const source = new EventSource(`/api/dc1${path}/events`);
  live.whenLeft.push(() => source.close());
  const on = (name, work) => source.addEventListener(name, async (event) => {
    tries = 0;
    try {
      await work(JSON.parse(event.data));
    } catch (error) {
      report(error);
    }
  });
  const write = (place, { text }) => {
    const isAtEnd = place.scrollTop + place.clientHeight >= place.scrollHeight - 4;
    place.append(text);
    if (place.textContent.length > SHOWN_CHARACTERS) place.textContent = `… ${place.textContent.slice(-SHOWN_CHARACTERS)}`;
    if (isAtEnd) place.scrollTop = place.scrollHeight;
  };
  let chat = new ChatText();
  on("output", (event) => write(output, { text: chat.more(event.text) }));
  on("log", (event) => write(log, event));
  on("attempt", () => {
    chat = new ChatText();
    output.replaceChildren();
    log.replaceChildren();
  });
  on("file", (event) => {
    const isImage = /^image\/(?!svg)/.test(event.content_type);
    output.replaceChildren(isImage ? make("img", { src: event.path, alt: t("Output") }) : make("a", { href: event.path }, event.content_type));
  });
  on("state", async () => {
    show((await read(path, () => live.is)).job);
    await explain();
  });
  on("end", async (event) => {
    source.close();
    show(event.job);
    if (event.texts_removed) output.textContent = t("The output was removed.");
    if (event.job.artifact_count) files.replaceChildren(card(t("Files"), await fileTable(path, live)));
    await explain();
  });
  source.onerror = async () => {
    if (source.readyState !== EventSource.CLOSED || !live.is) return;
    // Refused, so the browser does not ask again: the log-in may have ended, or the server is away.
    await pauseAfter(tries);
    try {
      await read(path, () => live.is);
    } catch (error) {
      report(error);
      return;
    }
    if (!live.is) return;
    output.replaceChildren();
    log.replaceChildren();
    follow(path, live, { output, log, files, show, explain, say: report }, tries + 1);
  };
}

/** The text of an answer in the form of OpenAI's chunks, one on a line; any other output passes as it is. */
class ChatText {
  #rest = "";
  #isChat;

  more(text) {
    this.#isChat ??= (this.#rest + text).startsWith(CHAT_BEGINS);
    if (!this.#isChat) return text;
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop();
    return lines.map(contentOf).join("");
  }
}

function contentOf(line) {
  try {
    return JSON.parse(line).choices?.[0]?.delta?.content ?? "";
  } catch {
    return `${line}\n`;
  }
}

async function fileTable(path, live) {
  const { artifacts } = await read(`${path}/artifacts`, () => live.is);
  const address = (file) => `/api/dc1${path}/artifacts/${file.name.split("/").map(encodeURIComponent).join("/")}`;
  const rows = artifacts.map((file) => [download(address(file), latin(file.name)), bytes(file.size_bytes), time(file.expires_at)]);
  return table(t("Files"), [t("File"), t("Size"), t("Kept until")], rows, t("No files."));
}
