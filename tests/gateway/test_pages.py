"""The pages: generated from the protos, in two languages, without resources from other hosts."""

from __future__ import annotations

import gzip
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from dcp.v1 import errors_pb2, jobs_pb2, options_pb2, providers_pb2, standing_pb2
from google.protobuf.descriptor import EnumDescriptor

from common.json_form import enum_names
from gateway.dialects.table import DIALECTS
from gateway.doors import doors as served_doors
from gateway.languages import ARABIC, ENGLISH, LANGUAGES, Language
from gateway.openapi import document
from gateway.routes import Binding, bindings, discover
from gateway.transcode import body_reader
from gateway.web.doors import doors
from gateway.web.guides import Guide, guides
from gateway.web.reference import Reference, markdown

BINDINGS = list(bindings(discover()))
WEB = Path(__file__).parents[2] / "gateway" / "web"
DOCS = Path(__file__).parents[2] / "docs"
LOCALES = WEB.parent / "locales"


class RecordingCatalogue(dict[str, str]):
    """A catalogue that records the texts that were looked up."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        super().__init__(texts)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """The translation."""
        self.asked.add(key)
        return super().get(key, default)


def placeholders(text: str) -> list[str]:
    """The placeholders of a text."""
    return sorted(re.findall(r"\{\w+\}", text))


def words_of_templates() -> set[str]:
    """All translatable texts of the templates."""
    found: set[str] = set()
    for path in (WEB / "templates").glob("*.html"):
        found |= set(re.findall(r'_\("([^"]+)"', path.read_text()))
    return found


def words_of_scripts() -> set[str]:
    """All translatable texts of the scripts."""
    found: set[str] = set()
    for path in (WEB / "static").glob("*.js"):
        literals = re.findall(r'\b(?:t|mark)\(\s*("(?:[^"\\]|\\.)*")', path.read_text())
        found |= {json.loads(text) for text in literals}
    return found


# --- every RPC ---


@pytest.mark.parametrize("binding", BINDINGS, ids=lambda b: b.method.name)
def test_every_rpc_has_summaries_and_an_example_that_its_message_accepts(binding: Binding) -> None:
    assert binding.rule.summary.en
    assert re.search(r"[\u0600-\u06ff]", binding.rule.summary.ar)
    assert binding.rule.example_response
    body_reader(binding.method.output_type, frozenset())(json.loads(binding.rule.example_response))
    if binding.fields_in_body:
        example = json.loads(binding.rule.example_request)
        example.pop("api_key", None)
        body_reader(binding.method.input_type, binding.elsewhere)(example)
    else:
        assert not binding.rule.example_request


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=lambda language: language.code)
async def test_every_rpc_has_its_place_on_the_page_of_its_group(
    gateway: httpx.AsyncClient, language: Language
) -> None:
    start = (await gateway.get("/docs", params={"lang": language.code})).text
    pages = ""
    for group in Reference(document(discover(), language), language).groups:
        answer = await gateway.get(group.path, params={"lang": language.code})
        assert answer.status_code == 200, group.path
        assert f'href="{group.path}?lang={language.code}"' in start
        for operation in group.operations:
            assert f'<article id="{operation.slug}"' in answer.text
            assert f'data-try="{operation.slug}"' in answer.text
            assert f'href="{group.path}?lang={language.code}#{operation.slug}"' in start
        pages += answer.text
    for binding in BINDINGS:
        assert f"<code>{binding.path}</code>" in pages
        summary = getattr(binding.rule.summary, language.code)
        assert summary.replace("'", "&#39;").replace("`", "") in pages


async def test_a_page_of_the_documents_that_is_not_there_is_a_404(gateway: httpx.AsyncClient) -> None:
    for path in ("/docs/nothing", "/docs/guides/../../x", "/docs/guides/internals"):
        assert (await gateway.get(path)).status_code == 404


GUIDES = [
    pytest.param(code, guide, id=f"{guide.name}-{code}") for code in LANGUAGES for guide in guides(code)
]


@pytest.mark.parametrize(("code", "guide"), GUIDES)
async def test_links_of_guides_lead_to_headings_of_guides_or_to_pages(
    gateway: httpx.AsyncClient, code: str, guide: Guide
) -> None:
    assert (await gateway.get(guide.path, params={"lang": code})).status_code == 200
    headings = {
        f"{each.path}?lang={language}": {section.anchor for section in each.sections}
        for language in LANGUAGES
        for each in guides(language)
    }
    links = [html.unescape(link) for link in re.findall(r'href="([^"]+)"', guide.body)]
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        if path.startswith("http"):
            continue
        assert path in {"", "/docs", "/docs/errors", "/docs/guides/settings", *headings}, link
        if anchor and (not path or path in headings):
            assert anchor in headings[path or f"{guide.path}?lang={code}"], link


TRANSLATED = sorted((DOCS / "ar").glob("*.md"))


def sections_of(file: Path) -> dict[str, list[str]]:
    """The blocks of code below each heading, by the heading's anchor, or that which it translates."""
    found: dict[str, list[str]] = {}
    anchor, block = "", None
    for line in file.read_text().splitlines():
        if block is None and (twin := re.fullmatch(r"<!-- (\S+)#(\S+) -->", line)):
            anchor = f"{twin[1]}#{twin[2]}"
            found[anchor] = []
        elif block is None and (heading := re.match(r"#+ (.*)", line)) and file not in TRANSLATED:
            anchor = re.sub(r"[^\w\- ]", "", heading[1].lower()).replace(" ", "-")
            found[anchor] = []
        elif line.startswith("```") and block is None:
            block = [line]
        elif block is not None:
            block.append(line)
            if line == "```":
                found[anchor].append("\n".join(block))
                block = None
    return found


