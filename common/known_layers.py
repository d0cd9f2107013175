"""Which layers of a sample are known, where nobody says it."""
from common.config import Config
from common.layout import Layout


def known_layers(config: Config, layout: Layout, sample: str) -> list[int]:
    """Layers whose expression may be seen: those of the config, else the first with counts and image, else the first with counts."""
    if config.samples[sample].known_layers is not None:
        return config.samples[sample].known_layers
    counted = [layer for layer in config.layers_of(sample) if layout.counts(sample, layer).is_file()]
    pictured = [layer for layer in counted if layout.image(sample, layer) is not None]
    return (pictured or counted)[:1]
