"""What the terminal shows of the laptop's rules, and the key that turns all of them off and on again."""

from typing import Final

from devroute.agent.ui.reporter import Reporter
from devroute.inspector.rules.book import RuleBook

#: The key of the terminal's page; the inspector's page has the same.
KEY: Final = "o"


class RuleSwitch:
    """Reports how many rules are on, at `start` and after each change."""

    def __init__(self, book: RuleBook, reporter: Reporter) -> None:
        self._book = book
        self._reporter = reporter
        self._shown = (True, 0, 0)

    def start(self) -> None:
        self._book.subscribe(self._report)
        self._report()

    def typed(self, text: str) -> None:
        if KEY in text.lower() and self._book.rules:
            self._book.switch(not self._book.on)

    def _report(self) -> None:
        book = self._book
        now = (book.on, book.active, len(book.rules))
        if now != self._shown:
            self._shown = now
            self._reporter.rules(book.on, book.active, [each.label for each in book.rules if each.enabled])
