"""Makes the pictures of this folder from a real run: one minute of training, and what is done with its model then.

To make them anew, on a machine with tmux 3.2 or newer and nothing else to do:

    pip install .
    python docs/pictures/make.py

It takes two minutes. `python docs/pictures/make.py FOLDER` keeps the run and the recording of the terminal in FOLDER.
If they are there already, they are drawn again.

* terminal.svg: `charlm train`, `sample` and `predict-next`, typed into a shell on a terminal of tmux
* quote-cell.svg: the unit that `charlm inspect --find` names for `inside quotes`, in held-out text
* curve.svg: the curve in the `metrics.jsonl` of the run, and figures of `charlm eval --json`
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cards import Curve, chart, coloured_text
from film import Frame, film

import charlm
from charlm.inference.activations import shown_values

PICTURES = Path(__file__).parent
COLUMNS, ROWS = 80, 24
# Seconds between two keys: of a command, and of the text whose next characters are shown.
COMMAND_PACE, TEXT_PACE = 0.04, 0.22
# The keys that are pressed after that text: the most probable word, and the gates.
PROMPT_KEYS = ("Tab", "C-g")
# Seconds for which each scene stands still at its end, so that it can be read.
RESTS = {"train": 5.0, "sample": 5.0, "predict-next": 6.0}
TRAINING_SECONDS = 10
# Seconds for which a screen is shown at least: of a scene in its own time, and of one that is shown faster.
LEAST, LEAST_OF_FASTER = 0.04, 0.25
PASSAGE_CHARACTERS = 640
MAX_BYTES = 300_000
# What the pages say of the pictures is not true of a run that learned less.
LEAST_AUC = 0.95
BUSY = "make the pictures again in another folder, when the machine has nothing else to do"


@dataclass(frozen=True)
class Look:
    """What a terminal shows at a moment.

    Attributes:
        seconds: when, on any clock.
        scene: which of the scenes is played.
        screen: its lines, with escape sequences for their colours.
        cursor: the column and the row of its cursor, or None if it is hidden.
    """

    seconds: float
    scene: str
    screen: str
    cursor: tuple[int, int] | None


class Shell:
    """A shell in a folder, on a terminal that nobody sees, and what was to be seen there."""

    def __init__(self, folder: Path) -> None:
        self.looks: list[Look] = []
        self._scene = ""
        self._tmux = ["tmux", "-S", str(folder / "tmux"), "-f", os.devnull]
        # Nothing of the user's own files is shown, neither settings nor a history.
        hidden = ("CHARLM_", "XDG_", "CI", "NO_COLOR", "TMUX")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment = kept | {"HOME": str(folder), "PATH": path, "COLORTERM": "truecolor"}
        size = ["-x", str(COLUMNS), "-y", str(ROWS)]
        self._ask("new-session", "-d", *size, "-c", str(folder), "env PS1='$ ' bash --noprofile --norc")

    def _ask(self, *arguments: str) -> str:
        command = [*self._tmux, *arguments]
        return subprocess.run(command, env=self._environment, check=True, capture_output=True, text=True).stdout

    def scene(self, name: str) -> None:
        """Start a scene on an empty screen."""
        self._ask("send-keys", "C-l")
        time.sleep(0.3)
        self._scene = name

    def look(self) -> Look:
        """Record what is to be seen now."""
        place = "#{cursor_x} #{cursor_y} #{cursor_flag}"
        *lines, last = self._ask("capture-pane", "-e", "-N", "-p", ";", "display-message", "-p", place).splitlines()
        column, row, is_shown = map(int, last.split())
        look = Look(time.monotonic(), self._scene, "\n".join(lines), (column, row) if is_shown else None)
        self.looks.append(look)
        return look

    def watch(self, seconds: float, every: float = 0.02) -> None:
        """Record what is to be seen for some time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.look()
            time.sleep(every)

    def type(self, text: str, pace: float = COMMAND_PACE) -> None:
        """Press keys one after another."""
        for character in text:
            self._ask("send-keys", "-l", character)
            self.watch(pace)

    def press(self, key: str) -> None:
        """Press a key that has a name."""
        self._ask("send-keys", key)

    def wait_for(self, text: str, patience: float = 60.0) -> None:
        """Record what is to be seen until a text is on the screen, which no command that was typed contains."""
        end = time.monotonic() + patience
        while text not in self.look().screen:
            if time.monotonic() > end:
                raise SystemExit(f"`{text}` is not to be seen after {patience:.0f} seconds")
            time.sleep(0.02)

    def run(self, command: str, every: float = 0.02) -> None:
        """Type a command and watch it until the shell is back."""
        self.type(command)
        self.watch(0.3)
        self.press("Enter")
        self.watch(0.5)
        while self._ask("display-message", "-p", "#{pane_current_command}").strip() != "bash":
            self.look()
            time.sleep(every)
        self.watch(0.3)

    def close(self) -> None:
        """End the shell and what runs in it."""
        self._ask("kill-server")


