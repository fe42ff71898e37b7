// The statement of a renter's wallet for a month: every line, the balances at both ends, to print or to save.
import { figure, inPages, latin, money, problemPlace, read, say, select, table, time, title } from "./account.js";
import { make } from "./elements.js";
import { download } from "./renter-parts.js";
import { t } from "./texts.js";

const MONTHS = 24;
const PAGE = 200;
const JOB_KINDS = new Set(["hold", "refund", "storage", "forfeit"]);
let chosen = "";

export async function statement(draw, live) {
  const { renter } = await read("/renters/me", () => live.is);
  const months = monthsSince(renter.created_at);
  const month = select("month", months.map(({ value, name }) => [value, name]));
  if (months.some(({ value }) => value === chosen)) month.value = chosen;
  const problem = problemPlace();
  const place = make("div");
  const csv = download("", t("Download as CSV"));
  csv.className = "button";
  const print = make("button", { type: "button" }, t("Print"));
  print.addEventListener("click", () => window.print());
  let asking = 0;

  async function show() {
    const mine = ++asking;
    chosen = month.value;
    const { name, first, last } = months.find(({ value }) => value === month.value);
    const span = `from=${first}&to=${last}`;
    csv.href = `/api/dc1/renters/ledger.csv?${span}`;
    const figures = make("dl", { class: "figures" });
    const list = await inPages(
      async (before) => {
        const answer = await read(`/renters/ledger?${span}&page_size=${PAGE}${before ? `&before_id=${before}` : ""}`, () => live.is && mine === asking);
        return { items: answer.lines, next: answer.next_before_id };
      },
      (lines) => {
        figures.replaceChildren(...balances(lines));
        return table(t("Statement"), [t("Time"), t("What"), t("Job"), t("Amount"), t("Balance")], lines.map(row), t("The wallet did not change in this month."));
      },
    );
    if (!live.is || mine !== asking) return;
    place.replaceChildren(make("div", { class: "print-only" }, make("h1", {}, `${t("Statement")} · ${name}`), make("p", {}, make("bdi", {}, renter.name), " · ", make("bdi", {}, renter.email))), figures, make("section", { class: "card" }, list, make("p", { class: "hint" }, t("Months are those of UTC; times are yours."))));
  }

  month.addEventListener("change", () => {
    problem.hidden = true;
    show().catch((error) => live.is && say(problem, error));
  });
  draw(title(t("Statement"), csv, print), make("div", { class: "choose" }, make("label", { for: "month" }, t("Month")), month), problem, place);
  await show();
}

/** The months from now back to that of the registration, newest first, at most so many as fit a list. */
function monthsSince(registered) {
  const now = new Date();
  const from = new Date(registered);
  const found = [];
  for (let i = 0; i < MONTHS; i += 1) {
    const first = new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth() - i, 1));
    const last = new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth() - i + 1, 0));
    if (i && last < from) break;
    const name = new Intl.DateTimeFormat(`${document.documentElement.lang}-u-nu-latn`, { year: "numeric", month: "long", timeZone: "UTC" }).format(first);
    const [firstDay, lastDay] = [first, last].map((day) => day.toISOString().slice(0, 10));
    found.push({ value: firstDay.slice(0, 7), name, first: firstDay, last: lastDay });
  }
  return found;
}

/** The balances at both ends of the lines that were read, which are newest first, and what changed them. */
function balances(lines) {
  if (!lines.length) return [];
  const [newest, oldest] = [lines[0], lines.at(-1)];
  const sum = (which) => lines.reduce((total, line) => total + (which(line) ? line.amount_micro_halala : 0), 0);
  const isJob = ({ kind }) => JOB_KINDS.has(kind);
  return [figure(t("Balance before"), money(oldest.balance_micro_halala - oldest.amount_micro_halala)), figure(t("Added"), money(sum((line) => !isJob(line)))), figure(t("Jobs and storage"), money(sum(isJob)), t("With what is held for open jobs.")), figure(t("Balance after"), money(newest.balance_micro_halala))];
}

function row(line) {
  const job = line.job_id ? make("a", { href: `#job/${encodeURIComponent(line.job_id)}` }, latin(line.job_id)) : "";
  const charge = line.kind === "hold" && line.charged_micro_halala !== undefined ? make("span", { class: "hint" }, " ", t("cost:"), " ", money(line.charged_micro_halala)) : "";
  return [time(line.time), make("span", {}, kindName(line.kind), charge), job, money(line.amount_micro_halala), money(line.balance_micro_halala)];
}

function kindName(kind) {
  const names = {
    credit: t("credited by the operator"),
    topup: t("topped up"),
    hold: t("held for a job"),
    refund: t("returned after a job"),
    forfeit: t("given up with the account"),
    storage: t("storage of a day"),
    dispute_refund: t("refund after a dispute, from the provider"),
    fee_refund: t("refund after a dispute, from the market"),
  };
  return names[kind] ?? kind;
}
