from dataclasses import replace

import numpy as np

from rcopt.core.study_front import study_front
from rcopt.report.analysis.select_command import select_command
from tests.support.report_example import example_stages


def test_a_budget_is_as_short_as_it_can_be() -> None:
    stage = example_stages(1)[0]
    point = study_front([stage]).points[0]
    cheap = replace(point, validation=replace(point.validation, mean_flops=1.2341e8))
    dear = replace(point, validation=replace(point.validation, mean_flops=1.2349e8))
    assert select_command("s", [cheap, dear], 0) == "rcopt select s --max-flops 1.2341e8"
    assert select_command("s", [cheap, dear], 1) == "rcopt select s --max-flops 1.3e8"
    nearest = replace(
        point, validation=replace(point.validation, mean_flops=np.nextafter(1.2341e8, 2e8))
    )
    command = select_command("s", [cheap, nearest], 0)
    assert 1.2341e8 <= float(command.split()[-1]) < nearest.validation.mean_flops
