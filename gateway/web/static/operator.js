// The operator's page: its views, each in a file of its own, and who the operator is.
import { startViews } from "./account.js";
import { access } from "./operator-access.js";
import { audit, job, provider, renter, search } from "./operator-accounts.js";
import { dispute, disputes, payout, payouts, prices } from "./operator-decisions.js";
import { health, incidents, ledger, moneyView } from "./operator-health.js";
import { operator } from "./operator-parts.js";
import { people } from "./operator-people.js";

const views = { health, money: moneyView, payouts, payout, disputes, dispute, search, renter, provider, job, prices, audit, ledger, incidents, people, access };
const asOperator = (view) => async (draw, live, id) => {
  await operator();
  await view(draw, live, id || undefined);
};

startViews(Object.fromEntries(Object.entries(views).map(([name, view]) => [name, asOperator(view)])), "health", { payout: "payouts", dispute: "disputes", renter: "search", provider: "search", job: "search" });
