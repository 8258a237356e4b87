"""Mount options as they are declared: defaults, good values, and what is said of bad ones."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from mirrorfs.errors import UsageError
from mirrorfs.options import OPTIONS, MountOptions, Option, describe, parse

FIELDS = {one.metadata["option"].name: one for one in fields(MountOptions) if one.metadata}


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_the_default_of_an_option_is_what_its_words_say(option: Option) -> None:
    default = getattr(MountOptions(), FIELDS[option.name].name)
    if option.name in {"allow_other", "state", "metrics", "log", "on_session"}:
        # The mount finds it, or there is none.
        assert default is None
    elif not option.values:
        assert (option.default, default) == ("off", False)
    else:
        assert (
            getattr(parse(f"{option.name}={option.default}"), FIELDS[option.name].name) == default
        )


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_the_choices_of_an_option_are_those_of_its_type(option: Option) -> None:
    hint = get_type_hints(MountOptions)[FIELDS[option.name].name]
    if get_origin(hint) is Literal:
        assert option.values.split("|") == list(get_args(hint))
    else:
        assert (hint is bool or option.name == "allow_other") == (not option.values)


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ("zeros=keep", "zeros", "keep"),
        ("unchanged=write", "unchanged", "write"),
        ("block=4096", "block_bytes", 4096),
        ("block=64k", "block_bytes", 65536),
        ("block=64K", "block_bytes", 65536),
        ("block=16M", "block_bytes", 16 << 20),
        ("block=auto", "block_bytes", None),
        ("basis=self", "basis", "self"),
        ("basis=off", "basis", "off"),
        ("preallocate=ignore", "preallocate", "ignore"),
        ("history=0", "history_days", 0),
        ("history=30", "history_days", 30),
        ("session_quiet=0.5", "session_quiet", 0.5),
        ("digests=off", "digests", "off"),
        ("compare=digest", "compare", "digest"),
        ("on_session=/bin/mail -s 'a b' root", "on_session", "/bin/mail -s 'a b' root"),
        ("on_session_user=backup", "on_session_user", "backup"),
        ("ro", "ro", True),
        ("ro,rw", "ro", False),
        ("rw,ro", "ro", True),
        ("allow_other", "allow_other", True),
        ("noallow_other", "allow_other", False),
        ("allow_other,noallow_other", "allow_other", False),
        ("noatime", "noatime", True),
        ("noatime,strictatime", "noatime", False),
        ("noatime,atime", "noatime", False),
        ("atime,noatime", "noatime", True),
        ("noatime,relatime", "noatime", True),
        ("nodiratime", "nodiratime", True),
        ("nodiratime,diratime", "nodiratime", False),
        ("allow_dense", "allow_dense", True),
        ("nonempty", "nonempty", True),
        ("control=.account", "control", b".account"),
        ("control=\udcff", "control", b"\xff"),
        ("control=" + "n" * 255, "control", b"n" * 255),
        ("state=/var/lib/a=b", "state", "/var/lib/a=b"),
        ("history=36500", "history_days", 36500),
        ("session_quiet=0", "session_quiet", 0.0),
        ("keep_pattern=*.img", "keep_pattern", (b"*.img",)),
        ("keep_pattern=*.img:vm/\udcff*", "keep_pattern", (b"*.img", b"vm/\xff*")),
        ("metrics=/var/lib/x", "metrics", "/var/lib/x"),
        ("log=/var/log/x", "log", "/var/log/x"),
        ("debug", "debug", True),
        ("attr_timeout=0", "attr_timeout", 0.0),
        ("attr_timeout=2.5", "attr_timeout", 2.5),
        ("attr_timeout=86400", "attr_timeout", 86400.0),
        ("direct_writes=on", "direct_writes", "on"),
        ("direct_writes=off", "direct_writes", "off"),
        ("zeros=keep,zeros=punch", "zeros", "punch"),
        (" zeros=keep , ,", "zeros", "keep"),
        ("nosuid,x-a=b,sync", "fuse_words", ("nosuid", "sync")),
    ],
)
def test_a_good_value_is_taken(words: str, field: str, value: Any) -> None:
    assert getattr(parse(words), field) == value


def test_every_option_has_a_case_above_with_a_value_of_its_own() -> None:
    (mark,) = test_a_good_value_is_taken.pytestmark
    tried = {field for _, field, value in mark.args[1] if value != getattr(MountOptions(), field)}
    assert {one.name for one in FIELDS.values()} <= tried


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("zeros=drop", "option zeros: 'drop' is not possible; use zeros=punch or zeros=keep"),
        ("zeros", "option zeros: '' is not possible; use zeros=punch or zeros=keep"),
        ("basis=none", "option basis: 'none' is not possible; use basis=auto or basis=self or "),
        ("block", "option block needs a value: block=auto|SIZE"),
        ("block=", "option block needs a value: block=auto|SIZE"),
        ("block=5000", "option block: 5000 is not a power of two between 4k and 16M"),
        ("block=2k", "option block: 2k is not a power of two between 4k and 16M"),
        ("block=32M", "option block: 32M is not a power of two between 4k and 16M"),
        ("block=-4k", "option block: '-4k' is not a size; write it as 4096, 64k or 1M"),
        ("block=k", "option block: 'k' is not a size; write it as 4096, 64k or 1M"),
        ("block=4\u0664", "is not a size"),
        ("block=" + "9" * 5000, "is not a size"),
        ("ro=1", "option ro takes no value; write just 'ro'"),
        ("ro=", "option ro takes no value; write just 'ro'"),
        ("noatime=1", "option noatime takes no value; write just 'noatime'"),
        ("strictatime=1", "option strictatime takes no value; write just 'strictatime'"),
        ("noallow_other=x", "option noallow_other takes no value; write just 'noallow_other'"),
        ("nosuid=1", "option nosuid takes no value; write just 'nosuid'"),
        ("control", "option control needs a value: control=NAME"),
        ("control=a/b", "option control: 'a/b' cannot be the name of a folder"),
        ("control=..", "option control: '..' cannot be the name of a folder"),
        ("control=" + "n" * 256, "cannot be the name of a folder"),
        ("state", "option state needs a value: state=DIR"),
        ("history=36501", "option history: '36501' is not a number of days; 0 turns it off"),
        ("history=-1", "option history: '-1' is not a number of days; 0 turns it off"),
        ("session_quiet=no", "option session_quiet: 'no' is not a number of seconds between 0 "),
        ("keep_pattern=", "option keep_pattern needs a value: keep_pattern=GLOB:..."),
        ("keep_pattern=a:", "option keep_pattern: a pattern in 'a:' is empty; write it as *.img:"),
        ("metrics", "option metrics needs a value: metrics=FOLDER"),
        ("log=", "option log needs a value: log=FILE"),
        ("attr_timeout=soon", "option attr_timeout: 'soon' is not a number of seconds between 0 "),
        ("attr_timeout=-1", "'-1' is not a number of seconds between 0 and 86400"),
        ("attr_timeout=86401", "'86401' is not a number of seconds between 0 and 86400"),
        ("attr_timeout=nan", "'nan' is not a number of seconds between 0 and 86400"),
        ("zeroes=punch", "unknown option 'zeroes'; did you mean 'zeros'?"),
        ("noatme", "unknown option 'noatme'; did you mean 'noatime'?"),
        ("strictatme", "unknown option 'strictatme'; did you mean 'strictatime'?"),
        ("nosiud", "unknown option 'nosiud'; did you mean 'nosuid'?"),
        ("relatme", "unknown option 'relatme'; did you mean 'relatime'?"),
        ("xyzzy", "unknown option 'xyzzy'; 'mirrorfs mount --help' lists them all"),
        ("remount,ro", "remount: only a mount that is there can be remounted, with ro or rw"),
    ],
)
def test_a_bad_word_is_refused_with_the_reason(words: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(words)
    assert said in str(caught.value)


def test_words_of_mount8_fstab_and_systemd_change_nothing() -> None:
    words = (
        "rw defaults nofail _netdev auto noauto user nouser users owner group relatime norelatime "
        "nostrictatime iversion noiversion lazytime nolazytime silent loud async mand nomand exec "
        "_rnetdev default_permissions x-systemd.automount X-mount.mkdir=0755 comment=it"
    ).split()
    found = parse(",".join(words))
    assert found == MountOptions(words=tuple(words))


def test_config_json_says_which_options_were_given_and_what_holds() -> None:
    options = parse("rw,strictatime,block=64k,noallow_other,control=\udcff")
    found = describe(options, {"block": 65536, "allow_other": False, "log": "syslog"})
    assert [*found] == [option.name for option in OPTIONS]
    given = {name for name, entry in found.items() if entry["from"] == "given"}
    assert given == {"noatime", "block", "allow_other", "control"}
    assert found["block"] == {"value": 65536, "from": "given"}
    assert found["control"]["value"] == "\\xff"
    assert found["log"] == {"value": "syslog", "from": "default"}


@pytest.mark.parametrize(
    ("words", "flags", "file", "folder"),
    [
        ("", 0, False, False),
        ("", os.O_NOATIME, True, True),
        ("noatime", 0, True, True),
        ("nodiratime", 0, False, True),
        ("ro", 0, True, True),
    ],
)
def test_whether_reading_moves_a_time_of_access(
    words: str, flags: int, file: bool, folder: bool
) -> None:
    options = parse(words)
    assert (options.keeps_atime(flags), options.keeps_folder_atime(flags)) == (file, folder)


@pytest.mark.parametrize(
    ("words", "root", "user"), [("", True, False), ("allow_other", True, True)]
)
def test_whether_other_users_are_let_in(words: str, root: bool, user: bool) -> None:
    options = parse(words)
    assert (options.lets_others_in(True), options.lets_others_in(False)) == (root, user)
