//! How the process keeps memory between the iterations of a training, and the tiles of a prediction.
//!
//! libtorch frees its large buffers in every iteration and asks for the same ones in the next. glibc gives each back to
//! the kernel, which clears every page before it hands it out again: measured on two cores, a fifth of the processor's
//! time in a training. Told to keep them it does, but it does not fill the hole that a buffer leaves with another of the
//! same size: libtorch asks for aligned memory, and glibc looks for that and room to align it in. jemalloc does: a
//! training of hippocampus 3d_fullres takes 1.5 GB instead of 2.6.

use std::sync::{Mutex, PoisonError};

/// While it lives, what is freed stays with the process; with the end of the last one all of it goes back.
pub struct KeepFreed {
    large: bool,
}

/// Those that live, of small buffers and of large ones too.
static LIVING: Mutex<[usize; 2]> = Mutex::new([0; 2]);

/// jemalloc's words for how many milliseconds what is freed stays.
const EVER: isize = -1;
const NOT_AT_ALL: isize = 0;
/// What jemalloc does of itself.
const TEN_SECONDS: isize = 10_000;

impl KeepFreed {
    /// From here on, what is freed is kept for the next iteration.
    pub fn start() -> Self {
        Self::of(true)
    }

    /// From here on, buffers of less than 256 MiB are kept for the next tile. Larger ones, such as a large scan's logits, go
    /// back: scans differ in size, and kept they would lie between the next one's.
    pub fn small() -> Self {
        Self::of(false)
    }

    fn of(large: bool) -> Self {
        let mut living = LIVING.lock().unwrap_or_else(PoisonError::into_inner);
        living[usize::from(large)] += 1;
        keep(*living);
        Self { large }
    }
}

impl Drop for KeepFreed {
    fn drop(&mut self) {
        let mut living = LIVING.lock().unwrap_or_else(PoisonError::into_inner);
        living[usize::from(self.large)] -= 1;
        keep(*living);
    }
}

/// Has freed buffers kept as so many ask for.
fn keep(living: [usize; 2]) {
    match living {
        [0, 0] => {
            keep_for(NOT_AT_ALL, NOT_AT_ALL);
            keep_for(TEN_SECONDS, NOT_AT_ALL);
        }
        [_, 0] => keep_for(EVER, NOT_AT_ALL),
        _ => keep_for(EVER, EVER),
    }
}

/// How many milliseconds freed buffers stay, and those of 256 MiB and more.
#[cfg(not(all(target_os = "linux", feature = "torch")))]
fn keep_for(_milliseconds: isize, _large: isize) {}

#[cfg(all(target_os = "linux", feature = "torch"))]
use jemalloc::keep_for;

/// The allocator of Rust, libtorch and all other libraries.
#[cfg(all(target_os = "linux", feature = "torch"))]
mod jemalloc {
    use std::{ffi::CStr, io, ptr, sync::Once};

    use tikv_jemalloc_sys::mallctl;

    /// What jemalloc reads when the process starts. One arena: what one thread freed then serves any other, and an arena
    /// gives all back when its last thread ends, as the threads of a tile do. Buffers of 256 MiB and more have one apart,
    /// which gives back at once.
    #[unsafe(export_name = "malloc_conf")]
    static CONFIGURATION: &[u8; 39] = b"narenas:1,oversize_threshold:268435456\0";
    const LARGE: usize = 256 << 20;

    const ARENAS: [&CStr; 2] = [c"arena.0.dirty_decay_ms", c"arena.1.dirty_decay_ms"];

    pub fn keep_for(milliseconds: isize, large: isize) {
        static LARGE_ONE_EXISTS: Once = Once::new();
        // It is made for the first buffer that it serves. This one costs nothing, as nobody writes to it; where there is no
        // room for it, the arena stays unknown.
        LARGE_ONE_EXISTS.call_once(|| {
            let mut first = Vec::<u8>::new();
            let _ = first.try_reserve_exact(LARGE);
            std::hint::black_box(first);
        });
        for (arena, mut milliseconds) in ARENAS.into_iter().zip([milliseconds, large]) {
            let (nothing, new) = (ptr::null_mut(), (&raw mut milliseconds).cast());
            // SAFETY: a value of the type that jemalloc expects (ssize_t), and its size.
            let status =
                unsafe { mallctl(arena.as_ptr(), nothing, ptr::null_mut(), new, size_of::<isize>()) };
            if status != 0 {
                let error = io::Error::from_raw_os_error(status);
                tracing::debug!(%error, "jemalloc keeps freed memory as before");
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use std::ffi::c_void;

        use super::*;
        use crate::memory::{EVER, KeepFreed, NOT_AT_ALL, TEN_SECONDS};

        /// A value of jemalloc's, of the type that it has there.
        fn read<T: Default>(name: &CStr) -> T {
            let (mut value, mut size) = (T::default(), size_of::<T>());
            let old = (&raw mut value).cast();
            // SAFETY: room for as much as jemalloc is told.
            let status = unsafe { mallctl(name.as_ptr(), old, &raw mut size, ptr::null_mut(), 0) };
            assert_eq!((status, size), (0, size_of::<T>()), "{name:?}");
            value
        }

        #[test]
        fn keeps_what_it_is_told_to() {
            assert_eq!(read::<u32>(c"opt.narenas"), 1);
            assert_eq!(read::<usize>(c"opt.oversize_threshold"), LARGE);
            let small = KeepFreed::small();
            assert_eq!(ARENAS.map(read::<isize>), [EVER, NOT_AT_ALL]);
            let all = KeepFreed::start();
            assert_eq!(ARENAS.map(read::<isize>), [EVER, EVER]);
            drop(all);
            assert_eq!(ARENAS.map(read::<isize>), [EVER, NOT_AT_ALL]);
            drop(small);
            assert_eq!(ARENAS.map(read::<isize>), [TEN_SECONDS, NOT_AT_ALL]);
        }

        /// A library that took one of these from glibc would hand jemalloc what it does not know.
        #[test]
        fn serves_every_library() {
            let file_of = |address: *const c_void| {
                // SAFETY: it is filled in before it is read, and names a file that stays loaded.
                unsafe {
                    let mut found = std::mem::zeroed::<libc::Dl_info>();
                    assert_ne!(libc::dladdr(address, &raw mut found), 0);
                    CStr::from_ptr(found.dli_fname).to_owned()
                }
            };
            let ours = file_of(keep_for as *const c_void);
            for name in [
                c"malloc",
                c"calloc",
                c"realloc",
                c"free",
                c"posix_memalign",
                c"aligned_alloc",
                c"memalign",
                c"valloc",
                c"malloc_usable_size",
            ] {
                // SAFETY: a name that nobody has is null.
                let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
                assert!(!address.is_null(), "{name:?}");
                assert_eq!(file_of(address), ours, "{name:?}");
            }
        }
    }
}
