//! Instants in UTC as RFC 3339 writes them, for logs, reports and events. No time zones, no parsing.

use std::time::{SystemTime, UNIX_EPOCH};

use arrow::datatypes::TimestampMillisecondType;
use arrow::temporal_conversions::as_datetime;

/// `2026-11-27T20:23:09.123Z`, to the millisecond; the calendar is the one that Arrow brings along.
/// What the calendar does not have is 1970.
pub fn rfc3339(at: SystemTime) -> String {
    let at = i64::try_from(since_1970(at).as_millis()).unwrap_or(0);
    let at = as_datetime::<TimestampMillisecondType>(at).unwrap_or_default();
    at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// Seconds since 1970, to the millisecond, as Prometheus wants them.
pub fn timestamp(at: SystemTime) -> f64 {
    since_1970(at).as_millis() as f64 / 1e3
}

/// A clock that says it is earlier is wrong.
fn since_1970(at: SystemTime) -> std::time::Duration {
    at.duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_leap_day_is_written_with_its_milliseconds() {
        // `date -u -d @1709210096 +%FT%TZ`
        let at = UNIX_EPOCH + Duration::from_millis(1_709_210_096_007);
        assert_eq!(rfc3339(at), "2024-02-29T12:34:56.007Z");
        assert_eq!(timestamp(at), 1_709_210_096.007);
        assert_eq!(rfc3339(UNIX_EPOCH), "1970-01-01T00:00:00.000Z");
    }
}
