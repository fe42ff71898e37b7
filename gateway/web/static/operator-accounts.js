// The operator's search, the pages of renters, providers and jobs, and the audit log.
import { api, badge, card, field, figure, input, latin, MICROS_PER_HALALA, money, onSubmit, problemPlace, read, Refused, select, table, time, title } from "./account.js";
import { make } from "./elements.js";
import { act, ago, facts, link, name, page, paged, percent, textarea } from "./operator-parts.js";
import { number, t } from "./texts.js";
import { actName, kindName, obstacleName, outcomeName, scopeName, standingName, standingReason, statusName, waitName } from "./words.js";

const FEW = 10;
const SHOWN_CHARACTERS = 20_000;

const VIEWS = { renter: "renter", provider: "provider", job: "job", withdrawal: "payout", dispute: "dispute" };

const words = (text) => make("span", { class: "badge" }, text);
const halala = (amount) => money(Number(amount ?? 0) * MICROS_PER_HALALA);
const reason = (id, label, hint) => ({ label, hint, control: textarea(id, { required: true, maxlength: "500" }) });
const tokenOf = (typed) => typed.value.trim();

// --- search ---

let searched = ""; // kept for the way back; never in the address, which the browser's history keeps

export async function search(draw) {
  const query = input("search", { type: "search", maxlength: "200", value: searched, spellcheck: "false" });
  const problem = problemPlace();
  const found = make("div");
  const form = make("form", { class: "stack search", role: "search" }, field(t("Name, e-mail address or id"), query, t("A part of a name or of an address, or the beginning of an account's or a job's id.")), problem, make("button", { class: "primary" }, t("Search")));
  async function look() {
    searched = query.value.trim();
    const [renters, providers, jobs] = await Promise.all([renterList(searched), providerList(searched), jobList(/\s|@/.test(searched) ? { search: "-none-" } : { search: searched })]);
    found.replaceChildren(card(t("Renters"), renters), card(t("Providers"), providers), card(t("Jobs"), jobs));
  }
  onSubmit(form, problem, look);
  await look();
  draw(title(t("Search")), make("section", { class: "card" }, form), found);
  query.focus({ preventScroll: true });
}

function renterList(text) {
  return paged(t("Renters"), [t("Renter"), t("E-mail address"), t("Available"), t("Since"), t("State")], async (before) => {
    const answer = await read(page("/admin/renters", { search: text, before_id: before }, FEW));
    const rows = answer.renters.map((each) => [link("renter", each.id, make("span", {}, name(each.name), " ", latin(`#${each.id}`))), latin(each.email), halala(each.balance_halala), time(each.created_at), renterState(each)]);
    return { rows, next: answer.next_before_id };
  }, t("No renter matches."));
}

function providerList(text) {
  return paged(t("Providers"), [t("Provider"), t("E-mail address"), t("GPU"), t("Standing"), t("State")], async (before) => {
    const answer = await read(page("/admin/providers", { search: text, before_id: before }, FEW));
    const rows = answer.providers.map((each) => [link("provider", each.id, make("span", {}, name(each.name), " ", latin(`#${each.id}`))), latin(each.email), each.gpu_model ? latin(each.gpu_model) : "–", standingName(each.standing?.standing), providerBadge(each.status)]);
    return { rows, next: answer.next_before_id };
  }, t("No provider matches."));
}

export function jobList(values) {
  return paged(t("Jobs"), [t("Job"), t("State"), t("Model"), t("Submitted"), t("Cost")], async (before) => {
    const answer = await read(page("/admin/jobs", { ...values, before_job_id: before }, FEW));
    const rows = answer.jobs.map((job) => [link("job", job.job_id), badge(job.status), job.model ? latin(job.model) : kindName(job.job_type), time(job.created_at), cost(job)]);
    return { rows, next: answer.next_before_job_id };
  }, t("No job matches."));
}

const cost = (job) => (["completed", "failed", "cancelled"].includes(job.status) ? money(job.billing?.actual_cost_micro_halala) : make("span", { class: "hint" }, t("at most"), " ", halala(job.cost_halala)));

function renterState({ suspended, deleted }) {
  if (deleted) return words(t("deleted"));
  return suspended ? make("span", { class: "badge failed" }, t("suspended")) : make("span", { class: "badge online" }, t("active"));
}

export function providerBadge(status) {
  return make("span", { class: `badge ${status === "suspended" ? "failed" : status}` }, statusName(status));
}

