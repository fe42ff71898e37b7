"""The operators' use cases: the dashboard, decisions about accounts, interventions, the audit log."""
