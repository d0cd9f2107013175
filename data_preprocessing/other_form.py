"""The sections of the raw data; where there is none, what is there instead, and the format or folder that fits it."""
import re
from pathlib import Path
from types import ModuleType

from common.config import Config, SampleConfig, load_config
from common.errors import DataError, LayerError
from common.layout import REPOSITORY
from common.names import visible
from data_preprocessing.readers import shown

INSIDE = ("outs", "spatial", "filtered_feature_bc_matrix", "raw_feature_bc_matrix", "binned_outputs", "ST-cnts",
          "ST-imgs", "ST-spotfiles", "st", "wsis", "metadata",
          "images", "shapes", "tables")  # folders inside a section or dataset
MOST_FOLDERS = 20        # folders of --raw_path that are looked into


def list_sections(readers: dict[str, ModuleType], form: str, raw: Path, config: Config) -> dict[str, SampleConfig]:
    """The samples that the reader of this format lists.

    Raises DataError; where there is no section it names what is there, and the format or the folder that fits.
    """
    try:
        found = readers[form].list_layers(raw, config)
        if config.samples is None and raw.name in INSIDE:
            _require_whole(readers[form], form, raw, config)
        return found
    except DataError as error:
        file, found, expected, fix = error.args
        if config.samples is not None or file != raw or not found.startswith("no "):
            raise
        if "there is" not in found and "there are" not in found:
            found = f"{found} (there is {_there(raw)})"
        better = "; or ".join(_better(readers, form, raw, config))
        raise DataError(file, found, expected, better or fix) from None


def _require_whole(reader: ModuleType, form: str, raw: Path, config: Config) -> None:
    """Raise DataError for a folder inside a section, such as `spatial`, whose counts lie beside it."""
    if not has_sections(reader, form, raw, config) and has_sections(reader, form, raw.parent, config):
        raise DataError(raw, f"a part of a section: its counts lie in {raw.parent}", "the folder of the section",
                        f"--raw_path {raw.parent}")


def _there(raw: Path) -> str:
    """The names in a folder; of folders alone also what the first holds."""
    paths = visible(raw)
    folders = [path for path in paths if path.is_dir()]
    names = shown(f"{path.name}/" if path.is_dir() else path.name for path in paths)
    if not folders or len(folders) < len(paths):
        return names
    return f"{names}; {folders[0].name}/ holds {shown(path.name for path in visible(folders[0]))}"


def _better(readers: dict[str, ModuleType], form: str, raw: Path, config: Config) -> list[str]:
    """What to give instead: another format for this folder, else another folder."""
    forms = [one for one in readers if one != form and has_sections(readers[one], one, raw, config)]
    if forms:
        return [f"this is {name_of(readers[one])}: --format {one}" for one in forms]
    folders = [path for path in visible(raw)[:MOST_FOLDERS] if path.is_dir()]
    if raw.name in INSIDE:
        folders.insert(0, raw.parent)
    for one in (form, *(other for other in readers if other != form)):
        there = [str(folder) for folder in folders if has_sections(readers[one], one, folder, config)]
        if there:
            format_too = "" if one == form else f" --format {one}"
            others = f" ({len(there) - 1} more: {shown(there[1:], 3)})" if len(there) > 1 else ""
            return [f"there are sections in {there[0]}: --raw_path {there[0]}{format_too}{others}"]
    return []


def has_sections(reader: ModuleType, form: str, raw: Path, config: Config) -> bool:
    """True if this reader finds a section with counts in the folder."""
    file = REPOSITORY / "configs" / f"{form}.yaml"
    own = load_config(file) if file.is_file() else config
    own = own.model_copy(update={"samples": None})
    try:
        found = reader.list_layers(raw, own)
    except (DataError, LayerError, OSError):
        return False
    if not hasattr(reader, "raw_files"):
        return True
    listed = own.model_copy(update={"samples": found})
    for name, one in found.items():
        for layer in one.layers or []:
            try:
                if "counts" in reader.raw_files(raw, listed, name, layer):
                    return True
            except LayerError:  # a section that is there and cannot be read
                return True
    return False


def name_of(reader: ModuleType) -> str:
    """A format as its reader calls it: the first words of its docstring."""
    text = (reader.__doc__ or "").partition("\n")[0].rstrip(".")
    text = text.removeprefix("Raw data of ").removeprefix("Raw data as ").removeprefix("Raw data in ")
    return re.split(r":| \(", text)[0]
