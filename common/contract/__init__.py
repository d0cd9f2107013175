"""The data contract: checks of every file of a dataset root against the README. One kind of file a module.

Form, order and values are checked, and the agreement of files. A file is compared with the files that it was made from,
where these exist and have no fault; large ones are mapped or read in blocks.

    inputs          images, locations, counts, tissue masks (steps 0_1 to 0_3)
    patches         patch tables, patch files, pairs (steps 1 to 3)
    features        image features and their recipe (step 4)
    expression      gene lists, counts, normalised expression (steps 5_1 to 5_3)
    graphs          graphs and records (steps 6 and 7, 3D steps 4 and 5)
    registration    contours, transforms, registered spots (registration/)
    pairs           overlap, similarity and their sum (3D steps 1 to 3)
    walk            the walk over all files        root, fault    what the checks share
"""
