"""Mixed batches say truthfully what is in them."""

import torch

from rcopt.models.mixing import make_mixing
from rcopt.models.recipe import Recipe

CLASSES = 4


def plain_images() -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose every pixel of channel c is 1 if c is their class, else 0."""
    labels = torch.arange(64) % CLASSES
    pixels = torch.nn.functional.one_hot(labels, CLASSES).float()[:, :, None, None]
    return pixels.expand(-1, -1, 16, 16).contiguous(), labels


def test_labels_are_the_shares_of_what_the_images_hold() -> None:
    for recipe in (Recipe(mixup=0.5), Recipe(cutmix=1), Recipe(mixup=1, cutmix=1)):
        mix = make_mixing(recipe, CLASSES)
        assert mix is not None
        torch.manual_seed(0)
        blended = 0
        for _ in range(8):
            images, labels = plain_images()
            mixed, shares = mix(images, labels)
            assert mixed.shape == images.shape
            assert torch.allclose(mixed.mean(dim=(2, 3)), shares, atol=1e-5)
            blended += int(((shares > 0.05).sum(dim=1) > 1).sum())
        assert blended > 64


def test_some_batches_stay_whole_where_the_recipe_says_so() -> None:
    mix = make_mixing(Recipe(mixup=1, mix_share=0.3), CLASSES)
    assert mix is not None
    torch.manual_seed(0)
    images, labels = plain_images()
    whole = sum(torch.equal(mix(images, labels)[0], images) for _ in range(300))
    assert 170 < whole < 250


def test_the_drawing_is_torchs_random_state_alone() -> None:
    mix = make_mixing(Recipe(mixup=1, cutmix=1), CLASSES)
    assert mix is not None
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(mix(*plain_images()))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_without_mixing_there_is_nothing_to_do() -> None:
    assert make_mixing(Recipe(mix_share=0.5), CLASSES) is None
