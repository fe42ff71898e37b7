"""What operators see and decide: the dashboard, decisions about accounts, interventions, the audit log."""
