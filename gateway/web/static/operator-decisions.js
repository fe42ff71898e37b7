// The operator's decisions about money: payouts and disputes with their evidence, and the rate card.
import { api, badge, card, field, figure, input, latin, MICROS_PER_HALALA, money, onSubmit, problemPlace, read, select, table, time, title } from "./account.js";
import { make } from "./elements.js";
import { attempts, providerBadge, providerFacts, standingCard, written } from "./operator-accounts.js";
import { act, ago, facts, link, may, name, page, paged, percent, textarea } from "./operator-parts.js";
import { number, t } from "./texts.js";
import { failureName, kindName, outcomeName } from "./words.js";

const halala = (amount) => money(Number(amount ?? 0) * MICROS_PER_HALALA);
const inSar = (amount) => halala(amount).textContent;

// --- payouts ---

export async function payouts(draw) {
  const first = await read(page("/admin/withdrawals"));
  const { summary = {} } = first;
  const row = (each) => [link("payout", each.id, latin(`#${each.id}`)), halala(each.amount_halala), link("provider", each.provider_id, t("provider {id}", { id: each.provider_id })), latin(`…${each.iban_last4}`), make("span", {}, time(each.created_at), " · ", ago(each.created_at)), payoutBadge(each.status)];
  const heads = [t("Payout"), t("Amount"), t("Provider"), t("Bank account"), t("Requested"), t("State")];
  let given = first;
  const all = await paged(t("All payouts"), heads, async (before) => {
    const found = given ?? (await read(page("/admin/withdrawals", { before_id: before })));
    given = undefined;
    return { rows: found.all.map(row), next: found.next_before_id };
  }, t("No provider has requested a payout yet."));
  draw(
    title(t("Payouts")),
    make("dl", { class: "figures" }, figure(t("Waiting for a decision"), number(summary.pending_count ?? 0), halala(summary.pending_halala)), figure(t("Ordered at the bank"), number(summary.processing_count ?? 0)), figure(t("Paid"), number(summary.paid_count ?? 0), halala(summary.paid_halala)), figure(t("Rejected"), number(summary.rejected_count ?? 0))),
    card(t("Waiting for a decision"), table(t("Waiting for a decision"), heads, first.pending.map(row), t("Nothing waits."))),
    card(t("All payouts"), all),
  );
}

export function payoutBadge(status) {
  const names = { pending: t("waiting"), processing: t("ordered"), paid: t("paid"), rejected: t("rejected") };
  const looks = { pending: "queued", processing: "running", paid: "completed", rejected: "failed" };
  return make("span", { class: `badge ${looks[status] ?? ""}` }, names[status] ?? status);
}

