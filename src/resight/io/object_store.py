"""Objects in S3, or in whatever store speaks its language: the one module that opens stores.

An address is ``s3://bucket/key``. Credentials and region are boto3's (environment, profile, SSO, role), the endpoint is
``AWS_ENDPOINT_URL``'s or the profile's. A store lives in the process that opened it: between processes go addresses.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar
from urllib.parse import urlsplit

from ..errors import ResightError, redacted
from .files import SMALL, cache_folder, read_json
from .outputs import atomic_file, write_text

if TYPE_CHECKING:
    from obstore.store import S3Store

T = TypeVar("T")
log = logging.getLogger(__name__)

ETAGS = ".etags.json"  # in a folder of copies, the ETag of each
_PAGE = 1000  # objects that a store lists at a time
BLOCK = 8 << 20  # bytes of one request for a part of an object
_ATTEMPTS = 4  # of a whole operation; the store's client repeats a single request by itself
_PAUSE = 0.5  # seconds before the second attempt
_CLIENT: dict[str, Any] = {"connect_timeout": "10s", "read_timeout": "20s", "timeout": "10min"}
_RETRY: dict[str, Any] = {
    "max_retries": 6,
    "retry_timeout": timedelta(minutes=2),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2},
}
_ORDER = "A directory bucket of S3 Express does not: copy them to an ordinary bucket."
_CREDENTIALS = "InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|ExpiredToken|TokenRefreshRequired|AuthFailure"
_REASON = re.compile(r"<Code>(\w+)</Code>(?:\s*<Message>([^<]*)</Message>)?")


class StorageError(ResightError):
    """A store that fails, refuses or has changed: no record is to blame, so none is skipped for it."""


class Conflict(StorageError):
    """The object is not, or is no more, what a conditional operation wants it to be."""


@dataclass(frozen=True)
class Object:
    """An object as it was found: its size in bytes, and the ETag that changes with its content."""

    address: str
    size: int
    etag: str


def is_remote(path: object) -> TypeGuard[str]:
    """Whether ``path`` is an address in a store."""
    return isinstance(path, str) and path.startswith("s3://")


def join(address: str, *names: str) -> str:
    return "/".join([address.rstrip("/"), *names])


def find(address: str, most: int | None = None) -> list[Object]:
    """The objects whose address begins with ``address`` and a slash, sorted: all, or about the first ``most`` of them;
    the object itself where there are none."""
    bucket, _, prefix = address.rstrip("/").removeprefix("s3://").partition("/")

    def run(store: S3Store, _: str) -> list[Object]:
        pages = store.list(prefix or None, chunk_size=min(most or 1000, 1000))
        metas: list[Any] = []
        while (most is None or len(metas) < most) and (page := next(pages, None)):
            metas += page
        below = (meta for meta in metas if meta["path"] != prefix)  # one for the folder itself, as consoles leave it
        return [_object(f"s3://{bucket}/{meta['path']}", meta) for meta in below]

    found = sorted(_attempts(address, "list", run), key=lambda one: one.address)
    own = stat(address) if prefix and not found else None
    return [own] if own else found


def stream(address: str) -> Iterator[Object]:
    """The same, all of them, sorted by the store and a page at a time: there may be millions. Raises StorageError: the
    store does not sort them.

    Consoles and tools that show folders leave empty objects for them, whose names end in a slash. The client takes the
    slash away: such a name is not in order, is that of the folder ``address`` itself, or comes twice.
    """
    bucket, _, prefix = address.rstrip("/").removeprefix("s3://").partition("/")
    last = ""

    def page(store: S3Store, _: str) -> list[Object]:
        metas = next(store.list(prefix or None, offset=last or None, chunk_size=_PAGE), [])
        return [_object(f"s3://{bucket}/{meta['path']}", meta) for meta in metas]

    while found := _attempts(address, "list", page):
        before = last
        for one in found:
            key = one.address.removeprefix(f"s3://{bucket}/")
            if key.encode() > last.encode():
                last = key
                if key != prefix:
                    yield one
            elif one.size:
                raise StorageError("the store does not list its objects in order", where=address, fix=_ORDER)
        if len(found) < _PAGE:
            break
        if last == before:
            raise StorageError("the store lists its objects again and again", where=address, fix=_ORDER)
    if last in ("", prefix) and prefix and (own := stat(address)):
        yield own


def stat(address: str) -> Object | None:
    """The object at ``address``; None where there is none."""
    with suppress(_Missing):
        return _attempts(address, "read", lambda store, key: _object(address, store.head(_named(key))))
    return None


def read(address: str) -> bytes:
    """A small object, whole."""
    return _read(address)[0]


def read_if_there(address: str) -> tuple[bytes, str] | None:
    """A small object, whole, and its ETag; None where there is none."""
    with suppress(_Missing):
        return _read(address)
    return None


def _read(address: str) -> tuple[bytes, str]:
    def run(store: S3Store, key: str) -> tuple[bytes, str]:
        result = store.get(_named(key))
        if result.meta["size"] > SMALL:
            raise StorageError(f"is too large: {result.meta['size']:,} bytes", where=address)
        return _whole(bytes(result.bytes()), result.meta["size"]), str(result.meta["e_tag"])

    return _attempts(address, "read", run)


def read_range(wanted: Object, start: int, length: int) -> bytes:
    """``length`` bytes from ``start`` on, or all up to the end. Raises Conflict: the object is another one by now."""
    length = min(length, wanted.size - start)
    options: Any = {"range": (start, start + length), "if_match": wanted.etag}

    def run(store: S3Store, key: str) -> bytes:
        return _whole(bytes(store.get(key, options=options).bytes()), length)

    return _attempts(wanted.address, "read", run) if length > 0 else b""


def download(wanted: Object, path: Path) -> None:
    """Copies the object to the file ``path``, which is whole or absent."""
    with atomic_file(path) as partial, open(partial, "wb") as file:
        for start in range(0, wanted.size, BLOCK):
            file.write(read_range(wanted, start, BLOCK))


def write(address: str, data: bytes | Path, replacing: str | None = None) -> str:
    """Writes the bytes, or the file, as an object that is there whole or not at all; returns its ETag. ``replacing`` is
    the ETag of what it must replace, "" if there must be nothing. Raises Conflict: there is something else."""
    mode: Any = "overwrite" if replacing is None else {"e_tag": replacing} if replacing else "create"
    parts = None if replacing is None else False  # in which a condition would not hold
    put = _attempts(address, "write", lambda store, key: store.put(key, data, mode=mode, use_multipart=parts))
    return str(put["e_tag"])


def check_writable(address: str) -> None:
    """Raises StorageError: nothing may be written below ``address``. Writes nothing: it asks to replace what is not
    there."""
    with suppress(Conflict, _Missing):
        write(join(address, ".resight"), b"", replacing=hashlib.md5(b"").hexdigest()[::-1])


def delete(address: str) -> None:
    """Removes the object, if there is one."""
    _attempts(address, "delete", lambda store, key: store.delete(key))


def local_folder(address: str, kind: str) -> Path:
    """Where copies of what lies at ``address`` are kept."""
    key = hashlib.sha256(address.encode()).hexdigest()[:24]
    return Path(cache_folder()) / kind / key


def fetch(wanted: dict[str, Object], folder: Path) -> None:
    """Makes ``folder`` hold the objects under the names that they have in ``wanted``."""
    have: dict[str, str] = {}
    with suppress(ResightError):
        have = noted if isinstance(noted := read_json(folder / ETAGS), dict) else {}
    for name in have.keys() - wanted.keys():
        with suppress(OSError, ValueError):
            (folder / name).unlink()
    for name, found in wanted.items():
        if have.get(name) != found.etag or not (folder / name).is_file():
            log.info("fetching %s (%.1f MB)", found.address, found.size / 1e6)
            download(found, folder / name)
            have[name] = found.etag
            write_text(folder / ETAGS, json.dumps(have))  # of what is whole, where this is cut short
    write_text(folder / ETAGS, json.dumps({name: found.etag for name, found in wanted.items()}))


def fetch_file(address: str) -> Path:
    """A local copy of the object at ``address``. Raises ResightError: there is none, or it cannot be read."""
    if not (found := stat(address)):
        raise ResightError("there is no such file", where=address)
    copy = local_folder(address, "files") / address.rpartition("/")[2]
    fetch({copy.name: found}, copy.parent)
    return copy


@contextmanager
def named_as(address: str, path: Path) -> Iterator[None]:
    """Errors in the block tell ``address`` in place of its local copy at ``path``; those of the store tell both."""
    try:
        yield
    except ResightError as error:
        if not isinstance(error, StorageError):
            parts = (part.replace(str(path), address) for part in (error.message, error.where, error.fix))
            error.message, error.where, error.fix = parts
        raise


class _Missing(StorageError):
    """There is no such object."""


class Passing(StorageError):
    """May go well the next time."""


def _object(address: str, meta: Any) -> Object:
    return Object(address, int(meta["size"]), str(meta["e_tag"]))


def _named(key: str) -> str:
    if not key:  # the store would tell something of the bucket
        raise _Missing("names a bucket and no object")
    return key


def _whole(data: bytes, length: int) -> bytes:
    if len(data) != length:
        raise Passing(f"the store sent {len(data)} of {length} bytes")
    return data


def _attempts(address: str, verb: str, run: Callable[[S3Store, str], T]) -> T:
    """What ``run`` gives for the store and key of ``address``, tried again, after growing pauses, if that may help."""
    bucket, _, key = address.removeprefix("s3://").partition("/")
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return run(_store(bucket, _settings()), key.rstrip("/"))
        except BaseException as error:  # the client has its own kinds, and the credentials' provider any
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of Rust
                raise
            told = _explained(error, verb, address)
            expired = isinstance(told, _Expired) and attempt == 1
            if not (expired or isinstance(told, Passing)) or attempt == _ATTEMPTS:
                raise told from error
            _store.cache_clear()  # connections and credentials anew
            pause = _PAUSE * 2**attempt * random.uniform(0.5, 1)
            log.debug("%s; again in %.1f s", told, pause)
            time.sleep(0 if expired else pause)
    raise AssertionError("every attempt returns or raises")


class _Expired(StorageError):
    """The credentials are not valid, or not any more."""


def _explained(error: BaseException, verb: str, address: str) -> StorageError:
    """The error in words of ours."""
    if isinstance(error, StorageError):
        return type(error)(error.message, where=error.where or address, fix=error.fix)
    from obstore import exceptions as kinds

    text = redacted(str(error).partition("\n\nDebug source")[0])
    code, message = found.groups() if (found := _REASON.search(text)) else ("", "")
    reason = f"{code}: {message}" if message else code or " ".join(text.split())[:300]
    bucket = address.removeprefix("s3://").partition("/")[0]
    who = "Credentials are looked for as by the AWS command line: AWS_PROFILE, AWS_ACCESS_KEY_ID, SSO, a role."
    if named := re.search(r"[Pp]ath \"([^\"]*)\"", text) if "invalid path" in text or "parse path" in text else None:
        message = f"the name of this object cannot be used: {named[1]}"
        fix = "Names have no control characters, no empty folders (//), and none that are called . or .."
        return StorageError(message, where=address, fix=fix)
    if code == "NoSuchBucket":
        return StorageError(f"there is no bucket '{bucket}'", where=address, fix=f"Check its name, and {_endpoint()}.")
    if re.search(_CREDENTIALS, text):
        return _Expired(f"the credentials are refused ({reason})", where=address, fix=who)
    if isinstance(error, kinds.PermissionDeniedError | kinds.UnauthenticatedError) or code == "AccessDenied":
        action = {"write": "PutObject", "delete": "DeleteObject", "list": "ListBucket"}.get(verb, "GetObject")
        fix = f"They need s3:{action} on it, or are not those you mean. {who}"
        message = f"the credentials do not allow to {verb} this ({reason or 'forbidden'})"
        return StorageError(message, where=address, fix=fix)
    if isinstance(error, kinds.PreconditionError | kinds.AlreadyExistsError):
        fix = "Nothing else may write there meanwhile."
        return Conflict("has changed in the store since it was opened", where=address, fix=fix)
    # An upload in parts whose last answer was lost is not known any more: it is made again.
    if isinstance(error, FileNotFoundError) and code != "NoSuchUpload":
        return _Missing("there is no such object", where=address)
    if code == "PermanentRedirect" or "region" in code.lower():
        return StorageError(f"the bucket is in another region ({reason})", where=address, fix="Set AWS_REGION to its.")
    if isinstance(error, kinds.BaseError) or code == "NoSuchUpload":
        return Passing(f"unexpected response of the store: {reason}", where=address, fix=f"Check {_endpoint()}.")
    return StorageError(f"the store cannot be used: {reason}", where=address, fix=who)


def _endpoint() -> str:
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    return f"the endpoint AWS_ENDPOINT_URL={redacted(endpoint)}" if endpoint else "the network"


def _check_endpoint(endpoint: str) -> None:
    """Refuses what is no address: the client would end the process over it."""
    with suppress(ValueError):  # a port or a bracket
        parts = urlsplit(endpoint)
        if re.fullmatch(r"(?i:https?)://[!-~]+", endpoint) and parts.hostname and parts.port != 0:
            return
    fix = "It is of the form https://HOST or http://HOST:PORT; unset it for Amazon's own."
    raise StorageError(f"{redacted(endpoint)!r:.200} is not the address of a store", where="AWS_ENDPOINT_URL", fix=fix)


def _settings() -> tuple[tuple[str, str], ...]:
    """All that decides which store an address means and who asks."""
    return tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))


@functools.cache
def _store(bucket: str, _: tuple[tuple[str, str], ...]) -> S3Store:
    """The store of a bucket, open in this process alone."""
    try:
        import boto3
        import obstore.store
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        fix = "pip install 'resight[s3]'"
        raise StorageError(f"addresses in S3 need the package {error.name}", where=f"s3://{bucket}", fix=fix) from error
    if not bucket:
        raise StorageError("names no bucket", where="s3://", fix="An address is s3://bucket/key.")
    session = boto3.Session(region_name=os.environ.get("AWS_REGION"))  # which boto3 itself does not read
    if session.get_credentials() is None:
        fix = "Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where a role is given."
        raise StorageError("there are no credentials for S3", where=f"s3://{bucket}", fix=fix)
    own = session._session.get_scoped_config() if session.profile_name else {}
    named = map(os.environ.get, ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"))
    endpoint = next(filter(None, named), own.get("endpoint_url"))
    if endpoint:
        _check_endpoint(endpoint)
    options: Any = {"endpoint": endpoint} if endpoint else {}
    # Shorter than the time before their end at which boto3 renews credentials.
    provider = Boto3CredentialProvider(session, ttl=timedelta(minutes=5))
    return obstore.store.S3Store(
        bucket,
        region=session.region_name or "us-east-1",
        credential_provider=provider,
        client_options=_CLIENT | {"allow_http": bool(endpoint and endpoint.startswith("http://"))},  # type: ignore[arg-type]
        retry_config=_RETRY,  # type: ignore[arg-type]
        **options,
    )
