// The renter's batches: many requests in one file, how far they are, what they cost, and their files.
import { api, field, inPages, input, keepTrying, latin, money, onSubmit, problemPlace, read, select, table, time, title, watch } from "./account.js";
import { make, once } from "./elements.js";
import { bar, download, halala, sureButton } from "./renter-parts.js";
import { number, t } from "./texts.js";

const ENDED = new Set(["failed", "completed", "expired", "cancelled"]);
const WATCH_SECONDS = 3;
const SHOWN_ERRORS = 10;
const at = (seconds) => (seconds ? time(new Date(seconds * 1000).toISOString()) : "–");

export async function batches(draw, live) {
  const problem = problemPlace();
  const list = make("div");

  async function show() {
    list.replaceChildren(
      await inPages(
        async (after) => {
          const answer = await read(`/v1/batches?limit=20${after ? `&after=${encodeURIComponent(after)}` : ""}`, () => live.is);
          return { items: answer.data, next: answer.has_more ? answer.last_id : undefined };
        },
        (found) => table(t("Batches"), [t("Batch"), t("State"), t("Lines"), t("Cost"), t("Created"), t("Files"), t("Actions")], found.map(row), t("No batches yet. Upload a file with a request on each line, in the form of OpenAI's batches.")),
      ),
    );
  }

  function row(each) {
    const counts = each.request_counts ?? {};
    const done = Number(counts.completed ?? 0) + Number(counts.failed ?? 0);
    const lines = bar(t("{failed} failed", { failed: number(counts.failed ?? 0) }), done, Number(counts.total ?? 0), [number(done), " / ", number(counts.total ?? 0)]);
    const content = (id) => `/v1/files/${encodeURIComponent(id)}/content`;
    const links = [each.output_file_id && download(content(each.output_file_id), t("Answers")), each.error_file_id && download(content(each.error_file_id), t("Errors"))].filter(Boolean);
    const end = ENDED.has(each.status) || each.status === "cancelling" ? "" : sureButton(t("Cancel"), t("Really cancel?"), problem, async () => {
      await api("POST", `/v1/batches/${encodeURIComponent(each.id)}/cancel`, {});
      await show();
    }, { class: "small danger", "aria-label": t("Cancel {name}", { name: each.id }) });
    return [latin(each.id), make("div", {}, stateBadge(each), faults(each)), lines, money(each.charged_micro_halala), at(each.created_at), links.length ? make("div", { class: "buttons" }, ...links) : "–", end];
  }

  watch(live, () => WATCH_SECONDS, async () => {
    if (!list.querySelector(":focus") && list.querySelector(".badge.queued, .badge.running")) await show();
  });
  draw(title(t("Batches"), make("a", { class: "button", href: "/docs/guides/renters#batches" }, t("How a file looks"))), newBatch(show), problem, make("section", { class: "card" }, list));
  await show();
}

function stateBadge({ status }) {
  const names = { validating: t("is being checked"), failed: t("failed"), in_progress: t("running"), finalizing: t("running"), completed: t("completed"), expired: t("its time ended"), cancelling: t("being cancelled"), cancelled: t("cancelled") };
  const looks = { validating: "queued", in_progress: "running", finalizing: "running", cancelling: "queued", completed: "completed", failed: "failed", expired: "failed" };
  return make("span", { class: `badge ${looks[status] ?? ""}` }, names[status] ?? status);
}

function faults({ errors, stop_reason: reason }) {
  const stops = { batch_expired: "", batch_cancelled: "", budget_reached: t("Its budget was reached."), insufficient_balance: t("The wallet was empty."), account_closed: "" };
  const found = errors?.data ?? [];
  if (!found.length) return stops[reason] ? make("p", { class: "hint" }, stops[reason]) : "";
  const lines = found.slice(0, SHOWN_ERRORS).map((each) => make("li", {}, each.line ? `${t("Line {line}", { line: number(each.line) })}: ` : "", each.message));
  return make("details", {}, make("summary", {}, t("What is wrong: {count}", { count: number(found.length) })), make("ul", { class: "reasons" }, ...lines));
}

function newBatch(done) {
  const file = make("input", { type: "file", id: "lines", required: true, accept: ".jsonl,.ndjson,application/jsonl" });
  const endpoint = select("endpoint", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"].map((path) => [path, path]));
  endpoint.dir = "ltr";
  const most = input("batch-most", { type: "number", dir: "ltr", min: "0.01", step: "0.01" });
  const problem = problemPlace();
  const said = make("p", { class: "hint", role: "status" });
  const form = make("form", { class: "stack" }, field(t("File"), file, t("A request on each line (JSONL), at most 50,000 lines and 200 MB.")), make("div", { class: "row" }, field(t("Kind of requests"), endpoint), field(t("SAR at most"), most, t("Empty: no limit but the wallet."))), problem, said, make("button", { class: "primary" }, t("Start the batch")));
  let sent; // the file that was sent already, so that a second try does not send it again
  let key = once();
  for (const each of [file, endpoint, most]) each.addEventListener("input", () => (key = once()));
  onSubmit(form, problem, async () => {
    const [chosen] = file.files;
    try {
      if (sent?.chosen !== chosen) {
        said.textContent = t("The file is being sent…");
        sent = { chosen, id: (await keepTrying(() => api("POST", "/v1/files", formOf(chosen)))).id };
      }
      said.textContent = t("The batch is being created…");
      const metadata = most.value ? { max_cost_halala: String(halala(most.value)) } : {};
      const body = { input_file_id: sent.id, endpoint: endpoint.value, completion_window: "24h", metadata };
      await keepTrying(() => api("POST", "/v1/batches", body, { headers: { "idempotency-key": key } }));
    } finally {
      said.textContent = "";
    }
    form.reset();
    sent = undefined;
    await done();
  });
  return make("details", { class: "card", open: true }, make("summary", {}, t("New batch")), form);
}

function formOf(file) {
  const form = new FormData();
  form.append("purpose", "batch");
  form.append("file", file, file.name);
  return form;
}
