from collections.abc import Callable
from types import EllipsisType
from typing import TypedDict, TypeVar, final

CAP_ASYNC_DIO: int
CAP_DONT_MASK: int
CAP_HANDLE_KILLPRIV_V2: int
CAP_WRITEBACK_CACHE: int

class State(TypedDict):
    hooked: int
    reason: str
    sees_requests: bool
    capable: int
    want: int
    max_write: int
    max_readahead: int
    protocol: tuple[int, int]

# an errno, what is sent, "later, by answer()", or "pass it on to pyfuse3"
Result = int | bytes | bytearray | EllipsisType | None

def bind(pyfuse3_so_path: str, /) -> str: ...
def install(
    *,
    requests: dict[int, Callable[[memoryview], Result]] | None = None,
    is_slow: Callable[[], bool] | None = None,
    want: int = 0,
    dont_want: int = 0,
    max_background: int = 0,
) -> None: ...
def state() -> State: ...
def answer(unique: int, result: int | bytes | bytearray, /) -> None: ...

_S = TypeVar("_S", bound=tuple[int, ...])

def statx(kind: type[_S], fd: int, name: bytes, flags: int, identifies: bool = False, /) -> _S: ...

@final
class Handoff:
    def give(self) -> None: ...

def pass_on(given: Handoff | None, awaited: Handoff, seconds: float, /) -> bool: ...
