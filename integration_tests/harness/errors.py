"""How a script ends: exit codes, and the exceptions that lead to them."""

SUCCESS, FAILURE, USAGE = 0, 1, 2


class HarnessError(Exception):
    """Something does not hold, or cannot be done; the text is one line for the user."""


def check(holds: bool, text: str) -> None:
    """Raises HarnessError with `text` where something does not hold."""
    if not holds:
        raise HarnessError(text)
