"""Errors that a user can meet. The command line prints them as one line; library callers can catch them."""


class AudioVQError(Exception):
    """Something the user can act on. The message says, in one line, what is wrong and what to do."""