@pytest.mark.parametrize("file", TRANSLATED, ids=lambda file: file.name)
def test_arabic_guides_have_the_code_of_the_sections_that_they_translate(file: Path) -> None:
    text = file.read_text()
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"(?:^<!-- \S+ -->\n)?^#+ .*$", outside, re.MULTILINE)
    assert headings
    assert all(heading.startswith("<!-- ") for heading in headings), "each names what it translates"
    assert all(re.search(r"[\u0600-\u06ff]", heading) for heading in headings)
    for twin, blocks in sections_of(file).items():
        name, _, anchor = twin.partition("#")
        english = sections_of(DOCS.parent / name if name == "README.md" else DOCS / name)
        assert anchor in english, f"there is no such heading: {twin}"
        assert blocks == english[anchor], f"the code of {twin} has changed: translate it anew"


def test_there_is_an_arabic_guide_for_each_role() -> None:
    assert {file.stem for file in TRANSLATED} == {"renters", "providers", "operators"}
    for guide in guides("ar"):
        assert guide.language == ("ar" if guide.name in {file.stem for file in TRANSLATED} else "en")


async def test_every_path_of_another_api_has_examples() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:9") as channel:
        served = {path.removeprefix("GET ") for path in served_doors(channel, 1.0)[0]}
    assert {door.path for door in doors()} == served
    for door in doors():
        assert {"curl", "JavaScript"} < {sample.name for sample in door.samples}


@pytest.mark.parametrize(
    ("words", "language", "address"),
    [
        ("wait_for_supply", "en", "/docs/job#submit-job"),
        ("wait_for_supply", "ar", "/docs/job#submit-job"),
        ("insufficient_balance", "en", "/docs/errors#INSUFFICIENT_BALANCE"),
        ("insufficient_balance", "ar", "/docs/errors#INSUFFICIENT_BALANCE"),
        ("إرسال مهمة", "ar", "/docs/job#submit-job"),
        ("للمستأجرين", "ar", "/docs/guides/renters#for-renters"),
        ("disputing a charge", "en", "/docs/guides/renters#disputing-a-charge"),
        ("الاعتراض على مبلغ", "ar", "/docs/guides/renters#disputing-a-charge"),
        ("compare providers", "ar", "/docs/guides/renters#compare-providers"),
        ("dcp_max_artifacts", "en", "/docs/guides/settings#DCP_MAX_ARTIFACTS"),
        ("dcp_max_artifacts", "ar", "/docs/guides/settings#DCP_MAX_ARTIFACTS"),
        ("/v1/chat/completions", "en", "/docs/inference#v1-chat-completions"),
        ("anthropic", "ar", "/docs/inference#v1-messages"),
    ],
)
async def test_index_of_the_search_has_fields_reasons_guides_and_settings(
    gateway: httpx.AsyncClient, words: str, language: str, address: str
) -> None:
    index = (await gateway.get("/docs/search.json", params={"lang": language})).json()
    assert address in [entry["address"] for entry in index if words in entry["words"]]


