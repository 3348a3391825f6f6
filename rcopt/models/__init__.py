"""Networks: families, MACs, recipes, training, prediction, weights."""
