"""The tasks for which networks are trained. Each has a file with its model, its recipes and its source of examples."""
