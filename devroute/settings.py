"""The base of all settings: immutable, without unknown fields, and without values in error messages."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """`section`: what files have these settings under, None at the top. Flags and variables have none."""

    section: ClassVar[str | None] = None

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, defer_build=True)
