"""The version of lbctl: here, so that no module needs the whole package for it."""

__version__ = "0.2.0"
