"""Step 0_2's check of the spot coordinates: swapped, mirrored, turned and wrongly scaled ones on hand-made tissue."""
import cv2
import numpy as np
import pytest

from data_preprocessing.orientation import AS_GIVEN, ORIENTATIONS, check, fits, oriented, share_inside

SIZE_PX = (6000, 5000)  # level 0; the mask is 10 times smaller
WRONG = sorted(set(ORIENTATIONS) - {AS_GIVEN})


def tissue(name: str) -> np.ndarray:
    mask = np.zeros((500, 600), np.uint8)
    if name == "lopsided":
        cv2.fillPoly(mask, [np.array([[60, 50], [520, 90], [300, 240], [200, 460], [90, 300]])], 1)
    elif name == "pieces":
        for x, y, radius in ((80, 90, 60), (330, 120, 70), (480, 330, 90)):
            cv2.circle(mask, (x, y), radius, 1, -1)
    else:
        cv2.circle(mask, (300, 250), 200, 1, -1)  # round, in the middle
    return mask > 0


def spots(mask: np.ndarray, pitch_px: int = 200) -> np.ndarray:
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(0, 6000, pitch_px), np.arange(0, 5000, pitch_px)))
    return np.stack([x, y], axis=1)[mask[y // 10, x // 10]].astype(float)


def disturbed(xy: np.ndarray, fix: str) -> np.ndarray:
    """Coordinates that the fix `fix` puts right."""
    swap, *mirrored = ORIENTATIONS[fix]
    out = np.where(mirrored, np.array(SIZE_PX) - 1 - xy, xy)
    return out[:, ::-1] if swap else out


@pytest.mark.parametrize("fix", list(ORIENTATIONS))
def test_a_fix_undoes_its_error(fix):
    xy = np.random.default_rng(0).uniform(0, 5000, (20, 2))
    np.testing.assert_allclose(oriented(disturbed(xy, fix), SIZE_PX, fix), xy)


def test_the_eight_fixes_are_eight():
    images = {oriented(np.array([[10.0, 700.0]]), SIZE_PX, name).tobytes() for name in ORIENTATIONS}
    assert len(images) == len(ORIENTATIONS) == 8


@pytest.mark.parametrize("shape", ["lopsided", "pieces", "round"])
def test_right_coordinates_raise_no_alarm(shape):
    verdict = check(spots(tissue(shape)), tissue(shape), SIZE_PX)
    assert (verdict.orientation, verdict.wrong, verdict.found) == (AS_GIVEN, False, "") and verdict.on_tissue > 0.98


@pytest.mark.parametrize("shape", ["lopsided", "pieces"])
@pytest.mark.parametrize("fix", WRONG)
def test_each_wrong_orientation_is_refused_and_the_right_one_named(fix, shape):
    mask = tissue(shape)
    verdict = check(disturbed(spots(mask), fix), mask, SIZE_PX)
    assert verdict.wrong and verdict.orientation == verdict.fix == fix


def test_round_tissue_cannot_tell_a_mirror_image():
    mask = tissue("round")
    verdict = check(disturbed(spots(mask), "mirror pixel_x and pixel_y"), mask, SIZE_PX)
    assert not verdict.wrong and verdict.orientation == AS_GIVEN


def test_few_spots_are_warned_about_not_refused():
    mask = tissue("lopsided")
    many, few = (check(disturbed(spots(mask, pitch_px), "mirror pixel_y"), mask, SIZE_PX) for pitch_px in (200, 700))
    assert many.wrong and not few.wrong and few.orientation == "mirror pixel_y" and few.found


@pytest.mark.parametrize("factor, full_resolution, wrong", [(8.0, True, True), (0.1, False, True)])
def test_a_wrong_scale_is_named_with_both_sizes(factor, full_resolution, wrong):
    mask = tissue("round")
    xy = spots(mask) * factor
    verdict = check(xy, mask, SIZE_PX)
    assert verdict.wrong == wrong and "6,000 x 5,000" in verdict.found and "down-scaled" in verdict.found
    assert all(f"{extent:,.0f}" in verdict.found for extent in xy.max(axis=0))
    assert ("full-resolution" in verdict.found) == full_resolution


def test_spots_all_over_the_slide_are_a_warning():
    mask = tissue("round")
    verdict = check(spots(np.ones_like(mask)), mask, SIZE_PX)
    assert not verdict.wrong and f"{verdict.on_tissue:.0%} of the spots" in verdict.found


def test_measures_by_hand():
    mask = np.zeros((4, 6), bool)
    mask[:2, :3] = True
    xy = np.array([[0.0, 0.0], [1.0, 0.0], [4.0, 3.0], [9.0, 0.0]])
    assert fits(xy, mask, (6, 4))[0].on_tissue == 0.5
    assert share_inside(xy, (6, 4)) == 0.75
    full = fits(np.array([[x, y] for y in range(2) for x in range(3)], float), mask, (6, 4))[0]
    assert full.on_tissue == 1 and full.dice == pytest.approx(2 * 6 / (6 + 11))  # 11: the spots and a rim of 1 px
