// The renter's keys: what each may do and spend, new ones, their limits and their end.
import { api, card, field, input, latin, logInByNewKey, MICROS_PER_HALALA, money, onSubmit, problemPlace, read, secretOnce, table, time, title } from "./account.js";
import { copy, make } from "./elements.js";
import { bar, halala, sureButton } from "./renter-parts.js";
import { t } from "./texts.js";
import { scopeName } from "./words.js";

const PERIODS = ["day", "month", "total"];

export async function keys(draw, live) {
  const shown = make("div");
  const problem = problemPlace();
  const list = make("div");
  const editing = make("div");

  async function refresh() {
    const { keys: found } = await read("/renters/keys?page_size=200", () => live.is);
    const rows = found.filter((key) => !key.revoked_at).map((key) => [key.main ? t("Main key") : make("bdi", {}, key.name), latin(`…${key.last4}`), key.main ? t("everything") : key.scopes.map(scopeName).join(" · "), limits(key), time(key.last_used_at), key.main ? "" : actions(key)]);
    list.replaceChildren(table(t("Keys"), [t("Name"), t("Ends with"), t("For"), t("Limits"), t("Last used"), t("Actions")], rows, t("No keys.")));
  }

  function actions(key) {
    const edit = make("button", { type: "button", class: "small", "aria-label": t("Limits of {name}", { name: key.name }) }, t("Limits"));
    edit.addEventListener("click", () => {
      editing.replaceChildren(limitsForm(key, async () => {
        editing.replaceChildren();
        await refresh();
      }));
      editing.querySelector("input").focus();
    });
    const revoke = sureButton(t("Revoke"), t("Really revoke?"), problem, async () => {
      await api("POST", `/renters/keys/${key.id}/revoke`, {});
      await refresh();
    }, { class: "small danger", "aria-label": t("Revoke {name}", { name: key.name }) });
    return make("div", { class: "buttons" }, edit, revoke);
  }

  draw(title(t("Keys")), shown, problem, make("section", { class: "card" }, list), editing, make("div", { class: "ways" }, newKeyForm(shown, refresh), rotateForm(shown)));
  await refresh();
}

function limits(key) {
  const names = { day: t("today"), month: t("this month"), total: t("in all") };
  const used = { day: key.used_today_micro_halala, month: key.used_this_month_micro_halala, total: key.used_in_total_micro_halala };
  const parts = PERIODS.filter((period) => key[budgetName(period)]).map((period) => {
    const most = key[budgetName(period)] * MICROS_PER_HALALA;
    return bar(names[period], used[period] ?? 0, most, [money(used[period]), " / ", money(most)]);
  });
  const lists = [...(key.allowed_models ?? []).map((model) => latin(model)), ...(key.allowed_providers ?? []).map((id) => make("span", {}, t("provider {id}", { id })))];
  if (lists.length) parts.push(make("p", { class: "hint" }, t("Only:"), " ", ...lists.flatMap((each, i) => (i ? [" · ", each] : [each]))));
  return parts.length ? make("div", { class: "limits" }, ...parts) : t("none");
}

const budgetName = (period) => (period === "total" ? "budget_halala_total" : `budget_halala_per_${period}`);

/** The fields of what a key may spend and use, and what they ask for. */
function limitFields(prefix, key = {}) {
  const names = { day: t("Budget per day in SAR"), month: t("Budget per month in SAR"), total: t("Budget in all in SAR") };
  const budgets = PERIODS.map((period) => input(`${prefix}-${period}`, { type: "number", dir: "ltr", min: "0.01", step: "0.01", value: key[budgetName(period)] ? String(key[budgetName(period)] / 100) : undefined }));
  const models = make("textarea", { id: `${prefix}-models`, dir: "ltr", rows: "2", spellcheck: "false" }, (key.allowed_models ?? []).join("\n"));
  const providers = input(`${prefix}-providers`, { dir: "ltr", pattern: "[0-9 ,]*", value: (key.allowed_providers ?? []).join(", ") });
  const parts = [make("div", { class: "row" }, ...budgets.map((each, i) => field(names[PERIODS[i]], each))), field(t("Only these models"), models, t("One on each line. Empty: any.")), field(t("Only these providers"), providers, t("Their numbers, with commas between. Empty: any."))];
  const body = () => {
    const asked = {};
    budgets.forEach((each, i) => {
      if (each.value) asked[budgetName(PERIODS[i])] = halala(each.value);
    });
    const named = models.value.split("\n").map((line) => line.trim()).filter(Boolean);
    if (named.length) asked.allowed_models = named;
    const ids = providers.value.split(/[ ,]+/).filter(Boolean).map(Number);
    if (ids.length) asked.allowed_providers = ids;
    return asked;
  };
  return { parts, body };
}

function limitsForm(key, done) {
  const { parts, body } = limitFields("limit", key);
  const problem = problemPlace();
  const form = make("form", { class: "stack" }, ...parts, problem, make("button", { class: "primary" }, t("Save the limits")));
  onSubmit(form, problem, async () => {
    await api("POST", `/renters/keys/${key.id}/limits`, body());
    await done();
  });
  return card(t("Limits of {name}", { name: key.name }), make("p", { class: "hint" }, t("Empty: no limit. They hold from the next job on.")), form);
}

function newKeyForm(shown, refresh) {
  const name = input("key-name", { required: true, maxlength: "100" });
  const scopes = ["inference", "read", "billing"].map((scope) => make("label", {}, make("input", { type: "checkbox", name: "scope", value: scope, checked: scope === "inference" }), scopeName(scope)));
  const { parts, body } = limitFields("new");
  const problem = problemPlace();
  const form = make("form", { class: "stack" }, field(t("Name"), name), make("fieldset", { class: "checks" }, make("legend", {}, t("For")), ...scopes), make("details", {}, make("summary", {}, t("What it may spend and use")), make("div", { class: "inner" }, ...parts)), problem, make("button", { class: "primary" }, t("Create the key")));
  onSubmit(form, problem, async () => {
    const chosen = [...form.querySelectorAll("[name=scope]:checked")].map((box) => box.value);
    const answer = await api("POST", "/renters/keys", { name: name.value.trim(), scopes: chosen, ...body() });
    shown.replaceChildren(secretOnce(answer.api_key, copy));
    form.reset();
    scrollTo(0, 0);
    await refresh();
  });
  return card(t("New key for a program"), form);
}

function rotateForm(shown) {
  const key = input("present-key", { type: "password", dir: "ltr", required: true, maxlength: "512", spellcheck: "false" });
  const problem = problemPlace();
  const form = make("form", { class: "stack" }, field(t("Present main key"), key), problem, make("button", { class: "danger" }, t("Replace the main key")));
  onSubmit(form, problem, async () => {
    const answer = await api("POST", "/renters/keys/rotate", { grace_seconds: 0 }, { headers: { "x-renter-key": key.value.trim() }, quiet: true });
    key.value = "";
    shown.replaceChildren(secretOnce(answer.api_key, copy));
    scrollTo(0, 0);
    await logInByNewKey(answer.api_key);
  });
  return card(t("New main key"), make("p", { class: "hint" }, t("The present one ends at once, and all other browsers are logged out.")), form, make("p", {}, make("a", { href: "/log-in?role=renter#lost" }, t("I lost my key"))));
}