export async function payout(draw, live, id) {
  const again = () => payout(draw, live, id);
  const path = `/admin/withdrawals/${encodeURIComponent(id)}`;
  const [found, account] = await Promise.all([read(`${path}/evidence`), may("finance") ? read(path) : undefined]);
  const { withdrawal, provider } = found;
  const iban = account?.iban ?? `…${withdrawal.iban_last4}`;
  const findings = found.findings ?? [];
  const paid = (found.payers ?? []).reduce((sum, each) => sum + Number(each.paid_micro_halala), 0);
  const share = (each) => make("div", { class: "share" }, make("span", {}, percent(paid ? each.paid_micro_halala / paid : 0)), make("meter", { min: "0", max: "1", value: String(paid ? each.paid_micro_halala / paid : 0), "aria-label": t("Share of the earnings") }));
  const payers = (found.payers ?? []).map((each) => [link("renter", each.renter_id, make("span", {}, each.market ? t("the market's own checks") : name(each.name), " ", latin(`#${each.renter_id}`))), money(each.paid_micro_halala), share(each), make("span", {}, time(each.created_at), each.suspended ? make("span", { class: "badge failed" }, t("suspended")) : "")]);
  const earlier = (found.earlier ?? []).map((each) => [link("payout", each.id, latin(`#${each.id}`)), halala(each.amount_halala), latin(`…${each.iban_last4}`), time(each.created_at), payoutBadge(each.status)]);
  draw(
    title(make("span", {}, t("Payout"), " ", latin(`#${withdrawal.id}`)), payoutBadge(withdrawal.status)),
    make("dl", { class: "figures" }, figure(t("Amount"), halala(withdrawal.amount_halala)), figure(t("Provider"), link("provider", provider.id, name(provider.name)), providerBadge(provider.status)), figure(t("Bank account"), latin(iban)), figure(t("Requested"), time(withdrawal.created_at), ago(withdrawal.created_at))),
    make(
      "div",
      { class: "pair" },
      make(
        "div",
        { class: "column" },
        card(t("Second look"), findings.length ? make("ul", { class: "findings" }, ...findings.map((each) => make("li", {}, findingName(each)))) : make("p", {}, t("Nothing asks for a second look.")), sameAccount(found.same_bank_account ?? [])),
        card(t("Whose payments the earnings come from"), table(t("Whose payments the earnings come from"), [t("Renter"), t("Paid"), t("Share"), t("Since")], payers, t("No renter has paid it yet."))),
        standingCard(provider),
        providerFacts(provider),
        card(t("Its earlier payouts"), table(t("Its earlier payouts"), [t("Payout"), t("Amount"), t("Bank account"), t("Requested"), t("State")], earlier, t("This is its first one."))),
        card(t("Disputes about its jobs"), facts([t("Open"), number(found.open_disputes ?? 0)], [t("Upheld"), number(found.upheld_disputes ?? 0)])),
      ),
      make("div", { class: "sticky" }, decide(withdrawal, provider, iban, findings, path, again)),
    ),
  );
}

const sameAccount = (ids) => (ids.length ? make("p", {}, t("Others with the same bank account:"), " ", ...ids.flatMap((each, at) => [at ? ", " : "", link("provider", each, t("provider {id}", { id: each }))])) : "");

function findingName({ code, message }) {
  const names = {
    DOUBTFUL_STANDING: t("The provider is suspect or suspended."),
    NEW_ACCOUNT: t("The provider registered less than 14 days before the request."),
    FEW_PAYERS: t("More than 80% of its earnings come from one renter."),
    SHARED_BANK_ACCOUNT: t("Another provider withdraws to the same bank account."),
    NEW_BANK_ACCOUNT: t("Its last paid withdrawal went to another bank account."),
    OPEN_DISPUTES: t("Charges of its jobs are disputed."),
    FIRST_WITHDRAWAL: t("It has not been paid before."),
  };
  return names[code] ?? message;
}

function decide(withdrawal, provider, iban, findings, path, again) {
  const amount = inSar(withdrawal.amount_halala);
  const shown = [[t("Amount"), halala(withdrawal.amount_halala)], [t("Provider"), make("span", {}, name(provider.name), " ", latin(`#${provider.id}`))], [t("Bank account"), latin(iban)], findings.length ? [t("Second look"), t("{count} points", { count: number(findings.length) })] : undefined];
  const common = { least: "finance", object: "withdrawal", objectId: withdrawal.id, shown, done: again };
  const why = { label: t("Reason"), hint: t("The provider sees it."), control: textarea("reject-reason", { required: true, maxlength: "500" }) };
  const reference = { label: t("The bank's reference of the transfer"), hint: t("The provider sees it."), control: input("reference", { dir: "ltr", required: true, maxlength: "200", spellcheck: "false" }) };
  const reject = act({ ...common, label: t("Reject"), confirm: t("Reject the payout"), danger: true, inputs: [why], path: `${path}/reject`, body: () => ({ reason: why.control.value.trim() }), sentence: () => t("Nothing is paid: {amount} return to what the provider can withdraw.", { amount }) });
  if (withdrawal.status === "pending") {
    const approve = act({ ...common, label: t("Approve"), confirm: t("Approve {amount}", { amount }), path: `${path}/process`, body: () => ({}), sentence: () => t("You order the bank transfer of {amount} to this account. Then mark it as paid here.", { amount }) });
    return card(t("Decide"), make("div", { class: "acts" }, approve, reject));
  }
  if (withdrawal.status === "processing") {
    const pay = act({ ...common, label: t("Mark as paid"), confirm: t("{amount} were paid", { amount }), inputs: [reference], path: `${path}/pay`, body: () => ({ reference: reference.control.value.trim() }), sentence: () => t("The bank has transferred {amount} to this account. This cannot be undone.", { amount }) });
    return card(t("Decide"), make("p", { class: "hint" }, t("The transfer is ordered.")), make("div", { class: "acts" }, pay, reject));
  }
  return card(t("Decided"), facts([t("State"), payoutBadge(withdrawal.status)], [t("When"), time(withdrawal.updated_at)], withdrawal.reference ? [t("Reference"), latin(withdrawal.reference)] : undefined, withdrawal.reason ? [t("Reason"), name(withdrawal.reason)] : undefined));
}

