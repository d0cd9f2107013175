"""Where a layer lies along z: from `samples.<name>.z_um` of the config, else from the layer's number."""
from common.config import Config
from common.errors import DataError


def z_um_of(config: Config, sample: str, layer: int) -> float:
    """um: the config's z_um of this layer; without any, (number - the sample's lowest number) x section_thickness_um.

    The lowest number is that of all layers of the sample, skipped ones included. Raises DataError if z_um lacks it.
    """
    chosen = config.samples[sample]
    if not chosen.z_um:
        return (layer - min(chosen.layers)) * config.section_thickness_um
    if layer not in chosen.z_um:
        fix = f"add '{layer}: …', or remove z_um"
        raise DataError(f"samples.{sample}.z_um", f"no layer {layer}", "the z of every layer, um", fix)
    return chosen.z_um[layer]
