from collections.abc import Callable
from types import EllipsisType
from typing import TypedDict, TypeVar

from _typeshed import ReadableBuffer

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

# an errno, or what is sent
Answer = int | bytes | bytearray
# an answer, one and what is called when it was sent, or "later, by answer()"
Result = Answer | tuple[Answer, Callable[[], object]] | EllipsisType

def bind(pyfuse3_so_path: str, /) -> str: ...
def install(
    *,
    requests: dict[int, Callable[[memoryview], Result]] | None = None,
    want: int = 0,
    dont_want: int = 0,
    max_background: int = 0,
) -> None: ...
def state() -> State: ...
def serve(start_another: Callable[[], object], /) -> None: ...
def stop() -> None: ...
def is_ended() -> bool: ...
def answer(unique: int, result: Answer, /) -> None: ...
def chunk_digests(data: ReadableBuffer, seed: int, chunk_bytes: int, /) -> bytes: ...

_S = TypeVar("_S", bound=tuple[int, ...])

def statx(kind: type[_S], fd: int, name: bytes, flags: int, identifies: bool = False, /) -> _S: ...
