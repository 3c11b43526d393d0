"""The one exception that a user is meant to read.

Everything that a person can fix (a malformed puzzle, a damaged checkpoint, a full disk) is raised
as `UserError`. The command prints its text on one line and exits with code 2; a library user catches it.
"""

from collections.abc import Generator
from contextlib import contextmanager


class UserError(Exception):
    """Something the user can fix: the text names the cause and the remedy in one line."""


class SaidElsewhere(UserError):  # noqa: N818 - it is said, and there
    """An error that another process of the same run (see `processes`) reports: nobody needs it twice."""


def one_line(error: BaseException, most: int = 1000) -> str:
    """What an error says, on one line and not without end; what no terminal should be sent is written out."""
    text = " ".join(str(error)[: 2 * most].split())
    text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    return text if len(text) <= most else text[:most] + " ..."


def first_line(error: BaseException) -> str:
    """The first line of what an error of another library says, or its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def out_of_memory_is_a_user_error(remedy: str) -> Generator[None]:
    """Turn "no memory left" of Python, NumPy or torch, on any device, into a UserError with the remedy."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch is not imported for its class; on a CPU it raises a plain RuntimeError.
        kind, text = type(error).__name__, str(error)
        if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "allocate memory" in text:
            raise UserError(f"out of memory: {remedy}") from error
        raise
