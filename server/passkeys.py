"""Verifies what passkeys answer, by WebAuthn: for this site, to this challenge, and with a verified user.

It knows no operator and stores nothing. The library is loaded when the first passkey answers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from server.domain.errors import DomainError, Reason

LOCAL = "localhost"
_LOCAL_ORIGIN = re.compile(r"http://localhost(:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Created:
    """A new passkey: how it is recognized, and what verifies its answers."""

    credential: bytes
    public_key: bytes
    sign_count: int


class Site:
    """The site that passkeys are for: that of DCP_PUBLIC_URL, else this machine's."""

    def __init__(self, public_url: str) -> None:
        parts = urlsplit(public_url)
        self.domain = parts.hostname or LOCAL
        self._origin = f"{parts.scheme}://{parts.netloc.lower()}" if public_url else None

    def created(self, challenge: bytes, credential: bytes, client_data: bytes, attestation: bytes) -> Created:
        """The passkey that a browser created for this challenge. Raises PASSKEY_REFUSED."""
        from webauthn import verify_registration_response
        from webauthn.helpers import bytes_to_base64url
        from webauthn.helpers.structs import AuthenticatorAttestationResponse, RegistrationCredential

        try:
            found = verify_registration_response(
                credential=RegistrationCredential(
                    bytes_to_base64url(credential),
                    credential,
                    AuthenticatorAttestationResponse(client_data, attestation),
                ),
                expected_challenge=challenge,
                expected_rp_id=self.domain,
                expected_origin=self._expected(client_data),
                require_user_verification=True,
            )
        except Exception as error:  # it parses what anybody sends, and has many kinds of errors
            raise refused() from error
        if found.credential_id != credential:
            raise refused()
        return Created(found.credential_id, found.credential_public_key, found.sign_count)

    def answered(
        self,
        challenge: bytes,
        credential: bytes,
        client_data: bytes,
        authenticator_data: bytes,
        signature: bytes,
        *,
        public_key: bytes,
        sign_count: int,
    ) -> int:
        """The new count of a passkey that answered this challenge. Raises PASSKEY_REFUSED."""
        from webauthn import verify_authentication_response
        from webauthn.helpers import bytes_to_base64url
        from webauthn.helpers.structs import AuthenticationCredential, AuthenticatorAssertionResponse

        try:
            found = verify_authentication_response(
                credential=AuthenticationCredential(
                    bytes_to_base64url(credential),
                    credential,
                    AuthenticatorAssertionResponse(client_data, authenticator_data, signature),
                ),
                expected_challenge=challenge,
                expected_rp_id=self.domain,
                expected_origin=self._expected(client_data),
                credential_public_key=public_key,
                credential_current_sign_count=sign_count,
                require_user_verification=True,
            )
        except Exception as error:
            raise refused() from error
        return found.new_sign_count

    def _expected(self, client_data: bytes) -> str:
        """The origin of the site's pages; on this machine, the port is whichever the pages have."""
        if self._origin is not None:
            return self._origin
        from webauthn.helpers import parse_client_data_json

        origin = parse_client_data_json(client_data).origin
        if not _LOCAL_ORIGIN.fullmatch(origin):
            raise ValueError("the origin is not this machine's")
        return origin


def refused() -> DomainError:
    """The error for a passkey that proves nothing, without the reason: whoever guesses learns nothing."""
    return DomainError(
        Reason.PASSKEY_REFUSED,
        "this passkey does not prove who you are: it is unknown here, was created for another address, or "
        "answered too late; try again, or ask an admin for a new invitation",
    )