// --- a renter ---

export async function renter(draw, live, id) {
  const again = () => renter(draw, live, id);
  const { renter: found, suspended = false, deleted = false } = await read(`/admin/renters/${encodeURIComponent(id)}`);
  const lists = await Promise.all([jobList({ renter_id: found.id }), renterLedger(found.id), keyList("renters", found.id), decisions("renter", found.id)]);
  const who = make("span", {}, name(found.name), " ", latin(`#${found.id}`));
  draw(
    title(who, renterState({ suspended, deleted })),
    make("dl", { class: "figures" }, figure(t("Available"), money(found.balance_micro_halala)), figure(t("Held for open jobs"), money(found.held_micro_halala)), figure(t("Spent so far"), money(found.spent_micro_halala)), figure(t("Jobs"), number(found.total_jobs ?? 0))),
    make(
      "div",
      { class: "pair" },
      card(t("Account"), facts([t("E-mail address"), latin(found.email || "–")], [t("Address proven"), found.email_verified ? t("yes") : t("no")], [t("Organization"), name(found.organization)], [t("Registered"), time(found.created_at)])),
      deleted ? "" : card(t("Decide"), make("div", { class: "acts" }, suspension("renter", found, suspended, again), credit(found, again))),
    ),
    card(t("Jobs"), lists[0]),
    card(t("Wallet"), lists[1]),
    card(t("Keys"), make("p", { class: "hint" }, t("Names and times. Nobody can read a key itself.")), lists[2]),
    card(t("Decisions about it"), lists[3]),
  );
}

function suspension(role, found, suspended, again) {
  const path = `/admin/${role}s/${found.id}`;
  const common = { least: "admin", object: role, objectId: found.id, done: again, shown: [[t("Account"), make("span", {}, name(found.name), " ", latin(`#${found.id}`))], [t("E-mail address"), latin(found.email || "–")]] };
  if (suspended) return act({ ...common, label: t("Lift the suspension"), path: `${path}/unsuspend`, body: () => ({}), sentence: () => (role === "renter" ? t("The renter can submit jobs again.") : t("The provider gets jobs again.")) });
  const why = reason("suspend-reason", t("Reason"), t("It is recorded in the audit log."));
  const effect = role === "renter" ? t("The renter cannot submit jobs, and is logged out everywhere. Jobs that it already submitted continue.") : t("The provider gets no more jobs, and is logged out everywhere. Jobs that already run finish and are paid.");
  return act({ ...common, label: t("Suspend"), confirm: t("Suspend the account"), danger: true, inputs: [why], path: `${path}/suspend`, body: () => ({ reason: tokenOf(why.control) }), sentence: () => effect });
}

function credit(found, again) {
  const amount = { label: t("Amount in SAR"), control: input("credit", { type: "number", dir: "ltr", min: "0.01", max: "1000000", step: "0.01", required: true }) };
  const halalas = () => Math.round(Number(amount.control.value) * 100);
  return act({ label: t("Credit the wallet"), least: "finance", object: "renter", objectId: found.id, inputs: [amount], confirm: t("Credit"), path: `/admin/renters/${found.id}/credit`, body: () => ({ amount_halala: halalas() }), done: again, shown: [[t("Account"), make("span", {}, name(found.name), " ", latin(`#${found.id}`))]], sentence: () => [halalas() ? money(halalas() * MICROS_PER_HALALA) : t("The amount"), " ", t("is added to this wallet. Do it only after the money has arrived.")] });
}

function renterLedger(id) {
  return paged(t("Wallet"), [t("Time"), t("What"), t("Amount"), t("Balance"), t("Job")], async (before) => {
    const answer = await read(page(`/admin/renters/${id}/ledger`, { before_id: before }));
    const rows = answer.lines.map((line) => [time(line.time), transferName(line.kind), money(line.amount_micro_halala), money(line.balance_micro_halala), line.job_id ? link("job", line.job_id) : "–"]);
    return { rows, next: answer.next_before_id };
  }, t("No money moved yet."));
}

