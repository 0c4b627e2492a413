"""The options of an offer, as people read them."""

import pytest

from devroute.contract.offer_options import DEFAULT_OPTIONS, OfferOptions


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (DEFAULT_OPTIONS, []),
        (
            OfferOptions(shadow=50.0, shadow_methods=("GET", "POST")),
            ["shadow 50 %: the service answers, copies come here (GET, POST)"],
        ),
        (
            OfferOptions(paths=("/api/", "/v2/"), except_status=(404, 503)),
            [
                "only /api/ /v2/: the service answers requests for other paths",
                "except 404, 503: then the service answers instead (idempotent methods)",
            ],
        ),
        (
            OfferOptions(except_status=(404,), except_methods=("POST",)),
            ["except 404: then the service answers instead (POST)"],
        ),
    ],
)
def test_what_is_unlike_an_offer_of_all_requests_is_listed(options: OfferOptions, words: list[str]) -> None:
    assert options.in_words() == words
