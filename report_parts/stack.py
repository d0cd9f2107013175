"""The stack: its sections, the registration of each pair, and the gate's verdict."""
from html import escape
from pathlib import Path

from common.errors import LayerError
from common.io import read_picture
from report_parts.gather import Run
from report_parts.shown import Shown, image, note, tissue

MADE_BY = "registration/Step3_registertoMiddle_ANTs.py"
PANEL_PX, STACK_PX = 460, 720  # longer side of the pictures


def stack(run: Run, sample: str, layers: list[Shown]) -> str:
    """Sections, the registration of each pair with the gate's verdict, and the whole stack."""
    quality, thumbnails = run.quality[sample], _thumbnails(run, layers)
    if run.flat:
        return thumbnails + note("No registration: a 2D run treats each section separately.")
    if quality is None:
        return thumbnails + note(f"No registration: {run.missing[f'quality {sample}']}")
    pairs = "".join(_pair(run, sample, pair) for pair in quality["pairs"]) or _without_pairs(quality)
    caption = "All sections in the frame of the middle one, with its outline"
    together = _picture_or_note(run.layout.stack_view(sample), STACK_PX, caption)
    left_out = ", ".join(map(str, quality["left_out"]))
    notes = note(f"Left out of the stack: {left_out}.") if left_out else ""
    return (f'{thumbnails}{notes}<h4>Registration, pair by pair</h4>{pairs}'
            f'<h4>The whole stack</h4>{together}')


def _without_pairs(quality: dict) -> str:
    """One section, or a processed archive: its weights place each section on the middle one."""
    if len(quality["layers"]) == 1:
        return note("One section: nothing to register.")
    lines = []
    for layer, one in quality["to_middle"].items():
        refused = '<span class="bad">REFUSED: only shifted onto the centroid of the middle section</span>'
        verdict = '<span class="good">accepted</span>' if one["accepted"] else refused
        text = f'{one["agreeing"]:.0%} of its spots agree with their heaviest partners; {verdict}'
        if layer == str(quality["middle"]):
            text = "the middle one"
        lines.append(f"<li><b>Section {escape(layer)}</b>: {text}</li>")
    return f'<ul class="plain">{"".join(lines)}</ul>'


def _thumbnails(run: Run, layers: list[Shown]) -> str:
    parts = []
    for one in layers:
        refused = '<span class="bad">registration refused: do not trust this section</span>'
        warning = refused if run.refused(one.of) else ""
        problem = note(one.of.problem) if one.of.problem else ""
        caption = f"<figcaption><b>{one.name}</b> {one.dot} {warning}</figcaption>"
        parts.append(f"<figure>{tissue(one)}{caption}{problem}</figure>")
    return f'<div class="thumbs">{"".join(parts)}</div>'


def _pair(run: Run, sample: str, pair: dict) -> str:
    moving, fixed = pair["moving"], pair["fixed"]
    refused = f'<span class="bad">REFUSED: {escape("; ".join(pair["reasons"]))}</span>'
    verdict = '<span class="good">accepted</span>' if pair["accepted"] else refused
    before, after = pair["before"], pair["after"]
    measured = "inliers" in pair  # not of a transform given by hand that folds the section
    numbers = {"method": f'{pair["method"]}, refinement {pair["refinement"]}'}
    if measured:
        numbers["matches that agree"] = f'{pair["inliers"]} of {pair["matches"]}'
    numbers |= {
        "tissue overlap (Dice)": f'{before["tissue_dice"]:.2f} → {after["tissue_dice"]:.2f}',
        "image correlation": f'{before["image_correlation"]:.2f} → {after["image_correlation"]:.2f}',
    }
    if measured:
        numbers |= {
            "rotation": f'{pair["rotation_deg"]:.1f}°',
            "scale x, y": f'{pair["scale_um_x"]:.3f}, {pair["scale_um_y"]:.3f}',
            "shear": f'{pair["shear"]:.3f}',
        }
    facts = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in numbers.items())
    warnings = "".join(note(f"Warning: {text}") for text in pair["warnings"])
    return (f'<div class="pair"><p><b>Section {moving} on section {fixed}</b>: {verdict}</p>{warnings}<dl>{facts}</dl>'
            f'{_panels(run, sample, moving, fixed)}</div>')


def _panels(run: Run, sample: str, moving: int, fixed: int) -> str:
    """The overlay's three square panels (before, after, checkerboard): side by side, or in a column on a phone."""
    try:
        overlay = read_picture(run.layout.overlay(sample, moving, fixed), "registration/Step2_registration_ANTs.py")
    except LayerError as error:
        return note(f"No overlay: {error}")
    side, figures = overlay.shape[1] // 3, ""
    captions = (f"before: section {moving} red, section {fixed} cyan; lines join matches",
                "after: grey where both agree",
                "after: checkerboard of both")
    for k, caption in enumerate(captions):
        panel = image(overlay[-side:, k * side:(k + 1) * side], PANEL_PX, caption)
        figures += f"<figure>{panel}<figcaption>{caption}</figcaption></figure>"
    return f'<div class="panels">{figures}</div>'


def _picture_or_note(path: Path, side_px: int, caption: str) -> str:
    try:
        picture = read_picture(path, MADE_BY)
    except LayerError as error:
        return note(f"No picture: {error}")
    return f'<figure class="whole">{image(picture, side_px, caption)}<figcaption>{caption}</figcaption></figure>'
