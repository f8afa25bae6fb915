"""cxnet: see why a chest-radiograph classifier decides as it does."""

__version__ = "0.1.0"
