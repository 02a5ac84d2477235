//! Inner loops compiled twice, for the baseline CPU and for AVX2, chosen at run time.
//!
//! No fused multiply-add is enabled, so both versions give the same bytes.

/// Defines a function whose body is compiled for the baseline and, on x86-64, for AVX2
/// (with the counting of bits, which every CPU with AVX2 has).
macro_rules! wide {
    ($(#[$meta:meta])* $vis:vis fn $name:ident$(<const $c:ident: $ct:ty>)?($($arg:ident: $type:ty),* $(,)?)
        $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name$(<const $c: $ct>)?($($arg: $type),*) $(-> $ret)? {
            #[allow(clippy::too_many_arguments)]
            #[inline(always)]
            fn baseline$(<const $c: $ct>)?($($arg: $type),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[allow(clippy::too_many_arguments)]
                #[target_feature(enable = "avx2,popcnt")]
                fn avx2$(<const $c: $ct>)?($($arg: $type),*) $(-> $ret)? {
                    baseline$(::<$c>)?($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("popcnt") {
                    // SAFETY: the CPU has AVX2 and popcnt, which is all that the function asks for.
                    return unsafe { avx2$(::<$c>)?($($arg),*) };
                }
            }
            baseline$(::<$c>)?($($arg),*)
        }
    };
}

pub(crate) use wide;
