// The provider's pages: earnings and withdrawals, jobs and those that were missed, the machine with its charts and its
// standing, rates and hours, and how it is set up.
import { api, badge, card, field, figure, inPages, input, latin, logInByNewKey, MICROS_PER_HALALA, money, onClick, onSubmit, problemPlace, read, sar, secretOnce, startViews, table, time, title, watch } from "./account.js";
import { Chart } from "./charts.js";
import { copy, make, once } from "./elements.js";
import { dayName, DAYS, failureName, kindName, lift, obstacleForOwner, outcomeName, standingName, standingReason, statusName, withdrawalState } from "./words.js";
import { number, t } from "./texts.js";

const EARNING_DAYS = 30;
const DAY_MS = 86_400_000;
const LOOK_SECONDS = 3; // while something is awaited
const WATCH_SECONDS = 15;
const RANGES = { "1h": 3600, "6h": 21_600, "24h": 86_400, "7d": 604_800 };
const MOST_LINES = 6; // GPUs in one chart

const halala = (amount) => money(amount * MICROS_PER_HALALA);
const hint = (...parts) => make("p", { class: "hint" }, ...parts);

// --- earnings ---

async function earnings(draw, live) {
  const [{ provider }, byDay, { withdrawals }] = await Promise.all([read("/providers/me"), read(`/providers/earnings?days=${EARNING_DAYS}`), read("/providers/withdrawals?page_size=20")]);
  const own = provider.earnings ?? {};
  const again = () => earnings(draw, live);
  const requests = make("div", { "aria-live": "polite" });
  showRequests(requests, withdrawals, again);
  draw(
    title(t("Earnings")),
    ...(provider.last_heartbeat_at ? [] : [make("p", { class: "notice" }, t("No daemon has connected yet."), " ", make("a", { href: "#setup" }, t("Set up the machine")))]),
    make("dl", { class: "figures" }, figure(t("Can be withdrawn"), money(own.claimable_micro_halala)), figure(t("Maturing"), money(own.maturing_micro_halala), own.maturing_hours ? t("Each payout matures for {hours} hours.", { hours: number(own.maturing_hours) }) : ""), figure(t("Waiting for a decision"), money(own.held_micro_halala)), figure(t("Today"), money(own.today_micro_halala)), figure(t("This week"), money(own.this_week_micro_halala)), figure(t("In all"), money(own.total_micro_halala))),
    ...(own.debt_halala ? [make("p", { class: "notice" }, t("You owe the market:"), " ", halala(own.debt_halala))] : []),
    make("section", { class: "card" }, earningsChart(byDay).element),
    ...maturing(own, byDay.days),
    make("div", { class: "ways" }, withdrawalForm(own, again), card(t("Withdrawals"), requests)),
  );
  let shown = states(withdrawals);
  let isOpen = withdrawals.some(isWaiting);
  watch(live, () => WATCH_SECONDS, async () => {
    if (!isOpen) return;
    const now = (await api("GET", "/providers/withdrawals?page_size=20")).withdrawals;
    isOpen = now.some(isWaiting);
    if (states(now) === shown) return;
    shown = states(now);
    showRequests(requests, now, again);
  });
}

const isWaiting = ({ status }) => status === "pending" || status === "processing";
const states = (withdrawals) => withdrawals.map(({ id, status }) => `${id} ${status}`).join();

function earningsChart(byDay) {
  const days = [...byDay.days].reverse();
  const kinds = Object.entries(byDay.by_job_type_micro ?? {}).sort(([, a], [, b]) => Number(b) - Number(a)).map(([kind]) => kind);
  const chart = new Chart(t("Earnings by day and kind of job"), { say: sar, bars: true, days: true, empty: t("Nothing was earned in these days.") });
  chart.show(days.map(({ date }) => Date.parse(date)), kinds.map((kind) => ({ name: kindName(kind), values: days.map((day) => Number(day.by_job_type_micro?.[kind] ?? 0)) })));
  return chart;
}

