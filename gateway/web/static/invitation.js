// The page of an invitation: a new operator creates a passkey and is logged in. The code is in the link's fragment.
import { ROLES, Refused, acceptInvitation, field, input, onSubmit, openInvitation, roleName } from "./account.js";
import { byId, make, usable } from "./elements.js";
import { createPasskey } from "./passkeys.js";
import { t } from "./texts.js";

const place = byId("invitation");

async function start() {
  const code = location.hash.slice(1);
  history.replaceState(null, "", location.pathname + location.search); // not kept in the history
  try {
    show(code, await openInvitation(code));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    const isOver = error.code === "INVITATION_OVER" || error.code === "INVALID_FIELD";
    const said = isOver ? t("This invitation was used, is older than a day, or its link is not whole. Ask an admin for another one.") : error.message;
    place.replaceChildren(make("p", { class: "wrong notice-wrong", role: "alert" }, said), make("p", {}, make("a", { href: "/log-in?role=operator" }, t("Log in as an operator"))));
  }
  usable("invitation");
}

function show(code, first) {
  let asked = first;
  const name = input("passkey-name", { required: true, maxlength: "100" });
  const problem = make("p", { class: "wrong", role: "alert", hidden: true });
  const form = make("form", { class: "stack" }, field(t("Name of the passkey"), name, t("Such as the device that keeps it.")), problem, make("button", { class: "primary" }, t("Create the passkey and log in")));
  onSubmit(form, problem, async () => {
    asked ??= await openInvitation(code);
    const created = await createPasskey(asked, name.value.trim());
    asked = undefined; // a challenge is answered once
    await acceptInvitation(code, created);
    location.assign(ROLES.operator.page);
  });
  const { operator } = first;
  place.replaceChildren(
    make("section", { class: "card narrow" }, make("h2", {}, make("bdi", {}, operator.name), " · ", roleName(operator.role)), make("p", {}, t("A passkey is kept by your device or password manager and never leaves it. You confirm with your fingerprint, face or PIN, and there is no password.")), form),
  );
}

start();
