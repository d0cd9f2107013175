"""How the files of legacy ST are named: one Form a data set. Names in, meanings out; no file is opened.

A pattern is matched against the path of a file under the raw folder, upper and lower case alike. Its groups: `sample`,
`section`, and `word` where a picture's name may lack the sample. Kinds: counts, location (spots with px), coords
(spots whose px may be absent), either (a table whose header decides), transformation (array -> px), image, picture (an
image only where the section has other files).
"""
import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from common.image_names import IMAGE_SUFFIXES

FOLDERS = r"(?:.*/)?"
GEO = r"(?:GSM\d+_)?"
TABLE = r"\.(?:tsv|csv|txt)(?:\.gz)?"
IMAGE = rf"(?:\.ome)?(?:{'|'.join(map(re.escape, sorted(IMAGE_SUFFIXES, key=len, reverse=True)))})(?:\.gz)?"
ARCHIVE = re.compile(r".+\.(?:zip|tar|tgz|tbz2|rar|7z|bz2|xz|tar\.gz)", re.IGNORECASE)
SPACE_RANGER = re.compile(
    r"(?:.*[_.])?(?:filtered_feature_bc_matrix(?:\.h5)?|raw_feature_bc_matrix(?:\.h5)?|tissue_positions\w*\..+"
    r"|scalefactors_json\.json.*|matrix\.mtx(?:\.gz)?|tissue_(?:hires|lowres)_image\.png.*)", re.IGNORECASE)


@dataclass(frozen=True)
class Match:
    """What a file's name states. rank: 0 is the preferred form of name. sample is '' where the name lacks it."""
    kind: str
    rank: int
    sample: str
    section: str
    word: str = ""


@dataclass(frozen=True)
class Form:
    """The names of one data set.

    name: of the format. example: names of one section, for messages. rule: the form of a section's name, in words.
    numbered: the name states the section's number; else sections are numbered in the order of their names.
    mapped: samples.<name>.raw assigns files to sections. sure: names of sections that are listed for one file alone;
    others need files of two kinds. samples_of_words: the sample of a picture whose name lacks it, where no table names
    one. blocks: {sample: what is known of it} where its sections are not of one block. roles: folders whose files are
    input.
    """
    name: str
    example: str
    rule: str
    patterns: tuple[tuple[str, str], ...]
    numbered: bool = True
    mapped: bool = True
    sure: str = ".*"
    samples_of_words: dict[str, str] = field(default_factory=dict)
    blocks: dict[str, str] = field(default_factory=dict)
    roles: tuple[str, ...] = ()

    def match(self, path: str) -> Match | None:
        """The meaning of a path under the raw folder, or None. The first pattern that fits decides.

        Files of Space Ranger are none: 'tissue_positions.csv' is no section 'positions' of a sample 'tissue'.
        """
        if SPACE_RANGER.fullmatch(PurePosixPath(path).name):
            return None
        for rank, (kind, pattern) in enumerate(self.patterns):
            found = re.fullmatch(pattern, path, re.IGNORECASE)
            if found:
                groups = found.groupdict()
                return Match(kind, rank, groups.get("sample") or "", found["section"],
                             (groups.get("word") or "").lower())
        return None

    def key(self, sample: str, section: str | int) -> tuple[str, str | int]:
        """Files with the same key belong to one section."""
        return sample.lower(), int(section) if self.numbered else str(section).lower()


_HER2 = r"(?P<sample>[^\d/]+)(?P<section>\d+)"
HER2ST = Form(
    name="her2st",
    example="ST-cnts/C2.tsv.gz or count-matrices/C2.tsv.gz, ST-imgs/C/C2/*.jpg or images/HE/C2.jpg",
    rule="a section's name is letters and a number, such as C2",
    patterns=(
        ("counts", rf"{FOLDERS}(?:ST-cnts|count-matri(?:ces|x))/{_HER2}{TABLE}"),
        ("location", rf"{FOLDERS}(?:ST-spotfiles|spot-selections?)/{_HER2}_selection{TABLE}"),
        ("image", rf"{FOLDERS}ST-imgs/[^/]+/{_HER2}/[^/]+{IMAGE}"),
        ("image", rf"{FOLDERS}(?:ST-imgs/(?:[^/]+/)?|images/|HE/(?:[^/]+/)?)(?:HE_)?{_HER2}{IMAGE}"),
        ("counts", rf"{_HER2}{TABLE}"),  # all files side by side, in the raw folder itself
        ("location", rf"{_HER2}_selection{TABLE}"),
        ("picture", rf"(?:HE_)?{_HER2}{IMAGE}")),
    mapped=False,
    roles=("ST-cnts", "ST-spotfiles", "ST-imgs", "count-matrices", "spot-selections", "spot-selection", "HE"))

