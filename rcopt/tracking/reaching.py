"""Asking a tracking server once whether it is there and takes us."""

import logging
import urllib.parse
import warnings
from typing import Any

from rcopt.errors import InputError
from rcopt.tracking.faults import first_line

_LOOPBACK = ("127.0.0.1", "localhost", "::1")

#: What the text of a failed call holds, what that means, and what to do about it.
_UNREACHED = (
    (
        ("certificate", "CERTIFICATE"),
        "has a certificate that is not trusted here",
        "name the authority's certificates in MLFLOW_TRACKING_SERVER_CERT_PATH",
    ),
    (
        ("WRONG_VERSION_NUMBER", "record layer failure"),
        "speaks no HTTPS",
        "write http:// in tracking.uri",
    ),
    (("SSL", "TLS"), "cannot be reached (SSL)", "check tracking.uri and the server's encryption"),
    (
        ("refused", "resolve", "timed out"),
        "cannot be reached ({found})",
        "start it{ui} or mend tracking.uri",
    ),
)


def check_server(uri: str) -> None:
    """Ask a server once, without the patience that work deserves.

    Raises:
        InputError: If it does not answer as MLflow does, with what to do about it.
    """
    try:
        host = urllib.parse.urlsplit(uri).hostname
        urllib.parse.urlsplit(uri).port  # noqa: B018 - reading it checks it
    except ValueError as error:
        raise InputError(f"tracking.uri: {uri!r} is not an address ({error})") from error
    problem = _problem(uri, " (rcopt ui)" if host in _LOOPBACK else "")
    if problem:
        raise InputError(f"tracking server {uri} {problem}")


def _problem(uri: str, ui: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.exceptions import MlflowException
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    try:
        answer: Any = http_request(  # type: ignore[no-untyped-call]
            get_default_host_creds(uri),  # type: ignore[no-untyped-call]
            "/api/2.0/mlflow/experiments/search",
            "POST",
            max_retries=0,
            timeout=20,
            raise_on_status=False,
            json={"max_results": 1},
        )
    except MlflowException as error:
        return _unreached(error, ui)
    except OSError as error:
        # The file that MLFLOW_TRACKING_SERVER_CERT_PATH names, where it is not there.
        return f"cannot be asked ({first_line(error)}); mend the environment's MLFLOW settings"
    return _refused(int(answer.status_code), str(answer.text))


def _unreached(error: Exception, ui: str) -> str:
    for words, problem, mend in _UNREACHED:
        found = next((word for word in words if word in str(error)), None)
        if found is not None:
            return f"{problem.format(found=found)}; {mend.format(ui=ui)}"
    return f"cannot be reached ({first_line(error)}); start it{ui} or mend tracking.uri"


def _refused(status: int, text: str) -> str:
    """Return what is wrong with an answer, and what to do; empty for a good one."""
    if status == 401:
        return (
            "asks for a login (HTTP 401); set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to one that it knows"
        )
    if status == 403 and "host" in text.lower():
        return (
            "does not answer to this name (HTTP 403); use a name that its --allowed-hosts holds, "
            "or add this one there"
        )
    if status == 403:
        return (
            "refuses this user (HTTP 403); ask its owner for the permission, or set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, "
            "to another user's"
        )
    if status in (408, 429) or status >= 500:
        return f"is not ready (HTTP {status}); repeat in a moment, or look at the server's log"
    if status != 200:
        return f"does not answer as MLflow does (HTTP {status}); mend tracking.uri"
    if not text.lstrip().startswith("{"):
        return "does not answer as MLflow does (a page, no data); mend tracking.uri"
    return ""
