// The operator's view of the market's money, by day.
import { card, figure, MICROS_PER_HALALA, money, read, sar, table, title } from "./account.js";
import { Chart } from "./charts.js";
import { make } from "./elements.js";
import { facts } from "./operator-parts.js";
import { t } from "./texts.js";

export async function moneyView(draw, live, days = "30") {
  const known = ["7", "30", "90"].includes(days) ? days : "30";
  const [{ days: newest }, { stats }] = await Promise.all([read(`/admin/money?days=${known}`), read("/admin/dashboard")]);
  const byDay = [...newest].reverse();
  const sum = (key) => money(newest.reduce((total, day) => total + Number(day[key] ?? 0), 0));
  const halala = (key) => money(Number(stats[key] ?? 0) * MICROS_PER_HALALA);
  const choices = ["7", "30", "90"].map((each) => make("a", { class: "button", href: `#money/${each}`, "aria-current": each === known && "true" }, t("{days} days", { days: each })));
  const chart = (label, key) => {
    const drawn = new Chart(label, { say: sar, bars: true, days: true, empty: t("No money moved yet.") });
    drawn.show(byDay.map(({ date }) => Date.parse(date)), [{ name: label, values: byDay.map((day) => Number(day[key] ?? 0)) }]);
    return make("section", { class: "card" }, drawn.element);
  };
  const keys = ["charged_micro_halala", "fee_micro_halala", "payout_micro_halala", "paid_out_micro_halala", "credited_micro_halala", "topped_up_micro_halala", "refunded_micro_halala"];
  const heads = [t("Day"), t("Charged"), t("Fees"), t("To providers"), t("Paid out"), t("Credited"), t("Play money"), t("Refunded")];
  draw(
    title(t("Money"), make("nav", { class: "buttons", "aria-label": t("Period") }, ...choices)),
    make("dl", { class: "figures" }, figure(t("Charged"), sum(keys[0])), figure(t("Fees"), sum(keys[1])), figure(t("To providers"), sum(keys[2])), figure(t("Paid out"), sum(keys[3])), figure(t("Credited"), sum(keys[4])), figure(t("Refunded"), sum(keys[6]))),
    make("div", { class: "ways" }, chart(t("Charged by day"), keys[0]), chart(t("Fees by day"), keys[1]), chart(t("Paid out by day"), keys[3])),
    card(t("What the market holds now"), facts([t("Held for open jobs"), halala("held_halala")], [t("Can be withdrawn"), halala("claimable_halala")], [t("Maturing"), halala("maturing_halala")], [t("Disputed"), halala("disputed_halala")], [t("In open withdrawals"), halala("reserved_halala")], [t("Owed by providers"), halala("debt_halala")])),
    card(t("By day"), table(t("By day"), heads, newest.filter((day) => keys.some((key) => Number(day[key]))).map((day) => [make("bdi", { dir: "ltr" }, day.date), ...keys.map((key) => money(day[key]))]), t("No money moved yet."))),
  );
}
