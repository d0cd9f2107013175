"""Physical scale of one section: µm per px, and px of a length. No other file converts between µm and px.

Four sources state the µm per level-0 px of a section's own image. The first one that exists is used:

    1  dataset.yaml    samples.<sample>.pixel_size_um.<layer>
    2  dataset.yaml    pixel_size_um, or pitch_um / pitch_px
    3  the spots       pitch_um over the distance of neighbouring measured spots (sections with counts)
    4  the image       its metadata: OpenSlide's mpp, OME-XML, the resolution of a TIFF, PNG or JPEG file

A value of an image outside BELIEVED_UM is ignored: image editors and export tools write 72 dpi or 1 px per cm.
All sources that exist are compared, except 1 with 2: a section's own value overrides that of the dataset. A difference
above TOLERANCE is a LayerError.

Windows are defined in µm too. 224, 512 and 1024 reference px and the contour radius belong to a pitch of 272 px =
200 µm (legacy ST, Zhu et al., CVPR 2025); by default they follow the pitch.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from common.config import Config
from common.errors import DataError, LayerError
from common.io import read_json, read_location
from common.layout import Layout
from common.slide import open_slide, stated_pixel_size_um

REFERENCE_PITCH_PX = 272.0  # the pitch at which a patch of 224/512/1024 px is read 1:1
CONTOUR_RADIUS_PX = 112.0  # radius of a spot's contour, reference px
SPOT_WINDOW_PX = 224  # side of a spot's window, reference px
BELIEVED_UM = (0.05, 20.0)  # per px: from the finest scanner to a section of 12 mm on 600 px
TOLERANCE = 0.05  # two sources that differ by more contradict each other
MIN_SPOTS = 10  # fewer spots are no evidence of a scale
MAX_ARRAY_RESIDUAL = 0.25  # pitches: spots farther off their array than this (root mean square) do not show its pitch
MAX_SLIDE_MM2 = 51 * 76  # area of the largest glass slide in use
MIN_PITCH_PX = 2.0  # spots closer than this cannot be told apart in the image


@dataclass(frozen=True)
class Geometry:
    """Scale of one section. px are level-0 px of its own image."""

    um_per_px: float
    pitch_um: float  # centre-to-centre distance of neighbouring spots
    pitch_px: float
    scale: float  # level-0 px per reference px
    source: str  # what states um_per_px

    def px_of(self, length_um: float) -> float:
        """A length in px, by the pitch."""
        return self.pitch_px * length_um / self.pitch_um

    def window_px(self, size: int) -> int:
        """Side of the level-0 window that a nominal patch of `size` px is read from."""
        return max(1, math.floor(size * self.scale + 0.5))

    def window_um(self, size: int) -> float:
        """The same in µm, before it is rounded to whole px; 6 digits."""
        return float(f"{size * self.scale * self.pitch_um / self.pitch_px:.6g}")

    @property
    def contour_radius_px(self) -> float:
        """Radius of a spot's contour."""
        return CONTOUR_RADIUS_PX * self.scale


@dataclass(frozen=True)
class Source:
    """What one source states: µm per px, or a range of values that it is compatible with."""

    name: str
    um_per_px: float
    low: float
    high: float

    @classmethod
    def of(cls, name: str, um_per_px: float) -> "Source":
        return cls(name, um_per_px, um_per_px, um_per_px)

    def contradicts(self, other: "Source") -> bool:
        return max(self.low / other.high, other.low / self.high) > 1 + TOLERANCE

    def __str__(self) -> str:
        return f"{self.um_per_px:.4g} um/px by {self.name}"


# the scale of a section --------------------------------------------------------------------------------
def section_geometry(config: Config, layout: Layout, sample: str, layer: int) -> Geometry:
    """The scale of a section of a dataset root.

    Raises LayerError if sources contradict each other or none states it.
    """
    sources = sources_of_section(config, layout, sample, layer)
    if not sources:
        raise no_source(layout.image(sample, layer) or layout.new_image(sample, layer, ".*"), sample, layer)
    chosen = agreed(sources, f"{sample}/{layer}")
    return _geometry(config, chosen.um_per_px, chosen.name, of_dataset=chosen.name == _DATASET)


def sources_of_section(config: Config, layout: Layout, sample: str, layer: int) -> list[Source]:
    """The sources of the scale of a section of a dataset root, in the order of precedence."""
    found = [*config_sources(config, sample, layer)]
    spots, image = layout.location(sample, layer), layout.image(sample, layer)
    if spots.is_file() and layout.counts(sample, layer).is_file():
        pitches = _measured_pitches_px(spots, config.array, spots.stat().st_mtime_ns)
        found += spot_sources(pitches, config.pitch_um, spots)
    if image is not None and image.is_file():
        found += image_sources(_stated(image, image.stat().st_mtime_ns), image)
    elif layout.thumbnail_info(sample, layer).is_file():  # the image is gone; step 0_2 noted what it stated
        info = layout.thumbnail_info(sample, layer)
        found += image_sources(read_json(info, "0_2_tissue_mask.py").get("pixel_size_um"), info)
    return found


