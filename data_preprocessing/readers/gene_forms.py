"""The forms that names of genes have: Ensembl ids (and those of FlyBase and WormBase), and a name beside its id."""
import re

ENSEMBL = re.compile(r"(?P<id>ENS[A-Z]{0,6}G\d{6,}|FBgn\d{7}|WBGene\d{8})(?P<version>\.\d+)?(?P<copy>_PAR_Y)?")
_ID = r"(?P<id>ENS[A-Z]*G\d{11})(?:\.\d+)?(?:_PAR_Y)?"
NAME_AND_ID = re.compile(rf"(?P<name>\S+?)[ _|;]{_ID}")
ID_AND_NAME = re.compile(rf"{_ID}[ _|;](?P<name>\S+)")
