"""What goes wrong with MLflow and its stores, told in one line and by kind."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rcopt.errors import InputError, RefusedError, UnreachableError

#: What errors of libraries that speak to stores are called, or say, when nobody answers.
_AWAY = (
    "EndpointConnectionError", "ConnectTimeout", "ReadTimeout", "ConnectionClosed",
    "ConnectionError", "ServiceUnavailable", "SlowDown", "InternalError",
    "ServiceRequestError",
    "Could not connect to the endpoint", "Connection refused", "timed out", "Max retries",
)  # fmt: skip

#: ENOSPC and EDQUOT.
_FULL = (28, 122)


#: What MLflow says of a run that it does not change any more.
_DELETED = "must be in the 'active' state"

#: HTTP status of a store that refuses, to what can be done about it.
_MEND = {
    401: "set the login that the server asks for",
    403: "have this user allowed to write there",
    413: "the server, or a proxy before it, takes no file of this size: raise its limit "
    "(client_max_body_size in nginx)",
    507: "free space on the server",
}


@contextmanager
def reported(what: str) -> Iterator[None]:
    """Turn what MLflow, its stores of artifacts and the file system raise into one line.

    Raises:
        InputError: If no space is left, or a package is missing.
        UnreachableError: If the server, or the database behind it, does not answer.
        RefusedError: On anything else that MLflow or its store refused.
    """
    from mlflow.exceptions import MlflowException
    from requests.exceptions import HTTPError

    try:
        yield
    except (MlflowException, OSError) as error:
        if no_space(error):
            where = getattr(error, "filename", None)
            raise InputError(
                f"{what}: no space left{(where and f' on {where}') or ''}; free some and repeat"
            ) from error
        if away(error):
            raise UnreachableError(f"{what}: MLflow: {first_line(error)}") from error
        text = first_line(error)
        if isinstance(error, HTTPError) and error.response is not None:
            status = error.response.status_code
            text = f"artifacts: HTTP {status}; {_MEND.get(status, text)}"
        elif _DELETED in text:
            text = (
                "a run was deleted in MLflow meanwhile; repeat the command, or restore the run "
                f"({text})"
            )
        raise RefusedError(f"{what}: {text}") from error
    except ImportError as error:
        raise InputError(
            f"{what}: the store of its artifacts needs a package that is not installed "
            f"({first_line(error)}); install it"
        ) from error
    except Exception as error:
        # Stores of artifacts raise the errors of their own libraries (boto3, google, azure, ...).
        if type(error).__module__.partition(".")[0] in ("builtins", "rcopt"):
            raise
        if store_away(error):
            raise UnreachableError(f"{what}: artifacts: {first_line(error)}") from error
        raise RefusedError(f"{what}: artifacts: {first_line(error)}{store_hint(error)}") from error


def no_space(error: Exception) -> bool:
    """Return whether an error says that a disk is full."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return "disk is full" in str(error) or "No space left" in str(error)


def away(error: Exception) -> bool:
    """Return whether an error says that a server, or the database behind it, does not answer.

    MLflow tells a lost connection by its words alone; of a server's answers only those count
    that mean "not now" (408, 429 and all from 500, where a lost database shows).
    """
    from mlflow.exceptions import MlflowException, RestException
    from requests.exceptions import ConnectionError, HTTPError, Timeout

    if isinstance(error, HTTPError):
        return error.response is not None and _later(error.response.status_code)
    if isinstance(error, (ConnectionError, Timeout)):
        return True
    if isinstance(error, RestException):
        return _later(int(error.get_http_status_code()))  # type: ignore[no-untyped-call]
    return isinstance(error, MlflowException) and (
        error.error_code == "TEMPORARILY_UNAVAILABLE"
        or str(error).startswith("API request to http")
    )


def store_away(error: BaseException) -> bool:
    """Return whether a store of artifacts says that it is away, by its own library's error.

    The libraries share no base class. They do carry an HTTP status where a server answered, and
    name a lost connection by their class or in their text.
    """
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None) or getattr(error, "status_code", None)
    if isinstance(response, Mapping):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if isinstance(status, int) and status:
        return _later(status)
    name, text = type(error).__name__, str(error)
    return any(word in name or word in text for word in _AWAY) or (
        error.__cause__ is not None and store_away(error.__cause__)
    )


def store_hint(error: BaseException) -> str:
    """Return what to do about an error of a store of artifacts, where its text leaves it open."""
    text = f"{type(error).__name__} {error}"
    if "Credential" in text or "credential" in text:
        return "; set the credentials that the store's library reads"
    if "NoSuchBucket" in text or "bucket does not exist" in text:
        return "; make the bucket, or name another artifact root"
    if "AccessDenied" in text or "Forbidden" in text or "403" in text:
        return "; allow this user to write there"
    return ""


def _later(status: int) -> bool:
    return status in (408, 429) or status >= 500


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
