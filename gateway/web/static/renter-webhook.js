// The renter's webhook: its address, its secret, and what was delivered to it.
import { api, card, field, inPages, input, latin, onClick, onSubmit, problemPlace, read, secretOnce, select, table, time, title } from "./account.js";
import { copy, make } from "./elements.js";
import { halala, sureButton } from "./renter-parts.js";
import { t } from "./texts.js";

const DAY_SECONDS = 86_400;

export async function webhook(draw, live) {
  const { webhook: found } = await read("/renters/webhook", () => live.is);
  const secret = make("div");
  const setting = make("div");
  const deliveries = make("div");
  const problem = problemPlace();
  const again = onClick(make("button", { type: "button", class: "small" }, t("Refresh")), problem, showDeliveries);

  async function showDeliveries() {
    deliveries.replaceChildren(
      await inPages(
        async (before) => {
          const answer = await read(`/renters/webhook/deliveries?page_size=50${before ? `&before_id=${before}` : ""}`, () => live.is);
          return { items: answer.deliveries, next: answer.next_before_id };
        },
        (items) => table(t("Deliveries"), [t("Event"), t("State"), t("Tries"), t("Happened"), t("Last try"), t("Last answer")], items.map((each) => [latin(each.event), deliveryBadge(each.status), String(each.attempts), time(each.created_at), time(each.last_attempt_at), make("bdi", {}, each.error ?? (each.status_code ? String(each.status_code) : "–"))]), t("Nothing was sent yet. Send a test event to see that your address answers.")),
      ),
    );
  }

  function show(hook) {
    setting.replaceChildren(addressForm(hook), ...(hook ? [secretCard()] : []));
  }

  function addressForm(hook) {
    const url = input("url", { type: "url", dir: "ltr", required: true, maxlength: "2000", spellcheck: "false", placeholder: "https://example.com/events", value: hook?.url });
    const low = input("low", { type: "number", dir: "ltr", min: "0.01", step: "0.01", value: hook?.balance_low_halala ? String(hook.balance_low_halala / 100) : undefined });
    const wrong = problemPlace();
    const buttons = make("div", { class: "buttons" }, make("button", { class: "primary" }, hook ? t("Save") : t("Set the webhook")));
    const form = make("form", { class: "stack" }, field(t("Address"), url, t("Events are sent to it by POST. It must be public and begin with https.")), field(t("Send an event when the wallet falls below this many SAR"), low, t("Empty: never.")), wrong, buttons);
    if (hook) {
      buttons.append(onClick(make("button", { type: "button" }, t("Send a test event")), wrong, async () => {
        await api("POST", "/renters/webhook/test", {});
        await showDeliveries();
      }));
      buttons.append(sureButton(t("Remove"), t("Really remove?"), wrong, async () => {
        await api("POST", "/renters/webhook/remove", {});
        secret.replaceChildren();
        show(undefined);
      }));
    }
    onSubmit(form, wrong, async () => {
      const body = { url: url.value.trim() };
      if (low.value) body.balance_low_halala = halala(low.value);
      const answer = await api("POST", "/renters/webhook", body);
      if (answer.secret) secret.replaceChildren(shownSecret(answer.secret));
      show(answer.webhook);
    });
    return card(t("Where events go"), form);
  }

  function secretCard() {
    const grace = select("grace", [[String(DAY_SECONDS), t("a day")], ["3600", t("an hour")], ["0", t("not at all: it has leaked")]]);
    const wrong = problemPlace();
    const form = make("form", { class: "stack" }, field(t("The present secret goes on to sign for"), grace), wrong, make("button", { class: "danger" }, t("Replace the secret")));
    onSubmit(form, wrong, async () => {
      const answer = await api("POST", "/renters/webhook/rotate", { grace_seconds: Number(grace.value) });
      secret.replaceChildren(shownSecret(answer.secret));
      scrollTo(0, 0);
    });
    return make("details", { class: "card" }, make("summary", {}, t("Replace the secret")), make("p", { class: "hint" }, t("Each event is signed with the secret, as Standard Webhooks defines it. Check the signature before you trust an event.")), form);
  }

  show(found);
  draw(title(t("Webhook"), make("a", { class: "button", href: "/docs/guides/renters#webhook" }, t("How to check a signature"))), secret, setting, make("section", { class: "card" }, make("div", { class: "head" }, make("h2", {}, t("Deliveries")), again), problem, deliveries));
  await showDeliveries();
}

const shownSecret = (secret) => secretOnce(secret, copy, t("Copy this secret now: it is shown only once."));

function deliveryBadge(status) {
  const names = { waiting: t("waiting"), delivered: t("delivered"), failed: t("given up") };
  const looks = { waiting: "queued", delivered: "completed", failed: "failed" };
  return make("span", { class: `badge ${looks[status] ?? ""}` }, names[status] ?? status);
}
