"""The one exception that a user is meant to read.

Everything that a person can put right (a malformed puzzle, a damaged checkpoint, a full disk) is raised
as `UserError`. The command prints its text on one line and exits with code 2; a library user catches it.
"""


class UserError(Exception):
    """Something the user can put right: the text names the cause and the remedy in one line."""


class SaidElsewhere(UserError):  # noqa: N818 - it is said, and there
    """An error that another process of the same run (see `processes`) reports: nobody needs it twice."""


def first_line(error: BaseException) -> str:
    """The first line of what an error of another library says, or its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
