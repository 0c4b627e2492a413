"""A pytest plugin that reads every log line of the whole suite, for every secret that the suite has made.

Secrets are: tokens (`new_token`, and all that look like one), what PyJWT signs here (tokens of issuers,
signed contracts), private keys. Logs are: output of child processes to files and pipes, logs of Envoys, audit
logs, and what a test itself writes to standard error and to loggers. A secret in one of them fails the
session, with the names of the test and the log. The standard output of commands whose purpose is to print a
secret is left out.

Each audit event in a log is validated against docs/audit.md as well. Each worker of pytest-xdist runs the
plugin; the session that started the workers reports what they found.
"""

import asyncio
import json
import os
import re
import subprocess
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import jwt.api_jws
import pytest
from jsonschema import Draft202012Validator

from devroute.auth import tokens
from devroute.contract.signer import SigningKey
from tests.support.paths import ROOT

#: Shorter texts are no secrets: they would be found everywhere.
SHORTEST = 20
_WORD = re.compile(rb"[A-Za-z0-9_-]{%d,}" % SHORTEST)
_TOKEN = re.compile(rb"dvr_[0-9a-f]{16,}")
_PEM = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_AUDIT = b'{"audit": '
#: Commands whose standard output is a secret.
_PRINTS_SECRETS = (("token", "new"), ("sign",), ("sign-key",))

SCHEMA = ROOT / "docs" / "audit.md"


@dataclass(frozen=True)
class Finding:
    """A secret in a log, without the secret itself."""

    test: str
    log: str
    problem: str


@dataclass
class LogFile:
    """A file that grows while `process` runs; read up to `offset`."""

    path: Path
    process: subprocess.Popen[Any]
    offset: int = 0


