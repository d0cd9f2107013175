"""Raw data of the first ST study (Ståhl et al., Science 2016): mouse olfactory bulb and breast cancer.

    Rep1_MOB_count_matrix-1.tsv, Layer1_BC_count_matrix-1.tsv     rows `XxY` (aligned array position), columns genes
    Rep1_MOB_transformation.txt, Layer1_BC_transformation.txt     nine numbers: array -> px of the image
    HE_Rep1.jpg or HE_Rep5_MOB.jpg, HE_layer1_BC.jpg              H&E
A sample is the word after the number (MOB, BC), a layer the number, or as in `samples.<name>.raw`. The replicates of
MOB come from several animals: name those of one animal there. The site spells some names `…_transformaton.txt`.
"""
from functools import partial

from data_preprocessing.readers import legacy
from data_preprocessing.readers.legacy_forms import STAHL

FORMS = (STAHL.example,)
list_layers = partial(legacy.list_layers, STAHL)
doubts = partial(legacy.doubts, STAHL)
raw_files = partial(legacy.raw_files, STAHL)
read_positions = partial(legacy.read_positions, STAHL)
read_layer = partial(legacy.read_layer, STAHL)
why_not = partial(legacy.why_not, STAHL)
platform_sources = legacy.platform_sources
