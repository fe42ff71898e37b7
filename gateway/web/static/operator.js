// The operator's page: its views, each in a file of its own, and who the operator is.
import { later, startViews } from "./account.js";
import { health, incidents, ledger } from "./operator-health.js";
import { operator } from "./operator-parts.js";

const accounts = () => import("./operator-accounts.js");
const decisions = () => import("./operator-decisions.js");
const views = {
  health,
  incidents,
  ledger,
  money: later(() => import("./operator-money.js"), "moneyView"),
  payouts: later(decisions, "payouts"),
  payout: later(decisions, "payout"),
  disputes: later(decisions, "disputes"),
  dispute: later(decisions, "dispute"),
  prices: later(decisions, "prices"),
  search: later(accounts, "search"),
  renter: later(accounts, "renter"),
  provider: later(accounts, "provider"),
  job: later(accounts, "job"),
  audit: later(accounts, "audit"),
  people: later(() => import("./operator-people.js"), "people"),
  access: later(() => import("./operator-access.js"), "access"),
};

/** The view, for which it is known who the operator is. */
function asOperator(view) {
  const shown = async (draw, live, id) => {
    await operator();
    await view(draw, live, id || undefined);
  };
  return Object.assign(shown, { load: view.load });
}

startViews(Object.fromEntries(Object.entries(views).map(([name, view]) => [name, asOperator(view)])), "health", { payout: "payouts", dispute: "disputes", renter: "search", provider: "search", job: "search" });
