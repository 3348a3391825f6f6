"""Where a study lies in MLflow, whatever was renamed, deleted or restored there meanwhile.

MLflow's UI and its client let anyone do so between two commands. Everything here looks before
it makes anything.
"""

from typing import TYPE_CHECKING, Any

from rcopt.errors import InputError, WorkError
from rcopt.processes import this_owner
from rcopt.tracking.connection import Connection, quoted

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run


def find_experiment(store: Connection, name: str) -> "Experiment | None":
    """Return a study's experiment, None where it was never made.

    It is known by a tag, so it is also found under a new name.

    Raises:
        InputError: If it was deleted, or another study's experiment has its name.
    """
    tagged = store.experiments(f"tags.`rcopt.study` = {quoted(name)}", deleted=True)
    # Where there are several (one was restored), the one of the study's name, else the oldest.
    tagged.sort(key=lambda e: (e.name != name, e.creation_time or 0))
    for experiment in tagged:
        if experiment.lifecycle_stage == "active":
            return experiment
    named: Experiment | None = store.client.get_experiment_by_name(name)
    if named is not None and named.lifecycle_stage == "active":
        owner = named.tags.get("rcopt.study", name)
        if owner != name:
            raise InputError(
                f"study {name}: the MLflow experiment of that name is study {owner}'s, renamed; "
                f"rename it back ({_command(store, 'rename')} -x {named.experiment_id} "
                f"--new-name {owner}), or give this study another name"
            )
        return named
    if named is not None:
        tagged.append(named)
    if tagged:
        raise InputError(_deleted(store, name, tagged[0]))
    return None


def make_experiment(store: Connection, name: str) -> "Experiment":
    """Return a study's experiment, made where it never was.

    Raises:
        InputError: As `find_experiment`.
        WorkError: If it is deleted at this moment.
    """
    from mlflow.exceptions import MlflowException

    found = find_experiment(store, name)
    if found is None:
        where: dict[str, Any] = {}
        tags = {"mlflow.experimentKind": "custom_model_development", "rcopt.study": name}
        if store.artifacts is not None:
            where = {"artifact_location": (store.artifacts / name).as_uri()}
            tags["rcopt.artifacts"] = f"{store.artifacts.name}/{name}"
        try:
            store.client.create_experiment(name, tags=tags, **where)
        except MlflowException as error:
            # Another worker was faster.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = find_experiment(store, name)
    if found is None:
        raise WorkError(f"the MLflow experiment {name} comes and goes; repeat the command")
    if found.name != name:
        store.warn(
            f"study {name}: its MLflow experiment is now named {found.name!r} and is used so"
        )
    return found


def find_study_run(store: Connection, experiment_id: str, name: str) -> "Run | None":
    """Return a study's own run, the oldest where there are several; None if there is none."""
    where = f"tags.`rcopt.kind` = 'study' AND tags.`rcopt.study` = {quoted(name)}"
    return min(store.search([experiment_id], where), key=_age, default=None)


def make_study_run(store: Connection, experiment_id: str, name: str) -> "Run":
    """Return a study's own run, made where it is missing, with the study's other runs below it.

    What hangs below a run that was deleted would be shown by MLflow as the child of nothing.
    """
    found = find_study_run(store, experiment_id, name)
    if found is None:
        made = store.client.create_run(
            experiment_id,
            run_name=name,
            tags={"rcopt.kind": "study", "rcopt.study": name, "rcopt.owner": this_owner()},
        )
        # Two workers may have made one each; both then keep the same.
        found = find_study_run(store, experiment_id, name) or made
        if made.info.run_id != found.info.run_id:
            store.client.delete_run(made.info.run_id)
    run_id = found.info.run_id
    where = f"tags.`rcopt.study` = {quoted(name)} AND tags.`mlflow.parentRunId` != '{run_id}'"
    strays = list(store.search([experiment_id], where))
    for run in strays:
        store.client.set_tag(run.info.run_id, "mlflow.parentRunId", run_id)
    if strays:
        store.warn(
            f"study {name}: its own run was deleted or restored in MLflow; its {len(strays)} "
            f"stages and cascades are now below run {run_id}"
        )
    return found


def _deleted(store: Connection, name: str, experiment: "Experiment") -> str:
    number = experiment.experiment_id
    gone = f"MLFLOW_TRACKING_URI={store.uri} mlflow gc --experiment-ids {number} "
    if store.artifacts is None:
        gone = f"on the server's machine: {gone}--backend-store-uri and the server's database"
    else:
        gone += f"--backend-store-uri {store.uri}"
    return (
        f"study {name}: its MLflow experiment was deleted; restore it "
        f"({_command(store, 'restore')} -x {number}), remove it for good ({gone}), or give the "
        "study another name (--set name=NEW)"
    )


def _command(store: Connection, verb: str) -> str:
    return f"MLFLOW_TRACKING_URI={store.uri} mlflow experiments {verb}"


def _age(run: "Run") -> tuple[int, str]:
    return run.info.start_time, run.info.run_id