@pytest.mark.parametrize("language", ["en", "ar"])
async def test_every_address_of_the_search_is_there(gateway: httpx.AsyncClient, language: str) -> None:
    index = (await gateway.get("/docs/search.json", params={"lang": language})).json()
    pages: dict[str, str] = {}
    for entry in index:
        path, _, anchor = entry["address"].partition("#")
        page = f"{path}?lang={entry.get('lang', language)}"
        if page not in pages:
            pages[page] = (await gateway.get(page)).text
        assert f'id="{anchor}"' in pages[page], entry["address"]


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=lambda language: language.code)
async def test_every_webhook_event_is_on_its_page_with_its_headers_and_body(
    gateway: httpx.AsyncClient, language: Language
) -> None:
    page = (await gateway.get("/docs/events", params={"lang": language.code})).text
    objects = (await gateway.get("/docs/objects", params={"lang": language.code})).text
    webhooks = document(discover(), language)["webhooks"]
    events = Reference(document(discover(), language), language).events
    assert [event.name for event in events] == list(webhooks) != []
    for event in events:
        part = page.partition(f'<details id="{event.slug}">')[2].partition("</details>")[0]
        entry = webhooks[event.name]["post"]
        names = [row.name for row in event.rows]
        assert names[: len(entry["parameters"])] == [header["name"] for header in entry["parameters"]]
        assert {"webhook-signature", "created_at"} <= set(names)
        for row in event.rows:
            assert f'<code dir="ltr">{row.name}</code>' in part
        assert f'#type-{event.type}"' in part
        assert f'<details id="type-{event.type}">' in objects
        for status, answer in entry["responses"].items():
            assert f">{status}</span>" in part
            assert str(markdown(answer["description"])) in part


def test_reference_lists_who_may_call_and_what_fields_mean() -> None:
    operations = {o.slug: o for o in Reference(document(discover()), ENGLISH).operations}
    submit = operations["submit-job"]
    rows = {row.name: row for row in submit.rows}
    assert submit.roles == ("renter",)
    assert rows["job_type"].required
    assert not rows["duration_minutes"].required
    assert "0.1 to 1,440" in rows["duration_minutes"].limits
    page_size = {row.name: row for row in operations["list-own-jobs"].rows}["page_size"]
    assert page_size.limits == ("1 to 200", "default: 50")
    assert rows["Idempotency-Key"].place == "header"
    assert rows["model"].depth == 1
    assert rows["job_type"].type == "JobTypeInput"
    assert "INSUFFICIENT_BALANCE" in [code for error in submit.errors for code in error.codes]


def test_groups_are_in_the_order_of_their_positions() -> None:
    services = {b.method.containing_service.full_name: b.method.containing_service for b in BINDINGS}
    rules = [s.GetOptions().Extensions[options_pb2.service] for s in services.values()]
    expected = [rule.title.en for rule in sorted(rules, key=lambda rule: rule.position)]
    assert [group.title for group in Reference(document(discover()), ENGLISH).groups] == expected


def test_samples_are_code_that_compiles() -> None:
    for operation in Reference(document(discover()), ENGLISH).operations:
        if not operation.samples:
            continue
        samples = {sample.language: sample.code for sample in operation.samples}
        compile(samples["python"], operation.slug, "exec")
        assert "dcp-" not in samples["curl"], "a sample takes its key from the environment"


def test_only_what_needs_a_passkey_has_no_samples() -> None:
    of_passkeys = {errors_pb2.ERROR_REASON_LOG_IN_NEEDED, errors_pb2.ERROR_REASON_PASSKEY_REFUSED}
    needing = {b.method.name.lower() for b in BINDINGS if of_passkeys & set(b.rule.reasons)}
    operations = Reference(document(discover()), ENGLISH).operations
    assert needing == {each.slug.replace("-", "") for each in operations if not each.samples}


BY_COOKIES = (
    "log-in",
    "ask-to-log-in",
    "redeem-log-in-code",
    "log-out",
    "open-invitation",
    "accept-invitation",
    "ask-for-passkey",
    "log-in-by-passkey",
    "begin-passkey",
    "add-passkey",
    "log-in-operator",
)


