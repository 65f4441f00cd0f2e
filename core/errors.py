"""The one exception whose message is meant for the person at the keyboard."""


class UserError(ValueError):
    """Bad input or surroundings; the message says what is wrong and what to do.

    `main.py` prints it as one line and exits with status 1.
    """


class WrongType(UserError, TypeError):
    """A value of another type than the one that is asked for."""


class NoResult(UserError):
    """What was computed as it was asked for is nothing to go on with, such as images of NaN."""
