"""Letters to owners of accounts: their kinds, how often each is sent, and their texts in two languages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

RETRY_SECONDS = (10, 60, 300, 900, 1800)
"""The delay after each attempt of a letter until its next; the last value repeats."""
GIVE_UP_SECONDS = 6 * 3600
"""A letter is tried for this long."""
KEPT_MS = 2 * 24 * 3600 * 1000
"""How long an ended letter is kept, to count the letters of a mailbox."""


class LetterKind(StrEnum):
    """What a letter says."""

    VERIFY_EMAIL = "verify_email"
    ALREADY_REGISTERED = "already_registered"
    NEW_KEY = "new_key"
    NEW_KEY_SOON = "new_key_soon"
    LOG_IN = "log_in"


MOST_A_DAY = {
    LetterKind.VERIFY_EMAIL: 10,
    LetterKind.ALREADY_REGISTERED: 1,
    LetterKind.NEW_KEY: 3,
    LetterKind.NEW_KEY_SOON: 3,
    LetterKind.LOG_IN: 10,
}
"""Letters of each kind that a mailbox gets within a day: anybody can name any address."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A letter as it is sent. ``name`` identifies it, so that a repeated one can be recognized."""

    name: str
    recipient: str
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a letter was not accepted, without addresses; ``for_good``: no repetition will help."""

    error: str
    for_good: bool


_ARABIC_ROLES = {"provider": "مزود", "renter": "مستأجر"}
_TEXTS = {
    LetterKind.VERIFY_EMAIL: (
        "Prove your e-mail address · إثبات بريدك الإلكتروني",
        """\
Somebody registered a {role} account at {url} with this e-mail address. If that was you, send
this code with the account's key within 24 hours:

    {code}

    POST {url}/api/accounts/verify-email
    {{"code": "{code}"}}

If it was not you, do nothing. Without the code the account can do little, and it does not keep
you from registering. Give the code to nobody.

سجّل شخص ما حساب {arabic_role} في {url} بهذا البريد الإلكتروني. إن كنت أنت، فأرسل الرمز أعلاه مع
مفتاح الحساب خلال 24 ساعة. وإن لم تكن أنت، فلا تفعل شيئًا: لا يستطيع الحساب فعل الكثير بلا
الرمز، ولا يمنعك من التسجيل. لا تعطِ الرمز لأحد.
""",
    ),
    LetterKind.ALREADY_REGISTERED: (
        "Somebody tried to register your e-mail address · محاولة تسجيل بريدك الإلكتروني",
        """\
Somebody tried to register a {role} account at {url} with your e-mail address. You have such an
account, and nothing about it has changed. If that was you, use the key that you have. If you
have lost it:

    POST {url}/api/accounts/lost-key
    {{"email": "your address", "role": "{role}"}}

حاول شخص ما تسجيل حساب {arabic_role} في {url} ببريدك الإلكتروني. لديك حساب كهذا، ولم يتغير فيه
شيء. إن كنت أنت، فاستخدم مفتاحك الحالي. وإن فقدته، فأرسل الطلب أعلاه.
""",
    ),
    LetterKind.NEW_KEY: (
        "A new key for your account · مفتاح جديد لحسابك",
        """\
Somebody reported that the key of your {role} account at {url} is lost. If that was you, send
this code within 24 hours:

    {code}

    POST {url}/api/accounts/lost-key/redeem
    {{"code": "{code}"}}

The answer says when you can send the same code again to get the new key. Until then the present
key works, and whoever has it can cancel.

If it was not you, do nothing. Give the code to nobody.

أبلغ شخص ما بفقدان مفتاح حساب {arabic_role} الخاص بك في {url}. إن كنت أنت، فأرسل الرمز أعلاه
خلال 24 ساعة. تذكر الإجابة متى ترسل الرمز نفسه مرة أخرى لتحصل على المفتاح الجديد. وإلى ذلك الحين
يعمل المفتاح الحالي، ومن يملكه يستطيع الإلغاء. وإن لم تكن أنت، فلا تفعل شيئًا. لا تعطِ الرمز
لأحد.
""",
    ),
    LetterKind.NEW_KEY_SOON: (
        "Your account gets a new key · سيحصل حسابك على مفتاح جديد",
        """\
The key of your {role} account at {url} is going to be replaced: somebody sent a code for lost
keys. From {ready} on, the code gives a new key, and the present key ends.

If that was not you, cancel with the present key:

    POST {url}/api/accounts/lost-key/cancel

سيُستبدَل مفتاح حساب {arabic_role} الخاص بك في {url}: أرسل شخص ما رمز المفاتيح المفقودة. ابتداءً
من {ready} يعطي الرمز مفتاحًا جديدًا، وينتهي المفتاح الحالي. وإن لم تكن أنت، فألغِ ذلك بالمفتاح
الحالي بالطلب أعلاه.
""",
    ),
    LetterKind.LOG_IN: (
        "Log in to your account · تسجيل الدخول إلى حسابك",
        """\
Somebody asked to log in to your {role} account at {url}. If that was you, open this link in the
same browser within 15 minutes:

    {url}/log-in#{code}

or type this code on the page that asked for it:

    {code}

It works once, and only in the browser that asked. If it was not you, do nothing: nobody else can
use it. Give the code to nobody.

طلب شخص ما تسجيل الدخول إلى حساب {arabic_role} الخاص بك في {url}. إن كنت أنت، فافتح الرابط أعلاه
في المتصفح نفسه خلال 15 دقيقة، أو اكتب الرمز في الصفحة التي طلبته. يعمل الرمز مرة واحدة، وفي
المتصفح الذي طلبه فقط. وإن لم تكن أنت، فلا تفعل شيئًا. لا تعطِ الرمز لأحد.
""",
    ),
}


def written(kind: LetterKind, name: str, recipient: str, facts: Mapping[str, str]) -> Letter:
    """A letter; ``facts`` are what its text names: url, role, code, ready."""
    subject, text = _TEXTS[kind]
    return Letter(name, recipient, subject, text.format(arabic_role=_ARABIC_ROLES[facts["role"]], **facts))


def next_attempt_ms(created_ms: int, attempts: int, now_ms: int) -> int | None:
    """When a letter that was tried ``attempts`` times is tried again; None means never."""
    after = now_ms + RETRY_SECONDS[min(attempts, len(RETRY_SECONDS)) - 1] * 1000
    return after if after <= created_ms + GIVE_UP_SECONDS * 1000 else None
