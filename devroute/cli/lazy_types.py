"""Typer's conversion of values without pydantic, where it does nothing: pydantic takes longer to import than
all that `devroute contract check` does.

Typer builds an adapter of pydantic's for each parameter of the commands that run, given or not. Here it is
built when a value is given that is no text. Where Typer has no such parts, as before 0.29, nothing changes.
"""

from typing import Any, Final

#: Values of these types are what the command line has.
_TEXT: Final = (str, list[str])


def convert_lazily() -> None:
    """For all commands of this process."""
    try:
        from typer import core
        from typer._coercion import RuntimeParam, build_runtime_param
    except ImportError:
        return

    class LazyParam(RuntimeParam):
        def _coerce_value(self, value: Any, param: Any, ctx: Any) -> Any:
            if self.annotation in _TEXT and not self.parameter_info.parser:
                return value if self.annotation is str else list(value)
            if type(value) is self.annotation and value == param.default:
                return value
            return build_runtime_param(param.type_descriptor)._coerce_value(value, param, ctx)

    def build(descriptor: Any) -> RuntimeParam:
        if descriptor.is_file:
            return build_runtime_param(descriptor)
        return LazyParam(descriptor.parameter_info, descriptor.annotation)

    core.build_runtime_param = build  # type: ignore[attr-defined]
