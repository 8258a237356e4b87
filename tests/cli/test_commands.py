"""The commands as a user types them: results, messages and exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirrorfs import __version__
from mirrorfs.cli.commands import COMMANDS
from mirrorfs.errors import ExitCode
from tests.commands import MIRRORFS, as_nobody, mirrorfs, run, wait_for
from tests.disks import loop_mounted

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.mounted import Mirror


def refused(code: ExitCode, *words: str | Path) -> str:
    """Run a command that must fail with this code and one line on stderr; returns the line."""
    done = mirrorfs(*words, check=False)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("mirrorfs: ")
    return line


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    backing, point = tmp_path / "backing", tmp_path / "point"
    backing.mkdir()
    point.mkdir()
    return backing, point


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("zeroes=punch", "did you mean 'zeros'"),
        ("zeros=drop", "zeros=punch or zeros=keep"),
        ("unchanged", "unchanged=skip or unchanged=write"),
        ("block=5000", "power of two"),
        ("block=1k", "power of two"),
        ("block", "needs a value"),
        ("ro=1", "takes no value"),
        ("control=a/b", "name of a folder"),
        ("attr_timeout=soon", "number of seconds"),
        ("block=1G", "between 4k and 16M"),
        ("block=" + "9" * 5000, "is not a size"),
        ("descriptors=16", "unknown option 'descriptors'"),
        ("readahead=0", "unknown option 'readahead'"),
        ("sparse_operations=off", "unknown option 'sparse_operations'"),
        ("log=/nowhere/file", "No such file"),
    ],
)
def test_mount_names_the_option_that_is_wrong(
    places: tuple[Path, Path], options: str, reason: str
) -> None:
    assert reason in refused(ExitCode.USAGE, "mount", *places, "-o", options)
    assert not os.path.ismount(places[1])


def test_a_mistyped_command_is_no_backing_folder(
    places: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "did you mean" not in refused(ExitCode.USAGE, "frobnicate")
    assert "did you mean 'mount'" in refused(ExitCode.USAGE, "mout")
    assert "did you mean 'mount'" in refused(ExitCode.USAGE, "moutn", *places)
    assert "did you mean 'umount'" in refused(ExitCode.USAGE, "unmount", places[1])
    assert "unknown command 'foo'" in refused(ExitCode.USAGE, "help", "foo")
    monkeypatch.chdir(tmp_path)
    assert "no such folder" in refused(ExitCode.MOUNT_FAILED, "./backing2", "point")
    assert "no such folder" in refused(ExitCode.MOUNT_FAILED, "backing2", "point", "-o", "rw")
    Path("vm").mkdir()
    said = "mirrorfs: unknown command 'vm'; see 'mirrorfs --help'"
    assert refused(ExitCode.USAGE, "vm", places[1]) == said
    assert refused(ExitCode.USAGE, "vm", "point") == said
    assert not os.path.ismount(places[1])
    Path("unmount").mkdir()
    mirrorfs("unmount", "point", "-o", f"log={tmp_path}/log")
    mirrorfs("umount", "-l", "point")


@pytest.mark.parametrize(
    "words", [["mount"], ["umount"], ["stats", "--jsn"], ["mount", "a", "b", "c"]]
)
def test_a_wrong_word_points_to_the_help_of_its_command(words: list[str]) -> None:
    assert f"see 'mirrorfs {words[0]} --help'" in refused(ExitCode.USAGE, *words)


def test_mount_refuses_places_that_cannot_be_used(places: tuple[Path, Path]) -> None:
    backing, point = places
    (backing / "file").write_text("x")
    (backing / "inside").mkdir()
    assert "no such folder" in refused(ExitCode.BACKING, "mount", backing / "none", point)
    assert "not a folder" in refused(ExitCode.BACKING, "mount", backing / "file", point)
    assert "no such folder" in refused(ExitCode.MOUNT_POINT, "mount", backing, point / "none")
    assert "not a folder" in refused(ExitCode.MOUNT_POINT, "mount", backing, backing / "file")
    assert "inside the backing" in refused(
        ExitCode.MOUNT_POINT, "mount", backing, backing / "inside"
    )
    (point / "something").write_text("x")
    assert "nonempty" in refused(ExitCode.MOUNT_POINT, "mount", backing, point)
    (backing / ".mirrorfs").mkdir()
    (point / "something").unlink()
    assert "control=NAME" in refused(ExitCode.BACKING, "mount", backing, point)


def test_a_second_daemon_on_one_folder_is_refused(mirror: Mirror, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    assert "already" in refused(ExitCode.IN_USE, "mount", mirror.backing, other)
    assert "already" in refused(ExitCode.IN_USE, "mount", tmp_path, mirror.path)
    assert "mirrorfs mount" in refused(ExitCode.BACKING, "mount", mirror.path, other)


def test_a_folder_can_be_mounted_over_itself(ext4_folder: Path, tmp_path: Path) -> None:
    (ext4_folder / "file").write_text("before")
    mirrorfs("mount", ext4_folder, ext4_folder, "-o", f"log={tmp_path}/log")
    assert (ext4_folder / "file").read_text() == "before"
    (ext4_folder / "file").write_text("after")
    mirrorfs("umount", ext4_folder)
    assert (ext4_folder / "file").read_text() == "after"


def test_mount_in_the_form_of_mount8(places: tuple[Path, Path], tmp_path: Path) -> None:
    backing, point = places
    words = (
        f"rw,dev,suid,nofail,_netdev,noatime,x-systemd.automount,X-mount.mkdir,"
        f"mand,nomand,iversion,_rnetdev,block=64k,log={tmp_path}/log"
    )
    mirrorfs(backing, point, "-o", words)
    assert "fuse.mirrorfs" in run("findmnt", "-n", "-o", "FSTYPE", point).stdout
    assert run("findmnt", "-n", "-o", "SOURCE", point).stdout.strip() == str(backing)
    mirrorfs("umount", point)
    refused(ExitCode.MOUNT_FAILED, backing / "none", point, "-o", "rw")


def test_a_read_only_mount_refuses_writes(places: tuple[Path, Path], tmp_path: Path) -> None:
    backing, point = places
    (backing / "file").write_text("x")
    mirrorfs("mount", backing, point, "-o", f"ro,log={tmp_path}/log")
    with pytest.raises(OSError, match="Read-only"):
        (point / "file").write_text("y")
    assert (point / "file").read_text() == "x"
    mirrorfs("umount", point)


def test_umount_names_the_process_that_holds_the_mount(mirror: Mirror) -> None:
    mirror.write("file", 0, b"x")
    with (mirror.path / "file").open("rb"):
        line = refused(ExitCode.BUSY, "umount", mirror.path)
        assert f"({os.getpid()})" in line
    mirrorfs("umount", mirror.path)
    refused(ExitCode.NOT_A_MOUNT, "umount", mirror.path)


def test_umount_returns_when_the_daemon_has_ended(mirror: Mirror) -> None:
    pid = mirror.pid
    mirrorfs("umount", mirror.path)
    # The daemon may still be a zombie, which init has to reap, but runs no more.
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return
    assert state == "Z"


def test_stats_of_a_mount_and_of_a_file(mirror: Mirror) -> None:
    mirror.write("file", 0, b"x" * 5000)
    stats = json.loads(mirrorfs("stats", mirror.path, "--json").stdout)
    assert stats["counters"]["written_bytes"] == 5000
    assert stats["schema"] == 1
    stats = json.loads(mirrorfs("stats", mirror.path / "file", "--json").stdout)
    assert stats["counters"]["received_bytes"] == 5000
    assert "received           4.88 KiB" in mirrorfs("stats", mirror.path).stdout
    assert "not in a mirrorfs" in refused(ExitCode.NOT_A_MOUNT, "stats", "/usr")


def test_stats_metrics_and_config_json_agree_with_stats_json(mirror: Mirror) -> None:
    mirror.write("file", 0, b"x" * 5000 + bytes(9000))
    control = mirror.path / ".mirrorfs"
    lines = dict(line.split() for line in (control / "stats").read_text().splitlines())
    counters = mirror.stats()["counters"]
    for name, value in counters.items():
        if name != "errors":
            assert int(lines[name]) == value
    metrics = (control / "metrics").read_text()
    labels = f'{{backing="{mirror.backing}",mount_point="{mirror.path}"}}'
    assert f"mirrorfs_hole_bytes_total{labels} {float(counters['hole_bytes'])}" in metrics
    series = [line for line in metrics.splitlines() if not line.startswith("#")]
    assert all('mount_point="' in line for line in series)
    files = json.loads((control / "files.json").read_text())["files"]
    assert files["file"]["received_bytes"] == 14000
    config = json.loads((control / "config.json").read_text())
    assert config["options"]["zeros"] == {"value": "punch", "from": "default"}
    assert config["options"]["log"] == {"value": str(mirror.log), "from": "given"}
    assert config["options"]["block"] == {"value": 4096, "from": "default"}
    assert config["options"]["allow_other"] == {"value": True, "from": "default"}
    assert None not in [option["value"] for option in config["options"].values()]


def mounted_in_foreground(backing: Path, point: Path) -> subprocess.Popen[str]:
    daemon = subprocess.Popen(
        [*MIRRORFS, "mount", backing, point, "--foreground"], stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: os.path.ismount(point))
    return daemon


def test_a_mount_in_the_foreground_ends_with_sigint(places: tuple[Path, Path]) -> None:
    backing, point = places
    daemon = mounted_in_foreground(backing, point)
    (point / "file").write_text("x")
    daemon.send_signal(signal.SIGINT)
    _, log = daemon.communicate(timeout=60)
    assert daemon.returncode == 0
    assert "mounted" in log
    assert "Traceback" not in log
    assert not os.path.ismount(point)


def test_a_second_sigterm_while_a_mount_ends_cuts_open_files_off(
    places: tuple[Path, Path],
) -> None:
    backing, point = places
    (backing / "file").write_bytes(b"x" * 5000)
    daemon = mounted_in_foreground(backing, point)
    last = os.open(point / "file", os.O_WRONLY)  # for which the mount waits
    daemon.send_signal(signal.SIGTERM)
    wait_for(lambda: not os.path.ismount(point))
    daemon.send_signal(signal.SIGTERM)
    with contextlib.suppress(OSError):  # ENOTCONN, where the second signal comes first
        os.close(last)
    _, log = daemon.communicate(timeout=60)
    assert daemon.returncode == 0
    assert "unmounted" in log
    assert "Traceback" not in log


def test_a_file_system_without_holes_is_refused_with_the_reason(tmp_path: Path) -> None:
    disk, point = tmp_path / "disk", tmp_path / "point"
    disk.mkdir()
    point.mkdir()
    run("mount", "-t", "ramfs", "none", disk)
    try:
        assert "allow_dense" in refused(ExitCode.BACKING, "mount", disk, point)
        mirrorfs("mount", disk, point, "-o", f"allow_dense,log={tmp_path}/log")
        content = b"x" * 5000 + bytes(20_000) + b"y"
        for _ in range(2):
            with (point / "file").open("r+b" if (point / "file").exists() else "wb") as file:
                file.write(content)
        assert (disk / "file").read_bytes() == content
        counters = json.loads((point / ".mirrorfs/stats.json").read_text())["counters"]
        assert counters["unchanged_bytes"] == len(content)
        mirrorfs("umount", point)
    finally:
        run("umount", "-l", disk)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_on_stdout_and_fits_a_terminal(command: str) -> None:
    words = [command] if command else []
    done = mirrorfs(*words, "--help")
    assert "usage" in done.stdout
    assert done.stderr == ""
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert mirrorfs("help", *words).stdout == done.stdout


def test_without_any_word_the_help_is_printed_on_stderr() -> None:
    done = mirrorfs(check=False)
    assert (done.returncode, done.stdout) == (ExitCode.USAGE, "")
    assert done.stderr == mirrorfs("--help").stdout


def test_the_version_is_printed() -> None:
    assert mirrorfs("-V").stdout == mirrorfs("--version").stdout == f"mirrorfs {__version__}\n"


def test_help_and_what_only_looks_import_nothing_heavy() -> None:
    code = (
        "import sys; from mirrorfs.cli.main import main; main(['mount', '--help']);"
        "import mirrorfs.cli.stats, mirrorfs.cli.top, mirrorfs.cli.umount;"
        "import mirrorfs.cli.status, mirrorfs.cli.history, mirrorfs.cli.check;"
        "assert not {'trio', 'pyfuse3', 'rich'} & set(sys.modules), sys.modules.keys()"
    )
    run(MIRRORFS[0], "-c", code)


@pytest.mark.usefixtures("fuse_for_all")
def test_an_ordinary_user_can_mount() -> None:
    base = Path(run("mktemp", "-d").stdout.strip())
    base.chmod(0o755)
    point, backing = base / "point", base / "backing"
    for folder in (point, backing):
        folder.mkdir()
        os.chown(folder, 65534, 65534)

    # So few may be open that files are known without a descriptor.
    options = f"log={backing}/log,attr_timeout=0"
    as_nobody("mount", backing, point, "-o", options, under=("prlimit", "--nofile=64"))
    try:
        calls = f"""
