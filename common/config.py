"""The dataset's configuration: one validated YAML.

A person writes `configs/<dataset>.yaml`. Step 0 resolves it (samples and sections listed) to `<root>/dataset.yaml`,
which every later step reads by default. An unknown key, a wrong type or a missing folder is one line, exit code 2.
"""
import difflib
import sys
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from common.errors import DataError
from common.files import atomic_path
from common.layout import Layout
from common.names import NAME_FORM, is_name
from common.selection import check_layers, disjoint_folds, each_once, named_or_default
from common.strict_yaml import strict_load

Layer = Annotated[int, Field(ge=0)]
Layers = Annotated[list[Layer], AfterValidator(each_once)]
Um = Annotated[float, Field(strict=False)]
Point = Annotated[list[Annotated[float, Field(strict=False)]], Field(min_length=2, max_length=2)]


def _a_name(text: str) -> str:
    if not is_name(text):
        raise PydanticCustomError("name", NAME_FORM)
    return text


Name = Annotated[str, AfterValidator(_a_name)]
Folds = list[list[str]] | Annotated[int, Field(ge=2)] | Literal["leave_one_out"] | None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class PairConfig(_Strict):
    """What replaces the automatic registration of two neighbouring sections: one of two files, relative to the root."""
    landmarks: str | None = Field(
        default=None, description="CSV: moving_x, moving_y, fixed_x, fixed_y, level-0 px; three points or more")
    transform: str | None = Field(
        default=None,
        description="JSON with matrix [[a, b, x], [c, d, y]], or ITK .mat: moving -> fixed, level-0 px")

    @model_validator(mode="after")
    def _exactly_one(self):
        if (self.landmarks is None) == (self.transform is None):
            raise ValueError("either landmarks or transform")
        return self


class SampleConfig(_Strict):
    """One tissue block."""
    layers: Layers | None = Field(default=None, description="sections in z order; default: all found")
    known_layers: Annotated[Layers, AfterValidator(named_or_default)] | None = Field(
        default=None, description="sections whose expression the model may see; default: the first with counts")
    skip: Layers = Field(default=[], description="sections to leave out; the registration chain bridges them")
    raw: dict[Layer, str] = Field(
        default={},
        description="section: its raw folder (visium), file (stnet, cscc, stahl, h5ad), store (spatialdata), id (hest) "
                    "or name (asign), "
                    "relative to raw_path")
    images: dict[Layer, str] = Field(
        default={},
        description="section: its full-resolution image, relative to raw_path; default: the one beside the spots")
    z_um: dict[Layer, Um] = Field(
        default={},
        description="section: its z, um, of every section; "
                    "default: its number x section_thickness_um, from the lowest")
    pixel_size_um: dict[Layer, Annotated[float, Field(gt=0, strict=False)]] = Field(
        default={},
        description="section: um per level-0 px of its own image; "
                    "step 0_1 writes the value that it measured on the spots or read from the slide")
    leave_out: dict[Layer, list[Point]] = Field(
        default={},
        description="section: pieces of tissue that step 0_2 leaves out, each as [x, y] of a point on it, level-0 px")
    pairs: dict[str, PairConfig] = Field(
        default={},
        description="'<moving>_to_<fixed>': landmarks or a transform that replace the automatic registration")

    @property
    def listed_layers(self) -> list[int]:
        """`layers` of a resolved config, skipped ones included."""
        assert self.layers is not None, "the config is not resolved"
        return self.layers


