import pytest

from devroute.http.trace_context import trace_parent

TRACE, SPAN = b"80f198ee56343ba864fe8b2a57d3eff7", b"e457b5a2e4d86bd1"
GOOD = b"00-%b-%b-01" % (TRACE, SPAN)


def head(*values: bytes) -> bytes:
    lines = b"".join(b"traceparent: %b\r\n" % each for each in values)
    return b"GET / HTTP/1.1\r\nhost: foo\r\n%baccept: */*\r\n\r\n" % lines


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (GOOD, True),
        (b"00-%b-%b-00" % (TRACE, SPAN), False),
        (b"00-%b-%b-03" % (TRACE, SPAN), True),
        (b"00-%b-%b-02" % (TRACE, SPAN), False),
        (b"cc-%b-%b-01-what-comes-later" % (TRACE, SPAN), True),
    ],
)
def test_ids_and_flag_are_read(value: bytes, sampled: bool) -> None:
    found = trace_parent(head(value))
    assert found is not None
    assert (found.trace_id, found.span_id, found.sampled) == (TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "values",
    [
        (),
        (b"",),
        (GOOD, GOOD),
        (GOOD[:-1],),
        (GOOD + b"0",),
        (GOOD + b"-later",),
        (GOOD.upper(),),
        (b"ff" + GOOD[2:],),
        (b"00-%b-%b-01" % (b"0" * 32, SPAN),),
        (b"00-%b-%b-01" % (TRACE, b"0" * 16),),
        (b"00-%b-%b-0g" % (TRACE, SPAN),),
        (GOOD.replace(b"-", b"_"),),
        (b"00%b--%b-01" % (TRACE, SPAN),),
    ],
)
def test_a_malformed_or_repeated_value_is_as_none(values: tuple[bytes, ...]) -> None:
    assert trace_parent(head(*values)) is None
