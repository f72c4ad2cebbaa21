"""Audio and video that is not read: which files these are, and the commands that convert them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from exvo.config import FeatureConfig
from exvo.text import LONGEST_NAME, printable

UNREAD = (
    *(".3g2", ".3ga", ".3gp", ".aa3", ".aac", ".ac3", ".alac", ".amr", ".ape", ".asf", ".au", ".avi", ".awb"),
    *(".caf", ".dff", ".dsf", ".dss", ".dts", ".eac3", ".f4a", ".f4v", ".flv", ".gsm", ".m2ts", ".m4a", ".m4b"),
    *(".m4p", ".m4r", ".m4v", ".mka", ".mkv", ".mov", ".mp1", ".mp2", ".mp4", ".mpc", ".mpeg", ".mpg", ".mts"),
    *(".mxf", ".nist", ".ogv", ".oma", ".qcp", ".ra", ".rm", ".shn", ".snd", ".sph", ".spx", ".tak"),
    *(".ts", ".tta", ".vob", ".voc", ".w64", ".weba", ".webm", ".wma", ".wmv", ".wv"),
)
"""Endings of files of audio and video that are not read, but that ffmpeg converts."""

_CONVERT = f"ffmpeg -nostdin -n -i {{}} -ac 1 -ar {FeatureConfig.sample_rate} {{}}"


def why_left_out(path: str, endings: Sequence[str]) -> str:
    """Why an entry of a folder is left out whatever its format, as a noun in the plural; empty where it is not.

    Args:
        path: of the file or folder.
        endings: of audio that is read, in small letters.
    """
    name = os.path.basename(path)
    if name.startswith(".") or name == "__MACOSX":  # which macOS adds to archives
        return "hidden files or folders"
    if os.path.isfile(path):
        return ""
    if os.path.islink(path):
        return "links to folders, which are not followed" if os.path.isdir(path) else "broken links"
    if not os.path.isdir(path) and os.path.splitext(name)[1].lower() in (*endings, *UNREAD):
        return "pipes, devices or files that can't be looked at"
    return ""


def with_conversion(problem: str, path: str) -> str:
    """The problem of an audio file, followed by the command that converts it where its format is not read.

    >>> with_conversion("not audio", "in.m4a"), with_conversion("missing", "in.m4a")
    ('not audio; convert it: ffmpeg -nostdin -n -i in.m4a -ac 1 -ar 16000 in.m4a.wav', 'missing')
    """
    if problem in ("missing", "empty file", "a folder") or os.path.splitext(path)[1].lower() not in UNREAD:
        return problem
    safe = printable(f"./{path}" if path.startswith("-") else path, LONGEST_NAME)
    return f"{problem}; convert it: {_CONVERT.format(shlex.quote(safe), shlex.quote(f'{safe}.wav'))}"


def folder_conversion(folder: str, endings: Sequence[str]) -> str:
    """The command that converts all files of a folder with one of these endings, each into a WAV file beside it.

    >>> print(folder_conversion("clips", [".m4a"]))
    find clips '!' -name '.*' '(' -iname '*.m4a' ')' -exec ffmpeg -nostdin -n -i '{}' -ac 1 -ar 16000 '{}.wav' ';'
    """
    names = [word for ending in endings for word in ("-o", "-iname", f"*{ending}")][1:]
    safe = printable(f"./{folder}" if folder.startswith("-") else folder, LONGEST_NAME)
    words = ["find", safe, "!", "-name", ".*", "(", *names, ")"]
    return shlex.join([*words, "-exec", *_CONVERT.format("{}", "{}.wav").split(), ";"])
