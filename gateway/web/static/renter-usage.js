// What a renter's jobs used: by day, by model and by key, for a time that is chosen, as charts, tables and CSV.
import { card, figure, latin, money, problemPlace, read, say, select, table, title } from "./account.js";
import { Chart } from "./charts.js";
import { make } from "./elements.js";
import { download } from "./renter-parts.js";
import { number, t } from "./texts.js";

const DAY_MS = 86_400_000;
const MOST_PAGES = 10;
const SHOWN_SERIES = 5;
const BROWSER = "browser";
// What was chosen stays while other views are shown.
const chosen = { days: "30", by: "model" };

export async function usage(draw, live) {
  const days = select("days", [["7", t("7 days")], ["30", t("30 days")], ["90", t("90 days")], ["365", t("a year")]]);
  const by = select("by", [["model", t("Model")], ["key", t("Key")]]);
  [days.value, by.value] = [chosen.days, chosen.by];
  const problem = problemPlace();
  const place = make("div");
  const csv = download("", t("Download as CSV"));
  csv.className = "button";
  const choose = make("div", { class: "choose" }, make("label", { for: "days" }, t("Time")), days, make("label", { for: "by" }, t("By")), by);
  let asking = 0;

  async function show() {
    const mine = ++asking;
    Object.assign(chosen, { days: days.value, by: by.value });
    const last = Math.floor(Date.now() / DAY_MS);
    const first = last - Number(days.value) + 1;
    const span = `from=${dateOf(first)}&to=${dateOf(last)}`;
    csv.href = `/api/dc1/renters/usage.csv?${span}`;
    const isWanted = () => live.is && mine === asking;
    const [{ rows: daily, isCut }, { rows }] = await Promise.all([everything(`${span}&group_by=day&group_by=${by.value}`, isWanted), everything(`${span}&group_by=${by.value}`, isWanted)]);
    if (!isWanted()) return;
    const groups = byCost(together(rows, by.value));
    const sum = (name) => groups.reduce((total, row) => total + row[name], 0);
    const chart = new Chart(t("Spending by day"), { say: (micros) => money(micros).textContent, bars: true, days: true, empty: t("Nothing was charged in these days.") });
    place.replaceChildren(
      make("dl", { class: "figures" }, figure(t("Spent"), money(sum("charged_micro_halala"))), figure(t("Jobs"), number(sum("jobs"))), figure(t("Tokens in"), number(sum("input_tokens"))), figure(t("Tokens out"), number(sum("output_tokens")))),
      make("section", { class: "card" }, chart.element, isCut ? make("p", { class: "notice" }, t("These are the first {count} days and groups. The CSV file has all.", { count: number(daily.length) })) : ""),
      card(by.value === "model" ? t("By model") : t("By key"), groupTable(groups, by.value)),
    );
    chart.show(...seriesOf(daily, groups, by.value, first, last));
  }

  for (const each of [days, by]) each.addEventListener("change", () => {
    problem.hidden = true;
    show().catch((error) => live.is && say(problem, error));
  });
  draw(title(t("Usage"), csv), choose, problem, place);
  await show();
}

const dateOf = (day) => new Date(day * DAY_MS).toISOString().slice(0, 10);

/** All rows, up to a bound. */
async function everything(asked, isWanted) {
  const rows = [];
  let after = "";
  for (let pages = 0; pages < MOST_PAGES; pages += 1) {
    const answer = await read(`/renters/usage?${asked}&page_size=1000${after ? `&after=${encodeURIComponent(after)}` : ""}`, isWanted);
    rows.push(...answer.rows);
    if (!answer.next_after) return { rows, isCut: false };
    after = answer.next_after;
  }
  return { rows, isCut: true };
}

/** What a row belongs to. All log-ins of browsers count together, and all main keys; each is a key of its own. */
function groupOf(row, by) {
  if (by === "model") return row.model ?? "";
  if (!row.key_name) return "main";
  return row.key_name === BROWSER ? BROWSER : String(row.key_id);
}

function together(rows, by) {
  const found = new Map();
  for (const row of rows) {
    const group = groupOf(row, by);
    const sum = found.get(group);
    if (!sum) found.set(group, { ...row, group });
    else for (const name of ["jobs", "input_tokens", "output_tokens", "charged_micro_halala"]) sum[name] += row[name];
  }
  return [...found.values()];
}

const byCost = (groups) => groups.sort((one, other) => other.charged_micro_halala - one.charged_micro_halala);

function nameOf(row, by) {
  if (by === "model") return row.model || t("without a model");
  return { main: t("Main key"), [BROWSER]: t("In the browser") }[row.group] ?? row.key_name;
}

/** The days and, for the dearest groups and for all others together, what each cost on each day. */
function seriesOf(daily, groups, by, first, last) {
  const times = Array.from({ length: last - first + 1 }, (_, i) => (first + i) * DAY_MS);
  const own = groups.slice(0, SHOWN_SERIES);
  const places = new Map(own.map((row, i) => [row.group, i]));
  const series = own.map((row) => ({ name: nameOf(row, by), values: times.map(() => 0) }));
  if (groups.length > own.length) series.push({ name: t("All others"), values: times.map(() => 0) });
  for (const row of daily) {
    const at = Date.parse(row.date) / DAY_MS - first;
    const values = series[places.get(groupOf(row, by)) ?? own.length]?.values;
    if (values?.[at] !== undefined) values[at] += row.charged_micro_halala;
  }
  return [times, series];
}

function groupTable(groups, by) {
  const heads = [by === "model" ? t("Model") : t("Key"), t("Jobs"), t("Tokens in"), t("Tokens out"), t("Cost")];
  const rows = groups.map((row) => [by === "model" ? latin(nameOf(row, by)) : make("bdi", {}, nameOf(row, by)), number(row.jobs), number(row.input_tokens), number(row.output_tokens), money(row.charged_micro_halala)]);
  return table(by === "model" ? t("By model") : t("By key"), heads, rows, t("Nothing was charged in these days. Try a model in the playground."));
}
