"""Requests as raw bytes: whether each may reach an app, and its response.

Written from RFC 9110 and RFC 9112. Nothing here opens a socket; test_requests.py sends them, and the fuzzer
starts from them.
"""

from typing import NamedTuple

MESH = b'x-devroute: {"foo":"alice"}\r\nx-devroute-matched: foo\r\n'

#: Follows each request that must be refused: a whole, valid request that only a fooled parser would serve.
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: foo\r\n" + MESH + b"\r\n"

MALFORMED = (400, "request-malformed")
UNSUPPORTED = (501, "not-supported")
TOO_LARGE = (431, "head-too-large")
OK = (200, None)


class Case(NamedTuple):
    """`answers`: status and error code of each response. `reached`: (method and target, body) of each
    request that the app received completely. `goes_on`: whether the connection serves another request after
    it. `ends`: the client closes its half after `raw`.
    """

    name: str
    raw: bytes
    answers: tuple[tuple[int, str | None], ...]
    reached: tuple[tuple[bytes, bytes], ...] = ()
    goes_on: bool = False
    ends: bool = False


def head(fields: bytes = b"", line: bytes = b"POST / HTTP/1.1", host: bytes = b"host: foo\r\n") -> bytes:
    """A head of whole field lines, each with its line end."""
    return line + b"\r\n" + host + MESH + fields + b"\r\n"


def refused(name: str, raw: bytes, answer: tuple[int, str] = MALFORMED) -> Case:
    """An error response and a close: nothing reaches the app, and what follows is not read."""
    return Case(name, raw + SMUGGLED, (answer,))


def served(name: str, raw: bytes, *reached: tuple[bytes, bytes]) -> Case:
    return Case(name, raw, tuple(OK for _ in reached), reached, goes_on=True)


def line_refused(name: str, line: bytes, answer: tuple[int, str] = MALFORMED) -> Case:
    return refused(f"request line: {name}", head(line=line), answer)


def line_served(name: str, line: bytes, reached: bytes, host: bytes = b"host: foo\r\n") -> Case:
    return served(f"request line: {name}", head(line=line, host=host), (reached, b""))


def field_refused(name: str, line: bytes, answer: tuple[int, str] = MALFORMED) -> Case:
    """One field line, with a body that both a length and chunks could mean."""
    return refused(name, head(line) + b"5\r\nhello\r\n0\r\n\r\n", answer)


def chunks_refused(name: str, body: bytes) -> Case:
    return refused(f"chunks: {name}", head(b"transfer-encoding: chunked\r\n") + body)


def chunks_served(name: str, body: bytes, reached: bytes) -> Case:
    return served(f"chunks: {name}", head(b"transfer-encoding: chunked\r\n") + body, (b"POST /", reached))


def cut_off(name: str, raw: bytes) -> Case:
    """The client closes in the middle: no response is due, and no app may take it for a complete request."""
    return Case(f"early end: {name}", raw, (), ends=True)


