//! `strftime_now(format)`: Python's `datetime.strftime` on Linux in the C locale, for a time that
//! is given, in UTC.

use std::fmt::Write as _;

const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

struct Time {
    year: i64,
    month: i64, // 1..12
    day: i64,   // 1..31
    hour: i64,
    minute: i64,
    second: i64,
    weekday: i64,     // 0 = Sunday
    day_of_year: i64, // from 1
}

/// Days since 1970-01-01 of a date in the Gregorian calendar
/// (howardhinnant.github.io/date_algorithms.html, days_from_civil).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

impl Time {
    /// The inverse (same page, civil_from_days).
    fn from_unix(seconds: i64) -> Time {
        let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Time {
            year,
            month,
            day: day_of_year - (153 * shifted_month + 2) / 5 + 1,
            hour: rest / 3_600,
            minute: rest / 60 % 60,
            second: rest % 60,
            weekday: (days + 4).rem_euclid(7),
            day_of_year: days - days_from_civil(year, 1, 1) + 1,
        }
    }

    /// Year and week of ISO 8601.
    fn iso_week(&self) -> (i64, i64) {
        let weekday = (self.weekday + 6) % 7; // 0 = Monday
        let thursday = days_from_civil(self.year, self.month, self.day) - weekday + 3;
        let year = Time::from_unix(thursday * 86_400).year;
        (year, (thursday - days_from_civil(year, 1, 1)) / 7 + 1)
    }
}

/// Formats `unix_seconds`. Unknown directives are kept as they are, as glibc does.
pub fn format(pattern: &str, unix_seconds: i64) -> String {
    let time = Time::from_unix(unix_seconds);
    let mut out = String::with_capacity(pattern.len() * 2);
    write_pattern(pattern, &time, unix_seconds, &mut out);
    out
}

fn write_pattern(pattern: &str, time: &Time, unix_seconds: i64, out: &mut String) {
    let mut rest = pattern;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let mut directive = rest[at + 1..].chars();
        let mut next = directive.next();
        let flag = next.filter(|c| matches!(c, '-' | '_' | '0'));
        if flag.is_some() {
            next = directive.next();
        }
        let tail = directive.as_str();
        let known = next.is_some_and(|c| write_directive(c, flag, time, unix_seconds, out));
        if !known {
            out.push_str(&rest[at..rest.len() - tail.len()]);
        }
        rest = tail;
    }
    out.push_str(rest);
}

fn write_directive(
    directive: char,
    flag: Option<char>,
    time: &Time,
    unix_seconds: i64,
    out: &mut String,
) -> bool {
    let mut number = |value: i64, width: usize, padding: char| {
        let padding = match flag {
            Some('_') => ' ',
            Some('0') => '0',
            _ => padding,
        };
        let _ = match (flag, padding) {
            (Some('-'), _) => write!(out, "{value}"),
            (_, ' ') => write!(out, "{value:width$}"),
            _ => write!(out, "{value:0width$}"),
        };
    };
    let hour12 = if time.hour % 12 == 0 { 12 } else { time.hour % 12 };
    match directive {
        'Y' => number(time.year, 1, '0'),
        'C' => number(time.year.div_euclid(100), 2, '0'),
        'y' => number(time.year.rem_euclid(100), 2, '0'),
        'G' => number(time.iso_week().0, 1, '0'),
        'V' => number(time.iso_week().1, 2, '0'),
        'm' => number(time.month, 2, '0'),
        'd' => number(time.day, 2, '0'),
        'e' => number(time.day, 2, ' '),
        'j' => number(time.day_of_year, 3, '0'),
        'H' => number(time.hour, 2, '0'),
        'k' => number(time.hour, 2, ' '),
        'I' => number(hour12, 2, '0'),
        'l' => number(hour12, 2, ' '),
        'M' => number(time.minute, 2, '0'),
        'S' => number(time.second, 2, '0'),
        'f' => out.push_str("000000"),
        's' => number(unix_seconds, 1, '0'),
        'w' => number(time.weekday, 1, '0'),
        'u' => number(if time.weekday == 0 { 7 } else { time.weekday }, 1, '0'),
        'U' => number((time.day_of_year + 6 - time.weekday) / 7, 2, '0'),
        'W' => number((time.day_of_year + 6 - (time.weekday + 6) % 7) / 7, 2, '0'),
        'A' => out.push_str(DAYS[time.weekday as usize]),
        'a' => out.push_str(&DAYS[time.weekday as usize][..3]),
        'B' => out.push_str(MONTHS[time.month as usize - 1]),
        'b' | 'h' => out.push_str(&MONTHS[time.month as usize - 1][..3]),
        'p' => out.push_str(if time.hour < 12 { "AM" } else { "PM" }),
        'P' => out.push_str(if time.hour < 12 { "am" } else { "pm" }),
        'Z' | 'z' => {} // a datetime without a zone prints none
        'n' => out.push('\n'),
        't' => out.push('\t'),
        '%' => out.push('%'),
        'c' => write_pattern("%a %b %e %H:%M:%S %Y", time, unix_seconds, out),
        'D' | 'x' => write_pattern("%m/%d/%y", time, unix_seconds, out),
        'F' => write_pattern("%Y-%m-%d", time, unix_seconds, out),
        'R' => write_pattern("%H:%M", time, unix_seconds, out),
        'r' => write_pattern("%I:%M:%S %p", time, unix_seconds, out),
        'T' | 'X' => write_pattern("%H:%M:%S", time, unix_seconds, out),
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::format;

    #[test]
    fn agrees_with_python() {
        // datetime.fromtimestamp(t, UTC).replace(tzinfo=None).strftime(...)
        assert_eq!(format("%d %b %Y", 1_721_952_000), "26 Jul 2024");
        assert_eq!(
            format("%A, %B %-d, %Y %I:%M %p|%j|%U|%W|%V|%G", 1_704_067_199),
            "Sunday, December 31, 2023 11:59 PM|365|53|52|52|2023"
        );
        assert_eq!(
            format("%F %T %y %e %a %u %w", 951_782_400),
            "2000-02-29 00:00:00 00 29 Tue 2 2"
        );
        assert_eq!(
            format("%c|%D|%R|%r|%p", 0),
            "Thu Jan  1 00:00:00 1970|01/01/70|00:00|12:00:00 AM|AM"
        );
        assert_eq!(format("%G-%V", 1_609_459_200), "2020-53"); // 2021-01-01
        assert_eq!(format("%Y", -86_400), "1969");
    }

    #[test]
    fn keeps_what_it_does_not_know() {
        assert_eq!(format("100%% %Q % é%", 0), "100% %Q % é%");
    }
}
