"""The use cases. Each public function or method owns its transaction, and must not know the wire."""
