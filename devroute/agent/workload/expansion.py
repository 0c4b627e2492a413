"""`$(NAME)` in the value of a variable, as Kubernetes expands it: `$$` is a dollar sign, a reference to what
is not known stays as it is, and values that are put in are not expanded again. Linear in the text.
"""

import re
from collections.abc import Mapping
from typing import Final

#: An escaped dollar sign, or a reference up to the first closing parenthesis.
_REFERENCE: Final = re.compile(r"\$\$|\$\(([^)]*+)\)", re.DOTALL)


def expand(text: str, known: Mapping[str, str]) -> tuple[str, list[str]]:
    """The text with its references replaced; the names of those that are not known."""
    unknown: list[str] = []
    end = text.rfind(")") + 1  # without a closing parenthesis there is no reference, and no search for one

    def replaced(found: re.Match[str]) -> str:
        name = found[1]
        if name is None:
            return "$"
        if name not in known:
            unknown.append(name)
        return known.get(name, found[0])

    return _REFERENCE.sub(replaced, text[:end]) + text[end:].replace("$$", "$"), unknown