def agreed(sources: list[Source], where: str) -> Source:
    """The first source. Raises LayerError if another one contradicts it."""
    first, *others = sources
    for other in others:
        if first.contradicts(other):
            sample, _, layer = where.rpartition("/")
            raise LayerError(
                where,
                f"{first}, but {other}",
                f"sources that differ by {TOLERANCE:.0%} at most",
                f"set samples.{sample}.pixel_size_um: {{{layer}: …}} to the right value, or correct the other one"
                if first.name.endswith("dataset.yaml")
                else "correct the wrong one (of spots: the file, array or pitch_um)",
            )
    return first


def no_source(image: Path, sample: str, layer: int) -> LayerError:
    """The error of a section without a source of its scale: that of its image, if it cannot be read."""
    try:
        open_slide(image)
    except LayerError as error:
        return error
    stated = _stated(image, image.stat().st_mtime_ns) if image.is_file() else None
    found = (
        "an image that states no pixel size"
        if stated is None
        else f"an image that states {stated:.4g} um/px, which is not believed"
    )
    return LayerError(
        image,
        found,
        f"{BELIEVED_UM[0]:g} to {BELIEVED_UM[1]:g} um per px",
        f"add samples.{sample}.pixel_size_um: {{{layer}: …}} to dataset.yaml, um per px of this image",
    )


# the scale of a dataset --------------------------------------------------------------------------------
def dataset_um_per_px(config: Config) -> float | None:
    """µm per level-0 px as the dataset's own keys state it, or None."""
    if config.pixel_size_um is not None:
        return config.pixel_size_um
    return None if config.pitch_px is None else config.pitch_um / config.pitch_px


def dataset_geometry(config: Config) -> Geometry:
    """The scale that the dataset's own keys state. Raises DataError if they state none."""
    um = dataset_um_per_px(config)
    if um is None:
        raise DataError(
            f"dataset {config.dataset}",
            "no key 'pitch_px'",
            "the distance of neighbouring spots, level-0 px, or pixel_size_um",
            "add 'pitch_px: …'",
        )
    return _geometry(config, um, _DATASET, of_dataset=True)


def stated_geometry(config: Config, sample: str, layer: int) -> Geometry | None:
    """The scale of a section as dataset.yaml alone states it, or None."""
    sources = config_sources(config, sample, layer)
    return (
        _geometry(config, sources[0].um_per_px, sources[0].name, of_dataset=sources[0].name == _DATASET)
        if sources
        else None
    )


def check_scale(config: Config, file: Path | str) -> None:
    """Raises DataError if the dataset's own keys contradict each other, or state a scale outside BELIEVED_UM."""
    um = dataset_um_per_px(config)
    if um is not None and not BELIEVED_UM[0] <= um <= BELIEVED_UM[1]:
        raise DataError(
            file,
            f"{um:.4g} um per px by pixel_size_um, or pitch_um / pitch_px",
            f"{BELIEVED_UM[0]:g} to {BELIEVED_UM[1]:g}",
            "correct pixel_size_um, pitch_um or pitch_px",
        )
    if config.pixel_size_um is not None and config.pitch_px is not None:
        by_pitch = Source.of("pitch_um / pitch_px", config.pitch_um / config.pitch_px)
        if by_pitch.contradicts(Source.of("pixel_size_um", config.pixel_size_um)):
            raise DataError(
                file,
                f"pixel_size_um {config.pixel_size_um:.4g}, but {by_pitch}",
                "the same scale",
                "correct one of the three keys",
            )
    if config.patch_scale is not None and config.window_um is not None:
        raise DataError(file, "patch_scale and window_um", "one of them", "remove patch_scale")
    if config.patch_scale is not None and um is None:
        raise DataError(
            file,
            "patch_scale without a scale of the dataset",
            "pixel_size_um, or pitch_px",
            "set window_um instead of patch_scale",
        )


def _geometry(config: Config, um_per_px: float, source: str, of_dataset: bool) -> Geometry:
    """of_dataset: the value is the dataset's own, so its pitch_px is that of this section, to the last digit."""
    pitch_px = config.pitch_px if of_dataset and config.pitch_px is not None else config.pitch_um / um_per_px
    if config.window_um is not None:
        scale = config.window_um / SPOT_WINDOW_PX / um_per_px
    elif config.patch_scale is not None:
        scale = config.patch_scale
        if not of_dataset:
            um_of_dataset = dataset_um_per_px(config)
            assert um_of_dataset is not None, "check_scale refuses a patch_scale without it"
            scale = config.patch_scale * um_of_dataset / um_per_px
    else:
        scale = pitch_px / REFERENCE_PITCH_PX
    return Geometry(um_per_px, config.pitch_um, pitch_px, scale, source)