/** What matures when: the newest payouts are those that still mature, each day's a fixed time after it. */
function maturing(own, days) {
  let left = Number(own.maturing_micro_halala ?? 0);
  if (!left || !own.maturing_hours) return [];
  const rows = [];
  for (const day of days) {
    const part = Math.min(left, Number(day.earned_micro_halala));
    left -= part;
    if (part) rows.unshift([time(new Date(Date.parse(day.date) + DAY_MS + own.maturing_hours * 3_600_000).toISOString()), money(part), latin(day.date)]);
  }
  if (left) rows.unshift([t("after a decision"), money(left), "–"]);
  return [card(t("What matures when"), table(t("What matures when"), [t("At the latest"), t("Amount"), t("Earned on")], rows, ""))];
}

function showRequests(place, withdrawals, again) {
  const problem = problemPlace();
  const rows = withdrawals.map((each) => [time(each.created_at), halala(each.amount_halala), latin(`…${each.iban_last4}`), make("span", { class: `badge ${{ paid: "completed", rejected: "failed" }[each.status] ?? "queued"}` }, withdrawalState(each.status)), each.reference || each.reason || "–", each.status === "pending" ? cancelButton(each, problem, again) : "–"]);
  place.replaceChildren(problem, table(t("Withdrawals"), [t("Requested"), t("Amount"), t("Account"), t("State"), t("Note"), t("Cancel")], rows, t("No withdrawals yet. What has matured can be sent to your bank account.")));
}

function cancelButton(withdrawal, problem, again) {
  const key = once();
  const attributes = { type: "button", class: "small danger", "aria-label": t("Cancel the withdrawal of {amount}", { amount: sar(withdrawal.amount_halala * MICROS_PER_HALALA) }) };
  return onClick(make("button", attributes, t("Cancel")), problem, async () => {
    await api("POST", `/providers/withdrawals/${withdrawal.id}/cancel`, {}, { headers: { "idempotency-key": key } });
    await again();
  });
}

function withdrawalForm(own, again) {
  const most = Math.floor(Number(own.claimable_micro_halala ?? 0) / MICROS_PER_HALALA);
  const amount = input("amount", { type: "number", dir: "ltr", min: "10", max: most >= 1000 ? String(most / 100) : undefined, step: "0.01", required: true });
  const iban = input("iban", { dir: "ltr", required: true, maxlength: "40", spellcheck: "false", autocapitalize: "characters", placeholder: "SA03 8000 0000 6080 1016 7519" });
  const problem = problemPlace();
  const form = make("form", { class: "stack" }, field(t("Amount in SAR"), amount, t("At least 10 SAR.")), field(t("IBAN of a Saudi bank account"), iban), problem, make("button", { class: "primary" }, t("Continue")));
  const place = card(t("Withdraw"), form);
  onSubmit(form, problem, async () => {
    const confirm = confirmation({ halala: Math.round(Number(amount.value) * 100), iban: iban.value.replace(/\s/g, "").toUpperCase(), most }, () => place.replaceChild(form, confirm), again);
    place.replaceChild(confirm, form);
    confirm.focus();
  });
  return place;
}

/** The exact amount, fee and account, before anything is requested. */
function confirmation(asked, back, again) {
  const problem = problemPlace();
  const change = make("button", { type: "button" }, t("Change it"));
  change.addEventListener("click", back);
  const left = asked.most - asked.halala;
  const rows = [[t("Amount"), halala(asked.halala)], [t("Fee"), halala(0)], [t("Arrives at the bank"), halala(asked.halala)], [t("Account"), latin(asked.iban.replace(/.{4}(?=.)/g, "$& "))], ...(left >= 0 ? [[t("Left to withdraw"), halala(left)]] : [])];
  const form = make("form", { class: "stack confirm", tabindex: "-1", "aria-label": t("Confirm the withdrawal") }, make("dl", { class: "bill-lines" }, ...rows.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)))), hint(t("An operator orders the transfer. Until then you can cancel it here.")), problem, make("div", { class: "buttons" }, make("button", { class: "primary" }, t("Request the withdrawal")), change));
  const key = once(); // asking twice for the same is one request
  onSubmit(form, problem, async () => {
    await api("POST", "/providers/withdrawals", { amount_halala: asked.halala, iban: asked.iban }, { headers: { "idempotency-key": key } });
    await again();
  });
  return form;
}

// --- jobs ---

async function jobs(draw) {
  const [found, missed, { provider }] = await Promise.all([read("/providers/jobs?page_size=50"), read("/providers/missed-jobs?limit=50"), read("/providers/me")]);
  const history = await read(`/providers/${provider.id}/history?page_size=100`);
  draw(title(t("Jobs")), make("section", { class: "card" }, await jobList(found)), ...missedJobs(missed, history.attempts.filter(({ counts }) => counts === "against")));
}

