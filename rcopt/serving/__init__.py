"""A cascade that runs: executor, bundle, timing, registry."""
