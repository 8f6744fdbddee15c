"""What an error of Google Cloud Storage means for a person: a sentence, a reason, and if trying again can help."""

from __future__ import annotations

import ssl

from matriarch.backup.jobspec import Reason
from matriarch.errors import MatriarchError, Refused, Unavailable

_AGAIN = {408, 429}  # and everything from 500 on
_SLOWER = {"rateLimitExceeded", "userRateLimitExceeded"}  # said with 403 as well as with 429
_ALTERED = ("crc32c", "md5")  # in the text of a 400: what arrived is not what was sent


def explain(error: BaseException, where: str) -> MatriarchError:
    """Map an exception of the client library, requests, urllib3 or the socket layer. Programming errors pass through
    as they are."""
    import requests
    from google.api_core import exceptions as api
    from google.auth import exceptions as auth

    if isinstance(error, MatriarchError):
        return error
    text = " ".join(str(error).split())[:300]
    if isinstance(error, api.GoogleAPICallError):
        return _explain_answer(int(error.code or 0), _reasons(error), text, where)
    if isinstance(error, auth.GoogleAuthError):
        return _explain_credentials(error, text, where)
    if isinstance(error, requests.exceptions.SSLError | ssl.SSLError):
        return _tls(where, text)
    if isinstance(error, requests.exceptions.RequestException):
        # What is wrong with an address is a ValueError too; an answer that is no JSON was cut short.
        if isinstance(error, ValueError) and not isinstance(error, requests.exceptions.InvalidJSONError):
            return Refused(f"The settings of {where} are not usable: {text}", reason=Reason.STORE_REFUSED)
        return unavailable(where, text)
    if isinstance(error, OSError) or type(error).__module__.startswith(("urllib3", "http.client")):
        return unavailable(where, text)
    if type(error).__name__ in ("InvalidResponse", "DataCorruption"):  # of the library's two homes for media
        return unavailable(where, text)
    raise error


def unavailable(where: str, text: str) -> Unavailable:
    return Unavailable(f"The store {where} does not answer ({text}).", reason=Reason.STORE_UNAVAILABLE)


def bucket_missing(where: str) -> Refused:
    bucket = where.removeprefix("gs://").split("/")[0]
    return Refused(f"The bucket {bucket} does not exist; create it or name another one.", reason=Reason.BUCKET_MISSING)


def _reasons(error: BaseException) -> set[str]:
    found = getattr(error, "errors", None) or ()
    return {str(e.get("reason", "")) for e in found if isinstance(e, dict)}


def _explain_answer(status: int, reasons: set[str], text: str, where: str) -> MatriarchError:
    if status < 400:  # a success that lost what belongs to it
        return unavailable(where, text)
    if status in _AGAIN or status >= 500 or reasons & _SLOWER:
        return unavailable(where, text)
    if status == 401:
        return Refused(
            f"{where} refuses the credentials ({text}); check the service account's key.",
            reason=Reason.CREDENTIALS_REFUSED,
        )
    if status == 403 and ("retentionPolicyNotMet" in reasons or "retention" in text.lower()):
        return Refused(
            f"{where} does not let objects be replaced or deleted ({text}); markers have to be: use a bucket without "
            "a retention policy.",
            reason=Reason.STORE_REFUSED,
        )
    if status == 403:
        return Refused(
            f"The credentials may not do this in {where} ({text}); grant storage.objects.list, get, create and delete "
            "there (role Storage Object User).",
            reason=Reason.CREDENTIALS_REFUSED,
        )
    if status == 404:
        return bucket_missing(where)
    if status == 400 and any(word in text.lower() for word in _ALTERED):
        return unavailable(where, f"what arrived was altered on its way: {text}")
    return Refused(f"{where} refuses the request ({status}: {text}).", reason=Reason.STORE_REFUSED)


def _explain_credentials(error: BaseException, text: str, where: str) -> MatriarchError:
    from google.auth import exceptions as auth

    if isinstance(error, auth.DefaultCredentialsError):
        return Refused(
            f"There are no credentials for {where}; set GOOGLE_APPLICATION_CREDENTIALS to a service account's key "
            "file, or run where Google gives an identity (workload identity, instance).",
            reason=Reason.CREDENTIALS_MISSING,
        )
    if isinstance(error, auth.TransportError) or getattr(error, "retryable", False):
        return unavailable(where, text)
    if "short-lived token" in text:  # the token service's words for a time that is hours off
        return Refused(
            f"The clock of this machine differs too much from that of {where}; set it right.",
            reason=Reason.CLOCK_SKEWED,
        )
    return Refused(
        f"{where} gives no access to these credentials ({text}); check the service account and its key.",
        reason=Reason.CREDENTIALS_REFUSED,
    )


def _tls(where: str, text: str) -> MatriarchError:
    if "CERTIFICATE" not in text.upper():  # a connection that broke in its handshake
        return unavailable(where, text)
    return Refused(
        f"The certificate of {where} is not trusted ({text}); give its CA (REQUESTS_CA_BUNDLE or ca.crt).",
        reason=Reason.STORE_REFUSED,
    )
