"""Which old file may be the seed of a new one: names and numbers only."""

from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorfs.mirror.seed_rules import MIN_BYTES, is_worth, may_read, replaced_names

ALNUM = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
OWNER, OTHER = 1000, 1001

names = st.binary(min_size=1, max_size=40).filter(
    lambda name: not set(name) & set(b"\0/") and name not in {b".", b".."}
)
suffixes = st.lists(st.sampled_from(ALNUM), min_size=6, max_size=6).map(bytes)


@pytest.mark.parametrize(
    ("name", "likeliest"),
    [
        (b".vm.img.a1B2c3", b"vm.img"),
        (b".vm.XyZ012", b"vm"),
        (b".a.abcdef.abcdef", b"a.abcdef"),
        (b"..hidden.a1B2c3", b".hidden"),
        (b".with\nline.a1B2c3", b"with\nline"),
        (b".\xff\xfe.a1B2c3", b"\xff\xfe"),
        (b"vm.img.0123abcd.partial", b"vm.img"),
        (b".syncthing.vm.img.tmp", b"vm.img"),
    ],
)
def test_a_temporary_name_tells_what_it_will_replace(name: bytes, likeliest: bytes) -> None:
    assert replaced_names(name)[0] == likeliest


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b"vm.img",
        b".bashrc",
        b"vm.img.a1B2c3",
        b".vm.img.a1B2c",
        b".vm.img.a1B2c34",
        b".vm.img.a1B2c-",
        b".vm.img.a1B2c\n",
        b".vm.img.a1B2c3\n",
        b".vm.img.a1B2c3~",
        b".a1B2c3",
        b"..a1B2c3",
        b".vm.img.\xc3\xa4bcde",
        b"vm.img.0123abc.partial",
        b"vm.img.0123ABCD.partial",
        b"vm.img.0123abcg.partial",
        b".0123abcd.partial",
        b"vm.img.partial",
        b".syncthing.tmp",
        b".syncthing..tmp",
        b"syncthing.vm.img.tmp",
        b"~syncthing~vm.img.tmp",
        b".syncthing.vm.img.tmp2",
    ],
)
def test_a_name_that_only_looks_like_it_replaces_nothing(name: bytes) -> None:
    assert replaced_names(name) == []


def test_of_a_hidden_file_rsync_makes_the_same_name_as_of_one_that_is_not() -> None:
    """rsync puts no second dot before a name, so both are looked for."""
    assert replaced_names(b".bashrc.a1B2c3") == [b"bashrc", b".bashrc"]


def test_a_name_of_two_tools_has_the_files_of_both() -> None:
    """A file `x.partial` may end in anything, too."""
    assert replaced_names(b".syncthing.vm.img.a1B2c3.tmp") == [b"vm.img.a1B2c3"]
    assert replaced_names(b".syncthing.img.tmp123") == [b"syncthing.img", b".syncthing.img"]


@given(name=names, suffix=suffixes)
def test_what_rsync_names_is_found_for_any_name(name: bytes, suffix: bytes) -> None:
    made = (b"" if name.startswith(b".") else b".") + name + b"." + suffix
    assert name in replaced_names(made)


@given(name=names)
def test_what_is_found_is_a_part_of_the_name_and_another_file(name: bytes) -> None:
    for found in replaced_names(name):
        assert found
        assert found in name
        assert found != name


@pytest.mark.parametrize(
    ("mode", "blocks", "worth"),
    [
        (stat.S_IFREG | 0o644, MIN_BYTES // 512, True),
        (stat.S_IFREG, MIN_BYTES, True),
        (stat.S_IFREG | 0o644, MIN_BYTES // 512 - 1, False),
        (stat.S_IFREG | 0o644, 0, False),
        (stat.S_IFDIR | 0o755, MIN_BYTES, False),
        (stat.S_IFLNK | 0o777, MIN_BYTES, False),
        (stat.S_IFBLK | 0o600, MIN_BYTES, False),
    ],
)
def test_a_regular_file_with_a_mebibyte_allocated_is_worth_it(
    mode: int, blocks: int, worth: bool
) -> None:
    assert is_worth(mode, blocks) is worth


@pytest.mark.parametrize(
    ("mode", "uid", "in_group", "may"),
    [
        (0o400, OWNER, False, True),
        (0o044, OWNER, True, False),
        (0o200, OWNER, True, False),
        (0o040, OTHER, True, True),
        (0o404, OTHER, True, False),
        (0o004, OTHER, False, True),
        (0o440, OTHER, False, False),
        (0o733, OTHER, True, False),
    ],
)
def test_the_first_class_of_users_that_fits_decides(
    mode: int, uid: int, in_group: bool, may: bool
) -> None:
    assert may_read(stat.S_IFREG | mode, OWNER, has_acl=False, uid=uid, in_group=in_group) is may


@pytest.mark.parametrize("in_group", [False, True])
def test_with_an_access_list_only_root_and_the_owner_may(in_group: bool) -> None:
    assert not may_read(0o777, OWNER, has_acl=True, uid=OTHER, in_group=in_group)
    assert may_read(0o400, OWNER, has_acl=True, uid=OWNER, in_group=in_group)
    assert may_read(0o000, OWNER, has_acl=True, uid=0, in_group=in_group)
    assert may_read(0o000, OWNER, has_acl=False, uid=0, in_group=in_group)
