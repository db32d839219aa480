"""The operator's own errors. Foreign ones are mapped once, at the edge they come from."""

from __future__ import annotations


class OperatorError(Exception):
    """Base of what the operator raises itself."""


class SettingsError(OperatorError):
    """The environment does not describe a working operator; the message says which variable and what it needs."""


class ClusterError(OperatorError):
    """The API server did not do what was asked."""


class UnreachableError(ClusterError):
    """No answer, or one that says to try again later (429, 5xx)."""


class NotFoundError(ClusterError):
    """The object, or its kind, is not there."""


class AlreadyExistsError(ClusterError):
    """An object of that name is there."""


class ConflictError(ClusterError):
    """The object changed since it was read."""


class RefusedError(ClusterError):
    """The API server understood and said no (400, 403, 422); asking again changes nothing."""


class InvalidError(RefusedError):
    """The object itself is at fault (422): whoever described it has to describe it otherwise."""