def audit_validator() -> Draft202012Validator:
    """The schema in docs/audit.md, with no further fields permitted."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8").partition("```json\n")[2].partition("```")[0])
    for each in schema["oneOf"]:
        each["additionalProperties"] = False
        each["properties"] |= {"audit": True, "time": True}
    return Draft202012Validator(schema)


@dataclass(eq=False)  # pytest keeps its plugins in sets
class SecretWatch:
    """The plugin. Tests that make secrets in other ways call `add`."""

    findings: list[Finding] = field(default_factory=list)
    test: str = "before the first test"
    _secrets: set[bytes] = field(default_factory=set)
    _files: list[LogFile] = field(default_factory=list)
    _pieces: list[tuple[str, bytearray]] = field(default_factory=list)
    _shapes: set[object] = field(default_factory=set)
    _undo: list[Callable[[], None]] = field(default_factory=list)
    _validator: Draft202012Validator = field(default_factory=audit_validator)

    def add(self, secret: str) -> None:
        """Each long word of a secret counts: a log may show or quote a part."""
        self._secrets.update(_WORD.findall(secret.encode()))

    def look(self, log: str, text: bytes) -> None:
        """Read a piece of a log."""
        if _PEM.search(text):
            self._found(log, "a private key")
        if _TOKEN.search(text):
            self._found(log, "a token")
        if not self._secrets.isdisjoint(_WORD.findall(text)):
            self._found(log, "a secret that the suite has made")
        if _AUDIT in text:
            for line in text.splitlines():
                if line.startswith(_AUDIT):
                    self._check_event(log, line)

    def _found(self, log: str, problem: str) -> None:
        finding = Finding(self.test, log, problem)
        if finding not in self.findings:
            self.findings.append(finding)

    def _check_event(self, log: str, line: bytes) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            self._found(log, f"an audit event that is no JSON: {line[:200]!r}")
            return
        shape = (event.get("event"), *((key, type(value)) for key, value in event.items()))
        if shape not in self._shapes and not (wrong := [*self._validator.iter_errors(event)]):
            self._shapes.add(shape)
        elif shape not in self._shapes:
            self._found(log, f"an audit event that docs/audit.md does not describe: {wrong[0].message[:300]}")

    # --- where secrets are made

    def _patch(self, holder: Any, name: str, replacement: Any) -> None:
        original = getattr(holder, name)
        setattr(holder, name, wraps(original)(replacement))
        self._undo.append(lambda: setattr(holder, name, original))

    def start(self) -> None:
        new_token, encode, as_jwk = tokens.new_token, jwt.api_jws.PyJWS.encode, SigningKey.as_jwk

        def watched_token(*args: Any, **more: Any) -> Any:
            made = new_token(*args, **more)
            self.add(made[0])
            return made

        def watched_encode(*args: Any, **more: Any) -> str:
            token = encode(*args, **more)
            self.add(token.rpartition(".")[2])  # its signature: header and payload are the same in many
            return token

        def watched_jwk(key: SigningKey) -> dict[str, str]:
            jwk = as_jwk(key)
            self.add(jwk["d"])
            return jwk

        self._patch(tokens, "new_token", watched_token)
        self._patch(jwt.api_jws.PyJWS, "encode", watched_encode)
        self._patch(SigningKey, "as_jwk", watched_jwk)
        self._watch_processes()

    # --- where logs are written

    def _watch_processes(self) -> None:
        started, communicate = subprocess.Popen.__init__, subprocess.Popen.communicate
        create, readouterr = asyncio.create_subprocess_exec, pytest.CaptureFixture.readouterr

        def watched_start(process: Any, *args: Any, **more: Any) -> None:
            started(process, *args, **more)
            words = _words(process.args)
            for stream in (more.get("stdout"), more.get("stderr")):
                if hasattr(stream, "name") and isinstance(stream.name, str | Path) and not _prints(words):
                    self._files.append(LogFile(Path(stream.name), process))
            folder = Path(more.get("cwd") or ".")
            environment = more.get("env") or {}
            places = _after("--log-path", words), _after("--audit", words), environment.get("DEVROUTE_AUDIT")
            for place in places:
                if place not in (None, "-", "off"):
                    self._files.append(LogFile(folder / place, process))

        def watched_communicate(process: Any, *args: Any, **more: Any) -> Any:
            out, err = communicate(process, *args, **more)
            words = _words(process.args)
            for text in (err, None if _prints(words) or "devroute" not in words else out):
                if text:
                    self.look(_name(words), text.encode() if isinstance(text, str) else text)
            return out, err

        async def watched_create(*args: Any, **more: Any) -> Any:
            process = await create(*args, **more)
            words = _words(args)
            for reader, left_out in (
                (process.stdout, _prints(words) or "devroute" not in words),
                (process.stderr, False),
            ):
                if reader is not None and not left_out:
                    self._tee(reader, _name(words))
            return process

        def watched_capture(capture: Any) -> Any:
            result = readouterr(capture)
            if isinstance(result.err, str):
                self.look("standard error", result.err.encode())
            return result

        self._patch(subprocess.Popen, "__init__", watched_start)
        self._patch(subprocess.Popen, "communicate", watched_communicate)
        self._patch(asyncio, "create_subprocess_exec", watched_create)
        self._patch(pytest.CaptureFixture, "readouterr", watched_capture)

    def _tee(self, reader: asyncio.StreamReader, log: str) -> None:
        feed, kept = reader.feed_data, bytearray()
        self._pieces.append((log, kept))

        def watched_feed(data: bytes) -> None:
            kept.extend(data)
            feed(data)

        reader.feed_data = watched_feed  # type: ignore[method-assign]

    def read(self) -> None:
        """Read the logs from where the last call stopped; of a file that still grows, whole lines only."""
        for log, kept in self._pieces:
            self.look(log, bytes(kept))
        self._pieces.clear()
        for file in list(self._files):
            over = file.process.poll() is not None
            with suppress(FileNotFoundError), file.path.open("rb") as stream:
                stream.seek(file.offset)
                text = stream.read()
                text = text if over else text[: text.rfind(b"\n") + 1]
                file.offset += len(text)
                self.look(file.path.name, text)
            if over:
                self._files.remove(file)

    # --- pytest

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self.test = item.nodeid
        result = yield
        self.read()
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if call.when == "teardown":
            for name, text in report.sections:
                if "stdout" not in name:
                    self.look(name, text.encode("utf-8", "replace"))
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.read()
        if hasattr(session.config, "workeroutput"):  # the session that started this worker reports it
            session.config.workeroutput["secret_watch"] = [asdict(finding) for finding in self.findings]
        elif self.findings:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker of pytest-xdist is done."""
        for finding in getattr(node, "workeroutput", {}).get("secret_watch", []):
            self.findings.append(Finding(**finding))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.findings:
            terminalreporter.section("secrets in logs")
        for finding in self.findings:
            terminalreporter.line(f"{finding.test}: {finding.log}: {finding.problem}", red=True)

    def pytest_unconfigure(self) -> None:
        for undo in reversed(self._undo):
            undo()


def _words(arguments: object) -> list[str]:
    alone = isinstance(arguments, str | bytes | os.PathLike) or not isinstance(arguments, Iterable)
    return [os.fsdecode(each) for each in ([arguments] if alone else arguments)]  # type: ignore[union-attr]


def _name(words: list[str]) -> str:
    """A command without what may be a secret in it."""
    return " ".join(word for word in (Path(words[0]).name, *words[1:5]) if len(word) < SHORTEST)


def _after(flag: str, words: list[str]) -> str | None:
    return words[words.index(flag) + 1] if flag in words[:-1] else None


def _prints(words: list[str]) -> bool:
    rest = words[words.index("devroute") + 1 :] if "devroute" in words else []
    return any(tuple(rest[: len(each)]) == each for each in _PRINTS_SECRETS)


def pytest_configure(config: pytest.Config) -> None:
    watch = SecretWatch()
    watch.start()
    config.pluginmanager.register(watch, "secrets in logs")
