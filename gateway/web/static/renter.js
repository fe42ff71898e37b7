// The renter's pages: the wallet and the list of jobs; each other view has a file of its own.
import { api, badge, card, field, figure, inPages, input, keepTrying, later, latin, money, onClick, onSubmit, problemPlace, read, say, select, startViews, table, time, title, watch } from "./account.js";
import { make, once } from "./elements.js";
import { FINAL, halala, held } from "./renter-parts.js";
import { t } from "./texts.js";
import { kindName } from "./words.js";

const WATCH_SECONDS = 5;
const PAGE = 50;

// --- wallet ---

async function wallet(draw, live) {
  const { renter, recent_jobs: recent } = await read("/renters/me", () => live.is);
  const again = () => wallet(draw, live);
  const isEmpty = !renter.balance_micro_halala && !renter.must_prove_email;
  draw(
    title(t("Wallet"), make("a", { class: "button primary", href: "#playground" }, t("Try a model"))),
    ...(renter.must_prove_email ? [proveForm(renter, again)] : []),
    make("dl", { class: "figures" }, figure(t("Available"), money(renter.balance_micro_halala)), figure(t("Held for open jobs"), money(renter.held_micro_halala), t("What a job does not cost comes back when it ends.")), figure(t("Spent so far"), money(renter.spent_micro_halala))),
    ...(isEmpty && !renter.can_top_up ? [make("p", { class: "notice" }, t("The wallet is empty. The operator of this market credits it."))] : []),
    ...(renter.can_top_up && !renter.must_prove_email ? [topUpForm(isEmpty, again)] : []),
    card(t("Newest jobs"), jobTable(recent.slice(0, 10), t("No jobs yet. Try a model in the playground, or submit a job."))),
  );
}

function topUpForm(isOpen, again) {
  const amount = input("amount", { type: "number", dir: "ltr", min: "1", max: "1000000", step: "0.01", required: true, value: "50" });
  const problem = problemPlace();
  const form = make("form", { class: "stack" }, field(t("Amount in SAR"), amount), problem, make("button", {}, t("Top up")));
  let key = once();
  amount.addEventListener("input", () => (key = once()));
  onSubmit(form, problem, async () => {
    const body = { amount_halala: halala(amount.value) };
    await keepTrying(() => api("POST", "/renters/topup", body, { headers: { "idempotency-key": key } }));
    key = once();
    await again();
  });
  return make("details", { class: "card", open: isOpen }, make("summary", {}, t("Top up the wallet")), make("p", { class: "hint" }, t("This market is a sandbox: its money is play money.")), form);
}

function proveForm(renter, again) {
  const code = input("proof", { dir: "ltr", required: true, maxlength: "100", spellcheck: "false", autocomplete: "one-time-code" });
  const problem = problemPlace();
  const sent = make("p", { class: "hint", role: "status" });
  const more = onClick(make("button", { type: "button" }, t("Send another code")), problem, async () => {
    await api("POST", "/accounts/verify-email/resend", {});
    sent.textContent = t("Another code is on its way.");
  });
  const form = make("form", { class: "stack" }, field(t("Code of the letter"), code), problem, sent, make("div", { class: "buttons" }, make("button", { class: "primary" }, t("Prove the address")), more));
  onSubmit(form, problem, async () => {
    await api("POST", "/accounts/verify-email", { code: code.value });
    await again();
  });
  return card(t("Prove your e-mail address"), make("p", {}, t("Jobs and top-ups need the code that was mailed to {email}.", { email: renter.email })), form);
}

// --- jobs ---

const jobLink = (found) => make("a", { href: `#job/${encodeURIComponent(found.job_id)}` }, latin(found.job_id));
const cost = (found) => (FINAL.has(found.status) ? money(found.billing?.actual_cost_micro_halala) : make("span", { class: "hint" }, t("at most"), " ", money(held(found))));

function jobTable(found, empty) {
  const rows = found.map((each) => [jobLink(each), badge(each.status), each.model ? latin(each.model) : kindName(each.job_type), time(each.created_at), cost(each)]);
  return table(t("Jobs"), [t("Job"), t("State"), t("Model"), t("Submitted"), t("Cost")], rows, empty);
}

let chosenState = "";

async function jobs(draw, live) {
  const state = select("state", [["", t("All")], ["queued", t("waiting")], ["running", t("running")], ["completed", t("completed")], ["failed", t("failed")], ["cancelled", t("cancelled")]]);
  state.value = chosenState;
  const place = make("div");
  const problem = problemPlace();

  async function show() {
    const filter = state.value ? `&status=${state.value}` : "";
    const list = await inPages(
      async (before) => {
        const answer = await read(`/jobs?page_size=${PAGE}${filter}${before ? `&before_job_id=${encodeURIComponent(before)}` : ""}`, () => live.is);
        return { items: answer.jobs, next: answer.next_before_job_id };
      },
      (found) => jobTable(found, state.value ? t("No jobs in this state.") : t("No jobs yet. Try a model in the playground, or submit a job.")),
    );
    place.replaceChildren(list);
  }

  // Open jobs go on, so a list with some is read again; not while somebody is in it or has opened older pages.
  watch(live, () => WATCH_SECONDS, async () => {
    if (place.querySelector(":focus") || place.querySelectorAll("tbody tr").length > PAGE) return;
    if (place.querySelector(".badge.queued, .badge.pending, .badge.assigned, .badge.running")) await show();
  });
  state.addEventListener("change", () => {
    chosenState = state.value;
    show().catch((error) => live.is && say(problem, error));
  });
  draw(title(t("Jobs"), make("a", { class: "button primary", href: "#submit" }, t("New job"))), make("div", { class: "choose" }, make("label", { for: "state" }, t("State")), state), problem, make("section", { class: "card" }, place));
  await show();
}

const views = {
  wallet,
  jobs,
  playground: later(() => import("./playground.js"), "playground"),
  submit: later(() => import("./submit.js"), "submitForm"),
  job: later(() => import("./renter-job.js"), "job"),
  batches: later(() => import("./renter-batches.js"), "batches"),
  files: later(() => import("./renter-files.js"), "files"),
  keys: later(() => import("./renter-keys.js"), "keys"),
  usage: later(() => import("./renter-usage.js"), "usage"),
  statement: later(() => import("./renter-statement.js"), "statement"),
  disputes: later(() => import("./renter-disputes.js"), "disputes"),
  webhook: later(() => import("./renter-webhook.js"), "webhook"),
};

startViews(views, "wallet");