@pytest.mark.parametrize("slug", BY_COOKIES)
def test_samples_of_what_uses_cookies_say_their_origin(slug: str) -> None:
    operations = {each.slug: each for each in Reference(document(discover()), ENGLISH).operations}
    for sample in operations[slug].samples:
        assert re.search(r"\borigin\b\"?: ", sample.code, re.IGNORECASE), sample.code
    assert "`Origin`" in operations[slug].description
    others = [each for each in operations.values() if "`Origin`" not in each.description]
    assert len(others) == len(operations) - len(BY_COOKIES)
    assert not any("Origin: " in sample.code for each in others for sample in each.samples)


# --- languages ---


def test_every_text_is_translated_and_no_translation_is_left_over() -> None:
    lookups = RecordingCatalogue(ARABIC.texts)
    language = Language("ar", "", "rtl", lookups)
    Reference(document(discover(), language), language)
    drawn = (WEB / "reference.py").read_text()
    titles = {guide.title for guide in guides()}
    needed = lookups.asked - {""} | words_of_templates() | titles | {"path", "query", "header"}
    assert sorted(needed - ARABIC.texts.keys()) == []
    left_over = {text for text in ARABIC.texts.keys() - needed if f'"{text}"' not in drawn}
    in_template_tables = {t for t in left_over if any(t in p.read_text() for p in WEB.rglob("*.html"))}
    assert sorted(left_over - in_template_tables) == []


def test_every_text_of_the_scripts_is_translated() -> None:
    translated = json.loads((WEB / "static" / "texts.ar.json").read_text())
    assert words_of_scripts() == translated.keys()


@pytest.mark.parametrize(
    ("place", "enum"),
    [
        ("function kindName", jobs_pb2.JobType.DESCRIPTOR),
        ("function outcomeName", jobs_pb2.AttemptOutcome.DESCRIPTOR),
        ("function failureName", jobs_pb2.FailureReason.DESCRIPTOR),
        ("function waitName", jobs_pb2.JobCondition.DESCRIPTOR),
        ("const obstacles", jobs_pb2.Obstacle.DESCRIPTOR),
        ("function standingName", standing_pb2.Standing.DESCRIPTOR),
        ("function standingReason", standing_pb2.StandingReason.DESCRIPTOR),
        ("function statusName", providers_pb2.ProviderStatus.DESCRIPTOR),
    ],
)
def test_every_code_that_pages_show_has_words(place: str, enum: EnumDescriptor) -> None:
    text = (WEB / "static" / "words.js").read_text().partition(place)[2].partition("\n}")[0]
    words = set(re.findall(r'(?:^|[{,])\s*"?([\w-]+)"?: \[?t\(', text, re.MULTILINE))
    names = {name for number, name in enum_names(enum).items() if number}
    assert names - words == set()


@pytest.mark.parametrize("path", [*LOCALES.rglob("*.json"), WEB / "static" / "texts.ar.json"], ids=str)
def test_translations_are_arabic_and_keep_what_is_filled_in(path: Path) -> None:
    for english, arabic in json.loads(path.read_text()).items():
        assert re.search(r"[\u0600-\u06ff]", arabic), english
        assert placeholders(english) == placeholders(arabic), english
        assert set(re.findall(r"`[^`]+`", english)) <= set(re.findall(r"`[^`]+`", arabic)), english


@pytest.mark.parametrize(
    ("address", "headers", "code"),
    [
        ("/docs", {}, "en"),
        ("/docs?lang=ar", {}, "ar"),
        ("/docs?lang=xx", {"accept-language": "ar-SA,en;q=0.8"}, "ar"),
        ("/docs", {"accept-language": "fr, ar;q=0.5"}, "ar"),
        ("/docs", {"cookie": "lang=ar", "accept-language": "en"}, "ar"),
        ("/docs?lang=en", {"cookie": "lang=ar"}, "en"),
        ("/?lang=ar", {}, "ar"),
    ],
)
async def test_language_is_that_of_the_query_the_cookie_or_the_browser(
    gateway: httpx.AsyncClient, address: str, headers: dict[str, str], code: str
) -> None:
    answer = await gateway.get(address, headers=headers)
    assert f'<html lang="{code}" dir="{LANGUAGES[code].direction}"' in answer.text
    assert "cookie" in answer.headers["vary"]


async def test_only_a_requested_language_is_remembered(gateway: httpx.AsyncClient) -> None:
    assert (await gateway.get("/docs?lang=ar")).headers["set-cookie"].startswith("lang=ar; Path=/; Max-Age=")
    assert "set-cookie" not in (await gateway.get("/docs?lang=xx")).headers