function jobList(first) {
  let given = first;
  return inPages(
    async (before) => {
      const { jobs: items, next_before_job_id: next } = given ?? (await api("GET", `/providers/jobs?page_size=50&before_job_id=${encodeURIComponent(before)}`));
      given = undefined;
      return { items, next };
    },
    (found) => table(t("Jobs"), [t("Job"), t("State"), t("Model"), t("Started"), t("Your share")], found.map((job) => [latin(job.job_id), badge(job.status), job.model ? latin(job.model) : kindName(job.job_type), time(job.started_at), money(job.billing?.provider_micro_halala)]), t("No jobs yet. Set up the machine, and offers come by themselves.")),
  );
}

/** What waits without this machine, the offers that it did not take, and the attempts that count against it. */
function missedJobs({ waiting, offers }, failed) {
  const now = waiting.map(({ obstacle, job_type: kind, needs }) => [kindName(kind), obstacleForOwner({ code: obstacle }), number(needs)]);
  const past = [...offers.map((each) => [each.ended_at, each.job_type, outcomeName(each.outcome), each.message]), ...failed.map((each) => [each.ended_at, each.job_type, outcomeName(each.outcome), each.failure_reason ? failureName(each.failure_reason) : ""])];
  past.sort(([a], [b]) => (a < b ? 1 : -1));
  return [
    card(t("Jobs that wait now without you"), table(t("Jobs that wait now without you"), [t("Kind of job"), t("Why"), t("Different jobs")], now, t("Nothing waits that this machine could run."))),
    card(t("Jobs that you missed"), hint(t("Offers that the daemon did not take, and attempts that ended without pay, newest first.")), table(t("Jobs that you missed"), [t("When"), t("Kind of job"), t("What happened"), t("Note")], past.map(([at, kind, what, note]) => [time(at), kindName(kind), what, note ? make("bdi", {}, note) : "–"]), t("You missed none."))),
  ];
}

// --- the machine ---

async function machine(draw, live) {
  const { provider } = await read("/providers/me");
  const problem = problemPlace();
  const again = () => machine(draw, live);
  const isPaused = provider.status === "paused";
  const toggle = onClick(make("button", { type: "button" }, isPaused ? t("Take jobs again") : t("Pause")), problem, async () => {
    await api("POST", `/providers/${isPaused ? "resume" : "pause"}`, {});
    await again();
  });
  const gpus = gpuCharts(provider, live);
  draw(
    title(make("bdi", {}, provider.name), make("span", { class: `badge ${provider.status}` }, statusName(provider.status)), toggle),
    problem,
    make("dl", { class: "figures" }, figure(t("GPU"), provider.gpu_model ? latin(provider.gpu_model) : t("none reported")), figure(t("Last heartbeat"), time(provider.last_heartbeat_at)), figure(t("Jobs"), number(provider.total_jobs)), figure(t("Reliability"), provider.reliability === undefined ? "–" : number(provider.reliability, { style: "percent", maximumFractionDigits: 1 }), t("of {count} attempts", { count: number(provider.reliability_attempts) }))),
    gpus.element,
    standingCard(provider.standing ?? {}),
    card(t("What keeps jobs away"), provider.hindrances.length ? make("ul", { class: "reasons" }, ...provider.hindrances.map((each) => make("li", {}, obstacleForOwner(each)))) : make("p", {}, t("Nothing."))),
  );
  await gpus.show();
}

