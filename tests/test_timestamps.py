"""Times as the API and HTTP write them."""

import pytest

from devroute.timestamps import http_date, rfc3339


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),  # RFC 9110 §5.6.7
        (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
        (1_709_164_799.9, "Wed, 28 Feb 2024 23:59:59 GMT"),
        (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT"),
    ],
)
def test_a_date_is_written_as_http_wants_it(seconds: float, text: str) -> None:
    assert http_date(seconds) == text


def test_a_time_is_written_without_its_fraction() -> None:
    assert rfc3339(784_111_777.9) == "1994-11-06T08:49:37Z"