def record(folder: Path) -> list[Look]:
    """Type the commands of the animation, and return what was to be seen."""
    shell = Shell(folder)
    try:
        shell.scene("train")
        shell.run("charlm train --seed 1", every=0.2)
        shell.scene("sample")
        shell.run('charlm sample "The old fox" --length 300 --temperature 0.6 --seed 1')
        shell.scene("predict-next")
        shell.type("charlm predict-next")
        shell.press("Enter")
        shell.wait_for("/help")
        shell.watch(1.0)
        shell.type("The old fox said to the ha", TEXT_PACE)
        shell.watch(3.0)
        for key in PROMPT_KEYS:
            shell.press(key)
            shell.watch(3.0)
    finally:
        shell.close()
    return shell.looks


def frames(looks: list[Look], times: int) -> tuple[list[Frame], float]:
    """Return when each screen is shown in the animation, and how long that is.

    Args:
        looks: what was to be seen.
        times: how many times as long as needed each screen is shown at least.
    """
    found: list[Frame] = []
    start = 0.0
    for scene in dict.fromkeys(look.scene for look in looks):
        of_scene = [look for look in looks if look.scene == scene]
        first_look = of_scene[0]
        first, last = first_look.seconds, of_scene[-1].seconds
        # The training is shown faster than it was, everything else as it was.
        speed = max(round((last - first) / TRAINING_SECONDS), 1) if scene == "train" else 1
        caption = f"charlm {scene}: " + (f"a minute, shown {speed} times as fast" if speed > 1 else "in real time")
        least = times * (LEAST_OF_FASTER if speed > 1 else LEAST)
        for look, following in zip(of_scene, [*of_scene[1:], None], strict=True):
            seconds = start + (look.seconds - first) / speed
            is_changed = not found or found[-1][1:] != (caption, look.screen, look.cursor)
            is_due = look is first_look or seconds - found[-1].seconds >= least or following is None
            if is_changed and is_due:
                found.append(Frame(seconds, caption, look.screen, look.cursor))
        start += (last - first) / speed + RESTS[scene]
    return found, start


def asked(folder: Path, *arguments: str) -> Any:
    """Return what a command prints with `--json`."""
    command = [sys.executable, "-m", "charlm", *arguments, "--json"]
    return json.loads(subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE).stdout)


def terminal(folder: Path) -> str:
    """Draw the recording of the terminal."""
    recording = folder / "terminal.json"
    if not recording.exists():
        recording.write_text(json.dumps([asdict(look) for look in record(folder)]), encoding="utf-8")
    looks = [Look(**look) for look in json.loads(recording.read_text(encoding="utf-8"))]
    # Screens that change all over take much room. If need be, fewer of the changes are shown.
    for times in (1, 2, 4, 8):
        picture = film(*frames(looks, times), COLUMNS, ROWS)
        if len(picture.encode()) <= MAX_BYTES:
            return picture
    raise SystemExit(f"the animation has {len(picture.encode()):,} bytes, more than {MAX_BYTES:,}")


def run_in(folder: Path) -> Path:
    """Return the folder of the run."""
    (run,) = (folder / "runs").iterdir()
    return run


def quote_cell(folder: Path) -> str:
    """Draw a passage coloured by the unit that follows quotes best."""
    findings = asked(folder, "inspect", "--find")["findings"]
    (best, *_) = next(finding["units"] for finding in findings if finding["hypothesis"] == "inside quotes")
    if best["figure"] < LEAST_AUC:
        raise SystemExit(f"no unit of this run follows quotes: {BUSY}")
    unit = asked(folder, "inspect", "--unit", best["unit"])
    text, values = unit["text"], np.array(unit["values"][best["part"]], np.float32)
    shown, lowest, change = shown_values(charlm.load(run_in(folder)).spec.recurrence, best["part"], values)
    start = text.index('\n"') + 1
    end = text.index("\n", start + PASSAGE_CHARACTERS)
    part = f"{best['part']} ({change})" if change else best["part"]
    title = f"Unit {best['unit']} of the net in held-out text: {part}"
    about = f"It tells inside quotes from outside: AUC {best['figure']:.3f}, where 0.5 is chance and 1 is perfect"
    return coloured_text(text[start:end], shown[start:end].tolist(), lowest, title, about)


def curve(folder: Path) -> str:
    """Draw the bits per character of the run over its time, and what to compare them with."""
    lines = (run_in(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    scored = asked(folder, "eval")
    (counts,) = [row for row in scored["baselines"] if "gram" in row["name"] and row["name"] != "unigram"]

    def series(name: str, key: str, kind: str) -> Curve:
        points = [(record["seconds"], record[key]) for record in records if record.get(key) is not None]
        return Curve(name, kind, points)

    bits = scored["bits_per_character"]
    held_out = series("held-out text, net alone", "validation_bits_per_character", "valid")
    if held_out.points[-1][1] >= counts["bits_per_character"]:
        raise SystemExit(f"the net of this run is no better than the {counts['name']} model: {BUSY}")
    return chart(
        "Bits per character of the bundled fables in one minute of training; lower is better",
        [
            series("training text", "train_bits_per_character", "train"),
            held_out,
        ],
        (f"{counts['name']}: {counts['bits_per_character']:.3f}", counts["bits_per_character"]),
        (f"net and n-grams: {bits:.3f}", bits),
    )


def main() -> None:
    """Make the pictures."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    # All are drawn before one is written, so that they always show one run.
    drawn = {draw.__name__: draw(folder) for draw in (terminal, quote_cell, curve)}
    for name, picture in drawn.items():
        path = PICTURES / f"{name.replace('_', '-')}.svg"
        path.write_text(picture, encoding="utf-8")
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
