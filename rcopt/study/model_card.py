"""What a registered version tells about itself, in Markdown."""

from importlib.metadata import version

from rcopt.core.cost import COSTS
from rcopt.core.statistics.intervals import Interval
from rcopt.core.wording import percent, times, times_interval
from rcopt.study.choice import Choice


def model_card(choice: Choice, *, run: str, picture: str) -> str:
    """Return what a chosen configuration does, what is guaranteed, and where it comes from.

    Args:
        choice: The configuration.
        run: Address of its MLflow run.
        picture: Address of a picture of its study's front.
    """
    point, test = choice.point, choice.test
    cost = COSTS["flops"]
    tested = "" if point.test is None else cost.text(point.test.mean_flops)
    rows = [
        f"| test, {test.n_images:,} images | {_interval(test.accuracy)} | {tested} |",
        f"| validation, where it was chosen, so too favourable | {_interval(choice.validation)} "
        f"| {cost.text(point.validation.mean_flops)} |",
    ]
    certificate = "None was asked for; `rcopt select --certify 0.9 --max-drop D` gives one."
    if choice.certificate is not None:
        text = str(choice.certificate)
        certificate = f"{text[0].upper()}{text[1:]}"
    parts = [
        f"Chosen from study `{choice.study}`. {choice.verdict()}",
        "\n".join(["| on | accuracy | cost an image |", "|---|---|---|", *rows]),
        f"**Saving on test** against {choice.reference.stage.name}: "
        f"{times(test.saving.estimate)} ({times_interval(test.saving)}).",
        f"**Certificate.** {certificate}",
        *([f"**By class.** {choice.harm()}"] if choice.harm() else []),
        f"**Provenance.** Study `{choice.study}`, [its run]({run}), rcopt {version('rcopt')}.",
        f"![front]({picture})",
    ]
    return "\n\n".join(parts)


def card_tags(choice: Choice) -> dict[str, str]:
    """Return the numbers of a version's card as tags, each named after its split."""
    test = choice.test
    return {
        "rcopt.study": choice.study,
        "rcopt.test_accuracy": f"{test.accuracy.estimate:.4f}",
        "rcopt.test_accuracy_interval": f"{test.accuracy.low:.4f} to {test.accuracy.high:.4f}",
        "rcopt.test_saving": f"{test.saving.estimate:.3f}",
        "rcopt.test_saving_interval": f"{test.saving.low:.3f} to {test.saving.high:.3f}",
        "rcopt.certificate": "none" if choice.certificate is None else str(choice.certificate),
    }


def _interval(accuracy: Interval) -> str:
    ends = f"{percent(accuracy.low)} to {percent(accuracy.high)}"
    return f"{percent(accuracy.estimate)} ({ends}, {percent(accuracy.level, 0)})"
