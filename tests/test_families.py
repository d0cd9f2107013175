"""What the names of sections state: the blocks that they form, and the order in z."""
import pytest
from hypothesis import given, strategies as st

from data_preprocessing.families import bare_name, doubt_of_order, families, family_name, numbers_of

ONE_BLOCK = [
    ["V10F24-078_A1", "V10F24-078_B1"],                                  # two capture areas of one slide
    ["V10F24-078_A1", "V10F24-078_B1", "V10F24-079_A1", "V10F24-079_B1"],  # a block over two slides
    ["section1", "section2", "section3_redo", "section10"],
    ["A1", "B1", "C1", "D1"],
    ["Schnitt 1.5 µm (HE) – A", "Schnitt 2.5 µm (HE) – B"],
    ["slide1_s1", "slide1_s2", "slide2_s3", "slide2_s4"],                # numbered through
    ["Anterior", "Posterior"],
    ["151507", "151508", "151509"]]
SEVERAL = [
    [["V10F24-078_A1", "V10F24-078_B1"], ["LungOrg_1", "LungOrg_2", "LungOrg_3"]],
    [["blockA_s1", "blockA_s2"], ["blockB_s1"]],
    [["patient1_s1", "patient1_s2"], ["patient2_s1", "patient2_s2"]],
    [["A_rep01", "A_rep02"], ["E_rep11", "E_rep12"]],
    [["ctrl_1", "ctrl_2"], ["treated_1"]],
    [["A1", "A2"], ["B1", "B2"]],
    [["V1_Breast_Cancer_Block_A_Section_1", "V1_Breast_Cancer_Block_A_Section_2"],
     ["V1_Mouse_Brain_Sagittal_Anterior"]]]


@pytest.mark.parametrize("names", ONE_BLOCK)
def test_names_of_one_block(names):
    assert families(names) == [names]


@pytest.mark.parametrize("groups", SEVERAL)
def test_names_of_several_blocks(groups):
    assert families([name for group in groups for name in group]) == groups


@given(st.lists(st.text("ab1AB23_- .", min_size=1, max_size=12), min_size=1, max_size=8, unique=True))
def test_every_name_is_in_one_family_and_the_order_stays(names):
    groups = families(names)
    flat = [name for group in groups for name in group]
    assert sorted(flat) == sorted(names)
    for group in groups:
        places = [names.index(name) for name in group]
        assert places == sorted(places)
    family_name(names), numbers_of(names), doubt_of_order(names)


@pytest.mark.parametrize("entry, name", [
    ("GSM6001_blockA_s1", "blockA_s1"), ("A_rep01.h5ad", "A_rep01"), ("s1/outs", "s1"), ("x.ome.tif", "x"),
    ("block.h5ad#C2", "block#C2"), ("Luminal_B/BC1_C1.tsv.gz", "BC1_C1"), ("section 1.5", "section 1.5")])
def test_the_bare_name_of_an_entry(entry, name):
    assert bare_name(entry) == name


@pytest.mark.parametrize("names, expected", [
    (["LungOrg_1", "LungOrg_2"], "LungOrg"), (["A_rep01", "A_rep02"], "A_rep"), (["s1", "s12"], "s"),
    (["V10F24-078_A1", "V10F24-078_B1"], "V10F24-078"), (["1", "2"], ""), (["a/b_1", "a/b_2"], "a_b")])
def test_the_name_of_a_family(names, expected):
    assert family_name(names) == expected


@pytest.mark.parametrize("names, numbers, doubt", [
    (["section2", "section10"], [2, 10], ""), (["P2_rep1", "P2_rep3"], [1, 3], ""),
    (["x_A1", "x_B1"], None, "capture areas"), (["top", "bottom"], None, "no number"),
    (["11_s2", "12_s1"], [2, 1], "2, 1")])
def test_the_order_that_names_state(names, numbers, doubt):
    assert numbers_of(names) == numbers
    assert doubt in doubt_of_order(names) and bool(doubt) == bool(doubt_of_order(names))
