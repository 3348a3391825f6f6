"""What a study is in MLflow: where it is logged, and the data set its runs name."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput


@dataclass(frozen=True)
class DataInput:
    """The data set as MLflow shows it.

    Attributes:
        name: Readable name.
        digest: Of images, labels and splits; 36 characters are kept.
        source: Where it comes from.
        profile: JSON with anything worth showing, such as the sizes of the splits.
    """

    name: str
    digest: str
    source: str = ""
    profile: str = "{}"


@dataclass(frozen=True)
class StudyRun:
    """Where a study is logged.

    Attributes:
        name: The study's and the experiment's name.
        experiment_id: MLflow's id of the experiment.
        run_id: The study's own run, parent of all others.
        started: When that run began, ms since 1970.
        resolutions: All that the study may use, rising.
        data: What its runs name as their data.
    """

    name: str
    experiment_id: str
    run_id: str
    started: int
    resolutions: tuple[int, ...] = ()
    data: DataInput | None = None


def dataset_input(data: DataInput) -> "DatasetInput":
    """Return the data set as MLflow's entity, without the costly profile MLflow would make."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return DatasetInput(
        Dataset(
            name=data.name,
            digest=data.digest[:36],
            source_type="rcopt",
            source=data.source or "{}",
            profile=data.profile,
        ),
        [InputTag("mlflow.data.context", "training")],
    )