export function transferName(kind) {
  const names = { credit: t("credited by an operator"), topup: t("play money"), hold: t("held for a job"), payout: t("share of a job"), fee: t("fee of a job"), refund: t("rest of a hold returned"), withdraw: t("withdrawal requested"), withdrawal_paid: t("withdrawal paid"), withdrawal_returned: t("withdrawal returned"), forfeit: t("given up with the account"), matured: t("matured"), disputed: t("held by a dispute"), dispute_returned: t("returned after a dispute"), dispute_refund: t("refund after a dispute"), fee_refund: t("refund of a fee"), debt_repaid: t("debt repaid"), storage: t("storage") };
  return names[kind] ?? latin(kind ?? "–");
}

function keyList(of, id) {
  return paged(t("Keys"), [t("Key"), t("For"), t("Created"), t("Last used"), t("State")], async (before) => {
    const answer = await read(page(`/admin/${of}/${id}/keys`, { before_id: before }));
    const rows = answer.keys.map((key) => [make("span", {}, key.main ? t("Main key") : name(key.name), " ", latin(`…${key.last4}`)), key.main ? t("everything") : (key.scopes ?? []).map(scopeName).join(" · "), time(key.created_at), time(key.last_used_at), keyState(key)]);
    return { rows, next: answer.next_before_id };
  }, t("No keys."));
}

function keyState(key) {
  if (key.revoked_at) return words(t("revoked"));
  if (key.expires_at && Date.parse(key.expires_at) < Date.now()) return words(t("expired"));
  return make("span", { class: "badge online" }, t("valid"));
}

// --- a provider ---

export async function provider(draw, live, id) {
  const again = () => provider(draw, live, id);
  const { provider: found } = await read(`/admin/providers/${encodeURIComponent(id)}`);
  const lists = await Promise.all([jobList({ provider_id: found.id }), providerLedger(found.id), keyList("providers", found.id), decisions("provider", found.id)]);
  const earnings = found.earnings ?? {};
  draw(
    title(make("span", {}, name(found.name), " ", latin(`#${found.id}`)), providerBadge(found.status)),
    make("dl", { class: "figures" }, figure(t("Can be withdrawn"), money(earnings.claimable_micro_halala)), figure(t("Maturing"), money(earnings.maturing_micro_halala)), figure(t("Earned in all"), money(earnings.total_micro_halala)), figure(t("Reliability"), found.reliability === undefined ? "–" : percent(found.reliability), t("of {count} attempts", { count: number(found.reliability_attempts ?? 0) }))),
    make(
      "div",
      { class: "pair" },
      make("div", { class: "column" }, providerFacts(found), standingCard(found)),
      card(t("Decide"), make("div", { class: "acts" }, ...providerActs(found, again))),
    ),
    card(t("Jobs"), lists[0]),
    card(t("Ledger"), lists[1]),
    card(t("Keys"), lists[2]),
    card(t("Decisions about it"), lists[3]),
  );
}

export function providerFacts(found) {
  return card(
    t("Account"),
    facts([t("E-mail address"), latin(found.email || "–")], [t("Address proven"), found.email_verified ? t("yes") : t("no")], [t("Registered"), make("span", {}, time(found.created_at), " · ", ago(found.created_at))], [t("GPU"), found.gpu_model ? latin(found.gpu_model) : t("none reported")], [t("Last heartbeat"), ago(found.last_heartbeat_at)], [t("Jobs"), number(found.total_jobs ?? 0)]),
  );
}

export function standingCard(found) {
  const standing = found.standing ?? {};
  const list = (items) => make("ul", { class: "reasons" }, ...items.map((each) => make("li", {}, each)));
  const hindrances = (found.hindrances ?? []).map((each) => obstacleName(each));
  return card(
    t("Standing"),
    make("p", {}, make("strong", {}, standingName(standing.standing)), standing.since ? make("span", { class: "hint" }, " · ", t("since"), " ", time(standing.since)) : ""),
    standing.reasons?.length ? list(standing.reasons.map((each) => standingReason(each.code))) : "",
    hindrances.length ? make("div", {}, make("h3", {}, t("What keeps jobs away")), list(hindrances)) : "",
  );
}

