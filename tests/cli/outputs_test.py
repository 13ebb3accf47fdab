"""Names of outputs and other values as people give them. Never /dev/stdout itself: links in the test's folder."""
from __future__ import annotations

import os
import subprocess
import unittest

from support import MODEL, PROMPT, VIDEO, CliTest

ONE = ["--size", "48x48", "--frames", "1", "--steps", "1", "--progress", "none"]


class Outputs(CliTest):
    def made(self, *arguments) -> str:
        return self.assert_done(self.video("-m", MODEL, "-p", PROMPT, *ONE, *arguments))

    def refused(self, code: int, words: list[str], *arguments) -> None:
        with self.subTest(arguments=arguments):
            result = self.video("-m", MODEL, "-p", PROMPT, *ONE, *arguments)
            self.assert_refused(result, code, *words)

    def test_a_link_stays(self) -> None:
        os.symlink("target.gif", self.folder / "link.gif")
        self.made("-o", "link.gif")
        self.assertTrue((self.folder / "link.gif").is_symlink())
        self.assertFalse((self.folder / "target.gif").is_symlink())

    def test_a_link_to_the_standard_output_is_written_where_that_stands(self) -> None:
        os.symlink("/proc/self/fd/1", self.folder / "stdout")
        with open(self.folder / "clip.y4m", "wb") as file:
            file.write(b"before\n")
            file.flush()
            subprocess.run([VIDEO, "-m", MODEL, "-p", PROMPT, *ONE, "-o", "stdout", "--format", "y4m"],
                           cwd=self.folder, stdin=subprocess.DEVNULL, stdout=file,
                           stderr=subprocess.DEVNULL, timeout=300, check=True)
        self.assertTrue((self.folder / "stdout").is_symlink())
        self.assertTrue((self.folder / "clip.y4m").read_bytes().startswith(b"before\nYUV4MPEG2 "))

    def test_mp4_to_a_pipe_is_refused_before_the_work(self) -> None:
        os.mkfifo(self.folder / "input-pipe")
        reader = subprocess.Popen(["cat", "input-pipe"], cwd=self.folder, stdout=subprocess.DEVNULL)
        self.addCleanup(reader.wait, 60)
        self.refused(2, ["input-pipe", "mp4"], "-o", "input-pipe", "--format", "mp4")

    def test_a_name_given_twice_is_refused(self) -> None:
        os.symlink("a.gif", self.folder / "input-link.gif")
        self.refused(2, ["a.gif", "twice"], "-o", "a.gif", "-o", "./a.gif")
        self.refused(2, ["input-link.gif", "twice"], "-o", "a.gif", "-o", "input-link.gif")
        self.refused(2, ["a.png", "twice"], "-o", "a.png", "--preview", "a.png")

    def test_names_of_the_longest_kind(self) -> None:
        name = "模" * 83 + ".gif"
        self.made("-o", name)
        self.assertEqual([p.name for p in self.folder.iterdir()], [name])
        self.refused_after_removing(name, 1, ["too long"], "-o", "a" * 256 + ".gif")

    def refused_after_removing(self, name: str, code: int, words: list[str], *arguments) -> None:
        (self.folder / name).unlink()
        self.refused(code, words, *arguments)

    def test_rates_of_films(self) -> None:
        self.made("-o", "a.y4m", "--fps", "24000/1001")
        self.assertIn(b" F24000:1001 ", (self.folder / "a.y4m").read_bytes()[:80])
        (self.folder / "a.y4m").unlink()
        for rate in ("0/1", "24/0", "1/", "2000/1"):
            self.refused(2, ["--fps", rate], "-o", "a.y4m", "--fps", rate)

    def test_syntax_of_other_programs_in_the_prompt_is_told(self) -> None:
        for prompt, word in (("a red circle <lora:lightx2v:1.0>", "<lora:lightx2v:1.0>"),
                             ("a (red:1.5) circle", "(red:1.5)")):
            errors = self.assert_done(self.video("-m", MODEL, "-p", prompt, *ONE, "-o", "a.png"))
            self.assertIn(word, errors)

    def test_a_folder_is_no_prompt_file(self) -> None:
        result = self.video("-m", MODEL, "--prompt-file", ".", *ONE, "-o", "a.png")
        self.assert_refused(result, 1, "'.' is a folder")

    def test_unknown_options_are_named(self) -> None:
        self.refused(2, ["no option --hires-fix"], "-o", "a.png", "--hires-fix", "2")
        self.refused(2, ["'stray'"], "-o", "a.png", "stray")


if __name__ == "__main__":
    unittest.main()
