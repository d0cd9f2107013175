"""The z of a section: from `samples.<name>.z_um` of the config, else from the section's number."""
from common.config import Config
from common.errors import DataError


def z_um_of(config: Config, sample: str, layer: int) -> float:
    """um: the config's z_um of this section; without z_um, (number - the sample's lowest) x section_thickness_um.

    The lowest number is that of all sections of the sample, skipped ones included. Raises DataError if z_um lacks the
    section.
    """
    chosen = config.listed_samples[sample]
    if not chosen.z_um:
        return (layer - min(chosen.listed_layers)) * config.section_thickness_um
    if layer not in chosen.z_um:
        fix = f"add '{layer}: …', or remove z_um"
        raise DataError(f"samples.{sample}.z_um", f"no section {layer}", "the z of every section, um", fix)
    return chosen.z_um[layer]
