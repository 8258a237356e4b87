"""What the control files of a mount say, put together from its parts; `reports` has the formats."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from mirrorfs.backing.paths import path_text
from mirrorfs.catalog.standing import coverage
from mirrorfs.fs import reports
from mirrorfs.fs.control import ControlFile
from mirrorfs.options import describe

if TYPE_CHECKING:
    from mirrorfs.backing.recovery_list import RecoveryList
    from mirrorfs.fs.inodes import InodeTable
    from mirrorfs.fs.kernel import Kernel
    from mirrorfs.fs.metrics import Metrics
    from mirrorfs.fs.policy import Policy
    from mirrorfs.fs.recorder import Recorder
    from mirrorfs.fs.setup import Setup
    from mirrorfs.fs.written_files import WrittenFiles
    from mirrorfs.mirror.counters import Account, FileKey


class ControlFiles:
    """The texts of one mount."""

    def __init__(
        self,
        setup: Setup,
        account: Account,
        inodes: InodeTable,
        written: WrittenFiles,
        policy: Policy,
        recovery_list: RecoveryList | None,
        kernel: Kernel,
        recorder: Recorder | None,
        metrics: Metrics,
    ) -> None:
        self._setup = setup
        self._account = account
        self._inodes = inodes
        self._written = written
        self._policy = policy
        self._recovery_list = recovery_list
        self._kernel = kernel
        self._recorder = recorder
        self._metrics = metrics
        self._mounted_at = time.time()

    def files(self) -> dict[str, ControlFile]:
        """The control files by name."""
        account = self._account
        return {
            "stats": ControlFile(0o444, lambda: reports.stats_text(account.snapshot())),
            "stats.json": ControlFile(0o444, self.stats_json),
            "files.json": ControlFile(0o400, self._files_json),
            "history.json": ControlFile(0o400, self._history_json),
            "metrics": ControlFile(0o400, self._metrics.text, takes_long=True),
            "config.json": ControlFile(0o400, self._config_json),
            "reset": ControlFile(0o200, accept=lambda data: reports.parse_reset(account, data)),
        }

    def stats_json(self) -> bytes:
        """The content of the control file of that name."""
        setup = self._setup
        # Without a folder the recorder knows of this mount alone.
        recorder = None if setup.catalog_folder is None else self._recorder
        return reports.stats_json(
            self._account.snapshot(),
            setup.backing,
            None if recorder is None else setup.catalog_folder,
            self._mounted_at,
            self._file_system(),
            None if recorder is None else recorder.life(),
            None if recorder is None else coverage(recorder.standings())._asdict(),
            setup.options.control,
        )

    def _history_json(self) -> bytes:
        return reports.history_json([] if self._recorder is None else self._recorder.recent())

    def _file_system(self) -> dict[str, object]:
        abilities = self._setup.abilities
        return {
            "type": abilities.file_system,
            "allocation_unit_bytes": abilities.unit_bytes,
            "block_bytes": self._policy.rules(abilities).block_bytes,
            "can_punch": abilities.punch,
            "can_share_blocks": abilities.clone,
            "seek_data_trusted": abilities.seek_proven,
        }

    def _files_json(self) -> bytes:
        def name_of(key: FileKey) -> str:
            # Not by going through all inodes, of which there may be a million.
            path = self._written.path(key)
            inode = None if path is None else self._inodes.index.by_key(key)
            return path_text(inode.path() if inode else path or b"inode %d" % key[1])

        return reports.files_json(self._account.files(name_of))

    def _config_json(self) -> bytes:
        setup, recovery_list = self._setup, self._recovery_list
        effective: dict[str, object] = {
            "block": self._policy.rules(setup.abilities).block_bytes,
            "allow_other": setup.options.lets_others_in(os.geteuid() == 0),
            "log": setup.log,
            "on_session": setup.options.on_session or "",
            "metrics": path_text(setup.metrics_folder or b""),
            "state": path_text(recovery_list.folder) if recovery_list else "",
        }
        reason = setup.no_seeds or (recovery_list.refusal if recovery_list else "")
        seeds = {"on": False, "reason": reason} if reason else {"on": True}
        features = {**self._kernel.features(), "seeds": seeds}
        options = describe(setup.options, effective)
        return reports.config_json(options, self._file_system(), features)
