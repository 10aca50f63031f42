"""The Faster R-CNN ResNet V1 models of TensorFlow's TF2 detection zoo: download, verify, unpack."""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import tarfile
import urllib.error
import urllib.request
import zlib
from dataclasses import asdict, dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import IO

from filelock import FileLock, Timeout

from ..errors import ResightError, listed, nearest, reading
from ..io.files import cache_folder, open_file, read_file
from ..io.outputs import atomic_folder, write_text
from ..io.progress import meter
from .checkpoint.folder import find_tfod
from .checkpoint.reader import read_checkpoint

log = logging.getLogger(__name__)

URL = "http://download.tensorflow.org/models/object_detection/tf2/20200711"
LICENCE = "Apache-2.0"
_TIMEOUT = 60  # seconds without a byte
_PIECE = 1 << 20
_LONGEST_READ = 16 << 20  # bytes
_LARGEST_SHARE = 20


@dataclass(frozen=True)
class ZooModel:
    """An entry of the zoo."""

    name: str
    coco_map: float  # mAP on COCO 2017 as published, percent
    weights_mb: float  # size of the unpacked weights

    @property
    def url(self) -> str:
        return f"{URL}/{self.name}.tar.gz"

    @property
    def folder(self) -> Path:
        """Where it is once it was fetched."""
        return _zoo_folder() / self.name


_SIZES = ("640x640_coco17_tpu-8", "1024x1024_coco17_tpu-8", "800x1333_coco17_gpu-8")
_PUBLISHED = {
    50: ((29.3, 114.0), (31.0, 114.0), (31.6, 117.0)),
    101: ((31.8, 190.2), (37.1, 190.2), (36.6, 193.1)),
    152: ((32.4, 253.0), (37.6, 253.0), (37.4, 255.9)),
}
ZOO = tuple(
    ZooModel(f"faster_rcnn_resnet{depth}_v1_{size}", *figures)
    for depth, published in _PUBLISHED.items()
    for size, figures in zip(_SIZES, published, strict=True)
)
NAMES = tuple(model.name for model in ZOO)


def zoo_rows() -> list[dict[str, str | float | bool]]:
    """What ``resight zoo list`` shows of each entry, and whether it is in the cache."""
    return [asdict(model) | {"licence": LICENCE, "url": model.url, "cached": model.folder.is_dir()} for model in ZOO]


def zoo_table() -> str:
    """One line an entry."""
    width = max(map(len, NAMES))
    lines = [
        f"{row['name']:<{width}}  {row['coco_map']:>8}  {row['weights_mb']:>10}  {row['licence']}  "
        + ("cached" if row["cached"] else "not yet fetched")
        for row in zoo_rows()
    ]
    head = f"{'name':<{width}}  COCO mAP  weights MB  licence     here"
    return "\n".join([head, *lines, "", "COCO mAP: as published, in percent."])


def fetch(name_or_path: str | Path) -> Path:
    """A folder with `checkpoint/` and `pipeline.config`.

    Args:
        name_or_path: such a folder; a `.tar.gz` of one, which is unpacked in the cache; or the name of an entry of the
            zoo, which is downloaded once. Its digest is remembered beside it, and holds for every later download.

    Raises:
        ResightError: there is no such thing; the download fails (what came is kept, and continued next time), is not
            what it was; the archive is damaged or holds what would not stay in its folder.
    """
    path = Path(name_or_path)
    if path.is_dir():
        return _model_folder(path)
    if path.is_file():
        stat = path.stat()
        key = hashlib.sha256(f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}".encode("utf-8", "replace"))
        folder = _zoo_folder() / f"{path.name.split('.')[0]}-{key.hexdigest()[:16]}"
        if not folder.is_dir():
            unpack(path, folder)
        return _model_folder(folder)
    model = next((model for model in ZOO if model.name == str(name_or_path).removesuffix(".tar.gz")), None)
    if model is None:
        fix = nearest(str(name_or_path), NAMES) or "resight zoo list shows those that are."
        raise ResightError("there is no such file, and no such model in the zoo", where=name_or_path, fix=fix)
    try:
        _zoo_folder().mkdir(parents=True, exist_ok=True)
        with FileLock(_zoo_folder() / f"{model.name}.lock", timeout=0):
            if not model.folder.is_dir():
                _download(model)
    except Timeout as error:
        raise ResightError("another process is downloading this", where=model.url, fix="Wait for it.") from error
    except OSError as error:
        raise ResightError(f"cannot keep the download: {error.strerror or error}", where=_zoo_folder()) from error
    return _model_folder(model.folder)


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a `.tar.gz` whole or not at all. Nothing but folders and plain files below ``folder`` is ever made.

    Raises:
        ResightError: the archive is damaged, cannot be read, has a link or a path that leads out of it, or holds no
            whole model.
    """
    with atomic_folder(folder, True, lambda path: True) as partial:
        try:
            with open_file(archive) as file, _Content(fileobj=file) as content, tarfile.open(fileobj=content) as tar:
                refused = _unpack(tar, partial)
                while content.read(_PIECE):  # to the checksum behind the archive
                    pass
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, RecursionError) as error:
            fix = "Is it a whole .tar.gz? Copy or download it again."
            raise ResightError(f"cannot be unpacked: {error}", where=archive, fix=fix) from error
        if refused:
            fix = "Archives of the zoo have no such thing: download it from its own place again."
            raise ResightError(f"contains entries that are not allowed: {listed(refused, 5)}", where=archive, fix=fix)
        try:
            _model_folder(partial)
        except ResightError as error:
            where = error.where.replace(str(partial), str(archive))
            raise ResightError(error.message, where=where, fix=error.fix) from error


class _Content(gzip.GzipFile):
    """What is inside an archive, and no more of it than a model can be: weights hardly shrink when they are packed."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > _LONGEST_READ:
            raise ValueError(f"a header of {size:,} bytes")
        data = super().read(size)
        packed = os.fstat(self.fileno()).st_size
        if self.tell() > _LARGEST_SHARE * packed + _LONGEST_READ:
            raise ValueError(f"{packed:,} bytes hold more than {_LARGEST_SHARE} times as many")
        return data


