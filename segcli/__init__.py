"""segcli: semantic segmentation of street scenes from one command line."""

__version__ = "0.1.0"
