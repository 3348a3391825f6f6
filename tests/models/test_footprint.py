import torch
from torch import nn

from rcopt.models.footprint import training_bytes, training_seconds
from rcopt.models.recipe import Recipe


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.Sigmoid(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )


def test_memory_is_that_of_weights_and_of_what_the_gradients_need() -> None:
    model = network().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = 4 * (3 * 4 * 9 + 8 + 10)
    # The image, and the outputs of convolution and sigmoid; a little of what is pooled.
    image, outputs = 4 * 3 * 16 * 16, 2 * 4 * 4 * 16 * 16
    for batch in (2, 64):
        found = training_bytes(model, 16, Recipe(batch_size=batch))
        least = 3 * weights + batch * (image + outputs)
        assert least <= found <= 1.03 * least + 200
    averaged = training_bytes(model, 16, Recipe(batch_size=2, optimizer="adamw", ema=0.9))
    assert averaged - training_bytes(model, 16, Recipe(batch_size=2)) == 2 * weights
    assert not model.training
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_time_grows_with_epochs_images_and_side() -> None:
    def seconds(images: int, **changes: object) -> float:
        recipe = Recipe(**{"batch_size": 8, **changes})  # type: ignore[arg-type]
        return training_seconds(network(), 2, images, 16, recipe, "cpu")

    assert seconds(1_000_000, epochs=100) > seconds(1_000, epochs=1) > 0
