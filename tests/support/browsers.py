"""A browser of a person, as far as the market's cookies go."""

from __future__ import annotations

import httpx

PATIENCE_MS = 90_000
"""For what a page shows: other work may share the machine."""


class Browser:
    """A browser with cookies of its own, on a page of the market."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self.cookies: dict[str, str] = {}
        self.set_cookies: list[str] = []

    async def send(self, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
        """Sends as a script of our own page does, unless ``headers`` say otherwise."""
        headers = {"sec-fetch-site": "same-origin", "content-type": "application/json"} | headers
        headers = {name: value for name, value in headers.items() if value}
        if self.cookies:
            headers["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        content = {} if body is None else {"json": body}
        answer = await self._http.request(method, path, headers=headers, **content)  # type: ignore[arg-type]
        self._http.cookies.clear()
        self.set_cookies = answer.headers.get_list("set-cookie")
        for text in self.set_cookies:
            name, _, value = text.partition(";")[0].partition("=")
            self.cookies.pop(name, None)
            if value:
                self.cookies[name] = value
        return answer

    async def post(self, path: str, body: object, **headers: str) -> httpx.Response:
        """Sends a POST."""
        return await self.send("POST", path, body, **headers)