// --- disputes ---

export async function disputes(draw, live, wanted = "open") {
  const state = ["open", "upheld", "rejected", "all"].includes(wanted) ? wanted : "open";
  const names = { open: t("Open"), upheld: t("Upheld"), rejected: t("Rejected"), all: t("All") };
  const choices = Object.entries(names).map(([each, label]) => make("a", { class: "button", href: `#disputes/${each}`, "aria-current": each === state && "true" }, label));
  const list = await paged(t("Disputes"), [t("Dispute"), t("Charge"), t("Reason"), t("Provider"), t("Opened"), t("State")], async (before) => {
    const found = await read(page("/admin/disputes", { status: state === "all" ? "" : state, before_id: before }));
    const rows = found.disputes.map((each) => [link("dispute", each.id, latin(`#${each.id}`)), halala(each.charged_halala), make("bdi", { class: "clipped" }, each.reason), each.provider_id ? link("provider", each.provider_id, t("provider {id}", { id: each.provider_id })) : "–", ago(each.created_at), disputeBadge(each.status)]);
    return { rows, next: found.next_before_id };
  }, state === "open" ? t("No dispute waits for a decision.") : t("There is none."));
  draw(title(t("Disputes"), make("nav", { class: "buttons", "aria-label": t("State") }, ...choices)), make("section", { class: "card" }, list));
}

function disputeBadge(status) {
  const names = { open: t("open"), upheld: t("upheld"), rejected: t("rejected") };
  return make("span", { class: `badge ${{ open: "queued", upheld: "completed" }[status] ?? ""}` }, names[status] ?? status);
}

export async function dispute(draw, live, id) {
  const again = () => dispute(draw, live, id);
  const path = `/admin/disputes/${encodeURIComponent(id)}`;
  const found = await read(path);
  const { dispute: it, job = {}, provider = {} } = found;
  const past = (provider.attempts ?? []).slice(0, 20).map((each) => [time(each.ended_at), outcomeName(each.outcome), kindName(each.job_type), each.failure_reason ? failureName(each.failure_reason) : "–"]);
  draw(
    title(make("span", {}, t("Dispute"), " ", latin(`#${it.id}`)), disputeBadge(it.status)),
    make("dl", { class: "figures" }, figure(t("Charge"), halala(it.charged_halala)), figure(t("Held from the provider"), halala(it.held_halala)), figure(t("Job"), link("job", it.job_id), badge(job.status ?? "completed")), figure(t("Opened"), time(it.created_at))),
    make(
      "div",
      { class: "pair" },
      make(
        "div",
        { class: "column" },
        card(t("What the renter says"), make("blockquote", {}, make("bdi", {}, it.reason)), make("p", { class: "hint" }, t("Renter:"), " ", job.renter_id ? link("renter", job.renter_id) : "–")),
        card(t("Job"), facts([t("Kind of job"), kindName(job.job_type)], [t("Model"), job.model ? latin(job.model) : "–"], [t("Started"), time(job.started_at)], [t("Ended"), time(job.ended_at)], [t("Held at submission"), money(job.billing?.hold_micro_halala)], [t("Charged"), money(job.billing?.actual_cost_micro_halala)])),
        card(t("Attempts"), attempts(found.attempts ?? [])),
        written(t("Output"), found.output ?? "", found.output_truncated),
        written(t("Log"), found.log ?? "", found.log_truncated),
        card(t("The provider until then"), facts([t("Provider"), link("provider", provider.provider_id ?? it.provider_id)], [t("Reliability"), provider.reliability === undefined ? "–" : make("span", {}, percent(provider.reliability), " · ", t("of {count} attempts", { count: number(provider.reliability_attempts ?? 0) }))], [t("Disputes"), t("{open} open, {upheld} upheld, {rejected} rejected", { open: number(provider.open_disputes ?? 0), upheld: number(provider.upheld_disputes ?? 0), rejected: number(provider.rejected_disputes ?? 0) })], [t("Checks of its work"), checks(provider.canaries ?? [])]), table(t("Its attempts"), [t("Ended"), t("Outcome"), t("Kind of job"), t("Note")], past, t("It had no attempt before."))),
      ),
      make("div", { class: "sticky" }, decideDispute(it, path, again)),
    ),
  );
}

