// The log-in page: by a mailed link or code, by a key; a new account; and a lost key.
import { Refused, ROLES, api, askByMail, field, input, keyForm, logInByNewKey, onSubmit, passkeyForm, redeemCode, secretOnce, time } from "./account.js";
import { byId, copy, make, usable } from "./elements.js";
import { t } from "./texts.js";

const LONGEST_CODE = 100;
const place = byId("log-in");
const asked = new URLSearchParams(location.search).get("role");
let role = Object.hasOwn(ROLES, asked ?? "") ? asked : "renter";

for (const radio of document.querySelectorAll("input[name=role]")) {
  radio.checked = radio.value === role;
  radio.addEventListener("change", () => {
    role = radio.value;
    show();
  });
}
addEventListener("hashchange", show);

async function start() {
  const code = location.hash.slice(1);
  if (/^[a-z0-9]{20,40}$/.test(code)) {
    history.replaceState(null, "", location.pathname + location.search); // the code is used up, and not kept in the history
    const said = make("p", { role: "status" }, t("Logging in…"));
    place.replaceChildren(said);
    try {
      enter(await redeemCode(code));
      return;
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      show();
      place.prepend(make("p", { class: "wrong notice-wrong", role: "alert" }, linkProblem(error)));
      usable("log-in");
      return;
    }
  }
  show();
  usable("log-in");
}

function enter(answer) {
  location.assign(ROLES[answer.role].page);
}

function linkProblem(error) {
  if (error.code !== "WRONG_CODE") return error.message;
  return t("This link was used, is older than 15 minutes, or was asked for in another browser. Ask for another one here.");
}

function show() {
  const view = { "#new": newAccount, "#lost": lostKey }[location.hash] ?? logIn;
  place.replaceChildren(...(role === "operator" ? operatorLogIn() : view()));
}

function logIn() {
  return [
    make("div", { class: "ways" }, mailForm(), make("section", { class: "card", "aria-labelledby": "by-key" }, make("h2", { id: "by-key" }, t("With the key")), keyForm(role, () => location.assign(ROLES[role].page)))),
    make("p", { class: "more" }, make("a", { href: "#new" }, t("Open an account")), " · ", make("a", { href: "#lost" }, t("I lost my key"))),
  ];
}

function operatorLogIn() {
  const enterIt = () => location.assign(ROLES.operator.page);
  const byPasskey = make("section", { class: "card", "aria-labelledby": "by-passkey" }, make("h2", { id: "by-passkey" }, t("With a passkey")), make("p", {}, t("Your device asks for your fingerprint, face or PIN.")), passkeyForm(enterIt));
  const byKey = make("section", { class: "card", "aria-labelledby": "by-key" }, make("h2", { id: "by-key" }, t("With a key of yours")), keyForm("operator", enterIt));
  return [make("div", { class: "ways" }, byPasskey, byKey), make("p", { class: "more" }, t("No passkey, or it is lost? An admin of this market sends you a new invitation."))];
}

function problemPlace() {
  return make("p", { class: "wrong", role: "alert", hidden: true });
}

function emailField(id) {
  return input(id, { type: "email", dir: "ltr", required: true, maxlength: "254", autocomplete: "email" });
}

function mailForm() {
  const email = emailField("email");
  const problem = problemPlace();
  const section = make("section", { class: "card", "aria-labelledby": "by-mail" });
  const form = make("form", { class: "stack" }, field(t("E-mail address"), email), problem, make("button", { class: "primary" }, t("Send me a link")));
  onSubmit(form, problem, async () => {
    await askByMail(email.value.trim(), role);
    section.replaceChildren(...codeForm(email.value.trim()));
    byId("code").focus();
  });
  section.append(make("h2", { id: "by-mail" }, t("By e-mail")), form);
  return section;
}

function codeForm(email) {
  const code = input("code", { dir: "ltr", required: true, maxlength: String(LONGEST_CODE), autocomplete: "one-time-code", spellcheck: "false" });
  const problem = problemPlace();
  const form = make("form", { class: "stack" }, field(t("Code of the letter"), code), problem, make("button", { class: "primary" }, t("Log in")));
  onSubmit(form, problem, async () => enter(await redeemCode(code.value)));
  return [
    make("h2", { id: "by-mail" }, t("Look at your mail")),
    make("p", { role: "status" }, t("If {email} is the proven address of an account, a letter is on its way. Open its link in this browser within 15 minutes, or type its code here.", { email })),
    form,
  ];
}

function newAccount() {
  const name = input("name", { required: true, maxlength: "200", autocomplete: "organization" });
  const email = emailField("new-email");
  const problem = problemPlace();
  const form = make("form", { class: "stack" }, field(t("Name"), name, role === "provider" ? t("Renters see it.") : ""), field(t("E-mail address"), email), problem, make("button", { class: "primary" }, t("Open the account")));
  const section = make("section", { class: "card narrow", "aria-labelledby": "new-title" }, make("h2", { id: "new-title" }, t("Open an account")), form);
  onSubmit(form, problem, async () => {
    const answer = await api("POST", `/${ROLES[role].path}/register`, { name: name.value.trim(), email: email.value.trim() }, { role: "" });
    const next = make("div", { role: "status" });
    section.replaceChildren(make("h2", {}, t("Your account is open")), secretOnce(answer.api_key, copy), problem, next);
    await logInByNewKey(answer.api_key);
    next.replaceChildren(make("p", {}, t("Programs use it. This browser is logged in already.")), make("a", { class: "button primary", href: ROLES[role].page + (role === "provider" ? "#setup" : "") }, t("I saved it, go on")));
  });
  return [section, back()];
}

function lostKey() {
  const email = emailField("lost-email");
  const problem = problemPlace();
  const form = make("form", { class: "stack" }, field(t("E-mail address"), email), problem, make("button", { class: "primary" }, t("Send me a code")));
  const section = make("section", { class: "card narrow", "aria-labelledby": "lost-title" }, make("h2", { id: "lost-title" }, t("A new key for a lost one")), make("p", {}, t("You get a code by mail. It gives a new key after a delay, in which whoever has the present key can cancel.")), form, redeemLost());
  onSubmit(form, problem, async () => {
    await api("POST", "/accounts/lost-key", { email: email.value.trim(), role }, { role: "" });
    form.replaceChildren(make("p", { role: "status" }, t("If this is the address of an account, a letter is on its way.")));
  });
  return [section, back()];
}

function redeemLost() {
  const code = input("lost-code", { dir: "ltr", required: true, maxlength: String(LONGEST_CODE), spellcheck: "false" });
  const problem = problemPlace();
  const said = make("div", { role: "status" });
  const form = make("form", { class: "stack" }, field(t("Code of the letter"), code, t("Send it once to start the delay, and again after it.")), problem, make("button", {}, t("Use the code")), said);
  onSubmit(form, problem, async () => {
    const answer = await api("POST", "/accounts/lost-key/redeem", { code: code.value }, { role: "" });
    if (answer.api_key) {
      said.replaceChildren(secretOnce(answer.api_key, copy));
      await logInByNewKey(answer.api_key);
      said.append(make("a", { class: "button primary", href: ROLES[answer.role].page }, t("I saved it, go on")));
    } else said.replaceChildren(make("p", {}, t("Send the same code again after:"), " ", time(answer.ready_at)));
  });
  return form;
}

function back() {
  return make("p", { class: "more" }, make("a", { href: "#" }, t("Back to the log-in")));
}

start();
