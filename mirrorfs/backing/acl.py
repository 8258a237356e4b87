"""POSIX ACLs as extended attributes: what a new file or folder inherits from the default ACL of the
folder that it is made in.

The layout is that of linux/posix_acl_xattr.h: a version word, then entries of tag, permissions and
id.
"""

from __future__ import annotations

import struct

ACCESS = "system.posix_acl_access"
DEFAULT = "system.posix_acl_default"

_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_USER_OBJ, _GROUP_OBJ, _MASK, _OTHER = 0x01, 0x04, 0x10, 0x20


def inherit(default_acl: bytes, mode: int) -> bytes:
    """The access ACL of what a client makes with `mode` in a folder with `default_acl`; both as
    values of the extended attributes `ACCESS` and `DEFAULT` (acl(5), "OBJECT CREATION").

    Permissions that `mode` does not have are taken from the entry of the owner, of the mask (or,
    without a mask, of the group) and of the others.
    """
    entries = list(_ENTRY.iter_unpack(default_acl[_HEADER.size :]))
    group_class = _MASK if any(tag == _MASK for tag, _, _ in entries) else _GROUP_OBJ
    allowed = {_USER_OBJ: mode >> 6 & 7, group_class: mode >> 3 & 7, _OTHER: mode & 7}
    packed = [
        _ENTRY.pack(tag, permissions & allowed.get(tag, 7), who)
        for tag, permissions, who in entries
    ]
    return default_acl[: _HEADER.size] + b"".join(packed)