function checks(found) {
  const passed = found.filter((each) => each.verdict === "passed").length;
  return found.length ? t("{passed} of {count} passed", { passed: number(passed), count: number(found.length) }) : t("none near that time");
}

function decideDispute(it, path, again) {
  if (it.status !== "open") {
    return card(t("Decided"), facts([t("State"), disputeBadge(it.status)], [t("When"), time(it.decided_at)], it.refund_halala ? [t("Refund"), halala(it.refund_halala)] : undefined, [t("Note"), name(it.note)]));
  }
  const charge = Number(it.charged_halala);
  const shown = [[t("Charge"), halala(charge)], [t("Job"), latin(it.job_id)]];
  const common = { least: "finance", object: "dispute", objectId: it.id, shown, path: `${path}/decide`, done: again };
  const note = (id) => ({ label: t("Reasons for the decision"), hint: t("The renter and the provider see them."), control: textarea(id, { required: true, maxlength: "2000" }) });
  const [upheld, rejected] = [note("uphold-note"), note("reject-note")];
  const refund = { label: t("Refund in SAR"), hint: t("At most the charge."), control: input("refund", { type: "number", dir: "ltr", min: "0.01", max: String(charge / 100), step: "0.01", required: true, value: (charge / 100).toFixed(2) }) };
  const halalas = () => Math.round(Number(refund.control.value) * 100);
  return card(
    t("Decide"),
    make(
      "div",
      { class: "acts" },
      act({ ...common, label: t("Uphold"), heading: t("Uphold the dispute"), confirm: t("Refund the renter"), inputs: [refund, upheld], body: () => ({ decision: "uphold", refund_halala: halalas(), note: upheld.control.value.trim() }), sentence: () => t("{refund} of {charge} return to the renter. The provider loses its share of that. This cannot be undone.", { refund: inSar(halalas()), charge: inSar(charge) }) }),
      act({ ...common, label: t("Reject"), heading: t("Reject the dispute"), confirm: t("Keep the charge"), danger: true, inputs: [rejected], body: () => ({ decision: "reject", note: rejected.control.value.trim() }), sentence: () => t("The renter gets nothing back, and the provider can withdraw what was held. This cannot be undone.") }),
    ),
  );
}

// --- rate cards ---

