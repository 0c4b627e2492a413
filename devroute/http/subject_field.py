"""The field by which the proxy names a laptop's subject to the mesh, in every spelling. Pure.

CGI, WSGI and PHP give an app one variable for all names that differ only in what is neither letter nor digit:
there x_devroute_subject would be ours. Some servers merge trailers into the head.
"""

import re
from typing import Final

from devroute.headers import SUBJECT
from devroute.http.message import Headers

#: For a regular expression: what such apps take for a hyphen.
SIGN: Final = r"[^0-9a-z:\r]"
#: For one that ignores case: the field's name.
SUBJECT_NAME: Final = SUBJECT.replace("-", SIGN)
_SUBJECT: Final = re.compile(SUBJECT_NAME.encode(), re.IGNORECASE)


def without_subject(trailers: Headers) -> Headers:
    """An app's trailers, without any that would name a subject under the proxy's certificate."""
    return [each for each in trailers if _SUBJECT.fullmatch(each[0]) is None]
