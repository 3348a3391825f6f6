"""MLflow as rcopt's store: studies, stages, cascades, fronts.

Importing this is cheap; MLflow itself is loaded when a store is opened.
"""

from rcopt.tracking.cascade_log import CascadeLog
from rcopt.tracking.cascades import CascadeStore
from rcopt.tracking.connection import EndStatus
from rcopt.tracking.models import ModelVersion
from rcopt.tracking.opening import relocate, resolve_uri
from rcopt.tracking.records import DataInput, StudyRun
from rcopt.tracking.stages import PREDICTIONS, WEIGHTS, StageStore
from rcopt.tracking.tracker import Tracker, open_tracker
from rcopt.tracking.view import picture_link, run_link, view_link

__all__ = [
    "PREDICTIONS",
    "WEIGHTS",
    "CascadeLog",
    "CascadeStore",
    "DataInput",
    "EndStatus",
    "ModelVersion",
    "StageStore",
    "StudyRun",
    "Tracker",
    "open_tracker",
    "picture_link",
    "relocate",
    "resolve_uri",
    "run_link",
    "view_link",
]