export async function prices(draw) {
  const again = () => prices(draw);
  const [{ rates }, card_] = await Promise.all([read("/admin/rates"), read("/prices")]);
  const listed = card_.prices.map((each) => [each.model || each.gpu_model ? latin(each.model ?? each.gpu_model) : kindName(each.job_type), kindOf(each), parts(each.price ?? {}), each.since ? time(each.since) : "–"]);
  draw(
    title(t("Prices")),
    card(t("Rates by kind of job"), table(t("Rates by kind of job"), [t("Kind of job"), t("SAR per minute")], rates.map((rate) => [kindName(rate.job_type), halala(rate.halala_per_minute)]), t("No rates."))),
    card(t("Prices by kind of job, GPU and model"), table(t("Prices by kind of job, GPU and model"), [t("What"), t("Kind"), t("Price in SAR"), t("Since")], listed, t("No prices."))),
    make("div", { class: "ways" }, rateForm(rates, again), modelForm(again), gpuForm(again), storageForm(card_.sar_per_gb_day, again)),
  );
}

const kindOf = (each) => (each.model ? t("model") : each.gpu_model ? t("GPU") : t("kind of job"));

function parts(price) {
  const names = { sar_per_hour: t("per hour"), sar_per_million_input_tokens: t("per 1M tokens read"), sar_per_million_cached_input_tokens: t("per 1M tokens read from the cache"), sar_per_million_output_tokens: t("per 1M tokens written") };
  const lines = Object.entries(names).filter(([key]) => price[key] !== undefined).map(([key, label]) => make("li", {}, latin(price[key]), " ", label));
  return lines.length ? make("ul", { class: "changes" }, ...lines) : "–";
}

function priceForm(heading, hint, fields, button, send, again) {
  const problem = problemPlace();
  const form = make("form", { class: "stack" }, ...fields, problem, make("button", { disabled: !may("finance") }, button));
  onSubmit(form, problem, async () => {
    await send();
    await again();
  });
  return card(heading, make("p", { class: "hint" }, hint), form);
}

function sar(id, attributes = {}) {
  return input(id, { dir: "ltr", inputmode: "decimal", maxlength: "20", pattern: "[0-9]+([.][0-9]{1,8})?", ...attributes });
}

function rateForm(rates, again) {
  const kind = select("rate-kind", rates.map((rate) => [rate.job_type, kindName(rate.job_type)]));
  const amount = sar("rate", { required: true, pattern: "[0-9]+([.][0-9]{1,2})?" });
  const send = () => api("POST", "/admin/rates", { job_type: kind.value, halala_per_minute: Math.round(Number(amount.value) * 100) });
  return priceForm(t("Change a rate"), t("For jobs that are submitted from now on."), [field(t("Kind of job"), kind), field(t("SAR per minute"), amount)], t("Set the rate"), send, again);
}

function modelForm(again) {
  const [model, read_, cached, written_] = [input("price-model", { dir: "ltr", required: true, maxlength: "300", spellcheck: "false" }), sar("price-in", { required: true }), sar("price-cached", { required: true }), sar("price-out", { required: true })];
  const send = () => api("POST", "/admin/prices", { model: model.value.trim(), sar_per_million_input_tokens: read_.value, sar_per_million_cached_input_tokens: cached.value, sar_per_million_output_tokens: written_.value });
  return priceForm(t("Price of a model"), t("In SAR for a million tokens."), [field(t("Model"), model), field(t("Tokens read"), read_), field(t("Tokens read from the cache"), cached), field(t("Tokens written"), written_)], t("Set the price"), send, again);
}

function gpuForm(again) {
  const [gpu, amount] = [input("price-gpu", { dir: "ltr", required: true, maxlength: "100", spellcheck: "false" }), sar("price-hour", { required: true })];
  return priceForm(t("Price of a GPU"), t("For each hour of each GPU that a job asks for."), [field(t("GPU"), gpu), field(t("SAR per hour"), amount)], t("Set the price"), () => api("POST", "/admin/prices", { gpu_model: gpu.value.trim(), sar_per_hour: amount.value }), again);
}

function storageForm(present, again) {
  const amount = sar("price-storage", { required: true, value: present ?? "0" });
  return priceForm(t("Price of storage"), t("For each GB that is kept for a renter, once a day."), [field(t("SAR per GB and day"), amount)], t("Set the price"), () => api("POST", "/admin/prices/storage", { sar_per_gb_day: amount.value }), again);
}
