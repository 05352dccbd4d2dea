"""The one error of the command line."""


class CommandError(Exception):
    """A command cannot do what was asked. The text says why and what to do; it is all that the user sees."""
