"""Names of data sets and samples. They become names of folders: a name cannot lead out of its folder."""
import re
import unicodedata
from pathlib import Path

NAME_FORM = "a name of letters, digits, _, and inside it also -, . and spaces"
_NAME = re.compile(r"\w([\w .-]*[\w-])?")


def is_name(text: str) -> bool:
    """True if it starts with a letter, digit or _, continues with these, -, . and spaces, and ends in no . or space."""
    return _NAME.fullmatch(text) is not None


def as_name(text: str) -> str:
    """The text as a name, 'data _1' for 'data (1)'; '' if it has nothing that a name may have."""
    whole = unicodedata.normalize("NFC", text)  # macOS writes 'ö' as two characters
    return whole if is_name(whole) else re.sub(r"[^\w .-]", "_", whole).strip(" _-.")


def natural_key(name: str) -> list[str | int]:
    """Sorts 'block/2' before 'block/10'."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def visible(folder: Path, pattern: str = "*") -> list[Path]:
    """Files and folders under `folder` that match the pattern, in natural order, without the hidden ones.

    A name that begins with '.' is hidden, and so is all that lies in such a folder: macOS leaves '._x' beside each x.
    """
    found = []
    for path in folder.glob(pattern):
        parts = path.relative_to(folder).parts
        if not any(part.startswith(".") for part in parts):
            found.append(path)
    return sorted(found, key=lambda path: natural_key(path.relative_to(folder).as_posix()))
