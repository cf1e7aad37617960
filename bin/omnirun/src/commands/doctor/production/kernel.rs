//! The host's kernel and the guests': how much they say, how old they are, what a guest's timer may cost.

use super::{Driver, Facts, Finding, Line};
use jiff::{Timestamp, civil::Date};

const QUIET: Line = Line(4, "host kernel's console");
const TIMER: Line = Line(9, "guest timers (kvm-pit)");
const PATCHED: Line = Line(21, "kernels up to date");

/// KVM's own shortest period of a guest's timer, in microseconds.
const DEFAULT_PERIOD: u64 = 200;
/// Distributions bring kernels with security fixes every few weeks.
const OLD_DAYS: i64 = 120;

pub(super) fn findings(facts: &Facts, driver: &Driver) -> [Finding; 3] {
    [
        quiet(facts),
        timer(facts, driver),
        patched(facts, Timestamp::now()),
    ]
}

fn quiet(facts: &Facts) -> Finding {
    let words: Vec<_> = facts.boot_words().collect();
    let level = words
        .iter()
        .rev()
        .find_map(|w| w.strip_prefix("loglevel=")?.parse::<u32>().ok());
    if words.contains(&"quiet") && level.is_some_and(|l| l <= 1) {
        return QUIET.ok("boots with quiet loglevel=1");
    }
    let now = facts
        .printk
        .as_deref()
        .and_then(|p| p.split_whitespace().next()?.parse::<u32>().ok());
    if now.is_some_and(|level| level <= 1) {
        return QUIET.ok("only emergencies go to the console, until the next boot");
    }
    let Some(consoles) = &facts.consoles else {
        return QUIET.not_applicable("/proc/consoles cannot be read");
    };
    let slow: Vec<_> = consoles
        .lines()
        .filter_map(|l| l.split_whitespace().next())
        .filter(|name| {
            ["ttyS", "ttyAMA", "hvc"]
                .iter()
                .any(|kind| name.starts_with(kind))
        })
        .collect();
    match slow.is_empty() {
        true => QUIET.ok("no slow console: what the kernel logs holds nothing up"),
        false => QUIET
            .warn(format!(
                "what the kernel logs when VMs come and go is written to {}, which slows them down",
                slow.join(", ")
            ))
            .mend("dmesg --console-level 1; for good: quiet loglevel=1 on the kernel command line"),
    }
}

fn timer(facts: &Facts, driver: &Driver) -> Finding {
    if facts.arch != "x86_64" {
        return TIMER.not_applicable("for x86-64 only");
    }
    if !driver.kvm {
        return TIMER.not_applicable("sandboxes do not run on KVM here");
    }
    match facts.kvm_timer.as_deref().and_then(|t| t.parse::<u64>().ok()) {
        None => TIMER.not_applicable("KVM does not say how often a guest's timer may fire"),
        Some(period) if period > DEFAULT_PERIOD => {
            TIMER.ok(format!("a guest's timer fires every {period} us at most"))
        }
        Some(period) => TIMER
            .warn(format!(
                "a guest's timer may fire every {period} us, and a kernel thread outside its VM's limits pays for it"
            ))
            .mend("echo 'options kvm min_timer_period_us=1000' > /etc/modprobe.d/kvm-timer.conf, and load kvm anew; try your workload with it first"),
    }
}