async def test_openapi_has_its_texts_in_the_requested_language(gateway: httpx.AsyncClient) -> None:
    english, arabic = [(await gateway.get(f"/openapi.json?lang={code}")).json() for code in ("en", "ar")]
    submit = "/api/jobs/submit"
    assert english["paths"].keys() == arabic["paths"].keys()
    assert arabic["paths"][submit]["post"]["summary"] == english["paths"][submit]["post"]["x-summary-ar"]
    assert re.search(r"[\u0600-\u06ff]", arabic["paths"][submit]["post"]["description"])


# --- safety ---


@pytest.mark.parametrize("path", ["/", "/docs", "/docs/job?lang=ar", "/docs/guides/renters"])
async def test_pages_load_nothing_from_other_hosts_and_nothing_inline(
    gateway: httpx.AsyncClient, path: str
) -> None:
    answer = await gateway.get(path)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", answer.text)
    loaded = re.findall(
        r'(?:<script[^>]*|<img[^>]*|<link[^>]*rel="[^"]*"[^>]*) (?:src|href)="([^"]+)"', answer.text
    )
    assert loaded
    own = ("/static/", "/docs/form.json", "?lang=", "/api/dc1/", "/v1/models")
    assert all(address.startswith(own) for address in loaded), loaded


def test_markup_in_a_comment_stays_text() -> None:
    assert "<img" not in markdown("a <img src=x onerror=alert(1)> b")
    assert "href" not in markdown("[x](javascript:alert(1))")


async def test_scripts_never_create_markup_or_store_beyond_the_tab(gateway: httpx.AsyncClient) -> None:
    for path in (WEB / "static").glob("*.js"):
        text = path.read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text
        )
        kept = re.findall(r"localStorage\.setItem\((\S+),", text)
        assert kept in ([], ['"theme"']), path


def test_scripts_need_no_tls() -> None:
    """Over plain HTTP browsers leave out `crypto.randomUUID` and `crypto.subtle`."""
    for path in (WEB / "static").glob("*.js"):
        code = re.sub(r"/\*.*?\*/|//.*", "", path.read_text())
        assert set(re.findall(r"\bcrypto\.(\w+)", code)) <= {"getRandomValues"}, path


# --- files ---


async def test_files_never_expire_at_an_address_that_changes_with_them(gateway: httpx.AsyncClient) -> None:
    page = (await gateway.get("/docs")).text
    address = re.search(r"/static/[0-9a-f]{16}/site\.css", page)
    assert address
    answer = await gateway.get(address[0])
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-type"] == "text/css; charset=utf-8"
    assert (await gateway.get("/static/0123456789abcdef/site.css")).status_code == 404
    assert (await gateway.get(address[0].replace("site.css", "../pages.py"))).status_code == 404


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json"])
async def test_documents_are_compressed_and_sent_once(gateway: httpx.AsyncClient, path: str) -> None:
    zipped = await gateway.get(path, headers={"accept-encoding": "gzip"})
    plain = await gateway.get(path, headers={"accept-encoding": "identity"})
    assert zipped.headers["content-encoding"] == "gzip"
    assert zipped.content == plain.content
    assert len(gzip.compress(plain.content)) < len(plain.content)
    assert zipped.headers["etag"] != plain.headers["etag"]
    for answer, encoding in ((zipped, "gzip"), (plain, "identity")):
        again = await gateway.get(
            path, headers={"accept-encoding": encoding, "if-none-match": answer.headers["etag"]}
        )
        assert (again.status_code, again.content) == (304, b"")
    refused = await gateway.get(path, headers={"accept-encoding": "gzip;q=0"})
    assert "content-encoding" not in refused.headers


async def test_pages_answer_head_without_a_body(gateway: httpx.AsyncClient) -> None:
    answer = await gateway.head("/docs")
    assert (answer.status_code, answer.content) == (200, b"")
    assert (await gateway.post("/docs")).status_code == 405


async def test_page_for_language_models_names_every_route_and_door(gateway: httpx.AsyncClient) -> None:
    answer = await gateway.get("/llms.txt")
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text.startswith("# DCP API\n\n> ")
    api = document(discover())
    for path, item in api["paths"].items():
        for verb in item:
            assert f"- `{verb.upper()} {path}`: " in answer.text
    for path in DIALECTS:
        assert f"- `POST {path}`: " in answer.text
    assert "&#" not in answer.text