_CSCC = r"(?:(?P<sample>[^/]+?)_ST_rep(?P<section>\d+))"
_MELANOMA = r"(?:ST_(?P<sample>[^/_]+)_rep(?P<section>\d+))"
CSCC = Form(
    name="cscc",
    example="P2_ST_rep1_stdata.tsv, spot_data-selection-P2_ST_rep1.tsv, P2_ST_rep1.jpg",
    rule="a section's name is <patient>_ST_rep<number>, such as P2_ST_rep1",
    patterns=tuple((kind, f"{FOLDERS}{GEO}{pattern}") for name in (_CSCC, _MELANOMA) for kind, pattern in (
        ("counts", rf"{name}_(?:stdata|counts){TABLE}"),
        ("location", rf"spot_data-selection-{name}{TABLE}"),
        ("location", rf"{name}_selection{TABLE}"),
        ("location", rf"spot_data-all-{name}{TABLE}"),
        ("transformation", rf"{name}_transformati?on{TABLE}"),
        ("image", rf"(?:HE_)?{name}(?:_HE)?{IMAGE}"))))

_STAHL = r"(?P<word>rep|layer)_?(?P<section>\d+)_(?P<sample>[^_./]+)"
STAHL = Form(
    name="stahl",
    example="Rep1_MOB_count_matrix-1.tsv, Rep1_MOB_transformation.txt, HE_Rep1_MOB.jpg or HE_Rep1.jpg",
    rule="a section's name is Rep<number>_<sample> or Layer<number>_<sample>, such as Rep1_MOB",
    patterns=(
        ("counts", rf"{FOLDERS}{GEO}{_STAHL}_count_matrix(?:-\d+)?{TABLE}"),
        ("transformation", rf"{FOLDERS}{GEO}{_STAHL}_transformati?on{TABLE}"),
        ("location", rf"{FOLDERS}{GEO}(?:spot_data-(?:selection|all)-)?{_STAHL}(?:_selection)?{TABLE}"),
        ("image", rf"{FOLDERS}{GEO}(?:HE_)?{_STAHL}(?:_HE)?{IMAGE}"),
        ("image", rf"{FOLDERS}{GEO}HE_(?P<word>rep|layer)_?(?P<section>\d+){IMAGE}")),
    samples_of_words={"rep": "MOB", "layer": "BC"},
    blocks={"MOB": "the replicates of the olfactory bulb are of several animals"})

_STNET = r"(?P<sample>[^_/]+)_(?P<section>[^/]+?)"
STNET = Form(
    name="stnet",
    example="BC23209_C1.tsv.gz or BC23209_C1_stdata.tsv.gz, BC23209_C1.spots.txt or spots_BC23209_C1.csv, "
            "HE_BC23209_C1.jpg",
    rule="a section's name is <patient>_<section>, such as BC23209_C1",
    patterns=tuple((kind, f"{FOLDERS}{GEO}{pattern}") for kind, pattern in (
        ("location", rf"{_STNET}[._]spots{TABLE}"),
        ("location", rf"spots_{_STNET}{TABLE}"),
        ("location", rf"{_STNET}_selection{TABLE}"),
        ("coords", rf"{_STNET}_coords{TABLE}"),
        ("transformation", rf"{_STNET}_transformati?on{TABLE}"),
        ("counts", rf"{_STNET}_stdata{TABLE}"),
        ("counts", rf"{_STNET}\.tsv(?:\.gz)?"),
        ("either", rf"{_STNET}\.(?:csv|txt)(?:\.gz)?"),
        ("image", rf"HE_{_STNET}{IMAGE}"),
        ("image", rf"{_STNET}{IMAGE}"))),
    numbered=False, sure=r"[^_.()\s]+")

FORMS = (HER2ST, CSCC, STAHL, STNET)  # from the most special names to the most general
BY_NAME = {form.name: form for form in FORMS}


def form_of(path: str) -> Form | None:
    """The first form that has a meaning for this path under the raw folder, whatever lies beside it."""
    for form in FORMS:
        match = form.match(path)
        if match is not None and (form.numbered or re.fullmatch(form.sure, match.section)):
            return form
    return None


def taken_by(form: Form, path: str) -> Match | None:
    """The meaning of a path in this form; None also where a more special form has one: one name, one form."""
    if form is STNET and (CSCC.match(path) or STAHL.match(path)):
        return None
    return form.match(path)


def is_archive(name: str) -> bool:
    """True for a packed folder, and for a packing that is not read here."""
    return ARCHIVE.fullmatch(name) is not None


def is_space_ranger(path: str) -> bool:
    """True for a file or folder of Space Ranger, with or without a prefix."""
    return SPACE_RANGER.fullmatch(PurePosixPath(path).name) is not None
