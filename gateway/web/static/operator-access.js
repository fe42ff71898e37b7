// How an operator gets in: who is logged in, its passkeys, its keys for scripts, and the end of its log-ins.
import { api, card, field, input, latin, logOut, onClick, onSubmit, problemPlace, read, roleName, secretOnce, select, table, time, title } from "./account.js";
import { copy, make } from "./elements.js";
import { createPasskey } from "./passkeys.js";
import { t } from "./texts.js";

const DAY_SECONDS = 86400;
const LONGEST_NAME = "100";

/** The view of the operator's own access. */
export async function access(draw, live, _, made = make("div")) {
  const isWanted = () => live.is;
  const { operator, expires_at: end } = await read("/admin/me", isWanted);
  const [{ passkeys }, { keys }] = await Promise.all([read("/admin/me/passkeys", isWanted), read("/admin/me/keys?page_size=200", isWanted)]);
  const again = () => access(draw, live, _, made);
  const problem = problemPlace();
  const everywhere = make("button", { type: "button" }, t("Log out everywhere"));
  everywhere.addEventListener("click", () => logOut(true));
  draw(
    title(make("bdi", {}, operator.name), make("span", { class: "badge" }, roleName(operator.role))),
    make("p", {}, t("Logged in until:"), " ", time(end)),
    made,
    problem,
    card(t("Passkeys"), table(t("Passkeys"), [t("Name"), t("Added"), t("Last used"), t("Remove")], passkeys.map((each) => passkeyRow(each, passkeys.length, problem, again)), t("No passkeys.")), addForm(again)),
    card(t("Keys for scripts"), table(t("Keys for scripts"), [t("Name"), t("Ends with"), t("Valid until"), t("Last used"), t("Revoke")], keys.filter((key) => !key.revoked_at).map((key) => keyRow(key, problem, again)), t("No keys.")), keyForm(made, again)),
    make("p", {}, everywhere),
  );
}

function passkeyRow(passkey, count, problem, again) {
  const remove = count > 1 ? action(t("Remove"), passkey.name, problem, () => api("POST", `/admin/me/passkeys/${passkey.id}/remove`, {}), again) : t("the only one");
  return [make("bdi", {}, passkey.name), time(passkey.created_at), time(passkey.last_used_at), remove];
}

function keyRow(key, problem, again) {
  return [make("bdi", {}, key.name), latin(`…${key.last4}`), time(key.expires_at), time(key.last_used_at), action(t("Revoke"), key.name, problem, () => api("POST", `/admin/me/keys/${key.id}/revoke`, {}), again)];
}

function action(label, name, problem, work, again) {
  return onClick(make("button", { type: "button", class: "small danger", "aria-label": `${label}: ${name}` }, label), problem, async () => {
    await work();
    await again();
  });
}

function addForm(again) {
  const name = input("passkey-name", { required: true, maxlength: LONGEST_NAME });
  const problem = problemPlace();
  const form = make("form", { class: "stack" }, field(t("Name of another passkey"), name, t("Such as the device that keeps it. Have two, so that a lost device locks nobody out.")), problem, make("button", {}, t("Add a passkey")));
  onSubmit(form, problem, async () => {
    const asked = await api("POST", "/admin/me/passkeys/begin", {});
    await api("POST", "/admin/me/passkeys", await createPasskey(asked, name.value.trim()));
    await again();
  });
  return form;
}

function keyForm(made, again) {
  const name = input("key-name", { required: true, maxlength: LONGEST_NAME });
  const days = select("key-days", [["1", t("1 day")], ["30", t("30 days")], ["90", t("90 days")], ["365", t("1 year")]]);
  const problem = problemPlace();
  const form = make("form", { class: "stack" }, make("div", { class: "row" }, field(t("Name of the key"), name), field(t("Valid for"), days)), problem, make("button", {}, t("Create a key")));
  onSubmit(form, problem, async () => {
    const answer = await api("POST", "/admin/me/keys", { name: name.value.trim(), expires_in_seconds: Number(days.value) * DAY_SECONDS });
    made.replaceChildren(secretOnce(answer.api_key, copy));
    await again();
  });
  return form;
}