/** Four charts of the GPUs over a chosen time, kept up to date. */
function gpuCharts(provider, live) {
  const devices = provider.gpu_status?.all_gpus ?? [];
  const capacity = Math.max(0, ...devices.map((each) => Number(each.gpu_vram_mib ?? 0))) / 1024;
  const charts = [
    [new Chart(t("Utilization"), { say: (value) => t("{value} %", { value: number(value, { maximumFractionDigits: 0 }) }), most: 100 }), (point) => point.gpu_util_pct],
    [new Chart(t("Memory"), { say: (value) => t("{value} GiB", { value: number(value, { maximumFractionDigits: 1 }) }), most: capacity }), (point) => point.memory_used_mb / 1024],
    [new Chart(t("Temperature"), { say: (value) => t("{value} °C", { value: number(value, { maximumFractionDigits: 0 }) }) }), (point) => point.temp_c],
    [new Chart(t("Power"), { say: (value) => t("{value} W", { value: number(value, { maximumFractionDigits: 0 }) }) }), (point) => point.power_w],
  ];
  let range = "1h";
  let chosen = "";
  const problem = problemPlace();
  const gpu = make("select", { id: "gpu", "aria-label": t("GPU"), hidden: true });
  const show = async () => {
    const asked = range;
    const found = await read(`/providers/metrics?range=${asked}`, () => live.is);
    if (asked !== range) return; // another was chosen meanwhile
    const names = found.gpus.map((each) => [each.uuid || String(each.index), `GPU ${each.index}${each.gpu_name ? ` · ${each.gpu_name}` : ""}`]);
    gpu.hidden = found.gpus.length <= MOST_LINES;
    if (!gpu.hidden && !names.some(([id]) => id === chosen)) chosen = names[0][0];
    gpu.replaceChildren(...names.map(([id, name]) => make("option", { value: id, selected: id === chosen }, name)));
    const shown = found.gpus.filter((each, i) => gpu.hidden || names[i][0] === chosen);
    const times = timesOf(found, RANGES[asked]);
    for (const [chart, valueOf] of charts) chart.show(times, shown.map((each) => ({ name: names[found.gpus.indexOf(each)][1], values: onGrid(times, each.points, valueOf) })));
  };
  gpu.addEventListener("change", () => {
    chosen = gpu.value;
    show();
  });
  const ranges = Object.keys(RANGES).map((name) => {
    const button = make("button", { type: "button", "aria-pressed": String(name === range) }, latin(name));
    return onClick(button, problem, async () => {
      range = name;
      for (const each of ranges) each.setAttribute("aria-pressed", String(each === button));
      await show();
    });
  });
  watch(live, () => (range === "1h" ? WATCH_SECONDS : 4 * WATCH_SECONDS), show);
  const head = make("div", { class: "head" }, make("h2", {}, t("GPUs")), gpu, make("div", { class: "ranges", role: "group", "aria-label": t("Time range") }, ...ranges));
  return { show, element: make("section", { class: "card" }, head, problem, make("div", { class: "gpu-charts" }, ...charts.map(([chart]) => chart.element))) };
}

/** The beginnings of all periods of a range that ends now, on the grid of the answer's points. */
function timesOf({ gpus, point_seconds: seconds }, length) {
  const step = seconds * 1000;
  const newest = Math.max(...gpus.flatMap(({ points }) => points.slice(-1).map(({ at }) => Date.parse(at))));
  if (!Number.isFinite(newest)) return [];
  const last = Math.max(newest, Date.now() - ((Date.now() - newest) % step));
  const count = Math.round((length * 1000) / step);
  return Array.from({ length: count }, (_, i) => last - (count - 1 - i) * step);
}

function onGrid(times, points, valueOf) {
  const values = new Map(points.map((point) => [Date.parse(point.at), valueOf(point)]));
  return times.map((at) => (Number.isFinite(values.get(at)) ? values.get(at) : null));
}

function standingCard(standing) {
  const reasons = (standing.reasons ?? []).map((each) => make("li", {}, standingReason(each.code)));
  const missing = (standing.missing ?? []).map((each) => {
    const { has, needs } = each;
    const isShare = Number(needs) > 0 && has !== undefined && !["IMPOSSIBLE_REPORTS", "UNRELIABLE"].includes(each.code);
    return make("li", {}, lift(each), isShare ? make("progress", { max: String(needs), value: String(Math.min(has, needs)), "aria-label": lift(each) }) : "");
  });
  const allowed = [...(standing.slots === undefined ? [] : [t("{count} jobs at a time", { count: number(standing.slots) })]), ...(standing.value_halala === undefined ? [] : [t("open jobs up to {amount}", { amount: sar(standing.value_halala * MICROS_PER_HALALA) })])];
  return card(
    t("Standing"),
    make("p", {}, make("span", { class: `badge ${{ proven: "completed", trusted: "completed", banned: "failed", suspect: "failed" }[standing.standing] ?? "queued"}` }, standingName(standing.standing)), standing.since ? make("span", { class: "hint" }, " ", t("since"), " ", time(standing.since)) : ""),
    ...(allowed.length ? [hint(t("It allows: {what}", { what: allowed.join(t(", ")) }))] : []),
    list(t("Why"), reasons, "reasons"),
    list(standing.lifted_to ? t("What lifts it to “{standing}”", { standing: standingName(standing.lifted_to) }) : t("What lifts it"), missing, "lifts"),
  );
}

