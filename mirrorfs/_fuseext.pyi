from collections.abc import Callable
from typing import TypedDict, final

CAP_ATOMIC_O_TRUNC: int
CAP_AUTO_INVAL_DATA: int
CAP_CACHE_SYMLINKS: int
CAP_DONT_MASK: int
CAP_HANDLE_KILLPRIV: int
CAP_HANDLE_KILLPRIV_V2: int
CAP_PARALLEL_DIROPS: int
CAP_WRITEBACK_CACHE: int
# bits of a write's file handle: its writer may not keep setuid and setgid; the file is O_APPEND now
WRITE_TAGS: tuple[int, int]

class State(TypedDict):
    hooked: int
    reason: str
    tagged: bool
    capable: int
    want: int
    max_write: int
    max_readahead: int
    protocol: tuple[int, int]

@final
class Request:
    @property
    def answered(self) -> bool: ...
    @property
    def interrupted(self) -> bool: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def pid(self) -> int: ...
    def error(self, errno: int, /) -> None: ...
    def offset(self, position: int, /) -> None: ...
    def written(self, count: int, /) -> None: ...

# request, node id, file handle, mode, offset, length
Fallocate = Callable[[Request, int, int, int, int, int], object]
# request, node id, file handle, offset, whence
Lseek = Callable[[Request, int, int, int, int], object]
# request, node id, file handle and offset of the source, the same of the target, length, flags
CopyFileRange = Callable[[Request, int, int, int, int, int, int, int, int], object]
# node id, the whole request: an errno, or what is sent, or None for "pass it on"
AtOnce = Callable[[int, memoryview], int | bytes | bytearray | None]

def bind(pyfuse3_so_path: str, /) -> str: ...
def install(
    *,
    fallocate: Fallocate | None = None,
    lseek: Lseek | None = None,
    copy_file_range: CopyFileRange | None = None,
    want: int = 0,
    dont_want: int = 0,
    max_background: int = 0,
    at_once: dict[int, AtOnce] | None = None,
    is_idle: Callable[[], bool] | None = None,
) -> None: ...
def state() -> State: ...
