"""The one exception that a user is meant to read.

Everything that a person can put right (a malformed puzzle, a damaged checkpoint, a full disk) is raised
as `UserError`. The command prints its text on one line and exits with code 2; a library user catches it.
"""


class UserError(Exception):
    """Something the user can put right: the text names the cause and the remedy in one line."""


def one_line(error: BaseException, most: int = 1000) -> str:
    """What an error says, on one line and not without end; what no terminal should be sent is written out."""
    text = " ".join(str(error)[: 2 * most].split())
    text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    return text if len(text) <= most else text[:most] + " ..."


def first_line(error: BaseException) -> str:
    """The first line of what an error of another library says, or its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
