"""What networks are trained for: a file for each task, with its model, its recipes, the source of its examples."""
