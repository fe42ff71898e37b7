// The operators of the market: who they are, what they may do, and how they get in or out.
import { api, card, field, input, onSubmit, problemPlace, roleName, secretOnce, select, time, title } from "./account.js";
import { copy, make } from "./elements.js";
import { act, may, name, page, paged } from "./operator-parts.js";
import { t } from "./texts.js";

const LONGEST_NAME = "100";
const LONGEST_EMAIL = "254";
const roles = () => ["support", "finance", "admin"].map((role) => [role, roleName(role)]);

/** The view of all operators. `made`: the link of an invitation, which is shown once. */
export async function people(draw, live, _, made = make("div")) {
  const again = () => people(draw, live, _, made);
  const invited = async (answer) => {
    made.replaceChildren(secretOnce(new URL(answer.link, location.href).href, copy, t("Copy this link now and give it only to {name}: it is shown only once, and works once, within 24 hours.", { name: answer.operator.name })));
    await again();
  };
  const load = async (before) => {
    const found = await api("GET", page("/admin/operators", { before_id: before }));
    return { rows: found.operators.map((each) => row(each, invited, again)), next: found.next_before_id };
  };
  const heads = [t("Name"), t("Role"), t("Way in"), t("Since"), t("Change")];
  draw(title(t("Operators")), made, make("section", { class: "card" }, await paged(t("Operators"), heads, load, t("Nobody yet: there is only the admin token."))), inviteForm(invited));
}

function row(each, invited, again) {
  const shown = make("div", {}, name(each.name), each.email ? make("p", { class: "hint" }, name(each.email)) : "");
  if (each.removed_at) return [shown, roleName(each.role), make("span", {}, t("removed"), " ", time(each.removed_at)), time(each.created_at), "–"];
  return [shown, roleName(each.role), wayIn(each), time(each.created_at), make("div", { class: "buttons" }, ...changes(each, invited, again))];
}

function wayIn(each) {
  if (each.passkeys) return t("passkeys: {count}", { count: each.passkeys });
  return each.invited_until ? make("span", {}, t("invited until"), " ", time(each.invited_until)) : t("none: invite again");
}

function changes(each, invited, again) {
  const role = select(`role-${each.id}`, roles());
  role.value = each.role;
  const of = { least: "admin", object: "operator", objectId: each.id };
  const path = `/admin/operators/${each.id}`;
  return [
    act({ ...of, label: t("Role"), heading: t("The role of {name}", { name: each.name }), sentence: () => t("{name} gets the role {role}. Log-ins end; keys have the new role at once.", { name: each.name, role: roleName(role.value) }), inputs: [{ label: t("Role"), control: role }], path: `${path}/role`, body: () => ({ role: role.value }), done: again }),
    act({ ...of, label: t("Invite again"), sentence: () => t("At once this ends all passkeys, log-ins and keys of {name}. A new link begins anew.", { name: each.name }), danger: true, makesSecret: true, path: `${path}/invite`, body: () => ({}), done: invited }),
    act({ ...of, label: t("Remove"), sentence: () => t("{name} can do nothing more, at once. The name stays in the audit log, and nobody else can have it.", { name: each.name }), danger: true, path: `${path}/remove`, body: () => ({}), done: again }),
  ];
}

function inviteForm(invited) {
  const [person, email, role] = [input("operator-name", { required: true, maxlength: LONGEST_NAME }), input("operator-email", { type: "email", dir: "ltr", maxlength: LONGEST_EMAIL }), select("operator-role", roles())];
  const problem = problemPlace();
  const form = make(
    "form",
    { class: "stack" },
    field(t("Name of the operator"), person, t("The audit log has it for good.")),
    field(t("E-mail (optional)"), email),
    field(t("Role"), role, t("support reads, finance also moves money, admin may do everything.")),
    problem,
    make("button", { class: "primary", disabled: !may("admin") }, t("Invite")),
  );
  onSubmit(form, problem, async () => invited(await api("POST", "/admin/operators", { name: person.value.trim(), ...(email.value.trim() ? { email: email.value.trim() } : {}), role: role.value })));
  return card(t("Invite an operator"), form);
}
