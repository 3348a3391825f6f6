"""How far a study is, also while it runs elsewhere."""

from dataclasses import dataclass

from rcopt import search
from rcopt.claims import Holder, open_claims
from rcopt.config import Study
from rcopt.errors import InputError
from rcopt.results import Results, load_results


@dataclass(frozen=True)
class Status:
    """How far a study is.

    Attributes:
        sampled: Sampled trials that are stored now.
        exact: Points of exact fronts among the trials.
        total: Sampled trials the study is to have.
        training: Stages being trained now in this project: who holds them, since when.
        results: What is known of the front; None before the first cascade.
    """

    sampled: int
    exact: int
    total: int
    training: tuple[Holder, ...]
    results: Results | None

    @property
    def sampled_share(self) -> float | None:
        """Hypervolume of the sampled trials as a share of the front's, for the same stages."""
        if self.results is None or not self.results.hypervolume:
            return None
        return self.results.sampled_hypervolume / self.results.hypervolume


def status(study: Study) -> Status:
    """Say how far a study is, also while it runs elsewhere; nothing is loaded but numbers.

    Raises:
        InputError: If the study was never started.
    """
    if not (study.folder / "study.toml").is_file():
        raise InputError(f"{study.name}: not started yet; 'rcopt run {study.file}' starts it")
    search_settings = study.settings.search
    stored = search.Trials(study.storage, study.name, study.folder, None)
    sources = [search.trial_source(trial) for trial in stored.all()]
    claims = open_claims(study.storage, study.project / "mlruns" / "claims")
    path = study.folder / "results.json"
    return Status(
        sampled=sources.count("sampled"),
        exact=sources.count("exact"),
        total=search_settings.trials,
        training=tuple(claims.held()),
        results=load_results(path) if path.is_file() else None,
    )
