"""What the figures of the sample model rest on: pictures, the checker, scores."""
import struct
import tempfile
import unittest
import zlib
from pathlib import Path

import numpy as np

import support  # noqa: F401: puts samples/train on the path
from checker import Verdict, check
from noise import _philox, gaussian
from pictures import film_strip, read_frames, read_png, write_png
from scores import Scores
from world import MOTIONS, SHAPES, random_scene, render


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def paeth(left: int, up: int, corner: int) -> int:
    """As the png specification words it."""
    guess = left + up - corner
    a, b, c = abs(guess - left), abs(guess - up), abs(guess - corner)
    if a <= b and a <= c:
        return left
    return up if b <= c else corner


def filtered(picture: np.ndarray, kinds: list[int]) -> bytes:
    """A png file whose row y uses filter kinds[y]."""
    height, width, _ = picture.shape
    flat = picture.reshape(height, -1).astype(int).tolist()
    raw = bytearray()
    for y, kind in enumerate(kinds):
        raw.append(kind)
        for i, value in enumerate(flat[y]):
            left = flat[y][i - 3] if i >= 3 else 0
            up = flat[y - 1][i] if y else 0
            corner = flat[y - 1][i - 3] if y and i >= 3 else 0
            guess = (0, left, up, (left + up) // 2, paeth(left, up, corner))[kind]
            raw.append((value - guess) & 255)
    packed = zlib.compress(bytes(raw))
    half = len(packed) // 2
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", packed[:half]) + chunk(b"IDAT", packed[half:])
            + chunk(b"IEND", b""))


class Pictures(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.file = Path(self.folder.name) / "frame_00000.png"
        self.picture = np.random.default_rng(1).integers(0, 256, (10, 7, 3)).astype(np.uint8)

    def test_every_filter(self):
        self.file.write_bytes(filtered(self.picture, [0, 1, 2, 3, 4] * 2))
        np.testing.assert_array_equal(read_png(self.file), self.picture)
        self.file.write_bytes(filtered(self.picture, [4, 3, 2, 1, 0] * 2))
        np.testing.assert_array_equal(read_png(self.file), self.picture)

    def test_written_pictures_come_back(self):
        write_png(self.file, self.picture)
        np.testing.assert_array_equal(read_frames(Path(self.folder.name)), self.picture[None])

    def test_damaged_files_are_refused(self):
        whole = filtered(self.picture, [0] * 10)
        for bad in (b"", b"GIF89a", whole[:60], whole.replace(b"\x08\x02\x00\x00\x00", b"\x08\x06\x00\x00\x00"),
                    filtered(self.picture, [0] * 10)[:-30]):
            self.file.write_bytes(bad)
            with self.assertRaises(ValueError):
                read_png(self.file)

    def test_an_empty_folder_is_refused(self):
        with self.assertRaises(FileNotFoundError):
            read_frames(Path(self.folder.name))


    def test_a_film_strip_shows_first_and_last_frame(self):
        frames = np.zeros((33, 8, 6, 3), np.uint8)
        frames[0], frames[-1] = 10, 200
        strip = film_strip(frames, 3, 2)
        self.assertEqual(strip.shape, (4, 9, 3))
        self.assertEqual((strip[0, 0, 0], strip[0, 3, 0], strip[0, 8, 0]), (10, 0, 200))


class Checker(unittest.TestCase):
    def test_names_what_is_drawn(self):
        rng = np.random.default_rng(4)
        for i in range(20):
            scene = random_scene(rng, "basic", shape=SHAPES[i % 4], motion=MOTIONS[i % 5])
            self.assertEqual(check(render(scene, 9, 96)[0]),
                             Verdict(scene.colour, scene.background, scene.shape, scene.motion))

    def test_a_clip_without_a_shape_has_none(self):
        verdict = check(np.full((9, 96, 96, 3), 0.5, np.float32))
        self.assertEqual(verdict, Verdict(background="gray"))

    def test_a_shape_that_rests_is_still(self):
        scene = random_scene(np.random.default_rng(0), "basic", motion="left")
        frame = render(scene, 9, 96)[0][4]
        self.assertEqual(check(np.repeat(frame[None], 9, axis=0)).motion, "still")


class Noise(unittest.TestCase):
    def test_philox_gives_the_published_values(self):
        zero = np.zeros(1, np.uint64)
        self.assertEqual([int(v[0]) for v in _philox([zero] * 4, [0, 0])],
                         [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8])

    def test_is_normal_and_depends_on_the_seed(self):
        x = gaussian(1, (3, 5, 777))
        self.assertEqual(x.shape, (3, 5, 777))
        self.assertLess(abs(x.mean()), 0.05)
        self.assertLess(abs(x.std() - 1), 0.05)
        self.assertFalse(np.array_equal(x, gaussian(2 ** 40 + 1, (3, 5, 777))))


class ScoresOfClips(unittest.TestCase):
    def test_counts(self):
        scene = random_scene(np.random.default_rng(0), "basic", shape="star", colour="red", motion="left",
                             background="gray")
        scores = Scores()
        scores.add(scene, Verdict("red", "gray", "star", "left"))
        scores.add(scene, Verdict("red", "black", "star", "left"))
        scores.add(scene, Verdict("red", "gray", "circle", "still"))
        scores.add(scene, Verdict())
        self.assertEqual(scores.shares(), {"colour": 75, "background": 50, "shape": 50, "motion": 50,
                                           "colour on background": 50, "all three": 50, "all four": 25})
        self.assertEqual(scores.confusion()["motion"], {"left": {"left": 2, "still": 1, "-": 1}})
        self.assertIn("| left | 2 | 1 | 1 |", scores.tables())


if __name__ == "__main__":
    unittest.main()