const list = (heading, items, kind) => (items.length ? make("div", {}, make("h3", {}, heading), make("ul", { class: kind }, ...items)) : "");

// --- rates and hours ---

async function terms(draw) {
  const [{ rates }, { settings }] = await Promise.all([read("/providers/rates"), read("/providers/settings")]);
  const again = () => terms(draw);
  draw(title(t("Rates and hours")), card(t("Rates"), hint(t("A job that names no provider is quoted the platform's rate and comes only to machines that ask no more. New rates count for new jobs.")), make("div", { class: "rates" }, ...rates.map((rate) => rateForm(rate, again)))), settingsForm(settings ?? {}));
}

const perMinute = (amount) => make("span", {}, halala(amount), " ", t("per minute"));

function rateForm(rate, again) {
  const kind = kindName(rate.job_type);
  const own = input(`rate-${rate.job_type}`, { type: "number", dir: "ltr", step: "0.01", min: String(rate.least_halala_per_minute / 100), max: String(rate.most_halala_per_minute / 100), required: true, value: (rate.halala_per_minute / 100).toFixed(2) });
  const problem = problemPlace();
  const said = make("p", { class: "hint", role: "status" });
  const strip = spreadStrip(rate);
  const weigh = () => {
    const asked = Math.round(Number(own.value) * 100);
    said.textContent = rateWords(rate, asked);
    strip.move(asked);
  };
  own.addEventListener("input", weigh);
  weigh();
  const set = async (body) => {
    await api("POST", "/providers/rates", { job_type: rate.job_type, ...body });
    await again();
  };
  const platform = rate.own ? onClick(make("button", { type: "button", "aria-label": `${t("Use the platform's rate")}: ${kind}` }, t("Use the platform's rate")), problem, () => set({ platform_rate: true })) : "";
  const form = make("form", { "aria-label": kind }, make("h3", {}, kind), make("p", { class: "hint" }, t("The platform's rate"), ": ", perMinute(rate.platform_halala_per_minute), rate.others ? ` · ${othersWords(rate.others)}` : ` · ${t("No other machine offers this now.")}`), strip.element, make("div", { class: "rate-row" }, field(t("Your rate, SAR per minute"), own, t("From {least} to {most}", { least: sar(rate.least_halala_per_minute * MICROS_PER_HALALA), most: sar(rate.most_halala_per_minute * MICROS_PER_HALALA) })), make("div", { class: "buttons" }, make("button", { "aria-label": `${t("Save")}: ${kind}` }, t("Save")), platform)), said, problem);
  onSubmit(form, problem, () => set({ halala_per_minute: Math.round(Number(own.value) * 100) }));
  return form;
}

function othersWords(others) {
  const say = (amount) => sar(amount * MICROS_PER_HALALA);
  return t("{count} others ask {lowest} to {highest}, half of them {median} or less", { count: number(others.providers), lowest: say(others.lowest_halala_per_minute), highest: say(others.highest_halala_per_minute), median: say(others.median_halala_per_minute) });
}

function rateWords(rate, asked) {
  const words = [];
  if (rate.others && asked > rate.others.highest_halala_per_minute) words.push(t("Above all others: whoever compares chooses another machine."));
  if (asked > rate.platform_halala_per_minute) words.push(t("Above the platform's rate: only jobs that name this machine come."));
  return words.join(" ");
}

/** Where a rate stands among those of others: a line from the lowest allowed to the highest, and the middle half as a box. */
function spreadStrip(rate) {
  const [from, to] = [Math.min(rate.least_halala_per_minute, rate.others?.lowest_halala_per_minute ?? Infinity), Math.max(rate.most_halala_per_minute, rate.others?.highest_halala_per_minute ?? 0)];
  const at = (amount) => `${(100 * Math.min(1, Math.max(0, (amount - from) / (to - from || 1)))).toFixed(2)}%`;
  const mark = make("span", { class: "own" });
  const parts = [mark];
  if (rate.others) {
    const [range, box] = [make("span", { class: "range" }), make("span", { class: "box" })];
    range.style.insetInlineStart = at(rate.others.lowest_halala_per_minute);
    range.style.inlineSize = `calc(${at(rate.others.highest_halala_per_minute)} - ${at(rate.others.lowest_halala_per_minute)} + 2px)`;
    box.style.insetInlineStart = at(rate.others.lower_quartile_halala_per_minute);
    box.style.inlineSize = `calc(${at(rate.others.upper_quartile_halala_per_minute)} - ${at(rate.others.lower_quartile_halala_per_minute)} + 4px)`;
    parts.unshift(range, box);
  }
  return { element: make("div", { class: "spread", "aria-hidden": "true" }, ...parts), move: (amount) => (mark.style.insetInlineStart = at(amount)) };
}

