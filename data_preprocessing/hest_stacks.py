"""Stacks of sections in the metadata table of HEST-1k: which ids may be sections of one block, and in which order.

Rows of one data set, patient, tissue, species and technology whose `subseries` differs only by a number are one stack.
The table does not say which sections are consecutive: each stack has its doubts beside it.
"""
import re
from collections import defaultdict
from dataclasses import dataclass, field

from common.names import natural_key

COLUMNS = ("id", "dataset_title", "patient", "tissue", "species", "st_technology", "subseries")
NUMBERED = (  # form, what the number is; the first that fits is used
    (re.compile(r"(?i)\b((?:serial[ _]+)?(?:section|layer|slice))[ _.#-]*(?P<n>\d+)"), "section"),
    (re.compile(r"(?i)(?:(?<=[\W_])|^)(rep(?:licate|l)?s?)[ _.#-]*(?P<n>\d+)"), "replicate"),
    (re.compile(r"^[A-Z](?P<n>\d+)$"), "number"),
    (re.compile(r"[ _-](?P<n>[A-E][12])$"), "place on the chip"),
    (re.compile(r"[ _-](?P<n>\d{1,2})$"), "number"),
    (re.compile(r"[ _-](?P<n>[A-H])$"), "letter"))
DOUBTS = {
    "replicate": "replicates may be of other animals or blocks",
    "number": "the numbers may not be the order of cutting",
    "place on the chip": "ordered by the place on the chip, which may not be the order of cutting",
    "letter": "the letters may be animals or blocks, not sections"}
PATIENT = re.compile(r"(?i)(?:patient|donor|mouse|animal)[ _-]?\w+")
ARRAYS = {"spatial transcriptomics": ("square", 200.0), "visium": ("hex", 100.0), "visium hd": ("square", 128.0),
          "xenium": ("square", 100.0)}


@dataclass(frozen=True)
class Stack:
    """{layer: id} in the proposed z order, and what is uncertain. Layers are numbers of the table, if it has some."""
    name: str
    title: str
    technology: str
    ids: dict[int, str]
    doubts: list[str] = field(default_factory=list)


def stacks_of(rows: list[dict[str, str]]) -> list[Stack]:
    """The stacks of two or more ids. rows: of the metadata table, by column name."""
    groups = defaultdict(list)
    for row in rows:
        value = {column: (row.get(column) or "").strip() for column in COLUMNS}
        subseries, title = value["subseries"], value["dataset_title"]
        stem, number, kind = _parsed(subseries)
        if kind is None:
            title, number, kind = _parsed(title)
        key = (title, value["patient"].lower(), value["tissue"].lower(), value["species"], value["st_technology"],
               stem.lower(), kind)
        groups[key].append((number, value))
    stacks, names = [], set()
    for key, members in groups.items():
        if key[-1] is None or len(members) < 2:
            continue
        members.sort(key=lambda one: (natural_key(one[0]), natural_key(one[1]["id"])))
        first = members[0][1]
        name = _name(first, _parsed(first["subseries"])[0], names)
        stacks.append(Stack(name, first["dataset_title"], first["st_technology"], _by_layer(members),
                            _doubts(members, key[-1])))
    return sorted(stacks, key=lambda stack: (stack.title, natural_key(stack.name)))


def _parsed(text: str) -> tuple[str, str, str | None]:
    """(the text without its number, the number, what it is: None for no number)."""
    bare = re.sub(r"\s*\[[^\]]*\]", "", text).strip()  # an accession
    for form, kind in NUMBERED:
        match = form.search(bare)
        if match:
            stem = bare[:match.start("n")] + "#" + bare[match.end("n"):]
            if kind == "replicate":
                stem = re.sub(r"(?i)[_ ]+chip\d+(_[A-E]\d)?$", "", stem)  # where it lay when it was measured
            return stem, match.group("n"), kind
    return bare, "", None


def _by_layer(members: list[tuple[str, dict[str, str]]]) -> dict[int, str]:
    numbers = [number for number, _ in members]
    as_given = all(one.isdecimal() for one in numbers) and len(set(map(int, numbers))) == len(numbers)
    layers = [int(one) for one in numbers] if as_given else range(1, len(members) + 1)
    return {layer: one["id"] for layer, (_, one) in zip(layers, members, strict=True)}


def _doubts(members: list[tuple[str, dict[str, str]]], kind: str) -> list[str]:
    doubts = [DOUBTS[kind]] if kind in DOUBTS else []
    texts = [one["patient"] or one["subseries"] for _, one in members]
    if not any(one["patient"] for _, one in members) and not all(PATIENT.search(one) for one in texts):
        doubts.append("no patient is given: sections of several may be mixed")
    numbers = [number for number, _ in members]
    if len(set(numbers)) < len(numbers):
        doubts.append("a number is given twice")
    whole = [int(one) for one in numbers if one.isdecimal()]
    if len(whole) == len(numbers) > 1 and max(whole) - min(whole) >= len(set(whole)):
        doubts.append("sections between these are not in the table")
    return doubts


def _name(row: dict[str, str], stem: str, taken: set[str]) -> str:
    """A name for the sample, of its patient and subseries, that no other has."""
    stem = stem.replace("#", "").strip(" _-")
    text = " ".join(filter(None, (row["patient"], "" if stem.lower() in row["patient"].lower() else stem)))
    base = "_".join(re.findall(r"\w+", text, re.ASCII))[:48].strip("_") or f"stack_{row['id']}"
    name, count = base, 2
    while name.lower() in taken:
        name, count = f"{base}_{count}", count + 1
    taken.add(name.lower())
    return name
