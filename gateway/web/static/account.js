// What the pages of an account share: requests by the browser's log-in, the dialog that renews it, money and times.
// Keys are never stored here: the log-in is a cookie that scripts cannot read.
import { byId, make, usable } from "./elements.js";
import { NoPasskey, answerPasskey } from "./passkeys.js";
import { number, t } from "./texts.js";

export const BASE = "/api/dc1";
const MICROS_PER_SAR = 100_000_000;
export const MICROS_PER_HALALA = 1_000_000;
const RETRY_SECONDS = [1, 2, 4, 8, 15];
const PASSING = new Set(["UNAVAILABLE", "STORE_UNAVAILABLE", "OVERLOADED", "OUTCOME_UNKNOWN", "TIMEOUT"]);
export const ROLES = { renter: { page: "/renter", path: "renters" }, provider: { page: "/provider", path: "providers" }, operator: { page: "/operator", path: "admin" } };

// The account that this page shows, once known, and what tells other tabs that another one has logged in or out.
let shownAccount;
let profile;
const channel = new BroadcastChannel("dcp-log-ins");

/** A request that the server refused, or that did not arrive: `code` is empty then. */
export class Refused extends Error {
  constructor(message, code = "", facts = {}) {
    super(message);
    this.code = code;
    this.facts = facts;
  }
}

/** Sends a request of ours; returns its JSON. If the log-in has ended, it asks for a new one and sends again.
 * It never sends again for another account: the page is then loaded anew. */
export async function api(method, path, body, { headers = {}, role = pageRole(), quiet = false } = {}) {
  for (;;) {
    const { status, answer } = await send(method, path, body, headers);
    if (status < 400) {
      if (role && path === profileOf(role)) await check(accountOf(role, answer));
      return answer;
    }
    const isOver = status === 401 && answer.code !== "WRONG_ROLE" && role && !quiet;
    if (!isOver) throw new Refused(answer.error ?? t("The server answered {status}.", { status }), answer.code, answer);
    await logInAgain(role);
  }
}

async function send(method, path, body, headers) {
  let answer;
  try {
    answer = await fetch(path.startsWith("/v1/") ? path : BASE + path, {
      method,
      headers: { ...(method === "GET" ? {} : typeOf(body)), ...headers },
      body: body === undefined || isRaw(body) ? body : JSON.stringify(body),
    });
  } catch {
    throw new Refused(t("The server cannot be reached. Check the connection and try again."));
  }
  const text = await answer.text();
  try {
    return { status: answer.status, answer: text ? plain(JSON.parse(text)) : {} };
  } catch {
    throw new Refused(t("The server answered {status}.", { status: answer.status }));
  }
}

const isRaw = (body) => body instanceof Blob || body instanceof FormData;

/** What a form of another site cannot send: a media type of ours, or a header beside a form. */
function typeOf(body) {
  if (body instanceof FormData) return { "dcp-page": "1" };
  return { "content-type": body instanceof Blob ? "application/octet-stream" : "application/json" };
}

/** An error of /v1, which has the form of another API, in the form of ours. */
function plain(answer) {
  return typeof answer.error === "object" && answer.error ? { ...answer.error, error: answer.error.message, code: answer.error.reason } : answer;
}

/** Reads until it succeeds. The account's profile, which the page has read first of all, is not read again for its first view. */
export function read(path, isWanted) {
  const known = profile && path === profileOf(pageRole()) ? profile : undefined;
  profile = undefined;
  return known ?? keepTrying(() => api("GET", path), isWanted);
}

/** Works until it succeeds: while the server is away the page says so, and goes on by itself.
 * Only for what may be sent twice. */
export async function keepTrying(work, isWanted = () => true) {
  for (let tries = 0; ; tries += 1) {
    try {
      const answer = await work();
      showAway(false);
      return answer;
    } catch (error) {
      const isAway = error instanceof Refused && (!error.code || PASSING.has(error.code));
      if (!isAway) throw error;
      showAway(true);
      await pauseAfter(tries);
      if (!isWanted()) throw error;
    }
  }
}

/** Waits longer after each failure in a row, up to a limit. */
export const pauseAfter = (tries) => pause(RETRY_SECONDS[Math.min(tries, RETRY_SECONDS.length - 1)]);

export const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

export function showAway(isAway) {
  const note = byId("away");
  if (!note) return;
  note.textContent = isAway ? t("The server cannot be reached now. This page tries again by itself.") : "";
  note.hidden = !isAway;
}

export const pageRole = () => document.body.dataset.role;

// --- whose page this is ---

const profileOf = (role) => `/${ROLES[role].path}/me`;
const accountOf = (role, answer) => String(answer[role].id);

/** Remembers whose this page is. If the browser is logged in to another account now, nothing goes on here. */
async function check(account) {
  shownAccount ??= account;
  if (account !== shownAccount) await startAnew();
}

