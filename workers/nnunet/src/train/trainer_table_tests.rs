use super::*;

#[test]
fn names_train_or_say_why_not() {
    assert_eq!(
        TrainerVariant::by_name("nnUNetTrainer_5epochs").unwrap().epochs,
        5
    );
    let refused = TrainerVariant::by_name("AbstractPrimus").unwrap_err().to_string();
    assert!(
        refused.contains("AbstractPrimus") && refused.contains("transformers"),
        "{refused}"
    );
    let unknown = TrainerVariant::by_name("nnUnetTrainer_5epchs")
        .unwrap_err()
        .to_string();
    assert!(
        unknown.contains("nearest name is nnUNetTrainer_5epochs"),
        "{unknown}"
    );
}

#[test]
fn mirrored_axes() {
    assert_eq!(Mirroring::AllButLast.axes(2), Some(vec![0]));
    assert_eq!(Mirroring::All.axes(3), Some(vec![0, 1, 2]));
    assert_eq!(Mirroring::None.axes(3), None);
}
