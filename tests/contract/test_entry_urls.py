import pytest

from devroute.contract.entry_urls import MAX_ENTRIES, read_entry_urls
from devroute.contract.target import Malformed


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (None, {}),
        ("https://A.qa.example/", {"a.qa.example": "https://a.qa.example"}),
        ("http://127.0.0.1:8080", {"127.0.0.1:8080": "http://127.0.0.1:8080"}),
        (
            "shop=https://s.example, admin=http://b.example:81/x/~y-1/",
            {"shop": "https://s.example", "admin": "http://b.example:81/x/~y-1"},
        ),
        (["shop=https://s.example", "https://b"], {"shop": "https://s.example", "b": "https://b"}),
        ({"shop": "https://s.example"}, {"shop": "https://s.example"}),
    ],
)
def test_urls_are_read_by_name(given: object, read: dict[str, str]) -> None:
    assert read_entry_urls(given) == read


@pytest.mark.parametrize(
    "given",
    [
        *(
            "shop",
            "ftp://x",
            "https://",
            "https://x?y",
            "https://x#y",
            "https://u@x",
            "https://x/%41",
            "https://x:0",
        ),
        *(
            "https://x/$(id)",
            "https://x/';id",
            "https://x/`id`",
            "A B=https://x",
            "Shop=https://x",
            "https://x_y-/",
        ),
        *("https://x/" + "a" * 300, 7, [None], {"a b": "https://x"}, {"a": None}, ["https://x/a\u00e4"]),
        {f"e{number}": "https://x" for number in range(MAX_ENTRIES + 1)},
    ],
)
def test_what_is_no_url_or_could_be_more_than_text_to_a_shell_is_refused(given: object) -> None:
    with pytest.raises(Malformed):
        read_entry_urls(given)
