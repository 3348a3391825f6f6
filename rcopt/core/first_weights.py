"""What is told of the weights that stages started from."""

from collections.abc import Mapping

#: What the names of a stage's details about them begin with.
DETAIL = "weights_"


def weights_details(details: Mapping[str, str]) -> dict[str, str]:
    """Return what a stage's details say of its first weights."""
    return {
        key.removeprefix(DETAIL): value for key, value in details.items() if key.startswith(DETAIL)
    }


def seen_note(started: Mapping[str, Mapping[str, str]], data: str) -> str:
    """Return what is known of whether first weights were made from a study's own images.

    Args:
        started: Of each stage, by name, what is known of its first weights; empty if it has none.
        data: What the study's data set is called.

    Returns:
        A paragraph; empty if no stage started from weights.
    """
    seen = sorted({d["images"] for d in started.values() if "images" in d})
    named = [name for name, told in started.items() if told]
    if not named:
        return ""
    text = (
        f"{', '.join(named)} start from weights that were trained elsewhere, on "
        f"{' and on '.join(seen) or 'images not known to rcopt'}."
    )
    if "imagenette" in data.lower() and any("ImageNet" in images for images in seen):
        return (
            f"{text} Imagenette is a part of ImageNet, and many of its held-out images are among "
            "ImageNet's training images: these weights have seen them with their labels, so the "
            "accuracies are flattered and do not carry over to new images."
        )
    return (
        f"{text} If images that you hold out are among those, or were gathered from the same "
        "sources, accuracies are flattered; rcopt cannot look into what the weights were trained "
        "on."
    )
