"""A person who enters a code at the provider's own pages, as a browser without scripts would."""

import html
import re
from urllib.parse import urljoin

import aiohttp

_FORM = re.compile(r"<form\b[^>]*>.*?</form>", re.DOTALL)


def _attribute(tag: str, name: str) -> str:
    found = re.search(rf'\b{name}="([^"]*)"', tag)
    return html.unescape(found[1]) if found else ""


def _fields(form: str) -> dict[str, str]:
    tags = re.findall(r"<input\b[^>]*>", form)
    return {name: _attribute(tag, "value") for tag in tags if (name := _attribute(tag, "name"))}


class Person:
    """`pages`: the titles of those that were seen."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pages: list[str] = []

    async def enters(self, code: str, page: str, *, agrees: bool = True) -> str:
        """Signs in and agrees, or aborts at the confirmation; returns the text of the last page."""
        typed = {"user_code": code, "login": self.name, "password": "any"}
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
            address, text = await self._got(await browser.get(page))
            while form := _FORM.search(text):
                fields = _fields(form[0])
                fields |= {name: value for name, value in typed.items() if name in fields}
                refuses = "confirm" in fields and not agrees
                if refuses:
                    fields = {"xsrf": fields["xsrf"], "user_code": code, "abort": "yes"}
                to = urljoin(address, _attribute(form[0], "action"))
                address, text = await self._got(await browser.post(to, data=fields))
                if refuses:
                    break  # the page asks for another code
        return text

    async def _got(self, response: aiohttp.ClientResponse) -> tuple[str, str]:
        text = await response.text()
        titles = re.findall(r"<title>(.*?)</title>", text)
        self.pages.append(f"{response.status} {titles[0] if titles else ''}")
        assert len(self.pages) < 20, self.pages
        return str(response.url), text
