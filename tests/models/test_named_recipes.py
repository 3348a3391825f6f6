from typing import get_args

import pytest

from rcopt.models.named_recipes import RECIPES, RecipeName, start
from rcopt.models.recipe import Recipe


@pytest.mark.parametrize("name", get_args(RecipeName))
def test_every_named_recipe_can_be_trained_by_and_says_what_it_is_for(name: RecipeName) -> None:
    recipe = Recipe(**RECIPES[name].settings)
    assert (recipe == Recipe()) is (name == "plain")
    assert len(RECIPES[name].what_for) > 20


def test_weights_to_start_from_mean_fine_tuning_unless_another_recipe_is_named() -> None:
    assert start(None, "none") == {}
    assert start(None, "pretrained") == RECIPES["finetune"].settings
    assert start("fast", "weights.safetensors") == RECIPES["fast"].settings
