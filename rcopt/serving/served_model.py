"""The code that MLflow runs to serve a packaged cascade (models from code, nothing pickled).

MLflow copies this file into the model; everything it does is in rcopt itself, which must be
installed where the model is served.
"""

import threading
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from rcopt.serving.bundle import open_cascade
from rcopt.serving.pictures import answer_rows
from rcopt.serving.watching import Watched


class ServedCascade(PythonModel):
    """A cascade that answers rows with a column ``image``: a picture file in base64."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the cascade, each of its files verified."""
        self._loaded = open_cascade(Path(context.artifacts["cascade"]))
        self._watched = Watched(self._loaded)
        # The server calls from many threads; each would bring torch's own threads along.
        self._one_at_a_time = threading.Lock()

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Answer the rows of a request.

        Returns:
            Per row ``class``, ``probability``, ``stage``, ``stage_name``, ``flops``, ``error``;
            a row that is no picture has only its ``error``, and the others their answers.
            ``alarm`` says so once the images are no longer like those of calibration.

        Raises:
            MlflowException: If no row could be answered; HTTP clients get status 400 and why.
        """
        with self._one_at_a_time:
            answers = self._watched.seen(answer_rows(self._loaded, model_input["image"].tolist()))
        if answers and all(answer.error for answer in answers):
            reasons = "; ".join(str(answer.error) for answer in answers[:5])
            raise MlflowException.invalid_parameter_value(reasons)
        rows = [answer.to_dict() for answer in answers]
        alarm = self._watched.alarm
        return [{key: row[key] for key in row if key != "file"} | {"alarm": alarm} for row in rows]


set_model(ServedCascade())
