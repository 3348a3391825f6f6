import torch

from rcopt.models.devices import cpu_threads


def test_threads_are_fixed_inside_and_put_back_after() -> None:
    before = torch.get_num_threads()
    with cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with cpu_threads(None):
        assert torch.get_num_threads() == before
