// The renter's disputes, and the state of one.
import { inPages, latin, MICROS_PER_HALALA, money, read, table, time, title } from "./account.js";
import { make } from "./elements.js";
import { t } from "./texts.js";

const sum = (halala) => money(halala * MICROS_PER_HALALA);

export async function disputes(draw, live) {
  const list = await inPages(
    async (before) => {
      const answer = await read(`/renters/disputes?page_size=50${before ? `&before_id=${before}` : ""}`, () => live.is);
      return { items: answer.disputes, next: answer.next_before_id };
    },
    (found) => table(t("Disputes"), [t("Job"), t("State"), t("Charge"), t("Refund"), t("Opened"), t("Your reason")], found.map((each) => [make("a", { href: `#job/${encodeURIComponent(each.job_id)}` }, latin(each.job_id)), stateBadge(each.status), sum(each.charged_halala), each.refund_halala === undefined ? "–" : sum(each.refund_halala), time(each.created_at), make("bdi", {}, each.reason)]), t("No disputes. If you were charged for an answer that is none, open its job and dispute the charge there.")),
  );
  draw(title(t("Disputes")), make("section", { class: "card" }, list));
}

export function disputeState(dispute) {
  const parts = [make("p", {}, stateBadge(dispute.status), " ", t("Opened"), " ", time(dispute.created_at)), make("blockquote", { dir: "auto" }, dispute.reason)];
  if (dispute.status === "open") parts.push(make("p", { class: "hint" }, t("An operator reads the output, the log and the times of the job, and decides.")));
  else parts.push(make("p", {}, t("Decided"), " ", time(dispute.decided_at), dispute.refund_halala ? make("span", {}, " · ", t("Refund"), " ", sum(dispute.refund_halala)) : ""), make("blockquote", { dir: "auto" }, dispute.note ?? ""));
  return parts;
}

function stateBadge(status) {
  const names = { open: t("waits for a decision"), upheld: t("upheld"), rejected: t("rejected") };
  const looks = { open: "queued", upheld: "completed", rejected: "failed" };
  return make("span", { class: `badge ${looks[status] ?? ""}` }, names[status] ?? status);
}
