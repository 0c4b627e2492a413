"""TLS contexts, made of files: trusted authorities, certificates and keys. Opens no connection."""

import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from devroute.errors import ConfigInvalid


def client_context(
    ca_file: Path | None, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """A client's context. It verifies servers by `ca_file`, or without one by the system's authorities, and
    presents `certificate` to servers that request one. Raises ConfigInvalid with the file."""
    if ca_file is None:
        context = ssl.create_default_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        _load_trust(context, ca_file)
    if certificate is not None:
        _load_certificate(context, certificate, key)
    return context


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """A server's TLS files. With `client_ca`, clients present certificates: always, or only if they have
    one."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    client_required: bool = True

    def context(self) -> ssl.SSLContext:
        """Raises ConfigInvalid."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        _load_certificate(context, self.certificate, self.key)
        if self.client_ca is not None:
            _load_trust(context, self.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED if self.client_required else ssl.CERT_OPTIONAL
        return context

    def stamp(self) -> object:
        """A value that changes when a file does. Raises ConfigInvalid."""
        files = [self.certificate, self.key, *([self.client_ca] if self.client_ca else [])]
        try:
            stats = [file.stat() for file in files]
        except OSError as error:
            raise ConfigInvalid(f"{error.filename}: {error.strerror}") from None
        return [(stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats]


def _load_trust(context: ssl.SSLContext, ca_file: Path) -> None:
    path = ca_file.expanduser()
    try:
        context.load_verify_locations(str(path))
    except ssl.SSLError:
        raise ConfigInvalid(f"{path}: no certificates in PEM form") from None
    except OSError as error:
        raise ConfigInvalid(f"{path}: {error.strerror}") from None


def _load_certificate(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    """Raises ConfigInvalid, also for an encrypted key: it never prompts for a password."""
    chain, secret = certificate.expanduser(), key.expanduser() if key is not None else None
    try:
        context.load_cert_chain(chain, secret, password=_no_password)
    except FileNotFoundError:
        missing = chain if not chain.exists() or secret is None else secret
        raise ConfigInvalid(f"{missing}: there is no such file") from None
    except ssl.SSLError as error:
        mismatch = error.reason == "KEY_VALUES_MISMATCH"
        reason = "the key belongs to another certificate" if mismatch else "not in PEM form"
        raise ConfigInvalid(f"{chain}, {secret or chain}: {reason}") from None
    except OSError as error:
        raise ConfigInvalid(f"{chain}, {secret or chain}: {error.strerror}") from None
    except ValueError:
        raise ConfigInvalid(
            f"{secret or chain}: the key is encrypted; devroute needs it unencrypted"
        ) from None


def _no_password() -> str:
    raise ValueError("encrypted")


def is_exposed(server: str) -> bool:
    """Whether others can read what is sent to this URL: plain HTTP to any host but this machine."""
    return urlsplit(server).scheme in ("http", "ws") and not is_local(server)


def is_local(server: str) -> bool:
    """Whether this URL is one of this machine."""
    host = (urlsplit(server).hostname or "").lower()
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
