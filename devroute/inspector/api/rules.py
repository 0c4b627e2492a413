"""The rules, and the requests and responses that they hold at breakpoints."""

import base64
from typing import Any

from aiohttp import web

from devroute.errors import NotReplayable, RequestMalformed
from devroute.headers import PREFIX
from devroute.inspector.api.body import json_object, truth
from devroute.inspector.capture import REDACTED, Capture, is_readable, readable, text_of
from devroute.inspector.inspection import Inspection, number_of
from devroute.inspector.replay_request import check_stored
from devroute.inspector.rules.settings import FRAMING, MAX_BODY_BYTES

_NOT_RECORDED = FRAMING | {"date"}


class Rules:
    """The handlers of requests for rules."""

    def __init__(self, inspection: Inspection) -> None:
        self._book = inspection.rules
        self._inspection = inspection

    def routes(self) -> list[web.RouteDef]:
        one, held = r"/api/rules/{id:\d{1,9}}", r"/api/held/{id:\d{1,9}}"
        return [
            web.get("/api/rules", self.rules),
            web.get("/api/rules.yaml", self.yaml),
            web.post("/api/rules", self.add),
            web.put("/api/rules", self.switch),
            web.get(one, self.rule),
            web.put(one, self.change),
            web.delete(one, self.remove),
            web.get(r"/api/exchanges/{id:\d{1,9}}/rule", self.recorded),
            web.get(held, self.held),
            web.post(held + "/{action:continue|respond|abort}", self.decide),
        ]

    async def rules(self, request: web.Request) -> web.Response:
        """GET /api/rules: {"on", "rules", "held"}"""
        return web.json_response(self._book.as_json())

    async def rule(self, request: web.Request) -> web.Response:
        """GET /api/rules/ID: as in devroute.yaml."""
        return web.json_response(self._book.get(int(request.match_info["id"])).as_document())

    async def yaml(self, request: web.Request) -> web.Response:
        """GET /api/rules.yaml?id=1&id=2: these rules, or all, as `rules:` of devroute.yaml."""
        numbers = [number_of(each) for each in request.query.getall("id", [])]
        if not all(numbers):
            raise RequestMalformed('"id" has to be the number of a rule')
        return web.Response(text=self._book.as_yaml(filter(None, numbers)))

    async def add(self, request: web.Request) -> web.Response:
        """POST /api/rules with a rule as in devroute.yaml, or `respond: {"capture": ID}`: as recorded."""
        document = await json_object(request)
        respond = document.get("respond")
        if isinstance(respond, dict) and "capture" in respond:
            recorded = recorded_response(await self._inspection.shown(str(respond["capture"])))
            changes = {key: value for key, value in respond.items() if key != "capture"}
            document = document | {"respond": recorded | changes}
        return web.json_response(self._book.add(document).as_json(), status=201)

    async def switch(self, request: web.Request) -> web.Response:
        """PUT /api/rules {"on": false}: all rules off, or on again."""
        self._book.switch(truth(await json_object(request), "on"))
        return web.json_response({"on": self._book.on})

    async def change(self, request: web.Request) -> web.Response:
        """PUT /api/rules/ID with a whole rule, or {"enabled": false} alone."""
        number, document = int(request.match_info["id"]), await json_object(request)
        if list(document) == ["enabled"]:
            rule = self._book.enable(number, truth(document, "enabled"))
        else:
            rule = self._book.replace(number, document)
        return web.json_response(rule.as_json())

    async def remove(self, request: web.Request) -> web.Response:
        """DELETE /api/rules/ID"""
        self._book.remove(int(request.match_info["id"]))
        return web.json_response({"rules": len(self._book.rules)})

    async def recorded(self, request: web.Request) -> web.Response:
        """GET /api/exchanges/ID/rule: a rule that responds as recorded, to be edited and added; and the parts
        that it lacks since they were redacted."""
        capture = await self._inspection.shown(request.match_info["id"])
        path = capture.target.partition("?")[0]
        rule = {"service": capture.service, "method": capture.method, "path": path}
        if capture.direction == "out":
            rule["direction"] = "out"
        without = [name.lower() for name, value in capture.response_headers if REDACTED in value]
        if REDACTED.encode() in capture.response_body.data:
            without.append("the body")
        if any(each.redacted for each in capture.messages if not each.from_client):
            without.append("fields of messages")
        return web.json_response({"rule": rule | {"respond": recorded_response(capture)}, "without": without})

    # --- breakpoints

    async def held(self, request: web.Request) -> web.Response:
        """GET /api/held/ID: the message as it can be edited."""
        return web.json_response(self._book.breakpoints.get(int(request.match_info["id"])).detail())

    async def decide(self, request: web.Request) -> web.Response:
        """POST /api/held/ID/continue with the edits of rules/edits.py, or {}; /respond with "status",
        "headers" and "body"; /abort."""
        edits = await json_object(request)
        held = self._book.breakpoints.get(int(request.match_info["id"]))
        match request.match_info["action"]:
            case "continue":
                held.proceed(edits)
            case "respond":
                held.respond(edits)
            case _:
                held.abort()
        return web.json_response({"held": len(self._book.breakpoints.held)})


def recorded_response(capture: Capture) -> dict[str, Any]:
    """`respond` with the response of a capture, without its redacted headers. Raises NotReplayable if that is
    not complete."""
    body = capture.response_body
    if capture.status is None or capture.status < 200 or not body.complete:
        raise NotReplayable("it has no complete response")
    check_stored(body, "response's body")
    plain = is_readable(body, capture.response_headers)
    data = readable(body, capture.response_headers, MAX_BODY_BYTES) if plain else bytes(body.data)
    left_out = _NOT_RECORDED | {"content-encoding"} if plain else _NOT_RECORDED
    fields = [
        [name, value]
        for name, value in capture.response_headers
        if name.lower() not in left_out and not name.lower().startswith(PREFIX) and REDACTED not in value
    ]
    found: dict[str, Any] = {"status": capture.status, "headers": fields}
    if data:
        text = None if capture.kind == "grpc" else text_of(data, cut=False)
        if text is None:
            found["body_base64"] = base64.b64encode(data).decode()
        else:
            found["body"] = text
    if capture.trailers:
        found["trailers"] = [[name, value] for name, value in capture.trailers if REDACTED not in value]
    return found
