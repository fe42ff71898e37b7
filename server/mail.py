"""Sends letters to one SMTP server, each over a connection of its own, with a short time limit.

Credentials and letters never travel without TLS, except to a server on this machine. Why a letter was refused
is returned as SMTP's status, since a server's own words may quote addresses.
"""

from __future__ import annotations

import ssl
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate
from functools import cached_property

import certifi

from server.config import MailSettings
from server.domain.letters import Failure, Letter

TIMEOUT_SECONDS = 20.0


class SmtpMail:
    """Sends letters through the server of the settings."""

    def __init__(
        self,
        settings: MailSettings,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._timeout_seconds = timeout_seconds
        self._trust = trust

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return self._trust or ssl.create_default_context(cafile=certifi.where())

    async def send(self, letter: Letter) -> Failure | None:
        """Sends one letter; returns why the server did not accept it."""
        import aiosmtplib  # here, since most servers send no mail

        settings = self._settings
        try:
            await aiosmtplib.send(
                self._message(letter),
                hostname=settings.host,
                port=settings.port,
                username=settings.user or None,
                password=settings.password or None,
                use_tls=settings.implicit_tls,
                # Without a word of the settings: if the server has it. With True: not without it.
                start_tls=False if settings.implicit_tls else None if settings.is_local else True,
                tls_context=self._tls,
                timeout=self._timeout_seconds,
            )
        except aiosmtplib.SMTPRecipientsRefused as refused:
            codes = [each.code for each in refused.recipients]
            return Failure(f"the address was refused ({codes[0]})", for_good=min(codes) >= 500)
        except aiosmtplib.SMTPAuthenticationError as error:
            return Failure(f"the user or password was refused ({error.code})", for_good=False)
        except aiosmtplib.SMTPResponseException as error:
            return Failure(f"the mail server answered {error.code}", for_good=error.code >= 500)
        except aiosmtplib.SMTPNotSupported:
            return Failure("the mail server cannot carry this address", for_good=True)
        except (aiosmtplib.SMTPException, OSError) as error:
            why = "it has no STARTTLS" if "STARTTLS extension" in str(error) else type(error).__name__
            return Failure(f"the mail server cannot be used ({why})", for_good=False)
        return None

    def _message(self, letter: Letter) -> EmailMessage:
        message = EmailMessage(policy=SMTP)
        message["From"] = self._settings.sender
        message["To"] = letter.recipient
        message["Subject"] = letter.subject
        message["Date"] = formatdate()
        # The same for each attempt, so that a mailbox can drop a letter that arrived twice.
        message["Message-ID"] = f"<{letter.name}@{self._settings.sender.rpartition('@')[2].rstrip('>')}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(letter.text)
        return message
