"""MLflow as rcopt's store: studies, stages, cascades, fronts.

Importing this is cheap; MLflow itself is loaded when a store is opened.
"""

from rcopt.tracking.cascade_log import CascadeLog
from rcopt.tracking.connection import relocate, resolve_uri
from rcopt.tracking.owner import owner_alive, this_owner
from rcopt.tracking.stages import PREDICTIONS, WEIGHTS, DataInput, StageStore, StudyRun
from rcopt.tracking.tracker import Tracker, open_tracker
from rcopt.tracking.view import view_link

__all__ = [
    "PREDICTIONS",
    "WEIGHTS",
    "CascadeLog",
    "DataInput",
    "StageStore",
    "StudyRun",
    "Tracker",
    "open_tracker",
    "owner_alive",
    "relocate",
    "resolve_uri",
    "this_owner",
    "view_link",
]
