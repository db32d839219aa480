"""What goes wrong, as sentences that say what to do."""

from __future__ import annotations


class CommandError(Exception):
    """The command cannot do what was asked; the message says why and what to do."""


class NotFoundError(CommandError):
    """The object is not there."""


class ForbiddenError(CommandError):
    """The user may not do this."""


class UnreachableError(CommandError):
    """There is no API server to ask."""
