"""What one rank executes, as shapes: kernels and collectives, and which of them run side by side.

Nothing here knows seconds. A `Segment` is the unit that `cost` prices: kernels in order on the
compute stream and the collectives that run beside or after them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class KernelKind(StrEnum):
    """Families of kernels; each has one cost model."""

    GEMM = "gemm"
    ATTENTION_FORWARD = "attention_forward"
    ATTENTION_BACKWARD = "attention_backward"
    ELEMENTWISE = "elementwise"


class Category(StrEnum):
    """What a stretch of time was spent on; the rows of the breakdown."""

    MATMUL = "matmul"
    ATTENTION = "attention"
    ELEMENTWISE = "elementwise"
    RECOMPUTE = "recompute"
    TP_COMM = "tp_comm"
    PP_COMM = "pp_comm"
    DP_COMM = "dp_comm"
    OPTIMIZER = "optimizer"
    LAUNCH = "launch"
    HOST = "host"


@dataclass(frozen=True)
class Kernel:
    """One kernel call on one rank (or `launches` identical calls, each of this size).

    Attributes
    ----------
    m, n, k, batch : int
        GEMM: C[m,n] = A[m,k] B[k,n], `batch` times in one launch.
    q_len, kv_len, heads, kv_heads, head_dim, causal, window
        Attention core on this rank, over `batch` sequences; window 0 is full.
    flop : float
        Executed arithmetic of one call, multiply and add counted apart. [FLOP]
    bytes : float
        Least traffic of one call: each operand read once, each result written once. [bytes]
    """

    name: str
    kind: KernelKind
    category: Category
    dtype: str
    flop: float
    bytes: float
    launches: int = 1
    m: int = 0
    n: int = 0
    k: int = 0
    batch: int = 1
    q_len: int = 0
    kv_len: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    causal: bool = False
    window: int = 0
    variant: str = ""  # layout of a GEMM ("fwd", "dgrad", "wgrad"), generation of attention


@dataclass(frozen=True)
class Collective:
    """One collective over a named group of ranks.

    `bytes` follows nccl-tests: all_reduce, the buffer of a rank; all_gather, the gathered
    output; reduce_scatter and all_to_all, the input of a rank; send_recv and broadcast, the
    message.
    """

    name: str
    collective: str  # all_reduce all_gather reduce_scatter all_to_all broadcast send_recv
    group: str  # "tp", "pp", "dp", "embedding", "world"; a key of the mesh's paths
    bytes: float
    dtype: str
    category: Category


@dataclass(frozen=True)
class Segment:
    """Kernels and collectives between two synchronisations, `repeat` times over.

    Kernels run in order on the compute stream, collectives in order on a communication stream.
    `overlap` says how the two streams relate: "none" one after the other; "beside" independent
    work, the longer one decides; "pipelined" the collective carries the product's own data in
    `pieces` pieces, so one piece at each end stays exposed.
    """

    kernels: tuple[Kernel, ...] = ()
    collectives: tuple[Collective, ...] = ()
    overlap: str = "none"
    pieces: int = 1
    repeat: int = 1
