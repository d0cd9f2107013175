"""Names of data sets and samples. They become names of folders, so a name never leaves its folder."""
import re

NAME_FORM = "a name of letters, digits, _, and inside it also -, . and spaces"
_NAME = re.compile(r"\w([\w .-]*[\w-])?")


def is_name(text: str) -> bool:
    """Starts with a letter, digit or _, goes on with these, -, . and spaces, and does not end in a dot or a space."""
    return _NAME.fullmatch(text) is not None


def natural_key(name: str) -> list[str | int]:
    """Sorts 'block/2' before 'block/10'."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
