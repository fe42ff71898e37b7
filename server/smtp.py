"""Sends mail by SMTP, through aiosmtplib. One connection for each mail; nothing is sent without TLS.

Only a server on this machine is spoken to in plain text.
"""

from __future__ import annotations

import ipaddress
import ssl
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from urllib.parse import unquote, urlsplit

from server.domain.mails import SEND_SECONDS, MailError, MailTerms

_PORTS = {"smtp": 587, "smtps": 465}


class Smtp:
    """The way out for mail."""

    def __init__(self, terms: MailTerms, trust: ssl.SSLContext | None = None) -> None:
        self._terms = terms
        self._trust = trust

    async def send(self, address: str, subject: str, body: str) -> None:
        """Hands one mail to the server. Raises MailError, without the mail's text."""
        import aiosmtplib

        url = urlsplit(self._terms.smtp_url)
        host = url.hostname or ""
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = self._terms.sender, address, subject
        message["Date"], message["Message-ID"] = formatdate(), make_msgid(domain="dcp.invalid")
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(body)
        is_here = is_this_machine(host)
        try:
            await aiosmtplib.send(
                message,
                hostname=host,
                port=url.port or _PORTS[url.scheme],
                username=unquote(url.username) if url.username else None,
                password=unquote(url.password) if url.password else None,
                use_tls=url.scheme == "smtps",
                start_tls=None if url.scheme == "smtps" else (None if is_here else True),
                tls_context=self._trust,
                timeout=SEND_SECONDS,
            )
        except aiosmtplib.SMTPRecipientsRefused as error:
            codes = [refused.code for refused in error.recipients]
            raise MailError(f"the address was refused ({codes})", is_final=min(codes) >= 500) from None
        except aiosmtplib.SMTPResponseException as error:
            raise MailError(f"the server answered {error.code}", is_final=False) from None
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise MailError(type(error).__name__, is_final=False) from None


def is_this_machine(host: str) -> bool:
    """Whether a host is this machine, whatever a name server says."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
