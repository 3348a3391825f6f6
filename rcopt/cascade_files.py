"""Where models that were registered by rcopt 0.1 look for what opens them.

MLflow keeps the code of a registered model with it, and that code imports this module.
"""

from rcopt.serving.bundle import open_cascade

__all__ = ["open_cascade"]
