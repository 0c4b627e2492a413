"""The variables of a container as the kubelet makes them: first `envFrom`, then `env`, and later ones replace
earlier ones. `value` is expanded (expansion.py) by what stands before it; what comes from elsewhere is not.
"""

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from devroute.agent.workload.downward import Field, field_of, resource_of
from devroute.agent.workload.expansion import expand
from devroute.agent.workload.objects import Object, Objects, Workload, listed, mapping, text_of
from devroute.quoting import quote

_KINDS: Final = {"configMapRef": "ConfigMap", "secretRef": "Secret"}
_KEY_KINDS: Final = {"configMapKeyRef": "ConfigMap", "secretKeyRef": "Secret"}


@dataclass(slots=True)
class WorkloadEnvironment:
    """`missing`: what the container has in the mesh, and the text does not say; `notes`: what is not as
    there. Both are sentences that name variables and never values. `absent`: whether a ConfigMap or Secret is
    missing as a whole."""

    values: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    absent: bool = False


def environment_of(objects: Objects, workload: Workload, container: Object) -> WorkloadEnvironment:
    """The variables of a container of this workload."""
    reader = _Reader(objects, workload, container)
    for source in listed(container.get("envFrom")):
        reader.take_all(source)
    for variable in listed(container.get("env")):
        reader.take(variable)
    return reader.found


class _Reader:
    def __init__(self, objects: Objects, workload: Workload, container: Object) -> None:
        self.found = WorkloadEnvironment()
        self._objects = objects
        self._workload = workload
        self._container = container

    def take_all(self, source: Object) -> None:
        """An item of envFrom."""
        prefix = text_of(source.get("prefix"))
        for key, kind in _KINDS.items():
            if key not in source:
                continue
            reference = mapping(source[key])
            name = text_of(reference.get("name"))
            holder = self._objects.find(kind, name, self._workload.namespace)
            if holder is not None:
                for inner in _keys(holder):
                    if (value := self._value_in(holder, inner, prefix + inner)) is not None:
                        self._set(prefix + inner, value)
            elif reference.get("optional") is not True:
                keys = f"all its keys, with the prefix {quote(prefix)}" if prefix else "all its keys"
                self.found.absent = True
                self.found.missing.append(f"{kind} {quote(name)} is not in the input ({keys})")

    def take(self, variable: Object) -> None:
        """An item of env."""
        name = text_of(variable.get("name"))
        given = variable.get("value")
        source = mapping(variable.get("valueFrom"))
        if given is not None and not isinstance(given, str):
            self.found.missing.append(f"{name}: its value is no text; put it in quotes")
        elif given or not source:
            value, unknown = expand(given or "", self.found.values)
            for each in unknown:
                self.found.missing.append(f"{name}: refers to $({each}), which nothing before it sets")
            self._set(name, value)
        else:
            self._take_from(name, source)

    def _take_from(self, name: str, source: Object) -> None:
        for key, kind in _KEY_KINDS.items():
            if key in source:
                self._take_key(name, kind, mapping(source[key]))
                return
        if "fieldRef" in source:
            path = text_of(mapping(source["fieldRef"]).get("fieldPath"))
            self._take_field(name, path, field_of(self._workload, path))
        elif "resourceFieldRef" in source:
            reference = mapping(source["resourceFieldRef"])
            resource, divisor = text_of(reference.get("resource")), str(reference.get("divisor", "1"))
            container = self._container_named(text_of(reference.get("containerName")))
            self._take_field(name, resource, resource_of(container, resource, divisor))
        else:
            kinds = ", ".join(map(quote, source))
            self.found.missing.append(f"{name}: devroute cannot read valueFrom: {kinds}")

    def _container_named(self, name: str) -> Object:
        containers = listed(self._workload.spec.get("containers"))
        return next((each for each in containers if name and each.get("name") == name), self._container)

    def _take_field(self, name: str, path: str, found: Field | None) -> None:
        if found is None:
            self.found.missing.append(f"{name}: there is no value for {quote(path)} on a laptop")
            return
        if found.made_up:
            self.found.notes.append(f"{name}: {path} is {found.value} here")
        self._set(name, found.value)

    def _take_key(self, name: str, kind: str, reference: Object) -> None:
        holder_name, key = text_of(reference.get("name")), text_of(reference.get("key"))
        holder = self._objects.find(kind, holder_name, self._workload.namespace)
        if holder is not None and key in _keys(holder):
            if (value := self._value_in(holder, key, name)) is not None:
                self._set(name, value)
        elif reference.get("optional") is not True:
            self.found.absent |= holder is None
            what = f"{kind} {quote(holder_name)}"
            lacks = f"{what} is not in the input" if holder is None else f"{what} has no such key"
            self.found.missing.append(f"{name}: {lacks} (key {quote(key)})")

    def _value_in(self, holder: Object, key: str, variable: str) -> str | None:
        """The value of a key; None, and reported, where it is no text."""
        what = f"{holder['kind']} {quote(text_of(mapping(holder.get('metadata')).get('name')))}"
        plain = mapping(holder.get("stringData" if holder["kind"] == "Secret" else "data"))
        value = plain.get(key)
        if value is None:
            value = _decoded(mapping(holder.get("data")).get(key))
        if not isinstance(value, str):
            self.found.missing.append(f"{variable}: {what} has no text as its key {quote(key)}")
            return None
        return value

    def _set(self, name: str, value: str) -> None:
        if not name or "=" in name or "\0" in name + value:
            self.found.missing.append(f"{quote(name)}: no program can have such a variable")
        else:
            self.found.values[name] = value


def _keys(holder: Object) -> Iterator[str]:
    """The keys of a ConfigMap or a Secret that become variables."""
    data = mapping(holder.get("data"))
    more = mapping(holder.get("stringData")) if holder["kind"] == "Secret" else {}
    return (key for key in dict.fromkeys((*data, *more)) if isinstance(key, str))


def _decoded(value: object) -> str | None:
    """The text of a Secret's base64, None if it is none."""
    try:
        return base64.b64decode(value, validate=True).decode() if isinstance(value, str) else None
    except (binascii.Error, ValueError):
        return None
