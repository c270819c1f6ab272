"""The one exception that a user sees as a sentence."""


class AlignvisError(Exception):
    """Something about the user's files or choices that the user can mend.

    The text is one sentence that says what was found, what was expected and what to do. The command line
    prints it without a traceback and ends with exit code 1. Every other exception is our own mistake.
    """