class Config(_Strict):
    """All settings of a dataset. The field descriptions are the documentation."""
    dataset: Name = Field(description="name of the dataset")
    samples: dict[Name, SampleConfig] | None = Field(
        default=None, description="the sections of each sample; default: all found")
    raw_format: Literal["asign", "cscc", "h5ad", "her2st", "hest", "spatialdata", "stahl", "stnet", "visium",
                        "visium_hd"] | None = Field(
        default=None, description="form of the raw files that step 0_1 reads")
    raw_path: str | None = Field(default=None, description="folder of the raw files (--raw_path wins)")

    array: Literal["square", "hex"] = Field(
        default="square", description="spot array: legacy ST is square, Visium hexagonal")
    pitch_px: float | None = Field(
        default=None, gt=0, description="distance of neighbouring spots, level-0 px; default pitch_um over um per px")
    pitch_um: float = Field(
        default=200.0, gt=0, description="distance of neighbouring spots, um: 200 legacy ST, 100 Visium; "
                                     "Visium HD: side of a spot, a multiple of bin_um")
    bin_um: float | None = Field(
        default=None, gt=0, description="Visium HD: side of the bins that step 0_1 pools to pitch_um, um; default 8")
    grid_pitch_um: float | None = Field(
        default=None, gt=0, description="distance of the spots on image-only sections, um; default pitch_um")
    pixel_size_um: float | None = Field(
        default=None, gt=0,
        description="um per level-0 px of every image; default: each section's own (common/geometry.py)")
    window_um: float | None = Field(
        default=None, gt=0,
        description="side of a spot's window (224 reference px), um; default pitch_um * 224 / 272")
    patch_scale: float | None = Field(
        default=None, gt=0, description="the same in level-0 px per reference px; default pitch_px / 272")
    section_thickness_um: float = Field(
        default=16.0, gt=0, description="distance in z of sections whose numbers differ by one, um")

    refuse_flipped_spots: bool = Field(
        default=True,
        description="leave a section out whose spots lie far better on the tissue when swapped or mirrored")
    refinement: Literal["affine", "syn", "none"] = Field(
        default="affine", description="ANTs refinement of a pair: affine, affine + SyN, or none")

    genes: str = Field(default="top_mean", description="top_mean, hvg, or a file with one gene symbol a line")
    n_genes: int = Field(default=250, gt=0, description="number of chosen genes")
    exclude_prefixes: list[str] = Field(default=[], description="genes never chosen, e.g. [MT-, RPL, RPS]")
    genes_from: Literal["all", "known"] = Field(
        default="all", description="choose genes on all sections (as published) or on the known ones")

    features: list[Literal["backbone", "context", "stain"]] = Field(
        default=["backbone"], min_length=1, description="feature sets of step 4 that the model sees")
    backbone: str = Field(
        default="efficientnet_lite0", description="efficientnet_lite0 (bundled ImageNet weights) or any timm name")
    backbone_weights: str | None = Field(
        default=None, description="local weight file (.pt, .pth, .safetensors) for a timm backbone")
    feature_batch_size: int = Field(default=8, gt=0, description="patches per forward pass in step 4")

    folds: Annotated[Folds, AfterValidator(disjoint_folds)] = Field(
        default=None,
        description="samples held out together; a number: the sorted samples in so many parts; "
                    "default: no fold, known sections train")

    # samples -----------------------------------------------------------------------------------------
    @property
    def listed_samples(self) -> dict[str, SampleConfig]:
        """`samples` of a resolved config."""
        assert self.samples is not None, "the config is not resolved"
        return self.samples

    def layers_of(self, sample: str) -> list[int]:
        """The sample's sections in z order, without the skipped ones."""
        chosen = self.listed_samples[sample]
        return [layer for layer in chosen.listed_layers if layer not in chosen.skip]

    def restricted(self, samples: list[str] | None, layers: list[int] | None, file: Path | str) -> "Config":
        """A copy with only these samples and sections. Raises DataError for a name that does not exist."""
        chosen = dict(self.listed_samples)
        if samples:
            missing = sorted(set(samples) - set(chosen))
            if missing:
                raise DataError(file, f"no sample {', '.join(missing)}", f"one of {', '.join(sorted(chosen))}",
                                "correct --sample")
            chosen = {name: chosen[name] for name in sorted(set(samples))}
        if layers:
            present = set().union(*(one.listed_layers for one in chosen.values()))
            if not set(layers) <= present:
                raise DataError(file, f"no section {sorted(set(layers) - present)}", f"one of {sorted(present)}",
                                "correct --layer")
            for name, one in list(chosen.items()):
                kept = [layer for layer in one.listed_layers if layer in layers]
                if kept:
                    chosen[name] = one.model_copy(update={"layers": kept})
                else:
                    del chosen[name]
        return self.model_copy(update={"samples": chosen})