# sources -----------------------------------------------------------------------------------------------
_DATASET = "pixel_size_um or pitch_px of dataset.yaml"


def config_sources(config: Config, sample: str, layer: int) -> list[Source]:
    """The section's own value, else the dataset's, else none."""
    own = config.samples[sample].pixel_size_um.get(layer) if config.samples else None
    if own is not None:
        return [Source.of(f"samples.{sample}.pixel_size_um of dataset.yaml", own)]
    um = dataset_um_per_px(config)
    return [] if um is None else [Source.of(_DATASET, um)]


def spot_sources(pitches_px: tuple[float, ...], pitch_um: float, file: Path) -> list[Source]:
    """What the distance of measured spots states, if it is evidence. pitches_px: the estimates of pitches_of()."""
    if not pitches_px:
        return []
    values = [pitch_um / pitch for pitch in pitches_px]
    return [
        Source(
            f"the spots of {file.name}, {pitches_px[0]:.4g} px apart (pitch_um: {pitch_um:g})",
            float(f"{values[0]:.6g}"),
            min(values),
            max(values),
        )
    ]


def image_sources(um_per_px: float | None, file: Path) -> list[Source]:
    """What the image's metadata state, if that is believed."""
    if um_per_px is None or not BELIEVED_UM[0] <= um_per_px <= BELIEVED_UM[1]:
        return []
    return [Source.of(f"the metadata of {file.name}", um_per_px)]


@lru_cache(maxsize=4096)
def _stated(image: Path, _changed: int) -> float | None:
    return stated_pixel_size_um(image)


# the pitch of spots ------------------------------------------------------------------------------------
@lru_cache(maxsize=4096)
def _measured_pitches_px(location: Path, array: str, _changed: int) -> tuple[float, ...]:
    try:
        table = read_location(location)
    except (LayerError, DataError):
        return ()  # the step that reads the spots reports it
    return pitches_of(table[["pixel_x", "pixel_y"]].to_numpy(), table[["i", "j"]].to_numpy(), array)


def pitches_of(xy: np.ndarray, ij: np.ndarray, array: str) -> tuple[float, ...]:
    """Estimates of the pitch, px: by nearest neighbours and, where array positions fit the pixels, by the array's step.

    Positions in legacy ST are jittered: the nearest neighbour is closer than the pitch. xy (n, 2) px; ij (n, 2) column
    and row (hex: the column steps by 2). () for fewer than MIN_SPOTS spots.
    """
    if len(xy) < MIN_SPOTS:
        return ()
    nearest = median_spacing_px(xy)
    design = np.column_stack([ij, np.ones(len(ij))])  # (n, 3)
    step, _, rank, _ = np.linalg.lstsq(design, xy, rcond=None)
    column, row = (float(np.hypot(*one)) for one in step[:2])  # px per array column and row
    column, row = (2 * column, row / math.sqrt(0.75)) if array == "hex" else (column, row)
    by_array = (column + row) / 2
    residual = float(np.sqrt(((design @ step - xy) ** 2).sum(axis=1).mean()))
    fits = rank == 3 and abs(column - row) < 0.1 * by_array and residual < MAX_ARRAY_RESIDUAL * by_array
    return tuple(pitch for pitch in (nearest, by_array if fits else 0.0) if pitch > 0)


def median_spacing_px(xy: np.ndarray) -> float:
    """Median distance of a spot to its nearest neighbour, px; 0 for fewer than two spots. xy (n, 2)."""
    from scipy.spatial import cKDTree

    return float(np.median(cKDTree(xy).query(xy, k=2)[0][:, 1])) if len(xy) > 1 else 0.0


# what a section can hold -------------------------------------------------------------------------------
def check_lattice(geometry: Geometry, tissue_px2: float, lattice_pitch_px: float, where: Path) -> None:
    """Raises LayerError if the tissue, in level-0 px², is larger than a slide, or the lattice finer than its image."""
    area_mm2 = tissue_px2 * geometry.um_per_px**2 / 1e6
    if area_mm2 > MAX_SLIDE_MM2:
        raise LayerError(
            where,
            f"{area_mm2:,.0f} mm² of tissue at {geometry.um_per_px:.4g} um/px by {geometry.source}",
            f"at most the {MAX_SLIDE_MM2:,} mm² of a slide",
            "correct the pixel size",
        )
    if lattice_pitch_px < MIN_PITCH_PX:
        raise LayerError(
            where,
            f"spots {lattice_pitch_px:.3g} px apart at {geometry.um_per_px:.4g} um/px by {geometry.source}",
            f"at least {MIN_PITCH_PX:g} px",
            "set a coarser grid_pitch_um, or correct the pixel size",
        )
