"""How a script ends: exit codes, and the exceptions that lead to them."""

SUCCESS, FAILURE, USAGE, MISSING = 0, 1, 2, 3


class HarnessError(Exception):
    """Something does not hold, or cannot be done; the text is one line for the user."""


class MissingFeature(Exception):
    """The tool under test cannot do this yet; never counted as passed."""


def check(holds: bool, text: str) -> None:
    """Raises HarnessError with `text` where something does not hold."""
    if not holds:
        raise HarnessError(text)
