// The operator's view of the market as a whole: health at a glance, incidents, and the proof of the ledger.
import { api, card, field, figure, input, latin, MICROS_PER_HALALA, money, onSubmit, problemPlace, read, sar, secretOnce, select, table, time, title, watch } from "./account.js";
import { copy, make } from "./elements.js";
import { act, ago, duration, facts, link, may, page, paged } from "./operator-parts.js";
import { number, t } from "./texts.js";
import { failureName, kindName, obstacleName, waitName } from "./words.js";

const SECONDS_BETWEEN = 10;
const BYTES_PER_GB = 1e9;

export async function health(draw, live) {
  const show = async () => draw(...healthParts(await read("/admin/health", () => live.is)));
  await show();
  watch(live, () => SECONDS_BETWEEN, async () => {
    const focused = document.activeElement?.getAttribute("href");
    await show();
    if (focused) document.querySelector(`#view a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  });
}

function healthParts(found) {
  const { sessions = {}, calls = {}, jobs = {}, payouts = {} } = found;
  const ended = (jobs.completed ?? 0) + (jobs.failed ?? 0) + (jobs.cancelled ?? 0);
  const incidents = found.incidents ?? [];
  const balanced = found.ledger_balanced;
  return [
    title(t("Health"), make("p", { class: "hint" }, t("As of"), " ", time(found.as_of))),
    make("section", { class: incidents.length ? "card alarm" : "card calm", "aria-label": t("Incidents now") }, incidents.length ? make("ul", { class: "incidents" }, ...incidents.map(incidentLine)) : make("p", {}, t("No incident lasts now."))),
    make(
      "dl",
      { class: "figures" },
      figure(t("Daemons connected"), number(sessions.live ?? 0), sessions.lost ? t("{count} went away in 15 minutes", { count: number(sessions.lost) }) : t("none went away in 15 minutes")),
      figure(t("Slots in use"), make("bdi", {}, `${number(sessions.slots_used ?? 0)} / ${number(sessions.slots ?? 0)}`)),
      figure(t("Jobs ended in an hour"), `${number(ended)}${jobs.more ? "+" : ""}`, t("{count} failed", { count: number(jobs.failed ?? 0) })),
      figure(t("Wait for a start"), duration(jobs.waited_p50_ms), make("span", {}, t("95 of 100 within"), " ", duration(jobs.waited_p95_ms))),
      figure(t("Calls in an hour"), number(calls.calls ?? 0), t("{count} failed", { count: number(calls.failed ?? 0) })),
      figure(t("Time of a call"), duration(calls.p50_ms), make("span", {}, t("99 of 100 within"), " ", duration(calls.p99_ms))),
      figure(t("Payouts waiting"), make("a", { href: "#payouts" }, number(payouts.requests ?? 0)), payouts.requests ? make("span", {}, money((payouts.amount_halala ?? 0) * MICROS_PER_HALALA), " · ", t("oldest"), " ", ago(payouts.oldest_at)) : t("nothing to decide")),
      figure(t("Open disputes"), make("a", { href: "#disputes" }, number(found.open_disputes ?? 0))),
      figure(t("Ledger"), make("a", { href: "#ledger" }, balanced === undefined ? t("not proven yet") : balanced ? t("balances") : t("does not balance"))),
    ),
    card(t("What waits"), table(t("What waits"), [t("Waits for"), t("Jobs"), t("Oldest"), t("Why"), t("First job")], (found.queues ?? []).map(queueRow), t("No job waits.")), found.more_queues ? make("p", { class: "hint" }, t("More queues wait than are shown.")) : ""),
    make(
      "div",
      { class: "ways" },
      card(t("Why jobs failed in an hour"), table(t("Why jobs failed in an hour"), [t("Reason"), t("Jobs")], (jobs.failures ?? []).map((each) => [failureName(each.reason), number(each.jobs)]), t("No job failed."))),
      card(t("Calls that failed in an hour"), table(t("Calls that failed in an hour"), [t("Method"), t("Calls")], (calls.failures ?? []).map((each) => [latin(each.method), number(each.calls)]), t("No call failed.")), make("p", { class: "hint" }, t("Of the server that answered, since"), " ", time(calls.since))),
    ),
    card(t("Disks"), ...((found.disks ?? []).length ? found.disks.map(disk) : [make("p", { class: "empty" }, t("No disk was read: files are in a bucket, or the server has just started."))])),
  ];
}

const incidentLine = (each) => make("li", {}, make("span", { class: `badge ${each.severity === "page" ? "failed" : "queued"}` }, severityName(each.severity)), " ", make("span", {}, summaryOf(each)), " ", make("span", { class: "hint" }, ago(each.began_at)));
const severityName = (severity) => ({ page: t("now"), ticket: t("today") })[severity] ?? severity;

/** What an incident is, in the page's language; a kind that is newer than this page is said as the server says it. */
function summaryOf(incident) {
  const { condition, unserved = {}, payouts = {}, proof = {}, disks = [], sessions = {} } = incident;
  switch (condition) {
    case "model_unserved":
      return t("No provider serves {models}. Jobs that wait for them: {jobs}.", { models: isolated((unserved.models ?? []).map(({ model }) => model)), jobs: number(unserved.jobs ?? 0) });
    case "payouts_wait":
      return t("Withdrawal requests waited too long for an operator: {requests}, of {amount} together.", { requests: number(payouts.requests ?? 0), amount: isolated([sar((payouts.amount_halala ?? 0) * MICROS_PER_HALALA)]) });
    case "proof_unclean":
      return t("The proof of the ledger found discrepancies: {count}.", { count: number(proof.discrepancies ?? 0) });
    case "disk_nearly_full":
      return t("Nearly full: {disks}.", { disks: disks.map(diskWords).join(t(", ")) });
    case "disk_full":
      return t("Full: {disks}.", { disks: disks.map(diskWords).join(t(", ")) });
    case "sessions_lost":
      return t("Daemons that are left: {present} of {before}.", { present: number(sessions.present ?? 0), before: number(sessions.before ?? 0) });
    default:
      return isolated([incident.summary]);
  }
}

/** Names and amounts inside a sentence, of which each has a direction of its own. */
const isolated = (texts) => texts.map((text) => `\u2068${text}\u2069`).join(t(", "));

function queueRow(queue) {
  const what = queue.provider_id ? link("provider", queue.provider_id, t("provider {id}", { id: queue.provider_id })) : queue.model ? latin(queue.model) : kindName(queue.job_type);
  const why = make("div", {}, waitName(queue));
  const counts = (queue.obstacles ?? []).map((each) => `${obstacleName(each)} × ${number(each.providers)}`);
  if (counts.length) why.append(make("div", { class: "hint" }, counts.join(t(", "))));
  return [what, number(queue.jobs), ago(queue.oldest_at), why, link("job", queue.first_job_id)];
}

const gigabytes = (count) => number(count / BYTES_PER_GB, { maximumFractionDigits: 1 });
const placeName = (place) => ({ files: t("Files of jobs"), database: t("Database") })[place] ?? place;
const roomOf = ({ free_bytes: free, total_bytes: total }) => t("{free} GB of {total} GB are free", { free: gigabytes(free), total: gigabytes(total) });
const diskWords = (each) => `${placeName(each.place)} (${roomOf(each)})`;

function disk(each) {
  const { free_bytes: free, total_bytes: total } = each;
  const used = total ? 1 - free / total : 0;
  const [label, words] = [placeName(each.place), roomOf(each)];
  return make("div", { class: "disk" }, make("p", {}, make("strong", {}, label), " ", make("span", { class: "hint" }, words)), make("meter", { min: "0", max: "1", low: "0.8", high: "0.9", optimum: "0", value: String(used), "aria-label": `${label}: ${words}` }));
}

// --- ledger ---

export async function ledger(draw) {
  const result = make("div", { role: "status" });
  const problem = problemPlace();
  const extent = select("extent", [["", t("What changed since the last checkpoint")], ["true", t("Every account")]]);
  const form = make("form", { class: "stack" }, field(t("What is compared"), extent, t("Every account takes longer the more accounts there are.")), problem, make("button", { class: "primary" }, t("Run the proof")));
  onSubmit(form, problem, async () => {
    result.replaceChildren(make("p", {}, t("The proof runs…")));
    try {
      const proof = await api("GET", `/admin/ledger/proof${extent.value ? "?all_accounts=true" : ""}`);
      result.replaceChildren(...proofParts(proof));
    } catch (error) {
      result.replaceChildren();
      throw error;
    }
  });
  draw(title(t("Ledger")), make("div", { class: "pair" }, make("div", {}, result), card(t("Prove that the ledger balances"), make("p", { class: "hint" }, t("It adds up the transfers and compares them with balances, holds, withdrawals and disputes.")), form)));
}

function proofParts(proof) {
  const found = proof.discrepancies ?? [];
  return [
    make("p", { class: proof.balanced ? "verdict good" : "verdict bad" }, proof.balanced ? t("The ledger balances.") : t("The ledger does not balance. Pay nothing out.")),
    ...(found.length ? [card(t("Discrepancies"), make("ul", { class: "reasons" }, ...found.slice(0, 200).map((each) => make("li", {}, make("bdi", {}, each)))))] : []),
    card(t("What was compared"), facts([t("Transfers"), number(proof.transfers ?? 0)], [t("Read since the checkpoint"), number(proof.transfers_read ?? 0)], [t("Open holds"), make("span", {}, number(proof.open_holds ?? 0), " · ", money(proof.open_holds_micro_halala))], [t("Open withdrawals"), make("span", {}, number(proof.open_withdrawals ?? 0), " · ", money(proof.open_withdrawals_micro_halala))], [t("Open disputes"), make("span", {}, number(proof.open_disputes ?? 0), " · ", money(proof.disputed_micro_halala))], [t("Can be withdrawn"), money(proof.claimable_micro_halala)], [t("Maturing"), money(proof.maturing_micro_halala)], [t("Owed by providers"), money(proof.debt_micro_halala)])),
  ];
}

// --- incidents and the webhook ---

export async function incidents(draw) {
  const again = () => incidents(draw);
  const { webhook } = await read("/admin/webhook");
  const listed = await paged(t("Incidents"), [t("What"), t("How soon"), t("Began"), t("Ended")], async (before) => {
    const found = await read(page("/admin/incidents", { before_id: before }));
    return { rows: found.incidents.map((each) => [make("span", {}, summaryOf(each)), severityName(each.severity), time(each.began_at), each.ended_at ? time(each.ended_at) : make("span", { class: "badge failed" }, t("lasts"))]), next: found.next_before_id };
  }, t("There was no incident in the last 90 days."));
  const deliveries = await paged(t("Deliveries"), [t("Event"), t("State"), t("Attempts"), t("Time")], async (before) => {
    const found = await read(page("/admin/webhook/deliveries", { before_id: before }));
    return { rows: found.deliveries.map((each) => [latin(each.event), make("span", { class: "badge" }, deliveryName(each.status)), number(each.attempts ?? 0), time(each.created_at)]), next: found.next_before_id };
  }, t("Nothing was sent yet."));
  const made = make("div");
  draw(title(t("Incidents")), card(t("What is or was wrong"), listed), made, webhookCard(webhook, made, again), card(t("Deliveries"), deliveries));
}

const deliveryName = (status) => ({ waiting: t("waiting"), delivered: t("delivered"), failed: t("failed"), dropped: t("dropped") })[status] ?? status;

function webhookCard(webhook, made, again) {
  const url = input("webhook-url", { type: "url", dir: "ltr", required: true, maxlength: "2000", value: webhook?.url ?? "", placeholder: "https://pager.example/dcp" });
  const problem = problemPlace();
  const form = make("form", { class: "stack" }, field(t("Address that incidents are sent to"), url), problem, make("button", { class: "primary", disabled: !may("admin") }, t("Save the address")));
  onSubmit(form, problem, async () => {
    const answer = await api("POST", "/admin/webhook", { url: url.value.trim() });
    if (answer.secret) made.replaceChildren(secretOnce(answer.secret, copy));
    else await again();
  });
  const common = { least: "admin", object: "webhook", objectId: "0", body: () => ({}), done: again };
  const acts = webhook
    ? [act({ ...common, label: t("Send a test event"), sentence: () => t("One test event is sent to {url}.", { url: webhook.url }), path: "/admin/webhook/test" }), act({ ...common, label: t("Remove the address"), danger: true, sentence: () => t("Nothing is sent to {url} any more, and its secret is deleted.", { url: webhook.url }), path: "/admin/webhook/remove" })]
    : [];
  return card(t("Webhook"), form, make("div", { class: "buttons" }, ...acts));
}