def load_config(path: Path) -> Config:
    """Read and validate one YAML. Raises DataError on anything but a valid config."""
    if not path.is_file():
        raise DataError(path, "no file", "a dataset config (YAML)",
                        "give --config configs/<dataset>.yaml or run step 0 first")
    try:
        values = strict_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(path, f"invalid YAML ({error})", "a YAML mapping", "correct the syntax") from None
    if not isinstance(values, dict):
        raise DataError(path, type(values).__name__, "a YAML mapping", "see configs/demo.yaml")
    return validate(values, path)


def validate(values: dict, file: Path | str) -> Config:
    """Check a mapping against the schema. Raises DataError naming the first wrong key."""
    values = _numbers_as_declared(values)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise _data_error(error.errors()[0], file) from None


def _numbers_as_declared(values: dict) -> dict:
    """The values with 272 as 272.0 in a float field, and a sample's name 1 as '1': YAML writes them without."""
    floats = {name for name, field in Config.model_fields.items() if "float" in str(field.annotation)}
    out = {key: float(value) if key in floats and type(value) is int else value for key, value in values.items()}
    samples = out.get("samples")
    if isinstance(samples, dict):
        out["samples"] = {str(name): one if one is not None else {} for name, one in samples.items()}
    return out


def _data_error(error: ErrorDetails, file: Path | str) -> DataError:
    where = ".".join(str(part) for part in error["loc"] if part != "[key]")
    if error["type"] == "extra_forbidden":
        known = sorted(SampleConfig.model_fields if error["loc"][0] == "samples" else Config.model_fields)
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        fix = f"did you mean '{near[0]}'?" if near else "remove it"
        return DataError(file, f"unknown key '{where}'", f"one of {', '.join(known)}", fix)
    if error["type"] == "missing":
        return DataError(file, f"no key '{where}'", "a value for it", f"add '{where}: …'")
    expected = str(error["ctx"]["error"]) if error["type"] == "value_error" else error["msg"].lower()
    return DataError(file, f"'{where}: {error['input']!r}'", expected, f"correct '{where}'")


def resolve(config: Config, layout: Layout, file: Path | str) -> Config:
    """The config with its samples and sections listed: its own, else those found on disk.

    Raises DataError if there is none.
    """
    found = layout.layers_on_disk()
    if config.samples is None:
        for folder in layout.unnamed_on_disk():
            print(f"{folder}: left out: its name is no name of a sample; expected {NAME_FORM}; fix: rename it",
                  file=sys.stderr)
    chosen = config.samples if config.samples is not None else {name: SampleConfig() for name in found}
    samples = {}
    for name, one in sorted(chosen.items()):
        layers = one.layers if one.layers is not None else found.get(name, [])
        if not layers:
            raise DataError(file, f"sample '{name}' without sections",
                            f"imgs/{name}/<layer>.<ext> or counts/{name}/<layer>.h5ad",
                            f"put its files under {layout.root}, or run 0_1_convert_raw.py")
        samples[name] = one.model_copy(update={"layers": sorted(layers)})
        check_layers(name, samples[name], file)
    if not samples:
        raise DataError(layout.root, "no section", "imgs/<sample>/<layer>.<ext>, location/, counts/",
                        "run step 0, or give another --root_path")
    for fold in config.folds if isinstance(config.folds, list) else []:
        unknown = sorted(set(fold) - set(samples))
        if unknown and config.samples is not None:
            raise DataError(file, f"folds name {', '.join(unknown)}", f"samples among {', '.join(samples)}",
                            "correct folds")
    return config.model_copy(update={"samples": samples})


def save_config(config: Config, path: Path) -> None:
    """Write a config as YAML (keys in schema order)."""
    with atomic_path(path) as temporary:
        temporary.write_text(yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True))


def absent_of_folds(samples: list[str], folds: list[list[str]] | int | str | None) -> list[str]:
    """One line for each fold of the config with samples that do not exist."""
    lines = []
    for k, group in enumerate(folds if isinstance(folds, list) else []):
        absent = ", ".join(sorted(set(group) - set(samples)))
        rest = ", ".join(sorted(set(group) & set(samples)))
        if absent:
            lines.append(f"folds[{k}]: {absent} not there; " + (f"tests {rest} alone" if rest else "left out"))
    return lines
