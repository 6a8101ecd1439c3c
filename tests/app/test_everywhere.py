"""What holds on every screen: palette, keymap, themes, state between starts, toasts, notices, signals, slow links."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.command import CommandPalette

from optsweep_tui.app import keymap, notices, palette, preferences, themes
from optsweep_tui.app.app import OptsweepApp
from optsweep_tui.app.memory import Memory
from optsweep_tui.app.model import RunRow
from optsweep_tui.app.preferences import Preferences
from optsweep_tui.charts import style
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace
from tests.app import made
from tests.app.driving import driven, sizes

# ---------------------------------------------------------------- palette


@pytest.mark.parametrize("mode", OptsweepApp.MODES)
async def test_the_palette_holds_every_action_of_the_screen_and_the_app(sweep_workspace: Workspace, mode: str) -> None:
    async with driven(sweep_workspace, (120, 40), mode) as driver:
        screen = driver.app.screen
        found = {entry.text.lower() for entry in palette.entries(driver.app, screen)}
        if mode == "compare":  # curves and figures each have actions that the other could not do anything with
            assert "its remarks" not in found
            await driver.press("v")
            figures = {entry.text.lower() for entry in palette.entries(driver.app, screen)}
            assert "crosshair" in found - figures
            found |= figures
        for kind in (type(screen), OptsweepApp):
            for binding in keymap.own(kind):
                if binding.id not in ("app.palette", "app.interrupt"):
                    assert binding.description.lower() in found, binding.id
        assert any(text.startswith("theme optsweep-light") for text in found)


@sizes
async def test_the_palette_finds_an_action_by_words_and_runs_it(
    sweep_workspace: Workspace, size: tuple[int, int]
) -> None:
    async with driven(sweep_workspace, size, "runs") as driver:
        await driver.press("ctrl+p")
        assert isinstance(driver.app.screen, CommandPalette)
        await driver.press(*"mark all shown")
        await driver.pilot.pause(0.3)
        await driver.press("enter")
        await driver.until(lambda: len(driver.app.marks) == 36)


async def test_the_palette_takes_keys_in_a_window_that_has_no_room_for_its_list(sweep_workspace: Workspace) -> None:
    async with driven(sweep_workspace, (120, 40)) as driver:
        await driver.press("ctrl+p")
        await driver.pilot.pause(0.3)
        await driver.press("end")
        await driver.pilot.resize_terminal(5, 3)
        await driver.press("pageup", "pagedown", "home", "end", "up", "escape")
        await driver.pilot.resize_terminal(120, 40)
        await driver.press("ctrl+p")
        await driver.until(lambda: "Collect results" in driver.text)


# ---------------------------------------------------------------- keys that meet a broken file


async def test_a_key_that_meets_a_broken_file_says_so_and_the_app_goes_on(empty_workspace: Workspace) -> None:
    made.plant(empty_workspace, made.spec())
    (empty_workspace.root / "hosts.toml").write_text("[hosts.box")
    async with driven(empty_workspace, (120, 40)) as driver:
        await driver.press("H")
        await driver.until(lambda: driver.heard("hosts.toml is not TOML"))
        await driver.press("6")
        await driver.until(lambda: "is not TOML" in driver.text)
        assert driver.app.is_running


# ---------------------------------------------------------------- keymap


def checked(**keys: str) -> dict[str, str]:
    names = {name.replace("__", "."): value for name, value in keys.items()}
    return keymap.checked(names, OptsweepApp.key_layers(), dict.fromkeys(names, "my.toml"))


def test_the_keys_as_they_are_have_no_clash() -> None:
    assert keymap.checked({}, OptsweepApp.key_layers()) == {}
    for _, kinds in OptsweepApp.key_layers():
        keys = [key for kind in kinds for binding in keymap.own(kind) for key in keymap.keys_of(binding.key)]
        assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"runs__makr": "f6"}, r'my.toml: \[keymap\]: binding "runs.makr" is not known; did you mean "runs.mark"'),
        ({"runs__mark": "nokey"}, '"nokey" is no key'),
        ({"runs__mark": "ctrl+"}, "is no key"),
        (
            {"runs__mark": "K"},
            "K would be both runs.cancel and runs.mark on screen runs|both runs.mark and runs.cancel",
        ),
        ({"app__quit": "j"}, "on screen"),
    ],
)
def test_a_keymap_that_cannot_work_is_refused_with_file_id_and_key(keys: dict[str, str], message: str) -> None:
    with pytest.raises(OptsweepError, match=message):
        checked(**keys)


def test_two_bindings_may_change_places_and_take_several_keys() -> None:
    assert checked(runs__mark="K", runs__cancel="space")
    assert checked(runs__mark="f6,?,ctrl+o,shift+left", app__help="f1")


async def test_a_keymap_of_the_config_file_is_obeyed_and_shown_in_the_help(sweep_workspace: Workspace) -> None:
    chosen = Preferences(keymap={"runs.mark": "f6", "app.quit": "ctrl+o"})
    async with driven(sweep_workspace, (120, 40), "runs", preferences=chosen) as driver:
        await driver.press("space")
        assert not driver.app.marks
        await driver.press("f6")
        assert len(driver.app.marks) == 1
        helped = await driver.press("question_mark")
        assert "f6  mark" in helped
        await driver.press("escape", "q")
        assert driver.app.is_running


def test_both_config_files_are_read_the_workspaces_over_the_users(
    empty_workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    own = tmp_path / "config" / "optsweep" / "config.toml"
    own.parent.mkdir(parents=True)
    own.write_text(
        '[keymap]\nruns.mark = "f6"\n"app.quit" = ["f9", "Q"]\n[tui]\nbell = true\ntheme = "optsweep-light"\n'
    )
    (empty_workspace.root / "optsweep.toml").write_text('slots = 1\n[keymap]\nruns.mark = "f7"\n[tui]\nbell = false\n')
    found = preferences.load(empty_workspace)
    assert found.keymap == {"runs.mark": "f7", "app.quit": "f9,Q"}
    assert (found.bell, found.theme, found.slow_link) == (False, "optsweep-light", False)
    from optsweep_tui import settings

    assert settings.workspace(empty_workspace.root).slots == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[keymap", "is not TOML"),
        ("[keymap]\nruns.mark = 3", r"\[keymap\] runs.mark = 3 is no key"),
        ("keymap = 3", "keymap = 3 is not a table"),
        ("[tui]\nbel = true", 'key "bel" is not known; did you mean "bell"'),
        ("[tui]\nbell = 1", "bell = 1 is neither true nor false"),
        ("[tui]\ntheme = 1", "theme = 1 is not a text"),
        ("[keys]\n", 'key "keys" is not known'),
    ],
)
def test_a_mistake_in_the_config_file_is_named(
    empty_workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    own = tmp_path / "optsweep" / "config.toml"
    own.parent.mkdir()
    own.write_text(text)
    with pytest.raises(OptsweepError, match=message) as found:
        preferences.load(empty_workspace)
    assert str(own) in str(found.value)


def test_an_unknown_theme_is_named(empty_workspace: Workspace) -> None:
    with pytest.raises(OptsweepError, match='theme "optswep-light" is not known; did you mean "optsweep-light"'):
        OptsweepApp(empty_workspace, preferences=Preferences(theme="optswep-light"))


# ---------------------------------------------------------------- themes


def contrast(first: str, second: str) -> float:
    """WCAG 2.1 contrast of two colours."""

    def luminance(colour: str) -> float:
        channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_every_fixed_colour_can_be_read_on_the_light_theme() -> None:
    ground = str(themes.LIGHT.background)
    for name in style.LOOKS:
        for count in (1, 4):
            for place in range(count):
                colour = themes.on_light(style.shade(style.colour_of(name), place, count))
                assert contrast(colour, ground) >= 2.9, (name, colour)  # the paper colours are made for 3 on pure white
    for colour in (style.ALIVE, style.BAD, style.GREY):
        assert contrast(themes.on_light(colour), ground) >= 4.5
    assert contrast(themes.on_light(style.FAINT), ground) >= 3


def test_sixteen_colours_are_names_that_a_terminal_knows_and_differ_by_hue() -> None:
    from rich.style import Style

    names = {themes.sixteen(look.colour) for look in style.LOOKS.values()}
    for name in names | {themes.sixteen(style.GREY), themes.sixteen(style.ALIVE), themes.sixteen(style.BAD)}:
        assert Style(color=name).color is not None
    assert len({themes.sixteen(style.colour_of(name)) for name in ("adamw", "muon", "sgd", "soap")}) == 4


async def test_a_theme_is_chosen_in_the_palette_and_kept_for_every_workspace(
    sweep_workspace: Workspace, tmp_path: Path
) -> None:
    async with driven(sweep_workspace, (120, 40), memory=Memory(sweep_workspace.root, tmp_path)) as driver:
        driver.app.choose_theme("optsweep-light")
        await driver.pilot.pause()
        colours = {
            segment.style.color.name
            for line in driver.app.screen._compositor.render_strips()
            for segment in line
            if segment.style is not None and segment.style.color is not None
        }
        assert themes.on_light(style.colour_of("adamw")) in colours
        assert style.colour_of("adamw") not in colours
    async with driven(sweep_workspace, (120, 40), memory=Memory(tmp_path / "another", tmp_path)) as driver:
        assert driver.app.theme == "optsweep-light"
    async with driven(sweep_workspace, (120, 40)) as driver:
        assert driver.app.theme == "optsweep"


# ---------------------------------------------------------------- state between starts


async def test_the_app_starts_as_it_was_left(sweep_workspace: Workspace, tmp_path: Path) -> None:
    async with driven(sweep_workspace, (120, 40), "runs", memory=Memory(sweep_workspace.root, tmp_path)) as driver:
        await driver.press("slash", *"muon", "enter", "space", "q")
    async with driven(sweep_workspace, (120, 40), "", memory=Memory(sweep_workspace.root, tmp_path)) as driver:
        assert driver.app.current_mode == "runs"
        assert len(driver.app.marks) == 1
        assert {row.line.optimizer for row in driver.app.listed_runs()} == {"muon"}
        assert " muon" in driver.text.split("\n")[2]


async def test_what_another_screen_asks_for_counts_before_how_a_screen_was_left(
    sweep_workspace: Workspace, tmp_path: Path
) -> None:
    memory = Memory(sweep_workspace.root, tmp_path)
    memory.put("Runs.filter_text", "sgd")
    memory.put("Run.left_at", "0" * 32)
    async with driven(sweep_workspace, memory=memory) as driver:
        await driver.press("i")
        await driver.settle()
        assert "opt:adamw model:bench-micro" in driver.text.split("\n")[2]
        await driver.press("enter")
        wanted = driver.app.listed_runs()[0].run_id
        await driver.settle()
        assert wanted in driver.text


@given(st.one_of(st.binary(max_size=60), st.from_regex(rb'\{"(mode|study|marks|Runs\.chosen|Runs\.sort)": .{0,20}\}')))
def test_garbage_in_the_state_file_is_forgotten(tmp_path_factory: Any, content: bytes) -> None:
    place = tmp_path_factory.mktemp("state")
    memory = Memory(Path("/w"), place)
    memory.put("mode", "runs")
    memory.save()
    (file,) = [path for path in place.iterdir() if path.name != "tui.json"]
    file.write_bytes(content)
    again = Memory(Path("/w"), place)
    assert isinstance(again.get("mode", "sweep"), str)
    assert all(isinstance(entry, str) for entry in again.get("marks", list[str]()))
    assert isinstance(again.get("Runs.chosen", list[str]()), list)
    again.save()


def test_a_state_folder_that_cannot_be_made_troubles_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    memory = Memory(Path("/w"), tmp_path / "file" / "deeper")
    memory.put("mode", "runs")
    memory.save()
    assert Memory(None).forgetful


async def test_a_wrong_kind_of_state_still_starts(sweep_workspace: Workspace, tmp_path: Path) -> None:
    memory = Memory(sweep_workspace.root, tmp_path)
    for name, value in {
        "mode": "nowhere", "study": 3, "marks": [1, 2], "Runs.sort": "nothing", "Runs.chosen": ["nothing", "loss"],
        "Runs.descending": "yes", "Sweep.gaps": 1,
    }.items():  # fmt: skip
        memory.put(name, value)
    async with driven(sweep_workspace, (80, 24), "", memory=memory) as driver:
        assert driver.app.current_mode == "sweep"
        await driver.press("2")
        assert "loss, nats" in driver.text


# ---------------------------------------------------------------- toasts and notices


async def test_the_same_words_are_shown_once_and_signs_are_only_signs(sweep_workspace: Workspace) -> None:
    async with driven(sweep_workspace, (120, 40)) as driver:
        for _ in range(3):
            driver.app.notify("trouble at [tui] theme = [/oops]")
        driver.app.notify("another")
        await driver.pilot.pause(0.1)
        assert [toast.message for toast in driver.app._notifications] == ["trouble at [tui] theme = [/oops]", "another"]
        await driver.pilot.pause(0.1)
        assert "[/oops]" in driver.text


def snapshots(*pairs: tuple[str, str]) -> tuple[Any, Any]:
    specs = [made.spec(lr=0.001 * (1 + place)) for place in range(len(pairs))]
    return tuple(
        made.snapshot([made.row(spec, pair[side], 2.0) for spec, pair in zip(specs, pairs, strict=True)])
        for side in (0, 1)
    )


@pytest.mark.parametrize(
    ("pairs", "text", "wrong"),
    [
        ([("running", "done"), ("queued", "queued")], "done: adamw 1/4 lr 0.001 seed 0, loss 2.000", False),
        ([("running", "diverged"), ("running", "done"), ("running", "running")],
         "runs: 1 done, 1 diverged: adamw 1/4 lr 0.001 seed 0", True),
        ([("running", "lost"), ("queued", "queued")], "lost: adamw 1/4 lr 0.001 seed 0", True),
        ([("running", "done")],
         "done: adamw 1/4 lr 0.001 seed 0, loss 2.000   nothing is running or waiting any more", False),
    ],
)  # fmt: skip
def test_what_ended_is_told_in_one_line(pairs: list[tuple[str, str]], text: str, wrong: bool) -> None:
    found = notices.ended(*snapshots(*pairs))
    assert found is not None
    assert (found.text, found.wrong) == (text, wrong)


@pytest.mark.parametrize(
    "pair", [("done", "done"), ("queued", "running"), ("running", "cancelled"), ("done", "queued")]
)
def test_what_is_no_news_is_not_told(pair: tuple[str, str]) -> None:
    assert notices.ended(*snapshots(pair, ("queued", "queued"))) is None


def test_runs_that_are_seen_for_the_first_time_are_no_news() -> None:
    before, now = snapshots(("running", "done"))
    assert notices.ended(made.snapshot([]), now) is None
    assert notices.ended(before, made.snapshot([*before.rows, made.row(made.spec("muon", lr=0.02), "done")])) is None


async def test_the_end_of_a_run_is_announced_with_the_bell_where_that_is_wanted(
    empty_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung: list[int] = []
    monkeypatch.setattr(OptsweepApp, "bell", lambda self: rung.append(1))
    rows: list[RunRow] = [made.row(made.spec(), "running"), made.row(made.spec("muon", lr=0.02), "queued", None)]
    for bell in (False, True):
        async with driven(empty_workspace, (120, 40), preferences=Preferences(bell=bell)) as driver:
            app = driver.app
            app.feed.stop()
            app.on_optsweep_app_snapshot_taken(app.SnapshotTaken(made.snapshot(rows)))
            now = [made.row(made.spec(), "diverged", None), rows[1]]
            app.on_optsweep_app_snapshot_taken(app.SnapshotTaken(made.snapshot(now)))
            await driver.until(lambda driver=driver: "diverged: adamw" in driver.text)  # type: ignore[misc]
    assert rung == [1]


# ---------------------------------------------------------------- the rest


async def test_a_slow_link_means_fewer_looks_and_no_animation(sweep_workspace: Workspace) -> None:
    async with driven(sweep_workspace, preferences=Preferences(slow_link=True)) as driver:
        assert driver.app.animation_level == "none"
        assert driver.app.poller._interval > 0.5
        assert driver.app.feed._interval > 1.0


def test_the_app_loads_none_of_the_slow_libraries_before_its_first_frame() -> None:
    slow = ("pandas", "scipy", "duckdb", "torch", "jax")
    code = f"import sys, optsweep_tui.app.app; print([name for name in {slow} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


async def test_every_click_has_a_key(sweep_workspace: Workspace) -> None:
    """Tabs, cells, rows, titles: what a click does, a key does as well."""
    async with driven(sweep_workspace, (120, 40)) as driver:
        await driver.pilot.click("#top", offset=(driver.text.split("\n")[1].index("Hosts"), 1))
        await asyncio.sleep(0)
        await driver.pilot.pause()
        assert driver.app.current_mode == "hosts"
        await driver.press("2")
        assert driver.app.current_mode == "runs"


@pytest.mark.parametrize("width", [0, 1, 3, 9])
def test_the_words_of_a_figure_fit_a_window_of_no_columns(width: int) -> None:
    from optsweep_tui.charts import static
    from optsweep_tui.charts.figure import Figure

    assert static._wrapped("words of a caption that are wrapped", width, indent=2)
    assert (
        static.words_rows(Figure(kind="lr", title="t", panels=(), caption=("a long sentence of words",)), width)
        is not None
    )
