"""An NFS server in user space on the mount, and a client of it that is no file system."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from tests.commands import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror

CONFIG = """
NFS_CORE_PARAM {{ Protocols = 3; Enable_NLM = false; Enable_RQUOTA = false; }}
NFSv4 {{ Graceless = true; RecoveryBackend = fs; RecoveryRoot = {folder}; }}
EXPORT {{
    Export_Id = 1; Path = {export}; Pseudo = /mirror; Protocols = 3; Transports = TCP;
    Access_Type = RW; Squash = No_Root_Squash; SecType = sys; Attr_Expiration_Time = 0;
    FSAL {{ Name = VFS; }}
}}
"""
# In a network of its own, with a /run of its own; all ends with it.
SCRIPT = """
set -e -o pipefail
ip link set lo up
mount -t tmpfs none /run
mkdir -p /run/rpcbind /run/ganesha
rpcbind -f & rpcbind=$!
ganesha.nfsd -F -f {folder}/config -L {folder}/server.log -p /run/ganesha.pid & server=$!
trap 'kill $server $rpcbind; wait' EXIT
until nfs-ls 'nfs://127.0.0.1{export}?version=3' >/dev/null 2>&1; do
    kill -0 $server
    sleep 0.1
done
for round in 1 2 3; do
    nfs-cp {folder}/source "nfs://127.0.0.1{export}/a/b/image-$round?version=3" >/dev/null
    echo 2 > /proc/sys/vm/drop_caches
    nfs-cat "nfs://127.0.0.1{export}/a/b/image-$round?version=3" | cmp - {folder}/source
    echo 2 > /proc/sys/vm/drop_caches
done
nfs-ls -R 'nfs://127.0.0.1{export}?version=3' | sed 's/.* //' | sort
"""


def test_nfs_client_reads_and_writes_while_the_kernel_forgets(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], tmp_path: Path
) -> None:
    mirror = mount_mirror(ext4_folder, "attr_timeout=0")
    (mirror.path / "a/b").mkdir(parents=True)
    (tmp_path / "source").write_bytes(os.urandom(5_000_001))
    (tmp_path / "config").write_text(CONFIG.format(folder=tmp_path, export=mirror.path))
    script = SCRIPT.format(folder=tmp_path, export=mirror.path)
    done = run("unshare", "--net", "--mount", "bash", "-c", script, stdin=subprocess.DEVNULL)
    images = [f"a/b/image-{number}" for number in (1, 2, 3)]
    assert done.stdout.split() == ["a", "a/b", *images]
    for image in images:
        assert (ext4_folder / image).read_bytes() == (tmp_path / "source").read_bytes()
