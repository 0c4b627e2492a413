"""gRPC's deadlines and status trailers."""

import pytest

from devroute.errors import BY_CODE, LaptopOffline
from devroute.http.grpc import CODES, status_trailers, timeout_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"250m", 0.25), (b"5u", 5e-6), (b"7n", 7e-9), (b"1", None)],
)
def test_the_deadline_is_in_seconds(text: bytes, seconds: float | None) -> None:
    assert timeout_of(b"POST / HTTP/1.1\r\ngrpc-timeout: %b\r\n\r\n" % text) == pytest.approx(seconds)


def test_each_error_of_the_data_port_has_a_grpc_status_and_keeps_its_message() -> None:
    control_port = {401, 404, 405, 409, 413, 429}
    assert {kind.status for kind in BY_CODE.values()} - set(CODES) <= control_port
    assert status_trailers(LaptopOffline("100 % ü\n", hint="")) == [
        (b"grpc-status", b"14"),
        (b"grpc-message", b"100 %25 %C3%BC%0A"),
    ]
