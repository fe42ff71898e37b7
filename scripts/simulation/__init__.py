"""A deterministic simulator of the whole market: real rules, services, store, session halves and journal."""
