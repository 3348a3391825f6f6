"""Studies: settings, space, samplers, trials, runner, results."""
