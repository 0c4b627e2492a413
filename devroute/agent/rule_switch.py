"""What the terminal shows of the laptop's rules, and the key that turns all of them off and on again."""

from typing import Final

from devroute.agent.ui.reporter import Reporter
from devroute.inspector.rules.rule_list import RuleList

#: The key of the terminal's page; the inspector's page has the same.
KEY: Final = "o"


class RuleSwitch:
    """Reports how many rules are on, at `start` and after each change."""

    def __init__(self, rules: RuleList, reporter: Reporter) -> None:
        self._rules = rules
        self._reporter = reporter
        self._shown = (True, 0, 0)

    def start(self) -> None:
        self._rules.subscribe(self._report)
        self._report()

    def typed(self, text: str) -> None:
        if KEY in text.lower() and self._rules.rules:
            self._rules.switch(not self._rules.on)

    def _report(self) -> None:
        rules = self._rules
        now = (rules.on, rules.active, len(rules.rules))
        if now != self._shown:
            self._shown = now
            self._reporter.rules(rules.on, rules.active, [each.label for each in rules.rules if each.enabled])
