"""The version of cuista, in a module of its own so that no module has to import the whole package for it."""

__version__ = "0.2.0.dev0"
