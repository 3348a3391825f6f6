"""rcopt: hyperparameter optimization and experiment tracking for resolution cascades.

The names of the core need numpy, scipy and numba alone; everything else is loaded when it is
first asked for, so that evaluating a cascade needs neither torch nor MLflow. ``__init__.pyi``
lists the public names.
"""

from importlib.metadata import version

import lazy_loader

__version__ = version("rcopt")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
