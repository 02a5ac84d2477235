//! From an error to a named failure that may leave the site: a code and a sentence without names or paths.

use std::path::Path;

use schemas::task::Failure;

/// A message that should not have come.
pub fn bug(message: impl Into<String>) -> Failure {
    Failure::fatal("bad-task", message)
}

/// A file that could not be read or written; its path goes to the site's log only.
pub fn io(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    tracing::error!("{}: {error}", path.display());
    match error.kind() {
        std::io::ErrorKind::StorageFull => Failure::fatal("disk-full", format!("{what}: the disk is full")),
        std::io::ErrorKind::NotFound => Failure::retryable("missing-file", format!("{what}: it is missing")),
        kind => Failure::retryable("io", format!("{what}: {kind}")),
    }
}

/// An error of the algorithm; names and paths go to the site's log only.
pub fn of_error(error: nnunet::Error) -> Failure {
    use nnunet::Error;
    tracing::error!("{error}");
    match error {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            Failure::fatal("disk-full", "the disk is full")
        }
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Failure::retryable("missing-file", "a file is missing")
        }
        Error::Io { source, .. } => Failure::retryable("io", format!("a file: {}", source.kind())),
        Error::BadFile { reason, .. } => Failure::fatal("bad-file", reason),
        Error::BadCase { reason, .. } => Failure::fatal("bad-case", reason),
        Error::InCase { source, .. } => of_error(*source),
        Error::Invalid { what, reason } => Failure::fatal("invalid", format!("{what}: {reason}")),
        Error::Torch(message) if is_out_of_memory(&message) => Failure::retryable(
            "out-of-memory",
            "the device has too little free memory for the plan's batch",
        ),
        Error::Torch(message) => Failure::retryable("libtorch", message.lines().next().unwrap_or_default()),
        Error::OutOfRange(what) => Failure::fatal("out-of-range", what),
        Error::NotFinite(what) => Failure::fatal("not-finite", what),
        Error::Stopped => Failure::retryable("stopped", "the work was asked to stop"),
        other => Failure::fatal("failed", other.to_string()),
    }
}

/// Whether libtorch found too little memory: of an accelerator, or (c10/core/impl/alloc_cpu.cpp) of the processor.
fn is_out_of_memory(message: &str) -> bool {
    ["out of memory", "can't allocate memory", "not enough memory"]
        .iter()
        .any(|words| message.contains(words))
}

/// [`of_error`] with the ordinal of the case, where the error names one of `identifiers`.
pub fn of_case_error<'a>(error: nnunet::Error, identifiers: impl IntoIterator<Item = &'a str>) -> Failure {
    let case = match &error {
        nnunet::Error::BadCase { case, .. } | nnunet::Error::InCase { case, .. } => identifiers
            .into_iter()
            .position(|identifier| identifier == case)
            .map(|ordinal| ordinal as u32),
        _ => None,
    };
    Failure {
        case,
        ..of_error(error)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use super::*;

    /// A write that a full disk refuses.
    fn full() -> std::io::Error {
        let mut file = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        file.write_all(b"x").unwrap_err()
    }

    #[test]
    fn what_fails_at_a_site_has_a_name() {
        let path = Path::new("/data/a/case_17.nii.gz");
        let io = |source| nnunet::Error::io(path)(source);
        let gone = || fs::read("/no/such/case_17.nii.gz").unwrap_err();
        let torch = |message: &str| nnunet::Error::Torch(message.to_owned());
        let cuda = "CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 7.80 GiB total capacity)";
        let cpu = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you \
                   tried to allocate 4503599627370496 bytes. Error code 12 (Cannot allocate memory)";
        let of_case = || nnunet::Error::bad_case("case_17", "its label has 7 where the job has 0 to 2");
        let cases: Vec<(Failure, &str, bool)> = vec![
            (of_error(io(full())), "disk-full", false),
            (super::io("the momentum", path, &full()), "disk-full", false),
            (of_error(io(gone())), "missing-file", true),
            (super::io("the momentum", path, &gone()), "missing-file", true),
            (of_error(torch(cuda)), "out-of-memory", true),
            (of_error(torch(cpu)), "out-of-memory", true),
            (of_error(torch("shape mismatch\nstack")), "libtorch", true),
            (
                of_error(nnunet::Error::NotFinite("loss in epoch 3".into())),
                "not-finite",
                false,
            ),
            (of_case_error(of_case(), ["case_3", "case_17"]), "bad-case", false),
        ];
        for (failure, code, retryable) in cases {
            assert_eq!(
                (&*failure.code, failure.retryable),
                (code, retryable),
                "{failure:?}"
            );
            assert!(
                !failure.message.contains("case_17"),
                "names stay at the site: {failure:?}"
            );
        }
        assert_eq!(of_case_error(of_case(), ["case_3", "case_17"]).case, Some(1));
    }
}
