"""How many requests may be under way in one tunnel, and in all of one subject. Never looks at requests.

A link has its own bound (its session's); the sum over a subject's links is asked for only where there are
several, so the usual request pays nothing.
"""

from devroute.tunnel.frames import MAX_STREAMS
from devroute.tunnel.link import Link


class Share:
    """The links of one subject, and what they may have open together."""

    __slots__ = ("limit", "links", "subject")

    def __init__(self, subject: str, limit: int) -> None:
        self.subject = subject
        self.limit = limit
        self.links: set[Link] = set()

    @property
    def full(self) -> bool:
        return sum(len(link.session.streams) for link in self.links) >= self.limit


class Shares:
    """All of them. `per_link` and `per_subject` may change while requests are under way: those go on."""

    def __init__(self, per_link: int = MAX_STREAMS, per_subject: int = MAX_STREAMS) -> None:
        self._per_link = per_link
        self._per_subject = per_subject
        self._by_subject: dict[str, Share] = {}

    def join(self, subject: str, link: Link) -> Share:
        share = self._by_subject.get(subject)
        if share is None:
            share = self._by_subject[subject] = Share(subject, self._per_subject)
        share.links.add(link)
        self._bound(link)
        return share

    def leave(self, subject: str, link: Link) -> None:
        share = self._by_subject.get(subject)
        if share is not None:
            share.links.discard(link)
            if not share.links:
                del self._by_subject[subject]

    def limit(self, *, per_link: int, per_subject: int) -> None:
        self._per_link, self._per_subject = per_link, per_subject
        for share in self._by_subject.values():
            share.limit = per_subject
            for link in share.links:
                self._bound(link)

    def _bound(self, link: Link) -> None:
        link.session.max_streams = min(self._per_link, self._per_subject, MAX_STREAMS)
