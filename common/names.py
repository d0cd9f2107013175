"""Names of data sets and samples. They become names of folders: a name cannot lead out of its folder."""
import re

NAME_FORM = "a name of letters, digits, _, and inside it also -, . and spaces"
_NAME = re.compile(r"\w([\w .-]*[\w-])?")


def is_name(text: str) -> bool:
    """True if it starts with a letter, digit or _, continues with these, -, . and spaces, and ends in no . or space."""
    return _NAME.fullmatch(text) is not None


def natural_key(name: str) -> list[str | int]:
    """Sorts 'block/2' before 'block/10'."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
