import struct
import sys
from fractions import Fraction

import numpy as np
import pytest

from fixtures.videos import picture, write_sound, write_video
from resight.errors import ResightError
from resight.inference import video as module
from resight.inference.video import Video, VideoWriter


def corner(image):
    """Where the red corner is: (below, right)."""
    height, width = image.shape[:2]
    corners = {(y, x): image[y * (height - 1), x * (width - 1)] for y in (0, 1) for x in (0, 1)}
    return next(place for place, colour in corners.items() if colour[0] > 200 and colour[1] < 60)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts"])
def test_frames_come_in_order_with_their_times(tmp_path, suffix):
    video = Video(write_video(tmp_path / f"a.{suffix}"))
    frames = list(video)
    assert [frame.number for frame in frames] == list(range(12)) and video.damage == ""
    assert [frame.seconds for frame in frames] == [round(number / 10, 6) for number in range(12)]
    assert (video.rate, video.expected) == (10, 12)
    for frame in frames:
        assert frame.image.shape == (64, 96, 3) and frame.image.dtype == np.uint8 and corner(frame.image) == (0, 0)
        assert np.abs(frame.image.astype(int) - picture(frame.number)).mean() < 25
    strided = Video(tmp_path / f"a.{suffix}", 5)
    assert [frame.number for frame in strided] == [0, 5, 10] and strided.expected == 3


def test_times_need_not_be_even(tmp_path):
    times = [0, 40, 200, 210, 1000]
    frames = list(Video(write_video(tmp_path / "a.mp4", 5, milliseconds=times)))
    assert [frame.seconds for frame in frames] == [time / 1000 for time in times]


@pytest.mark.parametrize(("rotation", "place"), [(90, (1, 0)), (-90, (0, 1)), (180, (1, 1))])
def test_a_video_is_turned_as_it_says(tmp_path, rotation, place):
    image = next(iter(Video(write_video(tmp_path / "a.mp4", 1, rotation=rotation)))).image
    assert image.shape == ((64, 96, 3) if rotation == 180 else (96, 64, 3)) and corner(image) == place


def test_a_telephone_held_upright(tmp_path):
    """Its matrix, as the QuickTime file format has it, turns the picture clockwise by 90 degrees."""
    data = bytearray(write_video(tmp_path / "a.mp4", 1).read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    data[start : start + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 64 << 16, 0, 1 << 30)
    (tmp_path / "a.mp4").write_bytes(data)
    image = next(iter(Video(tmp_path / "a.mp4"))).image
    assert image.shape == (96, 64, 3) and corner(image) == (0, 1)


def test_frames_that_were_cut_off_are_not_missed(tmp_path):
    """An edit list, as telephones write it when a video is trimmed: it begins half a second later, and ends
    a tenth earlier."""
    path = write_video(tmp_path / "a.mp4")
    data = bytearray(path.read_bytes())
    edit, scale = data.index(b"elst") + 12, data.index(b"mdhd") + 16
    (begin,), (second,) = struct.unpack_from(">i", data, edit + 4), struct.unpack_from(">I", data, scale)
    struct.pack_into(">Ii", data, edit, 600, begin + second // 2)
    path.write_bytes(data)
    video = Video(path)
    frames = list(video)
    assert [frame.seconds for frame in frames] == [number / 10 for number in range(6)] and video.damage == ""
    assert np.abs(frames[0].image.astype(int) - picture(5)).mean() < 25


@pytest.mark.parametrize(("suffix", "words"), [("mp4", "of its 12 frames"), ("mkv", "breaks off"), ("ts", "damaged")])
def test_what_is_cut_short_gives_what_is_there(tmp_path, suffix, words):
    path = write_video(tmp_path / f"a.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    video = Video(path)
    assert 2 < len(list(video)) < 12 and words in video.damage


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no video of a known format"),
        (b"no video", "no video of a known format"),
        (b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n", "no video of a known format"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "no video of a known format"),
    ],
)
def test_what_is_no_video_is_told(tmp_path, content, words):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(ResightError, match=words) as caught:
        list(Video(tmp_path / "a.mp4"))
    assert caught.value.where == str(tmp_path / "a.mp4")


def test_sound_alone_and_no_frame_at_all_are_told(tmp_path):
    with pytest.raises(ResightError, match="holds no video"):
        Video(write_sound(tmp_path / "sound.mp4"))
    path = write_video(tmp_path / "a.mp4")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + 4])
    with pytest.raises(ResightError, match="no frame that can be decoded"):
        list(Video(path))
    with pytest.raises(ResightError, match="Is a folder"):
        Video(tmp_path)


def test_frames_beyond_the_memory_of_an_image_are_refused(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 1)
    monkeypatch.setenv("RESIGHT_MAX_IMAGE_MB", ".01")
    with pytest.raises(ResightError, match="frames of 96 x 64 pixels"):
        list(Video(path))


def test_without_its_package_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ResightError, match=r"need the package av(.|\n)*resight\[video\](.|\n)*ffmpeg -i 'a drive.mp4'"):
        Video("a drive.mp4")


@pytest.mark.parametrize("encoder", ["libx264", "mpeg4"])
def test_what_is_written_is_read(tmp_path, monkeypatch, encoder):
    """Of any size, at any times, and with frames of another size than the first."""
    monkeypatch.setattr(module, "_ENCODERS", ("no such encoder", encoder))
    times = [0, 1001 / 30000, 0.5, 0.5, 2]
    writer = VideoWriter(tmp_path / "a.mp4", Fraction(30000, 1001))
    for number, seconds in enumerate(times):
        writer.add(np.full((65, 97, 3) if number < 4 else (20, 30, 3), 40 * number, np.uint8), seconds)
    writer.close()
    frames = list(Video(tmp_path / "a.mp4"))
    assert [frame.seconds for frame in frames] == pytest.approx(times, abs=1e-3)
    for number, frame in enumerate(frames):
        assert frame.image.shape == (66, 98, 3) and abs(frame.image.mean() - 40 * number) < 3


def test_a_video_of_nothing_is_closed(tmp_path):
    VideoWriter(tmp_path / "a.mp4", Fraction(10)).close()
