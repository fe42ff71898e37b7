"""Storage: how long the texts of ended jobs are kept, and how many bytes one account may have kept.

A renter's bytes are the requests of its jobs (prompts, parameters, input files), the files that they left,
and the inputs that it uploaded. A provider's bytes are the files that its runs left. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.domain.errors import DomainError, Reason


@dataclass(frozen=True, slots=True)
class StorageLimits:
    """How long and how much is kept."""

    text_days: int = 30
    """How many days a job's request, output and log are kept after its end."""
    renter_bytes: int = 20 << 30
    """At most this many bytes are kept for a renter; 0: no limit."""
    provider_bytes: int = 200 << 30
    """At most this many bytes of files are kept of a provider's runs; 0: no limit."""

    @property
    def text_ms(self) -> int:
        """``text_days`` in milliseconds."""
        return self.text_days * 24 * 3600 * 1000

    def check_renter(self, stored_bytes: int, more_bytes: int) -> None:
        """Raises RENTER_STORAGE_FULL if ``more_bytes`` exceed what is kept for a renter."""
        what = "requests, inputs and files for this account"
        remedy = "delete inputs that no job needs, "
        _check(Reason.RENTER_STORAGE_FULL, what, stored_bytes, more_bytes, self.renter_bytes, remedy)

    def check_provider(self, stored_bytes: int, more_bytes: int) -> None:
        """Raises PROVIDER_STORAGE_FULL if ``more_bytes`` exceed what is kept of a provider's runs."""
        what = "files of this provider's runs"
        _check(Reason.PROVIDER_STORAGE_FULL, what, stored_bytes, more_bytes, self.provider_bytes)


def _check(
    reason: Reason, what: str, stored_bytes: int, more_bytes: int, limit: int, remedy: str = ""
) -> None:
    if limit and stored_bytes + more_bytes > limit:
        raise DomainError(
            reason,
            f"the marketplace keeps {stored_bytes} bytes of {what}, and {more_bytes} more are over the "
            f"{limit} that it may have: {max(0, limit - stored_bytes)} bytes are free; "
            f"{remedy}wait until older ones are deleted, or write to the operator",
            stored_bytes=stored_bytes,
            stored_bytes_limit=limit,
            free_bytes=max(0, limit - stored_bytes),
        )


STORAGE_LIMITS = StorageLimits()
