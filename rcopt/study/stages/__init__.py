"""Where the stages of a study come from, each trained once."""
