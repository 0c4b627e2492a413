"""Validation of HTTP/1.1 request heads by llhttp (through httptools). Pure. Compiled (setup.py)."""

from typing import Final

import httptools

from devroute.errors import NotSupported, RequestMalformed
from devroute.http.http1.fields import known_fault


class _Validator:
    """Checks request heads with llhttp, without callbacks: one for each field would cost more than the check.

    A parser is reused until a head announces a body or the end of the connection: llhttp then waits for that,
    and a new parser is cheaper than feeding it.
    """

    def __init__(self) -> None:
        self._reusable = False
        self._parser = httptools.HttpRequestParser(self)

    def on_message_complete(self) -> None:
        self._reusable = self._parser.should_keep_alive()

    def check(self, head: bytes) -> bool:
        """Whether the head is a whole message, after which the connection goes on. Raises
        httptools.HttpParserError; an upgrade is no error."""
        self._reusable = False
        try:
            self._parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            self._reusable = False
        except httptools.HttpParserError:
            self._reusable = False  # it may come after the message was complete, and would come again
            raise
        finally:
            if not self._reusable:
                self._parser = httptools.HttpRequestParser(self)
        return self._reusable


_validator: Final = _Validator()


def validate(raw: bytes, method: bytes) -> bool:
    """As _Validator.check. Raises RequestMalformed, or NotSupported for CONNECT and for methods that llhttp
    does not know."""
    try:
        whole = _validator.check(raw)
    except httptools.HttpParserInvalidMethodError:
        raise NotSupported(f"method {method[:32].decode('ascii')} is not one that is forwarded") from None
    except httptools.HttpParserError as error:
        problem, hint = known_fault(raw)
        problem = problem or f"the head is not valid HTTP/1.1: {str(error).lower()}"
        raise RequestMalformed(problem, hint=hint) from None
    if method == b"CONNECT":
        raise NotSupported("CONNECT is not forwarded", hint="devroute is a gateway, not a forward proxy")
    return whole
