//! How the process keeps memory between the iterations of a training, and the tiles of a prediction.
//!
//! libtorch frees its large buffers in every iteration and asks for the same ones in the next. glibc gives each
//! back to the kernel, which clears every page before it hands it out again: measured on two cores, a fifth of the
//! processor's time in a training on the CPU.

/// What glibc asks the kernel for on its own at first, in bytes, and lets go of at the end of its heap.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const DEFAULT_THRESHOLD: i32 = 128 * 1024;
/// The most that glibc keeps of a single buffer.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MOST: i32 = 32 << 20;

/// While it lives, what is freed stays with the process; with its end all of it goes back.
pub struct KeepFreed(());

impl KeepFreed {
    /// From here on, what is freed is kept for the next iteration.
    pub fn start() -> Self {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        // SAFETY: a setting that is refused changes nothing.
        unsafe {
            libc::mallopt(libc::M_MMAP_MAX, 0);
            libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        }
        Self(())
    }

    /// From here on, buffers of up to 32 MiB are kept for the next tile. Larger ones, such as a scan's logits, go back:
    /// scans differ in size, and kept they would lie between the next one's.
    pub fn small() -> Self {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        // SAFETY: as above.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MOST);
            libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        }
        Self(())
    }
}

impl Drop for KeepFreed {
    fn drop(&mut self) {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        // SAFETY: these are glibc's own defaults, and only free pages are released.
        unsafe {
            libc::mallopt(libc::M_MMAP_MAX, 65536);
            libc::mallopt(libc::M_MMAP_THRESHOLD, DEFAULT_THRESHOLD);
            libc::mallopt(libc::M_TRIM_THRESHOLD, DEFAULT_THRESHOLD);
            libc::malloc_trim(0);
        }
    }
}
