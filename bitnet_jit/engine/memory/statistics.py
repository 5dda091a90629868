"""`MemoryStats`: what an engine's pool holds, and how well it serves."""

from dataclasses import dataclass

from bitnet_jit.system.memory import in_words


@dataclass(frozen=True)
class MemoryStats:
    """The account of a pool and of the copies through it.

    Attributes:
        limit_bytes: what it may hold at most.
        allocated_bytes, peak_bytes: what it holds, now and at most so far.
        active_bytes, peak_active_bytes: what was asked for by buffers that live, now and at most so far.
        allocations, hits: buffers that were asked for, and those that came out of memory that was held already.
        refused: buffers for which the limit, or the system's memory, did not suffice.
        regions, evicted: pieces that it holds, and pieces that it gave back.
        staging_operations: buffers through which tensors went to a device or back.
        transferred_bytes, transfer_seconds: of copies between the CPU and devices through them.
    """

    limit_bytes: int
    allocated_bytes: int
    peak_bytes: int
    active_bytes: int
    peak_active_bytes: int
    allocations: int
    hits: int
    refused: int
    regions: int
    evicted: int
    staging_operations: int = 0
    transferred_bytes: int = 0
    transfer_seconds: float = 0.0

    @property
    def hit_rate(self) -> float:
        """Return the share of buffers, 0 to 1, for which no memory was asked from the system; 1 before the first."""
        return self.hits / self.allocations if self.allocations else 1.0

    @property
    def fragmentation(self) -> float:
        """Return the share of the memory at its peak, 0 to 1, that no caller had asked for at their peak.

        That is 1 - peak_active_bytes / peak_bytes, as in Johnstone and Wilson, "The memory fragmentation problem:
        solved?" (ISMM 1998). Sizes rounded up count, as do gaps between buffers and memory that is kept for later.
        """
        return 1 - self.peak_active_bytes / self.peak_bytes if self.peak_bytes else 0.0

    @property
    def bandwidth_gb_s(self) -> float:
        """Return 10^9 bytes per second of copies to and from devices; 0 before the first one."""
        return self.transferred_bytes / self.transfer_seconds / 1e9 if self.transfer_seconds else 0.0

    def display(self) -> str:
        """Return the figures as a table in plain text."""
        rows = (
            ("memory held, now / at most", f"{in_words(self.allocated_bytes)} / {in_words(self.peak_bytes)}"),
            ("in use, now / at most", f"{in_words(self.active_bytes)} / {in_words(self.peak_active_bytes)}"),
            ("limit", in_words(self.limit_bytes)),
            ("buffers, hit rate", f"{self.allocations:,}, {self.hit_rate:.1%}"),
            ("refused", f"{self.refused:,}"),
            ("fragmentation", f"{self.fragmentation:.1%}"),
            ("regions, given back", f"{self.regions}, {self.evicted}"),
            ("staging operations", f"{self.staging_operations:,}"),
            ("transfer bandwidth", f"{self.bandwidth_gb_s:.1f} GB/s of {in_words(self.transferred_bytes)}"),
        )
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
