"""Names of the sources of settings. A module of its own, since the others take long to import."""

from typing import Final

#: Prefix of the environment variables.
ENV_PREFIX: Final = "DEVROUTE_"
#: The names of three sources; the others have those of their files.
COMMAND_LINE: Final = "command line"
ENVIRONMENT: Final = "the environment"
LOGIN: Final = "devroute login"
