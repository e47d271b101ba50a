"""A group of commands one of which is meant where none is named: ``serve node.yaml`` is ``serve start node.yaml``."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

DEFAULT = "start"


class GroupWithDefault(TyperGroup):
    """A group whose default command is called ``start``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default's name before what names no command."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)
