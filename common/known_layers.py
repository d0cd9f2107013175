"""The known sections of a sample: those of the config, or the default."""
from common.config import Config
from common.layout import Layout


def known_layers(config: Config, layout: Layout, sample: str) -> list[int]:
    """Sections whose expression the model may see, by number.

    Those of the config; else the first with counts and image; else the first with counts.
    """
    stated = config.listed_samples[sample].known_layers
    if stated is not None:
        return stated
    counted = [layer for layer in config.layers_of(sample) if layout.counts(sample, layer).is_file()]
    pictured = [layer for layer in counted if layout.image(sample, layer) is not None]
    return (pictured or counted)[:1]
