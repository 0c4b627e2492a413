"""Manifests as YAML that people read and compare: in a stable order, without timestamps. Pure."""

from typing import Any

import yaml

from devroute.mesh.manifests.model import Document


class _Dumper(yaml.SafeDumper):
    """Block style, no aliases, multi-line text as literal blocks, as is usual in manifests."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text[:-1] else None)


_Dumper.add_representer(str, _text)


def to_yaml(*documents: Document) -> str:
    several = len(documents) > 1
    # Unicode stays: literal blocks cannot hold escapes.
    return yaml.dump_all(
        documents, Dumper=_Dumper, sort_keys=False, width=120, explicit_start=several, allow_unicode=True
    )
