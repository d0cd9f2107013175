"""Propose stacks of sections from the metadata table of HEST-1k: a config for step 0_1 a technology.

INPUT   --metadata: HEST_v….csv (id, dataset_title, patient, tissue, species, st_technology, subseries, …)
        --title, --id: only data sets whose title has this text, only these ids
OUTPUT  on screen, or with --output <folder>/hest_<technology>.yaml: array, pitch_um and samples, {layer: id} in the
        proposed z order. A comment above a sample says what is uncertain. A file that is there is not replaced.

The table does not say which sections are consecutive. Look at each stack, and at its study, before you use it.

    python data_preprocessing/propose_hest_stacks.py --metadata HEST_v1_1_0.csv --title HER2 --output my_configs
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import csv

import yaml

from common.config import load_config
from common.errors import DataError
from common.exit_codes import guarded
from common.files import atomic_path
from common.options import OneLineParser
from data_preprocessing.hest_stacks import ARRAYS, COLUMNS, Stack, stacks_of


def build_parser() -> OneLineParser:
    import argparse
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metadata", required=True, help="the metadata table of HEST-1k, HEST_v….csv")
    parser.add_argument("--title", default="", help="only data sets whose title has this text")
    parser.add_argument("--id", action="append", default=None, help="only this id (repeatable)")
    parser.add_argument("--output", default=None, help="folder for the configs (default: on screen)")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return guarded(lambda: propose(Path(args.metadata), args.title, args.id, args.output))


def propose(metadata: Path, title: str, ids: list[str] | None, output: str | None) -> int:
    """Print or write the configs. Raises DataError for a table of another form, or without a stack."""
    rows = read_metadata(metadata)
    chosen = [row for row in rows if title.lower() in (row["dataset_title"] or "").lower()
              and (ids is None or row["id"] in ids)]
    stacks = stacks_of(chosen)
    if not stacks:
        raise DataError(metadata, f"no two sections that may be of one block among {len(chosen)} of {len(rows)} rows",
                        "rows of one patient whose subseries differ by a number", "correct --title or --id")
    for technology in sorted({stack.technology for stack in stacks}):
        of_it = [stack for stack in stacks if stack.technology == technology]
        text = config_text(technology, of_it)
        if output is None:
            print(text)
        else:
            print(write_config(Path(output) / f"hest_{technology.lower().replace(' ', '_')}.yaml", text, of_it))
    n_listed = sum(len(stack.ids) for stack in stacks)
    print(f"{_number(stacks)} of {n_listed} sections; {len(chosen) - n_listed} sections are in no stack",
          file=sys.stderr)
    return 0


def read_metadata(path: Path) -> list[dict[str, str]]:
    """The rows of the table by column name. Raises DataError for a missing file or column."""
    if not path.is_file():
        raise DataError(path, "no file", "the metadata table of HEST-1k (HEST_v….csv)", "correct --metadata")
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
            if missing:
                raise DataError(path, f"no column {', '.join(missing)} (there is "
                                      f"{', '.join(map(str, reader.fieldnames or ['nothing']))})",
                                "the metadata table of HEST-1k (HEST_v….csv)", "download it again")
            return list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(path, f"a table that cannot be read ({error})", "a CSV in UTF-8", "download it again") from None


def config_text(technology: str, stacks: list[Stack]) -> str:
    """The config of the stacks of one technology, with the doubts as comments."""
    array, pitch_um = ARRAYS.get(technology.lower(), ("square", 200.0))
    head = {"dataset": "hest", "raw_format": "hest", "array": array, "pitch_um": pitch_um,
            "features": ["backbone", "context", "stain"]}
    pooled = technology.lower() in ("visium hd", "xenium")
    lines = [f"# HEST-1k, {technology}: proposed stacks. Keep the samples whose sections are of one block, in z order."]
    if pooled or technology.lower() not in ARRAYS:
        lines.append("# pitch_um is a guess: step 0_1 names the distance of the pooled bins if it is another one.")
    lines += [yaml.safe_dump(head, sort_keys=False, allow_unicode=True).rstrip(), "samples:"]
    for stack in stacks:
        lines.append(f"  # {stack.title}" + (f". Uncertain: {'; '.join(stack.doubts)}" if stack.doubts else ""))
        raw = ", ".join(f"{layer}: {name}" for layer, name in stack.ids.items())
        lines.append(f"  {yaml.safe_dump(stack.name).splitlines()[0]}: {{raw: {{{raw}}}}}")
    return "\n".join(lines) + "\n"


def write_config(path: Path, text: str, stacks: list[Stack]) -> str:
    """Write a config and check it; returns one line. Raises DataError if there is a file of this name."""
    if path.exists():
        raise DataError(path, "a file of this name", "a new config", "move it away, or give another --output")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    load_config(path)
    return f"{path}: {_number(stacks)} of {sum(len(stack.ids) for stack in stacks)} sections"


def _number(stacks: list[Stack]) -> str:
    return f"{len(stacks)} stack{'s' if len(stacks) > 1 else ''}"


if __name__ == "__main__":
    sys.exit(main())
