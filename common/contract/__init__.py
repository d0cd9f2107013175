"""The data contract: is every file of a dataset root what the README says? One kind of file a module.

Form, order and values are checked, and that files agree with each other. A file is held against those it was made from as far
as these are there and faultless; large ones are mapped or read in blocks.
"""
