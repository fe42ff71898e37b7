"""The address and the key: where they come from, and what is refused."""

from __future__ import annotations

import pytest
from dcp_client import SettingError
from dcp_client.settings import DEFAULT_URL, Settings

KEY = "dcp-renter-abc"


def test_arguments_come_before_variables_and_these_before_defaults() -> None:
    variables = {"DCP_API_URL": "https://b.example", "DCP_API_KEY": "dcp-renter-b"}
    assert Settings.build("https://a.example", KEY, variables) == Settings("https://a.example", KEY)
    assert Settings.build(None, None, variables) == Settings("https://b.example", "dcp-renter-b")
    assert Settings.build(None, None, {}) == Settings(DEFAULT_URL, "")


@pytest.mark.parametrize("text", ["https://m.example/", "https://m.example/api", "https://m.example/v1/"])
def test_address_is_that_of_the_market(text: str) -> None:
    assert Settings.build(text, KEY, {}).api_url == "https://m.example"


@pytest.mark.parametrize(
    "text", ["m.example", "ftp://m.example", "https://", "https://u:p@m.example", "http://[::1"]
)
def test_what_is_no_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(SettingError, match="DCP_API_URL"):
        Settings.build(text, "", {})


@pytest.mark.parametrize("key", ["a b", "clé", "a\nb"])
def test_key_that_no_header_carries_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(SettingError, match="DCP_API_KEY") as caught:
        Settings.build("https://m.example", key, {})
    assert key not in str(caught.value)


def test_key_goes_to_another_machine_only_by_https_or_by_consent() -> None:
    with pytest.raises(SettingError, match="DCP_INSECURE"):
        Settings.build("http://m.example", KEY, {})
    Settings.build("http://m.example", "", {})
    Settings.build("http://m.example", KEY, {"DCP_INSECURE": "true"})
    for here in ("http://127.0.0.1:8080", "http://[::1]:8080", "http://localhost:8080"):
        Settings.build(here, KEY, {})


def test_key_is_not_shown() -> None:
    assert KEY not in repr(Settings("https://m.example", KEY))
