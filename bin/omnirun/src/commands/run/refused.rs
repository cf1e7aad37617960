//! What a command's network policy did to it, in a line for people: else they see a name that does not resolve, and
//! nobody says why.

use crate::commands::policy::audit_lines;
use omnirun_egress_policy::{AuditLine, Verdict};
use omnirun_store::AuditLog;

/// Says it, if there is anything to say. The command has ended as it has, also where the log cannot be read.
pub(super) fn say(log: &AuditLog, sandbox: &str) {
    match audit_lines(log, sandbox) {
        Ok(lines) => {
            if let Some(words) = words(&lines, sandbox) {
                say!("omnirun: {words}");
            }
        }
        Err(error) => say!("omnirun: what the network policy did is not known: {error:#}"),
    }
}

/// So many destinations are named.
const NAMED: usize = 3;

/// The line, if there is anything to say. `sandbox` is what the log is found by.
fn words(lines: &[AuditLine], sandbox: &str) -> Option<String> {
    if lines.iter().any(|line| line.verdict == Verdict::Log) {
        return Some(format!(
            "the network was only logged; the policy that it would have needed: omnirun policy learn {sandbox}"
        ));
    }
    let mut refused: Vec<String> = Vec::new();
    for line in lines.iter().filter(|line| line.verdict == Verdict::Deny) {
        let what = match (&line.name, line.to) {
            (Some(name), _) => format!("{name} ({})", line.reason),
            (None, Some(to)) => format!("{to} ({})", line.reason),
            (None, None) => continue,
        };
        if !refused.contains(&what) {
            refused.push(what);
        }
    }
    let more = refused.len().saturating_sub(NAMED);
    refused.truncate(NAMED);
    let more = match more {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!refused.is_empty()).then(|| {
        format!(
            "the network policy refused {}{more}; all of it: omnirun policy log {sandbox}",
            refused.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, verdict: &str) -> AuditLine {
        serde_json::from_value(serde_json::json!({
            "time_ms": 0, "protocol": "dns", "name": name, "port": 53, "verdict": verdict, "reason": "not-listed",
            "bytes_up": 0, "bytes_down": 0, "duration_ms": 0,
        }))
        .unwrap()
    }

    #[test]
    fn each_destination_is_named_once_and_not_too_many() {
        assert_eq!(words(&[], "sbx_1"), None);
        assert_eq!(words(&[line("a.example", "allow")], "sbx_1"), None);
        let many = ["a", "a", "b", "c", "d", "e"].map(|name| line(&format!("{name}.example"), "deny"));
        assert_eq!(
            words(&many, "sbx_1").unwrap(),
            "the network policy refused a.example (not-listed), b.example (not-listed), c.example (not-listed) and 2 \
             more; all of it: omnirun policy log sbx_1"
        );
        let logged = [line("a.example", "deny"), line("b.example", "log")];
        assert!(
            words(&logged, "sbx_1")
                .unwrap()
                .ends_with("omnirun policy learn sbx_1")
        );
    }
}
