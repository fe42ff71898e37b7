"""Owns the sending of requests: credentials, attempts, errors. It knows no route."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx
from dcp_client import errors
from dcp_client.calls import USER_AGENT, Call, Failure, Retries, retry_after
from dcp_client.errors import APIError, ConnectionFailedError, ResponseError
from dcp_client.generated.reasons import BY_REASON
from dcp_client.reading import MalformedError, Model, loads
from dcp_client.settings import Settings

M = TypeVar("M", bound=Model)

# What failed before a byte of the request was sent.
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


class AsyncTransport:
    """Sends calls to a market, again where that is safe, and raises what it answers as errors."""

    def __init__(
        self,
        settings: Settings,
        http: httpx.AsyncClient | None = None,
        retries: Retries | None = None,
        timeout_seconds: float = 60.0,
    ) -> None:
        self.settings = settings
        self._retries = retries or Retries()
        self._is_own = http is None
        self._http = http or httpx.AsyncClient(timeout=timeout_seconds)

    async def close(self) -> None:
        """Closes the connections, unless they are the caller's."""
        if self._is_own:
            await self._http.aclose()

    async def model(self, call: Call, model: type[M], timeout_seconds: float | None = None) -> M:
        """The answer as a model."""
        answer = await self.send(call, timeout_seconds)
        if not answer.content:
            return model()
        try:
            return model.from_json(loads(answer.content))
        except MalformedError as error:
            raise ResponseError(f"{call.verb} {call.path}: {error}") from error

    async def text(self, call: Call) -> str:
        """The answer as a text."""
        return (await self.send(call)).text

    async def send(self, call: Call, timeout_seconds: float | None = None) -> httpx.Response:
        """The whole answer, which is a success."""
        async with self.stream(call, timeout_seconds) as answer:
            await answer.aread()
            return answer

    @asynccontextmanager
    async def stream(self, call: Call, timeout_seconds: float | None = None) -> AsyncIterator[httpx.Response]:
        """An answer that is a success, whose body the caller reads."""
        headers = {**self._own_headers(), **call.all_headers()}
        attempt, is_unknown = 0, False
        while True:
            attempt += 1
            try:
                answer = await self._once(call, headers, timeout_seconds)
            except httpx.HTTPError as error:
                is_cut = not isinstance(error, _UNSENT)
                is_unknown = is_unknown or (is_cut and call.repeat in ("keyed", "secret"))
                pause = self._retries.pause(call, attempt, None, random.random(), is_cut)  # noqa: S311
                if pause is None:
                    raise _failed(self.settings.api_url, error, is_cut, is_unknown) from error
            else:
                if answer.is_success:
                    break
                refusal = await self._refusal(answer)
                failure = _failure(answer, refusal)
                pause = self._retries.pause(call, attempt, failure, random.random())  # noqa: S311
                if pause is None:
                    raise refusal
            await asyncio.sleep(pause)
        try:
            yield answer
        finally:
            await answer.aclose()

    def _own_headers(self) -> dict[str, str]:
        key = self.settings.api_key
        return {"User-Agent": USER_AGENT, **({"Authorization": f"Bearer {key}"} if key else {})}

    async def _once(
        self, call: Call, headers: dict[str, str], timeout_seconds: float | None
    ) -> httpx.Response:
        """Sends it once. The body of a short answer is read, so that a cut within it is noticed here."""
        more: dict[str, Any] = {} if timeout_seconds is None else {"timeout": timeout_seconds}
        if call.content is not None:
            more["content"] = call.content()
        elif call.body is not None:
            more["json"] = call.body
        url = self.settings.api_url + call.path
        request = self._http.build_request(
            call.verb, url, params=call.parameters() or None, headers=headers, **more
        )
        answer = await self._http.send(request, stream=True)
        is_whole = answer.headers.get("content-type", "").startswith(("application/json", "text/csv"))
        if is_whole or not answer.is_success:
            try:
                await answer.aread()
            except BaseException:
                await answer.aclose()
                raise
        return answer

    async def _refusal(self, answer: httpx.Response) -> errors.DCPError:
        try:
            return errors.from_answer(answer.status_code, loads(answer.content), BY_REASON)
        except (MalformedError, ResponseError):
            what = f"{answer.request.method} {answer.request.url}"
            return ResponseError(
                f"{what}: the answer {answer.status_code} is not one of a DCP market: check the address"
            )


def _failure(answer: httpx.Response, refusal: errors.DCPError) -> Failure:
    reason = refusal.reason if isinstance(refusal, APIError) else ""
    return Failure(answer.status_code, reason, retry_after(answer.headers.get("retry-after")))


def _failed(url: str, error: httpx.HTTPError, is_cut: bool, is_unknown: bool) -> ConnectionFailedError:
    why = error or type(error).__name__
    text = f"the connection to {url} broke ({why})" if is_cut else f"cannot reach {url}: {why}"
    unknown = ": it is not known whether the request took effect" if is_unknown else ""
    return ConnectionFailedError(text + unknown, is_unknown=is_unknown)
