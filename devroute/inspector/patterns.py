"""Secrets that are recognised by their own form, whatever their name: tokens of devroute and of OIDC, bearer
tokens, passwords in URLs, sessions in paths, private keys. Pure. Each search takes linear time.
"""

import re

# Matches at the start of a word only, so that each byte is examined once.
_JWT = re.compile(
    rb"(?<![0-9A-Za-z_-])eyJ[0-9A-Za-z_-]{5,}+\.[0-9A-Za-z_-]++\.[0-9A-Za-z_-]*+(?:\.[0-9A-Za-z_-]*+)*+"
)
# RFC 6750 §2.1; after a comma or dot as subprotocols of a WebSocket have it. Mere words are none.
_BEARER = re.compile(
    rb"(?i)(?<![0-9a-z])(bearer(?:[ ,]|%20|\+)++|bearer\.)(?=[a-z]*+[0-9._~+/-])[0-9a-z._~+/-]{8,}+=*+"
)
# Also in a URL within a query, with its delimiters escaped.
_USER_INFO = re.compile(rb"(?<=://)([^/?#\s:@\"'\\<>]{0,128}+:)[^/?#\s@\"'\\<>]{1,512}+(@)")
_USER_INFO_ESCAPED = re.compile(
    rb"(?i)(?<=%3a%2f%2f)([^/?#&\s:@%]{0,64}+(?::|%3a))(?:[^/?#&\s@%]++|%(?!40)){1,64}+(@|%40)"
)
_PRIVATE_KEY = re.compile(
    rb"(-----BEGIN [A-Z ]{0,32}PRIVATE KEY-----).*?(-----END [A-Z ]{0,32}PRIVATE KEY-----|\Z)", re.DOTALL
)
# Servlet containers write it into paths.
_PATH_SESSION = re.compile(rb"(;jsessionid=)[^;?#&/\s\"'<>]++")
_DEVROUTE = re.compile(rb"(?<![0-9A-Za-z])dvr_[0-9a-f]{16,}+")


def without_patterns(data: bytes, instead: bytes) -> bytes:
    """The text with `instead` in place of each secret that is recognised by its form.

    Most texts have none, so a letter that most of them lack is looked for first: one byte is found 20 times
    as fast as a word. `find`, since `in` raises and catches an exception each time.
    """
    find = data.find
    if find(b"J") >= 0 and find(b"eyJ") >= 0:
        data = _JWT.sub(instead, data)
    if find(b"earer") >= 0 or (find(b"E") >= 0 and find(b"EARER") >= 0):
        data = _BEARER.sub(rb"\g<1>" + instead, data)
    if find(b"@") >= 0 and find(b"://") >= 0:
        data = _USER_INFO.sub(rb"\g<1>" + instead + rb"\g<2>", data)
    if find(b"%") >= 0 and (find(b"%2F%2F") >= 0 or find(b"%2f%2f") >= 0):
        data = _USER_INFO_ESCAPED.sub(rb"\g<1>" + instead + rb"\g<2>", data)
    if find(b"K") >= 0 and find(b"PRIVATE KEY-----") >= 0:
        data = _PRIVATE_KEY.sub(rb"\g<1>" + instead + rb"\g<2>", data)
    if find(b";") >= 0 and find(b";jsessionid=") >= 0:
        data = _PATH_SESSION.sub(rb"\g<1>" + instead, data)
    if find(b"_") >= 0 and find(b"dvr_") >= 0:
        data = _DEVROUTE.sub(instead, data)
    return data


def might_have_patterns(data: bytes) -> bool:
    """A cheap test: False means that there is no such secret."""
    return any(hint in data for hint in _HINTS)


def overwritten(data: bytes) -> bytes:
    """The same number of bytes, with asterisks in place of these secrets: for texts in binary formats, where
    lengths stand before them."""
    if might_have_patterns(data):
        for pattern in (
            _JWT,
            _BEARER,
            _USER_INFO,
            _USER_INFO_ESCAPED,
            _PRIVATE_KEY,
            _PATH_SESSION,
            _DEVROUTE,
        ):
            data = pattern.sub(_asterisks, data)
    return data


#: One of these is in each of them.
_HINTS = (
    b"eyJ", b"earer", b"EARER", b"://", b"%2F%2F", b"%2f%2f", b"PRIVATE KEY-----", b";jsessionid=", b"dvr_",
)  # fmt: skip


def _asterisks(match: re.Match[bytes]) -> bytes:
    """Groups of these patterns are what stays before and after a secret."""
    before = match[1] if match.re.groups else b""
    after = match[2] if match.re.groups > 1 else b""
    return before + b"*" * (len(match[0]) - len(before) - len(after)) + after
