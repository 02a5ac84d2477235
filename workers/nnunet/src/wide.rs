//! Inner loops compiled three times, for the baseline CPU, for AVX2 and for AVX-512, chosen at run time.
//!
//! No fused multiply-add is used, so all give the same bytes.

/// Defines a function whose body is compiled for the baseline and, on x86-64, for what is wider. One generic argument
/// with its bound goes in brackets: `fn name[T: Bound](...)`.
macro_rules! wide {
    ($(#[$meta:meta])* $vis:vis fn $name:ident$(<const $c:ident: $ct:ty>)?$([$t:ident: $bound:path])?(
        $($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name$(<const $c: $ct>)?$(<$t: $bound>)?($($arg: $type),*) $(-> $ret)? {
            #[allow(clippy::too_many_arguments)]
            #[inline(always)]
            fn baseline$(<const $c: $ct>)?$(<$t: $bound>)?($($arg: $type),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[allow(clippy::too_many_arguments)]
                #[target_feature(enable = "avx2,popcnt")]
                fn avx2$(<const $c: $ct>)?$(<$t: $bound>)?($($arg: $type),*) $(-> $ret)? {
                    baseline$(::<$c>)?$(::<$t>)?($($arg),*)
                }
                #[allow(clippy::too_many_arguments)]
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,popcnt")]
                fn avx512$(<const $c: $ct>)?$(<$t: $bound>)?($($arg: $type),*) $(-> $ret)? {
                    baseline$(::<$c>)?$(::<$t>)?($($arg),*)
                }
                if $crate::wide::has_avx512() {
                    // SAFETY: the CPU has what the function asks for.
                    return unsafe { avx512$(::<$c>)?$(::<$t>)?($($arg),*) };
                }
                if $crate::wide::has_avx2() {
                    // SAFETY: the CPU has what the function asks for.
                    return unsafe { avx2$(::<$c>)?$(::<$t>)?($($arg),*) };
                }
            }
            baseline$(::<$c>)?$(::<$t>)?($($arg),*)
        }
    };
}

pub(crate) use wide;

/// AVX2, with the counting of bits, which every CPU with AVX2 has.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx2() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx2") && has!("popcnt")
}

/// The parts of AVX-512 that came together.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx512() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") && has!("popcnt")
}
