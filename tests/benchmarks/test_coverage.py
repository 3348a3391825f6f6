import numpy as np

from benchmarks.coverage import coverage, drawn, pool


def test_the_world_is_all_held_out_images_and_draws_are_the_same_for_all_stages() -> None:
    world = pool()
    assert {len(trained.predictions["test"]) for trained in world} == {3_925}
    stages = drawn(world, {"validation": 7, "test": 5}, np.random.default_rng(0))
    labels = [trained.predictions["validation"].labels for trained in stages]
    assert all((own == labels[0]).all() for own in labels)
    assert {len(trained.predictions["test"]) for trained in stages} == {5}


def test_every_printed_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """40 draws of 200 images; three standard errors, each told with its share, are allowed."""
    found = coverage(pool(), 200, 40)
    assert len(found) == 7
    for what, one in found.items():
        assert one.share > 0.95 - 3 * max(one.error, 0.01), what
