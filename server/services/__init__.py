"""Use cases: each public function is one, owns its transaction, and knows nothing of the wire."""