import os
os.setgid(65534)
os.setuid(65534)
with open('{point}/file', 'wb') as file:
    file.write(b'x' * 5000 + bytes(9000))
os.rename('{point}/file', '{point}/new')
os.chmod('{point}/new', 0o400)
os.symlink('x', '{point}/link')
for mode in (0o444, 0o200, 0):
    fd = os.open(f'{point}/made', os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
    assert os.pwrite(fd, b'mine', 0) == 4 and os.pread(fd, 9, 0) == b'mine'
    os.close(fd)
    assert os.stat(f'{point}/made').st_mode & 0o777 == mode
    os.unlink(f'{point}/made')
assert sorted(os.listdir('{point}')) == ['link', 'log', 'new']
os.mkdir('{point}/many')
for number in range(100):
    with open(f'{point}/many/{{number}}', 'w') as file:
        file.write(str(number))
os.rename('{point}/many', '{point}/moved')
for number in range(100):
    with open(f'{point}/moved/{{number}}') as file:
        assert file.read() == str(number)
"""
        run(MIRRORFS[0], "-c", calls)
        status = (backing / "new").stat()
        assert (status.st_uid, status.st_size, stat.S_IMODE(status.st_mode)) == (
            65534,
            14_000,
            0o400,
        )
        with pytest.raises(PermissionError):
            os.listdir(point)
    finally:
        as_nobody("umount", point)
    assert not os.path.ismount(point)
    run("rm", "-r", base)


def test_a_file_system_mounted_inside_is_crossed(mirror: Mirror, tmp_path: Path) -> None:
    with loop_mounted("ext4", tmp_path, 64) as disk:
        inner = mirror.backing / "inner"
        inner.mkdir()
        run("mount", "--bind", disk, inner)
        try:
            mirror.write("inner/file", 0, b"x" * 4096 + bytes(4096))
            mirror.write("file", 0, b"y")
            assert mirror.account("inner/file").hole_bytes == 4096
            assert sorted(os.listdir(mirror.path / "inner")) == ["file", "lost+found"]
            with pytest.raises(OSError, match="cross-device"):
                os.rename(mirror.path / "file", mirror.path / "inner/other")
        finally:
            mirror.umount()
            run("umount", "-l", inner)


def test_the_control_folder_can_have_another_name(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder, "control=.account")
    mirror.write("file", 0, b"x")
    assert "received_bytes 1" in (mirror.path / ".account/stats").read_text()
    assert json.loads(mirrorfs("stats", mirror.path, "--json").stdout)["counters"]
    mirrorfs("umount", mirror.path)


def test_a_folder_can_be_mounted_again_right_after_umount8(mirror: Mirror) -> None:
    for _ in range(3):
        mirror.write("file", 0, b"x" * 100_000)
        run("umount", mirror.path)
        mirror.mount()
