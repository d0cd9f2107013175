"""Raw data of ST-Net (legacy ST; He et al., Nat Biomed Eng 2020): three sections of each of 23 breast tumours.

    <patient>_<section>.tsv[.gz], or …_stdata.tsv[.gz]                     rows `XxY` (array position), columns genes
    <patient>_<section>.spots.txt, or …_Coords.tsv                         x, y, pixel_x, pixel_y, tab-separated
    or spots_<patient>_<section>.csv[.gz]                                  name `XxY`, X, Y (px), comma-separated
    <patient>_<section>.jpg, or HE_<patient>_<section>.jpg                 H&E, a picture or a slide
A sample is a patient; its layers 1, 2, 3 are its sections sorted by name (C1, C2, D1), or as in
`samples.<patient>.raw`. A section may be only an image; so may a layer that only `samples.<patient>.images` names. A
section's name may hold a further _ or . if two of its files have it. Upper and lower case are alike. The table of a
section lacks genes that no spot of it has. A `_Coords.tsv` without pixels (array positions and tumour labels) is read
only where there is no other spot file, and refused. The columns of the tables: legacy.py.
"""
from functools import partial

from data_preprocessing.readers import legacy
from data_preprocessing.readers.legacy_forms import STNET

FORMS = (STNET.example,)
list_layers = partial(legacy.list_layers, STNET)
raw_files = partial(legacy.raw_files, STNET)
read_positions = partial(legacy.read_positions, STNET)
read_layer = partial(legacy.read_layer, STNET)
why_not = partial(legacy.why_not, STNET)
platform_sources = legacy.platform_sources