function providerActs(found, again) {
  const path = `/admin/providers/${found.id}`;
  const shown = [[t("Account"), make("span", {}, name(found.name), " ", latin(`#${found.id}`))]];
  const common = { least: "admin", object: "provider", objectId: found.id, done: again, shown };
  const vouched = (found.standing?.reasons ?? []).some((each) => each.code === "VOUCHED");
  const why = reason("vouch-reason", t("Reason"), t("It is recorded in the audit log."));
  const approve = act({ ...common, label: t("Approve"), path: `${path}/approve`, body: () => ({}), sentence: () => t("The provider gets jobs from now on.") });
  const vouch = act({
    ...common,
    label: vouched ? t("Vouch no longer") : t("Vouch for it"),
    inputs: [why],
    path: `${path}/vouch`,
    body: () => ({ vouched: !vouched, reason: tokenOf(why.control) }),
    sentence: () => (vouched ? t("Its standing follows from its work alone.") : t("It counts as proven while it is vouched for, unless checks of its work fail.")),
  });
  return [found.status === "pending_approval" ? approve : "", suspension("provider", found, found.status === "suspended", again), vouch].filter(Boolean);
}

function providerLedger(id) {
  const accounts = { provider: t("can be withdrawn"), provider_maturing: t("maturing"), provider_disputed: t("disputed"), provider_debt: t("owed"), withdrawal: t("in a withdrawal") };
  const place = (kind) => accounts[kind] ?? t("outside");
  return paged(t("Ledger"), [t("Time"), t("What"), t("Amount"), t("From"), t("To"), t("Belongs to")], async (before) => {
    const answer = await read(page(`/admin/providers/${id}/ledger`, { before_id: before }));
    const rows = answer.transfers.map((row) => [time(row.time), transferName(row.kind), money(row.amount_micro_halala), place(row.from_account), place(row.to_account), row.job_id ? link("job", row.job_id) : row.withdrawal_id ? link("payout", row.withdrawal_id, t("payout {id}", { id: row.withdrawal_id })) : "–"]);
    return { rows, next: answer.next_before_id };
  }, t("No money moved yet."));
}

// --- a job ---

export async function job(draw, live, id) {
  const again = () => job(draw, live, id);
  const path = `/jobs/${encodeURIComponent(id)}`;
  const { job: found } = await read(path);
  const [why, output, log] = await Promise.all([read(`${path}/why`), found.job_type === "image_generation" ? undefined : optional(`${path}/output`), optional(`${path}/logs`)]);
  const isOpen = !["completed", "failed", "cancelled"].includes(found.status);
  const considered = (why.providers ?? []).map((each) => [link("provider", each.provider_id), obstacleName(each)]);
  draw(
    title(latin(found.job_id), badge(found.status)),
    make("dl", { class: "figures" }, figure(t("Cost"), cost(found)), figure(t("Submitted"), time(found.created_at)), figure(t("Started"), time(found.started_at)), figure(t("Ended"), time(found.ended_at))),
    make("div", { class: "pair" }, card(t("Job"), facts([t("Renter"), found.renter_id ? link("renter", found.renter_id) : "–"], [t("Provider"), found.provider_id ? link("provider", found.provider_id) : "–"], [t("Kind of job"), kindName(found.job_type)], [t("Model"), found.model ? latin(found.model) : "–"], [t("Why"), waitName(why)])), ...(isOpen ? [card(t("Decide"), make("div", { class: "acts" }, ...jobActs(found, again)))] : [])),
    card(t("Attempts"), attempts(why.attempts ?? [])),
    considered.length ? card(t("Providers that were considered"), table(t("Providers that were considered"), [t("Provider"), t("What keeps it away")], considered, t("None."))) : "",
    output ? written(t("Output"), output.response ?? "", output.truncated) : "",
    log ? written(t("Log"), log.log ?? "", !log.is_complete) : "",
  );
}

async function optional(path) {
  try {
    return await api("GET", path);
  } catch (error) {
    if (!(error instanceof Refused) || !error.code) throw error;
    return undefined; // there is none yet, or it is no longer kept
  }
}

/** What a job wrote: always as text, and only its beginning. */
export function written(label, text, isLonger = false) {
  const whole = typeof text === "string" ? text : JSON.stringify(text, null, 1);
  const cut = whole.length > SHOWN_CHARACTERS || isLonger;
  const size = t("{count} characters", { count: number(whole.length) });
  return make("details", { class: "card" }, make("summary", {}, label, " · ", make("span", { class: "hint" }, size)), make("pre", { class: "output", dir: "auto", tabindex: "0", role: "group", "aria-label": label }, whole.slice(0, SHOWN_CHARACTERS)), cut ? make("p", { class: "hint" }, t("Only the beginning is shown.")) : "");
}

