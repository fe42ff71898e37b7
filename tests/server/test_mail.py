"""Letters go to a real SMTP server: what is sent, how it is kept secret, and what a refusal means."""

from __future__ import annotations

import ssl
from dataclasses import replace

import pytest
import trustme

from server.config import MailSettings
from server.domain.letters import Letter, LetterKind, written
from server.mail import SmtpMail
from tests.support.mail_server import MailServer, mail_server

LETTER = Letter("verify_email-7", "sara@example.com", "Prove · إثبات", "Code: 7\nرمز\n")


def settings(server: MailServer, host: str = "127.0.0.1") -> MailSettings:
    return MailSettings(host, server.port, False, "accounts@market.example", "https://market.example")


@pytest.fixture(scope="module")
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of a server and of a client that trusts it."""
    ca = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    ca.issue_cert("127.0.0.1").configure_cert(server)
    ca.configure_trust(client)
    return server, client


async def test_letter_arrives_as_it_is_written() -> None:
    async with mail_server() as server:
        assert await SmtpMail(settings(server)).send(LETTER) is None
        ((recipient, letter),) = server.letters
    assert (recipient, letter["to"], letter["from"]) == (
        "sara@example.com",
        "sara@example.com",
        "accounts@market.example",
    )
    assert (letter["subject"], letter.get_content()) == (LETTER.subject, LETTER.text.replace("\n", "\r\n"))
    assert letter["message-id"] == "<verify_email-7@market.example>"
    assert letter["auto-submitted"] == "auto-generated"


@pytest.mark.parametrize("implicit", [False, True], ids=["STARTTLS", "smtps"])
async def test_password_and_letter_travel_with_tls(
    implicit: bool, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async with mail_server(tls=tls[0], implicit=implicit, auth=True) as server:
        wanted = replace(settings(server), user="u", password="p@ss", implicit_tls=implicit)
        assert await SmtpMail(wanted, trust=tls[1]).send(LETTER) is None
        assert (server.logins, len(server.letters)) == ([(b"u", b"p@ss")], 1)


async def test_server_with_an_unknown_certificate_gets_nothing(
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    async with mail_server(tls=tls[0], auth=True) as server:
        failure = await SmtpMail(replace(settings(server), user="u", password="p")).send(LETTER)
        assert (server.logins, server.letters) == ([], [])
    assert failure is not None
    assert not failure.for_good


class Remote(MailSettings):
    """A server that counts as one on another machine."""

    @property
    def is_local(self) -> bool:
        return False


async def test_server_elsewhere_without_tls_gets_nothing() -> None:
    async with mail_server() as server:
        remote = Remote("127.0.0.1", server.port, False, "a@market.example", "https://market.example")
        failure = await SmtpMail(remote).send(LETTER)
        assert server.attempts == 0
    assert failure is not None
    assert "STARTTLS" in failure.error


@pytest.mark.parametrize(
    ("answer", "for_good"), [("451 try sara@example.com later", False), ("554 no sara@example.com", True)]
)
async def test_refusal_says_whether_to_try_again_and_quotes_nothing(answer: str, for_good: bool) -> None:
    async with mail_server() as server:
        for refuses in ("answer", "recipients"):
            server.answer = server.recipients = "250 OK"
            setattr(server, refuses, answer)
            failure = await SmtpMail(settings(server)).send(LETTER)
            assert failure is not None
            assert (failure.for_good, answer[:3] in failure.error) == (for_good, True)
            assert "sara" not in failure.error


async def test_server_that_is_not_there_is_tried_again() -> None:
    async with mail_server() as server:
        gone = settings(server)
    failure = await SmtpMail(gone, timeout_seconds=2).send(LETTER)
    assert failure is not None
    assert not failure.for_good


@pytest.mark.parametrize("role", ["provider", "renter"])
@pytest.mark.parametrize("kind", LetterKind)
def test_every_letter_names_its_account_in_both_languages(kind: LetterKind, role: str) -> None:
    facts = {"url": "https://m.example", "role": role, "code": "c0de", "ready": "noon"}
    letter = written(kind, "n", "sara@example.com", facts)
    assert {"provider": "مزود", "renter": "مستأجر"}[role] in letter.text
    assert f" {role} " in letter.text
    assert "{" not in letter.text.replace('{"code"', "").replace('{"email"', "")