function settingsForm(settings) {
  const rows = make("div", { class: "hours" });
  const add = (hours) => rows.append(hoursRow(hours, rows));
  for (const hours of settings.hours ?? []) add(hours);
  const more = make("button", { type: "button", class: "small" }, t("Add hours"));
  more.addEventListener("click", () => {
    add({ days: [], start: "22:00", end: "08:00" });
    rows.lastElementChild.querySelector("input").focus();
  });
  const zone = input("timezone", { dir: "ltr", maxlength: "64", spellcheck: "false", value: settings.timezone || Intl.DateTimeFormat().resolvedOptions().timeZone });
  const hottest = input("max-temp", { type: "number", dir: "ltr", min: "30", max: "120", step: "1", value: settings.max_temp_c });
  const reserve = input("reserve", { type: "number", dir: "ltr", min: "0", max: "9000", step: "0.1", value: settings.vram_reserve_mib ? String(Math.round((settings.vram_reserve_mib / 1024) * 10) / 10) : undefined });
  const problem = problemPlace();
  const said = make("p", { class: "hint", role: "status" });
  const form = make("form", { class: "stack" }, make("h3", {}, t("Hours")), hint(t("Without hours, the machine takes jobs at any time. Hours that end before they begin end on the next day.")), rows, make("p", {}, more), field(t("Time zone of the hours"), zone), make("h3", {}, t("Limits")), make("div", { class: "row" }, field(t("Hottest GPU, °C"), hottest, t("Empty: no limit.")), field(t("GPU memory for yourself, GiB"), reserve, t("Jobs use the rest."))), problem, said, make("button", { class: "primary" }, t("Save hours and limits")));
  onSubmit(form, problem, async () => {
    said.textContent = "";
    const hours = [...rows.children].map((row) => ({ days: [...row.querySelectorAll("[type=checkbox]:checked")].map(({ value }) => value), start: row.querySelector(".start").value, end: row.querySelector(".end").value }));
    const body = { hours, timezone: hours.length ? zone.value.trim() : "", vram_reserve_mib: Math.round(Number(reserve.value || 0) * 1024) };
    if (hottest.value) body.max_temp_c = Number(hottest.value);
    await api("POST", "/providers/settings", body);
    said.textContent = t("Saved. It counts for new jobs.");
  });
  return card(t("Hours and limits"), form);
}

let rowNumber = 0;

function hoursRow(hours, rows) {
  const id = (rowNumber += 1);
  const isChosen = new Set(hours.days ?? []);
  const days = DAYS.map((day) => make("label", {}, make("input", { type: "checkbox", value: day, checked: isChosen.has(day) }), dayName(day)));
  const remove = make("button", { type: "button", class: "small danger" }, t("Remove"));
  const row = make("fieldset", { class: "checks" }, make("legend", {}, t("Days (none: every day)")), ...days, make("div", { class: "row" }, field(t("From"), input(`start-${id}`, { type: "time", class: "start", required: true, value: hours.start })), field(t("To"), input(`end-${id}`, { type: "time", class: "end", required: true, value: hours.end === "24:00" ? "00:00" : hours.end })), make("div", { class: "buttons" }, remove)));
  remove.addEventListener("click", () => {
    const next = row.nextElementSibling ?? row.previousElementSibling;
    row.remove();
    (next?.querySelector("input") ?? rows.closest("form").querySelector("button.small")).focus();
  });
  return row;
}

// --- set-up ---

