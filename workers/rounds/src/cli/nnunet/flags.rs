//! Python's argparse takes long flags behind one dash (`-tr`, `-np`, `-device`); clap wants two. And values that several
//! commands take.

use std::ffi::OsString;

use schemas::job::FoldId;

/// Turns the single-dash long flags of `rounds nnunet ...` into clap's (`-tr` to `--tr`, `-device=cpu` to
/// `--device=cpu`). One-letter flags, negative numbers, values, what follows `--`, and every other command stay as
/// they are. `args` starts with the program's name.
pub fn long_flags(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.collect();
    // Only options of the program itself may stand before the command.
    let command = args
        .iter()
        .skip(1)
        .position(|arg| !arg.as_encoded_bytes().starts_with(b"-"));
    let Some(command) = command.map(|index| index + 1) else {
        return args;
    };
    if args[command] != "nnunet" {
        return args;
    }
    for arg in &mut args[command + 1..] {
        if arg == "--" {
            break;
        }
        if let Some(text) = arg.to_str()
            && is_long(text)
        {
            *arg = format!("-{text}").into();
        }
    }
    args
}

/// A fold as nnU-Net's command line takes it.
pub fn fold(text: &str) -> Result<FoldId, String> {
    match text {
        "all" => Ok(FoldId::All),
        number => number
            .parse()
            .map(FoldId::Fold)
            .map_err(|_| "expected \"all\" or a number from 0".to_owned()),
    }
}

/// Whether this is one dash and a name of two or more letters, perhaps with `=value`.
fn is_long(arg: &str) -> bool {
    let Some(rest) = arg.strip_prefix('-') else {
        return false;
    };
    let name = rest.split_once('=').map_or(rest, |(name, _)| name);
    name.len() > 1 && name.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turned(line: &str) -> String {
        let words = long_flags(line.split(' ').map(OsString::from));
        words
            .iter()
            .map(|word| word.to_str().unwrap())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn long_flags_of_nnunet_get_a_second_dash() {
        for (line, expected) in [
            (
                "rounds nnunet train 4 3d_fullres 0 -tr nnUNetTrainer_5epochs -p P --npz --c -device cpu",
                "rounds nnunet train 4 3d_fullres 0 --tr nnUNetTrainer_5epochs -p P --npz --c --device cpu",
            ),
            (
                "rounds --log-json nnunet predict -i in -o out -d 4 -c 2d -f 0 1 -chk best -device=cuda",
                "rounds --log-json nnunet predict -i in -o out -d 4 -c 2d -f 0 1 --chk best --device=cuda",
            ),
            (
                "rounds nnunet plan -d 4 -overwrite_target_spacing -1 -0.5 -overwrite_plans_name a",
                "rounds nnunet plan -d 4 --overwrite_target_spacing -1 -0.5 --overwrite_plans_name a",
            ),
            (
                "rounds nnunet evaluate a b -- -np",
                "rounds nnunet evaluate a b -- -np",
            ),
            ("rounds nnunet plan -d4", "rounds nnunet plan -d4"),
            ("rounds submit -np nnunet", "rounds submit -np nnunet"),
            ("rounds", "rounds"),
        ] {
            assert_eq!(turned(line), expected);
        }
    }
}