def _unpack(tar: tarfile.TarFile, folder: Path) -> list[str]:
    """Returns what it refused; nothing more is unpacked from there on."""
    tar.extraction_filter = getattr(tarfile, "data_filter", None)  # from Python 3.11.4 on, as a second look
    refused = []
    for member in tar:
        path = PurePosixPath(member.name)
        if member.issym() or member.islnk():
            refused.append(f"{member.name} (a link to {member.linkname})")
        elif path.is_absolute() or ".." in path.parts or "\0" in member.name:
            refused.append(f"{member.name} (leads out of the archive)")
        elif not (member.isdir() or member.isfile()) or member.issparse():
            refused.append(f"{member.name} (neither folder nor plain file)")
        elif not refused:
            tar.extract(member, folder, set_attrs=False)
    return refused


def _download(model: ZooModel) -> None:
    archive = _zoo_folder() / f"{model.name}.tar.gz"
    remembered, partial = Path(f"{archive}.sha256"), Path(f"{archive}.partial")
    source = archive
    if not archive.is_file():
        _transfer(model.url, partial)
        source = partial
    with open_file(source) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    known = read_file(remembered).decode("ascii", "replace").split() if remembered.is_file() else []
    if known and known[0] != digest:
        where, fix = str(archive), f"Delete it and fetch again. Its digest was remembered in {remembered}."
        if source == partial:
            partial.unlink()
            where, fix = model.url, f"If you trust what is there now, delete {remembered} and fetch again."
        message = f"is not what was downloaded first: SHA-256 {digest[:16]}... instead of {known[0][:16]}..."
        raise ResightError(message, where=where, fix=fix)
    try:
        unpack(source, model.folder)
    except ResightError:
        partial.unlink(missing_ok=True)  # what came is damaged: nothing to go on from
        raise
    os.replace(source, archive)
    write_text(remembered, f"{digest}  {archive.name}\n")
    log.info("%s: SHA-256 %s, remembered in %s", archive, digest, remembered)


def _transfer(url: str, partial: Path) -> None:
    """Appends to ``partial`` what is still missing."""
    with open(partial, "ab") as file:
        begin = file.tell()
        try:
            try:
                _receive(url, file, begin)
            except urllib.error.HTTPError as error:
                if error.code != 416 or not begin:
                    raise
                if error.headers.get("Content-Range") != f"bytes */{begin}":  # another file is there now
                    _receive(url, file, 0)
        except (OSError, HTTPException, ValueError) as error:  # urllib's kinds are OSErrors; a proxy that is none
            if isinstance(error, urllib.error.HTTPError):
                why = f"{error.code} {error.reason}"
            else:
                why = str(getattr(error, "reason", None) or error or type(error).__name__)
                why += f" (after {file.tell() / 1e6:,.1f} MB, which are kept)" if file.tell() else ""
            fix = "Try again, and what is there is continued; or give the path of a folder or .tar.gz that you have."
            raise ResightError(f"cannot download: {why}", where=url, fix=fix) from error


def _receive(url: str, file: IO[bytes], begin: int) -> None:
    request = urllib.request.Request(url, headers={"Range": f"bytes={begin}-"} if begin else {})
    answer: HTTPResponse
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        if answer.status != 206:
            begin = 0
        elif begin and not answer.headers.get("Content-Range", "").startswith(f"bytes {begin}-"):
            raise OSError("the server sent another part than was asked for")
        file.seek(begin)
        file.truncate()
        length = int(answer.headers.get("Content-Length") or 0)
        with meter(f"downloading {url.rpartition('/')[2]}, MB", (begin + length) / 1e6 if length else None) as progress:
            progress.advance(begin / 1e6)
            while piece := answer.read(_PIECE):
                file.write(piece)
                progress.advance(len(piece) / 1e6)
        if file.tell() < begin + length:
            raise OSError("the connection was closed before the end")


def _model_folder(folder: Path) -> Path:
    """``folder``, or the only folder in it, with `checkpoint/` and `pipeline.config`."""
    with reading(folder):
        inner = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    for candidate in (folder, *inner):
        found = find_tfod(candidate)
        if found and found.pipeline and found.folder == candidate:
            read_checkpoint(found.prefix)  # says which data files are missing
            return candidate
    fix = "It needs pipeline.config and checkpoint/ckpt-0.index with its data files, as the zoo's archives have."
    raise ResightError("holds no model of TFOD", where=folder, fix=fix)


def _zoo_folder() -> Path:
    return Path(cache_folder()) / "zoo"
