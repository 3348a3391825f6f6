"""An open MLflow store: its client, queries, and the few writes that all runs share."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rcopt.tracking.faults import reported
from rcopt.tracking.opening import open_store, resolve_uri

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run

Warn = Callable[[str], None]
EndStatus = Literal["FINISHED", "FAILED", "KILLED"]

_PAGE = 1000


def quiet_warning(text: str) -> None:
    """Say something on the library's logger."""
    logging.getLogger("rcopt.tracking").warning("%s", text)


class Connection:
    """An open store, with explicit ids everywhere: safe in threads and processes.

    Attributes:
        uri: The resolved tracking URI.
        client: MLflow's client, with this URI.
        project: The project's folder.
        artifacts: Folder of the artifacts of a SQLite store; None behind a server.
        warn: Called with one line for what was mended or must be known.
    """

    def __init__(self, uri: str, project: Path, warn: Warn = quiet_warning) -> None:
        self.uri = resolve_uri(uri, project)
        self.project = project.resolve()
        self.warn = warn
        self.client, self.artifacts = open_store(self.uri)

    def search(
        self,
        experiments: Sequence[str],
        where: str,
        order: Sequence[str] = (),
        *,
        deleted: bool = False,
    ) -> "Iterator[Run]":
        """Yield every run of the experiments that fits a filter, page by page.

        Args:
            experiments: Their ids.
            where: In MLflow's filter language.
            order: By what, before the runs' age.
            deleted: Whether the deleted runs are asked for instead of the others.
        """
        from mlflow.entities import ViewType

        view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
        token: str | None = None
        while experiments:
            page = self.client.search_runs(
                list(experiments),
                where,
                view,
                max_results=_PAGE,
                order_by=[*order, "attributes.start_time ASC"],
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    def experiments(self, where: str = "", *, deleted: bool = False) -> "list[Experiment]":
        """Return all experiments that fit a filter.

        Args:
            where: In MLflow's filter language.
            deleted: Whether those that were deleted and can be restored are among them.
        """
        from mlflow.entities import ViewType

        view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
        found: list[Experiment] = []
        token: str | None = None
        while True:
            page = self.client.search_experiments(
                view_type=view, max_results=_PAGE, filter_string=where or None, page_token=token
            )
            found += page
            token = page.token
            if not token:
                return found

    def log(
        self,
        run_id: str,
        *,
        metrics: Mapping[str, float] | None = None,
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, str] | None = None,
        step: int = 0,
        timestamp: int | None = None,
    ) -> None:
        """Log numbers, parameters and tags of a run in one call.

        Args:
            run_id: Whose.
            metrics: Name to value.
            params: Name to value, written as text.
            tags: Name to text.
            step: Of the metrics.
            timestamp: Of the metrics, ms since 1970; now if None. A value that is logged again
                at the same step and time changes nothing.
        """
        from mlflow.entities import Metric, Param, RunTag

        when = int(time.time() * 1000) if timestamp is None else timestamp
        self.client.log_batch(
            run_id,
            metrics=[Metric(k, v, when, step) for k, v in (metrics or {}).items()],
            params=[Param(k, str(v)[:6000]) for k, v in (params or {}).items()],
            tags=[RunTag(k, v[:8000]) for k, v in (tags or {}).items()],
        )

    def end(self, run_id: str, status: EndStatus, reason: str = "") -> None:
        """Close a run, with what became of it."""
        with reported("closing an MLflow run"):
            if reason:
                self.client.set_tag(run_id, "rcopt.reason", reason[:5000])
            self.client.set_terminated(run_id, status)


def quoted(text: str) -> str:
    """Return text as a string of MLflow's filter language."""
    if "'" in text and '"' in text:
        raise ValueError(f"text must not hold both kinds of quotation marks, got {text!r}")
    return f'"{text}"' if "'" in text else f"'{text}'"