export function attempts(found) {
  const rows = found.map((each) => [number(each.attempt), link("provider", each.provider_id), time(each.offered_at), each.outcome ? outcomeName(each.outcome) : t("open"), make("bdi", {}, each.detail || "–")]);
  return table(t("Attempts"), [t("Attempt"), t("Provider"), t("Offered"), t("Outcome"), t("Note")], rows, t("It was offered to nobody yet."));
}

function jobActs(found, again) {
  const path = `/jobs/${encodeURIComponent(found.job_id)}`;
  const common = { least: "admin", object: "job", objectId: found.job_id, done: again, shown: [[t("Job"), latin(found.job_id)], [t("Held for it"), halala(found.cost_halala)]] };
  const why = { label: t("Reason"), hint: t("The renter sees it."), control: textarea("requeue-reason", { maxlength: "500" }) };
  const acts = [act({ ...common, label: t("Cancel the job"), danger: true, path: `${path}/cancel`, body: () => ({}), sentence: () => t("The time that it ran is charged; the rest of the hold returns to the renter.") })];
  if (found.status !== "queued") acts.unshift(act({ ...common, label: t("Put it back into the queue"), inputs: [why], path: `/admin${path}/requeue`, body: () => ({ reason: tokenOf(why.control) }), sentence: () => t("Its provider stops it. The attempt is not charged, and another provider runs it.") }));
  return acts;
}

// --- the audit log ---

function decisions(object, id) {
  return paged(t("Decisions about it"), [t("Time"), t("Who"), t("What"), t("Change")], async (before) => {
    const answer = await read(page("/admin/audit", { object, object_id: id, before_id: before }));
    return { rows: answer.entries.map((each) => [time(each.at), name(each.actor), actName(each.action), change(each)]), next: answer.next_before_id };
  }, t("No decision yet."));
}

/** What an act changed, field by field. */
function change({ before, after }) {
  const [old, new_] = [parsed(before), parsed(after)];
  const keys = [...new Set([...Object.keys(old), ...Object.keys(new_)])];
  const shown = (value) => (value === undefined || value === null ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value));
  const lines = keys.filter((key) => shown(old[key]) !== shown(new_[key])).map((key) => make("li", {}, make("bdi", { dir: "ltr" }, latin(key), ": ", key in old ? make("bdi", {}, shown(old[key])) : "", key in old ? make("span", { class: "arrow" }, " → ") : "", make("bdi", {}, shown(new_[key])))));
  return lines.length ? make("ul", { class: "changes" }, ...lines) : "–";
}

function parsed(text) {
  try {
    return JSON.parse(text || "{}") ?? {};
  } catch {
    return { text };
  }
}

export async function audit(draw) {
  const object = select("object", [["", t("Everything")], ...["withdrawal", "dispute", "provider", "renter", "job", "rate", "price", "webhook", "operator"].map((each) => [each, objectName(each)])]);
  const id = input("object-id", { dir: "ltr", maxlength: "100", spellcheck: "false" });
  const actor = input("actor", { maxlength: "100", spellcheck: "false" });
  const problem = problemPlace();
  const place = make("div");
  const form = make("form", { class: "filter" }, field(t("About"), object), field(t("Its id"), id), field(t("Who"), actor), make("button", { class: "primary" }, t("Filter")), problem);
  async function look() {
    const values = { object: object.value, object_id: object.value ? id.value.trim() : "", actor: actor.value.trim() };
    place.replaceChildren(await paged(t("Audit log"), [t("Time"), t("Who"), t("What"), t("About"), t("Change")], async (before) => {
      const answer = await read(page("/admin/audit", { ...values, before_id: before }, 50));
      return { rows: answer.entries.map(entry), next: answer.next_before_id };
    }, t("No act matches.")));
  }
  onSubmit(form, problem, look);
  await look();
  draw(title(t("Audit log")), make("section", { class: "card" }, form), make("section", { class: "card" }, place));
}

function entry(each) {
  const view = VIEWS[each.object];
  const what = `${objectName(each.object)} ${each.object_id}`;
  return [time(each.at), name(each.actor), actName(each.action), view ? link(view, each.object_id, make("bdi", {}, what)) : make("bdi", {}, what), change(each)];
}

function objectName(object) {
  return { withdrawal: t("payout"), dispute: t("dispute"), provider: t("provider"), renter: t("renter"), job: t("job"), rate: t("rate"), price: t("price"), webhook: t("webhook"), operator: t("operator") }[object] ?? object;
}

