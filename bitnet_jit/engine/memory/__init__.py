"""Memory that an engine uses again and again: joined rows, page-locked staging buffers, and where results live.

Why a pool of ours, beside torch's allocators:

- torch has none for the CPU. The C library uses small blocks again, but gives large ones back to the system, and every
  page of a fresh block costs a fault when it is first written. Joining rows of floats, on one core of an EPYC: 64 MiB
  take 59 ms in fresh memory and 8 ms in the pool's, which are huge pages; 8 MiB 7.8 and 0.7 ms; 4 MiB and less the
  same or a few microseconds more, so those pass the pool by.
- Page-locked memory takes milliseconds to get. A copy from it runs beside the device's work, so a buffer may only be
  used again when its copy has ended, which an event tells.
- Memory of a GPU is torch's: its caching allocator uses blocks again in the order of streams, and graphs rely on it.
  Nothing here stands between; `Staging` only tells it which streams read a block.
- One bound and one account hold for all of it.
"""