fn patched(facts: &Facts, now: Timestamp) -> Finding {
    let days = |then: Timestamp| now.duration_since(then).as_hours() / 24;
    let kernel = facts.kernel.as_deref().unwrap_or("unknown");
    if facts.reboot_required {
        return PATCHED
            .warn(format!(
                "the host runs Linux {kernel}, and an update waits for a reboot"
            ))
            .mend("a reboot")
            .serious();
    }
    let mut reasons = Vec::new();
    let mut mends = Vec::new();
    match facts.version.as_deref().and_then(built) {
        Some(date) if days(date) > OLD_DAYS => {
            reasons.push(format!(
                "the host's Linux {kernel} was built {} days ago",
                days(date)
            ));
            mends.push("a newer kernel and a reboot");
        }
        Some(date) => reasons.push(format!(
            "the host's Linux {kernel} was built {} days ago",
            days(date).max(0)
        )),
        None => reasons.push(format!(
            "the host runs Linux {kernel}, which does not say when it was built"
        )),
    }
    if let Some(image) = &facts.image {
        match image.created.parse::<Timestamp>().map(days) {
            Ok(age) if age > OLD_DAYS => {
                reasons.push(format!(
                    "the image with guest Linux {} {age} days ago",
                    image.kernel
                ));
                mends.push("omnirun image build --force");
            }
            Ok(age) => reasons.push(format!(
                "the image with guest Linux {} {} days ago",
                image.kernel,
                age.max(0)
            )),
            Err(_) => reasons.push(format!("the guests run Linux {}", image.kernel)),
        }
    }
    let reason = reasons.join("; ");
    match mends.is_empty() {
        true => PATCHED.ok(reason),
        false => PATCHED.warn(reason).mend(mends.join("; ")),
    }
}

/// The day on which a kernel was built: Debian's `(2026-10-05)`, others' `Fri Oct  9 12:00:00 UTC 2026`.
fn built(version: &str) -> Option<Timestamp> {
    let start = |date: Date| format!("{date}T00:00:00Z").parse().ok();
    let bracketed = version.split('(').skip(1).filter_map(|t| t.split(')').next());
    let dates = bracketed.filter(|t| t.len() == 10).filter_map(|t| t.parse().ok());
    if let Some(date) = dates.last() {
        return start(date);
    }
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let words: Vec<_> = version.split_whitespace().collect();
    let [month, day, _time, _zone, year] = words.last_chunk::<5>()?;
    let month = MONTHS.iter().position(|m| m == month)?;
    let month = i8::try_from(month + 1).ok()?;
    start(Date::new(year.parse().ok()?, month, day.parse().ok()?).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_day_of_a_build_is_read_of_either_writing() {
        let day = |text: &str| built(text).map(|t| t.to_string()[..10].to_owned());
        let debian = "Linux version 6.12.48+deb13-cloud-amd64 (debian-kernel@lists.debian.org) (x86_64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0) #1 SMP PREEMPT_DYNAMIC Debian 6.12.48-1 (2025-09-20)";
        assert_eq!(day(debian).as_deref(), Some("2025-09-20"));
        let ubuntu = "Linux version 6.8.0-51-generic (buildd@x) (gcc) #52-Ubuntu SMP PREEMPT_DYNAMIC Thu Dec  5 13:09:44 UTC 2024";
        assert_eq!(day(ubuntu).as_deref(), Some("2024-12-05"));
        for text in [
            "",
            "Linux version 6.18 (builder@x) (gcc (GCC) 15.3.0) #1 SMP PREEMPT_DYNAMIC @0",
            "a b c d e f",
        ] {
            assert_eq!(day(text), None, "{text}");
        }
    }

    #[test]
    fn age_and_a_waiting_reboot_are_said() {
        let now: Timestamp = "2026-11-24T00:00:00Z".parse().unwrap();
        let mut facts = Facts {
            kernel: Some("6.12.48".into()),
            version: Some("Linux version 6.12.48 (x) #1 SMP Debian 6.12.48-1 (2026-11-01)".into()),
            ..Facts::default()
        };
        let rating = |facts: &Facts| patched(facts, now).rating;
        assert_eq!(rating(&facts), super::super::Rating::Ok);
        facts.image = Some(super::super::Image {
            kernel: "6.12.48".into(),
            created: "2026-01-01T00:00:00Z".into(),
        });
        let finding = patched(&facts, now);
        assert!(finding.mend.is_some_and(|m| m.contains("image build --force")));
        facts.reboot_required = true;
        assert!(patched(&facts, now).serious);
        // A clock that is behind.
        facts.reboot_required = false;
        facts.image = None;
        let past: Timestamp = "2020-01-01T00:00:00Z".parse().unwrap();
        assert!(patched(&facts, past).reason.contains("0 days ago"));
    }
}