/** Loads the page anew, and with it all that it keeps. Never resolves, so that nothing is sent meanwhile. */
function startAnew() {
  empty();
  location.reload();
  return new Promise(() => {});
}

function empty() {
  byId("content")?.replaceChildren();
  byId("log-in-again")?.replaceChildren();
}

channel.addEventListener("message", ({ data: { role, account } }) => {
  if (!pageRole()) return;
  if (role !== pageRole() || (shownAccount !== undefined && account !== shownAccount)) startAnew();
  else lookAgain?.();
});
// A page that the browser kept may show an account that has logged out since.
addEventListener("pageshow", ({ persisted }) => {
  if (persisted) startAnew();
});

// --- logging in ---

/** Logs in by a key, which is sent once and kept nowhere. */
export const logInByKey = (key, role) => send("POST", role === "operator" ? "/log-in/operator" : "/log-in", { api_key: key }, {}).then(entered);

/** Logs an operator in by a passkey of this browser. */
export async function logInByPasskey() {
  const asked = await send("POST", "/log-in/passkey/ask", {}, {}).then(accepted);
  return entered(await send("POST", "/log-in/passkey", await answerPasskey(asked), {}));
}

export const openInvitation = (invitation) => send("POST", "/invitation/open", { invitation }, {}).then(accepted);
export const acceptInvitation = (invitation, created) => send("POST", "/invitation/accept", { invitation, ...created }, {}).then(entered);
export const askByMail = (email, role) => send("POST", "/log-in/ask", { email, role }, {}).then(accepted);
export const redeemCode = (code) => send("POST", "/log-in/redeem", { code }, {}).then(entered);

/** Logs in by a key that was just made and that the page already shows: only this browser's log-in can fail. */
export async function logInByNewKey(key) {
  try {
    return await logInByKey(key);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    throw new Refused(t("The new key is valid; copy it. This browser could not be logged in with it: {problem}", { problem: error.message }), error.code, error.facts);
  }
}

function entered(sent) {
  const answer = { ...accepted(sent) };
  if (answer.operator) Object.assign(answer, { role: "operator", account_id: answer.operator.id });
  channel.postMessage({ role: answer.role, account: String(answer.account_id) });
  return answer;
}

function accepted({ status, answer }) {
  if (status < 400) return answer;
  throw new Refused(answer.error ?? t("The server answered {status}.", { status }), answer.code, answer);
}

/** Ends the log-in, here and in the other tabs, and leaves nothing of the account on the page. */
export async function logOut(everywhere) {
  const problem = byId("log-out-problem");
  problem.hidden = true;
  try {
    await api("POST", "/log-out", { everywhere }, { quiet: true });
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (error.code !== "INVALID_CREDENTIAL" && error.code !== "MISSING_CREDENTIAL") {
      problem.textContent = t("This browser is still logged in: {problem}", { problem: error.message });
      problem.hidden = false;
      return;
    }
  }
  channel.postMessage({});
  empty();
  location.replace("/log-in");
}

let waiting;
let lookAgain;

/** Shows the dialog over the page, where everything that was typed stays; resolves when somebody logged in. */
export function logInAgain(role) {
  waiting ??= new Promise((resolve) => {
    const dialog = byId("log-in-again");
    const done = async (account) => {
      await check(account);
      removeEventListener("focus", look);
      dialog.close();
      waiting = lookAgain = undefined;
      resolve();
    };
    // Another tab may have logged this browser in.
    const look = async () => {
      const { status, answer } = await send("GET", profileOf(role), undefined, {}).catch(() => ({ status: 0 }));
      if (status === 200 && waiting) await done(accountOf(role, answer));
    };
    lookAgain = look;
    dialog.replaceChildren(
      make("h2", { id: "log-in-title" }, t("Log in to go on")),
      make("p", {}, t("This browser is not logged in, or its log-in has ended. Nothing that you typed is lost.")),
      ...(role === "operator" ? [passkeyForm((answer) => done(String(answer.account_id)))] : []),
      keyForm(role, (answer) => done(String(answer.account_id))),
      ...(role === "operator" ? [] : [make("p", {}, make("a", { href: `/log-in?role=${role}`, target: "_blank", rel: "opener" }, t("Log in by e-mail, in a new tab")))]),
    );
    addEventListener("focus", look);
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.showModal();
  });
  return waiting;
}

/** The form for logging in by a key. */
export function keyForm(role, done) {
  const key = make("input", { type: "password", id: "key", dir: "ltr", autocomplete: "off", spellcheck: "false", required: true, maxlength: "512" });
  const problem = problemPlace();
  const button = make("button", { class: "primary" }, t("Log in"));
  const form = make("form", { class: "stack" }, field(t("Key of your account"), key, t("It begins with {prefix} and is sent once. This page does not keep it.", { prefix: `\u2066dcp-${role}-\u2069` })), problem, button);
  onSubmit(form, problem, async () => {
    const answer = await logInByKey(key.value.trim(), role);
    key.value = "";
    if (answer.role !== role) {
      location.assign(ROLES[answer.role].page);
      return;
    }
    await done(answer);
  });
  return form;
}

