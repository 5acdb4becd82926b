// The one place that sets how this program's memory allocator behaves.
//
// A training step allocates and frees the same large tensors again and again. By default glibc
// gives each of them back to the system (munmap, trim) and gets zeroed pages anew at the next step:
// page faults then cost 15 to 70 % of a step on a CPU. keep_freed_memory() tells glibc to keep what
// was freed: no mmap for single blocks, no trimming, growth in large pieces. Memory then stays at
// its peak until the process ends, which a training loop needs anyway. And it gives LibTorch an
// allocator of CPU tensors whose freed blocks fit tensors of the same size again. A tensor for
// which there is no memory is an error of kind kEnvironment then.
//
// Call it once, before the first large allocation. Where the allocator is another one (musl,
// jemalloc by LD_PRELOAD), nothing happens. MALLOC_MMAP_MAX_, MALLOC_TRIM_THRESHOLD_ and
// MALLOC_TOP_PAD_ in the environment are left as the user has set them.
#pragma once

namespace quest::train {

void keep_freed_memory();

}  // namespace quest::train