/** Steps with a command each, which a button copies. */
function steps(...all) {
  const items = all.map(([text, command]) => {
    const button = make("button", { type: "button", class: "small", "aria-label": `${t("Copy")}: ${text}` }, t("Copy"));
    button.addEventListener("click", () => copy(command, button, t("Copied"), t("Could not copy")));
    return make("li", {}, text, make("div", { class: "with-copy" }, make("pre", { dir: "ltr", tabindex: "0", role: "group", "aria-label": t("Command") }, command), button));
  });
  return make("ol", { class: "steps" }, ...items);
}

async function setup(draw, live) {
  const { dataset } = document.querySelector('.views a[href="#setup"]');
  const server = dataset.server || `${location.hostname}:${dataset.port}`;
  const asService = steps(
    [t("Install the daemon from a clone of the repository."), "sudo scripts/install-daemon"],
    [t("Set it up: it finds GPUs, Ollama, vLLM and Docker, and asks for your key. What you paste is not shown, and no history of commands keeps it."), `sudo dcp-daemon setup --server ${server}`],
    [t("Start it. This page notices by itself when it connects."), "sudo systemctl start dcp-daemon"],
  );
  const byHand = steps(
    [t("Install the daemon from a clone of the repository."), "pip install '.[daemon,llamacpp,gpu-proof]'"],
    [t("Paste your key when this waits for it: so no history of commands keeps it."), "read -rs DCP_PROVIDER_KEY && export DCP_PROVIDER_KEY"],
    [t("Name this market, and the models that the machine serves."), `export DCP_SERVER=${server}\nexport DCP_MODELS=Qwen/Qwen2.5-7B-Instruct=/models/qwen2.5-7b-instruct.gguf`],
    [t("Check the machine, then run the daemon."), "dcp-daemon doctor\ndcp-daemon run"],
  );
  const model = hint(t("No model server on the machine? Let its Ollama download a model:"), " ", make("code", { dir: "ltr" }, "sudo dcp-daemon setup --model llama3.2"));
  const waiting = make("section", { class: "card awaited", role: "status" });
  let shown;
  const look = ({ provider }) => {
    const isLive = Boolean(provider.connected);
    if (isLive !== shown) waiting.replaceChildren(...(isLive ? arrived(provider) : awaited(provider)));
    shown = isLive;
  };
  look(await read("/providers/me"));
  draw(title(t("Set-up")), waiting, make("section", { class: "card" }, asService, model), make("details", { class: "card" }, make("summary", {}, t("By hand, without systemd")), byHand), keyCard());
  watch(live, () => (shown ? WATCH_SECONDS : LOOK_SECONDS), async () => look(await api("GET", "/providers/me")));
}

const awaited = (provider) => [make("p", {}, make("span", { class: "spinner", "aria-hidden": "true" }), make("strong", {}, t("Waiting for your daemon…"))), hint(provider.status === "pending_approval" ? t("An operator approves the machine before its daemon can connect.") : t("This page notices by itself when it connects."))];

const arrived = (provider) => [
  make("p", {}, make("span", { class: "dot", "aria-hidden": "true" }), make("strong", {}, t("Your daemon is connected.")), " ", make("bdi", {}, provider.name)),
  make("p", {}, provider.gpu_model ? latin(provider.gpu_model) : t("No GPU reported"), " · ", provider.models.length ? latin(provider.models.slice(0, 5).join(", ")) : t("no models")),
  make("p", {}, make("a", { href: "#machine" }, t("Look at the machine")), " · ", make("a", { href: "#terms" }, t("Set rates and hours"))),
];

function keyCard() {
  const made = make("div", {});
  const key = input("present-key", { type: "password", dir: "ltr", required: true, maxlength: "512", spellcheck: "false" });
  const problem = problemPlace();
  const form = make("form", { class: "stack" }, field(t("Present key"), key), problem, make("button", { class: "danger" }, t("Replace the key")));
  onSubmit(form, problem, async () => {
    const answer = await api("POST", "/providers/keys/rotate", { grace_seconds: 0 }, { headers: { "x-provider-key": key.value.trim() }, quiet: true });
    key.value = "";
    made.replaceChildren(secretOnce(answer.api_key, copy));
    await logInByNewKey(answer.api_key);
  });
  return card(t("New key"), hint(t("Your key was shown when the account was opened. A new one is shown once here; the present one ends at once.")), made, form, make("p", {}, make("a", { href: "/log-in?role=provider#lost" }, t("I lost my key"))));
}

startViews({ earnings, jobs, machine, terms, setup }, "earnings");