REQUEST_LINES = [
    line_refused("two spaces after the method", b"GET  / HTTP/1.1"),
    line_refused("two spaces before the version", b"GET /  HTTP/1.1"),
    line_refused("space at the end", b"GET / HTTP/1.1 "),
    line_refused("space at the start", b" GET / HTTP/1.1"),
    line_refused("tabs for spaces", b"GET\t/\tHTTP/1.1"),
    line_refused("vertical tab", b"GET\x0b/ HTTP/1.1"),
    line_refused("form feed", b"GET /\x0cHTTP/1.1"),
    line_refused("CR for a space", b"GET\r/ HTTP/1.1"),
    line_refused("space in the target", b"GET /a b HTTP/1.1"),
    line_refused("a request inside the target", b"GET / HTTP/1.1 HTTP/1.1"),
    line_refused("NUL in the target", b"GET /\x00 HTTP/1.1"),
    line_refused("DEL in the target", b"GET /\x7f HTTP/1.1"),
    line_refused("bare CR in the target", b"GET /\rx HTTP/1.1"),
    line_refused("bare LF in the target", b"GET /\nx HTTP/1.1"),
    line_refused("raw UTF-8 in the target", b"GET /\xc3\xa9 HTTP/1.1"),
    line_refused("fragment", b"GET /#a HTTP/1.1"),
    line_refused("no target", b"GET HTTP/1.1"),
    line_refused("no method", b"/ HTTP/1.1"),
    line_refused("HTTP/0.9", b"GET /"),
    line_refused("version 0.9", b"GET / HTTP/0.9"),
    line_refused("version 1.2", b"GET / HTTP/1.2"),
    line_refused("version 1.10", b"GET / HTTP/1.10"),
    line_refused("version 01.1", b"GET / HTTP/01.1"),
    line_refused("version 2", b"GET / HTTP/2"),
    line_refused("version 2.0", b"GET / HTTP/2.0"),
    line_refused("version 9.9", b"GET / HTTP/9.9"),
    line_refused("version without a minor", b"GET / HTTP/1"),
    line_refused("version with a comma", b"GET / HTTP/1,1"),
    line_refused("version in lower case", b"GET / http/1.1"),
    line_refused("another protocol", b"GET / ICY/1.1"),
    line_refused("RTSP", b"DESCRIBE / RTSP/1.0"),
    line_refused("space in the version", b"GET / HTTP/ 1.1"),
    line_refused("separator in the method", b"G@T / HTTP/1.1"),
    line_refused("NUL in the method", b"G\x00T / HTTP/1.1"),
    line_refused("obs-text in the method", b"G\xc9T / HTTP/1.1"),
    line_refused("colon after the method", b"GET: / HTTP/1.1"),
    line_refused("method in lower case", b"get / HTTP/1.1", UNSUPPORTED),
    line_refused("unregistered method", b"SMUGGLE / HTTP/1.1", UNSUPPORTED),
    line_refused("two methods", b"GETPOST / HTTP/1.1", UNSUPPORTED),
    line_refused("CONNECT", b"CONNECT foo:443 HTTP/1.1", UNSUPPORTED),
    line_refused("CONNECT with a path", b"CONNECT / HTTP/1.1", UNSUPPORTED),
    line_refused("authority-form", b"GET foo:80 HTTP/1.1"),
    line_refused("relative path", b"GET a/b HTTP/1.1"),
    line_refused("asterisk for GET", b"GET * HTTP/1.1"),
    line_refused("asterisk and more", b"OPTIONS *a HTTP/1.1"),
    line_refused("absolute-form of another host", b"GET http://bar/ HTTP/1.1"),
    line_refused("absolute-form of another port", b"GET http://foo:81/ HTTP/1.1"),
    line_refused("absolute-form with a user", b"GET http://foo@bar/ HTTP/1.1"),
    line_refused("absolute-form without a host", b"GET http:///x HTTP/1.1"),
    line_refused("absolute-form with one slash", b"GET http:/foo/x HTTP/1.1"),
    line_refused("absolute-form of a file", b"GET file:///etc/passwd HTTP/1.1"),
    line_refused("absolute-form of ftp", b"GET ftp://foo/ HTTP/1.1"),
    line_refused("backslash target", b"GET \\x HTTP/1.1"),
    line_refused("HTTP/2 preface's method", b"PRI * HTTP/1.1"),
    refused("HTTP/2 preface, but another end", b"PRI * HTTP/2.0\r\n\r\nHI\r\n\r\n"),
    refused("TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    refused("NUL first", b"\x00" + head()),
    refused("PROXY protocol", b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n" + head()),
    refused("a response for a request", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
    refused("a field for a request line", b"Host: foo\r\n\r\n"),
    refused("bare LF ends the request line", b"GET / HTTP/1.1\nhost: foo\r\n" + MESH + b"\r\n"),
    refused("bare CR ends the request line", b"GET / HTTP/1.1\rhost: foo\r\n" + MESH + b"\r\n"),
    refused("CR CR LF ends the request line", b"GET / HTTP/1.1\r\r\nhost: foo\r\n" + MESH + b"\r\n"),
    refused("bare LF before the request", b"\n" + head()),
    refused("bare CR before the request", b"\r" + head()),
    refused("LF for every line end", head().replace(b"\r\n", b"\n")),
    refused("CR for every line end", head().replace(b"\r\n", b"\r")),
    refused("target over the limit", head(line=b"GET /" + b"a" * 66_000 + b" HTTP/1.1"), TOO_LARGE),
    refused("method over the limit", b"A" * 66_000 + b" / HTTP/1.1\r\n", TOO_LARGE),
    line_served("origin-form", b"GET /a%20b?c=d&e HTTP/1.1", b"GET /a%20b?c=d&e"),
    line_served("two slashes", b"GET //foo/x HTTP/1.1", b"GET //foo/x"),
    line_served("odd but printable", b'GET /{a}|^`<>"\\~[] HTTP/1.1', b'GET /{a}|^`<>"\\~[]'),
    line_served("URL in a query", b"GET /?u=http://bar/ HTTP/1.1", b"GET /?u=http://bar/"),
    line_served("absolute-form", b"GET http://foo/x?y HTTP/1.1", b"GET /x?y"),
    line_served("absolute-form in other case", b"GET HTTPS://FOO/x HTTP/1.1", b"GET /x"),
    line_served("absolute-form without a path", b"GET http://foo HTTP/1.1", b"GET /"),
    line_served("absolute-form with a query only", b"GET http://foo?x HTTP/1.1", b"GET /?x"),
    line_served("absolute-form with a port", b"GET http://foo:80/ HTTP/1.1", b"GET /", b"host: foo:80\r\n"),
    line_served("asterisk", b"OPTIONS * HTTP/1.1", b"OPTIONS *"),
    line_served("asterisk as absolute-form", b"OPTIONS http://foo HTTP/1.1", b"OPTIONS *"),
    line_served("OPTIONS of a path", b"OPTIONS /a HTTP/1.1", b"OPTIONS /a"),
    line_served("DELETE", b"DELETE /a HTTP/1.1", b"DELETE /a"),
    line_served("PATCH", b"PATCH /a HTTP/1.1", b"PATCH /a"),
    line_served("TRACE", b"TRACE /a HTTP/1.1", b"TRACE /a"),
    line_served("PROPFIND", b"PROPFIND /a HTTP/1.1", b"PROPFIND /a"),
    line_served("a target of 60 KB", b"GET /" + b"a" * 60_000 + b" HTTP/1.1", b"GET /" + b"a" * 60_000),
    served("one empty line first", b"\r\n" + head(), (b"POST /", b"")),
    served("many empty lines first", b"\r\n" * 40_000 + head(), (b"POST /", b"")),
]

HOSTS = [
    refused("host: missing", head(host=b"")),
    refused("host: twice the same", head(host=b"host: foo\r\nhost: foo\r\n")),
    refused("host: twice", head(host=b"Host: foo\r\nhOST: bar\r\n")),
    refused("host: a list", head(host=b"host: foo, bar\r\n")),
    refused("host: with a path", head(host=b"host: foo/bar\r\n")),
    refused("host: with a user", head(host=b"host: bar@foo\r\n")),
    refused("host: with a space", head(host=b"host: foo bar\r\n")),
    refused("host: with a scheme", head(host=b"host: http://foo\r\n")),
    refused("host: with a query", head(host=b"host: foo?x\r\n")),
    refused("host: with a fragment", head(host=b"host: foo#x\r\n")),
    refused("host: with a port that is none", head(host=b"host: foo:http\r\n")),
    refused("host: with two ports", head(host=b"host: foo:80:80\r\n")),
    refused("host: open bracket", head(host=b"host: [::1\r\n")),
    refused("host: obs-text", head(host=b"host: f\xc3\xb6o\r\n")),
    refused("host: backslash", head(host=b"host: foo\\bar\r\n")),
    refused("host: folded", head(host=b"host: foo\r\n bar\r\n")),
    refused("host: space before the colon", head(host=b"host : foo\r\n")),
    refused("host: bad one in HTTP/1.0", head(line=b"GET / HTTP/1.0", host=b"host: a b\r\n")),
    refused("host: two in HTTP/1.0", head(line=b"GET / HTTP/1.0", host=b"host: a\r\nhost: a\r\n")),
    served("host: empty", head(host=b"host:\r\n"), (b"POST /", b"")),
    served("host: IPv6", head(host=b"host: [2001:db8::1]:8080\r\n"), (b"POST /", b"")),
    served("host: any case, any space", head(host=b"hOsT:\t foo:80 \t\r\n"), (b"POST /", b"")),
    served("host: not first", head(b"host: foo\r\n", host=b"accept: */*\r\n"), (b"POST /", b"")),
    served("host: underscores", head(host=b"host: my_service.default.svc:80\r\n"), (b"POST /", b"")),
    Case("host: none in HTTP/1.0", head(line=b"GET /a HTTP/1.0", host=b""), (OK,), ((b"GET /a", b""),)),
]

FIELDS = [
    field_refused("field: no colon", b"x-a\r\n"),
    field_refused("field: empty name", b": x\r\n"),
    field_refused("field: space before the colon", b"x-a : x\r\n"),
    field_refused("field: tab before the colon", b"x-a\t: x\r\n"),
    field_refused("field: space at the start", b" x-a: x\r\n"),
    field_refused("field: space in the name", b"x a: x\r\n"),
    field_refused("field: NUL in the name", b"x\x00a: x\r\n"),
    field_refused("field: obs-text in the name", b"x\xe9: x\r\n"),
    field_refused("field: parenthesis in the name", b"x(a): x\r\n"),
    field_refused("field: slash in the name", b"x/a: x\r\n"),
    field_refused("field: quote in the name", b'"x": x\r\n'),
    field_refused("field: bare CR in the name", b"x\ra: x\r\n"),
    field_refused("field: NUL in the value", b"x-a: x\x00y\r\n"),
    field_refused("field: NUL at the end", b"x-a: x\x00\r\n"),
    field_refused("field: SOH in the value", b"x-a: \x01\r\n"),
    field_refused("field: backspace in the value", b"x-a: \x08\r\n"),
    field_refused("field: vertical tab in the value", b"x-a: \x0bx\r\n"),
    field_refused("field: form feed in the value", b"x-a: \x0cx\r\n"),
    field_refused("field: escape in the value", b"x-a: \x1b[2J\r\n"),
    field_refused("field: DEL in the value", b"x-a: \x7f\r\n"),
    field_refused("field: bare CR in the value", b"x-a: x\rtransfer-encoding: chunked\r\n"),
    field_refused("field: bare CR at the start of the value", b"x-a:\r x\r\n"),
    field_refused("field: bare LF in the value", b"x-a: x\ntransfer-encoding: chunked\r\n"),
    field_refused("field: bare LF ends the line", b"x-a: x\n"),
    field_refused("field: CR CR LF ends the line", b"x-a: x\r\r\n"),
    field_refused("field: LF CR ends the line", b"x-a: x\n\r"),
    field_refused("field: folded with a space", b"x-a: x\r\n y\r\n"),
    field_refused("field: folded with a tab", b"x-a: x\r\n\ty\r\n"),
    field_refused("field: folded before the value", b"x-a:\r\n y\r\n"),
    field_refused("field: a fold of spaces only", b"x-a: x\r\n \r\n"),
    field_refused("field: first line folded", b" \r\n"),
    field_refused("field: bare CR ends the head", b"x-a: x\r\n\r"),
    field_refused("field: bare LF ends the head", b"x-a: x\r\n\n"),
    field_refused("field: LF LF ends the head", b"x-a: x\n\n"),
    field_refused("field: 201 lines", b"x: y\r\n" * 198),
    field_refused("field: 16,000 of the shortest lines", b"a:\r\n" * 16_000),
    field_refused("field: over the limit", b"x-a: " + b"x" * 66_000 + b"\r\n", TOO_LARGE),
    field_refused("field: name over the limit", b"x" * 66_000 + b": x\r\n", TOO_LARGE),
    field_refused("field: lines over the limit", b"x-a: xxxxxxxxxxxxxxxx\r\n" * 3_000, TOO_LARGE),
    refused(
        "field: a head that never ends", b"GET / HTTP/1.1\r\nhost: foo\r\nx-a: " + b"x" * 66_000, TOO_LARGE
    ),
    served("field: empty value", head(b"x-a:\r\nx-b: \r\n"), (b"POST /", b"")),
    served("field: obs-text in the value", head(b"x-a: \x80\xff \xe2\x82\xac\r\n"), (b"POST /", b"")),
    served("field: tabs in the value", head(b"x-a:\t a\tb \t\r\n"), (b"POST /", b"")),
    served("field: colons in the value", head(b"x-a::b::\r\n"), (b"POST /", b"")),
    served("field: every token character", head(b"!#$%&'*+-.^_`|~09aZ: x\r\n"), (b"POST /", b"")),
    served("field: repeated", head(b"x-a: 1\r\nX-A: 2\r\nx-a: 1\r\n"), (b"POST /", b"")),
    served("field: mixed case", head(b"CoNtEnT-LeNgTh: 5\r\n") + b"hello", (b"POST /", b"hello")),
    served("field: 200 lines", head(b"x: y\r\n" * 197), (b"POST /", b"")),
    served("field: a head of 60 KB", head(b"x-a: " + b"x" * 60_000 + b"\r\n"), (b"POST /", b"")),
    served("field: like a marker, but another", head(b"x_devroute_matched: bar\r\n"), (b"POST /", b"")),
    served("field: content_length", head(b"content_length: 5\r\n"), (b"POST /", b"")),
]

LENGTHS = [
    field_refused("length: plus sign", b"content-length: +5\r\n"),
    field_refused("length: minus sign", b"content-length: -5\r\n"),
    field_refused("length: minus zero", b"content-length: -0\r\n"),
    field_refused("length: hexadecimal", b"content-length: 0x5\r\n"),
    field_refused("length: hexadecimal digit", b"content-length: a\r\n"),
    field_refused("length: point", b"content-length: 5.0\r\n"),
    field_refused("length: exponent", b"content-length: 5e0\r\n"),
    field_refused("length: underscore", b"content-length: 1_0\r\n"),
    field_refused("length: empty", b"content-length:\r\n"),
    field_refused("length: spaces only", b"content-length:   \r\n"),
    field_refused("length: space inside", b"content-length: 1 0\r\n"),
    field_refused("length: two of the same in a list", b"content-length: 5, 5\r\n"),
    field_refused("length: two in a list", b"content-length: 5, 6\r\n"),
    field_refused("length: comma at the end", b"content-length: 5,\r\n"),
    field_refused("length: comma at the start", b"content-length: ,5\r\n"),
    field_refused("length: semicolon", b"content-length: 5;\r\n"),
    field_refused("length: quoted", b'content-length: "5"\r\n'),
    field_refused("length: vertical tab", b"content-length: \x0b5\r\n"),
    field_refused("length: NUL", b"content-length: 5\x00\r\n"),
    field_refused("length: superscript two", b"content-length: \xb2\r\n"),
    field_refused("length: Arabic digit", b"content-length: \xd9\xa5\r\n"),
    field_refused("length: bare CR after it", b"content-length: 5\r6\r\n"),
    field_refused("length: folded", b"content-length:\r\n 5\r\n"),
    field_refused("length: space before the colon", b"content-length : 5\r\n"),
    field_refused("length: over 64 bits", b"content-length: 18446744073709551621\r\n"),
    field_refused("length: 63 bits", b"content-length: 9223372036854775807\r\n"),
    field_refused("length: 16 digits", b"content-length: 1000000000000000\r\n"),
    field_refused("length: a thousand zeros", b"content-length: " + b"0" * 1000 + b"5\r\n"),
    field_refused("length: repeated, the same", b"content-length: 5\r\ncontent-length: 5\r\n"),
    field_refused("length: repeated, another", b"content-length: 5\r\nContent-Length: 0\r\n"),
    field_refused("length: repeated, one empty", b"content-length: 5\r\ncontent-length:\r\n"),
    served("length: zero", head(b"content-length: 0\r\n"), (b"POST /", b"")),
    served("length: leading zeros", head(b"content-length: 0005\r\n") + b"hello", (b"POST /", b"hello")),
    served(
        "length: spaces and tabs around",
        head(b"content-length: \t5\t \r\n") + b"hello",
        (b"POST /", b"hello"),
    ),
    served(
        "length: body of GET",
        head(b"content-length: 5\r\n", b"GET / HTTP/1.1") + b"hello",
        (b"GET /", b"hello"),
    ),
    served(
        "length: body of HEAD",
        head(b"content-length: 5\r\n", b"HEAD / HTTP/1.1") + b"hello",
        (b"HEAD /", b"hello"),
    ),
    served(
        "length: body of DELETE",
        head(b"content-length: 1\r\n", b"DELETE / HTTP/1.1") + b"x",
        (b"DELETE /", b"x"),
    ),
    served(
        "length: a body that is a request",
        head(b"content-length: %d\r\n" % len(SMUGGLED)) + SMUGGLED,
        (b"POST /", SMUGGLED),
    ),
    served(
        "length: none, so the body is a request",
        head() + head(line=b"GET /second HTTP/1.1"),
        (b"POST /", b""),
        (b"GET /second", b""),
    ),
    Case(
        "length: too short, so the rest is no request",
        head(b"content-length: 3\r\n") + b"hello",
        (OK,),
        ((b"POST /", b"hel"),),
        ends=True,
    ),
    Case(
        "length: too short, and the rest is garbage",
        head(b"content-length: 3\r\n") + b"hello\r\n\r\n",
        (OK, MALFORMED),
        ((b"POST /", b"hel"),),
    ),
]

CODINGS = [
    field_refused("coding: CL.TE", b"content-length: 5\r\ntransfer-encoding: chunked\r\n"),
    field_refused("coding: TE.CL", b"transfer-encoding: chunked\r\ncontent-length: 5\r\n"),
    field_refused("coding: CL.TE, length zero", b"content-length: 0\r\ntransfer-encoding: chunked\r\n"),
    field_refused("coding: CL.TE, in other case", b"content-length: 5\r\nTRANSFER-ENCODING: CHUNKED\r\n"),
    field_refused("coding: CL.TE of identity", b"content-length: 5\r\ntransfer-encoding: identity\r\n"),
    field_refused("coding: CL.TE of nothing", b"content-length: 5\r\ntransfer-encoding:\r\n"),
    field_refused("coding: TE.TE", b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n"),
    field_refused(
        "coding: TE.TE, one identity", b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n"
    ),
    field_refused(
        "coding: TE.TE, one unknown", b"transfer-encoding: x\r\ntransfer-encoding: chunked\r\n", UNSUPPORTED
    ),
    field_refused("coding: chunked twice", b"transfer-encoding: chunked, chunked\r\n"),
    field_refused("coding: not last", b"transfer-encoding: chunked, gzip\r\n"),
    field_refused("coding: chunked, identity", b"transfer-encoding: chunked, identity\r\n"),
    field_refused("coding: identity", b"transfer-encoding: identity\r\n"),
    field_refused("coding: gzip only", b"transfer-encoding: gzip\r\n"),
    field_refused("coding: xchunked", b"transfer-encoding: xchunked\r\n"),
    field_refused("coding: chunkedx", b"transfer-encoding: chunkedx\r\n"),
    field_refused("coding: chunked with a point", b"transfer-encoding: .chunked\r\n"),
    field_refused("coding: a space inside", b"transfer-encoding: chun ked\r\n"),
    field_refused("coding: quoted", b'transfer-encoding: "chunked"\r\n'),
    field_refused("coding: apostrophes", b"transfer-encoding: 'chunked'\r\n"),
    field_refused("coding: a parameter", b"transfer-encoding: chunked;q=1\r\n"),
    field_refused("coding: a colon", b"transfer-encoding: :chunked\r\n"),
    field_refused("coding: empty", b"transfer-encoding:\r\n"),
    field_refused("coding: comma at the end", b"transfer-encoding: chunked,\r\n"),
    field_refused("coding: vertical tab before", b"transfer-encoding: \x0bchunked\r\n"),
    field_refused("coding: form feed after", b"transfer-encoding: chunked\x0c\r\n"),
    field_refused("coding: NUL after", b"transfer-encoding: chunked\x00\r\n"),
    field_refused("coding: no-break space", b"transfer-encoding: \xa0chunked\r\n"),
    field_refused("coding: Kelvin sign", b"transfer-encoding: chun\xe2\x84\xaaed\r\n"),
    field_refused("coding: bare CR after", b"transfer-encoding: chunked\r \r\n"),
    field_refused("coding: bare CR before", b"transfer-encoding:\rchunked\r\n"),
    field_refused("coding: bare LF before", b"transfer-encoding:\nchunked\r\n"),
    field_refused("coding: bare LF after", b"transfer-encoding: chunked\nx: y\r\n"),
    field_refused("coding: folded", b"transfer-encoding:\r\n chunked\r\n"),
    field_refused("coding: folded with a tab", b"transfer-encoding:\r\n\tchunked\r\n"),
    field_refused("coding: chunked in a fold", b"transfer-encoding: identity,\r\n chunked\r\n"),
    field_refused("coding: space before the colon", b"transfer-encoding : chunked\r\n"),
    field_refused("coding: tab before the colon", b"transfer-encoding\t: chunked\r\n"),
    field_refused("coding: folded from the line before", b"x-a: x\r\n transfer-encoding: chunked\r\n"),
    field_refused("coding: behind a bare CR", b"x-a: x\r\rtransfer-encoding: chunked\r\n"),
    field_refused("coding: tab after", b"transfer-encoding: chunked\t\r\n"),
    field_refused("coding: gzip, chunked", b"transfer-encoding: gzip, chunked\r\n", UNSUPPORTED),
    field_refused("coding: identity, chunked", b"transfer-encoding: identity, chunked\r\n", UNSUPPORTED),
    field_refused("coding: comma at the start", b"transfer-encoding: ,chunked\r\n", UNSUPPORTED),
    refused(
        "coding: in HTTP/1.0", head(b"transfer-encoding: chunked\r\n", b"POST / HTTP/1.0") + b"0\r\n\r\n"
    ),
    refused(
        "coding: in HTTP/1.0 with a length",
        head(b"content-length: 5\r\ntransfer-encoding: chunked\r\n", b"POST / HTTP/1.0") + b"0\r\n\r\n",
    ),
    served("coding: another name", head(b"transfer_encoding: chunked\r\n"), (b"POST /", b"")),
    served("coding: another name after all", head(b"x-transfer-encoding: chunked\r\n"), (b"POST /", b"")),
    served(
        "coding: any case",
        head(b"Transfer-Encoding: ChUnKeD\r\n") + b"1\r\na\r\n0\r\n\r\n",
        (b"POST /", b"a"),
    ),
    served(
        "coding: spaces around",
        head(b"transfer-encoding: \t chunked  \r\n") + b"1\r\na\r\n0\r\n\r\n",
        (b"POST /", b"a"),
    ),
    served(
        "coding: body of GET",
        head(b"transfer-encoding: chunked\r\n", b"GET / HTTP/1.1") + b"1\r\na\r\n0\r\n\r\n",
        (b"GET /", b"a"),
    ),
    served(
        "coding: named by Connection",
        head(b"connection: transfer-encoding\r\ntransfer-encoding: chunked\r\n") + b"1\r\na\r\n0\r\n\r\n",
        (b"POST /", b"a"),
    ),
    served(
        "coding: length named by Connection",
        head(b"connection: content-length\r\ncontent-length: 1\r\n") + b"a",
        (b"POST /", b"a"),
    ),
]

CHUNKS = [
    chunks_refused("0x", b"0x5\r\nhello\r\n0\r\n\r\n"),
    chunks_refused("plus sign", b"+5\r\nhello\r\n0\r\n\r\n"),
    chunks_refused("minus sign", b"-5\r\nhello\r\n0\r\n\r\n"),
    chunks_refused("minus zero", b"-0\r\n\r\n"),
    chunks_refused("space before the size", b" 5\r\nhello\r\n0\r\n\r\n"),
    chunks_refused("space after the size", b"5 \r\nhello\r\n0\r\n\r\n"),
    chunks_refused("tab after the size", b"5\t\r\nhello\r\n0\r\n\r\n"),
    chunks_refused("vertical tab after the size", b"5\x0b\r\nhello\r\n0\r\n\r\n"),
    chunks_refused("NUL after the size", b"5\x00\r\nhello\r\n0\r\n\r\n"),
    chunks_refused("no size", b"\r\nhello\r\n0\r\n\r\n"),
    chunks_refused("no size, an extension", b";a\r\nhello\r\n0\r\n\r\n"),
    chunks_refused("not a digit", b"g\r\nhello\r\n0\r\n\r\n"),
    chunks_refused("underscore", b"0_5\r\nhello\r\n0\r\n\r\n"),
    chunks_refused("point", b"5.0\r\nhello\r\n0\r\n\r\n"),
    chunks_refused("superscript two", b"\xb2\r\nhe\r\n0\r\n\r\n"),
    chunks_refused("13 digits", b"fffffffffffff\r\nhello"),
    chunks_refused("64 bits", b"ffffffffffffffff\r\nhello"),
    chunks_refused("over 64 bits", b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    chunks_refused("13 zeros", b"0000000000000\r\n\r\n"),
    chunks_refused("size line over the limit", b"5;" + b"a" * 600 + b"\r\nhello\r\n0\r\n\r\n"),
    chunks_refused("size line that never ends", b"5;" + b"a" * 600),
    chunks_refused("bare LF after the size", b"5\nhello\r\n0\r\n\r\n"),
    chunks_refused("bare CR after the size", b"5\rhello\r\n0\r\n\r\n"),
    chunks_refused("CR CR LF after the size", b"5\r\r\nhello\r\n0\r\n\r\n"),
    chunks_refused("LF CR after the size", b"5\n\rhello\r\n0\r\n\r\n"),
    chunks_refused("bare CR in an extension", b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
    chunks_refused("bare LF in an extension", b"5;a\nb\r\nhello\r\n0\r\n\r\n"),
    chunks_refused("NUL in an extension", b"5;a\x00\r\nhello\r\n0\r\n\r\n"),
    chunks_refused("CR LF in a quoted extension", b'5;a="\r\n"\r\nhello\r\n0\r\n\r\n'),
    chunks_refused("extension without a semicolon", b"5 a=b\r\nhello\r\n0\r\n\r\n"),
    chunks_refused("no CR LF after the data", b"5\r\nhello0\r\n\r\n"),
    chunks_refused("bare LF after the data", b"5\r\nhello\n0\r\n\r\n"),
    chunks_refused("bare CR after the data", b"5\r\nhello\r0\r\n\r\n"),
    chunks_refused("LF CR after the data", b"5\r\nhello\n\r0\r\n\r\n"),
    chunks_refused("more data than the size", b"5\r\nhello!\r\n0\r\n\r\n"),
    chunks_refused("less data than the size", b"6\r\nhello\r\n0\r\n\r\n"),
    chunks_refused("two empty lines after the data", b"5\r\nhello\r\n\r\n0\r\n\r\n"),
    chunks_refused("bare LF ends it", b"5\r\nhello\r\n0\r\n\n"),
    chunks_refused("bare LF after the last size", b"5\r\nhello\r\n0\n\r\n"),
    chunks_refused("bare CR ends it", b"5\r\nhello\r\n0\r\n\rX"),
    chunks_refused("a length for a size", b"content-length: 5\r\nhello\r\n0\r\n\r\n"),
    chunks_refused("trailer without a colon", b"0\r\nx\r\n\r\n"),
    chunks_refused("trailer with a space before the colon", b"0\r\nx : y\r\n\r\n"),
    chunks_refused("trailer with a space at the start", b"0\r\n x: y\r\n\r\n"),
    chunks_refused("trailer with an empty name", b"0\r\n: y\r\n\r\n"),
    chunks_refused("trailer folded", b"0\r\nx: y\r\n z\r\n\r\n"),
    chunks_refused("trailer with NUL", b"0\r\nx: \x00\r\n\r\n"),
    chunks_refused("trailer with bare CR", b"0\r\nx: y\rz\r\n\r\n"),
    chunks_refused("trailer with bare LF", b"0\r\nx: y\nz: a\r\n\r\n"),
    chunks_refused("trailer content-length", b"0\r\nContent-Length: 5\r\n\r\n"),
    chunks_refused("trailer transfer-encoding", b"0\r\ntransfer-encoding: chunked\r\n\r\n"),
    chunks_refused("trailer host", b"0\r\nhost: bar\r\n\r\n"),
    chunks_refused("trailer connection", b"0\r\nconnection: close\r\n\r\n"),
    chunks_refused("trailer with the marker", b"0\r\nX-Devroute-Matched: bar\r\n\r\n"),
    chunks_refused("trailer with a contract", b'0\r\nx-devroute: {"foo":"bob"}\r\n\r\n'),
    chunks_refused("trailer over the limit", b"0\r\nx: " + b"y" * 17_000 + b"\r\n\r\n"),
    chunks_refused("trailers over the limit", b"0\r\n" + b"x: yyyyyyyyyyy\r\n" * 1_100 + b"\r\n"),
    chunks_refused("trailers that never end", b"0\r\n" + b"x: yyyyyyyyyyy\r\n" * 1_100),
    chunks_served("none", b"0\r\n\r\n", b""),
    chunks_served("one by one", b"1\r\nh\r\n1\r\ni\r\n0\r\n\r\n", b"hi"),
    chunks_served("capital digits", b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    chunks_served("leading zeros", b"000005\r\nhello\r\n000\r\n\r\n", b"hello"),
    chunks_served("extension", b"5;a\r\nhello\r\n0;b=c\r\n\r\n", b"hello"),
    chunks_served("quoted extension", b'5;a="b;c\\"";d=e\r\nhello\r\n0\r\n\r\n', b"hello"),
    chunks_served("space before an extension", b"5 \t; a = b\r\nhello\r\n0\r\n\r\n", b"hello"),
    chunks_served("a size in an extension", b"5;3\r\nhello\r\n0;5\r\n\r\n", b"hello"),
    chunks_served("chunks in a chunk", b"a\r\n0\r\n\r\nhello\r\n0\r\n\r\n", b"0\r\n\r\nhello"),
    chunks_served("a request in a chunk", b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED), SMUGGLED),
    chunks_served("trailers", b"2\r\nhi\r\n0\r\nx-sum: 1\r\nX-Empty:\r\n\r\n", b"hi"),
    Case(
        "chunks: garbage after the end",
        head(b"transfer-encoding: chunked\r\n") + b"0\r\n\r\nX\r\n\r\n" + SMUGGLED,
        (OK, MALFORMED),
        ((b"POST /", b""),),
    ),
    served(
        "chunks: a request after the end",
        head(b"transfer-encoding: chunked\r\n") + b"0\r\n\r\n" + head(line=b"GET /2 HTTP/1.1"),
        (b"POST /", b""),
        (b"GET /2", b""),
    ),
]

CONNECTIONS = [
    Case("connection: close", head(b"connection: close\r\n") + SMUGGLED, (OK,), ((b"POST /", b""),)),
    Case(
        "connection: close among others",
        head(b"Connection: x, CLOSE ,y\r\n") + SMUGGLED,
        (OK,),
        ((b"POST /", b""),),
    ),
    Case(
        "connection: close in a second line",
        head(b"connection: keep-alive\r\nconnection: close\r\n") + SMUGGLED,
        (OK,),
        ((b"POST /", b""),),
    ),
    Case("connection: HTTP/1.0", head(line=b"GET / HTTP/1.0") + SMUGGLED, (OK,), ((b"GET /", b""),)),
    Case(
        "connection: HTTP/1.0 with keep-alive",
        head(b"connection: keep-alive\r\ncontent-length: 2\r\n", b"POST / HTTP/1.0") + b"hi" + SMUGGLED,
        (OK,),
        ((b"POST /", b"hi"),),
    ),
    served(
        "connection: keep-alive",
        head(b"connection: keep-alive\r\nkeep-alive: timeout=5\r\n"),
        (b"POST /", b""),
    ),
    served("connection: empty options", head(b"connection: ,, ,\r\n"), (b"POST /", b"")),
    served("connection: names the host", head(b"connection: host\r\n"), (b"POST /", b"")),
    served(
        "connection: names a line by its start",
        head(b'connection: host: foo, x-devroute: {"foo"\r\n', host=b"host: foo:80\r\n"),
        (b"POST /", b""),
    ),
    served(
        "connection: names the contract",
        head(b"connection: x-devroute, x-devroute-matched\r\n"),
        (b"POST /", b""),
    ),
    served("connection: names what is not there", head(b"connection: x-none\r\n"), (b"POST /", b"")),
    served(
        "expect: 100-continue",
        head(b"expect: 100-Continue\r\ncontent-length: 2\r\n") + b"hi",
        (b"POST /", b"hi"),
    ),
    served("expect: 100-continue without a body", head(b"expect: 100-continue\r\n"), (b"POST /", b"")),
    served("expect: something else", head(b"expect: 200-ok\r\n"), (b"POST /", b"")),
    Case(
        "expect: in HTTP/1.0",
        head(b"expect: 100-continue\r\ncontent-length: 2\r\n", b"POST / HTTP/1.0") + b"hi",
        (OK,),
        ((b"POST /", b"hi"),),
    ),
    served(
        "upgrade: refused by the app",
        head(b"connection: upgrade\r\nupgrade: x\r\n", b"GET /a HTTP/1.1") + head(line=b"GET /2 HTTP/1.1"),
        (b"GET /a", b""),
        (b"GET /2", b""),
    ),
    served("upgrade: not named by Connection", head(b"upgrade: x\r\n", b"GET / HTTP/1.1"), (b"GET /", b"")),
    served(
        "upgrade: named, but not there", head(b"connection: upgrade\r\n", b"GET / HTTP/1.1"), (b"GET /", b"")
    ),
    served(
        "upgrade: with a body",
        head(b"connection: upgrade\r\nupgrade: x\r\ncontent-length: 2\r\n")
        + b"hi"
        + head(line=b"GET /2 HTTP/1.1"),
        (b"POST /", b"hi"),
        (b"GET /2", b""),
    ),
    served(
        "upgrade: with chunks",
        head(b"connection: upgrade\r\nupgrade: x\r\ntransfer-encoding: chunked\r\n")
        + b"2\r\nhi\r\n0\r\n\r\n"
        + head(line=b"GET /2 HTTP/1.1"),
        (b"POST /", b"hi"),
        (b"GET /2", b""),
    ),
    served(
        "upgrade: h2c",
        head(b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"),
        (b"POST /", b""),
    ),
    Case(
        "upgrade: in HTTP/1.0",
        head(b"connection: upgrade\r\nupgrade: x\r\n", b"GET / HTTP/1.0") + SMUGGLED,
        (OK,),
        ((b"GET /", b""),),
    ),
    refused("upgrade: a bad head all the same", head(b"connection: upgrade\r\nupgrade: x\r\nx : y\r\n")),
    Case(
        "after an upgrade: a bad head",
        head(b"connection: upgrade\r\nupgrade: x\r\n") + head(b"x : y\r\n") + SMUGGLED,
        (OK, MALFORMED),
        ((b"POST /", b""),),
    ),
    Case(
        "after HEAD: a bad head",
        head(line=b"HEAD / HTTP/1.1") + head(b"x\x00: y\r\n") + SMUGGLED,
        (OK, MALFORMED),
        ((b"HEAD /", b""),),
    ),
    served("pipelined: two", head() + head(line=b"GET /2 HTTP/1.1"), (b"POST /", b""), (b"GET /2", b"")),
    served(
        "pipelined: an empty line between",
        head() + b"\r\n" + head(line=b"GET /2 HTTP/1.1"),
        (b"POST /", b""),
        (b"GET /2", b""),
    ),
    Case(
        "pipelined: the second malformed",
        head() + head(b"x : y\r\n") + SMUGGLED,
        (OK, MALFORMED),
        ((b"POST /", b""),),
    ),
    Case(
        "pipelined: the second CL.TE",
        head() + head(b"content-length: 5\r\ntransfer-encoding: chunked\r\n") + b"0\r\n\r\n" + SMUGGLED,
        (OK, MALFORMED),
        ((b"POST /", b""),),
    ),
    Case("pipelined: a bare LF between", head() + b"\n" + SMUGGLED, (OK, MALFORMED), ((b"POST /", b""),)),
]


def marked(name: str, fields: bytes, code: str, status: int = 400) -> Case:
    """Well-formed, but for no app: an error response; its body is skipped, and the next request is served."""
    raw = (
        b"POST / HTTP/1.1\r\nhost: foo\r\n"
        + fields
        + b"content-length: %d\r\n\r\n" % len(SMUGGLED)
        + SMUGGLED
    )
    return Case(f"markers: {name}", raw, ((status, code),), goes_on=True)


MARKERS = [
    marked("none", b"", "contract-missing"),
    marked("no contract", b"x-devroute-matched: foo\r\n", "contract-missing"),
    marked("no marker", b'x-devroute: {"foo":"alice"}\r\n', "marker-missing"),
    marked("contract twice", MESH + b'X-Devroute: {"foo":"alice"}\r\n', "contract-invalid"),
    marked("contract twice, another", MESH + b'x-devroute: {"foo":"bob"}\r\n', "contract-invalid"),
    Case("markers: marker twice", head(b"X-Devroute-Matched: foo\r\n") + SMUGGLED, (MALFORMED,)),
    marked(
        "marker of another service",
        b'x-devroute: {"foo":"alice"}\r\nx-devroute-matched: bar\r\n',
        "service-not-in-contract",
    ),
    marked(
        "marker empty", b'x-devroute: {"foo":"alice"}\r\nx-devroute-matched:\r\n', "service-not-in-contract"
    ),
    marked(
        "marker a list",
        b'x-devroute: {"foo":"alice"}\r\nx-devroute-matched: foo, foo\r\n',
        "service-not-in-contract",
    ),
    marked("contract empty", b"x-devroute:\r\nx-devroute-matched: foo\r\n", "contract-invalid"),
    marked("contract not JSON", b"x-devroute: foo=alice\r\nx-devroute-matched: foo\r\n", "contract-invalid"),
    marked("contract cut off", b'x-devroute: {"foo":"ali\r\nx-devroute-matched: foo\r\n', "contract-invalid"),
    marked(
        "contract a list", b'x-devroute: {"foo":[1,2]}\r\nx-devroute-matched: foo\r\n', "contract-invalid"
    ),
    marked(
        "contract not UTF-8", b'x-devroute: {"foo":"\xff"}\r\nx-devroute-matched: foo\r\n', "contract-invalid"
    ),
    marked(
        "contract with control characters",
        b'x-devroute: {"foo":"a\\u0000\\u001b[2J\\r\\nx: y:80/x"}\r\nx-devroute-matched: foo\r\n',
        "contract-invalid",
    ),
    marked(
        "contract names foo twice",
        b'x-devroute: {"foo":"alice","foo":"bob"}\r\nx-devroute-matched: foo\r\n',
        "contract-invalid",
    ),
    marked(
        "laptop offline", b'x-devroute: {"foo":"bob"}\r\nx-devroute-matched: foo\r\n', "laptop-offline", 503
    ),
    marked(
        "loopback",
        b'x-devroute: {"foo":"127.0.0.1:8001"}\r\nx-devroute-matched: foo\r\n',
        "target-denied",
        403,
    ),
    marked(
        "metadata",
        b'x-devroute: {"foo":"169.254.169.254:80"}\r\nx-devroute-matched: foo\r\n',
        "target-denied",
        403,
    ),
    served(
        "markers: in other case and order",
        b'GET / HTTP/1.1\r\nX-DEVROUTE-MATCHED: \tfoo \r\nhost: foo\r\nX-Devroute:{"foo":"alice"}\r\n\r\n',
        (b"GET /", b""),
    ),
    served(
        "markers: a response's fields in a request", head(b"x-devroute-result: laptop\r\n"), (b"POST /", b"")
    ),
]

EARLY_ENDS = [
    cut_off("nothing at all", b""),
    cut_off("empty lines only", b"\r\n\r\n\r\n"),
    cut_off("in the request line", b"GET / HT"),
    cut_off("after the request line", b"GET / HTTP/1.1\r\n"),
    cut_off("in a field", b"GET / HTTP/1.1\r\nhost: f"),
    cut_off("before the last LF", head()[:-1]),
    cut_off("in a body with a length", head(b"content-length: 10\r\n") + b"hello"),
    cut_off("before a body with a length", head(b"content-length: 10\r\n")),
    cut_off("in a chunk", head(b"transfer-encoding: chunked\r\n") + b"a\r\nhello"),
    cut_off("in a chunk's size", head(b"transfer-encoding: chunked\r\n") + b"5\r\nhello\r\n1"),
    cut_off("after a chunk", head(b"transfer-encoding: chunked\r\n") + b"5\r\nhello\r\n"),
    cut_off("before the last CR LF", head(b"transfer-encoding: chunked\r\n") + b"5\r\nhello\r\n0\r\n"),
    cut_off("in a trailer", head(b"transfer-encoding: chunked\r\n") + b"0\r\nx-a: b"),
]

#: What the message of a refusal has to say, so that no case is refused for a fault that it was not meant to
#: have: the first line whose pattern the case's name has. Those of "markers" have error codes of their own.
REASONS = {
    r"\b(CR|LF)\b": "bare CR|bare LF|request line is not|chunk (size|does not end)|trailer field is",
    r"fold": "obs-fold|trailer field is malformed",
    r"over the limit|never ends?$|201 lines|16,000": "longer than|at most|more than",
    r"CONNECT": "CONNECT is not forwarded",
    r"method in lower case|unregistered|two methods": "method .* is not one that is forwarded",
    r"absolute-form|asterisk|authority-form|relative path|backslash target": "request target|in url",
    r"^request line|preface|TLS|NUL first|PROXY|^a (response|field) for": "request line is|preface",
    r"^host": "host field|invalid header token",
    r"^field": "invalid header|field line",
    r"garbage": "request line is not",
    r"^length": "content-length|invalid header",
    r"^coding": "transfer-encoding|transfer coding|content-length|invalid header",
    r"^chunks: trailer": "trailer",
    r"^chunks": "chunk",
    r"bad head": "invalid header",
    r"^pipelined": "request line is not|transfer-encoding|invalid header|bare",
    r"^connection": "invalid header|connection",
    r"^markers": "",
}

CASES = [
    *REQUEST_LINES,
    *HOSTS,
    *FIELDS,
    *LENGTHS,
    *CODINGS,
    *CHUNKS,
    *CONNECTIONS,
    *MARKERS,
    *EARLY_ENDS,
]
