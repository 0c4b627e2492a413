"""A client of the control port and the admin port that sends raw bytes and reads whole responses."""

import asyncio
import json
from dataclasses import dataclass

from tests.support.eventually import PATIENCE_S


@dataclass
class Answer:
    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def essence(self) -> tuple[int, dict[str, str], bytes]:
        """All but the moment, and the name of the program."""
        return self.status, {k: v for k, v in self.fields.items() if k not in ("date", "server")}, self.body

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["code"])


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def response(self, *, body: bool = True) -> Answer:
        async with asyncio.timeout(PATIENCE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            start, *lines = head.split("\r\n")[:-2]
            fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            length = int(fields.get("content-length", "0")) if body else 0
            return Answer(int(start.split()[1]), fields, await self.reader.readexactly(length))

    async def ask(self, request: bytes) -> Answer:
        self.writer.write(request)
        return await self.response()

    async def rest(self) -> bytes:
        """Up to the end of the connection."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read()
