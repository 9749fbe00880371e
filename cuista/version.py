"""The version, in a module of its own so that nothing has to import the package's top for it."""

__version__ = "0.2.0.dev0"