/** The button with which an operator logs in by a passkey. */
export function passkeyForm(done) {
  const problem = problemPlace();
  const form = make("form", { class: "stack" }, problem, make("button", { class: "primary" }, t("Log in with a passkey")));
  onSubmit(form, problem, async () => done(await logInByPasskey()));
  return form;
}

// --- forms ---

/** A label, its input, and a hint that screen readers read with it. */
export function field(label, input, hint) {
  const parts = [make("label", { for: input.id }, label), input];
  if (hint) {
    input.setAttribute("aria-describedby", `${input.id}-hint`);
    parts.push(make("p", { class: "hint", id: `${input.id}-hint` }, hint));
  }
  return make("div", { class: "field" }, ...parts);
}

/** Runs `work` while the button is disabled; what fails is said in `problem`. */
async function runFor(button, problem, work) {
  button.setAttribute("aria-disabled", "true");
  problem.hidden = true;
  try {
    await work();
  } catch (error) {
    say(problem, error);
  } finally {
    button.removeAttribute("aria-disabled");
  }
}

/** Runs `work` when the form is sent, one at a time; what fails is said in `problem`. */
export function onSubmit(form, problem, work) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = event.submitter ?? form.querySelector("button");
    if (form.getAttribute("aria-busy") === "true") return;
    form.setAttribute("aria-busy", "true");
    try {
      await runFor(button, problem, work);
    } finally {
      form.removeAttribute("aria-busy");
    }
  });
}

/** Runs `work` at a click, one at a time; what fails is said in `problem`. */
export function onClick(button, problem, work) {
  button.addEventListener("click", async () => {
    if (!button.hasAttribute("aria-disabled")) await runFor(button, problem, work);
  });
  return button;
}

/** Says in `problem` why something failed. Faults of ours are thrown. */
export function say(problem, error) {
  if (!(error instanceof Refused) && !(error instanceof NoPasskey)) throw error;
  problem.textContent = error.message;
  problem.hidden = false;
}

export function input(id, attributes = {}) {
  return make("input", { id, autocomplete: "off", ...attributes });
}

export function select(id, options) {
  return make("select", { id }, ...options.map(([value, label]) => make("option", { value }, label)));
}

// --- values for people ---

/** An amount of micros as SAR: at least two decimals, and as many as a small one needs. */
export const money = (micros) => make("bdi", { class: "money" }, sar(micros));

/** The same as text alone. */
export function sar(micros) {
  const amount = Number(micros ?? 0) / MICROS_PER_SAR;
  const small = amount !== 0 && Math.abs(amount) < 0.1;
  return number(amount, { style: "currency", currency: "SAR", minimumFractionDigits: 2, maximumFractionDigits: small ? 6 : 2 });
}

/** A time in the reader's own time zone. */
export function time(text) {
  if (!text) return "–";
  const format = new Intl.DateTimeFormat(`${document.documentElement.lang}-u-nu-latn`, { dateStyle: "medium", timeStyle: "short" });
  const words = format.format(new Date(text)).replace(/ (?=\S{1,2}$)/, "\u00a0"); // no line begins with the half of the day
  return make("time", { datetime: text }, words);
}

/** Code, names of models and ids, which run from left to right in both languages. */
export const latin = (text) => make("bdi", { dir: "ltr", class: "code" }, text);

/** A word for a job's state, with its colour. */
export function badge(state) {
  return make("span", { class: `badge ${state}` }, stateName(state));
}

export function stateName(state) {
  const names = {
    queued: t("waiting"),
    pending: t("offered"),
    assigned: t("starting"),
    running: t("running"),
    completed: t("completed"),
    failed: t("failed"),
    cancelled: t("cancelled"),
  };
  return names[state] ?? state;
}

/** What an operator may do, in words. */
export function roleName(role) {
  return { support: t("support"), finance: t("finance"), admin: t("admin") }[role] ?? role;
}

/** The heading of a view, with what belongs beside it. */
export const title = (text, ...more) => make("div", { class: "head" }, make("h1", {}, text), ...(more.length ? [make("div", { class: "buttons" }, ...more)] : []));

/** A part of a view, with its heading. */
export const card = (heading, ...parts) => make("section", { class: "card" }, make("h2", {}, heading), ...parts);

/** Where a form says what went wrong. */
export const problemPlace = () => make("p", { class: "wrong", role: "alert", hidden: true });

