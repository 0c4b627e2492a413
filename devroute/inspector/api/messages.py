"""The messages of gRPC calls, decoded."""

from aiohttp import web

from devroute.inspector.inspection import Inspection, number_of


class Messages:
    """The handler of requests for decoded messages."""

    def __init__(self, inspection: Inspection) -> None:
        self._inspection = inspection

    def routes(self) -> list[web.RouteDef]:
        return [web.get(r"/api/exchanges/{id:\d+}/messages", self.messages)]

    async def messages(self, request: web.Request) -> web.Response:
        """GET /api/exchanges/ID/messages?from=N&limit=M: the decoded messages from number N on, M at most, as
        far as they are listed, and which schema was used. `first`: the number of the first of them; `listed`:
        how many there are from it on."""
        capture = await self._inspection.shown(request.match_info["id"])
        wanted = number_of(request.query.get("from", "")) or 0
        dropped = capture.messages_dropped
        decoded = await self._inspection.decoder.call(capture, max(0, wanted - dropped))
        document = decoded.as_dict()
        listed = document["messages"]
        shown = {"messages": listed[: number_of(request.query.get("limit", ""))], "listed": len(listed)}
        return web.json_response(document | shown | {"first": dropped + decoded.first})
