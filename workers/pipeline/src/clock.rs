//! Wall-clock time as the messages write it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::datetime::DateTime;

/// Now, RFC 3339 in UTC with seconds.
pub fn now() -> String {
    rfc3339(since_1970().as_secs())
}

/// Now, in seconds since 1970.
pub fn unix() -> f64 {
    since_1970().as_secs_f64()
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A time of the server, in seconds since 1970.
pub(crate) fn of_server(time: DateTime) -> f64 {
    time.unix_timestamp_nanos() as f64 / 1e9
}

/// The time so many seconds from now, RFC 3339 in UTC, rounded up to a second.
pub fn after(seconds: u32) -> String {
    let since = since_1970();
    rfc3339(since.as_secs() + u64::from(since.subsec_nanos() > 0) + u64::from(seconds))
}

/// RFC 3339 in UTC of seconds since 1970.
pub fn rfc3339(seconds: u64) -> String {
    // Days to civil date: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    let day = (seconds / 86_400) as i64 + 719_468;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let date = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The seconds since 1970 of a time that [`rfc3339`] wrote; none of another text.
pub fn seconds(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let numbers = |text: &str, between: char| -> Option<[i64; 3]> {
        let numbers: Vec<i64> = text
            .split(between)
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        numbers.try_into().ok()
    };
    let [year, month, date] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time, ':')?;
    if !(1..=12).contains(&month) || !(1970..=9999).contains(&year) {
        return None;
    }
    // The way back: the year begins in March.
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + date - 1;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    let day = era * 146_097 + of_era - 719_468;
    u64::try_from(day * 86_400 + hour * 3_600 + minute * 60 + second).ok()
}

#[cfg(test)]
mod tests {
    use super::{rfc3339, seconds};

    #[test]
    fn a_written_time_is_read() {
        for time in [
            0,
            951_782_399,
            951_827_696,
            1_709_164_800,
            1_735_689_599,
            4_102_444_800,
        ] {
            assert_eq!(seconds(&rfc3339(time)), Some(time));
        }
        for wrong in [
            "",
            "2000-02-29",
            "2000-13-01T00:00:00Z",
            "x-02-29T12:34:56Z",
            "2000-02-29T12:34Z",
        ] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(rfc3339(4_102_444_800), "2100-01-01T00:00:00Z");
    }
}
