from rcopt.core.first_weights import seen_note, weights_details


def test_whether_weights_have_seen_the_images_is_told() -> None:
    assert seen_note({"resnet18@32": {}}, "imagenette") == ""
    started = {"a@32": {"source": "x", "images": "ImageNet-1k"}, "b@32": {}}
    note = seen_note(started, "imagenette")
    assert note.startswith("a@32 start from weights that were trained elsewhere, on ImageNet-1k.")
    assert "these weights have seen them" in note
    elsewhere = seen_note(started, "my pictures")
    assert "rcopt cannot look into" in elsewhere
    assert "seen them" not in elsewhere


def test_details_of_first_weights_are_found_among_all() -> None:
    assert weights_details({"weights": "none", "weights_source": "x", "seed": "0"}) == {
        "source": "x"
    }