/** A figure with its name. */
export function figure(label, value, hint) {
  return make("div", { class: "figure" }, make("dt", {}, label), make("dd", {}, value, hint ? make("span", { class: "hint" }, hint) : ""));
}

/** A table that becomes a list of cards where it has no room. */
export function table(caption, heads, rows, empty) {
  if (!rows.length) return make("p", { class: "empty" }, empty);
  const body = rows.map((cells) => make("tr", {}, ...cells.map((cell, i) => make(i ? "td" : "th", i ? { "data-head": heads[i] } : { scope: "row", "data-head": heads[0] }, cell ?? "–"))));
  return make("table", { class: "rows" }, make("caption", { class: "unseen" }, caption), make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))), make("tbody", {}, ...body));
}

/** A list with a button for its older entries: `readPage(next)` returns `{items, next}`. */
export async function inPages(readPage, tableOf) {
  const found = [];
  const place = make("div");
  const problem = problemPlace();
  const more = make("button", { type: "button", hidden: true }, t("Show older"));
  let next;
  async function load() {
    const page = await readPage(next);
    found.push(...page.items);
    next = page.next;
    more.hidden = !next;
    place.replaceChildren(tableOf(found));
  }
  onClick(more, problem, load);
  await load();
  return make("div", {}, place, problem, more);
}

/** A secret that is shown once, with a button that copies it. */
export function secretOnce(secret, copy, lead = t("Copy this key now: it is shown only once.")) {
  const button = make("button", { type: "button" }, t("Copy"));
  button.addEventListener("click", () => copy(secret, button, t("Copied"), t("Could not copy")));
  return make("div", { class: "notice once", role: "status" }, make("p", {}, make("strong", {}, lead)), make("p", {}, make("code", { dir: "ltr", class: "whole" }, secret)), button);
}

// --- views ---

/** Does `look` every few seconds while the view is shown: not in a hidden tab, and after a pause once it has ended. What fails is
 * tried again. A view that is drawn anew watches anew, which ends the watch before. */
export async function watch(live, seconds, look) {
  live.unwatch?.();
  let isOver = false;
  let wake = () => {};
  const seen = () => document.hidden || wake();
  const end = () => {
    document.removeEventListener("visibilitychange", seen);
    isOver = true;
    wake();
  };
  document.addEventListener("visibilitychange", seen);
  live.whenLeft.push(end);
  live.unwatch = end;
  for (;;) {
    await pause(seconds());
    if (document.hidden && !isOver) await new Promise((resolve) => (wake = resolve));
    if (isOver) return;
    try {
      await look();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
    }
  }
}

/** A view whose module is loaded when it is shown first, or when the page has nothing else to do. */
export function later(load, name) {
  const loaded = () => load().catch(() => {
    throw new Refused(t("The server cannot be reached. Check the connection and try again."));
  });
  const view = async (draw, live, ...rest) => (await keepTrying(loaded, () => live.is))[name](draw, live, ...rest);
  return Object.assign(view, { load });
}

/** Shows the view that the address names, and the one after each change of it. `parents` names the view of the list to
 * which a view of one thing belongs. */
export function startViews(views, first, parents = { job: "jobs" }) {
  let leave = () => {};
  async function show() {
    const [name, ...rest] = location.hash.slice(1).split("/");
    const known = Object.hasOwn(views, name) ? name : first;
    leave();
    const live = { is: true, whenLeft: [] };
    leave = () => {
      live.is = false;
      live.whenLeft.forEach((each) => each());
    };
    for (const link of document.querySelectorAll(".views a")) {
      if (link.hash === `#${parents[known] ?? known}`) {
        link.setAttribute("aria-current", "page");
        link.scrollIntoView({ block: "nearest", inline: "nearest" });
      } else link.removeAttribute("aria-current");
    }
    const place = byId("view");
    place.setAttribute("aria-busy", "true");
    const draw = (...parts) => {
      if (live.is) place.replaceChildren(...parts);
    };
    try {
      if (shownAccount === undefined) profile = await read(profileOf(pageRole()), () => live.is);
      await views[known](draw, live, decodeURIComponent(rest.join("/")));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      draw(make("h1", {}, t("This cannot be shown")), make("p", { class: "wrong", role: "alert" }, error.message), error.code === "WRONG_ROLE" ? make("p", {}, make("a", { class: "button", href: "/log-in" }, t("Log in with another account"))) : "");
    }
    if (!live.is) return;
    place.removeAttribute("aria-busy");
    usable(known);
  }
  addEventListener("hashchange", async () => {
    delete document.documentElement.dataset.ready;
    await show();
    byId("content").focus({ preventScroll: true });
    scrollTo(0, 0);
  });
  byId("log-out")?.addEventListener("click", () => logOut(false));
  show().then(() => (window.requestIdleCallback ?? setTimeout)(() => Object.values(views).forEach((view) => view.load?.().catch(() => {}))));
}
