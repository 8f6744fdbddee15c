"""What an S3 store's error means for a person: one sentence, a reason, and whether trying again can help."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from matriarch.backup.jobspec import Reason
from matriarch.errors import MatriarchError, Refused, Unavailable

_AGAIN = {
    "SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "RequestTimeoutException", "Throttling",
    "ThrottlingException", "TooManyRequests", "OperationAborted", "ConditionalRequestConflict", "BadDigest",
    "500", "502", "503", "504", "429", "409",
}  # fmt: skip
_REFUSED_KEYS = {
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "TokenRefreshRequired",
    "AuthorizationHeaderMalformed", "InvalidAccessKey", "XAdminUserNotFound",
}  # fmt: skip
_DENIED = {"AccessDenied", "403", "Forbidden", "AllAccessDisabled", "AccountProblem"}


def explain(error: BaseException, where: str) -> MatriarchError:
    """Map an exception of boto3, urllib3 or the socket layer. Programming errors pass through as they are."""
    from botocore import exceptions as boto

    if isinstance(error, MatriarchError):
        return error
    if isinstance(error, boto.ClientError):
        return _explain_answer(error, where)
    table: tuple[tuple[type[BaseException], Callable[[str, str], MatriarchError]], ...] = (
        (boto.NoCredentialsError, _no_credentials),
        (boto.PartialCredentialsError, _no_credentials),
        (boto.NoRegionError, _no_region),
        (boto.SSLError, _tls),
        (ssl.SSLError, _tls),
        (boto.ParamValidationError, _refused),
        (boto.InvalidRegionError, _refused),
        (ValueError, _refused),
        (boto.BotoCoreError, _unavailable),
        (OSError, _unavailable),
    )
    text = " ".join(str(error).split())[:300]
    for kind, make in table:
        if isinstance(error, kind):
            return make(where, text)
    if type(error).__module__.startswith("urllib3"):
        return _unavailable(where, text)
    raise error


def explain_lock(error: Exception | None, where: str) -> MatriarchError:
    """Why objects can't be locked there; None: the bucket says that it has no lock."""
    code = str((getattr(error, "response", None) or {}).get("Error", {}).get("Code", ""))
    without = ("ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration", "NotImplemented")
    bucket = where.removeprefix("s3://").split("/")[0]
    if error is None or code in (*without, "InvalidBucketState", "MethodNotAllowed", "InvalidRequest"):
        return Refused(
            f"objectLock is asked for, and the bucket {bucket} has none, so nothing is written: make a bucket with "
            "object lock enabled, or leave objectLock out.",
            reason=Reason.BUCKET_NOT_LOCKED,
        )
    if code in _DENIED:
        return Refused(
            f"The credentials may not ask whether the bucket {bucket} has object lock; grant "
            "s3:GetBucketObjectLockConfiguration.",
            reason=Reason.CREDENTIALS_REFUSED,
        )
    return explain(error, where)


def _explain_answer(error: Exception, where: str) -> MatriarchError:
    answer = getattr(error, "response", {})
    code = str(answer.get("Error", {}).get("Code", ""))
    text = str(answer.get("Error", {}).get("Message", ""))[:300]
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    bucket = where.removeprefix("s3://").split("/")[0]
    if code == "NoSuchBucket":
        return Refused(
            f"The bucket {bucket} does not exist; create it or name another one.", reason=Reason.BUCKET_MISSING
        )
    if code == "RequestTimeTooSkewed":
        return Refused(
            f"The clock of this machine differs too much from that of {where}; set it right.",
            reason=Reason.CLOCK_SKEWED,
        )
    if code in _REFUSED_KEYS:
        return Refused(
            f"{where} refuses the credentials ({code}); check access key, secret key and region.",
            reason=Reason.CREDENTIALS_REFUSED,
        )
    if code in _DENIED or status in (401, 403):
        return Refused(
            f"The credentials may not do this in {where} ({code}: {text}); grant list, get, put and delete there.",
            reason=Reason.CREDENTIALS_REFUSED,
        )
    if code in ("QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "507"):
        return Unavailable(f"The store {where} is full ({code}).", reason=Reason.STORE_FULL)
    if code in _AGAIN or status >= 500:
        return _unavailable(where, f"{code or status}: {text}")
    return Refused(f"{where} refuses the request ({code or status}: {text}).", reason=Reason.STORE_REFUSED)


def _no_credentials(where: str, _: str) -> MatriarchError:
    return Refused(
        f"There are no credentials for {where}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        reason=Reason.CREDENTIALS_MISSING,
    )


def _no_region(where: str, _: str) -> MatriarchError:
    return Refused(f"The region of {where} is not known; set AWS_REGION.", reason=Reason.STORE_REFUSED)


def _tls(where: str, text: str) -> MatriarchError:
    if "CERTIFICATE" not in text.upper():  # a connection that broke in its handshake
        return _unavailable(where, text)
    return Refused(
        f"The certificate of {where} is not trusted ({text}); give its CA (AWS_CA_BUNDLE or ca.crt).",
        reason=Reason.STORE_REFUSED,
    )


def _refused(where: str, text: str) -> MatriarchError:
    return Refused(f"The settings of {where} are not usable: {text}", reason=Reason.STORE_REFUSED)


def _unavailable(where: str, text: str) -> MatriarchError:
    return Unavailable(f"The store {where} does not answer ({text}).", reason=Reason.STORE_UNAVAILABLE)
