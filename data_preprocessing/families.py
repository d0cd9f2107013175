"""What the names of sections state: which of them belong together, and their order.

A name is taken apart into text and fields: numbers, letters that stand alone, capture areas of a Visium slide (A1 to
D1). Sections of one block differ in their fields alone: `section1`, `section2`; `V10F24-078_A1`, `V10F24-078_B1`.
"""
import os
import re
from pathlib import PurePosixPath

from common.names import as_name

LETTER = r"[^\W\d_]"
FIELD = re.compile(rf"\d+|(?<!{LETTER}){LETTER}(?!{LETTER})|(?<=[a-z])[A-Z](?!{LETTER})")
WITH_AREA = re.compile(rf"(?<![^\W_])[A-D]1$|{FIELD.pattern}")
WELL = re.compile(r"(?<![^\W_])[A-Z]\d+$")           # the end of a name: a letter and a number
AREA = re.compile(r"[A-D]1")
ACCESSION = re.compile(r"GS[ME]\d+[_-](?=.)")        # of GEO: one a section, whatever the block
MARK = "\0"                                          # the place of a field in a name
SUFFIXES = re.compile(r"(\.ome)?\.(h5ad|h5|zarr|tsv|csv|txt|tiff?|jpe?g|png)(\.gz)?(?=#|$)|/outs$", re.IGNORECASE)


def bare_name(entry: str) -> str:
    """An entry of `raw` without its folder (kept if it says where the section is), suffix and GEO accession."""
    name = SUFFIXES.sub("", entry)
    return ACCESSION.sub("", PurePosixPath(name).name if "#" not in name else name)


def are_areas(names: list[str]) -> bool:
    """True if the names that end in a letter and a number end in a capture area, A1 to D1."""
    ends = [end[0] for end in map(WELL.search, names) if end]
    return bool(ends) and all(AREA.fullmatch(end) for end in ends)


def families(names: list[str]) -> list[list[str]]:
    """The names of each block, in the given order. Names that have nothing in common are one family.

    Names of one text are divided by a field that several share, where the last field starts again or leaves a gap:
    P1_s1, P1_s2, P2_s1 are two families; slide1_s1, slide1_s2, slide2_s3 are one.
    """
    pattern = WITH_AREA if are_areas(names) else FIELD
    by_text: dict[str, list[tuple[str, list[str]]]] = {}
    for name in names:
        text, fields = pattern.sub(MARK, name), pattern.findall(name)
        known = [one for one in by_text if _extends(one, text) or _extends(text, one)]
        by_text.setdefault(known[0] if known else text, []).append((name, fields))
    groups = []
    for members in by_text.values():
        groups += _divided(members)
    if all(len(group) == 1 for group in groups):
        return [list(names)]
    return sorted(groups, key=lambda group: names.index(group[0]))


def _extends(text: str, longer: str) -> bool:
    """True for section1 and section3_redo: the longer text goes on after the last field of the other."""
    return text.endswith(MARK) and longer.startswith(text)


def _divided(members: list[tuple[str, list[str]]]) -> list[list[str]]:
    """Members of one text, divided by the fields that several share."""
    names, fields = [name for name, _ in members], [one for _, one in members]
    columns = list(zip(*fields, strict=False))
    varying = [k for k, column in enumerate(columns) if len(set(column)) > 1]
    shared = [k for k in varying[:-1] if len(set(columns[k])) < len(names)]
    if not shared or AREA.fullmatch(columns[varying[-1]][0]) or _is_gapless(columns[varying[-1]]):
        return [names]
    groups: dict[tuple, list[str]] = {}
    for name, one in members:
        groups.setdefault(tuple(one[k] for k in shared), []).append(name)
    return list(groups.values())


def _is_gapless(values: tuple[str, ...]) -> bool:
    """True for numbers, or letters, that follow each other without a gap, each once."""
    places = [int(value) if value.isdecimal() else ord(value[0]) for value in values]
    return sorted(places) == list(range(min(places), min(places) + len(places)))


def family_name(names: list[str]) -> str:
    """What the names begin with, without the last field: LungOrg_1, LungOrg_2 are 'LungOrg'. It may be empty."""
    start = os.path.commonprefix(names)
    if len(names) > 1 and any(name[len(start):][:1].isdecimal() for name in names):
        start = start.rstrip("0123456789")
    return as_name(start.strip(" _-."))


def numbers_of(names: list[str]) -> list[int] | None:
    """The number of each section: the last number of the names that differs. None if two share it, or one has none."""
    if are_areas(names):
        return None
    columns = list(zip(*(re.findall(r"\d+", name) for name in names), strict=False))
    for column in reversed(columns):
        numbers = [int(value) for value in column]
        if len(set(numbers)) == len(names):
            return numbers
    return None


def doubt_of_order(names: list[str]) -> str:
    """Why the order of the names may be no order in z; empty if their numbers state it."""
    if are_areas(names):
        return "capture areas of a slide are no order in z"
    numbers = numbers_of(names)
    if numbers is None:
        return "no number in these names states the order in z"
    if numbers != sorted(numbers):
        return f"the numbers in this order are {', '.join(map(str, numbers))}"
    return ""

